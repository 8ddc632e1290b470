"""Where the microseconds go: the app's way through the house, one room more with each row, and a decision on
``memory://`` alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, Final

from starlette.types import ASGIApp

from mm_metering import Metering
from mm_metering.gate.admission import Admission, Wish
from tests.bench import machine
from tests.bench.apps import Contender, catalogue, ours, starlette
from tests.bench.floor import SharedGet
from tests.bench.inprocess import HEADINGS, TENANTS, measure, rows
from tests.bench.report import Report
from tests.bench.server import running

DECISIONS: Final = {1: 5_000, 64: 20_000}
WISHES: Final = (Wish("api_call", "GET /x"),)


class Stub:
    """A take that answers at once what the gate answered to that tenant first."""

    def __init__(self, take: Callable[[str, Sequence[Wish]], Awaitable[Admission]]) -> None:
        self._take = take
        self._known: dict[str, Admission] = {}

    async def __call__(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        known = self._known.get(tenant)
        if known is None:
            known = self._known[tenant] = await self._take(tenant, wishes)
        return known


def stubbed(app: Any) -> ASGIApp:
    metering: Any = app.state.metering
    metering.take = Stub(metering.take)
    stubbed_app: ASGIApp = app
    return stubbed_app


LAYERS: Final = {
    "bare starlette": Contender(starlette, "bare starlette"),
    "bare + a shared GET": Contender(lambda url, _: SharedGet(starlette(), url), "bare starlette"),
    "+ middleware, stub take, no headers": Contender(
        lambda _, n: stubbed(ours(starlette(), "memory://", n, headers="off")), "bare starlette"
    ),
    "+ headers": Contender(lambda _, n: stubbed(ours(starlette(), "memory://", n)), "bare starlette"),
    "+ gate, on memory://": Contender(lambda _, n: ours(starlette(), "memory://", n), "bare starlette"),
    "+ Redis": Contender(lambda url, n: ours(starlette(), url, n), "bare starlette"),
}


def layers(report: Report) -> None:
    with running(report.server) as server, machine.on(machine.APP):
        readings = machine.run(measure(report, LAYERS, server, limits=2))
    for (name, callers), reading in readings.items():
        report.figures[f"layers/{name}/c{callers}/cpu_us"] = reading.cpu_us
    report.table("where ours go: 2 limits (µs per request)", HEADINGS, rows(LAYERS, readings))


def memory(report: Report) -> None:
    """``gate.take`` without a server or a request around it."""
    with machine.on(machine.APP):
        costs = machine.run(_takes(report))
    report.figures |= {f"memory/c{callers}": cost for callers, cost in costs.items()}
    found = [(f"{callers}", cost) for callers, cost in costs.items()]
    report.table("a decision on memory://, 2 limits", ("callers", "CPU µs"), found)


async def _takes(report: Report) -> dict[int, float]:
    readings: dict[int, list[float]] = {callers: [] for callers in DECISIONS}
    async with Metering(catalogue(2), worker="off") as metering:
        await _cpu_us(metering, 64)  # loads the tenants
        for _ in report.each_round("memory"):
            for callers, found in readings.items():
                found.append(await report.clean(partial(_cpu_us, metering, callers)))
    return {callers: median(found) for callers, found in readings.items()}


async def _cpu_us(metering: Metering, callers: int) -> float:
    count = DECISIONS[callers]
    tenants = iter([f"tenant-{n % TENANTS}" for n in range(count)])

    async def caller() -> None:
        for tenant in tenants:
            await metering.gate.take(tenant, WISHES)

    before = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    used_s = time.process_time() - before
    await metering.flush()
    return used_s / count * 1e6
