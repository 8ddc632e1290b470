"""Rows of facts and cells as the drain would have left them, written straight into a ledger's tables."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from typing import Any, Final

import asyncpg

from mm_metering.backends.sql.tables import usage_cell, usage_fact
from mm_metering.core.periods import EPOCH

TENANTS: Final = 1_000
ROUTES: Final = ("/v1/loans", "/v1/loans/{id}", "/v1/rates")
METERS: Final = ("api_calls", "ai_calls")
COUNTS: Final = '[["api_calls","",1],["ai_calls","",1]]'
DAYS: Final = 366
DAY_US: Final = 86_400_000_000
PAGE: Final = 50_000

FACTS: Final = tuple(usage_fact.columns.keys())
CELL_KEY: Final = usage_cell.primary_key.columns.keys()
CELLS: Final = (*CELL_KEY, "quantity", "cost_nanos", "weighted", "count", "refused", "revision")

Row = tuple[Any, ...]


def tenant_name(number: int) -> str:
    return f"tenant-{number}"


def facts(before: date, per_tenant: range) -> Iterator[Row]:
    """In key order: each tenant's facts of these numbers, spread over the days before, with ids as uuid7 makes them."""
    chance = random.Random(per_tenant.start)
    first_us, step_us = (before - timedelta(DAYS) - EPOCH.date()).days * DAY_US, DAYS * DAY_US // per_tenant.stop
    for tenant in sorted(map(tenant_name, range(TENANTS))):
        for number in per_tenant:
            at_us = first_us + number * step_us + chance.randrange(step_us)
            about = ("use", "api_call", ROUTES[number % len(ROUTES)], 1, None, COUNTS, True, None, None, False, False)
            yield (tenant, _uuid7(at_us, chance), at_us, *about, at_us)


def cells(before: date, per_day: int) -> Iterator[Row]:
    """In key order: every route of every tenant, each day."""
    for tenant in sorted(map(tenant_name, range(TENANTS))):
        for back in range(DAYS, 0, -1):
            for meter in sorted(("*api_call", *METERS)):
                for route in ROUTES:
                    yield (tenant, before - timedelta(back), 0, meter, route, "", per_day, 0, 0, per_day, 0, 1)


def _uuid7(at_us: int, chance: random.Random) -> str:
    text = f"{at_us // 1000:012x}7{chance.getrandbits(76):019x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


async def fill(url: str, before: date, per_tenant: range) -> None:
    """Adds the facts of these numbers to every tenant, and the cells with the first of them."""
    day_cells = cells(before, 1) if per_tenant.start == 0 else iter(())
    if url.startswith("sqlite"):
        _into_sqlite(url.removeprefix("sqlite:///"), facts(before, per_tenant), day_cells)
    else:
        await _into_postgres(url, facts(before, per_tenant), day_cells)


def _into_sqlite(path: str, new_facts: Iterator[Row], new_cells: Iterator[Row]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -1000000")
        for table, columns, rows in (("mm_usage_fact", FACTS, new_facts), ("mm_usage_cell", CELLS, new_cells)):
            insert = f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, map(_plain, rows))
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _plain(row: Row) -> Row:
    return tuple(each.isoformat() if isinstance(each, date) else each for each in row)


async def _into_postgres(url: str, new_facts: Iterator[Row], new_cells: Iterator[Row]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for table, columns, rows in (("mm_usage_fact", FACTS, new_facts), ("mm_usage_cell", CELLS, new_cells)):
            await connection.copy_records_to_table(table, records=rows, columns=columns)
    finally:
        await connection.close()
