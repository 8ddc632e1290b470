"""What was acknowledged outlives the process: a kill in the middle of an outage, a shutdown during one, a server that
loses everything afterwards. On a real server and SQLite; each fact is in the ledger once."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from mm_metering import Metering
from mm_metering.gate import gate
from mm_metering.gate.deadlines import Timing
from tests.e2e.journal_app import PLANS
from tests.forks import Program
from tests.redis_server import RedisServer

PATIENT = Timing(decision_s=10, load_s=10)


class App:
    """A process of ``journal_app``."""

    def __init__(self, stores: dict[str, str]) -> None:
        env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
        self.process = Program("tests.e2e.journal_app", env=env)

    def ready(self) -> App:
        assert self.answer() == "ready", self.process.communicate()
        return self

    def ask(self, order: str) -> str:
        print(order, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def stop(self) -> str:
        """Ends it cleanly; what it logged."""
        _, logged = self.process.communicate("stop\n", timeout=30)
        assert self.process.returncode == 0, logged
        return logged


@pytest.fixture
def stores(own_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Where they lie for this ledger."""
    return tmp_path / "ledger.db.journal"


def send(server: RedisServer, what: signal.Signals) -> None:
    if server._process is not None:
        server._process.send_signal(what)


def in_ledger(stores: dict[str, str]) -> tuple[int, int]:
    """What is billed, and by how many facts."""
    with closing(sqlite3.connect(stores["ledger"].removeprefix("sqlite:///"))) as database:
        query = "SELECT COALESCE(SUM(quantity), 0), COUNT(*) FROM mm_usage_fact WHERE kind = 'use'"
        total, facts = database.execute(query).fetchone()
    return total, facts


def names(files: Path) -> list[str]:
    return sorted(path.name for path in files.iterdir())


def worker(stores: dict[str, str]) -> str:
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    done = Program("mm_metering.cli", "worker", "--once", env=env)
    said, logged = done.communicate(timeout=60)
    assert done.returncode == 0, logged
    return said


def test_killed_in_an_outage_the_next_process_goes_on(
    own_server: RedisServer, stores: dict[str, str], files: Path
) -> None:
    """The server answers again only after the process has died, and then finds its last batch in the socket."""
    app = App(stores).ready()
    assert app.ask("5") == "5"
    assert not files.exists()
    send(own_server, signal.SIGSTOP)
    assert app.ask("7") == "7"
    app.kill()
    assert len(names(files)) == 1
    send(own_server, signal.SIGCONT)
    after = App(stores).ready()
    assert after.ask("flush") == "flushed"
    assert in_ledger(stores) == (12, 12)
    assert after.ask("1") == "1"
    after.stop()
    worker(stores)
    assert in_ledger(stores) == (13, 13)
    assert names(files) == []


def test_killed_in_an_outage_that_takes_the_server_s_data_along(
    own_server: RedisServer, stores: dict[str, str], files: Path
) -> None:
    """What was acknowledged before the outage, and was not drained, is in the file as well."""
    app = App(stores).ready()
    assert app.ask("5") == "5"
    own_server.kill()
    assert app.ask("7") == "7"
    app.kill()
    own_server.start()
    assert "facts folded: 12" in worker(stores)
    assert in_ledger(stores) == (12, 12)
    assert names(files) == []


def test_shut_down_while_the_server_is_away(own_server: RedisServer, stores: dict[str, str], files: Path) -> None:
    app = App(stores).ready()
    assert app.ask("5") == "5"
    own_server.kill()
    assert app.ask("7") == "7"
    assert "shut down without a store" in app.stop()
    own_server.start()
    after = App(stores).ready()
    assert after.ask("flush") == "flushed"
    assert in_ledger(stores) == (12, 12)
    after.stop()
    assert names(files) == []


def test_a_server_emptied_after_the_app_had_ended(own_server: RedisServer, stores: dict[str, str], files: Path) -> None:
    app = App(stores).ready()
    assert app.ask("9") == "9"
    app.stop()
    assert in_ledger(stores) == (0, 0)
    own_server.restart()
    worker(stores)
    assert in_ledger(stores) == (9, 9)
    assert names(files) == []


def test_two_processes_that_start_at_once_adopt_each_file_once(
    own_server: RedisServer, stores: dict[str, str], files: Path
) -> None:
    apps = [App(stores).ready() for _ in range(3)]
    assert [app.ask("2") for app in apps] == ["2", "2", "2"]
    send(own_server, signal.SIGSTOP)
    assert [app.ask("3") for app in apps] == ["3", "3", "3"]
    for app in apps:
        app.kill()
    assert len(names(files)) == 3
    send(own_server, signal.SIGCONT)
    both = [App(stores) for _ in range(2)]
    assert [app.ready().ask("flush") for app in both] == ["flushed", "flushed"]
    logged = "".join(app.stop() for app in both)
    assert logged.count("are taken over") == 3
    assert in_ledger(stores) == (15, 15)
    assert names(files) == []


async def test_a_sibling_that_runs_takes_over(
    own_server: RedisServer, stores: dict[str, str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "ADOPT_S", 0.05)
    app = await asyncio.to_thread(App(stores).ready)
    assert await asyncio.to_thread(app.ask, "1") == "1"
    async with Metering(PLANS, **stores, worker="inline", timing=PATIENT):  # type: ignore[arg-type]
        send(own_server, signal.SIGSTOP)
        assert await asyncio.to_thread(app.ask, "4") == "4"
        app.kill()
        send(own_server, signal.SIGCONT)
        async with asyncio.timeout(20):
            while in_ledger(stores) != (5, 5) or names(files):  # noqa: ASYNC110 - another process's work
                await asyncio.sleep(0.02)


async def test_a_loop_that_ended_in_an_outage_leaves_its_journal_to_the_others(
    own_server: RedisServer, stores: dict[str, str], files: Path
) -> None:
    metering = Metering(PLANS, **stores, worker="off", timing=PATIENT)  # type: ignore[arg-type]

    async def job() -> None:
        await metering.enforce_quota("acme", "calls")
        own_server.kill()
        assert await metering.enforce_quota("acme", "calls", 3)
        await metering.ledger.aclose()  # its connection here, which would outlive this loop

    await metering.startup()
    with ThreadPoolExecutor(1) as pool:
        await asyncio.wrap_future(pool.submit(asyncio.run, job()))
    own_server.start()
    await metering.shutdown()
    worker(stores)
    assert in_ledger(stores) == (4, 2)
    assert names(files) == []
