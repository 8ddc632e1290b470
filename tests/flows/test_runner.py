"""What a worker drains: its own shards, for as long as it can. On virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mm_metering.backends.memory import MemoryCounters
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import StoreUnavailable
from mm_metering.worker.drain import Drain
from mm_metering.worker.jobs import Jobs
from mm_metering.worker.leases import LEASE_S, Leases
from mm_metering.worker.reconcile import Reconciling
from mm_metering.worker.runner import Worker
from tests.sim.loop import run as simulated

SHARDS = 4


class Idle(Reconciling):
    def __init__(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


class Watched(Drain):
    """Counts what it is asked; ``error`` is what its counters come to."""

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__(MemoryCounters(shards=SHARDS), ledger, lambda: TenantDefaults("", 0, "UTC"))
        self.asked: Counter[int] = Counter()
        self.error: Exception | None = None

    async def __call__(self, shard: int) -> bool:
        self.asked[shard] += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return False


class Pair:
    """Two workers that run on one ledger."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.stop = asyncio.Event()
        self.drains = [Watched(self.ledger), Watched(self.ledger)]
        self.workers = [self._worker(name, drain) for name, drain in zip("ab", self.drains, strict=True)]
        self.running = [asyncio.create_task(worker.run(self.stop)) for worker in self.workers]

    def _worker(self, name: str, drain: Drain) -> Worker:
        leases = Leases(self.ledger, worker=name, shards=SHARDS)
        jobs = Jobs(self.ledger, (), worker=name, now_us=lambda: 0)
        return Worker(drain, leases, jobs, Idle(), shards=SHARDS)

    @property
    def parts(self) -> list[int]:
        leases = [lease for lease in self.ledger._leases.values() if lease.name.startswith("shard:")]
        return [sum(lease.owner == name for lease in leases) for name in "ab"]

    async def end(self) -> None:
        self.stop.set()
        await asyncio.gather(*self.running)
        assert self.ledger._leases == {}, "all is given back"


def on_virtual_time(test: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await test(Pair())

    simulated(7, main())


def test_a_worker_asks_after_its_own_shards_alone_and_at_its_end_after_all() -> None:
    async def test(pair: Pair) -> None:
        await asyncio.sleep(10)
        for drain in pair.drains:
            drain.asked.clear()
        await asyncio.sleep(10)
        assert [len(drain.asked) for drain in pair.drains] == [2, 2]
        assert not pair.drains[0].asked.keys() & pair.drains[1].asked.keys()
        await pair.end()
        assert [len(drain.asked) for drain in pair.drains] == [SHARDS, SHARDS]

    on_virtual_time(test)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError("a bug")])
def test_a_worker_that_can_fold_nothing_leaves_its_shards_to_others_until_it_can(error: Exception) -> None:
    async def test(pair: Pair) -> None:
        await asyncio.sleep(5)
        assert pair.parts == [2, 2]
        pair.drains[0].error = error
        await asyncio.sleep(LEASE_S + 3)
        assert pair.parts == [0, SHARDS]
        before = pair.drains[0].asked.total()
        await asyncio.sleep(10)
        assert pair.drains[0].asked.total() > before, "it goes on trying"
        pair.drains[0].error = None
        await asyncio.sleep(4)
        assert pair.parts == [2, 2]
        await pair.end()

    on_virtual_time(test)


def test_where_nobody_can_fold_all_go_on_trying() -> None:
    async def test(pair: Pair) -> None:
        await asyncio.sleep(5)
        for drain in pair.drains:
            drain.error = StoreUnavailable("away")
        await asyncio.sleep(60)
        for drain in pair.drains:
            drain.asked.clear()
            drain.error = None
        await asyncio.sleep(4)
        assert {*pair.drains[0].asked, *pair.drains[1].asked} == set(range(SHARDS))
        assert pair.parts == [2, 2]
        await pair.end()

    on_virtual_time(test)
