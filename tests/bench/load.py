"""``python -m tests.bench.load``: sends requests over kept connections, each the next when its answer is here.

A process of its own, so that its CPU is nobody else's. It reads lines "PORT CONNECTIONS REQUESTS" and answers each with
one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple, cast

from tests.bench import machine

TENANTS: Final = 1_000
WIRE: Final = [b"GET /x HTTP/1.1\r\nhost: bench\r\nx-org-id: tenant-%d\r\n\r\n" % n for n in range(TENANTS)]
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PATIENCE_S: Final = 60.0


class Answers(NamedTuple):
    """``statuses`` has "lost" for a connection that ended without an answer; ``limited`` counts the answers with a
    RateLimit header."""

    statuses: dict[str, int]
    limited: int
    p50_us: float
    p99_us: float

    @property
    def errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "200")


class Connection(asyncio.Protocol):
    """Sends what ``wires`` gives until it has no more."""

    def __init__(self, wires: Iterator[bytes], statuses: Counter[str], times: list[float]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.limited = 0
        self._wires = wires
        self._statuses = statuses
        self._times = times
        self._got = b""
        self._begun = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._next()

    def _next(self) -> None:
        wire = next(self._wires, None)
        if wire is None:
            self._end()
            self._transport.close()
        else:
            self._begun = time.perf_counter()
            self._transport.write(wire)

    def data_received(self, data: bytes) -> None:
        got = self._got + data if self._got else data
        head = got.find(b"\r\n\r\n")
        length = LENGTH.search(got, 0, head) if head >= 0 else None
        if length is None or len(got) < head + 4 + int(length[1]):
            self._got = got
            return
        self._times.append(time.perf_counter() - self._begun)
        self._got = b""
        self._statuses[got[9:12].decode()] += 1
        self.limited += b"\r\nratelimit:" in got
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._statuses["lost"] += 1
            self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def load(port: int, connections: int, requests: int) -> Answers:
    wires, statuses, times = iter([WIRE[n % TENANTS] for n in range(requests)]), Counter[str](), list[float]()
    loop = asyncio.get_running_loop()
    opening = (
        loop.create_connection(lambda: Connection(wires, statuses, times), "127.0.0.1", port)
        for _ in range(connections)
    )
    opened = [protocol for _, protocol in await asyncio.gather(*opening)]
    await asyncio.wait_for(asyncio.gather(*(each.done for each in opened)), PATIENCE_S)
    percentiles = statistics.quantiles(times, n=100)
    limited = sum(each.limited for each in opened)
    return Answers(dict(statuses), limited, percentiles[49] * 1e6, percentiles[98] * 1e6)


def main() -> None:
    for line in sys.stdin:
        answers = machine.run(load(*map(int, line.split())))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
