"""How the counters' server grows: with tenants, with limits, and in memory."""

from __future__ import annotations

from statistics import median
from typing import Final

from tests.bench import machine
from tests.bench.decisions import DECISIONS, TENANTS, Shard, opened, some
from tests.bench.report import Report
from tests.bench.server import Server, running

SIZES: Final = (1_000, 100_000, 1_000_000)
LIMITS: Final = (1, 2, 4, 8)
COUNTERS: Final = 12
EVENTS: Final = 19_200
BATCH: Final = 32


def growth(report: Report) -> None:
    """From a thousand tenants to a million, and from one limit to eight, in calls of 32."""
    with running(report.server) as server, machine.on(machine.APP):
        rows = machine.run(_tenants(report, server))
    report.table(
        f"growth with tenants, 2 limits, batch {BATCH}", ("tenants", "server CPU µs", "bytes per tenant"), rows
    )
    costs = []
    for limits in LIMITS:
        with running(report.server) as server, machine.on(machine.APP):
            cost = machine.run(_decisions(server, limits, report))
        report.figures[f"growth/limits/{limits}/cpu_us"] = cost
        costs.append((f"{limits}", cost))
    report.table(f"growth with limits, {TENANTS:,} tenants, batch {BATCH}", ("limits", "server CPU µs"), costs)
    with running(report.server) as server, machine.on(machine.APP):
        per_tenant = machine.run(_with_counters(server))
    report.figures[f"growth/bytes/{COUNTERS}"] = per_tenant
    report.console.print(f"a tenant with {COUNTERS} counters takes {per_tenant:.0f} bytes\n")


async def _tenants(report: Report, server: Server) -> list[tuple[str, float, float]]:
    """One server that grows."""
    rows = []
    async with opened(server, limits=2) as shard:
        before, known = server.used_bytes(), 0
        for size in SIZES:
            report.status.update(f"{size:,} tenants: loading")
            await shard.load(range(known, size))
            await shard.trim()
            known, per_tenant = size, (server.used_bytes() - before) / size
            cost = await _middle(shard, size, report, f"{size:,} tenants")
            report.figures |= {f"growth/{size}/cpu_us": cost, f"growth/{size}/bytes": per_tenant}
            rows.append((f"{size:,}", cost, per_tenant))
    return rows


async def _decisions(server: Server, limits: int, report: Report) -> float:
    async with opened(server, limits=limits) as shard:
        await shard.load(range(TENANTS))
        return await _middle(shard, TENANTS, report, f"{limits} limits")


async def _middle(shard: Shard, tenants: int, report: Report, what: str) -> float:
    await shard.decide(some(tenants, DECISIONS), batch=BATCH)  # warms up
    rounds = report.each_round(what)
    return median([await shard.decide(some(tenants, DECISIONS, seed=seed), batch=BATCH) for seed in rounds])


async def _with_counters(server: Server) -> float:
    async with opened(server, limits=COUNTERS) as shard:
        before = server.used_bytes()
        await shard.load(range(10 * TENANTS))
        return (server.used_bytes() - before) / (10 * TENANTS)


def memory_of_events(report: Report) -> None:
    """What the stream takes for an event above its payload, in calls of one and of many."""
    rows = []
    for batch in (1, 16, 64):
        with running(report.server) as server, machine.on(machine.APP):
            payload, taken = machine.run(_events(server, batch))
        report.figures[f"bytes/event/{batch}"] = taken - payload
        rows.append((f"{batch}", payload, taken, taken - payload))
    report.table("bytes per event", ("batch", "payload", "taken", "above"), rows)


async def _events(server: Server, batch: int) -> tuple[float, float]:
    """Of an event: its payload, and what the server takes for it."""
    async with opened(server, limits=2) as shard:
        await shard.load(range(TENANTS))
        await shard.decide(range(TENANTS), batch=batch)
        before, payload = server.used_bytes(), 0
        for first in range(0, EVENTS, batch):
            takes = [shard.take(n % TENANTS) for n in range(first, first + batch)]
            payload += sum(len(take.payloads[0]) for take in takes)
            await shard.send(*takes)
        return payload / EVENTS, (server.used_bytes() - before) / EVENTS
