"""A Metering on a cluster: 16 shards count as one, and what happens to a master concerns its own shards alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import Final
from zlib import crc32

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.errors import QuotaExceeded, StoreUnavailable
from mm_metering.gate.deadlines import Timing
from tests.redis_cluster import SHARDS, Node, RedisCluster

TODAY: Final = "2024-01-15"
LIMIT: Final = 1_000
PLANS: Final = {
    "currency": "USD",
    "default_plan": "p",
    "meters": {"soft": {"event": "soft"}, "strict": {"event": "strict", "on_outage": "deny"}},
    "plans": {"p": {"price": "0", "quotas": {meter: {"limit": LIMIT, "per": "day"} for meter in ("soft", "strict")}}},
}
TIMING: Final = Timing(decision_s=1.0, load_s=10.0, open_s=3.0)
"""No healthy shard is late on a machine that is busy with other tests."""
FOLLOW_S: Final = 10.0


@pytest.fixture
async def metering(redis_cluster: RedisCluster, sqlite_url: str) -> AsyncIterator[Metering]:
    async with opened(redis_cluster, sqlite_url) as metering:
        yield metering


@asynccontextmanager
async def opened(cluster: RedisCluster, ledger: str) -> AsyncIterator[Metering]:
    clock = FrozenClock(f"{TODAY}T12:00:00Z")
    async with Metering(PLANS, counters=cluster.url, ledger=ledger, clock=clock, worker="inline", timing=TIMING) as it:
        yield it


def tenants(shards: Iterable[int], *, each: int = 2) -> list[str]:
    """So many tenants of each of these shards."""
    names = [f"t{n}" for n in range(2000)]
    return [name for s in shards for name in islice((n for n in names if crc32(n.encode()) % SHARDS == s), each)]


def split(cluster: RedisCluster, node: Node) -> tuple[list[str], list[str]]:
    """Tenants whose shards the node owns, and of all other shards."""
    mine = [shard for shard in range(SHARDS) if cluster.owner(shard) is node]
    return tenants(mine), tenants(shard for shard in range(SHARDS) if shard not in mine)


async def take(metering: Metering, names: Iterable[str], meter: str = "soft", quantity: int = 1) -> set[str]:
    """So much for each tenant, all at once; what they were told."""

    async def one(name: str) -> str:
        try:
            decision = await metering.enforce_quota(name, meter, quantity)
        except QuotaExceeded:
            return "no"
        except StoreUnavailable:
            return "unavailable"
        return "degraded" if decision.degraded else "yes"

    return set(await asyncio.gather(*map(one, names)))


async def billed(metering: Metering, names: Iterable[str], meter: str = "soft") -> set[int | object]:
    ranges = await asyncio.gather(*(metering.get_usage(name, TODAY, TODAY) for name in names))
    return {each.meters[meter] for each in ranges}


async def until_all_is_well(metering: Metering, names: list[str]) -> int:
    """Takes until nobody is degraded; how many each tenant was allowed meanwhile."""
    rounds = 1
    async with asyncio.timeout(FOLLOW_S):
        while await take(metering, names) != {"yes"}:
            rounds += 1
            await asyncio.sleep(0.1)
    return rounds


async def test_sixteen_shards_admit_exactly_the_limits(metering: Metering, redis_cluster: RedisCluster) -> None:
    everyone = tenants(range(SHARDS))
    answers = await asyncio.gather(*(take(metering, everyone, quantity=LIMIT // 20) for _ in range(20)))
    assert set.union(*answers) == {"yes"}
    assert await take(metering, everyone) == {"no"}
    assert await billed(metering, everyone) == {LIMIT}
    busy = [node for node in redis_cluster.nodes[:3] if b"expires=" in node.command("INFO", "keyspace")]
    assert busy == redis_cluster.nodes[:3]


async def test_a_planned_fail_over_is_followed_without_a_refusal(
    metering: Metering, redis_cluster: RedisCluster
) -> None:
    mine, others = split(redis_cluster, redis_cluster.nodes[0])
    assert await take(metering, [*mine, *others]) == {"yes"}
    await asyncio.to_thread(redis_cluster.spare.take_over)
    assert await take(metering, [*mine, *others]) == {"yes"}
    assert await billed(metering, [*mine, *others]) == {2}


async def test_a_promoted_replica_is_followed_and_nothing_is_lost_or_billed_twice(
    metering: Metering, redis_cluster: RedisCluster
) -> None:
    mine, others = split(redis_cluster, redis_cluster.nodes[0])
    assert await take(metering, [*mine, *others]) == {"yes"}
    redis_cluster.nodes[0].kill()
    assert await take(metering, others) == {"yes"}
    assert await take(metering, mine) == {"degraded"}
    await asyncio.to_thread(redis_cluster.spare.take_over)
    rounds = await until_all_is_well(metering, mine)
    assert await take(metering, others) == {"yes"}
    assert await billed(metering, mine) == {2 + rounds}
    assert await billed(metering, others) == {3}


async def test_a_killed_master_degrades_its_own_shards_only(metering: Metering, redis_cluster: RedisCluster) -> None:
    """It comes back empty. Meanwhile the others answer and report as ever; its own are decided by their policy."""
    dead = redis_cluster.nodes[1]
    mine, others = split(redis_cluster, dead)
    assert await take(metering, [*mine, *others]) == {"yes"}
    dead.kill()
    for used in range(2, 5):
        assert await take(metering, others) == {"yes"}
        assert await take(metering, mine) == {"degraded"}
        assert await billed(metering, others) == {used}
    assert await take(metering, mine, "strict") == {"unavailable"}
    assert await take(metering, others, "strict") == {"yes"}
    await asyncio.to_thread(dead.start)
    rounds = await until_all_is_well(metering, mine)
    assert await billed(metering, mine) == {4 + rounds}
    assert await billed(metering, mine, "strict") == {0}
    await _spend_the_rest(metering, mine, used=4 + rounds)
    await _spend_the_rest(metering, others, used=4)


async def test_a_stopped_master_degrades_its_own_shards_only(metering: Metering, redis_cluster: RedisCluster) -> None:
    """It takes what is sent and says nothing, and then goes on as if nothing had been."""
    dead = redis_cluster.nodes[1]
    mine, others = split(redis_cluster, dead)
    assert await take(metering, [*mine, *others]) == {"yes"}
    with dead.stopped():
        silent = asyncio.create_task(take(metering, mine))
        for used in range(2, 5):
            assert await take(metering, others) == {"yes"}
            assert await billed(metering, others) == {used}
        assert await silent == {"degraded"}
        assert await take(metering, mine) == {"degraded"}
    rounds = await until_all_is_well(metering, mine)
    assert await billed(metering, mine) == {3 + rounds}
    await _spend_the_rest(metering, mine, used=3 + rounds)


async def _spend_the_rest(metering: Metering, names: list[str], *, used: int) -> None:
    """The counters were rebuilt to the unit."""
    assert await take(metering, names, quantity=LIMIT - used + 1) == {"no"}
    assert await take(metering, names, quantity=LIMIT - used) == {"yes"}
    assert await take(metering, names) == {"no"}
    assert await billed(metering, names) == {LIMIT}


async def test_two_processes_agree_while_a_master_fails_over(redis_cluster: RedisCluster, sqlite_url: str) -> None:
    mine, others = split(redis_cluster, redis_cluster.nodes[0])
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(opened(redis_cluster, sqlite_url)) for _ in range(2)]
        for each in both:
            assert await take(each, [*mine, *others]) == {"yes"}
        await asyncio.to_thread(redis_cluster.spare.take_over)
        part = (LIMIT - 2) // 2
        answers = [await take(each, [*mine, *others], quantity=part) for each in both]
        assert set.union(*answers) == {"yes"}
        for each in both:
            assert await take(each, [*mine, *others]) == {"no"}
            assert await billed(each, [*mine, *others]) == {LIMIT}


async def test_a_process_starts_while_a_master_is_dead(redis_cluster: RedisCluster, sqlite_url: str) -> None:
    dead = redis_cluster.nodes[1]
    mine, others = split(redis_cluster, dead)
    dead.kill()
    begun = time.monotonic()
    async with opened(redis_cluster, sqlite_url) as metering:
        assert time.monotonic() - begun < FOLLOW_S + TIMING.open_s
        assert await take(metering, others) == {"yes"}
        assert await take(metering, mine) == {"degraded"}
        assert await billed(metering, others) == {1}
        await asyncio.to_thread(dead.start)
        rounds = await until_all_is_well(metering, mine)
        assert await billed(metering, mine) == {1 + rounds}
