"""PostgreSQL's months: made ahead, filled from the default partition, detached when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from mm_metering.backends.ledger import Retired
from mm_metering.backends.sql import partitions
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.testing.ledger_contract import Books, at, level, quantities, use


@pytest_asyncio.fixture
async def ledger(postgres_url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(postgres_url)
    yield ledger
    await ledger.aclose()


async def rows(ledger: SqlLedger, statement: str) -> list[Any]:
    async def work(tx: Transaction) -> list[Any]:
        return [tuple(row) for row in await tx.all(text(statement))]

    return await ledger._store.read(work)


async def where(ledger: SqlLedger) -> dict[str, str]:
    """Each fact's partition."""
    return dict(await rows(ledger, "SELECT id, tableoid::regclass::text FROM mm_usage_fact"))


async def test_months_are_made_ahead_and_take_their_facts_out_of_the_default_partition(ledger: SqlLedger) -> None:
    days = ("2024-01-31 23:59", "2024-02-01 00:00", "2024-02-29 23:59", "2024-05-31 23:59", "2024-06-01 00:00")
    await Books(ledger).fold(*(use(day, day) for day in days))
    assert set((await where(ledger)).values()) == {partitions.DEFAULT}
    made = await ledger.make_room(at("2024-02-20 12:00"))
    assert made == tuple(f"mm_usage_fact_2024_{month}" for month in ("02", "03", "04", "05"))
    tables = (partitions.DEFAULT, made[0], made[0], made[3], partitions.DEFAULT)
    assert await where(ledger) == dict(zip(days, tables, strict=True))
    assert await ledger.make_room(at("2024-03-01 00:00")) == ("mm_usage_fact_2024_06",)
    assert (await where(ledger))[days[4]] == "mm_usage_fact_2024_06"
    assert await quantities(ledger, "api_calls") == {date.fromisoformat(day[:10]): 1 for day in days}


async def test_a_month_that_is_over_is_detached_whole_with_its_rows(ledger: SqlLedger) -> None:
    await ledger.make_room(at("2024-01-20 12:00"))
    stays = [level("seats", "2024-01-15 12:00", 4), use("new", "2024-02-01 00:00"), use("none", "2023-12-01 00:00")]
    await Books(ledger).fold(use("a", "2024-01-15 12:00"), use("b", "2024-01-31 23:59"), *stays)
    now = at("2024-03-20 12:00")
    assert await ledger.retire(now, keep_months=1) == Retired(0, ("mm_usage_fact_2024_01",), more=True)
    assert await where(ledger) == {
        "seats": partitions.DEFAULT,
        "new": "mm_usage_fact_2024_02",
        "none": partitions.DEFAULT,
    }
    assert await ledger.retire(now, keep_months=1) == Retired(1, (), more=False)
    assert await ledger.retire(now, keep_months=1) == Retired(0, (), more=False)
    archived = await rows(ledger, "SELECT id FROM mm_usage_fact_2024_01 ORDER BY id")
    assert archived == [("a",), ("b",), ("seats",)]


async def test_partitions_that_somebody_else_made_are_left_alone(ledger: SqlLedger) -> None:
    bounds = f"FROM ({at('2024-03-10 00:00')}) TO ({at('2024-03-17 00:00')})"

    async def make(tx: Transaction) -> None:
        await tx.run(text(f"CREATE TABLE a_week PARTITION OF mm_usage_fact FOR VALUES {bounds}"))

    await ledger._store.write(make)
    made = await ledger.make_room(at("2024-02-20 12:00"))
    assert made == tuple(f"mm_usage_fact_2024_{month}" for month in ("02", "04", "05"))
    assert (await ledger.retire(at("2024-04-20 12:00"), keep_months=0)).tables == ("mm_usage_fact_2024_02",)
    assert (await ledger.retire(at("2024-04-20 12:00"), keep_months=0)).tables == ("a_week",)


async def test_room_is_made_and_months_go_while_facts_are_folded(ledger: SqlLedger) -> None:
    """Four shards write into the months that are moved and detached; each fact counts once, wherever it went."""

    async def drain(shard: int) -> None:
        books = Books(ledger, shard=shard)
        for month in (1, 2, 3, 4, 5, 6):
            facts = [use(f"{month}.{n}", f"2024-{month:02}-15 12:00", tenant=f"t{shard}") for n in range(50)]
            await books.fold(*facts)
            await books.fold(*facts)

    async def keep() -> None:
        for month in (1, 2, 3):
            await ledger.make_room(at(f"2024-{month:02}-15 12:00"))
        await ledger.retire(at("2024-01-15 12:00"), keep_months=0)

    await asyncio.gather(keep(), *map(drain, range(4)))
    expected = {date(2024, month, 15): 50 for month in (1, 2, 3, 4, 5, 6)}
    assert [await quantities(ledger, "api_calls", f"t{shard}") for shard in range(4)] == [expected] * 4
    assert partitions.DEFAULT not in (await where(ledger)).values()
