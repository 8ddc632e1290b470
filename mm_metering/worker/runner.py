"""The worker: inline in a host's lifespan, or a process of its own."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final, Protocol

from mm_metering.errors import MeteringError
from mm_metering.webhooks.dispatcher import Dispatcher
from mm_metering.worker.drain import Drain, Seen
from mm_metering.worker.jobs import Jobs
from mm_metering.worker.leases import BEAT_S, LEASE_S, Leases
from mm_metering.worker.reconcile import Reconciling

log: Final = logging.getLogger("mm_metering.worker")

IDLE_S: Final = 0.05
RETRY_S: Final = 0.5
GIVE_BACK_S: Final = 1.0


class Beside(Protocol):
    """What goes on beside the drain."""

    async def run(self) -> None:
        """Until it is cancelled."""
        ...


class Worker:
    """Drains the shards it has leases of, runs periodic jobs, reconciles the counters of tenants whose usage it folded,
    tells of what that came to, and sends webhooks, until it is told to stop; a store that does not answer is asked
    again."""

    def __init__(
        self,
        drain: Drain,
        leases: Leases,
        jobs: Jobs,
        reconciling: Reconciling,
        *,
        shards: int,
        alerts: Beside | None = None,
        webhooks: Dispatcher | None = None,
    ) -> None:
        self.beat_s: float | None = None
        """When it last came round to its leases, by its event loop's clock."""
        self.leases = leases
        self.reconciling = reconciling
        self.webhooks = webhooks
        self._drain = drain
        self._jobs = jobs
        self._alerts = alerts
        self._shards = shards
        self._draining: dict[int, asyncio.Task[None]] = {}
        self.failing: dict[int, float] = {}
        """Since when each shard could not be folded."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.run(asyncio.Event()))

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop`` is set and it has folded what is there in every shard, whoever's, or what a store that
        answers has; or until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            parts = (self._jobs, self.reconciling, self._alerts, self.webhooks)
            besides = [group.create_task(each.run()) for each in parts if each is not None]
            while not stop.is_set():
                await self._beat()
                self._draining = {shard: task for shard, task in self._draining.items() if not task.done()}
                for shard in self.leases.held - self._draining.keys():
                    self._drain.done.shards[shard] = Seen(asyncio.get_running_loop().time())
                    self._draining[shard] = group.create_task(self._run_shard(shard, stop))
                await _pause(stop, BEAT_S)
            for task in besides:
                task.cancel()
        await asyncio.gather(*map(self._empty, range(self._shards)))
        with suppress(MeteringError):
            await self.leases.give_back()

    async def _beat(self) -> None:
        now_s = self.beat_s = asyncio.get_running_loop().time()
        try:
            if self._is_useless(now_s):
                await self.leases.give_back()
            else:
                await self.leases.beat(now_s)
        except MeteringError as error:
            log.warning("leases stay as they are: %s", error)
        except Exception:
            log.exception("leases stay as they are: the worker met a bug and goes on")

    def _is_useless(self, now_s: float) -> bool:
        """Whether all its shards have failed it for as long as a lease lasts: perhaps others reach them."""
        held = self.leases.held
        return bool(held) and all(now_s - self.failing.get(shard, now_s) > LEASE_S for shard in held)

    async def _run_shard(self, shard: int, stop: asyncio.Event) -> None:
        while shard in self.leases.held and not stop.is_set():
            more = await self._try(shard)
            if not more:
                await _pause(stop, IDLE_S if more is False else RETRY_S)
        self.failing.pop(shard, None)

    async def _empty(self, shard: int) -> None:
        while await self._try(shard):
            pass

    async def _try(self, shard: int) -> bool | None:
        """Folds one batch: whether there may be more; None if that failed."""
        try:
            more = await self._drain(shard)
        except MeteringError as error:
            if shard not in self.failing:
                log.warning("shard %d waits: %s", shard, error)
        except Exception:
            log.exception("shard %d: the drain met a bug and goes on", shard)
        else:
            if self.failing.pop(shard, None) is not None:
                log.warning("shard %d is folded again", shard)
            return more
        self.failing.setdefault(shard, asyncio.get_running_loop().time())
        return None

    async def aclose(self) -> None:
        """Stops at once, also from another event loop than it was started on; what was not folded stays in the
        stream."""
        task, self._task = self._task, None
        if task is None:
            return
        loop = task.get_loop()
        if loop is asyncio.get_running_loop():
            await self._end(task)
        elif loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(task), loop))

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with suppress(MeteringError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                await self.leases.give_back()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
