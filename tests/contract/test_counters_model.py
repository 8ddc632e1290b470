"""Redis answers any sequence of batches as the executable specification in ``memory`` does.

Each step is a batch of ops drawn from small pools, so that they meet: few tenants, few counters, few hold names.
Positions differ between the two, so each entry of one is known by the entry of the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm_metering.backends.counters import (
    START,
    Answer,
    Append,
    Batch,
    Level,
    Load,
    Miss,
    NotLoaded,
    Op,
    OpenHold,
    Post,
    Reply,
    Result,
    Retag,
    Stamp,
    Take,
)
from mm_metering.backends.memory import MemoryCounters, Shard
from mm_metering.backends.redis import RedisCounters
from mm_metering.core.limits import UNBOUNDED, Delta, Line, Slot, window_start
from tests.redis_server import RedisServer

NOW_S = 1_705_320_000
DAY, YESTERDAY, LONG_AGO, MONTH = map(window_start, (1_705_276_800, 1_705_190_400, 1_704_931_200, 1_704_067_200))
BIG = 2**53 - 10_000  # posts go past a limit, and nothing is exact past 2**53

TENANTS = ("a", "b:{x}", "c d'\"\\ é🙂")
CAP = f"api$@m{MONTH}"
SLOTS = (
    Slot(f"api@d{DAY}", "api", maximum=7),
    Slot(f"api@m{MONTH}", "api", maximum=UNBOUNDED, free=3, price=7, cap_field=CAP, cap=21),
    Slot(f"ai@d{DAY}", "ai", maximum=6),
    Slot(f"ai@m{MONTH}", "ai", maximum=9),
    Slot(f"ai/u:1@d{DAY}", "ai", maximum=4),
    Slot(f"money@m{MONTH}", "money", maximum=BIG),
    Slot("api@s", "api", maximum=4, rate_s=1),
    Slot("api@m", "api", maximum=6, rate_s=60),
    Slot("users@-", "users", maximum=3),
    Slot("users/x@-", "users"),
)
PLAIN = tuple(slot for slot in SLOTS if not (slot.price or slot.rate_s))
PAST = (
    Slot(f"api@d{YESTERDAY}", "api", maximum=9),
    Slot(f"api@d{LONG_AGO}", "api", maximum=9, free=2, price=3, cap_field=f"api$@d{LONG_AGO}", cap=9),
)
HOLDS = ("h1", "h2")
AMOUNTS = (0, 1, 1, 1, 2, 3, 5)


class Step(NamedTuple):
    """What happens next, and the seed of its details: few small values, so that hypothesis can shrink them."""

    kinds: tuple[str, ...]
    seed: int


OFTEN = {"request": 8, "take": 6, "reserve": 3, "post": 3, "close": 3, "level": 2, "append": 1, "load": 1, "retag": 1}
OPS = tuple(kind for kind, times in OFTEN.items() for _ in range(times))
FAULTS = ("again", "stale", "reboot", "empty", "drain", "open")
steps = st.lists(
    st.builds(
        Step,
        st.one_of(
            st.lists(st.sampled_from(OPS), min_size=1, max_size=4).map(tuple),
            st.lists(st.sampled_from(OPS), min_size=1, max_size=4).map(tuple),
            st.lists(st.sampled_from(OPS), min_size=1, max_size=4).map(tuple),
            st.sampled_from(FAULTS).map(lambda fault: (fault,)),
        ),
        st.integers(0, 2**20),
    ),
    min_size=30,
    max_size=40,
)


class Maker:
    """Ops. ``barriers`` are positions of the specification that a load may name, ``stored`` the tags of all tenants, of
    whatever generation, ``tags`` of those that are loaded."""

    def __init__(self, pick: Random, generation: int, now_us: int, barriers: list[str], stored: dict[str, str]) -> None:
        self.pick = pick
        self.generation = generation
        self.now_us = now_us
        self.barriers = barriers
        self.tags = {tenant: tag for tenant, tag in stored.items() if tag.startswith(f"{generation}.")}
        self.stored = stored
        self.made = 0

    def make(self, kind: str) -> Op:
        makers: dict[str, Callable[[str, str], Op]] = {
            "request": self.request,
            "take": self.take,
            "reserve": self.reserve,
            "post": self.post,
            "close": self.close,
            "level": self.level,
            "append": self.append,
            "load": self.load,
            "retag": self.retag,
        }
        tenant = self.pick.choice(TENANTS[:2] if kind != "append" else TENANTS)
        tag = self.tags.get(tenant) if kind not in {"load", "retag"} and self.pick.random() < 0.9 else None
        if kind == "request" and self.pick.random() < 0.3:
            tag = self.stored.get(tenant)
        return makers[kind](tenant, tag or f"{self.generation}.{self.pick.choice((1, 1, 2, 3))}")

    def revivals(self) -> tuple[Op, ...]:
        """Loads that will most likely succeed, for most tenants that are not loaded."""
        cold = [tenant for tenant in TENANTS[:2] if tenant not in self.tags and self.pick.random() < 0.8]
        self.tags.update(dict.fromkeys(cold, f"{self.generation}.1"))
        self.barriers = self.barriers[-1:] if cold else self.barriers
        return tuple(self.load(tenant, self.tags[tenant]) for tenant in cold)

    def payload(self) -> bytes:
        self.made += 1
        return b"\n".join([b'["%d",%d]' % (self.made, self.now_us)] * self.pick.choice((1, 1, 2)))

    def line(self, slot: Slot, *, elastic: bool) -> Line:
        want = self.pick.choice((*AMOUNTS, BIG // 3) if slot.meter == "money" else AMOUNTS)
        return Line(slot, self.pick.randint(0, want) if elastic else want, want)

    def alternatives(self, *, elastic: bool) -> tuple[tuple[Line, ...], ...]:
        several = range(self.pick.choice((1, 1, 2)))
        return tuple(
            tuple(self.line(slot, elastic=elastic) for slot in self.pick.sample(SLOTS, self.pick.randint(0, 3)))
            for _ in several
        )

    def request(self, tenant: str, tag: str) -> Op:
        """What nearly every request asks for: plain counts, in full or not at all, mostly one amount per meter."""
        slots = self.pick.sample(PLAIN, self.pick.choice((1, 1, 2)))
        if self.pick.random() < 0.2:
            return Take(tenant, tag, (tuple(self.line(slot, elastic=False) for slot in slots),), (self.payload(),))
        amounts = {slot.meter: self.pick.choice(AMOUNTS) for slot in slots}
        lines = tuple(Line(slot, amounts[slot.meter], amounts[slot.meter]) for slot in slots)
        return Take(tenant, tag, (lines,), (self.payload(),))

    def take(self, tenant: str, tag: str) -> Op:
        alternatives = self.alternatives(elastic=self.pick.random() < 0.3)
        payloads = tuple(self.payload() for _ in alternatives) if self.pick.random() < 0.8 else ()
        return Take(tenant, tag, alternatives, payloads, stamp=self.stamp() if self.pick.random() < 0.2 else None)

    def reserve(self, tenant: str, tag: str) -> Op:
        alternatives = self.alternatives(elastic=True)
        payloads = tuple(self.payload() for _ in alternatives)
        return Take(tenant, tag, alternatives, payloads, self.pick.choice(HOLDS), self.now_us + 600)

    def deltas(self) -> tuple[Delta, ...]:
        slots = self.pick.sample((*SLOTS, *PAST), self.pick.randint(0, 3))
        return tuple(
            Delta(slot, self.pick.randint(-2, 4), self.pick.randint(-1, 2), self.opens(slot)) for slot in slots
        )

    def opens(self, slot: Slot) -> bool:
        return slot not in PAST or self.pick.random() < 0.2

    def post(self, tenant: str, tag: str) -> Op:
        return Post(tenant, tag, self.deltas(), self.payload())

    def close(self, tenant: str, tag: str) -> Op:
        return Post(tenant, tag, self.deltas(), self.payload(), self.pick.choice(HOLDS))

    def stamp(self) -> Stamp:
        return Stamp("users/x@-!", self.now_us + self.pick.choice((0, 0, 0, 1, -1)))

    def level(self, tenant: str, tag: str) -> Op:
        absolute = self.pick.random() < 0.5
        value = self.pick.randint(0, 5) if absolute else self.pick.randint(-4, 4)
        return Level(tenant, tag, "users@-", "users/x@-", self.stamp(), value, absolute, self.payload())

    def append(self, tenant: str, _: str) -> Op:
        others = self.pick.sample(TENANTS, self.pick.randint(0, 1))
        return Append(tuple((each, self.payload()) for each in (tenant, *others)))

    def load(self, tenant: str, tag: str) -> Op:
        slots = self.pick.sample((*SLOTS[:6], *PAST), self.pick.randint(0, 4))
        values = {slot.field: self.pick.choice((*AMOUNTS, BIG if slot.meter == "money" else 4)) for slot in slots}
        amounts = tuple((slot.field, self.pick.choice(AMOUNTS)) for slot in slots[:2])
        holds = {self.pick.choice(HOLDS): OpenHold(self.now_us, amounts)} if amounts else {}
        values.update({f"{field}~": amount for field, amount in amounts})
        return Load(
            tenant, tag, self.pick.choice((*self.barriers, self.barriers[-1], self.barriers[-1])), values, holds
        )

    def retag(self, tenant: str, tag: str) -> Op:
        return Retag(tenant, tag, self.pick.random() < 0.5)


class Pair:
    """The specification and Redis, driven alike. ``twin`` maps the specification's positions to Redis's."""

    def __init__(self, server: RedisServer, redis: RedisCounters) -> None:
        self.server = server
        self.memory = MemoryCounters()
        self.redis = redis
        self.twin = {START: START}
        self.generation = 0
        self.seq = 0
        self.now_us = NOW_S * 1_000_000
        self.last: Batch | None = None

    async def open(self) -> None:
        seen = self.memory.data[0].generation
        self.generation += 1
        for wrong in (seen, seen + 1):
            expected = await self.memory.open(0, seen=wrong, generation=self.generation, grace_ms=0)
            assert await self.redis.open(0, seen=wrong, generation=self.generation, grace_ms=0) == expected

    async def run(self, step: Step) -> None:
        match step.kinds[0]:
            case "again":
                if self.last is not None:
                    await self.apply(self.last)
            case "stale":
                await self.apply(Batch("p", self.generation, max(0, self.seq - 1), self.now_us, ()))
            case "reboot":
                self.memory.boot += "x"
                self.server.command("FUNCTION", "FLUSH")
                await self.refused_and_opened()
            case "empty":
                self.last = None
                self.memory.data[0] = Shard()
                self.twin = {START: START}
                self.server.flush()
                await self.refused_and_opened()
            case "drain":
                await self.drain(Random(step.seed))
            case "open":
                await self.open()
            case _:
                await self.batch(step)

    async def refused_and_opened(self) -> None:
        await self.apply(Batch("p", self.generation, self.seq + 1, self.now_us, ()))
        await self.open()

    async def batch(self, step: Step) -> None:
        self.seq += 1
        pick = Random(step.seed)
        self.now_us += pick.choice((0, 0, 300_000, 1_000_000, 3_600_000_000))
        stored = {name: tenant.tag for name, tenant in self.memory.data[0].tenants.items() if tenant.tag}
        maker = Maker(pick, self.generation, self.now_us, [*self.twin][-3:], stored)
        ops = (*maker.revivals(), *(maker.make(kind) for kind in step.kinds))
        self.last = Batch("p", self.generation, self.seq, self.now_us, ops)
        await self.apply(self.last)

    async def apply(self, batch: Batch) -> None:
        expected = await self.memory.apply(0, batch)
        found = await self.redis.apply(0, batch._replace(ops=tuple(map(self.translated, batch.ops))))
        if isinstance(expected, Reply) and isinstance(found, Reply) and expected.entry:
            self.twin[expected.entry] = found.entry
        assert found == self.mapped(expected)

    def translated(self, op: Op) -> Op:
        return op._replace(barrier=self.twin[op.barrier]) if isinstance(op, Load) else op

    def mapped(self, answer: Answer) -> Answer:
        if not isinstance(answer, Reply):
            return answer
        entry = self.twin[answer.entry] if answer.entry else ""
        return Reply(entry, self.twin[answer.drained], tuple(self.mapped_result(each) for each in answer.results))

    def mapped_result(self, result: Result) -> Result:
        return result._replace(barrier=self.twin[result.barrier]) if isinstance(result, Miss | NotLoaded) else result

    async def drain(self, pick: Random) -> None:
        after = pick.choice([*self.twin])
        expected = await self.memory.read(0, after=after, limit=3)
        found = await self.redis.read(0, after=self.twin[after], limit=3)
        assert found.generation == expected.generation
        assert found.tail == self.twin[expected.tail]
        assert [(each.position, each.lines) for each in found.entries] == [
            (self.twin[each.position], each.lines) for each in expected.entries
        ]
        generation = self.generation - pick.choice((0, 0, 0, 1))
        await self.memory.trim(0, generation=generation, position=after)
        await self.redis.trim(0, generation=generation, position=self.twin[after])

    async def compare_counters(self) -> None:
        for tenant in TENANTS:
            assert await self.redis.counters(0, tenant) == await self.memory.counters(0, tenant)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@given(story=steps)
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_redis_answers_as_the_specification(
    session_redis: RedisServer, runner: asyncio.Runner, story: list[Step]
) -> None:
    async def live() -> None:
        session_redis.flush()
        redis = RedisCounters(session_redis.url, timeout_s=10)
        pair = Pair(session_redis, redis)
        try:
            await pair.apply(Batch("p", 1, 1, pair.now_us, ()))
            await pair.open()
            for step in story:
                await pair.run(step)
            await pair.compare_counters()
        finally:
            await redis.aclose()

    runner.run(live())
