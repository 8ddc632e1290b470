"""The least that a middleware with one shared round trip can cost on this machine: all requests that wait share a bare
``GET``, and nothing is decided, counted or said."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
from starlette.types import ASGIApp, Receive, Scope, Send

GET: Final = b"*2\r\n$3\r\nGET\r\n$7\r\nnothing\r\n"


class SharedGet(asyncio.Protocol):
    """Of those who wait, all share the call that goes out next; one call is on its way at a time."""

    def __init__(self, app: ASGIApp, url: str) -> None:
        self.state = self
        self._app = app
        found = urlsplit(url)
        self._address = (found.hostname or "127.0.0.1", found.port or 6379)
        self._reader = hiredis.Reader()
        self._waiting: list[asyncio.Future[None]] = []
        self._sent: list[asyncio.Future[None]] = []
        self._transport: Any = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_connection(lambda: self, *self._address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self._waiting or self._sent):
            self._loop.call_soon(self._send)
        answer = self._loop.create_future()
        self._waiting.append(answer)
        await answer
        await self._app(scope, receive, send)

    def _send(self) -> None:
        self._sent, self._waiting = self._waiting, []
        self._transport.write(GET)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._reader.gets() is False:
            return
        answered, self._sent = self._sent, []
        for each in answered:
            each.set_result(None)
        if self._waiting:
            self._send()
