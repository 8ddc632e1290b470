"""Reads of tenants that many callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from mm_metering.backends.counters import START
from mm_metering.backends.ledger import MAX_SNAPSHOTS, ShardRow, Snapshot
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.snapshots import Snapshots


class Reads:
    """A ledger whose reads end when they are told to. The n-th one sees the shard at generation n."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.ends: list[asyncio.Future[None]] = []
        self.begun = asyncio.Event()

    async def __call__(self, tenants: Sequence[str]) -> Mapping[str, Snapshot]:
        self.asked.append(tuple(tenants))
        row = ShardRow(len(self.asked), START, 0)
        self.ends.append(asyncio.get_running_loop().create_future())
        self.begun.set()
        await self.ends[-1]
        return {tenant: Snapshot(row, None, (), {}, ()) for tenant in tenants}

    async def next(self) -> asyncio.Future[None]:
        """The end of the next read, which has begun."""
        async with asyncio.timeout(10):
            await self.begun.wait()
        self.begun.clear()
        return self.ends[-1]


def ask(snapshots: Snapshots, *tenants: str) -> list[asyncio.Task[Snapshot]]:
    return [asyncio.create_task(snapshots.of(tenant)) for tenant in tenants]


async def generations(tasks: Sequence[asyncio.Task[Snapshot]]) -> list[int]:
    return [(await task).shard.generation for task in tasks]


async def test_all_that_wait_share_a_read_and_none_gets_one_that_began_before_it_asked() -> None:
    reads = Reads()
    snapshots = Snapshots(reads, patience_s=10)
    early = ask(snapshots, "a", "b", "a")
    first = await reads.next()
    late = ask(snapshots, "a", "c")
    await asyncio.sleep(0)
    first.set_result(None)
    (await reads.next()).set_result(None)
    assert await generations(early) == [1, 1, 1]
    assert await generations(late) == [2, 2]
    assert reads.asked == [("a", "b"), ("a", "c")]


async def test_a_read_is_bounded_and_the_first_come_first() -> None:
    reads = Reads()
    names = [f"t{number}" for number in range(MAX_SNAPSHOTS + 1)]
    tasks = ask(Snapshots(reads, patience_s=10), *names)
    (await reads.next()).set_result(None)
    (await reads.next()).set_result(None)
    assert await generations(tasks) == [1] * MAX_SNAPSHOTS + [2]
    assert reads.asked[1] == (names[-1],)


async def test_a_cancelled_caller_changes_nothing_for_the_others() -> None:
    reads = Reads()
    snapshots = Snapshots(reads, patience_s=10)
    gone, stays = ask(snapshots, "a", "a")
    first = await reads.next()
    later, never = ask(snapshots, "b", "c")
    await asyncio.sleep(0)
    gone.cancel()
    never.cancel()
    await asyncio.gather(gone, never, return_exceptions=True)
    first.set_result(None)
    (await reads.next()).set_result(None)
    assert await generations([stays, later]) == [1, 2]
    assert reads.asked == [("a",), ("b",)], "what nobody waits for is not read"


async def test_a_failed_read_fails_its_callers_and_the_next_one_runs() -> None:
    reads = Reads()
    snapshots = Snapshots(reads, patience_s=10)
    early = ask(snapshots, "a", "b")
    first = await reads.next()
    late = ask(snapshots, "c")
    await asyncio.sleep(0)
    first.set_exception(StoreUnavailable("ledger: connection refused"))
    (await reads.next()).set_result(None)
    found = await asyncio.gather(*early, return_exceptions=True)
    assert [type(error) for error in found] == [StoreUnavailable] * 2
    assert await generations(late) == [2]


async def test_a_read_that_hangs_ends_with_the_patience() -> None:
    reads = Reads()
    snapshots = Snapshots(reads, patience_s=0.01)
    with pytest.raises(TimeoutError):
        await snapshots.of("a")
    again = ask(snapshots, "a")
    await reads.next()
    (reads.ends[-1] if len(reads.asked) == 2 else await reads.next()).set_result(None)
    assert await generations(again) == [2]
