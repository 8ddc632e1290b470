"""The law of ``Ledger`` as tests. Subclass it and give it a ``ledger`` fixture: a fresh one, set up.

    class TestMyLedger(LedgerContract):
        @pytest.fixture
        async def ledger(self):
            ledger = MyLedger(...)
            await ledger.setup(apply=True)
            yield ledger
            await ledger.aclose()

Only the Protocol's calls are used. Async tests need pytest-asyncio in its auto mode.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final

import pytest

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.counters import START
from mm_metering.backends.ledger import (
    MAX_SNAPSHOTS,
    Acknowledged,
    ClaimRequest,
    Ledger,
    ShardRow,
    Snapshot,
    Used,
    hold_key,
)
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.core.books import Account, Entries
from mm_metering.core.cells import CellKey, CellSum, LevelEnd, Segment
from mm_metering.core.digest import Digest, hash_of, total
from mm_metering.core.facts import Count, Fact, encode, void
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.core.timeline import PlanChange, StateChange, VersionChange
from mm_metering.errors import ChangedMeanwhile, InvalidInput, UnknownTenant, WrongState
from mm_metering.testing.accounts_contract import AccountsContract
from mm_metering.testing.audit_contract import AuditContract
from mm_metering.testing.bulk_contract import BulkContract
from mm_metering.testing.collecting_contract import CollectingContract
from mm_metering.testing.looks_contract import LooksContract
from mm_metering.testing.overview_contract import OverviewContract
from mm_metering.testing.privacy_contract import PrivacyContract
from mm_metering.testing.usage_reports_contract import UsageReportsContract
from mm_metering.testing.webhooks_contract import WebhooksContract
from mm_metering.testing.work_contract import WorkContract

NO_DEFAULT: Final = TenantDefaults(plan="", version=0, timezone="UTC")
FREE: Final = TenantDefaults(plan="free", version=1, timezone="UTC")
EARLY, LATE = date(2020, 1, 1), date(2030, 1, 1)
MAX_QUANTITY: Final = 2**53 - 1
INT64: Final = 2**63 - 1
DAY_US: Final = 86_400_000_000

HOSTILE: Final = (
    "org:{1}",
    "😀👩‍👩‍👧",
    "'; DROP TABLE mm_tenant; --",
    '"quoted" `back` $1 ? :name',
    "100% %s %(tenant)s",
    "back\\slash \\u0041 \\x00",
    "  spaces  ",
    "ǅ é é Ω ﬁ",
    "a" * 256,
    "😀" * 64,
)
"""Tenants, event ids, resources and scopes may be any text of up to 256 bytes without control characters."""


def at(text: str) -> int:
    """Microseconds of "2024-01-15 12:00" in UTC."""
    return micros(datetime.fromisoformat(f"{text}+00:00"))


def use(fact_id: str, when: str, amount: int = 1, *, tenant: str = "acme", resource: str = "/v1/items") -> Fact:
    counts = (Count("api_calls", "", amount),)
    return Fact(fact_id, at(when), "use", tenant, "api_call", resource, amount, None, counts)


def ai_hold(fact_id: str, when: str, *, tenant: str = "acme") -> Fact:
    counts = (Count("ai_requests", "", 1), Count("ai_cost", "", 90))
    return Fact(fact_id, at(when), "hold", tenant, "ai_call", "gpt-4", 1, None, counts)


def ai_close(hold: Fact, cost_nanos: int = 70, *, name: str = "close") -> Fact:
    counts = (Count("ai_requests", "", 1), Count("ai_cost", "", cost_nanos), Count("ai_cost", "user:7", cost_nanos))
    closed = hold._replace(id=f"{hold.id}.{name}", kind="close", cost_nanos=cost_nanos, counts=counts)
    return closed._replace(target=hold.id)


def level(
    fact_id: str, when: str, value: int, *, kind: str = "set", meter: str = "users", resource: str = "seats"
) -> Fact:
    event_type = "storage" if meter == "storage_mb" else ""
    return Fact(fact_id, at(when), kind, "acme", event_type, resource, value, None, (Count(meter, "", value),))


@dataclass
class Books:
    """Folds batches into a shard one after the other, as a drain does."""

    ledger: Ledger
    shard: int = 0
    generation: int = 1
    position: int = 0
    defaults: TenantDefaults = FREE

    async def fold(self, *facts: Fact) -> None:
        before, after = self._name(self.position), self._name(self.position + 1)
        arguments: dict[str, Any] = {"generation": self.generation, "defaults": self.defaults}
        assert await self.ledger.fold(self.shard, before=before, after=after, facts=facts, **arguments)
        self.position += 1

    @staticmethod
    def _name(position: int) -> str:
        return f"{position}-0" if position else START


async def look(
    ledger: Ledger, *tenants: str, since: date = EARLY, defaults: TenantDefaults = FREE, now_us: int | None = None
) -> Mapping[str, Snapshot]:
    now_us = at("2024-01-01 00:00") if now_us is None else now_us
    return await ledger.snapshots(0, tenants, since=since, defaults=defaults, now_us=now_us)


async def sums(ledger: Ledger, tenant: str = "acme") -> dict[CellKey, CellSum]:
    """The cells without their digests."""
    cells = await ledger.cells(tenant, first=EARLY, last=LATE)
    return {cell.key: replace(cell.total, facts=0, digest=0) for cell in cells}


async def quantities(ledger: Ledger, meter: str, tenant: str = "acme") -> dict[date, int]:
    """A meter's quantity per day, over all segments, resources and scopes."""
    days: dict[date, int] = {}
    for cell in await ledger.cells(tenant, first=EARLY, last=LATE):
        if cell.key.meter == meter:
            days[cell.key.day] = days.get(cell.key.day, 0) + cell.total.quantity
    return days


async def used(ledger: Ledger, first: date, last: date, tenant: str = "acme") -> Used:
    return await ledger.used(tenant, first=first, last=last, timezone="UTC")


async def carried(ledger: Ledger, day: date, tenant: str = "acme") -> Mapping[tuple[str, str], int]:
    """Each level as it stood at the start of a day."""
    return (await used(ledger, day, day, tenant)).carried


async def view(ledger: Ledger, tenants: Iterable[str], days: Sequence[date]) -> dict[str, Any]:
    """All that a ledger answers about tenants, but revisions: they count the folds."""
    seen: dict[str, Any] = {}
    for tenant in tenants:
        snapshot = (await look(ledger, tenant, defaults=NO_DEFAULT))[tenant]
        seen[tenant] = {
            "cells": {cell.key: cell.total for cell in await ledger.cells(tenant, first=EARLY, last=LATE)},
            "usage": snapshot.usage,
            "levels": dict(snapshot.levels),
            "holds": sorted(snapshot.holds),
            "facts": await ledger.facts(tenant, after=(0, ""), limit=10_000),
            "values": [_moved(await carried(ledger, day, tenant)) for day in days],
        }
    seen["digests"] = await ledger.cell_digests()
    assert total(digest for _, digest in seen["digests"]) == total((await ledger.folded()).values())
    return seen


def digest_of(*facts: Fact) -> Digest:
    return total(Digest(1, hash_of(encode(fact))) for fact in facts)


