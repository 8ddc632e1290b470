"""Reading tenants from the ledger: all that wait at a shard share one transaction, and one is in flight at a time."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from mm_metering.backends.ledger import MAX_SNAPSHOTS, Snapshot

Read: TypeAlias = Callable[[Sequence[str]], Awaitable[Mapping[str, Snapshot]]]


class Snapshots:
    """One per event loop and shard. Each read begins after its callers asked, so that what they get is as new as they
    need it (G5)."""

    def __init__(self, read: Read, *, patience_s: float) -> None:
        self._read = read
        self._patience_s = patience_s
        self._waiting: OrderedDict[str, list[asyncio.Future[Snapshot]]] = OrderedDict()
        self._reading: asyncio.Task[None] | None = None

    async def of(self, tenant: str) -> Snapshot:
        """Raises what the read raises; TimeoutError if it takes longer than the patience."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Snapshot] = loop.create_future()
        self._waiting.setdefault(tenant, []).append(future)
        if self._reading is None:  # in an empty context: nothing of the first caller's may leak into it
            self._reading = loop.create_task(self._read_all(), context=contextvars.Context())
        return await future

    async def _read_all(self) -> None:
        try:
            while taken := self._next():
                await self._answer(taken)
        finally:
            self._reading = None

    def _next(self) -> dict[str, list[asyncio.Future[Snapshot]]]:
        """Those who wait, first come first; not for whom all callers were cancelled."""
        taken: dict[str, list[asyncio.Future[Snapshot]]] = {}
        while self._waiting and len(taken) < MAX_SNAPSHOTS:
            tenant, futures = self._waiting.popitem(last=False)
            if not all(future.done() for future in futures):
                taken[tenant] = futures
        return taken

    async def _answer(self, taken: Mapping[str, Sequence[asyncio.Future[Snapshot]]]) -> None:
        (found,) = await asyncio.gather(self._read_in_time(tuple(taken)), return_exceptions=True)
        for tenant, futures in taken.items():
            for future in futures:
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(found, BaseException):
                    future.set_exception(found)
                else:
                    future.set_result(found[tenant])

    async def _read_in_time(self, tenants: Sequence[str]) -> Mapping[str, Snapshot]:
        async with asyncio.timeout(self._patience_s):
            found = await self._read(tenants)
        return {tenant: found[tenant] for tenant in tenants}
