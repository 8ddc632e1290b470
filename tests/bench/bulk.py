"""Facts by the million, written by the database itself, with the cells that they come to.

They are what the fold would have left of calls and exports in UTC, but for the digests, to which they add nothing: so
that what was acknowledged, folded and kept in cells still agrees, while cells that are folded anew would differ.
PostgreSQL's rows are in the order in which they would have come.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Final, NamedTuple

import asyncpg

ROUTES: Final = ("/v1/loans", "/v1/loans/{id}", "/v1/rates", "/v1/quotes", "/v1/scenarios/{id}", "/v1/borrowers")
EXPORTS: Final = ("report_pdf", "report_csv", "loans_csv")
INDEXES: Final = (
    ("mm_usage_fact_stored", "mm_usage_fact (stored_us)"),
    ("mm_usage_cell_day", "mm_usage_cell (day, tenant)"),
)
"""Made afterwards, as a migration does."""


class Share(NamedTuple):
    """One tenant's part of the facts: so many, ``step_us`` apart from ``start_us`` on."""

    tenant: str
    number: int
    since_us: int
    facts: int
    start_us: int
    step_us: int


def _hex(value: str, digits: int, *, is_sqlite: bool) -> str:
    return f"printf('%0{digits}x', {value})" if is_sqlite else f"lpad(to_hex({value}), {digits}, '0')"


def _name(*, is_sqlite: bool) -> str:
    """An id as uuid7 makes it."""
    millis, parts = "(at_us / 1000)", list[str]()
    for value, digits in (
        (f"({millis} / 65536)", 8),
        (f"({millis} % 65536)", 4),
        ("(28672 + i % 4096)", 4),
        ("(32768 + number % 4096)", 4),
        ("((i * 2654435761 + number) % 281474976710656)", 12),
    ):
        parts.append(_hex(value, digits, is_sqlite=is_sqlite))
    return " || '-' || ".join(parts)


def _pick(names: Sequence[str]) -> str:
    cases = " ".join(f"WHEN {number} THEN '{name}'" for number, name in enumerate(names))
    return f"CASE draw % {len(names)} {cases} END"


def _facts(*, is_sqlite: bool) -> str:
    counts = (
        """CASE WHEN draw < 940 THEN '[["api_calls","",1]]'"""
        """ WHEN draw % 3 < 2 THEN '[["exports","",1],["reports","",1]]' ELSE '[["exports","",1]]' END"""
    )
    return f"""
    INSERT INTO mm_usage_fact (tenant, id, occurred_us, kind, event_type, resource, quantity, cost_nanos, counts,
        success, target, metadata, voided, open, stored_us)
    SELECT tenant, {_name(is_sqlite=is_sqlite)}, at_us, 'use',
        CASE WHEN draw < 940 THEN 'api_call' ELSE 'export' END,
        CASE WHEN draw < 940 THEN {_pick(ROUTES)} ELSE {_pick(EXPORTS)} END,
        1, NULL, {counts}, true, NULL, NULL, false, false, at_us + 2000000
    FROM (
        SELECT tenant, number, i, (i * 7919 + number * 104729) % 1000 AS draw,
            start_us + i * step_us + (i * 7919 % 1000) * step_us / 1000 AS at_us
        FROM bench_share JOIN bench_number ON i < facts
    ) AS drawn ORDER BY {"tenant, at_us" if is_sqlite else "at_us"}
    """


def _cells(*, is_sqlite: bool) -> str:
    day = "date(occurred_us / 1000000, 'unixepoch')"
    if not is_sqlite:
        day = "(to_timestamp(occurred_us / 1000000) AT TIME ZONE 'UTC')::date"
    return f"""
    INSERT INTO mm_usage_cell (tenant, day, since_us, meter, resource, scope, quantity, cost_nanos, weighted, count,
        revision)
    SELECT tenant, day, since_us, meter, resource, '', number, 0, 0, number, number FROM (
        SELECT f.tenant AS tenant, {day} AS day, since_us, event_type, resource, count(*) AS number
        FROM mm_usage_fact AS f JOIN bench_share AS s ON s.tenant = f.tenant GROUP BY 1, 2, 3, 4, 5
    ) AS summed JOIN (
        SELECT 'api_call' AS type, '*api_call' AS meter UNION ALL SELECT 'api_call', 'api_calls'
        UNION ALL SELECT 'export', '*export' UNION ALL SELECT 'export', 'exports'
        UNION ALL SELECT 'export', 'reports'
    ) AS counted ON type = event_type AND (meter <> 'reports' OR resource LIKE 'report%') ORDER BY 1, 2, 3, 4, 5
    """


def _statements(shares: Sequence[Share], *, is_sqlite: bool) -> list[str]:
    most, into = max(each.facts for each in shares), "INSERT INTO bench_number WITH RECURSIVE n(i) AS"
    return [
        "CREATE TEMP TABLE bench_number (i BIGINT PRIMARY KEY)",
        f"{into} (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {most - 1}) SELECT i FROM n",
        *(f"DROP INDEX {name}" for name, _ in INDEXES),
        _facts(is_sqlite=is_sqlite),
        _cells(is_sqlite=is_sqlite),
        *(f"CREATE INDEX {name} ON {on}" for name, on in INDEXES),
    ]


SHARES: Final = """CREATE TEMP TABLE bench_share (tenant TEXT PRIMARY KEY, number BIGINT, since_us BIGINT, facts BIGINT,
    start_us BIGINT, step_us BIGINT)"""


async def fill(url: str, shares: Sequence[Share]) -> None:
    is_sqlite = url.startswith("sqlite")
    statements = _statements(shares, is_sqlite=is_sqlite)
    if is_sqlite:
        _in_sqlite(url.removeprefix("sqlite:///"), shares, statements)
    else:
        await _in_postgres(url, shares, statements)


def _in_sqlite(path: str, shares: Sequence[Share], statements: Sequence[str]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = -1000000")
        connection.execute(SHARES)
        connection.executemany("INSERT INTO bench_share VALUES (?, ?, ?, ?, ?, ?)", shares)
        connection.execute("BEGIN IMMEDIATE")
        for each in statements:
            connection.execute(each)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _in_postgres(url: str, shares: Sequence[Share], statements: Sequence[str]) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET work_mem = '512MB'; SET maintenance_work_mem = '512MB'")
        await connection.execute(SHARES)
        await connection.copy_records_to_table("bench_share", records=shares)
        async with connection.transaction():
            for each in statements:
                await connection.execute(each)
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
