"""Ledgers that are full, away for long, older than the counters, or of another version. See test_bad_states.py."""

from __future__ import annotations

import asyncio
import logging
import resource
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from mm_metering import FrozenClock, Metering, StoreUnavailable
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.backends.redis import RedisCounters, library
from mm_metering.backends.sql.engine import Store
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.backends.sql.schema import VERSION_TABLE
from mm_metering.core.facts import WIRE
from mm_metering.errors import NotApplied
from mm_metering.gate.deadlines import Timing
from mm_metering.testing import assert_conserved
from tests.e2e.callers import PLANS
from tests.e2e.told import DEGRADED, GIVE_UP_S, NO, NOW, PATIENT, STREAM, UNAVAILABLE, YES, Open, Told
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer


class Place:
    """A ledger that can be copied away and put back, as an operator would."""

    url: str

    async def save(self) -> None: ...

    async def put_back(self) -> None: ...


class SqliteFile(Place):
    def __init__(self, folder: Path) -> None:
        self._file = folder / "ledger.db"
        self.url = f"sqlite:///{self._file}"

    async def save(self) -> None:
        with closing(sqlite3.connect(self._file)) as database, closing(sqlite3.connect(f"{self._file}.old")) as copy:
            database.backup(copy)

    async def put_back(self) -> None:
        for copy in self._file.parent.glob(f"{self._file.name}-*"):  # the write-ahead log of the newer one
            copy.unlink()
        shutil.copy(f"{self._file}.old", self._file)


