"""What a fact costs on its way from the stream into the ledger, while the ledger grows; and what reading a year takes.

A real stream, the real drain, and two durable ledgers: SQLite synced at each commit, PostgreSQL as it is installed. The
facts are of 1,000 tenants and three routes, with two counts each and 64 to a stream entry: three cells move with each.
Rows that are there before are written directly, in the same shape, over the 366 days before today.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from mm_metering import Metering
from mm_metering.backends.counters import MAX_BATCH
from mm_metering.backends.redis import RedisCounters
from mm_metering.backends.sql import open_ledger
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.worker.drain import Drain
from tests.bench import machine, synthetic
from tests.bench.apps import MANY
from tests.bench.decisions import TENANTS, Shard, opened, some
from tests.bench.report import Report
from tests.bench.server import Server, running
from tests.postgres_server import MISSING, PostgresServer, find_binaries, unprivileged_user

FACTS: Final = 65_536
"""Of a round."""
SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
READS: Final = 20
DEFAULTS: Final = TenantDefaults(plan="p", version=1, timezone="UTC")
DURABLE: Final = {"listen_addresses": ""}


class Store(NamedTuple):
    """``server_s`` is the CPU time of the database's own processes so far, of which SQLite has none."""

    name: str
    url: str
    server_s: Callable[[], float]


class Reading(NamedTuple):
    """Of one fact, in µs."""

    wall: float
    worker: float
    server: float


def ledger(report: Report) -> None:
    """Facts per second into an empty ledger and into one that grows up to ``--rows``, then a tenant's year."""
    sizes = [size for size in SIZES if size <= report.rows]
    rows, years = [], []
    for store in (_sqlite, _postgres):
        with store() as each, running(report.server) as server, machine.on(machine.APP):
            found, year_ms = machine.run(_grow(each, server, sizes, report))
        for size, reading in found.items():
            report.figures[f"ledger/{each.name}/{size}/wall_us"] = reading.wall
            report.figures[f"ledger/{each.name}/{size}/cpu_us"] = reading.worker + reading.server
            rows.append((f"{each.name}, {size:,}", 1e6 / reading.wall, *reading))
        base, last = found[sizes[0]], found[sizes[-1]]
        report.figures[f"ledger/{each.name}/growth"] = (last.worker + last.server) / (base.worker + base.server)
        report.figures[f"ledger/{each.name}/year_ms"] = year_ms
        years.append((f"{each.name}, {sizes[-1]:,}", year_ms))
    report.table("facts into the ledger", ("rows before", "facts/s", "wall µs", "worker CPU", "database CPU"), rows)
    report.table("get_usage of a tenant over 366 days", ("rows", "ms"), years)


@contextmanager
def _sqlite() -> Iterator[Store]:
    with TemporaryDirectory() as folder:
        yield Store("SQLite", f"sqlite:///{Path(folder) / 'ledger.db'}", lambda: 0.0)


@contextmanager
def _postgres() -> Iterator[Store]:
    binaries = find_binaries()
    assert binaries is not None, MISSING
    server = PostgresServer(binaries, unprivileged_user(), DURABLE)
    try:
        with machine.on(machine.SERVER):
            server.start()
        yield Store("PostgreSQL", server.url("postgres"), lambda: machine.cpu_s(server.pid))
    finally:
        server.stop()


async def _grow(store: Store, server: Server, sizes: list[int], report: Report) -> tuple[dict[int, Reading], float]:
    """By size: the median of the rounds. And the best time of a tenant's year at the last size, in ms."""
    found, known, today = dict[int, Reading](), 0, datetime.now(UTC).date()
    async with _drained(store, server) as (shard, drain):
        for size in sizes:
            report.status.update(f"{store.name}: writing rows up to {size:,}")
            await synthetic.fill(store.url, today, range(known // TENANTS, size // TENANTS))
            known = size
            rounds = report.each_round(f"{store.name}, {size:,} rows")
            readings = [await _round(store, shard, drain, seed) for seed in rounds]
            found[size] = Reading(*map(median, zip(*readings, strict=True)))
    return found, await _year_ms(store, today)


@asynccontextmanager
async def _drained(store: Store, server: Server) -> AsyncIterator[tuple[Shard, Drain]]:
    ledger, counters = open_ledger(store.url), RedisCounters(server.url)
    try:
        await ledger.setup(apply=True)
        for number in range(TENANTS):
            new = NewTenant(synthetic.tenant_name(number), subscribed_us=0)
            await ledger.put_tenant(new, defaults=DEFAULTS, now_us=0)
        await ledger.make_room(time.time_ns() // 1000)
        async with opened(server, limits=4, resources=synthetic.ROUTES) as shard:
            await shard.load(range(TENANTS))
            yield shard, Drain(counters, ledger, lambda: DEFAULTS)
    finally:
        await ledger.aclose()
        await counters.aclose()


async def _round(store: Store, shard: Shard, drain: Drain, seed: int) -> Reading:
    tenants = some(TENANTS, FACTS, seed=seed)
    for first in range(0, FACTS, MAX_BATCH):
        await shard.send(*map(shard.take, tenants[first : first + MAX_BATCH]))
    folded, server_s, worker_s, began = drain.done.facts, store.server_s(), time.process_time(), time.monotonic()
    await drain.fully(0)
    spent = (time.monotonic() - began, time.process_time() - worker_s, store.server_s() - server_s)
    assert drain.done.facts - folded == FACTS, drain.done.facts - folded
    return Reading(*(each / FACTS * 1e6 for each in spent))


async def _year_ms(store: Store, today: date) -> float:
    meters: dict[str, Any] = {meter: {"event": "api_call"} for meter in synthetic.METERS}
    plans = {"p": {"price": "0", "quotas": {"api_calls": [{"limit": MANY, "per": "month"}]}}}
    catalogue = {"currency": "USD", "timezone": "UTC", "default_plan": "p", "meters": meters, "plans": plans}
    times = []
    async with Metering(catalogue, counters="memory://", ledger=store.url, worker="off") as metering:
        for number in some(TENANTS, READS):
            began = time.perf_counter()
            year = await metering.get_usage(synthetic.tenant_name(number), today - timedelta(366), today - timedelta(1))
            times.append(time.perf_counter() - began)
            assert year.api_calls == 366 * len(synthetic.ROUTES), year.api_calls
    return median(times) * 1000
