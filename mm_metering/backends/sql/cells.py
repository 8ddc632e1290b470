"""Reading and changing cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Text, case, func, literal_column, or_, select

from mm_metering.backends.ledger import UsageRow
from mm_metering.backends.sql.dialects import Columns, Dialect
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import CELL, INT64, cell_row, cells_of
from mm_metering.backends.sql.tables import usage_cell
from mm_metering.core.cells import CellKey, CellSum

_TENANT: Final[Columns] = {"tenant": Text()}
_HALF: Final = 2**32
_EMPTY: Final = CellSum()
# Written into the statement: a parameter would be sent again with each row.
_ZERO: Final = literal_column("0", BigInteger())
_ONE: Final = literal_column("1", BigInteger())
_MOST: Final = literal_column(str(INT64), BigInteger())
_LEAST: Final = literal_column(str(-INT64), BigInteger())


def difference(fresh: Mapping[CellKey, CellSum], stored: Mapping[CellKey, CellSum]) -> dict[CellKey, CellSum]:
    """What must be added to the stored cells to make them the fresh ones."""
    changes = {}
    for key in fresh.keys() | stored.keys():
        now, before = fresh.get(key, _EMPTY), stored.get(key, _EMPTY)
        changes[key] = CellSum(
            now.quantity - before.quantity,
            now.cost_nanos - before.cost_nanos,
            now.weighted - before.weighted,
            now.count - before.count,
        )
    return changes


def merge(changes: dict[CellKey, CellSum], more: Mapping[CellKey, CellSum]) -> None:
    for key, change in more.items():
        cell = changes.setdefault(key, CellSum())
        cell.quantity += change.quantity
        cell.cost_nanos += change.cost_nanos
        cell.weighted += change.weighted
        cell.count += change.count


async def apply(tx: Transaction, changes: Mapping[CellKey, CellSum]) -> None:
    """Adds the changes, in key order, so that two transactions never wait for each other's cells crosswise."""
    day = cache(tx.dialect.day)
    kept = sorted((key for key, change in changes.items() if change != _EMPTY))
    await tx.load(_upsert(tx.dialect), [(*cell_row(key, changes[key], day(key.day)), 1) for key in kept])


@cache
def _upsert(dialect: Dialect) -> str:
    columns = [column.name for column in (*CELL, usage_cell.c.revision)]
    statement = dialect.insert_many(usage_cell, columns)
    cell, more = usage_cell.c, statement.excluded
    upsert = statement.on_conflict_do_update(
        index_elements=list(usage_cell.primary_key),
        set_={
            "quantity": _saturating(cell.quantity, more.quantity),
            "cost_nanos": _saturating(cell.cost_nanos, more.cost_nanos),
            "weighted": _saturating(cell.weighted, more.weighted),
            "count": cell.count + more.count,
            "revision": cell.revision + _ONE,
        },
    )
    return dialect.sql_text(upsert, columns)


def _saturating(total: ColumnElement[int], more: ColumnElement[int]) -> ColumnElement[int]:
    """``total + more``, or ±(2**63 - 1) where that does not fit, and for ever after.

    Such a sum is beyond any real usage. It must not stop the drain, and must look wrong: the facts keep the truth.
    Nested, since SQL may evaluate both sides of an AND, and ``_MOST - more`` itself must not overflow.
    """
    fits = total + more
    up = case((total > _MOST - more, _MOST), else_=fits)
    down = case((total < _LEAST - more, _LEAST), else_=fits)
    return case((or_(total == _MOST, total == _LEAST), total), (more > _ZERO, up), else_=down)


def exact_sum(column: ColumnElement[int]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """A column's sum in two halves that cannot overflow; ``joined`` puts them together."""
    return func.sum(column // _HALF), func.sum(column % _HALF)


def joined(high: Any, low: Any) -> int:
    return int(high or 0) * _HALF + int(low or 0)


async def usage(tx: Transaction, tenants: Iterable[str], since: date) -> dict[str, tuple[UsageRow, ...]]:
    """Each tenant's cells from a day on, summed over resources, in order; those with none are left out."""
    cell = usage_cell.c
    group = (cell.tenant, cell.day, cell.since_us, cell.meter, cell.scope)
    rows = await tx.matching(
        (*group, *exact_sum(cell.quantity)),
        _TENANT,
        ((each,) for each in tenants),
        where=(cell.day >= since, cell.count != 0),
        group_by=group,
    )
    found: dict[str, list[UsageRow]] = {}
    for tenant, *key, high, low in rows:
        found.setdefault(tenant, []).append(UsageRow._make((*key, joined(high, low))))
    return {tenant: tuple(sorted(theirs)) for tenant, theirs in found.items()}


async def from_day(tx: Transaction, tenant: str, day: date) -> dict[CellKey, CellSum]:
    """A tenant's cells from a day on."""
    statement = select(*CELL).where(usage_cell.c.tenant == tenant, usage_cell.c.day >= day)
    return cells_of(await tx.all(statement))


async def of_level(tx: Transaction, tenant: str, meter: str, resource: str, day: date) -> dict[CellKey, CellSum]:
    """A level's cells from a day on."""
    cell = usage_cell.c
    statement = select(*CELL).where(
        cell.tenant == tenant, cell.day >= day, cell.meter == meter, cell.resource == resource
    )
    return cells_of(await tx.all(statement))


async def moved_levels(tx: Transaction, tenant: str, day: date) -> dict[tuple[str, str], int]:
    """By how much the cells of each (meter, resource) sum up from a day on."""
    cell = usage_cell.c
    group = (cell.meter, cell.resource)
    statement = select(*group, *exact_sum(cell.quantity)).where(cell.tenant == tenant, cell.day >= day).group_by(*group)
    return {(row[0], row[1]): joined(*row[2:]) for row in await tx.all(statement)}