class PostgresDatabase(Place):
    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self.url = url
        self._name = url.rpartition("@/")[2].partition("?")[0]

    async def save(self) -> None:
        await self._server._execute(f"CREATE DATABASE old_{self._name} TEMPLATE {self._name}")

    async def put_back(self) -> None:
        await self._server._execute(f"DROP DATABASE {self._name} WITH (FORCE)")
        await self._server._execute(f"ALTER DATABASE old_{self._name} RENAME TO {self._name}")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return SqliteFile(tmp_path)
    return PostgresDatabase(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_url"))


@pytest.fixture
def stores(own_server: RedisServer, place: Place, tmp_path: Path) -> dict[str, Any]:
    return {
        "counters": own_server.url,
        "ledger": place.url,
        "journal": tmp_path / "journal",
        "clock": FrozenClock(NOW),
        "timing": PATIENT,
        "worker": "off",
    }


# -- an older one, put back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redis", ["goes on", "restarts empty"])
async def test_an_older_ledger_is_noticed_and_followed(
    own_server: RedisServer, place: Place, stores: dict[str, Any], redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    """3 units are in the copy, 5 were folded after it, 2 were not folded yet: 5 are in no store any more, and the error
    says between which positions they lie. Nothing counts twice, and nobody waits."""
    async with Metering(PLANS, **stores) as metering:
        await Told(metering).take_all(["org_1"] * 3)
        await metering.flush()
    await place.save()
    async with Metering(PLANS, **stores) as metering:
        await Told(metering).take_all(["org_1"] * 5)
        await metering.flush()
        await Told(metering).take_all(["org_1"] * 2)
    await place.put_back()
    if redis == "restarts empty":
        own_server.restart()
    async with Metering(PLANS, **stores) as metering:
        told = Told(metering)
        assert await told.take("org_1") == YES
        told.units["org_1"]["soft"] += 3 + 2
        await told.assert_billed()
        assert await told.take("org_2") == YES
        await told.assert_billed()
    errors = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    if redis == "goes on":
        (error,) = errors
        assert "an older one, put back" in error
        assert "record that usage again" in error
    else:
        assert errors == []


async def test_a_process_that_goes_on_over_an_older_ledger_and_an_empty_server(
    own_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both lost their memory of generations: the process that lives has not, and replays what it knows."""
    ledger = MemoryLedger()
    options: dict[str, Any] = {"counters": own_server.url, "clock": FrozenClock(NOW), "timing": PATIENT}
    async with Metering(PLANS, ledger=ledger, worker="off", **options) as metering:
        told = Told(metering)
        await told.take_all(["org_1"] * 3)
        for _ in range(3):
            own_server.flush()
            await told.until(YES, "org_1")
        generation = metering.gate._lane("org_1").generation
        assert generation > 3
        row = ledger._shards[0]
        ledger._shards[0] = row._replace(generation=0, position="0-0", next_generation=1)
        own_server.flush()
        await told.until(YES, "org_1")
        await told.assert_billed()
        assert metering.gate._lane("org_1").generation == generation + 1
    assert not [each for each in caplog.records if each.levelno == logging.ERROR]


# -- away for long -----------------------------------------------------------------------------------------------------


async def _until_folded(metering: Metering) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while metering.gate.journal_facts:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.05)


async def test_takes_go_on_while_postgres_is_away(
    own_server: RedisServer, postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """For tenants that are loaded, by their limits; others by the outage policy. The stream keeps everything."""
    name = postgres_url.rpartition("@/")[2].partition("?")[0]
    options: dict[str, Any] = {"clock": FrozenClock(NOW), "timing": Timing(decision_s=2, load_s=1)}
    places: dict[str, Any] = {"counters": own_server.url, "ledger": postgres_url, "journal": tmp_path / "journal"}
    async with Metering(PLANS, **places, **options, worker="inline") as metering:
        await metering.put_tenant("few", plan="few")
        told = Told(metering)
        await told.take_all(["org_1", "few"])
        await postgres_server._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await postgres_server._execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        assert await told.take_all(["org_1"] * 50) == {YES: 50}
        assert await told.take_all(["few"] * 30) == {YES: 19, NO: 11}
        assert await told.take("new") == DEGRADED
        assert await told.take("new", "strict") == UNAVAILABLE
        before = own_server.command("XLEN", STREAM)
        assert before != b":0\r\n"
        await postgres_server._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await _until_folded(metering)
        assert own_server.command("XLEN", STREAM) == b":0\r\n"
        await told.assert_billed()


async def test_takes_go_on_while_another_writer_has_locked_sqlite(own_server: RedisServer, tmp_path: Path) -> None:
    options: dict[str, Any] = {"clock": FrozenClock(NOW), "timing": Timing(decision_s=2, load_s=1)}
    places: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(PLANS, **places, **options, worker="inline") as metering:
        told = Told(metering)
        await told.take("org_1")
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)) as other:
            await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")  # the worker may have to commit first
            assert await told.take_all(["org_1"] * 50) == {YES: 50}
            assert await told.take("new") == DEGRADED
            assert await told.take("new", "strict") == UNAVAILABLE
            other.execute("ROLLBACK")
        await _until_folded(metering)
        await told.assert_billed()


# -- full --------------------------------------------------------------------------------------------------------------


def _full(metering: Metering, *, is_full: bool) -> None:
    """SQLite's own bound of the file's size: the error of a full disk."""
    assert isinstance(metering.ledger, SqlLedger)

    def bound(connection: Any, *_: object) -> None:
        connection.cursor().execute(f"PRAGMA max_page_count = {1 if is_full else 1_000_000}")

    event.listen(metering.ledger._store._engine().sync_engine, "checkout", bound)


def _refused(_: Metering, *, is_full: bool) -> None:
    """No file of this process may grow past a page: writing fails, as on a disk that is broken."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if is_full else resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def no_bound() -> Iterator[None]:
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("no_bound")
@pytest.mark.parametrize("fill", [_full, _refused])
async def test_a_ledger_that_cannot_be_written_takes_the_backlog_when_it_can(
    own_server: RedisServer, tmp_path: Path, fill: Callable[..., None]
) -> None:
    places: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(PLANS, **places, worker="off", clock=FrozenClock(NOW), timing=PATIENT) as metering:
        told = Told(metering)
        await told.take("org_1")
        await metering.flush()
        fill(metering, is_full=True)
        assert await told.take_all(["org_1"] * 400) == {YES: 400}
        with pytest.raises(StoreUnavailable, match=r"ledger\.db failed .*; make room on its disk"):
            await metering.flush()
        assert await told.take("org_1") == YES
        fill(metering, is_full=False)
        await told.assert_billed()


@pytest.mark.usefixtures("no_bound")
async def test_a_journal_whose_disk_is_full_keeps_it_in_memory(
    own_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(PLANS, **places, worker="off", clock=FrozenClock(NOW), timing=PATIENT) as metering:
        told = Told(metering)
        await told.take("org_1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        await asyncio.to_thread(own_server.kill)
        assert await told.take_all(["org_1"] * 20) == {DEGRADED: 20}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "nothing is written to a file, so what is unconfirmed ends with this process" in caplog.text
        await asyncio.to_thread(own_server.start)
        await told.until(YES, "org_1")
        await told.assert_billed()


# -- versions side by side ---------------------------------------------------------------------------------------------


async def test_facts_of_a_newer_format_stop_the_shard_until_the_worker_is_upgraded(
    own_server: RedisServer, opened: Open
) -> None:
    """They are never skipped: what comes after them waits too, and takes go on."""
    metering = await opened()
    told = Told(metering)
    await told.take_all(["org_1"] * 3)
    await metering.flush()
    newer = own_server.command("XADD", STREAM, "*", str(WIRE + 1), "something-new").split(b"\r\n")[1].decode()
    assert await told.take_all(["org_1"] * 2) == {YES: 2}
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"facts of format 2, not 1; upgrade the workers first"):
            await metering.flush()
    assert await told.take("org_1") == YES
    assert own_server.command("XDEL", STREAM, newer) == b":1\r\n"  # as a newer worker would, once it has them
    await told.assert_billed()


async def test_an_app_of_the_version_before_counts_beside_this_one(own_server: RedisServer, opened: Open) -> None:
    """Each has a script library of its own, under its own name; shard, sessions and counters are the same."""
    older = RedisCounters(own_server.url)
    name, source = library()
    older._library = library()._replace(name="mm_metering_1_older", source=source.replace(name, "mm_metering_1_older"))
    this, before = await opened(), await opened(counters=older)
    both = Told(this), Told(before)
    for _ in range(4):
        answers = await asyncio.gather(*(told.take_all(["few"] * 2 + ["org_1"] * 5) for told in both))
        assert sum(answers, Counter()) == {YES: 14}
    await this.put_tenant("few", plan="few")
    answers = await asyncio.gather(*(told.take_all(["few"] * 10) for told in both))
    assert sum(answers, Counter()) == {YES: 20 - 16, NO: 16}
    for told in both:
        await told.metering.flush()
    await assert_conserved(this, told={"few": {"soft": 20}, "org_1": {"soft": 40}})
    assert b"mm_metering_1_older" in own_server.command("FUNCTION", "LIST")


async def test_an_app_goes_on_over_a_schema_that_a_newer_release_has_migrated(place: Place) -> None:
    """And an older schema is refused with the command, where it may not be applied unasked."""
    options: dict[str, Any] = {"ledger": place.url, "clock": FrozenClock(NOW)}
    async with Metering(PLANS, **options, apply="always") as metering:
        await metering.enforce_quota("org_1", "soft")
    await _set_revision(place.url, "9999_of_tomorrow")
    async with Metering(PLANS, **options, apply="never") as metering:
        await metering.enforce_quota("org_1", "soft")
        await assert_conserved(metering, told={"org_1": {"soft": 2}})
    await _set_revision(place.url, None)
    refused = Metering(PLANS, **options, apply="never")
    with pytest.raises(NotApplied, match=r"has no schema yet, this release needs \w+; run: mm-metering migrate"):
        await refused.startup()
    await refused.ledger.aclose()


async def _set_revision(url: str, revision: str | None) -> None:
    store = Store(url)
    await store.write(lambda tx: tx.run(text(f"DELETE FROM {VERSION_TABLE}")))
    if revision:
        await store.write(lambda tx: tx.run(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{revision}')")))
    await store.aclose()
