"""Between facts and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias

from sqlalchemy import Row

from mm_metering.backends.sql import tables
from mm_metering.core.cells import Cell, CellKey, CellSum
from mm_metering.core.facts import Count, Fact

FACT: Final = tuple(tables.usage_fact.c[name] for name in Fact._fields)
"""The columns that make a fact, in its own order."""
CELL: Final = tuple(
    tables.usage_cell.c[name]
    for name in (*CellKey._fields, "quantity", "cost_nanos", "weighted", "count", "facts", "digest")
)
"""The columns that make a cell: its key, then its sums."""

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

INT64: Final = 2**63 - 1

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_counts_text = lru_cache(maxsize=4096)(_dump)


@lru_cache(maxsize=4096)
def _counts(text: str) -> tuple[Count, ...]:
    return tuple(Count(*count) for count in json.loads(text))


def fact_row(fact: Fact, *, is_voided: bool, is_open: bool, stored_us: int) -> tuple[Any, ...]:
    """In the order of the table's columns."""
    fact_id, occurred_us, kind, tenant, event_type, resource, quantity, cost, counts, success, target, metadata = fact
    return (
        *(tenant, fact_id, occurred_us, kind, event_type, resource, quantity, cost, _counts_text(counts)),
        *(success, target, metadata, is_voided, is_open, stored_us),
    )


def fact_of(row: AnyRow) -> Fact:
    """The fact of a row that begins with the columns ``FACT``."""
    fact = Fact(*row[: len(FACT)])
    return fact._replace(counts=_counts(row[8]))


def cell_of(row: AnyRow) -> tuple[CellKey, CellSum]:
    """The cell of a row that begins with the columns ``CELL``."""
    return CellKey(*row[:6]), CellSum(*row[6:12])


def stored_cell(row: AnyRow) -> Cell:
    """The same with the cell's revision, and what was refused."""
    *key, quantity, cost_nanos, weighted, count, facts, digest, revision, refused = row
    return Cell(_new_key(key), CellSum(quantity, cost_nanos, weighted, count, facts, digest), revision, refused)


_new_key: Final = partial(tuple.__new__, CellKey)


def cells_of(rows: Iterable[AnyRow]) -> dict[CellKey, CellSum]:
    return dict(map(cell_of, rows))


def cell_row(key: CellKey, change: CellSum, day: object, *, refused: int = 0, revision: int = 1) -> tuple[Any, ...]:
    """In the order of the table's columns; ``day`` as the driver takes it."""
    sums = map(stored, (change.quantity, change.cost_nanos, change.weighted))
    return (key.tenant, day, *key[2:], *sums, change.count, refused, revision, change.facts, change.digest)


def stored(number: int) -> int:
    """As the database takes it: past 64 bits it stays at the end of them."""
    return max(-INT64, min(number, INT64))
