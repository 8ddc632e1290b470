"""What the counters' server spends on a decision, by ``RedisCounters.apply``: each take counts its limits and writes
its event down."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

import hiredis
import uuid_utils

from mm_metering.backends import redis_wire as wire
from mm_metering.backends.counters import MAX_BATCH, START, Batch, Load, Op, Reply, Take, Taken
from mm_metering.backends.redis import RedisCounters, library
from mm_metering.core.facts import Count, Fact, encode
from mm_metering.core.limits import Line, Slot
from mm_metering.core.periods import Window, window_span, zone
from mm_metering.gate.windows import field
from tests.bench import machine
from tests.bench.report import Report
from tests.bench.server import Server, running

TENANTS: Final = 1_000
DECISIONS: Final = 6_400
DEEP: Final = 32
METERS: Final = ("api_calls", "ai_calls", "searches", "reports", "exports", "uploads")
TAG: Final = "1.0"
MANY: Final = 1_000_000_000


def slots(count: int) -> tuple[Slot, ...]:
    """A day's and a month's limit on one meter, then on the next."""
    now, found = datetime.now(UTC), []
    for number in range(count):
        meter, window = METERS[number // 2], (Window.DAY, Window.MONTH)[number % 2]
        span = window_span(window, now, zone("UTC"))
        found.append(Slot(field(meter, window, span), meter, maximum=MANY))
    return tuple(found)


class Shard:
    """One process at a shard of its own: ``load`` its tenants, then ``decide``."""

    def __init__(
        self, server: Server, counters: RedisCounters, *, limits: int, resources: Sequence[str] = ("",)
    ) -> None:
        self.server = server
        self._resources = resources
        self.slots = slots(limits)
        self.last = START
        self._counters = counters
        self._alternatives = (tuple(Line(slot, 1, 1) for slot in self.slots),)
        self._counts = tuple(Count(meter, "", 1) for meter in dict.fromkeys(slot.meter for slot in self.slots))
        self._process = str(uuid_utils.uuid7())
        self._seq = self._events = 0

    async def open(self) -> None:
        assert await self._counters.open(0, seen=0, generation=1, grace_ms=0)

    def batch(self, *ops: Op) -> Batch:
        self._seq += 1
        return Batch(self._process, 1, self._seq, time.time_ns() // 1000, ops)

    async def send(self, *ops: Op) -> Reply:
        reply = await self._counters.apply(0, self.batch(*ops))
        assert isinstance(reply, Reply), reply
        self.last = reply.entry or self.last
        return reply

    async def load(self, tenants: range) -> None:
        values = {slot.field: 123 for slot in self.slots}
        for first in tenants[::MAX_BATCH]:
            some = range(first, min(first + MAX_BATCH, tenants.stop))
            await self.send(*(Load(_name(n), TAG, START, values, {}) for n in some))

    def event(self, tenant: str) -> bytes:
        self._events += 1
        fact_id, now_us = str(uuid_utils.uuid7()), time.time_ns() // 1000
        resource = self._resources[self._events % len(self._resources)]
        return encode(Fact(fact_id, now_us, "use", tenant, "api_call", resource, 1, None, self._counts))

    def take(self, n: int) -> Take:
        return Take(_name(n), TAG, self._alternatives, (self.event(_name(n)),))

    async def decide(self, tenants: Sequence[int], *, batch: int) -> float:
        """The server's CPU µs per decision, one for each of these tenants, that many in a call and a call at a time."""
        calls = [[self.take(n) for n in tenants[first : first + batch]] for first in range(0, len(tenants), batch)]
        before = self.server.cpu_s()
        replies = [await self.send(*ops) for ops in calls]
        used_s = self.server.cpu_s() - before
        assert all(isinstance(result, Taken) for reply in replies for result in reply.results), replies[-1]
        await self.trim()
        return used_s / len(tenants) * 1e6

    async def trim(self) -> None:
        await self._counters.trim(0, generation=1, position=self.last)

    def decide_at_once(self, tenants: Sequence[int]) -> float:
        """The same for single decisions where 32 calls are waiting at the server whenever it looks, so that its system
        calls are shared."""
        calls = [_packed(self.batch(self.take(n))) for n in tenants]
        reader, replies = hiredis.Reader(), []
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=5) as client:
            before = self.server.cpu_s()
            for first in range(0, len(calls), DEEP):
                client.sendall(b"".join(calls[first : first + DEEP]))
                replies += [_reply(reader, client) for _ in calls[first : first + DEEP]]
            used_s = self.server.cpu_s() - before
        answer = wire.decode(replies[-1])
        assert isinstance(answer, Reply), answer
        self.last = answer.entry
        return used_s / len(tenants) * 1e6


def _name(n: int) -> str:
    return f"tenant-{n}"


def _packed(batch: Batch) -> bytes:
    return wire.encode(f"{library().name}_apply", 0, batch, keep_ms=wire.KEEP_MS)


def _reply(reader: hiredis.Reader, client: socket.socket) -> Any:
    while (reply := reader.gets()) is False:
        reader.feed(client.recv(1 << 16))
    return reply


@asynccontextmanager
async def opened(server: Server, *, limits: int, resources: Sequence[str] = ("",)) -> AsyncIterator[Shard]:
    counters = RedisCounters(server.url)
    try:
        shard = Shard(server, counters, limits=limits, resources=resources)
        await shard.open()
        yield shard
    finally:
        await counters.aclose()


def some(tenants: int, count: int, *, seed: int = 0) -> list[int]:
    """Tenants as they come: in no order."""
    return random.Random(seed).choices(range(tenants), k=count)


def server(report: Report) -> None:
    """By batch size; alone: one caller and one call at a time, where most is the server's waiting and waking."""
    found = {}
    for name, binary in report.servers.items():
        with running(binary) as each, machine.on(machine.APP):
            found[name] = machine.run(_by_batch(each, report, name))
    for name, costs in found.items():
        kind = name.split(".")[0]
        report.figures |= {f"server/{kind}/{batch}": cost for batch, cost in costs.items()}
    sizes = next(iter(found.values()), {})
    rows: list[tuple[str | float, ...]] = [(size, *(costs[size] for costs in found.values())) for size in sizes]
    report.table(f"server CPU µs per decision, 2 limits and the event, {TENANTS:,} tenants", ("batch", *found), rows)


async def _by_batch(each: Server, report: Report, name: str) -> dict[str, float]:
    readings: dict[str, list[float]] = {}
    async with opened(each, limits=2) as shard:
        await shard.load(range(TENANTS))
        await shard.decide(some(TENANTS, DECISIONS), batch=MAX_BATCH)  # warms up
        for seed in report.each_round(name):
            tenants = some(TENANTS, DECISIONS, seed=seed)
            found = {"a lone GET": _lone_get(each), "1, alone": await shard.decide(tenants[: DECISIONS // 4], batch=1)}
            found["1"] = shard.decide_at_once(tenants)
            await shard.trim()
            found |= {str(batch): await shard.decide(tenants, batch=batch) for batch in (16, 64)}
            for size, cost in found.items():
                readings.setdefault(size, []).append(cost)
    return {size: median(costs) for size, costs in readings.items()}


def _lone_get(each: Server) -> float:
    """What the machine's system calls cost: the least that a call alone can."""
    with socket.create_connection(("127.0.0.1", each.port), timeout=5) as client:
        before = each.cpu_s()
        for _ in range(DECISIONS // 4):
            client.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")
            client.recv(64)
        return (each.cpu_s() - before) / (DECISIONS // 4) * 1e6
