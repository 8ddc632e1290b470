"""The worker: inline in a host's lifespan, or a process of its own."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from mm_metering.errors import MeteringError
from mm_metering.worker.drain import Drain

log = logging.getLogger("mm_metering.worker")

IDLE_S: Final = 0.05
RETRY_S: Final = 0.5


class Worker:
    """Drains every shard until it is told to stop; a store that does not answer is asked again."""

    def __init__(self, drain: Drain, *, shards: int) -> None:
        self._drain = drain
        self._shards = shards
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.run(asyncio.Event()))

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set and it has folded what is there, or what a store that answers has; or until it
        is cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                group.create_task(self._run_shard(shard, stop))

    async def _run_shard(self, shard: int, stop: asyncio.Event) -> None:
        while True:
            stopping, more, pause_s = stop.is_set(), False, IDLE_S
            try:
                more = await self._drain(shard)
            except MeteringError as error:
                log.warning("shard %d waits: %s", shard, error)
                pause_s = RETRY_S
            except Exception:
                log.exception("shard %d: the drain met a bug and goes on", shard)
                pause_s = RETRY_S
            if not more:
                if stopping:
                    return
                await _pause(stop, pause_s)

    async def aclose(self) -> None:
        """Stops at once, also from another event loop than it was started on; what was not folded stays in the
        stream."""
        task, self._task = self._task, None
        if task is None:
            return
        loop = task.get_loop()
        if loop is asyncio.get_running_loop():
            await _end(task)
        elif loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_end(task), loop))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
