"""The ACL user of docs/redis.md can do all that the library needs, and has nothing that it does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mm_metering.backends.counters import (
    START,
    Append,
    Backlog,
    Batch,
    Level,
    Load,
    OpenHold,
    Post,
    Reply,
    Retag,
    Stamp,
    Take,
)
from mm_metering.backends.redis import RedisCounters
from mm_metering.backends.redis_line import ErrorReply
from mm_metering.core.limits import Delta, Line, Slot
from mm_metering.errors import StoreUnavailable
from tests.redis_cluster import RedisCluster
from tests.redis_server import RedisServer

NOW_US = 1_705_320_000_000_000
SLOT = Slot("api@ds7a000", "api", maximum=100)
OLD = "api@ds6k2o0"
LINES = ((Line(SLOT, 1, 1),),)
DOCS = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
USER = next(line.split() for line in DOCS.splitlines() if line.startswith("ACL SETUSER"))
ON_A_CLUSTER = "+cluster|slots"
COMMANDS = [word for word in USER if word.startswith("+")]
ASKED_FOR_BY_URL = {"+select": "?db=1"}
"""What only some URLs need."""


async def everything(counters: RedisCounters, shard: int) -> None:
    """All that the library does to a shard."""

    async def apply(seq: int, *ops: Load | Take | Post | Level | Append | Retag, generation: int = 1) -> Reply:
        answer = await counters.apply(shard, Batch("p", generation, seq, NOW_US, ops))
        assert isinstance(answer, Reply)
        return answer

    assert await counters.read(shard, after=START, limit=9) == Backlog(0, (), START)
    assert await counters.open(shard, seen=0, generation=1, grace_ms=0)
    holds = {"old": OpenHold(NOW_US, ((SLOT.field, 1),))}
    await apply(1, Load("t", "1.1", START, {SLOT.field: 1, SLOT.field + "~": 1, OLD: 1}, holds))
    await apply(2, Take("t", "1.1", LINES, (b'["a"]',)), Take("t", "1.1", LINES, (b'["h"]',), "h", NOW_US))
    await apply(3, Post("t", "1.1", (Delta(SLOT, 1, -1),), b'["c"]', close="h"))
    stamp = Stamp("mb/x@-!", NOW_US)
    await apply(4, Level("t", "1.1", "mb@-", "mb/x@-", stamp, 5, absolute=True, payload=b'["l"]'))
    last = await apply(5, Append((("t", b'["v"]'), ("u", b'["v"]'))))
    await apply(6, Load("t", "1.2", last.entry, {SLOT.field: 3}, {}))
    await apply(7, Retag("t", "1.3", keep=True), Retag("t", "1.4", keep=False))
    assert (await counters.read(shard, after=START, limit=9)).entries
    await counters.trim(shard, generation=1, position=last.entry)
    assert await counters.counters(shard, "u") == {}
    assert await counters.open(shard, seen=1, generation=2, grace_ms=0)
    await apply(1, generation=2)


def as_user(url: str) -> str:
    return url.replace("://", "://metering:a-long-password@")


class User:
    """The user of the docs on some servers, which it finds empty and without the library."""

    def __init__(self, *servers: RedisServer) -> None:
        self._servers = servers

    def make(self, words: list[str]) -> None:
        for server in self._servers:
            if b"role:master" in server.command("INFO", "replication"):
                server.flush()
                server.command("FUNCTION", "FLUSH")
            assert server.command("ACL", "SETUSER", "metering", "reset") == b"+OK\r\n"
            assert server.command(*words) == b"+OK\r\n"

    def delete(self) -> None:
        for server in self._servers:
            server.command("ACL", "DELUSER", "metering")


@pytest.fixture
def user(redis_server: RedisServer) -> Iterator[User]:
    user = User(redis_server)
    yield user
    user.delete()


@pytest.fixture
def cluster_user(redis_cluster: RedisCluster) -> Iterator[User]:
    user = User(*redis_cluster.nodes)
    yield user
    user.delete()


async def test_the_user_can_do_all_it_needs_and_nothing_else(user: User, redis_server: RedisServer) -> None:
    user.make(USER)
    for database in ("", "?db=1"):
        counters = RedisCounters(as_user(redis_server.url) + database, timeout_s=10)
        await everything(counters, 0)
        for command in (
            ("GET", "another"),
            ("HGET", "mm:0", "x"),
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
        ):
            with pytest.raises(ErrorReply, match="NOPERM"):
                await counters._per_loop.here().lines[0].call(command)
        await counters.aclose()


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_user_needs_each_command(user: User, redis_server: RedisServer, command: str) -> None:
    user.make([word for word in USER if word != command])
    url = as_user(redis_server.url) + ASKED_FOR_BY_URL.get(command, "")
    counters = RedisCounters(url, timeout_s=10)
    with pytest.raises(StoreUnavailable, match=r"docs/redis\.md lists") as found:
        await everything(counters, 0)
    assert "a-long-password" not in str(found.value)
    await counters.aclose()


@pytest.mark.parametrize("command", ASKED_FOR_BY_URL)
async def test_the_user_may_do_without(user: User, redis_server: RedisServer, command: str) -> None:
    user.make([word for word in USER if word != command])
    counters = RedisCounters(as_user(redis_server.url), timeout_s=10)
    await everything(counters, 0)
    await counters.aclose()


async def test_the_user_of_a_cluster(cluster_user: User, redis_cluster: RedisCluster) -> None:
    cluster_user.make([*USER, ON_A_CLUSTER])
    assert ON_A_CLUSTER in DOCS
    counters = RedisCounters(as_user(redis_cluster.url), timeout_s=10)
    for shard in range(counters.shards):
        await everything(counters, shard)
    await counters.aclose()


async def test_the_user_of_a_cluster_needs_its_one_command_more(
    cluster_user: User, redis_cluster: RedisCluster
) -> None:
    cluster_user.make(USER)
    counters = RedisCounters(as_user(redis_cluster.url), timeout_s=10)
    with pytest.raises(StoreUnavailable, match=r"'cluster\|slots'.*docs/redis\.md lists"):
        await everything(counters, 0)
    await counters.aclose()
