"""Thousands of lost replies, time-outs and cancelled callers: nothing counts twice, and nobody gets another's reply."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.memory_ledger import MemoryLedger
from tests.e2e.callers import METERS, PLANS, Caller, FairClock, differences
from tests.redis_server import RedisServer

FAULTS: Final = int(os.environ.get("MM_FAULTS", "2000"))
SEED: Final = int(os.environ.get("MM_FAULTS_SEED", "1"))
PROCESSES: Final = 24
CALLERS: Final = 3
LATE_S: Final = 0.08
"""Longer than a decision waits."""
PAUSE_S: Final = 0.1
KINDS: Final = ("cut", "silent", "late reply", "late request")


class FaultyProxy:
    """A socket in front of the server that loses or delays some batches of takes, or the replies to them.

    cut            the reply is lost, and the connection ends
    silent         the reply is lost, and the connection stays
    late reply     it comes past the deadline
    late request   it is carried out past the deadline
    """

    def __init__(self, server: RedisServer, path: Path, rng: random.Random) -> None:
        self.url = f"unix://{path}"
        self.injected = Counter[str]()
        self.share = 0.0
        self._server = server
        self._path = path
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyProxy]:
        async with await asyncio.start_unix_server(self._accept, self._path):
            yield self
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._server.socket)
        fault = [""]
        replies = asyncio.create_task(self._pump_replies(up_reader, writer, fault))
        try:
            with contextlib.suppress(ConnectionError):
                while request := await reader.read(1 << 20):
                    fault[0] = self._fault(request) or fault[0]
                    if fault[0] == "late request":
                        await asyncio.sleep(LATE_S)
                    up_writer.write(request)
        finally:
            replies.cancel()
            for each in (writer, up_writer):
                each.close()

    @staticmethod
    async def _pump_replies(source: asyncio.StreamReader, sink: asyncio.StreamWriter, fault: list[str]) -> None:
        """Until a reply is lost: its connection is of no use any more."""
        while reply := await source.read(1 << 20):
            if fault[0] == "cut":
                sink.close()
            if fault[0] in ("cut", "silent"):
                return
            if fault[0] == "late reply":
                await asyncio.sleep(LATE_S)
            fault[0] = ""
            sink.write(reply)

    def _fault(self, request: bytes) -> str:
        if b"_apply" not in request or self._rng.random() >= self.share:
            return ""
        fault = self._rng.choice(KINDS)
        self.injected[fault] += 1
        return fault


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
        proxy = await stack.enter_async_context(FaultyProxy(redis_server, tmp_path / "proxy.sock", rng).running())
        worker = Metering(PLANS, counters=redis_server.url, ledger=ledger, clock=clock, worker="inline")
        await stack.enter_async_context(worker)
        apps = [Metering(PLANS, counters=proxy.url, ledger=ledger, clock=clock, worker="off") for _ in range(PROCESSES)]
        for app in apps:
            await stack.enter_async_context(app)
        callers = [Fickle(app, f"{n}-{k}", fair, bool) for n, app in enumerate(apps) for k in range(CALLERS)]
        proxy.share = 0.15
        tasks = [
            asyncio.create_task(caller.call_and_go(random.Random(f"{SEED} {caller.tenant}"))) for caller in callers
        ]
        while proxy.injected.total() < FAULTS // 2 or sum(caller.gone for caller in callers) < FAULTS // 2:
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in tasks), tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.share = 0.0
        for app in apps:
            await app.flush()
        print(proxy.injected, Counter(each.told for caller in callers for each in caller.answers))
        assert not await differences(callers)
