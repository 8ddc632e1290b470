"""What becomes of a request's usage when its answer is known: taken back, or written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Final

from mm_metering.errors import MeteringError
from mm_metering.gate.admission import Admission
from mm_metering.gate.context import Bound, Meter

log: Final = logging.getLogger("mm_metering.middleware")

SETTLE_S: Final = 10.0


class Aftermath:
    """Each step is a task of its own: it outlives the request's task, which is cancelled when its client goes away."""

    def __init__(self, meter: Meter) -> None:
        self.failed: int = 0
        self._meter = meter
        self._uncounted: dict[int, frozenset[str]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def take_back(self, bound: Bound, status: int | None) -> bool:
        """Reverse what an answer of this status does not leave counted (``count_on``), or all of it; whether there was
        anything. Done when this returns, unless it is cancelled. Errors are logged, not raised."""
        meters = None if status is None else self.uncounted(status)
        if meters is not None and not meters:
            return False
        taken, bound.taken = bound.taken, []
        bound.added = {what: n for what, n in bound.added.items() if meters is not None and what.meter not in meters}
        if taken:
            await self._detached(self._reverse(taken, meters))
        return bool(taken)

    def uncounted(self, status: int) -> Collection[str]:
        """The meters in which a request that ends with this status does not count."""
        known = self._uncounted.get(status)
        if known is None:
            meters = self._meter.catalogue.meters.values()
            known = self._uncounted[status] = frozenset(meter.name for meter in meters if not meter.counts(status))
        return known

    async def write(self, bound: Bound) -> None:
        """Write what was added so far. StoreUnavailable if it cannot even be journalled."""
        if bound.added and bound.tenant:
            await self._detached(self._meter.add(bound.tenant, bound.take_added()))

    async def write_quietly(self, bound: Bound) -> None:
        """The same when the answer is out already: an error is a line in the log."""
        try:
            await self.write(bound)
        except MeteringError:
            self.failed += 1
            log.exception("what a request added after its answer had begun is not written")

    async def _detached(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for what is under way on this event loop."""
        loop = asyncio.get_running_loop()
        if running := [task for task in self._running if task.get_loop() is loop]:
            await asyncio.wait(running, timeout=SETTLE_S)

    async def _reverse(self, taken: Sequence[Admission], meters: Collection[str] | None) -> None:
        for admission in taken:
            try:
                await self._meter.reverse(admission, meters=meters)
            except Exception:
                self.failed += 1
                log.exception("a failed request stays counted: it could not be taken back")
