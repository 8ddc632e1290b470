"""Thousands of lost replies, time-outs and cancelled callers: nothing counts twice, and nobody gets another's reply."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.memory_ledger import MemoryLedger
from tests.chaos.proxy import KINDS, Proxy
from tests.e2e.callers import METERS, PLANS, Caller, FairClock, differences
from tests.redis_server import RedisServer

FAULTS: Final = int(os.environ.get("MM_FAULTS", "2000"))
SEED: Final = int(os.environ.get("MM_FAULTS_SEED", "1"))
PROCESSES: Final = 24
CALLERS: Final = 3
PAUSE_S: Final = 0.1
SHARE: Final = 0.15
"""How many batches of takes meet a fault."""


class Fickle(Caller):
    """A caller that goes away in the middle of some of its takes. It was not told yes then, so it must not pay."""

    gone = 0

    async def call_and_go(self, rng: random.Random) -> None:
        while True:
            for meter in METERS:
                if rng.random() < 0.5:
                    await self.take(meter)
                else:
                    await self._go_away(meter, rng)
                await asyncio.sleep(rng.uniform(0, PAUSE_S))

    async def _go_away(self, meter: str, rng: random.Random) -> None:
        take = asyncio.create_task(self._told(meter))
        for _ in range(rng.choice((0, 1, 2, 5, rng.randrange(60)))):
            if not take.done():
                await asyncio.sleep(0)
        take.cancel()
        await asyncio.wait((take,))
        self.gone += take.cancelled()


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(60 + FAULTS // 20)
@pytest.mark.usefixtures("quiet")
async def test_lost_replies_time_outs_and_callers_that_go_away(redis_server: RedisServer, tmp_path: Path) -> None:
    """Each Metering is a process of its own to the counters. Each caller has a tenant of its own: the count in each
    answer must be its own count."""
    rng, ledger, clock = random.Random(SEED), MemoryLedger(), FrozenClock("2024-01-15T12:00:00Z")
    async with AsyncExitStack() as stack:
        fair = stack.enter_context(FairClock.ticking())
        share = [0.0]

        def choose(request: bytes) -> str:
            return rng.choice(KINDS) if b"_apply" in request and rng.random() < share[0] else ""

        front = tmp_path / "proxy.sock"
        proxy = await stack.enter_async_context(Proxy(redis_server.socket, choose=choose).listening(front))
        worker = Metering(PLANS, counters=redis_server.url, ledger=ledger, clock=clock, worker="inline")
        await stack.enter_async_context(worker)
        apps = [
            Metering(PLANS, counters=f"unix://{front}", ledger=ledger, clock=clock, worker="off")
            for _ in range(PROCESSES)
        ]
        for app in apps:
            await stack.enter_async_context(app)
        callers = [Fickle(app, f"{n}-{k}", fair, bool) for n, app in enumerate(apps) for k in range(CALLERS)]
        share[0] = SHARE
        tasks = [
            asyncio.create_task(caller.call_and_go(random.Random(f"{SEED} {caller.tenant}"))) for caller in callers
        ]
        while proxy.injected.total() < FAULTS // 2 or sum(caller.gone for caller in callers) < FAULTS // 2:
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in tasks), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        share[0] = 0.0
        for app in apps:
            await app.flush()
        print(proxy.injected, Counter(each.told for caller in callers for each in caller.answers))
        assert not await differences(callers)
