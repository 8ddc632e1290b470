"""A shard is asked where it is: redirected, failed over, migrated; and no server that is gone holds up another's."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from mm_metering.backends.counters import START, Answer, Batch, Fenced, Load, Reply, Take, Taken
from mm_metering.backends.redis import RedisCounters
from mm_metering.backends.redis_nodes import MAX_CONNECTIONS, Address, owners, read_moved, read_slots, slot_of
from mm_metering.backends.urls import open_counters
from mm_metering.core.limits import Line, Slot, State
from mm_metering.errors import InvalidInput, StoreUnavailable
from tests.redis_cluster import SHARDS, Node, RedisCluster, free_ports, until
from tests.redis_server import RedisServer

SLOT = Slot("api@ds7a000", "api", maximum=100)
TAKE = Take("t", "1.1", ((Line(SLOT, 1, 1),),), (b'["x"]',))
FOLLOW_S = 10.0
"""Longest wait for what takes a fraction of a second on a machine that is not busy."""


def batch(seq: int, *ops: Take | Load, generation: int = 1) -> Batch:
    return Batch("p", generation, seq, 1_705_320_000_000_000, ops)


def taken(used: int) -> tuple[Taken, ...]:
    return (Taken(0, (1,), (State(used, 0, 0),)),)


async def ready(counters: RedisCounters, *shards: int) -> None:
    """Generation 1, with one taken in each shard."""
    for shard in shards:
        assert await counters.open(shard, seen=0, generation=1, grace_ms=0)
        reply = await counters.apply(shard, batch(1, Load("t", "1.1", START, {}, {}), TAKE))
        assert isinstance(reply, Reply)
        assert reply.results[1:] == taken(1)


async def sooner_or_later(counters: RedisCounters, shard: int, asked: Batch) -> Answer:
    """Asks again with the same number until there is an answer, as a lane does."""
    async with asyncio.timeout(FOLLOW_S):
        while True:
            try:
                return await counters.apply(shard, asked)
            except StoreUnavailable:
                await asyncio.sleep(0.02)


@pytest.fixture
async def counters(redis_cluster: RedisCluster) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(redis_cluster.url, timeout_s=10)
    yield counters
    await counters.aclose()


def shards_of(cluster: RedisCluster, node: Node) -> list[int]:
    return [shard for shard in range(SHARDS) if cluster.owner(shard) is node]


# -- where a shard is --------------------------------------------------------------------------------------------------


def test_a_shards_slot_is_the_one_the_server_computes(redis_cluster: RedisCluster) -> None:
    node = redis_cluster.nodes[0]
    for shard in range(SHARDS):
        assert node.command("CLUSTER", "KEYSLOT", f"{{mm:{shard}}}:m") == b":%d\r\n" % slot_of(shard)


async def test_a_cluster_has_16_shards_on_all_its_masters(redis_cluster: RedisCluster, counters: RedisCounters) -> None:
    assert counters.shards == SHARDS
    await ready(counters, *range(SHARDS))
    assert {redis_cluster.owner(shard).port for shard in range(SHARDS)} == {n.port for n in redis_cluster.nodes[:3]}


async def test_a_shard_has_at_most_two_connections(redis_cluster: RedisCluster, counters: RedisCounters) -> None:
    await ready(counters, *range(SHARDS))
    before = redis_cluster.connections()
    reads = [counters.read(shard, after=START, limit=9) for shard in range(SHARDS) for _ in range(5)]
    assert all(backlog.entries for backlog in await asyncio.gather(*reads))
    assert redis_cluster.connections() <= MAX_CONNECTIONS * SHARDS
    await counters.aclose()
    await asyncio.to_thread(until, lambda: redis_cluster.connections() == before - SHARDS, "all are closed")


async def test_one_node_that_answers_is_enough_to_find_all(redis_cluster: RedisCluster) -> None:
    """The others named in the URL refuse, or do not say a word."""
    (dead,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = (dead, silent.getsockname()[1], redis_cluster.nodes[0].port)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        counters = RedisCounters(f"redis+cluster://{hosts}", timeout_s=10)
        await ready(counters, *range(SHARDS))
        await counters.aclose()


def test_what_cluster_slots_says_is_read() -> None:
    """A node without a name is the one that was asked; the first of a range is its master."""
    asked = Address("10.0.0.1", 7000)
    ranges = read_slots(
        [
            [0, 8191, [b"10.0.0.2", 7001, b"id", []], [b"10.0.0.3", 7002, b"id", []]],
            [8192, 16383, [None, 7003, b"id", [b"hostname", b"h"]]],
        ],
        asked,
    )
    found = owners(ranges, 16)
    assert {shard: slot_of(shard) < 8192 for shard in range(16)} == {
        shard: owner == Address("10.0.0.2", 7001) for shard, owner in found.items()
    }
    assert set(found.values()) == {Address("10.0.0.2", 7001), Address("10.0.0.1", 7003)}
    assert owners(ranges[:1], 16).keys() == {shard for shard in range(16) if slot_of(shard) < 8192}
    with pytest.raises(StoreUnavailable, match=r"10\.0\.0\.1:7000 answers CLUSTER SLOTS in a form"):
        read_slots([[0, 1, 7]], asked)


@pytest.mark.parametrize(
    ("reply", "owner"),
    [
        ("MOVED 3999 127.0.0.1:6381", Address("127.0.0.1", 6381)),
        ("MOVED 3999 ::1:6381", Address("::1", 6381)),
        ("MOVED 3999 :6381", Address("asked", 6381)),
        ("MOVED 3999 ?:6381", Address("asked", 6381)),
        ("MOVED 3999", None),
        ("ASK 3999 127.0.0.1:6381", None),
        ("ERR MOVED 1 h:1", None),
    ],
)
def test_what_moved_says_is_read(reply: str, owner: Address | None) -> None:
    assert read_moved(reply, "asked") == owner


# -- shards that move --------------------------------------------------------------------------------------------------


async def test_a_planned_fail_over_is_followed_within_the_call(
    redis_cluster: RedisCluster, counters: RedisCounters
) -> None:
    """Redirected by the old master, which did not run it; the new one is another identity."""
    shard, *_ = shards_of(redis_cluster, redis_cluster.nodes[0])
    await ready(counters, shard)
    await asyncio.to_thread(redis_cluster.spare.take_over)
    await asyncio.to_thread(until, lambda: not redis_cluster.nodes[0].owns(shard), "the master knows")
    assert await counters.apply(shard, batch(2, TAKE)) == Fenced(1)
    assert await counters.counters(shard, "t") == {SLOT.field: 1}
    assert await counters.open(shard, seen=1, generation=2, grace_ms=0)
    assert isinstance(await counters.apply(shard, batch(1, TAKE, generation=2)), Reply)


async def test_a_promoted_replica_is_found_when_its_master_is_dead(
    redis_cluster: RedisCluster, counters: RedisCounters
) -> None:
    mine = shards_of(redis_cluster, redis_cluster.nodes[0])
    await ready(counters, *mine)
    redis_cluster.nodes[0].kill()
    with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{redis_cluster.nodes[0].port}"):
        await counters.apply(mine[0], batch(2, TAKE))
    await asyncio.to_thread(redis_cluster.spare.take_over)
    for shard in mine:
        assert await sooner_or_later(counters, shard, batch(2, TAKE)) == Fenced(1)


async def test_a_slot_that_migrates_is_followed_with_its_counters(
    redis_cluster: RedisCluster, counters: RedisCounters
) -> None:
    """There and back again. While it is under way its calls are refused, and nothing is counted twice."""
    shard, used, generation = 0, 1, 1
    await ready(counters, shard)
    one, other = redis_cluster.nodes[1], redis_cluster.nodes[2]
    assert one.owns(shard)
    for source, target in ((one, other), (other, one)):
        take = TAKE._replace(tag=f"{generation}.1")
        target.ok("CLUSTER", "SETSLOT", str(slot_of(shard)), "IMPORTING", source.id())
        source.ok("CLUSTER", "SETSLOT", str(slot_of(shard)), "MIGRATING", target.id())
        assert isinstance(await counters.apply(shard, batch(8, take, generation=generation)), Reply)
        used += 1
        await _migrate(source, target, "m")
        with pytest.raises(StoreUnavailable, match="TRYAGAIN"):
            await counters.apply(shard, batch(9, take, generation=generation))
        await _migrate(source, target, "ev", "c:t")
        with pytest.raises(StoreUnavailable, match="ASK"):
            await counters.apply(shard, batch(9, take, generation=generation))
        for node in (target, source):
            node.ok("CLUSTER", "SETSLOT", str(slot_of(shard)), "NODE", target.id())
        assert await counters.apply(shard, batch(9, take, generation=generation)) == Fenced(generation)
        assert await counters.counters(shard, "t") == {SLOT.field: used}
        assert await counters.open(shard, seen=generation, generation=generation + 1, grace_ms=0)
        generation, position = generation + 1, (await counters.read(shard, after=START, limit=9)).tail
        load = Load("t", f"{generation}.1", position, {SLOT.field: used}, {})
        assert isinstance(await counters.apply(shard, batch(1, load, generation=generation)), Reply)


async def _migrate(source: Node, target: Node, *names: str) -> None:
    keys = [f"{{mm:0}}:{name}" for name in names]
    source.ok("MIGRATE", "127.0.0.1", str(target.port), '""', "0", "5000", "KEYS", *keys)


# -- servers that are gone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["killed", "stopped"])
async def test_a_dead_master_holds_up_its_own_shards_only(redis_cluster: RedisCluster, gone: str) -> None:
    """No connection, no queue and no look at the topology is shared: the others answer while its calls wait."""
    counters = RedisCounters(redis_cluster.url, timeout_s=5)
    await ready(counters, *range(SHARDS))
    dead = redis_cluster.nodes[1]
    mine = shards_of(redis_cluster, dead)
    others = [shard for shard in range(SHARDS) if shard not in mine]
    if gone == "killed":
        dead.kill()
        await _others_answer(counters, mine, others)
    else:
        with dead.stopped():
            await _others_answer(counters, mine, others)
    await counters.aclose()


async def _others_answer(counters: RedisCounters, mine: list[int], others: list[int]) -> None:
    """Also those that look for their shard at first now."""
    fresh = RedisCounters(f"redis+cluster://{','.join(map(str, counters._servers._addresses))}", timeout_s=5)
    waiting = [asyncio.create_task(each.apply(shard, batch(2, TAKE))) for shard in mine for each in (counters, fresh)]
    for each in (counters, fresh):
        for shard in others:
            assert isinstance(await each.apply(shard, batch(2 if each is counters else 3, TAKE)), Reply)
    for task in waiting:
        task.cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable | asyncio.CancelledError) for each in outcomes)
    await fresh.aclose()


async def test_a_call_to_a_stopped_master_ends_with_its_deadline(redis_cluster: RedisCluster) -> None:
    counters = RedisCounters(redis_cluster.url, timeout_s=0.1)
    await asyncio.to_thread(until, lambda: redis_cluster.nodes[1].owns(0), "")
    with redis_cluster.nodes[1].stopped():
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await counters.read(0, after=START, limit=1)
        assert time.monotonic() - begun < FOLLOW_S
    await counters.aclose()


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_a_cluster_behind_a_plain_url_is_said(redis_cluster: RedisCluster) -> None:
    stranger = next(node for node in redis_cluster.nodes[:3] if not node.owns(0))
    counters = RedisCounters(f"redis://127.0.0.1:{stranger.port}")
    with pytest.raises(StoreUnavailable, match=r"MOVED .*; it is part of a cluster: use redis\+cluster://"):
        await counters.read(0, after=START, limit=1)
    await counters.aclose()


async def test_a_cluster_behind_a_plain_url_is_warned_of_where_it_happens_to_work(
    redis_cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    counters = RedisCounters(f"redis://127.0.0.1:{redis_cluster.owner(0).port}")
    await counters.read(0, after=START, limit=1)
    assert [r.message for r in caplog.records if "use redis+cluster://" in r.message]
    await counters.aclose()


async def test_a_server_that_is_no_cluster_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    (port,) = free_ports(1)
    server = RedisServer(tmp_path_factory.mktemp("plain"), options={"port": str(port), "bind": "127.0.0.1"})
    await asyncio.to_thread(server.start)
    counters = RedisCounters(f"redis+cluster://127.0.0.1:{port}")
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} is not part of a cluster; use redis:// or rediss://"):
        await counters.read(0, after=START, limit=1)
    await counters.aclose()
    server.kill()


async def test_a_cluster_that_does_not_answer_is_said_with_all_its_hosts() -> None:
    one, other = free_ports(2)
    counters = RedisCounters(f"redis+cluster://u:sesame-42@127.0.0.1:{one},127.0.0.1:{other}")
    with pytest.raises(StoreUnavailable) as found:
        await counters.read(3, after=START, limit=1)
    assert f"Redis at the cluster at 127.0.0.1:{one}, 127.0.0.1:{other} did not complete" in str(found.value)
    assert "sesame" not in str(found.value)
    await counters.aclose()


async def test_a_wrong_password_is_said_without_it(redis_cluster: RedisCluster) -> None:
    counters = RedisCounters(redis_cluster.url.replace("://", "://nobody:sesame-42@"))
    with pytest.raises(StoreUnavailable, match="check the user and the password") as found:
        await counters.read(0, after=START, limit=1)
    assert "sesame" not in str(found.value)
    await counters.aclose()


async def test_a_cluster_without_a_master_for_a_slot_says_which(redis_cluster: RedisCluster) -> None:
    node = redis_cluster.nodes[1]
    slot = str(slot_of(0))
    node.ok("CLUSTER", "DELSLOTS", slot)
    counters = RedisCounters(f"redis+cluster://127.0.0.1:{node.port}")
    try:
        with pytest.raises(StoreUnavailable, match=f"no master owns slot {slot}, where shard 0 is"):
            await counters.read(0, after=START, limit=1)
    finally:
        node.ok("CLUSTER", "ADDSLOTS", slot)
        await counters.aclose()


@pytest.mark.parametrize("shards", ["0", "257", "-1", "1.5", "x", "²", "9" * 40])
def test_a_number_of_shards_that_is_none_is_refused(shards: str) -> None:
    with pytest.raises(InvalidInput, match="is not a whole number from 1 to 256"):
        open_counters(f"redis+cluster://h?shards={shards}")


def test_the_number_of_shards_may_be_said() -> None:
    assert open_counters("redis+cluster://h:1,i:2/?shards=64").shards == 64
    assert open_counters("rediss+cluster://h").shards == SHARDS
    assert open_counters("redis://h?shards=4").shards == 4
    assert open_counters("redis://h").shards == 1
