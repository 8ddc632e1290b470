"""``reserve``: a block around a call, async or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any

from mm_metering.ai import tracking
from mm_metering.ai.asking import Asked
from mm_metering.ai.calls import AiCall
from mm_metering.ai.holding import Holding, OpenCall


class Reservation:
    """``async with metering.ai.reserve(...) as call``, or ``with`` where the caller is not async: Refused where the
    call may not run, and then nothing is held."""

    def __init__(self, holding: Holding, ready: Callable[[], Awaitable[None]], asked: Callable[[], Asked]) -> None:
        self._holding = holding
        self._ready = ready
        self._asked = asked
        self._open: OpenCall | None = None

    async def __aenter__(self) -> AiCall:
        return self._entered(await self._opened())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if opened := self._ended(error):
            await self._holding.write(opened)

    def __enter__(self) -> AiCall:
        return self._entered(self._holding.open_sync(self._opened))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if opened := self._ended(error):
            self._holding.write_sync(opened)

    async def _opened(self) -> OpenCall:
        asked = self._asked()
        await self._ready()
        return await self._holding.open(asked)

    def _entered(self, opened: OpenCall) -> AiCall:
        self._open, call = opened, opened.call
        tracking.attach(
            call, write=lambda: self._holding.write(opened), from_sync=self._holding.from_sync, later=self._later
        )
        return call

    def _ended(self, error: BaseException | None) -> OpenCall | None:
        """What is to be written; nothing while a stream goes on."""
        assert self._open is not None
        call = self._open.call
        if call.is_open and call.left_behind is not None:
            if error is None:
                return None
            call.left_behind()
        call.end(error)
        return None if call.goes_on else self._open

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background; nobody else writes it meanwhile."""
        assert self._open is not None
        self._open.is_written = True
        task = asyncio.get_running_loop().create_task(self._written_after(work, self._open))
        self._holding.reading_on.add(task)
        task.add_done_callback(self._holding.reading_on.discard)

    async def _written_after(self, work: Coroutine[Any, Any, None], opened: OpenCall) -> None:
        try:
            await work
        finally:
            opened.is_written = False
            await self._holding.write(opened)
