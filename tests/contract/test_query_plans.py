"""The statements of the fold and of snapshots find facts by an index, whatever the planner knows about the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from sqlalchemy import event, text

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.facts import void
from mm_metering.testing.ledger_contract import Books, ai_close, ai_hold, at, level, look, use

PARTITION = "mm_usage_fact_2024_01"


@pytest_asyncio.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(sqlite_url)
    await ledger.setup(apply=True)
    yield ledger
    await ledger.aclose()


@pytest_asyncio.fixture
async def postgres(postgres_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(postgres_url)
    await ledger.make_room(at("2024-01-15 12:00"))
    yield ledger
    await ledger.aclose()


async def plans(ledger: SqlLedger, explain: str) -> list[str]:
    """The lines of how each statement that touches facts is carried out."""
    seen: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE")) and "mm_usage_fact" in statement:
            seen[statement] = parameters

    engine = ledger._store._engine().sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await work(ledger)
    event.remove(engine, "before_cursor_execute", note)

    async def ask(tx: Transaction) -> list[str]:
        asked = [await tx.connection.exec_driver_sql(f"{explain} {each}", seen[each]) for each in seen]
        return [str(row[-1]) for rows in asked for row in rows]

    return await ledger._store.write(ask)


async def work(ledger: SqlLedger) -> None:
    books, fact, hold = Books(ledger), use("a", "2024-01-15 12:00"), ai_hold("h", "2024-01-15 12:00")
    await books.fold(fact, hold, level("x", "2024-01-15 12:00", 4))
    await books.fold(void(fact), ai_close(hold), level("y", "2024-01-15 11:00", 4, kind="add"))
    await look(ledger, "acme")
    await ledger.facts("acme", after=(0, ""), limit=9)
    await ledger.overview()


async def test_sqlite_uses_the_index_that_was_made_for_it(sqlite: SqlLedger) -> None:
    lines = await plans(sqlite, "EXPLAIN QUERY PLAN")
    used = {line.partition("USING ")[2] for line in lines if "mm_usage_fact" in line or "mm_close" in line}
    assert used == {
        "PRIMARY KEY (tenant=? AND occurred_us=? AND id=?)",
        "PRIMARY KEY (tenant=? AND (occurred_us,id)>(?,?))",
        "PRIMARY KEY (tenant=?)",  # whether a tenant has any
        "INDEX mm_usage_fact_levels (tenant=? AND resource=? AND occurred_us>?)",
        "INDEX mm_usage_fact_holds (tenant=? AND id=?)",
        "INDEX mm_usage_fact_closes (tenant=? AND target=?)",
        "INDEX mm_usage_fact_open (tenant=? AND open=?)",
        "COVERING INDEX mm_usage_fact_open",  # how many holds are open in the house
    }


async def test_postgres_uses_an_index_also_where_the_table_was_small_when_it_last_looked(postgres: SqlLedger) -> None:
    async def analyze(tx: Transaction) -> None:
        await tx.run(text("ANALYZE"))

    await Books(postgres, shard=1).fold(use("b", "2024-01-15 12:00"))
    await postgres._store.write(analyze)
    lines = [line for line in await plans(postgres, "EXPLAIN") if PARTITION in line]
    assert lines
    assert not [line for line in lines if "Seq Scan" in line]
