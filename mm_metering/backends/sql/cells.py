"""Reading and changing cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Text, case, cast, func, literal_column, or_, select

from mm_metering.backends.ledger import UsageRow
from mm_metering.backends.sql.dialects import Columns, Dialect
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import CELL, INT64, cell_row, cells_of, stored_cell
from mm_metering.backends.sql.tables import usage_cell
from mm_metering.core.cells import Cell, CellKey, CellSum, merge
from mm_metering.core.digest import MASK, Digest

_TENANT: Final[Columns] = {"tenant": Text()}
EVENT_METERS_END: Final = "+"
"""The meters of event types begin with "*", and those of a catalogue, which come after them, with a letter."""
_HALF: Final = 2**32
_EMPTY: Final = CellSum()
# Written into the statement: a parameter would be sent again with each row.
_ZERO: Final = literal_column("0", BigInteger())
_MOST: Final = literal_column(str(INT64), BigInteger())
_MASK: Final = literal_column(str(MASK), BigInteger())
_LEAST: Final = literal_column(str(-INT64), BigInteger())


def difference(fresh: Mapping[CellKey, CellSum], stored: Mapping[CellKey, CellSum]) -> dict[CellKey, CellSum]:
    """What must be added to the stored cells to make them the fresh ones."""
    changes: dict[CellKey, CellSum] = {}
    merge(changes, fresh)
    merge(changes, stored, -1)
    return changes


async def apply(tx: Transaction, changes: Mapping[CellKey, CellSum]) -> None:
    """Adds the changes, in key order, so that two transactions never wait for each other's cells crosswise."""
    day = cache(tx.dialect.day)
    kept = sorted((key for key, change in changes.items() if change != _EMPTY))
    await tx.load(_upsert(tx.dialect), [cell_row(key, changes[key], day(key.day)) for key in kept])


@cache
def _upsert(dialect: Dialect) -> str:
    columns = usage_cell.columns.keys()
    statement = dialect.insert_many(usage_cell, columns)
    cell, more = usage_cell.c, statement.excluded
    upsert = statement.on_conflict_do_update(
        index_elements=list(usage_cell.primary_key),
        set_={
            "quantity": _saturating(cell.quantity, more.quantity),
            "cost_nanos": _saturating(cell.cost_nanos, more.cost_nanos),
            "weighted": _saturating(cell.weighted, more.weighted),
            "count": cell.count + more.count,
            "refused": cell.refused + more.refused,
            "revision": cell.revision + more.revision,
            "facts": cell.facts + more.facts,
            "digest": (cell.digest + more.digest).bitwise_and(_MASK),
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
    return _sum(column // _HALF), _sum(column % _HALF)


def _sum(column: ColumnElement[int]) -> ColumnElement[int]:
    """As an integer: PostgreSQL's sums are decimals, which take long to read."""
    return cast(func.sum(column), BigInteger)


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


IS_SHOWN: Final = or_(usage_cell.c.count != _ZERO, usage_cell.c.refused != _ZERO)
"""One that lost all its facts is kept for its revision alone."""


async def add_refused(tx: Transaction, refused: Mapping[CellKey, int]) -> None:
    """Adds to the statistic of what was refused; it is no usage, and no revision of it."""
    day = cache(tx.dialect.day)
    rows = (cell_row(key, _EMPTY, day(key.day), refused=more, revision=0) for key, more in sorted(refused.items()))
    await tx.load(_upsert(tx.dialect), [*rows])


async def digests(tx: Transaction, after: str, limit: int, *, of: str | None = None) -> list[tuple[str, Digest]]:
    """Each tenant's counted facts as its cells have them, or one's: one page, by tenant."""
    cell = usage_cell.c
    statement = (
        select(cell.tenant, func.sum(cell.facts), *exact_sum(cell.digest))
        .where(cell.tenant > after if of is None else cell.tenant == of)
        .group_by(cell.tenant)
        .order_by(cell.tenant)
        .limit(limit)
    )
    return [(row[0], Digest(int(row[1]), joined(row[2], row[3]) & MASK)) for row in await tx.all(statement)]


async def day_sums(tx: Transaction, tenant: str, first: date, last: date) -> list[Cell]:
    """The tenant's cells without a scope by day and meter, in that order."""
    cell = usage_cell.c
    exact = (cell.quantity, cell.cost_nanos, cell.weighted)
    counted = (cell.count, cell.facts, cell.revision, cell.refused)
    statement = (
        select(cell.day, cell.meter, *map(_sum, counted), *(half for each in exact for half in exact_sum(each)))
        .where(cell.tenant == tenant, cell.day.between(first, last), cell.scope == "", IS_SHOWN)
        .group_by(cell.day, cell.meter)
    )
    sums = []
    for day, meter, count, number, revision, refused, *halves in await tx.all(statement):
        quantity, cost_nanos, weighted = map(joined, halves[::2], halves[1::2])
        total = CellSum(quantity, cost_nanos, weighted, count, number)
        sums.append(Cell(CellKey(tenant, day, 0, meter, "", ""), total, revision, refused))
    return sorted(sums, key=itemgetter(0))


async def meters_used(tx: Transaction, tenants: Iterable[str]) -> Mapping[str, int]:
    """By meter of a catalogue: how many of the tenants have facts that count in it."""
    cell = usage_cell.c
    rows = await tx.matching(
        (cell.meter, cell.tenant),
        _TENANT,
        {(each,) for each in tenants},
        where=(cell.meter > EVENT_METERS_END, cell.scope == "", cell.count != _ZERO),
        group_by=(cell.tenant, cell.meter),
    )
    return Counter(row.meter for row in rows)


async def from_day(tx: Transaction, tenant: str, day: date) -> dict[CellKey, CellSum]:
    """A tenant's cells from a day on."""
    statement = select(*CELL).where(usage_cell.c.tenant == tenant, usage_cell.c.day >= day)
    return cells_of(await tx.all(statement))


async def of_day(tx: Transaction, tenant: str, day: date) -> list[Cell]:
    """A tenant's cells of one day, in key order."""
    cell = usage_cell.c
    columns = (*CELL, cell.revision, cell.refused)
    statement = select(*columns).where(cell.tenant == tenant, cell.day == day).order_by(*usage_cell.primary_key)
    return [stored_cell(row) for row in await tx.all(statement)]


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
