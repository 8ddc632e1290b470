"""How long admission pauses after a total loss of the server, by the number of tenants in use."""

from __future__ import annotations

import asyncio
import contextlib
import time
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
    server = Killed(folder)
    await server.start()
    try:
        ledger = f"sqlite:///{folder}/ledger.db"
        async with Metering(PLANS, counters=server.url, ledger=ledger, worker="inline") as metering:
            names = [f"tenant-{n}" for n in range(tenants)]
            await asyncio.gather(*(_admitted(metering, name) for name in names))
            await metering.flush()
            found = [await _after_a_loss(server, metering, names) for _ in range(rounds)]
    finally:
        await server.aclose()
    return Pause(tenants, *(median(column) for column in zip(*found, strict=True)))


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
