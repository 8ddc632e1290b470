"""Three processes of 128 streams each, on one budget: never a nano-unit over it, and all of it can be used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Final, NamedTuple

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.gate.admission import Candidate, Share
from mm_metering.testing import assert_conserved
from tests.e2e.ai_plans import MODEL
from tests.e2e.streamers import BUDGET_NANOS, PLANS, run
from tests.e2e.told import NOW, PATIENT
from tests.forks import forks
from tests.redis_server import RedisServer

ROUNDS: Final = int(os.environ.get("MM_AI_STREAMS", "2"))
PROCESSES: Final = 3
STREAMS: Final = 128
USABLE: Final = 0.99
LOOK_S: Final = 0.002

context: Final = forks()


class Came(NamedTuple):
    """What all processes of a round did. ``nanos`` is what the model used."""

    calls: int
    nanos: int
    busy: int


class Streamers:
    """The processes of ``streamers.py``, ready."""

    def __init__(self, stores: dict[str, str]) -> None:
        self.processes, self._orders = list[ForkServerProcess](), list[Connection]()
        for _ in range(PROCESSES):
            own, theirs = context.Pipe()
            self.processes.append(context.Process(target=run, args=(theirs, stores, STREAMS), daemon=True))
            self.processes[-1].start()
            theirs.close()
            self._orders.append(own)
        for orders in self._orders:
            assert orders.recv() is None

    def exhaust(self, way: str, name: str) -> Came:
        """Until no call is let in any more."""
        for orders in self._orders:
            orders.send((way, name))
        return Came(*map(sum, zip(*(orders.recv() for orders in self._orders), strict=True)))

    def end(self) -> list[int | None]:
        for orders in self._orders:
            orders.close()
        for process in self.processes:
            process.join(30)
        return [process.exitcode for process in self.processes]


@pytest.fixture
def stores(own_server: RedisServer, tmp_path: Any) -> dict[str, str]:
    return {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}


@pytest.fixture
def streamers(stores: dict[str, str]) -> Iterator[Streamers]:
    streamers = Streamers(stores)
    try:
        yield streamers
        assert streamers.end() == [0] * PROCESSES
    finally:
        for process in streamers.processes:
            process.kill()
            process.join()


class Watch:
    """Looks at a tenant's budget all the time: the most that was spent, and that was spent and held."""

    def __init__(self, metering: Metering, tenant: str) -> None:
        self._metering = metering
        self._tenant = tenant
        self.looks = self.spent = self.taken = 0

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> tuple[int, int]:
        """What is spent, and what is held, at one instant."""
        looked = await self._metering.gate.look(self._tenant, Candidate("ai_call", MODEL, (Share("ai_cost", 0, 0),)))
        spent, held = (int(each * 10**9) for each in (looked.decisions[0].used, looked.decisions[0].reserved))
        self.looks += 1
        self.spent, self.taken = max(self.spent, spent), max(self.taken, spent + held)
        return spent, held


@pytest.mark.timeout(60 + 30 * ROUNDS)
async def test_streams_of_three_processes_never_overshoot_a_budget_and_can_use_all_of_it(
    stores: dict[str, str], streamers: Streamers, capsys: pytest.CaptureFixture[str]
) -> None:
    tenants, rows = [f"round-{number}" for number in range(ROUNDS)], []
    options: dict[str, Any] = {**stores, "clock": FrozenClock(NOW), "worker": "off", "timing": PATIENT}
    async with Metering(PLANS, **options) as metering:
        for tenant in tenants:
            watch = Watch(metering, tenant)
            task = asyncio.create_task(watch.run())
            came = await asyncio.to_thread(streamers.exhaust, "reserved", tenant)
            task.cancel()
            spent, held = await watch.look()
            assert watch.taken <= BUDGET_NANOS, "spent and held, at every instant"
            assert (spent, held) == (came.nanos, 0), "what the model used is what is charged"
            assert spent >= USABLE * BUDGET_NANOS
            post_hoc = await asyncio.to_thread(streamers.exhaust, "post-hoc", tenant)
            assert post_hoc.nanos > BUDGET_NANOS, "the same load does overshoot a counter"
            rows.append((came, watch, post_hoc))
        await assert_conserved(metering)
        for tenant, (came, _, _) in zip(tenants, rows, strict=True):
            stats = await metering.ai.get_usage_stats(tenant, NOW[:10], NOW[:10])
            assert (stats.request_count, int(stats.total_cost * 10**9)) == (came.calls, came.nanos)
        assert (await metering.prove()).holds
    with capsys.disabled():
        print(f"\n{told(rows)}")


def told(rows: list[tuple[Came, Watch, Came]]) -> str:
    calls, busy = (sum(each) for each in zip(*((came.calls, came.busy) for came, _, _ in rows), strict=True))
    looks, most = sum(watch.looks for _, watch, _ in rows), max(watch.spent for _, watch, _ in rows)
    used = [came.nanos / BUDGET_NANOS for came, _, _ in rows]
    over = [came.nanos / BUDGET_NANOS - 1 for _, _, came in rows]
    return (
        f"{len(rows)} rounds of {PROCESSES} x {STREAMS} streams, {calls:,} calls, {busy:,} told to wait: overshoot "
        f"{max(0, most / BUDGET_NANOS - 1):.2%} in {looks:,} looks, used {min(used):.2%} to {max(used):.2%} of the "
        f"budget; a post-hoc counter overshoots by {min(over):.1%} to {max(over):.1%}"
    )
