"""Callers of ``ai_app.py`` who go away in the middle of their streams, while its processes and the counters' server are
killed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from mm_metering.testing.fake_llm import FakeLlm
from tests.e2e.ai_app import END, serve, work
from tests.forks import forks
from tests.redis_server import RedisServer

CALLERS: Final = 16
TENANTS: Final = tuple(f"acme-{number}" for number in range(4))
WAYS: Final = (*("stream",) * 6, "responses", "whole", *("cancelled",) * 3, "left", "left", "sync")
GOES_AWAY: Final = 0.4
"""How many callers go away before their stream's end, or would."""
KINDS: Final = ("app", "app", "server", "worker")
GAP_S: Final = 0.45
"""Between two kills, in the mean."""
MANY: Final = 1 << 20
"""Bytes, more than any answer has."""
POLL_S: Final = 0.02
STOPS_WITHIN_S: Final = 20.0
STARTS_WITHIN_S: Final = 30.0

context: Final = forks()


class Place:
    """Where a process runs; when it has ended, the next."""

    def __init__(self, start: Callable[[], ForkServerProcess]) -> None:
        self._start = start
        self.process = start()

    def keep(self) -> None:
        if self.process.exitcode is not None:
            self.process = self._start()

    async def end(self) -> int | None:
        """By SIGTERM; its exit code."""
        self.process.terminate()
        await asyncio.to_thread(self.process.join, STOPS_WITHIN_S)
        return self.process.exitcode


@dataclass
class Told:
    """What callers were told, by call. ``END``: it came to its end."""

    tenant: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    began_at: dict[str, float] = field(default_factory=dict)
    over_at: dict[str, float] = field(default_factory=dict)
    """When its caller had its answer, or went away."""
    killed_at: list[float] = field(default_factory=list)
    """When an app process was."""
    faults: Counter[str] = field(default_factory=Counter)


class House:
    """Two app processes, a worker and the counters' server, under load."""

    def __init__(self, folder: Path, server: RedisServer, llm: FakeLlm, stores: Mapping[str, str], seed: int) -> None:
        self.told = Told()
        self._dice = random.Random(seed)
        self._server = server
        self._log = folder / "log"
        self._sockets = tuple(folder / f"app-{number}.sock" for number in range(2))
        app: Any = [self._starts(serve, stores, each, llm.url, llm.api_key) for each in self._sockets]
        self._places = {"app": [Place(start) for start in app], "worker": [Place(self._starts(work, stores))]}
        self._calls = 0

    def _starts(self, target: Callable[..., None], *args: object) -> Callable[[], ForkServerProcess]:
        def start() -> ForkServerProcess:
            process = context.Process(target=target, args=(*args, self._log), daemon=True)
            process.start()
            return process

        return start

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Under load while the block runs; then all have ended in order."""
        tasks = [asyncio.create_task(self._keep()), *(asyncio.create_task(self._call()) for _ in range(CALLERS))]
        try:
            yield
            self._over = True
            await asyncio.gather(*tasks[1:])
            tasks[0].cancel()
            places = [*self._places["app"], *self._places["worker"]]
            for place in places:
                place.keep()  # the last kill may be a moment ago
            codes = [await place.end() for place in places]
            assert not any(code for code in codes if code not in (0, -15)), f"{codes}: see {self._log}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for place in (each for group in self._places.values() for each in group):
                place.process.kill()
                place.process.join()

    _over = False

    async def _keep(self) -> None:
        while True:
            for place in (each for group in self._places.values() for each in group):
                place.keep()
            await asyncio.sleep(POLL_S)

    # -- faults -------------------------------------------------------------------------------------------------------

    async def suffer(self, kills: int, faults: int) -> None:
        """Until that many processes were killed, and as many faults happened in all."""
        async with asyncio.timeout(STARTS_WITHIN_S):
            while not self.told.ended:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(POLL_S)
        for number in range(kills):
            await asyncio.sleep(self._dice.uniform(0, 2 * GAP_S))
            kind = KINDS[number % len(KINDS)]
            if kind == "server":
                await asyncio.to_thread(self._server.restart)
            else:
                process = self._dice.choice(self._places[kind]).process
                process.kill()
                self.told.killed_at += [time.monotonic()] * (kind == "app")
                await asyncio.to_thread(process.join)
            self.told.faults[f"{kind} killed"] += 1
        while self.told.faults.total() < faults:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(POLL_S)

    # -- callers ------------------------------------------------------------------------------------------------------

    async def _call(self) -> None:
        while not self._over:
            try:
                reader, writer = await asyncio.open_unix_connection(self._dice.choice(self._sockets))
            except OSError:  # it was killed, and the next one is not there yet
                await asyncio.sleep(POLL_S)
                continue
            self._calls += 1
            call = f"c{self._calls:06}-"
            self.told.began_at[call] = time.monotonic()
            with contextlib.suppress(ConnectionError):
                await self._one(call, reader, writer)
            self.told.over_at[call] = time.monotonic()
            writer.close()

    async def _one(self, call: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way, tenant = self._dice.choice(WAYS), self._dice.choice(TENANTS)
        self.told.tenant[call] = tenant
        path = f"/{way}/{call}/{self._dice.randint(1, 60)}/{self._dice.randint(1, 60)}"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\nx-org-id: {tenant}\r\nconnection: close\r\n\r\n".encode())
        most = self._dice.randrange(1, 400) if self._dice.random() < GOES_AWAY else MANY
        data = b""
        while len(data) < most and (more := await reader.read(most - len(data))):
            data += more
        if len(data) == most:
            self.told.faults["callers gone"] += 1
            writer.transport.abort()
            return
        said = body(data)
        if said.endswith(END):
            self.told.ended.add(call)
        if said and way in ("cancelled", "left") and call not in self.told.ended:
            self.told.faults["tasks cancelled" if way == "cancelled" else "streams left"] += 1


def body(answer: bytes) -> str:
    """Without its head, and without the framing of chunks; "" for one that is no success, or is not whole."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        return ""
    if b"transfer-encoding: chunked" not in head.lower():
        return rest.decode()
    texts = list[bytes]()
    while True:
        size, mark, rest = rest.partition(b"\r\n")
        if not mark or len(rest) < (length := int(size, 16)) + 2:
            return ""
        if not length:
            return b"".join(texts).decode()
        texts.append(rest[:length])
        rest = rest[length + 2 :]
