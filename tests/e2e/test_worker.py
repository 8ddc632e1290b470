"""``mm-metering worker`` as a process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mm_metering import Metering


def worker(stores: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    command = [sys.executable, "-m", "mm_metering.cli", "worker", *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_unreachable_store_is_one_sentence_and_code_3(tmp_path: Path) -> None:
    process = worker({"counters": "redis://127.0.0.1:1/0", "ledger": f"sqlite:///{tmp_path}/ledger.db"}, "--once")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert len(said.strip().splitlines()) == 1
    assert said.startswith("mm-metering: ")


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, str]:
    return {"counters": f"local://{tmp_path}/counters", "ledger": f"sqlite:///{tmp_path}/ledger.db"}


async def used(stores: dict[str, str], calls: int) -> None:
    """An app that only writes: its facts wait in the stream."""
    async with Metering(**stores, worker="off") as app:  # type: ignore[arg-type]
        await app.enforce_quota("acme", "api_calls", calls)


def in_ledger(stores: dict[str, str]) -> int:
    with closing(sqlite3.connect(stores["ledger"].removeprefix("sqlite:///"))) as database:
        (total,) = database.execute("SELECT COALESCE(SUM(quantity), 0) FROM mm_usage_fact").fetchone()
    return int(total)


async def test_two_workers_at_once_fold_each_fact_once(stores: dict[str, str]) -> None:
    for calls in (40, 2):
        await used(stores, calls)
        both = [worker(stores, "--once") for _ in range(2)]
        for process in both:
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (0, "")
    assert in_ledger(stores) == 42


async def test_sigterm_stops_a_worker_that_has_folded_what_was_there(stores: dict[str, str]) -> None:
    await used(stores, 7)
    process = worker(stores)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("mm-metering worker: local://")
    process.send_signal(signal.SIGTERM)
    said, wrong = process.communicate(timeout=60)
    assert (process.returncode, wrong) == (0, "")
    assert said == "mm-metering worker: facts folded: 1\n"
    assert in_ledger(stores) == 7
