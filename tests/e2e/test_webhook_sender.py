"""One attempt at a webhook against real receivers on loopback: whatever they do, it ends as an Answer, in its time and
its bytes; and nothing inside is reached."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import tracemalloc
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mm_metering.errors import InvalidInput, MissingExtra
from mm_metering.webhooks.answers import Answer
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.sender import send
from tests.tls_proxy import HOST, Authority, Certificate
from tests.webhook_urls import HOSTS, URLS

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


async def resets(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    await receiver.request(reader)
    at_once = (1).to_bytes(4, sys.byteorder) + bytes(4)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def inside(*receivers: Receiver, **rules: Any) -> Rules:
    """Rules under which the receivers may be called."""
    return Rules(
        allow_http=True, ports=tuple(each.port for each in receivers), allow_networks=("127.0.0.0/8",), **rules
    )


async def post(receiver: Receiver, **options: Any) -> Answer:
    url = f"http://{HOST}:{receiver.port}/hook?a=1"
    return await send(url, BODY, {"webhook-id": "msg_1"}, **{"rules": inside(receiver)} | options)


async def test_a_receiver_gets_the_very_request() -> None:
    async with Receiver(says(OK)).listening() as receiver:
        answer = await post(receiver)
    assert (answer.status, answer.error, answer.excerpt, answer.retry_after_s) == (200, None, "ok", None)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /hook?a=1 HTTP/1.1"
    assert dict(line.lower().split(": ", 1) for line in lines) == {
        "host": f"{HOST}:{receiver.port}",
        "webhook-id": "msg_1",
        "content-length": str(len(BODY)),
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "mm-metering-webhooks",
    }


def chunked(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


ANSWERS: Mapping[str, tuple[bytes, int | None, str | None]] = {
    "204": (head(status="204 No Content"), 204, None),
    "201 of HTTP/1.0": (b"HTTP/1.0 201 Created\r\n\r\nmade", 201, None),
    "chunks": (chunked(b"2\r\nok\r\n0\r\n\r\n"), 200, None),
    "after a 100": (head(status="100 Continue") + OK, 200, None),
    "longer than is read": (head("Content-Length: 10000000000") + b"x" * 70_000, 200, None),
    "301": (head("Location: http://127.0.0.1/", "Content-Length: 0", status="301 Moved"), 301, "redirect: "),
    "307": (head("Location: /", "Content-Length: 0", status="307 Temporary Redirect"), 307, "redirect: "),
    "304": (head(status="304 Not Modified"), 304, "redirect: "),
    "400": (head("Content-Length: 0", status="400 Bad Request"), 400, "status: "),
    "410": (head("Content-Length: 0", status="410 Gone"), 410, "status: "),
    "503": (head("Content-Length: 0", status="503 Service Unavailable"), 503, "status: "),
    "999": (head("Content-Length: 0", status="999 x"), 999, "status: "),
    "nothing": (b"", None, "connection: "),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", None, "connection: "),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n", None, "connection: "),
    "another protocol's lines": (b"220 mail\r\n500 unknown\r\n\r\n", None, "protocol: "),
    "bytes": (bytes(range(256)) * 8, None, "protocol: "),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", None, "protocol: "),
    "a long status": (b"HTTP/1.1 2000 OK\r\n\r\n", None, "protocol: "),
    "a negative length": (head("Content-Length: -1"), None, "protocol: "),
    "a length that is none": (head("Content-Length: x"), None, "protocol: "),
    "two lengths": (head("Content-Length: 1", "Content-Length: 2") + b"ab", None, "protocol: "),
    "a NUL in the head": (head("A: \x00"), None, "protocol: "),
    "a header without a name": (head(": x"), None, "protocol: "),
    "an upgrade": (head("Upgrade: x", status="101 Switching Protocols"), None, "protocol: "),
    "an encoding that is none": (head("Transfer-Encoding: gzip"), None, "protocol: "),
    "16 KiB of head": (head("A: " + "x" * (16_384 - 24)) + b"ok", 200, None),
    "more of head": (head("A: " + "x" * 20_500), None, "protocol: no answer stands in the first 16 KiB"),
    "a body cut short": (head("Content-Length: 10") + b"half", 200, "protocol: "),
    "a chunk cut short": (chunked(b"ff\r\nhalf"), 200, "protocol: "),
    "a chunk without a size": (chunked(b"zz\r\nab\r\n"), 200, "protocol: "),
    "a chunk of another size": (chunked(b"1\r\nab\r\n"), 200, "protocol: "),
    "a chunk of a huge size": (chunked(b"f" * 30 + b"\r\nab"), 200, "protocol: "),
}


@pytest.mark.parametrize(("said", "status", "error"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_is_what_it_is(said: bytes, status: int | None, error: str | None) -> None:
    async with Receiver(says(said)).listening() as receiver:
        answer = await post(receiver)
    assert answer.status == status
    assert (answer.error or "").startswith(error or "x") is (error is not None)
    assert (answer.error is None) is (error is None)
    assert len(answer.excerpt) <= 1024
    assert receiver.connections == 1
    assert answer.took_ms < 5_000


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        (b"a\x00b\r\n\x1b[31mc", "a b   [31mc"),
        ("ü\u202e\u2028<b>".encode(), "ü  <b>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 5000, "x" * 1024),
    ],
)
async def test_an_excerpt_can_be_printed(body: bytes, excerpt: str) -> None:
    async with Receiver(says(head(f"Content-Length: {len(body)}") + body)).listening() as receiver:
        assert (await post(receiver)).excerpt == excerpt


async def test_what_is_compressed_is_left_so() -> None:
    said = head("Content-Encoding: gzip", "Content-Length: 3") + b"\x1f\x8b\x08"
    async with Receiver(says(said)).listening() as receiver:
        answer = await post(receiver)
    assert (answer.status, answer.error, answer.excerpt) == (200, None, "")


RETRIES = {
    ("Retry-After: 120",): 120,
    ("Retry-After: 0",): 0,
    ("Retry-After: 99999999999999999999",): 86_400,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 60,
    ("Retry-After: Fri, 27 Nov 2026 11:00:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 0,
    ("Retry-After: Fri, 27 Nov 2099 12:00:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 86_400,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 GMT",): None,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 -0000", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): None,
    ("Retry-After: Fri, 99 Nov 2026 12:01:00 GMT", "Date: x"): None,
    ("Retry-After: -5",): None,
    ("Retry-After: 1.5",): None,
    ("Retry-After: \xb2",): None,
    ("Retry-After:",): None,
}


async def test_a_receiver_says_when_to_come_again() -> None:
    heads = iter([head(*lines, "Content-Length: 0", status="429 Slow Down") for lines in RETRIES])

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await says(next(heads))(receiver, reader, writer)

    async with Receiver(script).listening() as receiver:
        assert [(await post(receiver)).retry_after_s for _ in RETRIES] == list(RETRIES.values())


HANGING: Mapping[str, tuple[Script, int | None]] = {
    "reads nothing": (reads_nothing, None),
    "says nothing": (says_for_ever(b"", b"", every_s=60), None),
    "dribbles its head": (says_for_ever(b"HTTP/1.1 200 OK\r\nA: ", b"x", every_s=0.02), None),
    "dribbles its body": (says_for_ever(head(), b"x", every_s=0.02), 200),
    "dribbles chunks": (says_for_ever(chunked(b""), b"1\r\nx\r\n", every_s=0.02), 200),
    "says 100 again and again": (says_for_ever(b"", head(status="100 Continue"), every_s=0.02), None),
}


@pytest.mark.parametrize(("script", "status"), HANGING.values(), ids=HANGING.keys())
async def test_a_receiver_that_hangs_is_left_at_the_deadline(script: Script, status: int | None) -> None:
    async with Receiver(script).listening() as receiver:
        answer = await post(receiver, timeout_s=0.2)
    assert answer.status == status
    assert answer.error == "timeout: the whole of it took more than 0.2 s; answer first, then work"
    assert 200 <= answer.took_ms < 5_000


FLOODS: Mapping[str, tuple[Script, int | None]] = {
    "10 GB declared": (says_for_ever(head("Content-Length: 10000000000"), b"x" * 65536), 200),
    "no end": (says_for_ever(head(), b"x" * 65536), 200),
    "one chunk": (says_for_ever(chunked(b"ffffffffff\r\n"), b"x" * 65536), 200),
    "many chunks": (says_for_ever(chunked(b""), b"1\r\nx\r\n" * 10_000), 200),
    "one chunk's extension": (says_for_ever(chunked(b"1;"), b"x" * 65536), 200),
    "trailers": (says_for_ever(chunked(b"0\r\n"), b"a: b\r\n" * 10_000), 200),
    "a head": (says_for_ever(head()[:-2], b"a: b\r\n" * 10_000), None),
    "one header": (says_for_ever(b"HTTP/1.1 200 OK\r\nA: ", b"x" * 65536), None),
    "a status line": (says_for_ever(b"HTTP/1.1 200 ", b"x" * 65536), None),
    "empty lines": (says_for_ever(b"", b"\r\n" * 10_000), None),
    "100 Continue": (says_for_ever(b"", head(status="100 Continue") * 1000), None),
}


@pytest.mark.parametrize(("script", "status"), FLOODS.values(), ids=FLOODS.keys())
async def test_a_receiver_that_floods_is_cut_off_in_little_memory(script: Script, status: int | None) -> None:
    """What is read of it stays under 80 KiB: what it could send is what the kernel's buffers take, and the deadline is
    not needed."""
    async with Receiver(script).listening() as receiver:
        gc.collect()
        tracemalloc.start()
        try:
            answer = await post(receiver)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.status == status
    assert answer.took_ms < 5_000
    assert receiver.sent < 64 * 2**20
    assert peak < 3 * 2**20