def _moved(values: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {key: value for key, value in values.items() if value}


class LedgerContract(
    WorkContract,
    BulkContract,
    AccountsContract,
    AuditContract,
    CollectingContract,
    UsageReportsContract,
    WebhooksContract,
    PrivacyContract,
    LooksContract,
    OverviewContract,
):
    """Each test quotes one law."""

    # -- setup and shards ---------------------------------------------------------------------------------------------

    async def test_setup_may_be_repeated(self, ledger: Ledger) -> None:
        await ledger.setup(apply=True)
        await ledger.setup(apply=False)

    async def test_a_shard_begins_at_the_start_of_no_generation(self, ledger: Ledger) -> None:
        assert await ledger.shard(7) == ShardRow(0, START, 0)

    async def test_certify_hands_out_rising_generations_above_what_was_seen(self, ledger: Ledger) -> None:
        assert await ledger.certify(3, seen=0) == (1, True)
        assert await ledger.certify(3, seen=1) == (2, False)
        assert await ledger.certify(3, seen=41) == (42, False)
        assert await ledger.certify(3, seen=0) == (43, False)
        assert await ledger.certify(4, seen=0) == (1, True), "shards do not share numbers"
        assert await ledger.shard(3) == ShardRow(0, START, 43), "certifying moves neither generation nor position"

    async def test_concurrent_certifications_never_share_a_generation(self, ledger: Ledger) -> None:
        answers = await asyncio.gather(*(ledger.certify(0, seen=0) for _ in range(8)))
        assert sorted(generation for generation, _ in answers) == list(range(1, 9))
        assert [first for _, first in answers].count(True) == 1

    async def test_fold_moves_the_position_with_the_facts(self, ledger: Ledger) -> None:
        books = Books(ledger)
        await books.fold(use("a", "2024-01-15 12:00"))
        assert await ledger.shard(0) == ShardRow(1, "1-0", 1)
        await books.fold()
        assert await ledger.shard(0) == ShardRow(1, "2-0", 1)
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 1}

    @pytest.mark.parametrize(("generation", "before"), [(1, START), (1, "9-0"), (0, "1-0"), (0, START), (2, "1-0")])
    async def test_fold_from_elsewhere_writes_nothing(self, ledger: Ledger, generation: int, before: str) -> None:
        await Books(ledger).fold(use("a", "2024-01-15 12:00"))
        facts = [use("b", "2024-01-15 12:00")]
        won = await ledger.fold(0, generation=generation, before=before, after="2-0", facts=facts, defaults=FREE)
        assert not won
        assert await ledger.shard(0) == ShardRow(1, "1-0", 1)
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 1}

    async def test_a_higher_generation_starts_at_the_beginning_and_ends_the_older_one(self, ledger: Ledger) -> None:
        first, replayed = use("a", "2024-01-15 12:00"), use("b", "2024-01-15 12:00")
        await Books(ledger).fold(first)
        await ledger.certify(0, seen=1)
        await Books(ledger, generation=2).fold(first, replayed)
        assert await ledger.shard(0) == ShardRow(2, "1-0", 2)
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 2}
        late = [use("c", "2024-01-15 12:00")]
        assert not await ledger.fold(0, generation=1, before="1-0", after="2-0", facts=late, defaults=FREE)

    async def test_fold_remembers_a_generation_it_was_not_asked_to_certify(self, ledger: Ledger) -> None:
        await Books(ledger, generation=5).fold()
        assert await ledger.certify(0, seen=0) == (6, False)

    async def test_of_two_folds_at_once_one_wins(self, ledger: Ledger) -> None:
        facts = [use(f"f{n}", "2024-01-15 12:00") for n in range(20)]
        folds = (ledger.fold(0, generation=1, before=START, after="1-0", facts=facts, defaults=FREE) for _ in range(6))
        assert sorted(await asyncio.gather(*folds)) == [False] * 5 + [True]
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 20}

    async def test_shards_fold_side_by_side(self, ledger: Ledger) -> None:
        async def drain(shard: int) -> None:
            books = Books(ledger, shard=shard)
            for n in range(5):
                await books.fold(*(use(f"{shard}.{n}.{k}", "2024-01-15 12:00", tenant=f"t{shard}") for k in range(9)))

        await asyncio.gather(*map(drain, range(4)))
        for shard in range(4):
            assert await quantities(ledger, "api_calls", f"t{shard}") == {date(2024, 1, 15): 45}

    # -- what proves that nothing was lost ----------------------------------------------------------------------------

    async def test_a_shard_and_its_tenants_cells_hold_the_same_facts(self, ledger: Ledger) -> None:
        facts = [use("a", "2024-01-15 12:00"), use("b", "2024-01-16 12:00"), use("c", "2024-01-15 12:00", tenant="b")]
        facts.append(level("d", "2024-01-15 06:00", 10))
        await Books(ledger).fold(*facts)
        await Books(ledger, shard=3).fold(use("e", "2024-01-15 12:00", tenant="c"))
        assert await ledger.folded() == {0: digest_of(*facts), 3: digest_of(use("e", "2024-01-15 12:00", tenant="c"))}
        assert await ledger.cell_digests() == [
            ("acme", digest_of(facts[0], facts[1], facts[3])),
            ("b", digest_of(facts[2])),
            ("c", digest_of(use("e", "2024-01-15 12:00", tenant="c"))),
        ]
        assert [tenant for tenant, _ in await ledger.cell_digests(after="acme", limit=1)] == ["b"]

    async def test_a_digest_has_each_fact_once_and_none_that_was_taken_back(self, ledger: Ledger) -> None:
        kept, gone, never = (use(name, "2024-01-15 12:00") for name in ("kept", "gone", "never"))
        books = Books(ledger)
        await books.fold(kept, gone, void(never))
        await books.fold(kept, void(gone), never, void(gone))
        assert await ledger.folded() == {0: digest_of(kept)}
        assert await ledger.cell_digests() == [("acme", digest_of(kept))]

    async def test_what_is_held_or_counts_nowhere_is_in_no_digest(self, ledger: Ledger) -> None:
        hold = ai_hold("h", "2024-01-15 12:00")
        nowhere = use("n", "2024-01-15 12:00")._replace(event_type="", counts=())
        books = Books(ledger)
        await books.fold(hold, nowhere)
        assert set((await ledger.folded()).values()) == {Digest()}
        await books.fold(ai_close(hold, 70))
        assert await ledger.folded() == {0: digest_of(ai_close(hold, 70))}

    async def test_a_report_replaces_the_last_one_of_its_process(self, ledger: Ledger) -> None:
        one, two = digest_of(use("a", "2024-01-15 12:00")), digest_of(use("b", "2024-01-15 12:00"))
        await ledger.report("p", acknowledged={0: one, 2: two}, refused={}, now_us=1)
        await ledger.report("q", acknowledged={0: two}, refused={}, now_us=2)
        await ledger.report("p", acknowledged={0: total((one, two))}, refused={}, now_us=3)
        assert await ledger.acknowledged() == [
            Acknowledged("p", 0, total((one, two)), 3),
            Acknowledged("p", 2, two, 1),
            Acknowledged("q", 0, two, 2),
        ]

    async def test_the_reports_of_ended_processes_are_added_up(self, ledger: Ledger) -> None:
        one, two, three = (digest_of(use(name, "2024-01-15 12:00")) for name in ("a", "b", "c"))
        for process, digest, when in (("p", one, 1), ("q", two, 2), ("r", three, 9)):
            await ledger.report(process, acknowledged={0: digest, 1: digest}, refused={}, now_us=when)
        assert await ledger.merge_reports(before_us=5) == 2
        assert await ledger.merge_reports(before_us=5) == 0
        merged = total((one, two))
        assert [each[:3] for each in await ledger.acknowledged()] == [
            *(("", shard, merged) for shard in range(2)),
            *(("r", shard, three) for shard in range(2)),
        ]
        await ledger.merge_reports(before_us=10)
        assert [each.digest for each in await ledger.acknowledged()] == [total((merged, three))] * 2

    async def test_what_was_refused_is_a_statistic_and_no_usage(self, ledger: Ledger) -> None:
        await Books(ledger).fold(use("a", "2024-01-15 12:00"))
        revisions = {cell.revision for cell in await ledger.cells("acme", first=EARLY, last=LATE)}
        seen = await view(ledger, ["acme"], [])
        key = CellKey("acme", date(2024, 1, 15), 0, "api_calls", "", "")
        await ledger.report("p", acknowledged={}, refused={key: 3}, now_us=1)
        await ledger.report("p", acknowledged={}, refused={key: 4}, now_us=2)
        cells = await ledger.cells("acme", first=EARLY, last=LATE)
        assert [(cell.key, cell.refused) for cell in cells if cell.refused] == [(key, 7)]
        assert {cell.revision for cell in cells if not cell.refused} == revisions
        after = await view(ledger, ["acme"], [])
        assert after["acme"].pop("cells").keys() == seen["acme"].pop("cells").keys() | {key}
        assert after == seen

    async def test_rebuilding_the_cells_of_a_sound_ledger_changes_nothing(self, ledger: Ledger) -> None:
        await ledger.put_tenant(NewTenant("acme"), defaults=FREE, now_us=at("2024-01-01 00:00"))
        await Books(ledger).fold(use("a", "2024-01-15 12:00"), level("b", "2024-01-15 06:00", 10))
        seen = await view(ledger, ["acme"], [])
        assert await ledger.rebuild_cells("acme") == 0
        assert await view(ledger, ["acme"], []) == seen
        assert await ledger.rebuild_cells("nobody") == 0

    async def test_what_moved_levels_in_some_days_is_in_order(self, ledger: Ledger) -> None:
        facts = [level(name, f"2024-01-{day} 12:00", 1) for name, day in (("c", 15), ("b", 16), ("a", 16), ("d", 17))]
        await Books(ledger).fold(*facts, use("u", "2024-01-16 12:00"), level("x", "2024-01-16 13:00", 1))
        await Books(ledger, shard=1).fold(void(level("x", "2024-01-16 13:00", 1)))
        found = await used(ledger, date(2024, 1, 15), date(2024, 1, 16))
        assert [fact.id for fact in found.moves] == ["c", "a", "b"]
        assert found.tenant == await ledger.tenant("acme")

    async def test_days_are_those_of_the_tenant_or_of_the_zone_that_is_given(self, ledger: Ledger) -> None:
        facts = [level(name, f"2024-01-16 {time}", 1) for name, time in (("a", "04:59"), ("b", "05:00"))]
        day, new_york = date(2024, 1, 16), NewTenant("acme", timezone="America/New_York", subscribed_us=0)
        await Books(ledger, defaults=NO_DEFAULT).fold(*facts)
        assert [fact.id for fact in (await used(ledger, day, day)).moves] == ["a", "b"]
        await ledger.put_tenant(new_york, defaults=FREE, now_us=1)
        assert [fact.id for fact in (await used(ledger, day, day)).moves] == ["b"]

    # -- facts and cells ----------------------------------------------------------------------------------------------

    async def test_a_fact_moves_the_cell_of_its_event_type_and_those_of_its_meters(self, ledger: Ledger) -> None:
        close = ai_close(ai_hold("h", "2024-01-15 12:00"), 70)
        await Books(ledger, defaults=NO_DEFAULT).fold(close)
        day = date(2024, 1, 15)
        assert await sums(ledger) == {
            CellKey("acme", day, 0, "*ai_call", "gpt-4", ""): CellSum(1, 70, 0, 1),
            CellKey("acme", day, 0, "ai_cost", "gpt-4", ""): CellSum(70, 70, 0, 1),
            CellKey("acme", day, 0, "ai_cost", "gpt-4", "user:7"): CellSum(70, 70, 0, 1),
            CellKey("acme", day, 0, "ai_requests", "gpt-4", ""): CellSum(1, 70, 0, 1),
        }

    async def test_a_failed_event_counts_as_a_fact_without_units(self, ledger: Ledger) -> None:
        failed = use("a", "2024-01-15 12:00", 5)._replace(success=False, counts=(), cost_nanos=3)
        await Books(ledger, defaults=NO_DEFAULT).fold(failed)
        key = CellKey("acme", date(2024, 1, 15), 0, "*api_call", "/v1/items", "")
        assert await sums(ledger) == {key: CellSum(0, 3, 0, 1)}

    async def test_each_fact_counts_once_however_often_it_comes(self, ledger: Ledger) -> None:
        books, fact = Books(ledger), use("a", "2024-01-15 12:00", 7)
        await books.fold(fact, fact)
        await books.fold(fact)
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 7}
        assert await ledger.facts("acme", after=(0, ""), limit=10) == [fact]

    async def test_an_id_is_unique_per_tenant_only(self, ledger: Ledger) -> None:
        await Books(ledger).fold(use("a", "2024-01-15 12:00"), use("a", "2024-01-15 12:00", tenant="other"))
        assert await quantities(ledger, "api_calls") == await quantities(ledger, "api_calls", "other")

    async def test_a_correction_takes_units_off(self, ledger: Ledger) -> None:
        await Books(ledger).fold(use("a", "2024-01-15 12:00", 7), use("b", "2024-01-15 12:00", -3))
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 4}

    async def test_a_revision_counts_the_folds_that_changed_the_cell(self, ledger: Ledger) -> None:
        async def revisions() -> set[int]:
            return {cell.revision for cell in await ledger.cells("acme", first=EARLY, last=LATE)}

        books, fact = Books(ledger), use("a", "2024-01-15 12:00")
        await books.fold(fact, use("b", "2024-01-15 13:00"))
        assert await revisions() == {1}
        await books.fold(fact)
        assert await revisions() == {1}
        await books.fold(use("c", "2024-01-15 14:00"))
        assert await revisions() == {2}

    async def test_a_fact_comes_back_as_it_was(self, ledger: Ledger) -> None:
        fact = ai_close(ai_hold("h", "2024-01-15 12:00"))._replace(success=False, metadata='{"a": "\\u0000 😀"}')
        bare = use("z", "2024-01-15 12:00")._replace(counts=(), cost_nanos=0)
        await Books(ledger).fold(fact, bare)
        assert await ledger.facts("acme", after=(0, ""), limit=10) == [fact, bare]

    # -- voids, holds and closes --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize("void_first", [False, True])
    async def test_a_void_takes_its_target_out_or_keeps_it_out(
        self, ledger: Ledger, *, void_first: bool, split: bool
    ) -> None:
        fact, other = use("a", "2024-01-15 12:00", 7), use("b", "2024-01-15 12:00", 2)
        order = [void(fact), fact] if void_first else [fact, void(fact)]
        await fold_all(Books(ledger), [[each] for each in order] if split else [order])
        await Books(ledger, shard=1).fold(other, void(fact), fact)
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 2}
        assert await ledger.facts("acme", after=(0, ""), limit=10) == [other]

    async def test_a_cell_that_lost_its_facts_is_not_shown_and_its_revision_goes_on(self, ledger: Ledger) -> None:
        books, fact = Books(ledger), use("a", "2024-01-15 12:00")
        await books.fold(fact)
        await books.fold(void(fact))
        assert await ledger.cells("acme", first=EARLY, last=LATE) == []
        await books.fold(use("b", "2024-01-15 12:00"))
        assert {cell.revision for cell in await ledger.cells("acme", first=EARLY, last=LATE)} == {3}

    @pytest.mark.parametrize("split", [False, True])
    @pytest.mark.parametrize("close_first", [False, True])
    async def test_a_close_ends_its_hold_whichever_comes_first(
        self, ledger: Ledger, *, close_first: bool, split: bool
    ) -> None:
        hold, other = ai_hold("h", "2024-01-15 12:00"), ai_hold("other", "2024-01-15 12:00")
        order = [ai_close(hold), hold] if close_first else [hold, ai_close(hold)]
        await fold_all(Books(ledger), [[other], *([[each] for each in order] if split else [order])])
        assert await self.open_holds(ledger) == ["other"]
        assert await quantities(ledger, "ai_requests") == {date(2024, 1, 15): 1}

    @pytest.mark.parametrize("seed", range(6))
    async def test_an_expiry_that_is_taken_back_gives_way_to_the_late_settle(self, ledger: Ledger, seed: int) -> None:
        hold, bare = ai_hold("h", "2024-01-15 12:00"), ai_hold("bare", "2024-01-15 12:00")
        expiry, late, wrong = ai_close(hold, 10, name="x"), ai_close(hold, 80, name="late"), ai_close(bare)
        facts = [hold, bare, expiry, void(expiry), late, wrong, void(wrong)]
        await fold_all(Books(ledger), shuffled(facts, random.Random(seed)))
        assert await self.open_holds(ledger) == ["bare"], "a voided close leaves its hold open"
        assert await quantities(ledger, "*ai_call") == {date(2024, 1, 15): 1}
        assert {cell.total.cost_nanos for cell in await ledger.cells("acme", first=EARLY, last=LATE)} == {80}

    async def test_overdue_holds_are_those_that_are_open_and_were_taken_before(self, ledger: Ledger) -> None:
        books = Books(ledger)
        old, late = ai_hold("b", "2024-01-15 12:00"), ai_hold("c", "2024-01-15 12:01", tenant="beta")
        done = ai_hold("a", "2024-01-15 11:00")
        await books.fold(old, late, done, ai_close(done))
        assert await ledger.overdue_holds(at("2024-01-15 12:00"), limit=9) == []
        assert await ledger.overdue_holds(at("2024-01-15 13:00"), limit=9) == [old, late]
        assert await ledger.overdue_holds(at("2024-01-15 13:00"), limit=1) == [old]
        assert await ledger.overdue_holds(at("2024-01-15 13:00"), after=hold_key(old), limit=9) == [late]
        await books.fold(ai_close(old))
        assert await ledger.overdue_holds(at("2024-01-15 13:00"), limit=9) == [late]

    async def test_what_was_spent_in_spans_of_instants(self, ledger: Ledger) -> None:
        books, hold = Books(ledger), ai_hold("h", "2024-01-15 12:00")
        late = ai_close(hold, 2**62, name="late")
        await books.fold(hold, ai_close(hold, 2**62), late, void(late), ai_hold("other", "2024-01-15 12:30"))
        start = at("2024-01-15 12:00")
        spans = [(start, start + 1), (start - 9, start), (0, start + 9)]
        assert await ledger.spent("acme", "ai_call", spans) == [2**62, 0, 2**62]
        assert await ledger.spent("acme", "api_call", spans) == [0, 0, 0]
        assert await ledger.spent("beta", "ai_call", spans[:1]) == [0]

    async def test_a_voided_hold_is_not_open(self, ledger: Ledger) -> None:
        books, hold = Books(ledger), ai_hold("h", "2024-01-15 12:00")
        await books.fold(hold)
        assert await self.open_holds(ledger) == ["h"]
        await books.fold(void(hold))
        assert await self.open_holds(ledger) == []

    @staticmethod
    async def open_holds(ledger: Ledger) -> list[str]:
        snapshot = (await look(ledger, "acme"))["acme"]
        return sorted(hold.id for hold in snapshot.holds)

    # -- levels -------------------------------------------------------------------------------------------------------

    async def test_a_level_is_its_changes_and_their_time_left(self, ledger: Ledger) -> None:
        await Books(ledger, defaults=NO_DEFAULT).fold(
            level("a", "2024-01-15 06:00", 10), level("b", "2024-01-15 18:00", 4), level("c", "2024-01-17 12:00", 5)
        )
        first, last = (CellKey("acme", date(2024, 1, day), 0, "users", "seats", "") for day in (15, 17))
        hour = 3600
        assert await sums(ledger) == {
            first: CellSum(4, 0, 10 * 18 * hour - 6 * 6 * hour, 2),
            last: CellSum(1, 0, 12 * hour, 1),
        }
        assert await carried(ledger, date(2024, 1, 15)) == {("users", "seats"): 0}
        assert await carried(ledger, date(2024, 1, 17)) == {("users", "seats"): 4}
        assert await carried(ledger, date(2024, 1, 18)) == {("users", "seats"): 5}

    async def test_a_level_fact_that_comes_late_takes_its_place(self, ledger: Ledger) -> None:
        books = Books(ledger)
        await books.fold(level("a", "2024-01-14 00:00", 3), level("d", "2024-01-16 12:00", 9))
        await books.fold(level("c", "2024-01-16 06:00", 2, kind="add"), level("b", "2024-01-15 12:00", -1, kind="add"))
        days = {date(2024, 1, 14): 3, date(2024, 1, 15): -1, date(2024, 1, 16): 7}
        assert await quantities(ledger, "users") == days
        await books.fold(level("e", "2024-01-16 11:00", -100, kind="add"))
        assert await quantities(ledger, "users") == days, "a level never falls below 0, and a set states it anew"

    async def test_levels_of_one_instant_are_ordered_by_id(self, ledger: Ledger) -> None:
        books = Books(ledger)
        await books.fold(level("b", "2024-01-15 12:00", 5))
        await books.fold(level("a", "2024-01-15 12:00", 9))
        assert (await self.levels(ledger))["users", "seats"] == LevelEnd(5, 2 * at("2024-01-15 12:00") + 1)

    async def test_a_level_ends_with_the_stamp_of_its_last_change(self, ledger: Ledger) -> None:
        books, last = Books(ledger), level("b", "2024-01-16 12:00", 2, kind="add")
        await books.fold(level("a", "2024-01-15 12:00", 5), last)
        assert await self.levels(ledger) == {("users", "seats"): LevelEnd(7, 2 * at("2024-01-16 12:00"))}
        await books.fold(void(last))
        assert await self.levels(ledger) == {("users", "seats"): LevelEnd(5, 2 * at("2024-01-15 12:00") + 1)}
        await books.fold(void(level("a", "2024-01-15 12:00", 5)))
        assert await self.levels(ledger) == {}
        assert await sums(ledger) == {}

    async def test_levels_are_kept_apart_by_meter_and_resource(self, ledger: Ledger) -> None:
        await Books(ledger).fold(
            level("a", "2024-01-15 12:00", 5),
            level("b", "2024-01-15 12:00", 6, resource="guests"),
            level("c", "2024-01-15 12:00", 7, meter="storage_mb", resource="seats"),
        )
        values = {key: end.value for key, end in (await self.levels(ledger)).items()}
        assert values == {
            ("users", "seats"): 5,
            ("users", "guests"): 6,
            ("storage_mb", "seats"): 7,
            ("*storage", "seats"): 7,
        }

    @staticmethod
    async def levels(ledger: Ledger) -> dict[tuple[str, str], LevelEnd]:
        snapshot = (await look(ledger, "acme"))["acme"]
        return dict(snapshot.levels)

    # -- order, repeats and splits change nothing ---------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(12))
    async def test_any_order_with_repeats_and_splits_gives_the_same_books(self, ledger: Ledger, seed: int) -> None:
        chance = random.Random(seed)
        facts, days = history(chance), [date(2024, 3, day) for day in range(28, 34) if day <= 31]
        expected = MemoryLedger()
        for each in (ledger, expected):
            await open_tenants(each)
        await Books(expected).fold(*facts)
        await fold_all(Books(ledger), shuffled(facts, chance))
        assert await view(ledger, TENANTS, days) == await view(expected, TENANTS, days)

    @pytest.mark.parametrize("seed", range(12))
    async def test_changes_of_zone_and_plan_may_come_between_any_two_folds(self, ledger: Ledger, seed: int) -> None:
        chance = random.Random(1000 + seed)
        facts, days = history(chance), [date(2024, 3, day) for day in (27, 29, 31)]
        expected, books, changes = MemoryLedger(), Books(ledger), timeline(chance)
        for each in (ledger, expected):
            await open_tenants(each)
        for change in changes:
            await change(expected)
        await Books(expected).fold(*facts)
        batches = shuffled(facts, chance)
        turns = chance.sample(range(len(batches)), len(changes))
        for turn, batch in enumerate(batches):
            if turn in turns:
                await changes.pop(0)(ledger)
            await books.fold(*batch)
        assert await view(ledger, TENANTS, days) == await view(expected, TENANTS, days)

    # -- events with a caller's id ------------------------------------------------------------------------------------

    async def test_an_event_id_is_claimed_for_ever_and_the_first_payload_stays(self, ledger: Ledger) -> None:
        first = ClaimRequest("acme", "e1", b"one", at("2024-01-15 12:00"), "x1")
        later = first._replace(occurred_us=at("2024-02-15 12:00"))
        other = first._replace(digest=b"two")
        assert [claim.outcome for claim in await ledger.claim([first])] == ["new"]
        known, conflict, fresh = await ledger.claim([later, other, first._replace(tenant="beta")])
        assert (known.outcome, known.occurred_us, known.in_ledger) == ("known", first.occurred_us, False)
        assert (conflict.outcome, fresh.outcome) == ("conflict", "new")
        await Books(ledger).fold(use("x1", "2024-01-15 12:00"))
        assert (await ledger.claim([later]))[0].in_ledger

    async def test_an_id_twice_in_one_call_is_claimed_once(self, ledger: Ledger) -> None:
        first = ClaimRequest("acme", "e1", b"one", at("2024-01-15 12:00"), "x1")
        claims = await ledger.claim([first, first._replace(), first._replace(digest=b"two")])
        assert [claim.outcome for claim in claims] == ["new", "known", "conflict"]

    # -- plans and tenants --------------------------------------------------------------------------------------------

    async def test_a_plan_that_differs_is_a_new_version(self, ledger: Ledger) -> None:
        assert await ledger.put_plans({"pro": {"price": "99"}, "free": {"price": "0"}}, now_us=1) == {
            "pro": 1,
            "free": 1,
        }
        assert await ledger.put_plans({"pro": {"price": "99"}}, now_us=2) == {"pro": 1}
        assert await ledger.put_plans({"pro": {"price": "98"}}, now_us=3) == {"pro": 2}
        assert await ledger.put_plans({"pro": {"price": "99"}}, now_us=4) == {"pro": 3}
        assert (await ledger.plan_versions())["pro", 2] == {"price": "98"}

    async def test_the_meters_in_which_tenants_have_facts(self, ledger: Ledger) -> None:
        books = Books(ledger)
        hold = ai_hold("h", "2024-01-15 12:00")
        await books.fold(use("1", "2020-01-15 12:00"), use("2", "2024-01-15 12:00"), hold, ai_close(hold))
        await books.fold(
            use("3", "2024-01-15 12:00", tenant="bob"), gone := use("4", "2024-01-15 12:00", tenant="carol")
        )
        await books.fold(level("5", "2024-01-15 12:00", 3), void(gone))
        assert await ledger.meters_used(["acme", "acme", "bob", "carol", "nobody"]) == {
            "ai_cost": 1,
            "ai_requests": 1,
            "api_calls": 2,
            "users": 1,
        }
        assert await ledger.meters_used(["bob"]) == {"api_calls": 1}
        assert await ledger.meters_used([]) == {}

    async def test_put_tenant_raises_the_revision_only_for_a_change(self, ledger: Ledger) -> None:
        new = NewTenant("acme", "pro", 3, "Europe/Berlin", at("2024-01-01 00:00"), "0.19")
        first = await ledger.put_tenant(new, defaults=FREE, now_us=5)
        assert first == await ledger.put_tenant(new, defaults=FREE, now_us=6) == await ledger.tenant("acme")
        moved = await ledger.change_subscription("acme", PlanChange(at("2024-02-01 00:00"), "free", 1))
        assert moved.revision == first.revision + 1
        assert [segment.plan for segment in moved.segments] == ["pro", "free"]
        back = await ledger.change_subscription("acme", PlanChange(at("2024-01-20 00:00"), "pro", 3))
        assert (back.segments, back.revision) == (first.segments, moved.revision + 1)
        assert back == await ledger.change_subscription("acme", PlanChange(at("2024-01-25 00:00"), "pro", 3))
        with pytest.raises(InvalidInput):
            await ledger.change_subscription("acme", PlanChange(at("2023-12-31 00:00"), "pro", 3))
        with pytest.raises(UnknownTenant):
            await ledger.change_subscription("nobody", PlanChange(0, "pro", 3))

    async def test_a_change_decided_for_another_revision_is_not_written(self, ledger: Ledger) -> None:
        first = await ledger.put_tenant(NewTenant("acme", "pro", 3), defaults=FREE, now_us=5)
        own = {("pro", 3): ("pro~acme", 1)}
        moved = await ledger.change_subscription("acme", VersionChange(6, own, of_revision=first.revision))
        with pytest.raises(ChangedMeanwhile):
            await ledger.change_subscription("acme", PlanChange(7, "free", 1, of_revision=first.revision))
        stale = NewTenant("acme", "free", 1, of_revision=first.revision)
        with pytest.raises(ChangedMeanwhile):
            await ledger.put_tenant(stale, defaults=FREE, now_us=7)
        assert moved == await ledger.tenant("acme")
        again = PlanChange(7, "free", 1, of_revision=moved.revision)
        assert (await ledger.change_subscription("acme", again)).revision == moved.revision + 1

    async def test_a_state_holds_from_its_instant_on_whatever_the_plan(self, ledger: Ledger) -> None:
        first = await ledger.put_tenant(NewTenant("acme", "pro", 3, trial_us=10), defaults=FREE, now_us=5)
        assert first.segments == (Segment(5, "pro", 3, "trial"), Segment(15, "pro", 3, "active"))
        paused = await ledger.change_subscription("acme", StateChange(12, "pause"))
        assert paused.segments == (Segment(5, "pro", 3, "trial"), Segment(12, "pro", 3, "paused"))
        assert paused.revision == first.revision + 1
        assert (
            paused == await ledger.change_subscription("acme", StateChange(14, "pause")) == await ledger.tenant("acme")
        )
        moved = await ledger.change_subscription("acme", PlanChange(13, "free", 1))
        assert moved.segments == (*paused.segments, Segment(13, "free", 1, "paused"))
        assert moved == await ledger.put_tenant(NewTenant("acme"), defaults=FREE, now_us=8)
        running = await ledger.change_subscription("acme", StateChange(14, "resume"))
        assert running.segments[3:] == (Segment(14, "free", 1, "trial"), Segment(15, "free", 1, "active"))
        ended = await ledger.change_subscription("acme", StateChange(20, "cancel"))
        with pytest.raises(WrongState, match="is canceled: pause is not possible"):
            await ledger.change_subscription("acme", StateChange(21, "pause"))
        with pytest.raises(UnknownTenant):
            await ledger.change_subscription("nobody", StateChange(21, "pause"))
        assert await ledger.tenant("acme") == ended

    async def test_another_zone_holds_from_its_instant_on(self, ledger: Ledger) -> None:
        await ledger.put_tenant(NewTenant("acme"), defaults=FREE, now_us=at("2024-01-01 00:00"))
        await Books(ledger).fold(
            use("a", "2024-01-16 02:00"), use("b", "2024-01-17 02:00"), use("c", "2024-01-17 04:00")
        )
        before = await days_of_use(ledger)
        tokyo = NewTenant("acme", timezone="Asia/Tokyo")
        await ledger.put_tenant(tokyo, defaults=FREE, now_us=at("2024-01-17 03:00"))
        await Books(ledger, shard=1).fold(use("d", "2024-01-17 15:00"))
        assert before == {date(2024, 1, 16): 1, date(2024, 1, 17): 2}
        assert await days_of_use(ledger) == before | {date(2024, 1, 18): 1}

    async def test_what_happens_at_the_instant_of_a_move_goes_to_the_new_zones_day(self, ledger: Ledger) -> None:
        """It was folded into the old one's before."""
        await ledger.put_tenant(NewTenant("acme"), defaults=FREE, now_us=at("2024-01-01 00:00"))
        moment = "2024-01-17 20:00"  # the 18th in Tokyo
        await Books(ledger).fold(level("a", "2024-01-16 12:00", 3), use("b", moment), level("c", moment, 9))
        await ledger.put_tenant(NewTenant("acme", timezone="Asia/Tokyo"), defaults=FREE, now_us=at(moment))
        assert await days_of_use(ledger) == {date(2024, 1, 16): 0, date(2024, 1, 18): 1}
        assert await ledger.rebuild_cells("acme") == 0

    async def test_a_first_look_makes_the_default_tenant_and_none_without_a_default(self, ledger: Ledger) -> None:
        nobody = (await look(ledger, "acme", defaults=NO_DEFAULT, now_us=7))["acme"]
        assert (nobody.tenant, await ledger.tenant("acme")) == (None, None)
        made = (await look(ledger, "acme", now_us=7))["acme"].tenant
        assert made is not None
        assert made == await ledger.tenant("acme")
        assert (made.subscribed_us, made.segments[0].plan) == (7, FREE.plan)

    # -- snapshots of several tenants ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(4))
    async def test_several_tenants_at_once_are_seen_as_each_alone(self, ledger: Ledger, seed: int) -> None:
        await open_tenants(ledger)
        await fold_all(Books(ledger), shuffled(history(random.Random(seed)), random.Random(seed)))
        await ledger.put_tenant(NewTenant("idle"), defaults=FREE, now_us=1)
        names = ("idle", *reversed(TENANTS), "nobody")
        together = await look(ledger, *names, defaults=NO_DEFAULT)
        assert together == {name: (await look(ledger, name, defaults=NO_DEFAULT))[name] for name in names}
        assert {snapshot.shard for snapshot in together.values()} == {await ledger.shard(0)}
        assert [each.tenant.id for each in together.values() if each.tenant] == ["idle", "beta", "acme"]
        assert together["acme"].usage
        assert together["nobody"] == Snapshot(await ledger.shard(0), None, (), {}, ())

    async def test_a_snapshot_sees_usage_from_its_first_day_on(self, ledger: Ledger) -> None:
        await Books(ledger).fold(
            *(use(f"{tenant}{day}", f"2024-01-{day} 12:00", tenant=tenant) for tenant in TENANTS for day in (14, 15))
        )
        seen = await look(ledger, *TENANTS, since=date(2024, 1, 15))
        assert {(tenant, row.day) for tenant in TENANTS for row in seen[tenant].usage} == {
            (tenant, date(2024, 1, 15)) for tenant in TENANTS
        }

    async def test_tenants_that_are_made_at_once_are_seen_with_what_they_had(self, ledger: Ledger) -> None:
        """Their facts may have come before they were known, and are folded by their calendar then."""
        hold = ai_hold("h", "2024-01-15 12:00", tenant="beta")
        await Books(ledger, defaults=NO_DEFAULT).fold(
            use("a", "2024-01-15 23:30", 7), level("s", "2024-01-15 12:00", 4), hold
        )
        berlin = TenantDefaults(plan="free", version=1, timezone="Europe/Berlin")
        seen = await look(ledger, "acme", "beta", "gamma", defaults=berlin, now_us=at("2024-01-01 00:00"))
        rows = {name: await ledger.tenant(name) for name in seen}
        assert {name: snapshot.tenant for name, snapshot in seen.items()} == rows
        assert all(row is not None and row.revision == 1 for row in rows.values())
        calls = [row for row in seen["acme"].usage if row.meter == "api_calls"]
        assert [(row.day, row.quantity) for row in calls] == [(date(2024, 1, 16), 7)]
        assert {key: end.value for key, end in seen["acme"].levels.items()} == {("users", "seats"): 4}
        assert [fact.id for fact in seen["beta"].holds] == ["h"]
        assert (seen["gamma"].usage, seen["gamma"].levels, seen["gamma"].holds) == ((), {}, ())
        assert seen == await look(ledger, *seen, defaults=NO_DEFAULT)

    async def test_the_same_tenants_may_be_made_by_several_at_once(self, ledger: Ledger) -> None:
        names = [f"t{number}" for number in range(MAX_SNAPSHOTS)]
        orders = [names, names[::-1], names[20:] + names[:20], names[::2]]
        together = await asyncio.gather(*(look(ledger, *order, now_us=n) for n, order in enumerate(orders)))
        for order, seen in zip(orders, together, strict=True):
            assert {name: seen[name].tenant for name in order} == {name: await ledger.tenant(name) for name in order}
        assert {row.revision for row in await ledger.tenants(limit=1000)} == {1}

    async def test_tenants_and_facts_come_in_pages(self, ledger: Ledger) -> None:
        for number in range(5):
            await ledger.put_tenant(NewTenant(f"t{number}"), defaults=FREE, now_us=1)
        assert [row.id for row in await ledger.tenants(after="t1", limit=2)] == ["t2", "t3"]
        await Books(ledger).fold(*(use(f"f{number}", "2024-01-15 12:00") for number in range(5)))
        page = await ledger.facts("acme", after=(at("2024-01-15 12:00"), "f1"), limit=2)
        assert [fact.id for fact in page] == ["f2", "f3"]

    @pytest.mark.parametrize("seed", range(3))
    async def test_the_sums_of_days_are_those_of_their_cells(self, ledger: Ledger, seed: int) -> None:
        await open_tenants(ledger)
        await fold_all(Books(ledger), shuffled(history(random.Random(seed)), random.Random(seed)))
        await ledger.change_subscription("acme", PlanChange(at("2024-03-30 12:00"), "pro", 2))
        refused = {CellKey("acme", date(2024, 3, 30), 0, "api_calls", "", ""): 3}
        await ledger.report("p", acknowledged={}, refused=refused, now_us=1)
        first, last = date(2024, 3, 29), date(2024, 3, 30)
        sums: dict[CellKey, list[int]] = {}
        for key, cell, revision, no in await ledger.cells("acme", first=first, last=last):
            if not key.scope:
                one = (cell.quantity, cell.cost_nanos, cell.weighted, cell.count, revision, no)
                into = sums.setdefault(key._replace(since_us=0, resource=""), [0] * 6)
                into[:] = map(sum, zip(into, one, strict=True))
        found = (await used(ledger, first, last)).sums
        assert [
            (key, [cell.quantity, cell.cost_nanos, cell.weighted, cell.count, revision, no])
            for key, cell, revision, no in found
        ] == sorted(sums.items())
        assert sums

    # -- keeping ------------------------------------------------------------------------------------------------------

    async def test_facts_are_kept_for_whole_months_and_their_cells_for_ever(self, ledger: Ledger) -> None:
        days = ("2023-12-31 23:59", "2024-01-01 00:00", "2024-02-15 12:00")
        await open_tenants(ledger)
        await Books(ledger).fold(*(use(day, day, 7) for day in days), ai_hold("old", days[0]), ai_hold("new", days[1]))
        before = await sums(ledger)
        assert await ledger.kept_us() < at("1970-01-01 00:00")
        assert await retired(ledger, "2024-02-20 12:00", keep_months=1) == 2
        assert await ledger.kept_us() == at(days[1])
        assert [fact.id for fact in await ledger.facts("acme", after=(0, ""), limit=9)] == [days[1], "new", days[2]]
        assert await self.open_holds(ledger) == ["new"]
        assert await sums(ledger) == before
        assert await retired(ledger, "2024-01-20 12:00", keep_months=1) == 0
        assert await ledger.kept_us() == at(days[1]), "it never moves back"

    async def test_what_comes_later_than_facts_are_kept_counts_nowhere(self, ledger: Ledger) -> None:
        books, counted, late = Books(ledger), use("a", "2024-01-15 12:00", 7), use("b", "2024-01-15 12:00", 5)
        await books.fold(counted)
        await retired(ledger, "2024-03-20 12:00", keep_months=1)
        before = await sums(ledger)
        for _ in range(2):
            await books.fold(counted, late, ai_hold("h", "2024-01-15 12:00"))
            await books.fold(void(counted), void(late))
        assert await sums(ledger) == before
        assert await self.open_holds(ledger) == []
        assert await ledger.facts("acme", after=(0, ""), limit=9) == []
        await retired(ledger, "2024-03-20 12:00", keep_months=1)
        assert await sums(ledger) == before

    async def test_what_comes_late_counts_where_nothing_was_taken_out(self, ledger: Ledger) -> None:
        await ledger.make_room(at("2024-03-20 12:00"))
        await retired(ledger, "2024-03-20 12:00", keep_months=1)
        assert await ledger.kept_us() < at("1970-01-01 00:00")
        await Books(ledger).fold(use("late", "2024-01-15 12:00", 7))
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 7}

    async def test_an_account_holds_the_cells_of_meters_on_the_days_that_are_wanted(self, ledger: Ledger) -> None:
        await open_tenants(ledger)
        hold = ai_hold("h", "2024-01-15 12:00")
        days = ("2023-12-31 23:59", "2024-01-01 00:00", "2024-01-31 23:59", "2024-02-01 00:00")
        await Books(ledger).fold(*(use(day, day, 7) for day in days), hold, ai_close(hold))
        await Books(ledger, shard=1).fold(level("s", "2024-01-05 12:00", 4), level("t", "2024-02-05 12:00", 9))
        account = await ledger.account("acme", Wanted(usage=("2024-01",), levels=True))
        assert account is not None
        wanted = [
            cell
            for cell in await ledger.cells("acme", first=date(2024, 1, 1), last=date(2024, 1, 31))
            if not cell.key.scope and not cell.key.meter.startswith("*")
        ]
        assert {cell.key.meter for cell in wanted} == {"api_calls", "ai_requests", "ai_cost", "users"}
        assert sorted(account.cells) == sorted(wanted)
        assert {day: _moved(values) for day, values in account.levels_before.items()} == {date(2024, 1, 1): {}}

    async def test_the_months_of_an_account_begin_on_the_tenants_own_day(self, ledger: Ledger) -> None:
        """In one booking, too, of tenants with different ones."""
        books, sign_up = Books(ledger), at("2024-01-01 00:00")
        for name, day in (("acme", 1), ("beta", 31)):
            await ledger.put_tenant(NewTenant(name, subscribed_us=0, anchor_day=day), defaults=FREE, now_us=sign_up)
            days = ("2024-01-30 12:00", "2024-01-31 12:00", "2024-02-28 12:00", "2024-02-29 12:00")
            facts = [use(f"{name}{number}", when, 1)._replace(tenant=name) for number, when in enumerate(days)]
            seat = level(f"{name}s", "2024-01-15 12:00", 4)._replace(tenant=name)
            await books.fold(*facts, seat)
        seen = {}

        def look(account: Account) -> Entries:
            mine = {cell.key.day.isoformat()[5:] for cell in account.cells if cell.key.meter == "api_calls"}
            stood = {f"{day:%m-%d}": len(_moved(levels)) for day, levels in account.levels_before.items()}
            seen[account.tenant.id] = (mine, stood)
            return Entries()

        await ledger.book(["acme", "beta"], Wanted(usage=("2024-01",), levels=True), look)
        assert seen == {
            "acme": ({"01-30", "01-31"}, {"01-01": 0}),
            "beta": ({"01-31", "02-28"}, {"01-31": 1}),
        }

    async def test_a_level_rests_on_all_of_its_facts(self, ledger: Ledger) -> None:
        books, days = Books(ledger), [date(2024, 1, 10), date(2024, 2, 10), date(2024, 3, 10)]
        await books.fold(level("a", "2024-01-05 12:00", 4), level("b", "2024-02-05 12:00", 3, kind="add"))
        await retired(ledger, "2024-03-20 12:00", keep_months=0)
        await books.fold(level("c", "2024-03-05 12:00", 2, kind="add"), level("a", "2024-01-05 12:00", 4))
        await books.fold(level("late", "2024-01-06 12:00", 1, kind="add"))
        assert [(await carried(ledger, day))["users", "seats"] for day in days] == [5, 8, 10]

    @pytest.mark.parametrize("seed", range(4))
    async def test_a_new_zone_or_plan_moves_the_facts_that_are_kept(self, ledger: Ledger, seed: int) -> None:
        """What is kept, and each level, stands as if nothing had been retired; the rest stays where it was."""
        chance = random.Random(seed)
        facts, changes, whole = history(chance), timeline(chance), MemoryLedger()
        facts += [_later(fact) for fact in facts if fact.kind == "use"]
        for each in (ledger, whole):
            await open_tenants(each)
            await Books(each).fold(*facts)
        await retired(ledger, "2024-04-20 12:00", keep_months=0)
        was = {tenant: await sums(ledger, tenant) for tenant in TENANTS}
        for change in (*changes, timeline(random.Random(seed + 100))[1]):
            await change(ledger)
            await change(whole)
        for tenant in TENANTS:
            stands, expected = await sums(ledger, tenant), await sums(whole, tenant)
            assert _from_day(stands, date(2024, 4, 2)) == _from_day(expected, date(2024, 4, 2))
            assert _of_levels(stands) == _of_levels(expected)
            assert _totals(stands) == _totals(expected)
            early = {key for key in was[tenant] if key.day < date(2024, 3, 31)} - _of_levels(was[tenant]).keys()
            assert early
            assert {key: stands[key] for key in early} == {key: was[tenant][key] for key in early}

    async def test_room_for_the_months_to_come_changes_nothing(self, ledger: Ledger) -> None:
        days = ("2024-01-31 23:59", "2024-02-01 00:00", "2024-05-31 23:59", "2024-06-01 00:00")
        books, facts, other = Books(ledger), [use(day, day, 7) for day in days], use("other", "2024-03-01 12:00")
        await books.fold(*facts)
        before = await view(ledger, ["acme"], [date(2024, 3, 1)])
        made = await ledger.make_room(at("2024-02-20 12:00"))
        assert await ledger.make_room(at("2024-02-20 12:00")) == ()
        await books.fold(*facts, other)
        await books.fold(void(other))
        assert await view(ledger, ["acme"], [date(2024, 3, 1)]) == before
        assert len(await ledger.make_room(at("2024-03-20 12:00"))) == len(made) // 4

    @pytest.mark.parametrize("name", HOSTILE)
    async def test_any_text_may_name_a_tenant_and_never_meets_another(self, ledger: Ledger, name: str) -> None:
        await ledger.put_tenant(NewTenant(name), defaults=FREE, now_us=1)
        await Books(ledger).fold(
            use(name[:60], "2024-01-15 12:00", 7, tenant=name, resource=name), use("a", "2024-01-15 12:00")
        )
        assert await quantities(ledger, "api_calls", name) == {date(2024, 1, 15): 7}
        assert [fact.resource for fact in await ledger.facts(name, after=(0, ""), limit=9)] == [name]

    async def test_the_largest_quantities_are_exact(self, ledger: Ledger) -> None:
        await Books(ledger).fold(*(use(f"f{number}", "2024-01-15 12:00", MAX_QUANTITY) for number in range(3)))
        assert await quantities(ledger, "api_calls") == {date(2024, 1, 15): 3 * MAX_QUANTITY}


