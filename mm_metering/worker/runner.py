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
    """Drains every shard until ``stop`` is set; a store that does not answer is asked again."""

    def __init__(self, drain: Drain, *, shards: int, stop: asyncio.Event | None = None) -> None:
        self._drain = drain
        self._shards = shards
        self._stop = stop or asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        """Runs until it is told to stop and has folded what is there, or what a store that answers has; or until it
        is cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                group.create_task(self._run_shard(shard))

    async def _run_shard(self, shard: int) -> None:
        while True:
            stopping, more, pause_s = self._stop.is_set(), False, IDLE_S
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
                await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def aclose(self) -> None:
        """Stops at once; what was not folded stays in the stream."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
