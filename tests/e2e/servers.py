"""uvicorn processes on one pair of stores, and connections to them that cost next to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final, NamedTuple

from examples.mortgagematch.stage import ROOT, bound, end_with_parent

STARTS_WITHIN_S: Final = 60.0
STOPS_WITHIN_S: Final = 20.0
BACKLOG: Final = 1024


@contextlib.contextmanager
def serving(app: str, stores: Mapping[str, str], *, processes: int, **settings: str) -> Iterator[list[int]]:
    """The ports of that many processes. They are not ready yet; they must end when they are told to."""
    names = {f"MM_METERING_{name.upper()}": value for name, value in {**stores, **settings}.items()}
    ports, running = [], []
    try:
        for _ in range(processes):
            with bound(0) as listening:
                listening.listen(BACKLOG)
                fd = listening.fileno()
                ports.append(listening.getsockname()[1])
                command = [sys.executable, "-m", "uvicorn", app, "--fd", str(fd), "--log-level", "error"]
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **names},
                    pass_fds=(fd,),
                    preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls nothing that takes a lock
                )
                running.append(process)
        yield ports
        for process in running:
            process.terminate()
        for process in running:
            process.wait(STOPS_WITHIN_S)
    finally:
        for process in running:
            process.kill()
            process.wait()


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One kept-alive connection, one request at a time. ConnectionError if the server closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[Connection]:
        async with asyncio.timeout(STARTS_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def get(self, path: str, tenant: str) -> Reply:
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\nx-org-id: {tenant}\r\n\r\n".encode())
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise ConnectionError("the server closed the connection instead of an answer") from None
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers: dict[str, Any] = {
            name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)
        }
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), headers, body)


async def until_it_serves(port: int, path: str = "/free") -> None:
    """The listening socket takes connections before its process does."""
    async with asyncio.timeout(STARTS_WITHIN_S), Connection.open(port) as connection:
        assert (await connection.get(path, "nobody")).status == 200
