"""What the check-up says of the stores' servers: real ones, set up well and badly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event

from mm_metering import Metering
from mm_metering.backends.redis import RedisCounters
from mm_metering.backends.redis_health import facts_of, findings
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.findings import Finding
from tests.redis_cluster import RedisCluster
from tests.redis_server import RedisServer


def now_us() -> int:
    return time.time_ns() // 1000


@pytest.fixture
async def counters(own_server: RedisServer) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(own_server.url)
    yield counters
    await counters.aclose()


async def said(counters: RedisCounters, *, ahead_s: float = 0) -> dict[str, str]:
    found = await counters.examine(now_us=now_us() + int(ahead_s * 1_000_000))
    return {text: level for level, text in found}


async def test_a_server_that_is_set_up_well(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, appendonly=True)
    await asyncio.to_thread(server.start)
    counters = RedisCounters(server.url)
    try:
        found = await said(counters)
        (clock,) = (text for text in found if text.startswith(f"the clock of {server.socket} is "))
        assert found == {
            f"{server.socket} evicts nothing": "ok",
            f"{server.socket} keeps an append-only file": "ok",
            f"{server.socket} is a master with 0 replicas": "ok",
            clock: "ok",  # by how much depends on how busy the machine is
        }
    finally:
        await counters.aclose()
        server.kill()


@pytest.mark.parametrize(
    ("policy", "level", "what"),
    [
        ("allkeys-lru", "FAIL", "may drop usage that is not billed yet; set it to noeviction"),
        ("volatile-lru", "warn", "may drop tenants' counters, which then admit more"),
    ],
)
async def test_a_server_that_evicts(
    own_server: RedisServer, counters: RedisCounters, policy: str, level: str, what: str
) -> None:
    own_server.command("CONFIG", "SET", "maxmemory-policy", policy)
    (found,) = [(level, text) for text, level in (await said(counters)).items() if "maxmemory-policy" in text]
    assert found[0] == level
    assert f"has maxmemory-policy {policy} and {what}" in found[1]


async def test_a_server_that_keeps_nothing_and_whose_clock_is_off(
    own_server: RedisServer, counters: RedisCounters
) -> None:
    found = await said(counters, ahead_s=90)
    where = own_server.socket
    kept = "what is not folded when it restarts is in the apps' journals alone"
    assert found[f"{where} keeps no append-only file: {kept}"] == "warn"
    assert found[f"the clock of {where} is -90.0 s from this host's: keep both on one time server"] == "warn"


async def test_a_replica_is_no_place_for_usage(own_server: RedisServer, counters: RedisCounters) -> None:
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    found = await said(counters)
    assert found[f"{own_server.socket} is a replica and takes no usage: name its master in the counters URL"] == "FAIL"


async def test_a_server_that_does_not_answer_is_a_warning(own_server: RedisServer, counters: RedisCounters) -> None:
    own_server.kill()
    ((text, level),) = (await said(counters)).items()
    assert level == "warn"
    assert text.startswith(f"{own_server.socket} could not be asked how it is set up: ")


async def test_each_master_of_a_cluster_is_asked_once(redis_cluster: RedisCluster) -> None:
    counters = RedisCounters(redis_cluster.url)
    try:
        found = [text for text in await said(counters) if "is a master" in text]
        assert len(found) == 3
    finally:
        await counters.aclose()


def test_what_it_failed_to_write_and_what_it_evicted() -> None:
    facts = facts_of(
        b"# Persistence\r\naof_enabled:1\r\naof_last_write_status:err\r\nrdb_last_bgsave_status:err\r\n"
        b"evicted_keys:1234\r\nrole:master\r\nconnected_slaves:2\r\n"
    )
    assert [*findings("it", facts, 0.0)] == [
        Finding("warn", "it does not say its maxmemory-policy; it must be noeviction"),
        Finding("warn", "it has evicted 1,234 keys since it started"),
        Finding("FAIL", "it could not write its append-only file: look for room on its disk"),
        Finding("FAIL", "it could not write its snapshot: look for room on its disk"),
        Finding("ok", "it keeps an append-only file"),
        Finding("ok", "it is a master with 2 replicas"),
        Finding("ok", "the clock of it is +0.0 s from this host's"),
    ]


async def test_sqlite_says_whether_it_writes_through(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    await ledger.setup(apply=True)
    through = "SQLite writes through to its disk (synchronous = FULL, journal wal)"
    assert await ledger.examine(now_us=0) == [Finding("ok", through)]

    def careless(connection: object, *_: object) -> None:
        connection.cursor().execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]

    event.listen(ledger._store._engine().sync_engine, "checkout", careless)
    says = "SQLite has synchronous = 0: a power cut may take committed usage"
    assert await ledger.examine(now_us=0) == [Finding("warn", says)]
    await ledger.aclose()


async def test_postgres_says_whether_it_writes_through(postgres_url: str) -> None:
    """The tests' own server does not."""
    ledger = SqlLedger(postgres_url)
    clock, *found = await ledger.examine(now_us=now_us())
    assert (clock.level, clock.text.startswith("the clock of PostgreSQL is ")) == ("ok", True)
    (late, *_) = await ledger.examine(now_us=now_us() - 90_000_000)
    assert (late.level, "+90.0 s from this host's" in late.text) == ("warn", True)
    assert found == [
        Finding("warn", "PostgreSQL has fsync = off: a power cut may take committed usage"),
        Finding("warn", "PostgreSQL has synchronous_commit = off: a power cut may take committed usage"),
    ]
    await ledger.aclose()


async def test_the_check_up_asks_both_stores(own_server: RedisServer, tmp_path: Path) -> None:
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    metering = Metering(counters=own_server.url, ledger=f"sqlite:///{tmp_path}/ledger.db", worker="off")
    found = await metering.check_up()
    assert [text for level, text in found if level == "FAIL" and "allkeys-lru" in text]
    assert [text for level, text in found if level == "ok" and "SQLite writes through" in text]
