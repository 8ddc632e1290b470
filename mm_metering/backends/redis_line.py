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
        self._due = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self.lost: Exception | None = None
        self._transport: asyncio.Transport = writer.transport
        self._transport.set_protocol(self)

    async def exchange(self, command: Command, timeout_s: float) -> Any:
        """Sends a command; its reply as bytes, int, list or None. ErrorReply, ConnectionError or TimeoutError."""
        if self.lost is not None:
            raise self.lost
        self._waiting = waiting = self._loop.create_future()
        self._due = self._loop.time() + timeout_s
        if self._alarm is None or self._alarm.when() > self._due:
            self._set_alarm(timeout_s)
        packed = command if isinstance(command, bytes) else hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
        self._transport.write(packed)
        return await waiting

    def close(self) -> None:
        self._transport.abort()
        if self._alarm is not None:
            self._alarm.cancel()

    def _set_alarm(self, after_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(after_s, self._ring)

    def _ring(self) -> None:
        """One alarm serves many exchanges, since a timer for each costs more than all else here: it rings when the
        first of them would be over, and is set again for the one that is under way."""
        self._alarm = None
        if self._waiting is None or self._waiting.done():
            return
        left_s = self._due - self._loop.time()
        if left_s > 0:
            self._set_alarm(left_s)
        else:
            self._waiting.set_exception(TimeoutError("no answer in time"))

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
