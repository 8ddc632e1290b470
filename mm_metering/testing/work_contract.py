"""The law of ``Work``, and of dead letters in ``fold``, as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import pytest

from mm_metering.backends.counters import START
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.work import DEAD_LETTERS, DeadLetter, Lease, Run
from mm_metering.core.facts import Fact
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import Unstorable

LETTER: Final = DeadLetter(0, 1, "1-0", 0, b"\x00 no fact \xff", "not a fact", 7)

POISON: Final[Mapping[str, Mapping[str, Any]]] = {
    "a number beyond 64 bits": {"quantity": 2**63},
    "a cost beyond 64 bits": {"cost_nanos": -(2**63) - 1},
    "an instant without a day": {"occurred_us": 2**62},
    "NUL": {"resource": "a\0b"},
    "a lone surrogate": {"id": "\ud800"},
    "an endless id": {"id": "".join(map(str, range(40_000)))},
}
"""Values that one ledger or another cannot hold."""


class WorkContract:
    """Each test quotes one law."""

    # -- dead letters -------------------------------------------------------------------------------------------------

    async def test_dead_letters_are_kept_as_they_came_with_the_fold_that_passes_them(self, ledger: Ledger) -> None:
        letters = [LETTER, LETTER._replace(number=1, line=b""), LETTER._replace(position="1-1")]
        assert not await fold(ledger, before="9-0", dead=letters)
        assert (await ledger.dead_letters(), await ledger.open_alerts()) == ([], [])
        assert await fold(ledger, dead=letters)
        assert await ledger.dead_letters() == letters
        assert await ledger.count_dead_letters() == 3
        assert await ledger.dead_letters(after=letters[0].key, limit=1) == letters[1:2]

    async def test_a_dead_letter_is_written_once_and_opens_one_alert_per_shard(self, ledger: Ledger) -> None:
        await fold(ledger, dead=[LETTER])
        await fold(ledger, before="1-0", after="2-0", dead=[LETTER._replace(reason="later"), LETTER._replace(number=5)])
        await fold(ledger, shard=3, dead=[LETTER._replace(shard=3, stored_us=9)])
        assert await ledger.dead_letters() == [LETTER, LETTER._replace(number=5), LETTER._replace(shard=3, stored_us=9)]
        found = [(each.kind, each.subject, each.opened_us, each.closed_us) for each in await ledger.open_alerts()]
        assert found == [(DEAD_LETTERS, "0", 7, None), (DEAD_LETTERS, "3", 9, None)]

    async def test_the_last_dead_letter_of_a_shard_takes_its_alert_along(self, ledger: Ledger) -> None:
        other = LETTER._replace(number=1)
        await fold(ledger, dead=[LETTER, other])
        await ledger.remove_dead_letters([LETTER.key, LETTER._replace(number=77).key], now_us=8)
        assert len(await ledger.open_alerts()) == 1
        await ledger.remove_dead_letters([other.key], now_us=8)
        assert (await ledger.dead_letters(), await ledger.open_alerts()) == ([], [])
        await fold(ledger, before="1-0", after="2-0", dead=[LETTER])
        assert [alert.subject for alert in await ledger.open_alerts()] == ["0"], "it opens again, also at the same time"

    @pytest.mark.parametrize("name", POISON)
    async def test_a_fact_that_does_not_fit_is_named_and_keeps_no_other_out(self, ledger: Ledger, name: str) -> None:
        good = [use(f"f{number}") for number in range(9)]
        one, other = (good[0]._replace(**{"id": poisoned, **POISON[name]}) for poisoned in ("p", "q"))
        given = [*good[:4], one, *good[4:], other]
        facts, refused = list(given), dict[int, str]()
        try:
            assert await fold(ledger, facts=given)
        except Unstorable as error:
            refused = {**error.facts}
            assert await ledger.shard(0) == (0, START, 0), "nothing was written"
            assert await ledger.cells("acme", first=date(2020, 1, 1), last=date(2030, 1, 1)) == []
            facts = [fact for number, fact in enumerate(given) if number not in refused]
            assert await fold(ledger, facts=facts)
        assert set(refused) <= {4, 10}
        assert all(refused.values())
        kept = await ledger.facts("acme", after=(0, ""), limit=100)
        assert {fact.id for fact in kept} >= {fact.id for fact in good}
        assert len(kept) == len({fact.id for fact in facts})

    # -- alerts -------------------------------------------------------------------------------------------------------

    async def test_one_alert_of_a_kind_and_subject_is_open(self, ledger: Ledger) -> None:
        assert await ledger.raise_alert("quota", "acme", detail="80 %", now_us=5)
        assert not await ledger.raise_alert("quota", "acme", detail="90 %", now_us=6)
        assert await ledger.raise_alert("quota", "beta", detail="80 %", now_us=6)
        assert await ledger.raise_alert("job", "acme", detail="", now_us=6)
        opened = await ledger.open_alerts()
        assert [(alert.kind, alert.subject) for alert in opened] == [
            ("job", "acme"),
            ("quota", "acme"),
            ("quota", "beta"),
        ]
        assert opened[1] == ("quota", "acme", 5, None, "80 %")
        assert await ledger.open_alerts(after=("job", "acme"), limit=1) == opened[1:2]
        assert await ledger.close_alert("quota", "acme", now_us=7)
        assert not await ledger.close_alert("quota", "acme", now_us=8)
        assert await ledger.raise_alert("quota", "acme", detail="again", now_us=5)
        assert (await ledger.open_alerts())[1].detail == "again"

    async def test_of_many_that_raise_an_alert_at_once_one_does(self, ledger: Ledger) -> None:
        raised = await asyncio.gather(*(ledger.raise_alert("k", "s", detail=str(n), now_us=n) for n in range(6)))
        assert sorted(raised) == [False] * 5 + [True]
        assert len(await ledger.open_alerts()) == 1

    # -- leases -------------------------------------------------------------------------------------------------------

    async def test_a_lease_beats_while_its_owner_holds(self, ledger: Ledger) -> None:
        assert await ledger.hold("a", take=[Lease("x", "", 0), Lease("y", "", 0)]) == [("x", "a", 1), ("y", "a", 1)]
        assert await ledger.hold("b", take=[Lease("x", "", 0)]) == [("x", "a", 1), ("y", "a", 1)], "it is there"
        assert await ledger.hold("a") == [("x", "a", 2), ("y", "a", 2)]

    async def test_a_lease_is_taken_over_only_as_it_was_seen(self, ledger: Ledger) -> None:
        (seen,) = await ledger.hold("a", take=[Lease("x", "", 0)])
        await ledger.hold("a")
        assert await ledger.hold("b", take=[seen]) == [("x", "a", 2)]
        assert await ledger.hold("b", take=[Lease("x", "a", 2)]) == [("x", "b", 3)]
        assert await ledger.hold("a") == [("x", "b", 3)], "who lost it beats no longer"

    async def test_a_lease_is_dropped_only_as_it_was_seen(self, ledger: Ledger) -> None:
        await ledger.hold("a", take=[Lease("x", "", 0)])
        assert await ledger.hold("a", drop=[Lease("x", "a", 9), Lease("z", "a", 1)]) == [("x", "a", 2)]
        assert await ledger.hold("b", drop=[Lease("x", "a", 2)], take=[Lease("x", "", 0)]) == [("x", "b", 1)]

    async def test_of_many_that_take_a_lease_at_once_one_has_it(self, ledger: Ledger) -> None:
        await asyncio.gather(*(ledger.hold(str(n), take=[Lease("x", "", 0), Lease("y", "", 0)]) for n in range(6)))
        assert [lease.name for lease in await ledger.hold("nobody")] == ["x", "y"]

    # -- runs ---------------------------------------------------------------------------------------------------------

    async def test_a_run_is_changed_only_as_it_was_seen(self, ledger: Ledger) -> None:
        absent = Run("j", 60)
        first = absent._replace(state="running", fence=1, owner="a", tries=1, started_us=61)
        assert await ledger.put_run(first, instead_of=absent)
        assert not await ledger.put_run(first._replace(owner="b"), instead_of=absent)
        (stands,) = await ledger.runs("j", until_us=99, limit=9)
        assert stands == first._replace(beat=1)
        assert await ledger.put_run(stands, instead_of=stands)
        assert not await ledger.put_run(stands, instead_of=stands), "the beat has risen since"
        taken = stands._replace(fence=2, owner="b")
        assert await ledger.put_run(taken, instead_of=stands._replace(beat=2))
        late = stands._replace(state="done", finished_us=99, beat=3)
        assert not await ledger.put_run(late, instead_of=stands._replace(beat=3)), "a finish under an old fence"
        assert await ledger.runs("j", until_us=99, limit=9) == [taken._replace(beat=3)]

    async def test_of_many_that_claim_a_run_at_once_one_has_it(self, ledger: Ledger) -> None:
        absent = Run("j", 60)
        claims = (ledger.put_run(absent._replace(fence=1, owner=str(n)), instead_of=absent) for n in range(6))
        assert sorted(await asyncio.gather(*claims)) == [False] * 5 + [True]

    async def test_runs_are_read_newest_first_and_forgotten_but_for_the_newest(self, ledger: Ledger) -> None:
        for job, periods in {"j": (1, 2, 3), "k": (2,)}.items():
            for period in periods:
                run = Run(job, period, "done", 1, error="e" if period == 2 else None, finished_us=5)
                assert await ledger.put_run(run, instead_of=Run(job, period))
        assert [run.period_us for run in await ledger.runs("j", until_us=99, limit=2)] == [3, 2]
        assert [run.error for run in await ledger.runs("j", until_us=99, limit=2)] == [None, "e"]
        assert [run.period_us for run in await ledger.runs("j", until_us=2, limit=1)] == [2]
        assert await ledger.forget_runs(before_us=3) == 2
        assert [run.period_us for run in await ledger.runs("j", until_us=99, limit=9)] == [3]
        assert [run.period_us for run in await ledger.runs("k", until_us=99, limit=9)] == [2]


def use(fact_id: str) -> Fact:
    return Fact(fact_id, 1_705_320_000_000_000, "use", "acme", "api_call", "/v1/items", 1, None, ())


async def fold(
    ledger: Ledger,
    *,
    shard: int = 0,
    before: str = START,
    after: str = "1-0",
    facts: Sequence[Fact] = (),
    dead: Sequence[DeadLetter] = (),
) -> bool:
    defaults = TenantDefaults(plan="free", version=1, timezone="UTC")
    place: dict[str, Any] = {"generation": 1, "before": before, "after": after}
    return await ledger.fold(shard, **place, facts=facts, defaults=defaults, dead=dead)
