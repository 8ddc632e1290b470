"""The law of usage that goes into the ledger directly, as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import pytest

from mm_metering.backends.bulk import Correction, DayUse, Landed, Stated
from mm_metering.backends.counters import START, shard_of
from mm_metering.backends.ledger import ClaimRequest, Ledger
from mm_metering.core.audit import Act
from mm_metering.core.digest import Digest, total
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.errors import InvalidInput, UnknownTenant, Unstorable
from mm_metering.testing.work_contract import POISON

SHARDS: Final = 4
PLAN: Final = TenantDefaults(plan="free", version=1, timezone="UTC")
NOBODY: Final = TenantDefaults(plan="", version=0, timezone="UTC")
NOON: Final = micros(datetime(2024, 1, 15, 12, tzinfo=UTC))
DAY: Final = date(2024, 1, 15)
DAY_US: Final = 86_400_000_000


def event(name: str, tenant: str = "acme", *, at_us: int = NOON, amount: int = 1, said: str = "") -> Stated:
    counts = (Count("api_calls", "", amount),)
    fact = Fact(f"x{name}", at_us, "use", tenant, "api_call", "/v1", amount, 5, counts)
    return Stated(fact, name, (said or str(amount)).encode())


def stored(name: str, value: int, *, at_us: int = NOON) -> Stated:
    counts = (Count("storage_mb", "", value),)
    fact = Fact(f"x{name}", at_us, "set", "acme", "storage", "disk", value, None, counts)
    return Stated(fact, name, str(value).encode())


def what(landed: Sequence[Landed]) -> list[str]:
    return [each.landing for each in landed]


class BulkContract:
    """Events in bulk, and corrections."""

    @staticmethod
    async def _backfill(ledger: Ledger, *stated: Stated, **options: Any) -> list[Landed]:
        settings: dict[str, Any] = {"shards": SHARDS, "defaults": PLAN, "now_us": NOON}
        return await ledger.backfill(stated, **settings | options)

    @staticmethod
    async def _used(ledger: Ledger, tenant: str = "acme", meter: str = "api_calls") -> int:
        cells = await ledger.cells(tenant, first=date(2000, 1, 1), last=date(2030, 1, 1))
        return sum(cell.total.quantity for cell in cells if cell.key.meter == meter)

    async def _is_proved(self, ledger: Ledger, tenants: int) -> Digest:
        """What was acknowledged, folded and counted is the same, in each shard."""
        folded, told = await ledger.folded(), await ledger.acknowledged()
        assert {each.process for each in told} <= {""}
        cells = dict(await ledger.cell_digests())
        assert len(cells) == tenants
        for shard in range(SHARDS):
            theirs = total(each for tenant, each in cells.items() if shard_of(tenant, SHARDS) == shard)
            assert folded.get(shard, Digest()) == theirs
            assert total(each.digest for each in told if each.shard == shard) == theirs
        return total(cells.values())

    async def test_events_in_bulk_are_facts_cells_and_acknowledged_at_once(self, ledger: Ledger) -> None:
        stated = [event(f"e{n}", f"org_{n % 7}", at_us=NOON - n * DAY_US // 4, amount=n + 1) for n in range(50)]
        assert what(await self._backfill(ledger, *stated)) == ["recorded"] * 50
        assert [await self._used(ledger, f"org_{n}") for n in range(7)] == [
            sum(each.fact.quantity for each in stated if each.fact.tenant == f"org_{n}") for n in range(7)
        ]
        assert (await self._is_proved(ledger, 7)).facts == 50
        facts = [fact for n in range(7) for fact in await ledger.facts(f"org_{n}", after=(0, ""), limit=99)]
        assert {fact.id: fact for fact in facts} == {each.fact.id: each.fact for each in stated}
        assert (await ledger.rebuild_cells("org_1")) == 0

    async def test_an_event_in_bulk_is_recorded_once(self, ledger: Ledger) -> None:
        """In one call, in several, and where it was claimed before its fact was written."""
        again = await self._backfill(ledger, event("e1"), event("e1"), event("e1", amount=2), event("e2"))
        assert what(again) == ["recorded", "duplicate", "conflict", "recorded"]
        again = await self._backfill(ledger, event("e2"), event("e3"), event("e1", amount=9), event("e1", "beta"))
        assert what(again) == ["duplicate", "recorded", "conflict", "recorded"]
        assert again[0].occurred_us == NOON
        assert (await self._used(ledger), await self._used(ledger, "beta")) == (3, 1)
        assert (await self._is_proved(ledger, 2)).facts == 4

    async def test_what_was_claimed_and_never_written_is_written_by_a_backfill(self, ledger: Ledger) -> None:
        """At the instant of the claim; and not as if it was acknowledged again."""
        named = event("e1", at_us=NOON - DAY_US)
        request = ClaimRequest("acme", "e1", named.digest, NOON - DAY_US, named.fact.id)
        await ledger.claim([request])
        (landed,) = await self._backfill(ledger, event("e1"))
        assert landed == Landed("duplicate", occurred_us=NOON - DAY_US)
        assert [fact.occurred_us for fact in await ledger.facts("acme", after=(0, ""), limit=9)] == [NOON - DAY_US]
        assert (await ledger.acknowledged(), total((await ledger.folded()).values()).facts) == ([], 1)

    async def test_a_fact_that_came_by_the_stream_is_a_duplicate(self, ledger: Ledger) -> None:
        shard, named = shard_of("acme", SHARDS), event("e1")
        await ledger.fold(shard, generation=1, before=START, after="1-0", facts=[named.fact], defaults=PLAN)
        assert what(await self._backfill(ledger, named, event("e2"))) == ["duplicate", "recorded"]
        assert await self._used(ledger) == 2
        await ledger.fold(shard, generation=1, before="1-0", after="2-0", facts=[event("e2").fact], defaults=PLAN)
        assert await self._used(ledger) == 2

    async def test_looking_ahead_says_the_same_and_writes_nothing(self, ledger: Ledger) -> None:
        await self._backfill(ledger, event("e1"))
        asked = (event("e1"), event("e2"), event("e2"), event("e1", amount=3), event("e3", "beta"))
        foreseen = what(await self._backfill(ledger, *asked, writes=False))
        assert foreseen == ["duplicate", "recorded", "duplicate", "conflict", "recorded"]
        assert (await self._used(ledger), await ledger.tenant("beta")) == (1, None)
        assert what(await self._backfill(ledger, *asked)) == foreseen

    async def test_tenants_are_made_by_default_or_not_known(self, ledger: Ledger) -> None:
        assert what(await self._backfill(ledger, event("e1"), defaults=NOBODY)) == ["unknown"]
        assert await ledger.tenant("acme") is None
        assert what(await self._backfill(ledger, event("e1"))) == ["recorded"]
        row = await ledger.tenant("acme")
        assert row is not None
        assert row.segments[0].plan == "free"
        await ledger.forget_tenant("acme", now_us=NOON, shard=shard_of("acme", SHARDS))
        asked = (event("e2"), event("e3", "beta"))
        assert what(await self._backfill(ledger, *asked, writes=False)) == ["forgotten", "recorded"]
        assert what(await self._backfill(ledger, *asked)) == ["forgotten", "recorded"]

    async def test_what_was_retired_cannot_be_recorded_again(self, ledger: Ledger) -> None:
        old = NOON - 100 * DAY_US
        await self._backfill(ledger, event("e1", at_us=old))
        while (await ledger.retire(NOON, keep_months=0)).more:
            pass
        assert await ledger.kept_us() > old
        assert what(await self._backfill(ledger, event("e1", at_us=old), event("e2", at_us=old))) == ["retired"] * 2
        assert await self._used(ledger) == 1

    async def test_levels_in_bulk_take_their_places(self, ledger: Ledger) -> None:
        await self._backfill(ledger, stored("e3", 30))
        await self._backfill(ledger, stored("e1", 10, at_us=NOON - 2 * DAY_US), stored("e2", 20, at_us=NOON - DAY_US))
        assert await self._used(ledger, meter="storage_mb") == 30
        (seen,) = (await ledger.snapshots(0, ["acme"], since=DAY, defaults=PLAN, now_us=NOON)).values()
        assert seen.levels["storage_mb", "disk"].value == 30
        assert await ledger.rebuild_cells("acme") == 0
        assert (await self._is_proved(ledger, 1)).facts == 3

    async def test_what_the_ledger_cannot_hold_is_named(self, ledger: Ledger) -> None:
        bad = event("e2")
        bad = bad._replace(fact=bad.fact._replace(**POISON["a number beyond 64 bits"]))
        with pytest.raises(Unstorable) as caught:
            await self._backfill(ledger, event("e1"), bad, event("e3"))
        assert set(caught.value.facts) == {1}
        assert what(await self._backfill(ledger, event("e1"), event("e3"))) == ["recorded"] * 2

    async def test_backfills_and_folds_at_once_lose_nothing(self, ledger: Ledger) -> None:
        async def live(shard: int) -> None:
            for n in range(8):
                facts = [event(f"live{n}.{k}", f"org_{k}").fact for k in range(9) if shard_of(f"org_{k}", 4) == shard]
                before, after = f"{n}-0" if n else START, f"{n + 1}-0"
                assert await ledger.fold(shard, generation=1, before=before, after=after, facts=facts, defaults=PLAN)

        async def bulk(first: int) -> None:
            for n in range(first, first + 8):
                await self._backfill(ledger, *(event(f"b{n}.{k}", f"org_{k}") for k in range(9)))

        await asyncio.gather(*map(live, range(SHARDS)), bulk(0), bulk(4))
        assert [await self._used(ledger, f"org_{k}") for k in range(9)] == [8 + 12] * 9
        told = total(each.digest for each in await ledger.acknowledged())
        assert (told.facts, total((await ledger.folded()).values()).facts) == (9 * 12, 9 * 20)

    # -- corrections --------------------------------------------------------------------------------------------------

    @staticmethod
    def _request(name: str, said: bytes = b"") -> ClaimRequest:
        return ClaimRequest("acme", name, said, NOON, f"a{name}")

    @staticmethod
    def _taking(number: int) -> Any:
        """A decision that takes so many off, or refuses to."""

        def decide(day: DayUse) -> Correction:
            used = sum(cell.total.quantity for cell in day.cells if cell.key.meter == "api_calls")
            if number > used:
                raise InvalidInput("quantity", f"{used} were used")
            act = Act("ann", datetime(2024, 1, 15, tzinfo=UTC), lambda: f"audit_{used}", "a typo")
            fact = event(f"a{used}", amount=-number).fact._replace(cost_nanos=None)
            return Correction((fact,), (act.did("usage adjusted", "acme", "api_calls"),))

        return decide

    async def test_a_correction_is_decided_on_the_day_as_it_is_and_made_once(self, ledger: Ledger) -> None:
        await self._backfill(ledger, event("e1", amount=10), event("e2", at_us=NOON - DAY_US, amount=99))
        shard = shard_of("acme", SHARDS)
        for outcome in ("new", "known"):
            claim = await ledger.adjust(self._request("c1"), self._taking(7), shard=shard, now_us=NOON)
            assert claim.outcome == outcome
        claim = await ledger.adjust(self._request("c1", b"other"), self._taking(1), shard=shard, now_us=NOON)
        assert (claim.outcome, await self._used(ledger)) == ("conflict", 3 + 99)
        assert [each.action for each in await ledger.audit(tenant="acme")] == ["usage adjusted"]
        assert (await self._is_proved(ledger, 1)).facts == 3

    async def test_a_correction_that_is_refused_writes_nothing(self, ledger: Ledger) -> None:
        with pytest.raises(UnknownTenant):
            await ledger.adjust(self._request("c1"), self._taking(1), shard=0, now_us=NOON)
        await self._backfill(ledger, event("e1", amount=10))
        with pytest.raises(InvalidInput, match="10 were used"):
            await ledger.adjust(self._request("c1"), self._taking(11), shard=shard_of("acme", 4), now_us=NOON)
        assert (await self._used(ledger), await ledger.audit(tenant="acme")) == (10, [])
        claim = await ledger.adjust(self._request("c1"), self._taking(4), shard=shard_of("acme", 4), now_us=NOON)
        assert (claim.outcome, await self._used(ledger)) == ("new", 6)

    async def test_of_corrections_at_once_none_takes_what_another_took(self, ledger: Ledger) -> None:
        await self._backfill(ledger, event("e1", amount=10))
        asked = [
            ledger.adjust(self._request(f"c{n}"), self._taking(4), shard=shard_of("acme", 4), now_us=NOON)
            for n in range(4)
        ]
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, InvalidInput) for each in done].count(True) == 2
        assert await self._used(ledger) == 2

    async def test_a_correction_sees_its_tenants_day_and_month(self, ledger: Ledger) -> None:
        new = NewTenant("acme", plan="free", version=1, timezone="America/New_York", anchor_day=20, subscribed_us=0)
        await ledger.put_tenant(new, defaults=PLAN, now_us=0)
        early = NOON - 9 * 3_600_000_000
        await self._backfill(ledger, event("e1", at_us=early, amount=3), event("e2", amount=5))
        seen: list[DayUse] = []

        def decide(day: DayUse) -> Correction:
            seen.append(day)
            return Correction()

        request = self._request("c1")._replace(occurred_us=early)
        await ledger.adjust(request, decide, shard=shard_of("acme", SHARDS), now_us=NOON)
        (day,) = seen
        assert {cell.key.day for cell in day.cells} == {date(2024, 1, 14)}
        assert (day.period, day.billed, day.tenant.anchor_day) == ("2023-12", False, 20)
