"""A real receiver of webhooks over HTTP or TLS: it verifies what comes, keeps it, and answers as it was told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook

from mm_metering.webhooks.guard import Rules

Answers = int | bytes | None | Callable[[int], Any]
"""A status, a whole answer, None to hang, or one of these by the number of the request at that path, from 1."""


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    def __init__(self, port: int, scheme: str = "http") -> None:
        self.port, self.scheme = port, scheme
        self.got: list[Received] = []
        self.answers: dict[str, Answers] = {}
        self.at: list[float] = []
        self._count: defaultdict[str, int] = defaultdict(int)

    @property
    def rules(self) -> Rules:
        """Under which it may be called."""
        return Rules(allow_http=self.scheme == "http", ports=(self.port,), allow_networks=("127.0.0.0/8",))

    def url(self, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def ids(self, path: str = "/") -> list[str]:
        return [each.id for each in self.got if each.path == path]

    def verify(self, secret: str, *, path: str = "/") -> list[Any]:
        """The data of all that came there, each signed by the secret; else an error."""
        return [Webhook(secret).verify(each.body, each.headers)["data"] for each in self.got if each.path == path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in head[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            body = await reader.readexactly(int(headers["content-length"]))
            path = head[0].split()[1]
            self.got.append(Received(path, headers, body))
            self.at.append(asyncio.get_running_loop().time())
            self._count[path] += 1
            answer = self.answers.get(path, 200)
            if callable(answer):
                answer = answer(self._count[path])
            if answer is None:
                await asyncio.sleep(3600)
            if isinstance(answer, int):
                answer = f"HTTP/1.1 {answer} It\r\ncontent-length: 2\r\n\r\nok".encode()
            writer.write(answer or b"")
            await writer.drain()


@contextlib.asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    tasks = set[asyncio.Task[Any]]()
    receiver = Receiver(0, "https" if tls else "http")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # of the end below
                await receiver.serve(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
