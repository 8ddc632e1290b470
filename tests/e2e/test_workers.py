"""Several ``mm-metering worker`` processes: leases, jobs, kills, and how each of them ends.

``MM_JOB_KILLS`` sets how many workers are killed while a job runs each second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from mm_metering import Metering
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.sql import open_ledger
from mm_metering.worker.leases import LEASE_S, SHARD
from tests.forks import Program
from tests.redis_server import RedisServer

SHARDS = 6
WITHIN_S = 40.0
STOPS_WITHIN_S = 5.0
KILLS = int(os.environ.get("MM_JOB_KILLS", "8"))


class Workers:
    """Worker processes of a test; all end with it."""

    def __init__(self, stores: dict[str, str]) -> None:
        self._env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
        self.running: list[Program] = []

    def start(self, *arguments: str) -> Program:
        process = Program("mm_metering.cli", "worker", *arguments, env=self._env)
        self.running.append(process)
        return process

    def greeted(self, *arguments: str) -> tuple[Program, str]:
        process = self.start(*arguments)
        return process, process.stdout.readline()


@contextlib.contextmanager
def workers_on(stores: dict[str, str]) -> Iterator[Workers]:
    workers = Workers(stores)
    try:
        yield workers
    finally:
        for process in workers.running:
            process.kill()
            process.communicate()


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    file = f"sqlite:///{tmp_path}/ledger.db"
    ledger = file if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    return {"counters": f"{redis_server.url}?shards={SHARDS}", "ledger": ledger, "journal": "off"}


@pytest.fixture
def workers(stores: dict[str, str]) -> Iterator[Workers]:
    with workers_on(stores) as workers:
        yield workers


@contextlib.asynccontextmanager
async def app_on(stores: dict[str, str]) -> AsyncIterator[Metering]:
    async with Metering(**stores, worker="off", apply="always") as app:  # type: ignore[arg-type]
        yield app


async def parts(ledger: Ledger) -> list[int]:
    """How many shards each worker has, as the ledger has it."""
    leases = await ledger.hold("onlooker")
    return sorted(Counter(lease.owner for lease in leases if lease.name.startswith(SHARD)).values())


async def until(ledger: Ledger, expected: list[int]) -> float:
    began = time.monotonic()
    async with asyncio.timeout(WITHIN_S):
        while await parts(ledger) != expected:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.timeout(150)
async def test_shards_are_spread_and_taken_over_and_each_fact_is_folded_once(
    stores: dict[str, str], workers: Workers
) -> None:
    used, enough = 0, asyncio.Event()
    async with app_on(stores) as app:

        async def use() -> None:
            nonlocal used
            while not enough.is_set():
                await app.record_api_call(f"tenant-{used % 40}", "/v1/items")
                used += 1
                await asyncio.sleep(0.002)  # some hundred a second: not to see how much a SQLite file takes

        using = asyncio.create_task(use())
        first = workers.start()
        await until(app.ledger, [6])
        second, third = workers.start(), workers.start()
        await until(app.ledger, [2, 2, 2])
        second.kill()
        took_s = await until(app.ledger, [3, 3])
        assert took_s > LEASE_S - 2, "it could not know sooner"
        third.send_signal(signal.SIGTERM)
        await until(app.ledger, [6])
        workers.start()
        await until(app.ledger, [3, 3])
        first.kill()
        await until(app.ledger, [6])
        enough.set()
        await using
        async with asyncio.timeout(WITHIN_S):
            while app.gate.journal_facts:  # noqa: ASYNC110 - until the ledger has confirmed all
                await asyncio.sleep(0.05)
        assert await counted(app.ledger) == used > 100


async def counted(ledger: Ledger) -> int:
    tenants = [f"tenant-{number}" for number in range(40)]
    return sum([len(await ledger.facts(tenant, after=(0, ""), limit=100_000)) for tenant in tenants])


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_a_job_runs_once_per_period_however_its_workers_are_killed(
    request: pytest.FixtureRequest, stores: dict[str, str], tmp_path: Path
) -> None:
    url, log = stores["ledger"], tmp_path / "log"
    ledger = open_ledger(url)
    await ledger.setup(apply=True)
    chance, names = random.Random(request.node.name), iter(range(1000))

    def start() -> Program:
        return Program("tests.e2e.job_worker", url, str(log), f"w{next(names)}", env={})

    running = [start() for _ in range(3)]
    try:
        async with asyncio.timeout(WITHIN_S):
            while not log.exists():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            victim = running.pop(chance.randrange(len(running)))
            victim.kill()
            victim.communicate()
            running.append(start())
        until_us = time.time_ns() // 1000
        async with asyncio.timeout(WITHIN_S):
            while True:
                runs = await ledger.runs("tick", until_us=until_us, limit=1000)
                if all(run.state == "done" for run in runs) and until_us - runs[0].period_us < 1_000_000:
                    break
                await asyncio.sleep(0.1)
    finally:
        for process in running:
            process.kill()
            process.communicate()
        await ledger.aclose()
    periods = [run.period_us for run in reversed(runs)]
    assert periods == list(range(periods[0], periods[-1] + 1, 1_000_000)), "and none was left out"
    said = [line.split() for line in log.read_text().splitlines()]
    begun = Counter((period, fence) for what, period, fence, _ in said if what == "begun")
    ended = Counter((int(period) * 1_000_000, int(fence)) for what, period, fence, _ in said if what == "ended")
    assert set(begun.values()) == {1}, "a fence is had by one"
    assert {(run.period_us, run.fence) for run in runs} <= set(ended)
    assert len(runs) >= 5


# -- how it ends ------------------------------------------------------------------------------------------------------


async def stopped_while(workers: Workers, *, signals: int = 1) -> float:
    """How long a worker takes to end that is told to while its stores hang; it ends well in any case."""
    (process,) = workers.running
    began = time.monotonic()
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
    said, _ = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
    took_s = time.monotonic() - began
    assert process.returncode == 0
    assert said.startswith("mm-metering worker: facts folded: ")
    return took_s


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_stop_does_not_wait_for_counters_that_hang(
    own_server: RedisServer, tmp_path: Path, signals: int
) -> None:
    stores = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    with workers_on(stores) as workers:
        async with app_on(stores) as app:
            workers.greeted()
            await until(app.ledger, [1])
            with own_server.stopped():
                await asyncio.sleep(0.3)
                took_s = await stopped_while(workers, signals=signals)
    assert took_s < (STOPS_WITHIN_S if signals == 1 else 2.5)


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_stop_does_not_wait_for_a_file_that_another_writes(
    redis_server: RedisServer, tmp_path: Path, signals: int
) -> None:
    stores = {"counters": redis_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    with workers_on(stores) as workers:
        async with app_on(stores) as app:
            await app.record_api_call("acme", "/v1/items")
            workers.greeted()
            await until(app.ledger, [1])
            with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await app.record_api_call("acme", "/v1/items")
                await asyncio.sleep(0.3)
                took_s = await stopped_while(workers, signals=signals)
    assert took_s < (STOPS_WITHIN_S if signals == 1 else 2.5)


@pytest.mark.parametrize("hung", ["a lock", "a backend that stands still"])
async def test_a_stop_does_not_wait_for_a_fold_in_mid_transaction(
    redis_server: RedisServer, postgres_url: str, hung: str
) -> None:
    stores = {"counters": redis_server.url, "ledger": postgres_url}
    with workers_on(stores) as workers:
        async with app_on(stores) as app:
            await app.enforce_quota("acme", "api_calls")
            workers.greeted()
            other = await asyncpg.connect(postgres_url)
            async with other.transaction():
                await other.execute("LOCK mm_usage_cell IN EXCLUSIVE MODE")
                await app.record_api_call("acme", "/v1/items")
                pids = await waiting(postgres_url)
                with halted(pids if hung != "a lock" else []):
                    took_s = await stopped_while(workers)
            await other.close()
            assert took_s < STOPS_WITHIN_S
            await app.flush()
            assert len(await app.ledger.facts("acme", after=(0, ""), limit=9)) == 2


async def waiting(url: str) -> list[int]:
    """The backends that wait for a lock."""
    connection = await asyncpg.connect(url)
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(WITHIN_S):
        while not (rows := await connection.fetch(query)):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    await connection.close()
    return [row["pid"] for row in rows]


@contextlib.contextmanager
def halted(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_stop_folds_what_others_left_behind(stores: dict[str, str], workers: Workers) -> None:
    """Also in shards that a killed worker still has a lease of."""
    async with app_on(stores) as app:
        killed = workers.start()
        await until(app.ledger, [6])
        killed.kill()
        killed.communicate()
        workers.running.remove(killed)
        for number in range(40):
            await app.record_api_call(f"tenant-{number}", "/v1/items")
        workers.greeted()
        assert await stopped_while(workers) < LEASE_S
        assert await counted(app.ledger) == 40


# -- health -----------------------------------------------------------------------------------------------------------


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_health_says_what_is_wrong_and_metrics_never_who(own_server: RedisServer, tmp_path: Path) -> None:
    stores = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    with workers_on(stores) as workers:
        async with app_on(stores) as app:
            _, greeting = workers.greeted("--health", "127.0.0.1:0")
            place = re.search(r"http://[\d.:]+", greeting)
            assert place is not None
            url = place.group()
            for _ in range(3):
                await app.enforce_quota("org-very-secret", "api_calls")
            async with asyncio.timeout(WITHIN_S):
                while app.gate.journal_facts:  # noqa: ASYNC110 - until the ledger has confirmed all
                    await asyncio.sleep(0.05)
            status, body = await asyncio.to_thread(ask, f"{url}/healthz")
            assert (status, json.loads(body)["status"], json.loads(body)["shards"]) == (200, "ok", [0])
            status, metrics = await asyncio.to_thread(ask, f"{url}/metrics")
            with own_server.stopped():
                status_then, body_then = await asyncio.to_thread(ask, f"{url}/healthz")
            assert (status_then, json.loads(body_then)["ledger"]) == (503, "ok")
            assert json.loads(body_then)["counters"] != "ok"
            async with asyncio.timeout(WITHIN_S):
                while (await asyncio.to_thread(ask, f"{url}/healthz"))[0] != 200:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert (status, values["mm_metering_fold_facts_total"], values["mm_metering_worker_leases"]) == (200, "3", "1")
    assert values["mm_metering_dead_letters_kept"] == "0"
    assert 0 <= float(values['mm_metering_fold_lag_seconds{shard="0"}']) < WITHIN_S
    assert {name.partition("{")[0] for name in values} == {
        line.split()[2] for line in metrics.splitlines() if line.startswith("# TYPE")
    }
    assert "secret" not in metrics + body + body_then