TENANTS: Final = ("acme", "beta")


def history(chance: random.Random) -> list[Fact]:
    """Some days around a change of clocks: uses, holds, closes, levels and voids, of two tenants."""
    facts: list[Fact] = []
    for number in range(60):
        when = f"2024-03-{chance.randint(28, 31)} {chance.randint(0, 23):02}:{chance.randint(0, 59):02}"
        tenant = chance.choice(TENANTS)
        match chance.randint(0, 5):
            case 0 | 1:
                facts.append(use(f"u{number}", when, chance.randint(1, 9), tenant=tenant))
            case 2:
                hold = ai_hold(f"h{number}", when, tenant=tenant)
                facts.extend([hold, ai_close(hold)][: chance.randint(1, 2)])
            case 3:
                facts.append(level(f"s{number}", when, chance.randint(0, 20)))
            case 4:
                facts.append(level(f"a{number}", when, chance.randint(-9, 9), kind="add"))
            case 5:
                facts.extend(void(each) for each in chance.sample(facts, min(1, len(facts))) if each.kind != "void")
    return facts


def _later(fact: Fact) -> Fact:
    return fact._replace(id=f"{fact.id}+", occurred_us=fact.occurred_us + 5 * DAY_US)


async def retired(ledger: Ledger, now: str, *, keep_months: int) -> int:
    """Retires all that is over; how many facts of "acme" are gone."""
    before = len(await ledger.facts("acme", after=(0, ""), limit=10_000))
    while (await ledger.retire(at(now), keep_months=keep_months)).more:
        pass
    return before - len(await ledger.facts("acme", after=(0, ""), limit=10_000))


