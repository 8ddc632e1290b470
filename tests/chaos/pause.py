"""How long admission pauses after a total loss of the server, by the number of tenants in use."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from mm_metering import Metering
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.admission import Wish
from tests.chaos.app import PLANS
from tests.chaos.servers import Killed

TENANTS: Final = (100, 1_000, 10_000)
ROUNDS: Final = 5
AGAIN_S: Final = 0.1
WISHES: Final = (Wish("strict", "work"),)
"""Of a meter that admits nobody while the counters are away."""


RATE: Final = 1_000
"""Calls per second of the steady load, each for any of the tenants."""
STEADY_S: Final = 6.0


class Pause(NamedTuple):
    """Seconds from the loss, the start of the new server included: until the first, the middle and the last of the
    tenants was admitted by the counters, and the CPU that this process spent until then."""

    tenants: int
    first_s: float
    half_s: float
    last_s: float
    cpu_s: float


async def measure(folder: Path, tenants: int, *, rounds: int = ROUNDS) -> Pause:
    """The median of the rounds. All tenants ask at once, and each again until it is admitted."""
    async with _in_use(folder, tenants) as (server, metering, names):
        found = [await _after_a_loss(server, metering, names) for _ in range(rounds)]
    return Pause(tenants, *(median(column) for column in zip(*found, strict=True)))


class Steady(NamedTuple):
    """Seconds from the loss until the first call was admitted; how many calls came from then on, each for the next of
    the tenants, how many of them were not admitted, and how long one took in the middle and at most."""

    tenants: int
    first_s: float
    calls: int
    refused: int
    median_s: float
    longest_s: float


async def measure_steady(folder: Path, tenants: int) -> Steady:
    """At RATE calls per second, none of which is tried again."""
    async with _in_use(folder, tenants) as (server, metering, names):
        began = time.monotonic()
        lost = asyncio.create_task(_timed(server.lose()))
        calls = []
        for number in range(int(RATE * STEADY_S)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            calls.append(asyncio.create_task(_once(metering, names[number * 7919 % tenants])))
        told = [(start - began, took, admitted) for start, took, admitted in await asyncio.gather(*calls)]
        back = await lost - began
    first = min(start + took for start, took, admitted in told if admitted and start + took > back)
    since = [(took, admitted) for start, took, admitted in told if start >= first]
    refused = sum(not admitted for _, admitted in since)
    seconds = sorted(took for took, _ in since)
    return Steady(tenants, first, len(since), refused, median(seconds), seconds[-1])


async def _timed(work: Awaitable[None]) -> float:
    """When it was done."""
    await work
    return time.monotonic()


async def _once(metering: Metering, tenant: str) -> tuple[float, float, bool]:
    """When a call came, how long it took, and whether it was admitted."""
    start, admitted = time.monotonic(), False
    with contextlib.suppress(StoreUnavailable):
        admitted = (await metering.take(tenant, WISHES)).allowed
    return start, time.monotonic() - start, admitted


@contextlib.asynccontextmanager
async def _in_use(folder: Path, tenants: int) -> AsyncIterator[tuple[Killed, Metering, list[str]]]:
    """Tenants whose counters are loaded, and the server that is going to lose them."""
    server = Killed(folder)
    await server.start()
    try:
        ledger = f"sqlite:///{folder}/ledger.db"
        async with Metering(PLANS, counters=server.url, ledger=ledger, worker="inline") as metering:
            names = [f"tenant-{n}" for n in range(tenants)]
            await asyncio.gather(*(_admitted(metering, name) for name in names))
            await metering.flush()
            yield server, metering, names
    finally:
        await server.aclose()


async def _after_a_loss(server: Killed, metering: Metering, names: list[str]) -> tuple[float, float, float, float]:
    began, cpu = time.monotonic(), time.process_time()
    await server.lose()
    admitted = sorted(await asyncio.gather(*(_admitted(metering, name) for name in names)))
    cpu_s = time.process_time() - cpu
    await metering.flush()
    return admitted[0] - began, admitted[len(admitted) // 2] - began, admitted[-1] - began, cpu_s


async def _admitted(metering: Metering, tenant: str) -> float:
    """When it was."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            if (await metering.take(tenant, WISHES)).allowed:
                return time.monotonic()
        await asyncio.sleep(AGAIN_S)


def table(pauses: list[Pause]) -> str:
    head = "| tenants in use | first admitted | half of them | the last | CPU of the app |\n|--:|--:|--:|--:|--:|"
    rows = [
        f"| {each.tenants:,} | {each.first_s:.2f} s | {each.half_s:.2f} s | {each.last_s:.2f} s | {each.cpu_s:.2f} s |"
        for each in pauses
    ]
    few, many = pauses[0], pauses[-1]
    slope = (many.last_s - few.last_s) / (many.tenants - few.tenants) * 1e6
    cpu = (many.cpu_s - few.cpu_s) / (many.tenants - few.tenants) * 1e6
    return "\n".join([head, *rows, f"\nslope: {slope:.0f} ms per 1,000 tenants, {cpu:.0f} ms of CPU"])


def steady_table(rows: list[Steady]) -> str:
    names = ("tenants in use", "first admitted", "calls since", "not admitted", "median", "longest")
    head = f"| {' | '.join(names)} |\n|{'--:|' * len(names)}"
    lines = [
        f"| {each.tenants:,} | {each.first_s:.2f} s | {each.calls:,} | {each.refused:,} "
        f"| {each.median_s * 1000:.1f} ms | {each.longest_s * 1000:.0f} ms |"
        for each in rows
    ]
    return "\n".join([head, *lines])
