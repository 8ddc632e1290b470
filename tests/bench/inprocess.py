"""CPU per request inside one process: no server, no socket to a client, the same counters' server for all.

CPU, not time: the machine is shared. Medians of rounds in which every contender has its turn; times of the best round.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import statistics
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.types import ASGIApp, Message

from tests.bench import machine
from tests.bench.apps import CONTENDERS, Contender
from tests.bench.report import Report
from tests.bench.server import Server, running

TENANTS: Final = 1_000
REQUESTS: Final = {1: 1_500, 64: 6_000}
HEADINGS: Final = ("app", "CPU c1", "CPU c64", "× bare c64", "added p50 c1", "server CPU c1", "server CPU c64")


class Reading(NamedTuple):
    """Microseconds per request: of our process, of the counters' server, and from call to answer in the middle."""

    cpu_us: float
    server_us: float
    p50_us: float


Readings = dict[tuple[str, int], Reading]
"""By contender and number of callers."""


def in_process(report: Report) -> None:
    for limits in (1, 2):
        with running(report.server) as server, machine.on(machine.APP):
            readings = machine.run(measure(report, CONTENDERS, server, limits=limits))
        for (name, callers), reading in readings.items():
            bare = readings[CONTENDERS[name].of, callers]
            key = f"in-process/{limits}/{name}/c{callers}"
            report.figures[f"{key}/cpu_us"] = reading.cpu_us
            report.figures[f"{key}/ratio"] = reading.cpu_us / bare.cpu_us
            report.figures[f"{key}/added_p50_us"] = reading.p50_us - bare.p50_us
        title = f"in one process, {limits} limit{'s' * (limits > 1)}, {TENANTS:,} tenants (µs per request)"
        report.table(title, HEADINGS, rows(CONTENDERS, readings))


def rows(contenders: Mapping[str, Contender], readings: Readings) -> Iterable[tuple[str | float, ...]]:
    for name, contender in contenders.items():
        one, many = readings[name, 1], readings[name, 64]
        bare_one, bare_many = readings[contender.of, 1], readings[contender.of, 64]
        ratio, added = many.cpu_us / bare_many.cpu_us, one.p50_us - bare_one.p50_us
        yield name, one.cpu_us, many.cpu_us, f"{ratio:.2f}", added, one.server_us, many.server_us


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sink:
    """Keeps the first status that is not 200."""

    status = 200

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
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


async def drive(app: ASGIApp, server: Server, *, callers: int, requests: int) -> Reading:
    """Everything that is waited for is inside; what is prepared is not."""
    scopes, sink, times = iter([scope_of(n) for n in range(requests)]), Sink(), list[float]()

    async def caller() -> None:
        for scope in scopes:
            begun = time.perf_counter()
            await app(scope, receive, sink)
            times.append(time.perf_counter() - begun)

    gc.collect()
    cpu, of_server = time.process_time(), server.cpu_s()
    await asyncio.gather(*(caller() for _ in range(callers)))
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
        for lane in metering.gate._loops.lanes():
            lane._ask()
        await asyncio.sleep(0.02)


async def read(app: ASGIApp, server: Server, *, callers: int) -> Reading:
    try:
        return await drive(app, server, callers=callers, requests=REQUESTS[callers])
    finally:
        await settled(app)


async def measure(report: Report, contenders: Mapping[str, Contender], server: Server, *, limits: int) -> Readings:
    """The median CPU, and the best round's time, of each contender with one caller and with 64."""
    found: dict[tuple[str, int], list[Reading]] = {}
    apps = {name: contender.build(server.url, limits) for name, contender in contenders.items()}
    for app in apps.values():
        await open_up(app)
        await drive(app, server, callers=16, requests=2 * TENANTS)
        await settled(app)
    for _ in report.each_round(f"{len(apps)} apps, {limits} limit{'s' * (limits > 1)}"):
        for (name, app), callers in itertools.product(apps.items(), REQUESTS):
            reading = await report.clean(partial(read, app, server, callers=callers))
            found.setdefault((name, callers), []).append(reading)
    return {key: middle(readings) for key, readings in found.items()}


def middle(readings: list[Reading]) -> Reading:
    cpu, of_server, times = zip(*readings, strict=True)
    return Reading(statistics.median(cpu), statistics.median(of_server), min(times))