def _from_day(cells: Mapping[CellKey, CellSum], day: date) -> dict[CellKey, CellSum]:
    return {key: cell for key, cell in cells.items() if key.day >= day}


def _of_levels(cells: Mapping[CellKey, CellSum]) -> dict[CellKey, CellSum]:
    return {key: cell for key, cell in cells.items() if key.meter in {"users", "*storage"}}


def _totals(cells: Mapping[CellKey, CellSum]) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    """Quantity, cost and count of each meter, resource and scope, over all days and segments."""
    totals: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for key, cell in cells.items():
        quantity, cost, count = totals.get(key[3:], (0, 0, 0))
        totals[key[3:]] = (quantity + cell.quantity, cost + cell.cost_nanos, count + cell.count)
    return totals


def shuffled(facts: Sequence[Fact], chance: random.Random) -> list[list[Fact]]:
    """The facts in a random order, some of them twice, in batches of random sizes."""
    rest = [*facts, *chance.sample(facts, len(facts) // 3)]
    chance.shuffle(rest)
    batches = []
    while rest:
        size = chance.randint(1, 12)
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


async def fold_all(books: Books, batches: Iterable[Sequence[Fact]]) -> None:
    for batch in batches:
        await books.fold(*batch)


async def days_of_use(ledger: Ledger) -> dict[date, int]:
    cells = await ledger.cells("acme", first=EARLY, last=LATE)
    days = {cell.key.day for cell in cells}
    return {day: sum(c.total.quantity for c in cells if (c.key.day, c.key.meter) == (day, "api_calls")) for day in days}


async def open_tenants(ledger: Ledger) -> None:
    """Puts both tenants, one in a zone whose clocks change in these days."""
    for tenant, timezone in zip(TENANTS, ("Europe/Berlin", "UTC"), strict=True):
        new = NewTenant(tenant, "free", 1, timezone, at("2024-01-01 00:00"))
        await ledger.put_tenant(new, defaults=FREE, now_us=at("2024-01-01 00:00"))


def timeline(chance: random.Random) -> list[Callable[[Ledger], Awaitable[object]]]:
    """A change of plan, and one of zone, at random instants."""
    when = at(f"2024-03-{chance.randint(28, 31)} {chance.randint(0, 23):02}:30")
    zone = NewTenant("beta", timezone=chance.choice(["Asia/Kathmandu", "America/New_York"]))
    return [
        lambda ledger: ledger.change_subscription("acme", PlanChange(when, "pro", 2)),
        lambda ledger: ledger.put_tenant(zone, defaults=FREE, now_us=at("2024-01-01 00:00")),
    ]
