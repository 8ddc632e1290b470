"""Receivers of webhooks on loopback that do what their script says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from mm_metering.webhooks.answers import Answer
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.sender import send
from tests.tls_proxy import HOST

BODY = b'{"type":"invoice.finalized"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[["Receiver", StreamReader, StreamWriter], Awaitable[None]]


class Receiver:
    """A port on loopback whose script is what it does with a connection; it knows what came."""

    def __init__(self, script: Script) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.sent = 0
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None, at: str = HOST) -> AsyncIterator[Receiver]:
        if tls:
            tls.sni_callback = lambda _, name, __: self.names.append(name)
        server = await asyncio.start_server(self._accept, at, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._run(reader, writer)))

    async def _run(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._script(self, reader, writer)
        finally:
            writer.transport.abort()

    async def request(self, reader: StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head + await reader.readexactly(len(BODY)))

    async def write(self, writer: StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


def says(answer: bytes) -> Script:
    """Reads the request, answers that, and closes."""

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await receiver.request(reader)
        await receiver.write(writer, answer)
        writer.close()
        await writer.wait_closed()

    return script


def says_for_ever(start: bytes, again: bytes, *, every_s: float = 0) -> Script:
    """Reads the request and answers without an end."""

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await receiver.request(reader)
        await receiver.write(writer, start)
        while True:
            await receiver.write(writer, again)
            await asyncio.sleep(every_s)

    return script


async def reads_nothing(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def ends(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    """Nothing more than to be connected to."""


async def resets(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    await receiver.request(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


def inside(*receivers: Receiver, **rules: Any) -> Rules:
    """Rules under which the receivers may be called."""
    return Rules(
        allow_http=True, ports=tuple(each.port for each in receivers), allow_networks=("127.0.0.0/8",), **rules
    )


async def post(receiver: Receiver, **options: Any) -> Answer:
    url = f"http://{HOST}:{receiver.port}/hook?a=1"
    return await send(url, BODY, {"webhook-id": "msg_1"}, **{"rules": inside(receiver)} | options)
