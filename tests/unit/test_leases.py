"""Even parts of the shards, by what each worker sees."""

from __future__ import annotations

import pytest

from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.backends.work import Lease
from mm_metering.worker.leases import BEAT_S, LEASE_S, Leases, next_step
from mm_metering.worker.still import Still

SHARDS = 16


class Village:
    """Workers on one ledger, each with a clock of its own that no other knows."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.workers: dict[str, Leases] = {}
        self.now_s = 0.0

    def join(self, *names: str) -> None:
        for name in names:
            self.workers[name] = Leases(self.ledger, worker=name, shards=SHARDS)

    async def live(self, beats: int, *, without: str = "") -> None:
        for _ in range(beats):
            self.now_s += BEAT_S
            for number, (name, leases) in enumerate(self.workers.items()):
                if name != without:
                    await leases.beat(self.now_s + 1000.0 * number)

    def parts(self, *, without: str = "") -> list[int]:
        """How many shards each has. Nobody has one that another has, and nobody has none that are free."""
        held = [leases.held for name, leases in self.workers.items() if name != without]
        assert sum(map(len, held)) == len(frozenset[int]().union(*held)) == SHARDS
        return sorted(map(len, held))


@pytest.fixture
def village() -> Village:
    return Village()


async def test_a_first_worker_has_all_shards_at_once(village: Village) -> None:
    village.join("a")
    await village.live(1)
    assert village.parts() == [16]


async def test_workers_that_come_have_even_parts_within_two_beats(village: Village) -> None:
    for names, parts in ((("a",), [16]), (("b",), [8, 8]), (("c",), [5, 5, 6]), (("d", "e"), [3, 3, 3, 3, 4])):
        village.join(*names)
        await village.live(3)
        assert village.parts() == parts


async def test_what_is_held_stays_while_nobody_comes_or_goes(village: Village) -> None:
    village.join("a", "b", "c")
    await village.live(3)
    before = {name: leases.held for name, leases in village.workers.items()}
    await village.live(20)
    assert {name: leases.held for name, leases in village.workers.items()} == before


async def test_a_worker_that_leaves_is_followed_at_the_next_beat(village: Village) -> None:
    village.join("a", "b", "c")
    await village.live(3)
    await village.workers.pop("b").give_back()
    await village.live(1)
    assert village.parts() == [8, 8]


async def test_a_worker_that_is_killed_loses_its_shards_after_the_lease(village: Village) -> None:
    village.join("a", "b", "c")
    await village.live(3)
    await village.live(int(LEASE_S / BEAT_S), without="b")
    assert sum(len(village.workers[name].held) for name in ("a", "c")) < SHARDS, "not sooner"
    await village.live(2, without="b")
    assert village.parts(without="b") == [8, 8]
    leases = await village.ledger.hold("nobody")
    assert {lease.owner for lease in leases} == {"a", "c"}, "and nothing is left of it"


async def test_a_worker_that_stood_still_itself_takes_nobody_for_dead(village: Village) -> None:
    village.join("a", "b")
    await village.live(3)
    await village.live(2 * int(LEASE_S), without="a")
    assert village.parts(without="a") == [16]
    await village.live(3)
    assert village.parts() == [8, 8]


async def test_a_ledger_that_was_away_leaves_all_as_it_was(village: Village) -> None:
    village.join("a", "b")
    await village.live(3)
    before = [leases.held for leases in village.workers.values()]
    village.now_s += 10 * LEASE_S
    await village.live(1)
    assert [leases.held for leases in village.workers.values()] == before


def test_more_workers_than_shards_leave_some_without() -> None:
    leases = [Lease(f"worker:{name}", name, 1) for name in "abc"]
    steps = [next_step(name, 2, leases, gone=lambda _: False) for name in "abc"]
    assert [len(step.take) for step in steps] == [2 // 3 + 1, 1, 0]


def test_standing_still_is_counted_from_the_first_look_at_a_value() -> None:
    still: Still[str, int] = Still(gap_s=2)
    still.look({"a": 1}, 0.0)
    still.look({"a": 1, "b": 1}, 2.0)
    assert (still.for_s("a"), still.for_s("b"), still.for_s("c")) == (2.0, 0.0, 0.0)
    still.look({"a": 2, "b": 1}, 3.0)
    assert (still.for_s("a"), still.for_s("b")) == (0.0, 1.0)
    still.look({"b": 1}, 5.1)
    assert still.for_s("b") == 0.0, "nobody looked for longer than the gap"
