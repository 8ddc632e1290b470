"""What closing a month costs: 31 days of usage past the allowance for each tenant, on SQLite, one process.

The second month looks into the first for late usage, as every later one does into two. With thirty times the facts the
same month is closed again, since its cost must not depend on them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mm_metering import FrozenClock, Metering
from mm_metering.backends.counters import START
from mm_metering.backends.ledger import MAX_SNAPSHOTS
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import TenantDefaults
from tests.bench import machine
from tests.bench.report import Report

SIZES: Final = (1_000, 10_000)
MANY_FACTS: Final = 30
"""Facts a day and tenant, of as many units together."""
NOON: Final = micros(datetime(2024, 1, 1, 12, tzinfo=UTC))
DAY_US: Final = 86_400_000_000
PRO: Final = TenantDefaults(plan="pro", version=1, timezone="UTC")
AT_ONCE: Final = 500


def invoices(report: Report) -> None:
    rows = []
    for tenants, facts in (*((size, 1) for size in SIZES), (SIZES[0], MANY_FACTS)):
        with TemporaryDirectory() as folder:
            first, second = machine.run(_closed(Path(folder) / "ledger.db", tenants, facts))
        name = f"invoices/{tenants}/{facts}"
        report.figures[f"{name}/wall_s"] = max(first[0], second[0])
        report.figures[f"{name}/cpu_ms"] = second[1] / tenants * 1e3
        rows.append((f"{tenants:,} x {31 * facts:,} facts", *first, *second, second[1] / tenants * 1e3))
    base = report.figures[f"invoices/{SIZES[0]}/1/cpu_ms"]
    report.figures["invoices/growth"] = report.figures[f"invoices/{SIZES[-1]}/1/cpu_ms"] / base
    report.figures["invoices/facts"] = report.figures[f"invoices/{SIZES[0]}/{MANY_FACTS}/cpu_ms"] / base
    columns = ("tenants", "1st month s", "CPU s", "2nd month s", "CPU s", "CPU ms a tenant")
    report.table("closing a month", columns, rows)


async def _closed(file: Path, tenants: int, facts: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds and CPU seconds of the first month, and of the second."""
    clock = FrozenClock(datetime(2024, 1, 1, tzinfo=UTC))
    async with Metering(ledger=f"sqlite:///{file}", clock=clock, worker="off") as metering:
        await _use(metering, tenants, facts)
        clock.set("2024-02-02T12:00:00Z")
        first = await _close(metering, "2024-01", tenants)
        clock.set("2024-03-02T12:00:00Z")
        return first, await _close(metering, "2024-02", tenants)


async def _use(metering: Metering, tenants: int, facts: int) -> None:
    ledger, shard, position = metering.ledger, 1_000, START
    generation, _ = await ledger.certify(shard, seen=0)
    first = datetime(2024, 1, 1, tzinfo=UTC).date()
    for number in range(0, tenants, AT_ONCE):
        names = [f"tenant-{each}" for each in range(number, min(tenants, number + AT_ONCE))]
        for page in range(0, len(names), MAX_SNAPSHOTS):
            theirs = names[page : page + MAX_SNAPSHOTS]
            await ledger.snapshots(shard, theirs, since=first, defaults=PRO, now_us=NOON - DAY_US // 2)
        after = f"{number + 1}-0"
        used = [_fact(name, day, each, 11_000 // facts) for name in names for day in range(31) for each in range(facts)]
        move: dict[str, Any] = {"before": position, "after": after}
        assert await ledger.fold(shard, generation=generation, facts=used, defaults=PRO, **move)
        position = after


def _fact(tenant: str, day: int, number: int, units: int) -> Fact:
    at_us = NOON + day * DAY_US + number
    counts = (Count("api_calls", "", units),)
    return Fact(f"{day}.{number}", at_us, "use", tenant, "api_call", "/v1/loans", units, None, counts)


async def _close(metering: Metering, period: str, tenants: int) -> tuple[float, float]:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    closed = await metering.close_period(period)
    assert len(closed) == tenants
    return time.perf_counter() - wall_s, time.process_time() - cpu_s
