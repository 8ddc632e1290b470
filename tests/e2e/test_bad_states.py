"""States that no store should be in: each defined in docs/reliability.md, none of which loses usage or counts it twice.

On a real server, SQLite and PostgreSQL. ``assert_conserved`` holds what callers were told against the ledger's facts,
its cells and the counters.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.local import find_server
from mm_metering.backends.redis_wire import tenant_key
from mm_metering.gate.reconcile import Reconciler
from mm_metering.testing import assert_conserved
from tests.e2e.callers import PLANS
from tests.e2e.told import DEGRADED, NOW, PATIENT, STATE, STREAM, UNAVAILABLE, YES, Told
from tests.redis_server import RedisServer

# -- keys that something else wrote over, or took away -----------------------------------------------------------------


@pytest.mark.parametrize("planted", ["SET {} x", "RPUSH {} x", "XADD {} * x x"])
async def test_a_tenants_key_that_is_written_over_is_dropped_and_loaded_anew(
    own_server: RedisServer, told: Told, tmp_path: Path, planted: str
) -> None:
    """In the middle of a batch, with others before and after it: none of them notices, and no count is forgotten."""
    tenants = [f"org_{n}" for n in range(6)]
    await told.take_all(tenants * 3)
    key = tenant_key(0, "org_3")
    own_server.command("DEL", key)
    own_server.command(*planted.format(key).split())
    assert await told.take_all(tenants * 3) == {YES: 18}
    await told.assert_billed()
    assert f"mm_metering: {key} was written over and is dropped" in (tmp_path / "redis.log").read_text()


@pytest.mark.parametrize("key", [STATE, STREAM])
async def test_a_shards_key_that_is_written_over_is_named_until_it_is_gone(
    own_server: RedisServer, told: Told, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await told.take_all(["org_1"] * 3 + ["org_2"] * 2) == {YES: 5}
    own_server.command("DEL", key)
    own_server.command("SET", key, "x")
    assert await told.take("org_1") == DEGRADED
    assert await told.take("org_1", "strict") == UNAVAILABLE
    assert f"something else has written to {STATE} or {STREAM}: delete that key" in caplog.text
    own_server.command("DEL", key)
    await told.until(YES, "org_1")
    await told.assert_billed()


@pytest.mark.parametrize("key", [STATE, STREAM])
@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_shards_key_that_is_taken_away_loses_nothing(
    own_server: RedisServer, told: Told, key: str, *, goes_on: bool
) -> None:
    """Also where nobody asks for anything any more: the journal asks how far the ledger is."""
    await told.take_all(["org_1"] * 5 + ["org_2"])
    assert own_server.command("DEL", key) == b":1\r\n"
    if goes_on:
        await told.take_all(["org_1"] * 2 + ["org_3"])
    await told.assert_billed()


@pytest.mark.parametrize("loss", [("FLUSHALL",), ("DEL", STATE), ("DEL", STREAM)])
async def test_usage_that_is_asked_for_has_all_that_was_acknowledged_also_what_redis_has_just_lost(
    own_server: RedisServer, told: Told, loss: tuple[str, ...]
) -> None:
    await told.take_all(["org_1"] * 7)
    own_server.command(*loss)
    usage = await told.metering.create_usage_snapshot("org_1", "2024-01-15")
    assert usage.meters["soft"] == 7


@pytest.mark.parametrize("is_folded", [True, False])
async def test_a_tenants_counters_that_are_taken_away_are_loaded_anew(
    own_server: RedisServer, told: Told, *, is_folded: bool
) -> None:
    """What stood in the stream at that moment is billed, but not among them until the worker reconciles them: that much
    may be admitted once more."""
    await told.take_all(["org_1"] * 5)
    if is_folded:
        await told.metering.flush()
    own_server.command("DEL", tenant_key(0, "org_1"))
    assert await told.take_all(["org_1"] * 2) == {YES: 2}
    await told.metering.flush()
    standing = await told.metering.counters.counters(0, "org_1")
    assert standing["soft@ms6k2o0"] == (7 if is_folded else 2)
    metering = told.metering
    reconciler = Reconciler(metering.counters, metering.ledger, metering.gate, metering._drain)
    assert bool(await reconciler.mend("org_1")) is not is_folded
    assert await told.take("org_1") == YES
    await told.assert_billed()


async def test_a_server_that_evicts_whatever_it_likes_is_billed_exactly(
    own_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tenants, streams and the shard's own state go, again and again, under load."""
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    stores: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(PLANS, **stores, worker="inline", clock=FrozenClock(NOW), timing=PATIENT) as metering:
        assert "maxmemory-policy allkeys-random and may drop usage that is not billed yet" in caplog.text
        told = Told(metering)
        tenants = [f"org_{n}" for n in range(80)]
        await told.take_all(tenants)
        for _ in range(4):
            limit = _number(own_server, "used_memory") - 20_000
            own_server.command("CONFIG", "SET", "maxmemory", str(limit))
            await told.take_all(tenants[:20])
            own_server.command("CONFIG", "SET", "maxmemory", "0")
            await told.until(YES, "org_1")
            await told.take_all(tenants)
        assert _number(own_server, "evicted_keys") > 120
        await metering.flush()
        own_server.flush()  # what was evicted with facts in the stream may stand too low: they are loaded anew
        await told.until(YES, "org_1")
        await assert_conserved(metering, tenants=[], told=told.units)


