"""What an AI call costs on the wire: reserving and settling are one round trip each, shared with all others."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.ai.asking import asked
from mm_metering.ai.holding import OpenCall
from mm_metering.gate.coalesce import POLL_S
from tests.e2e.ai_plans import MODEL
from tests.e2e.streamers import PLANS, READ
from tests.e2e.told import NOW, PATIENT
from tests.redis_server import RedisServer

MANY: Final = 64


@pytest.fixture
async def metering(redis_server: RedisServer) -> AsyncIterator[Metering]:
    """The tenant is loaded, and so is everything else that only the first call needs."""
    options = {"counters": redis_server.url, "clock": FrozenClock(NOW), "worker": "off", "timing": PATIENT}
    async with Metering(PLANS, **options) as metering:  # type: ignore[arg-type]
        await settle(metering, await reserve(metering))
        yield metering


async def reserve(metering: Metering) -> OpenCall:
    return await metering.ai.holding.open(asked("acme", MODEL, input_tokens=READ, max_output_tokens=100))


async def settle(metering: Metering, opened: OpenCall) -> None:
    opened.call.settle(input_tokens=READ, output_tokens=1)
    await metering.ai.holding.write(opened)


class Calls:
    """Calls that the server took since the last look, without those by which the journal asks now and then how far
    the ledger is."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._began_s = time.monotonic()
        self._seen = self._count()

    def _count(self) -> int:
        found = re.search(rb"cmdstat_fcall:calls=(\d+)", self._server.command("INFO", "commandstats"))
        assert found is not None
        return int(found[1])

    def since(self) -> range:
        """As many as these at least, and at most."""
        began_s, seen = self._began_s, self._seen
        self._began_s, self._seen = time.monotonic(), self._count()
        asked = int((self._began_s - began_s) / POLL_S) + 1
        calls = self._seen - seen
        return range(calls - asked, calls + 1)


async def test_one_after_another_each_takes_one_round_trip(metering: Metering, redis_server: RedisServer) -> None:
    calls = Calls(redis_server)
    opened = [await reserve(metering) for _ in range(MANY)]
    assert MANY in calls.since()
    for each in opened:
        await settle(metering, each)
    assert MANY in calls.since()


async def test_at_once_they_share_theirs_with_each_other_and_with_other_takes(
    metering: Metering, redis_server: RedisServer
) -> None:
    """The first may go alone; all that come meanwhile go together."""
    calls = Calls(redis_server)
    opened = await asyncio.gather(*(reserve(metering) for _ in range(MANY)))
    assert calls.since().start <= 2
    await asyncio.gather(*(settle(metering, each) for each in opened))
    assert calls.since().start <= 2
    mixed = [[reserve(metering), metering.enforce_quota("acme", "ai_tokens")] for _ in range(MANY)]
    await asyncio.gather(*(work for pair in mixed for work in pair))
    assert calls.since().start <= 2
