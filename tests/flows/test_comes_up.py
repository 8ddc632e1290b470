"""A lane that was down asks until it knows how things stand, also when it has nothing to send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from mm_metering.backends.counters import Answer, Batch
from mm_metering.backends.memory import MemoryCounters
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.generations import certify


async def test_a_quiet_lane_comes_up_in_a_new_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    counters, ledger = MemoryCounters(), MemoryLedger()
    lane = Lane(0, counters, ledger, now_us=lambda: time.time_ns() // 1000, process="p", timing=Timing())
    lane.start()
    assert await lane.settled(within_s=10)

    async def lost(_shard: int, _batch: Batch) -> Answer:
        raise StoreUnavailable("counters: the server is gone")

    with monkeypatch.context() as outage:
        outage.setattr(counters, "apply", lost)
        lane._ask()
        await _until(lambda: lane.down)
        await certify(counters, ledger, 0, seen=lane.generation)
    await _until(lambda: lane.is_up)
    await lane.aclose()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of the lane's own flusher
            await asyncio.sleep(0.01)
