"""One exchange after another on a connection that the driver has opened.

The driver connects, authenticates and knows TLS; from then on its streams, parsers and tasks are left out: a request
would pay for each of them twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import hiredis

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

Argument: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Argument] | bytes
"""A command's words, or all of it as it goes to the server."""


class ErrorReply(Exception):
    """What the server answered instead of a value."""


class Line(asyncio.Protocol):
    """At most one command is on its way. After a failure or a cancelled wait the line is of no use: close it, so that
    no call ever reads the reply of another."""

    def __init__(self, connection: AbstractConnection) -> None:
        """The connection must be open, and idle. Its socket is the line's from here on."""
        writer: Any = connection._writer
        self._writer = writer  # kept: dropping it would close the socket
        connection._reader = connection._writer = None  # so that the driver does not think it open
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ErrorReply)
        self._waiting: asyncio.Future[Any] | None = None
        self.lost: Exception | None = None
        self._transport: asyncio.Transport = writer.transport
        self._transport.set_protocol(self)

    async def exchange(self, command: Command, timeout_s: float) -> Any:
        """Sends a command; its reply as bytes, int, list or None. ErrorReply, ConnectionError or TimeoutError."""
        if self.lost is not None:
            raise self.lost
        self._waiting = waiting = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, _give_up, waiting)
        packed = command if isinstance(command, bytes) else hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
        self._transport.write(packed)
        try:
            return await waiting
        finally:
            timer.cancel()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
        except hiredis.ProtocolError as problem:
            self._fail(ConnectionError(f"not a reply of Redis: {problem}"))
            return
        if reply is False:
            return
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(reply, ErrorReply):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(f"the connection was closed{f': {exc}' if exc else ' by the server'}"))

    def _fail(self, problem: Exception) -> None:
        self.lost = problem
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(problem)


def _give_up(waiting: asyncio.Future[Any]) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError("no answer in time"))
