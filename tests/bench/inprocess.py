"""CPU per request inside one process: no server, no socket to a client, the same Redis for all.

CPU, not time: the machine is shared. Medians of rounds in which every contender has its turn.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message

from tests.bench.apps import CONTENDERS
from tests.bench.server import Server

TENANTS = 1_000
REQUESTS = {1: 1_500, 64: 6_000}


class Reading(NamedTuple):
    """Microseconds per request: of our process, of the Redis server, and from call to answer in the middle."""

    cpu_us: float
    server_us: float
    p50_us: float


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sink:
    status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


def scope_of(n: int) -> dict[str, Any]:
    headers = [(b"host", b"bench"), (b"x-org-id", b"tenant-%d" % (n % TENANTS))]
    about = {"http_version": "1.1", "scheme": "http", "server": ("bench", 80), "client": ("127.0.0.1", 1)}
    return {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        **about,
    }


async def drive(app: ASGIApp, server: Server, *, concurrency: int, requests: int) -> Reading:
    """Everything that is waited for is inside; what is prepared is not."""
    scopes, sink, times = iter([scope_of(n) for n in range(requests)]), Sink(), list[float]()

    async def caller() -> None:
        for scope in scopes:
            begun = time.perf_counter()
            await app(scope, receive, sink)
            times.append(time.perf_counter() - begun)

    gc.collect()
    cpu, of_server = time.process_time(), server.cpu_s()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    cpu, of_server = time.process_time() - cpu, server.cpu_s() - of_server
    assert sink.status == 200, sink.status
    return Reading(cpu / requests * 1e6, of_server / requests * 1e6, statistics.median(times) * 1e6)


async def open_up(app: Any) -> None:
    state = getattr(app, "state", None)
    if start := getattr(state, "start", None):
        await start()
    if metering := getattr(state, "metering", None):
        await metering.startup()


async def settled(app: Any) -> None:
    """What a worker beside the app does all the time: the stream is folded, and the journal forgets it."""
    metering = getattr(getattr(app, "state", None), "metering", None)
    if metering is not None:
        await metering.flush()
        for lane in (lane for state in metering.gate._loops.values() for lane in state.lanes.values()):
            lane._ask()
        await asyncio.sleep(0.02)


async def measure(server: Server, *, limits: int, rounds: int, names: Iterable[str] = CONTENDERS) -> dict[Any, Reading]:
    """The median reading of each (contender, concurrency)."""
    found: dict[tuple[str, int], list[Reading]] = {}
    apps = {name: CONTENDERS[name].build(server.url, limits) for name in names}
    for app in apps.values():
        await open_up(app)
        await drive(app, server, concurrency=16, requests=2 * TENANTS)
        await settled(app)
    for _, (name, app) in itertools.product(range(rounds), apps.items()):
        for concurrency, requests in REQUESTS.items():
            reading = await drive(app, server, concurrency=concurrency, requests=requests)
            found.setdefault((name, concurrency), []).append(reading)
            await settled(app)
    return {key: Reading(*map(statistics.median, zip(*readings, strict=True))) for key, readings in found.items()}