def _number(server: RedisServer, name: str) -> int:
    return int(server.command("INFO").partition(f"\n{name}:".encode())[2].split(b"\r")[0])


# -- a server that cannot take more ------------------------------------------------------------------------------------


async def test_a_server_that_is_out_of_memory_is_emptied_by_the_worker(
    own_server: RedisServer, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Takes are decided by the outage policy; draining goes on, since that is what makes room."""
    await told.take_all([f"org_{n}" for n in range(20)])
    own_server.command("CONFIG", "SET", "maxmemory", "1mb")
    assert await told.take_all(["org_1"] * 10) == {DEGRADED: 10}
    assert await told.take("org_1", "strict") == UNAVAILABLE
    assert "its memory is full: run a worker, which empties the stream, or raise maxmemory" in caplog.text
    assert own_server.command("XLEN", STREAM) != b":0\r\n"
    await told.metering._drain.fully()
    assert own_server.command("XLEN", STREAM) == b":0\r\n"
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    await told.until(YES, "org_1")
    await told.assert_billed()


class Unsaved(RedisServer):
    """Writes an append-only file, and goes on answering when that cannot grow."""

    def launch(self) -> None:
        options = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            self._process = subprocess.Popen([find_server(), *options], stdin=subprocess.DEVNULL, restore_signals=False)
        finally:
            signal.signal(signal.SIGXFSZ, previous)

    def fill_disk(self, *, full: bool) -> None:
        """No file of the server's may grow past what it has; or any may."""
        assert self._process is not None
        most = 1 if full else resource.RLIM_INFINITY
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


async def test_a_server_whose_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = Unsaved(tmp_path, appendonly=True, options={"appendfsync": "everysec"})
    server.start()
    try:
        stores: dict[str, Any] = {"counters": server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
        async with Metering(PLANS, **stores, worker="off", clock=FrozenClock(NOW), timing=PATIENT) as metering:
            told = Told(metering)
            assert await told.take_all(["org_1"] * 3) == {YES: 3}
            server.fill_disk(full=True)
            await told.until(DEGRADED, "org_1")
            assert await told.take("org_1", "strict") == UNAVAILABLE
            assert "it cannot write its data to disk: make room there" in caplog.text
            server.fill_disk(full=False)
            await told.until(YES, "org_1")
            await told.assert_billed()
    finally:
        server.kill()
