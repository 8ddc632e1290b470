"""How the house stands: one value for the command line and for pages."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.counters import START
from mm_metering.backends.work import DeadLetter, Lease
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import StoreUnavailable
from mm_metering.worker.leases import LEASE_S
from mm_metering.worker.status import FORGET_S, Status, Watch
from tests.flows.conftest import Make, Shell
from tests.redis_server import RedisServer

APP = ("--app", "house_of_status:metering")
LETTER = DeadLetter(0, 1, "1-0", 0, b"no fact", "not a fact", 7)


async def test_a_house_where_all_is_done(metering: Metering, clock: FrozenClock) -> None:
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    await metering.record_api_call("acme", "/v1")
    await metering.catch_up()
    await metering.close_period("2023-12")
    seen = await metering.status()
    assert (seen.as_of, seen.dead_letters, seen.alerts) == (clock.now(), 0, ())
    assert (seen.counters, seen.ledger) == metering.places
    assert [(each.oldest_at, each.lag_s, each.trouble) for each in seen.shards] == [(None, 0.0, "")]
    assert all((each.folded_at is None) == (seen.counters == "memory://") for each in seen.shards)
    assert seen.invoices == {"2023-12": {"finalized": 1}}
    assert {"close-month", "alerts"} <= {each.job for each in seen.jobs if each.state == "done"}
    assert seen.closed_at == clock.now()
    assert Status.model_validate_json(seen.model_dump_json()) == seen


async def test_what_waits_is_as_old_as_its_first_fact(shared_stores: dict[str, str], make: Make) -> None:
    metering = await make(**shared_stores, worker="off", clock=None)
    await metering.record_api_call("acme", "/v1")
    await metering.gate.settle()
    seen = await metering.status()
    (shard,) = seen.shards
    assert shard.oldest_at is not None
    assert (shard.folded_at, shard.worker, shard.lag_s >= 0) == (None, None, True)
    assert shard.oldest_at > datetime.now(UTC) - timedelta(minutes=5)
    later = await metering._lookout.look(datetime.now(UTC) + timedelta(hours=1))
    assert later.lag_s >= 3_000
    assert "no worker has a lease, and usage waits: run `mm-metering worker`" in later.troubles
    await metering.flush()
    (shard,) = (await metering.status()).shards
    assert (shard.oldest_at, shard.lag_s, bool(shard.folded_at)) == (None, 0.0, True)


async def test_a_later_life_of_the_counters_waits_from_its_start(redis_server: RedisServer, make: Make) -> None:
    metering = await make(counters=redis_server.url, worker="off", clock=None)
    await metering.record_api_call("acme", "/v1")
    await metering.flush()
    redis_server.flush()
    await metering.record_api_call("acme", "/v1")
    await metering.gate.settle()
    (shard,) = (await metering.status()).shards
    assert (shard.trouble, bool(shard.folded_at), bool(shard.oldest_at)) == ("", True, True)


async def test_a_server_that_does_not_answer_is_said_of_its_shard(make: Make, sqlite_url: str) -> None:
    metering = Metering(counters="redis://127.0.0.1:1/0", ledger=sqlite_url, journal="off")
    await metering.ledger.setup(apply=True)
    try:
        (shard,) = (await metering.status()).shards
        assert "127.0.0.1:1" in shard.trouble
        assert (await metering.status()).troubles[0].startswith("shard 0: ")
    finally:
        await metering.aclose()


async def test_a_ledger_that_does_not_answer_is_an_error() -> None:
    metering = Metering(ledger="postgresql://127.0.0.1:1/none", journal="off")
    with pytest.raises(StoreUnavailable):
        await metering.status()
    await metering.aclose()


class Seconds:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_worker_lives_while_its_lease_moves() -> None:
    now = Seconds()
    watch = Watch(now_s=now)

    def look(beat: int, after_s: float = 0.0) -> bool | None:
        now.now_s += after_s
        return watch.look([Lease("worker:w", "w", beat), Lease("shard:0", "w", 99)])["w"]

    assert look(1) is None, "nobody knows at a first look"
    assert look(1, 0.5) is None
    assert look(2, 0.5) is True
    assert look(2, LEASE_S - 1) is True
    assert look(2, 1) is False
    assert look(3, 1) is True
    assert look(4, FORGET_S + 1) is None, "it may have ended since, after another beat"
    assert watch.look([]) == {}


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("house_of_status")
    stores = {"counters": redis_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    clock = FrozenClock("2024-01-15T12:00:00Z")
    module.__getattr__ = lambda _: Metering(**stores, clock=clock, worker="off")  # type: ignore[method-assign,arg-type]
    monkeypatch.setitem(sys.modules, "house_of_status", module)
    return module


def test_the_command_shows_it_and_ends_with_1_where_somebody_must_look(house: ModuleType, shell: Shell) -> None:
    async def use() -> None:
        async with house.metering as metering:
            await metering.record_api_call("acme", "/v1")
            await metering.flush()

    async def bury() -> None:
        async with house.metering as metering:
            row = await metering.ledger.shard(0)
            place = {"generation": row.generation, "before": row.position, "after": "9999999999999-0"}
            defaults = TenantDefaults("free", 1, "UTC")
            assert row.position != START
            assert await metering.ledger.fold(0, **place, facts=(), dead=[LETTER], defaults=defaults)

    code, _, error = shell("status", *APP)
    assert (code, "run: mm-metering migrate" in error) == (2, True)
    asyncio.run(use())
    code, said, _ = shell("status", *APP)
    assert (code, "workers: none" in said, "nothing that somebody must look at" in said) == (0, True, True)
    asyncio.run(bury())
    code, said, _ = shell("status", *APP)
    assert (code, "LOOK  dead letters: 1: look at `mm-metering dead-letters`" in said) == (1, True)
    code, said, _ = shell("status", "--json", *APP)
    found = json.loads(said)
    assert (code, found["dead_letters"], found["alerts"][0]["kind"]) == (1, 1, "dead_letters")
    assert found["troubles"] == ["dead letters: 1: look at `mm-metering dead-letters`"]


def test_it_goes_on_until_somebody_stops_it(redis_server: RedisServer, tmp_path: Path) -> None:
    stores = {"MM_METERING_COUNTERS": redis_server.url, "MM_METERING_LEDGER": f"sqlite:///{tmp_path}/ledger.db"}
    command = [sys.executable, "-m", "mm_metering.cli"]
    env = {**os.environ, **stores, "MM_METERING_STATUS_EVERY": "0.5", "MM_METERING_STATUS_JSON": "1"}
    subprocess.run([*command, "migrate"], env=env, check=True, capture_output=True)
    with subprocess.Popen([*command, "status", "--watch"], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += '"as_of"' in line
            if seen == 2:
                process.send_signal(signal.SIGINT)
                seen += 1
    assert (process.returncode, seen >= 3) == (0, True)
