"""A ledger write that is cancelled while SQLite runs it leaves nothing behind, least of all the write lock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text

from mm_metering.backends.sql import dialects
from mm_metering.backends.sql.engine import Store, Transaction


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Nothing is finalized by chance."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("step", ["execute", "executemany", "commit"])
@pytest.mark.usefixtures("no_collection")
async def test_a_cancelled_write_does_not_keep_the_lock(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialects, "BUSY_TIMEOUT_S", 0.1)
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    await store.prepare()
    await store.write(lambda tx: tx.run(text("CREATE TABLE t (x)")))
    run, tasks = aiosqlite.Connection._execute, list[asyncio.Task[None]]()

    async def run_and_cancel(self: aiosqlite.Connection, function: Any, *args: Any, **options: Any) -> Any:
        if function.__name__ == step and args[:1] != ("BEGIN IMMEDIATE",) and tasks:
            asyncio.get_running_loop().call_soon(tasks.pop().cancel)
        return await run(self, function, *args, **options)  # type: ignore[no-untyped-call]

    async def work(tx: Transaction) -> None:
        await tx.run_each(text("INSERT INTO t VALUES (:x)"), [{"x": n} for n in range(1_000)])
        await tx.all(text("SELECT count(*) FROM t"))

    monkeypatch.setattr(aiosqlite.Connection, "_execute", run_and_cancel)
    tasks.append(asyncio.create_task(store.write(work)))
    await asyncio.wait(tasks)
    assert not tasks
    assert await store.write(lambda tx: tx.run(text("INSERT INTO t VALUES (0)"))) == 1
    await store.aclose()
