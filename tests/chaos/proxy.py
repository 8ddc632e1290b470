"""A loopback proxy that loses, delays and cuts what passes: the one way in which tests break a connection.

cut            the reply is lost, and the connection ends
silent         the reply is lost, and the connection stays
late reply     it comes past the deadline
late request   it is carried out past the deadline
half-close     the reply is lost, and the server seems to have ended its side; requests still pass
hang           from then on nothing passes, in either direction, and the connection stays
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TypeAlias

KINDS: Final = ("cut", "silent", "late reply", "late request", "half-close", "hang")
LATE_S: Final = 0.08
"""Longer than a decision waits."""
CHUNK: Final = 1 << 20

Address: TypeAlias = Path | int
"""A unix socket, or a port on loopback."""
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def no_fault(_: bytes) -> str:
    return ""


class Proxy:
    """``choose`` names the fault that a request meets, "" for none. ``lag_s``: every reply comes that much later, one
    behind the other, as to a replica that is behind."""

    def __init__(self, target: Address, *, choose: Callable[[bytes], str] = no_fault, lag_s: float = 0.0) -> None:
        self.injected = Counter[str]()
        self._target = target
        self._choose = choose
        self.lag_s = lag_s
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, at: Address) -> AsyncIterator[Proxy]:
        """Takes connections while the block runs."""
        async with await _listen(self._accept, at) as server:
            yield self
            server.close()
            while self._tasks:  # one may have been accepted meanwhile
                await self.cut_all()

    async def point_at(self, target: Address) -> None:
        """From now on another server answers; who was connected to the last one is cut off."""
        self._target = target
        await self.cut_all()

    async def cut_all(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # one that is cancelled at once never begins

    async def _serve(self, down: Streams) -> None:
        with contextlib.suppress(OSError):
            await self._pump(down, await _connect(self._target))

    async def _pump(self, down: Streams, up: Streams) -> None:
        link = _Link(self, down, up)
        pumps = [asyncio.create_task(link.requests()), asyncio.create_task(link.replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up[1].transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def fault_of(self, request: bytes) -> str:
        fault = self._choose(request)
        if fault:
            self.injected[fault] += 1
        return fault


class _Link:
    """One connection through the proxy; ``fault`` is what its next reply meets. It is over when a pump ends."""

    def __init__(self, proxy: Proxy, down: Streams, up: Streams) -> None:
        self._proxy = proxy
        self._reader, self._writer = down
        self._up_reader, self._up_writer = up
        self._fault = ""

    async def requests(self) -> None:
        with contextlib.suppress(OSError):
            while request := await self._reader.read(CHUNK):
                self._fault = self._proxy.fault_of(request) or self._fault
                if self._fault == "hang":
                    await asyncio.Event().wait()
                if self._fault == "late request":
                    await asyncio.sleep(LATE_S)
                self._up_writer.write(request)

    async def replies(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while reply := await self._up_reader.read(CHUNK):
                if self._fault == "cut":
                    return
                if self._fault == "half-close":
                    self._writer.write_eof()
                if self._fault in ("silent", "half-close", "hang"):
                    await asyncio.Event().wait()
                if self._fault == "late reply":
                    await asyncio.sleep(LATE_S)
                self._fault = ""
                if self._proxy.lag_s:
                    loop.call_later(self._proxy.lag_s, self._pass_on, reply)
                else:
                    self._pass_on(reply)

    def _pass_on(self, reply: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(reply)


async def _listen(accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], at: Address) -> asyncio.Server:
    if isinstance(at, Path):
        return await asyncio.start_unix_server(accept, at)
    return await asyncio.start_server(accept, "127.0.0.1", at)


async def _connect(target: Address) -> Streams:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection("127.0.0.1", target)
