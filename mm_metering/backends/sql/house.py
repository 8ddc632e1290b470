"""The house by day: the cells of all tenants added up, and read again."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import date
from typing import Any, Final

from sqlalchemy import Double, cast, delete, func, select

from mm_metering.backends.looks import TOP, HouseDay, top_resources
from mm_metering.backends.sql.cells import IS_SHOWN, exact_sum, joined
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import stored
from mm_metering.backends.sql.tables import house_day, usage_cell
from mm_metering.core.cells import event_meter

ROLLING: Final = 0x6D6D_726F_6C6C_7570
"""The advisory lock's number: "mmrollup"."""

_CELL: Final = usage_cell.c
_COUNTS: Final = _CELL.count != 0


async def added_up(tx: Transaction, day: date, now_us: int) -> list[HouseDay]:
    """What the cells of the day come to, by meter."""
    theirs = (_CELL.day == day, _CELL.scope == "", IS_SHOWN)
    sums = (*exact_sum(_CELL.quantity), *exact_sum(_CELL.cost_nanos), *exact_sum(_CELL.refused))
    users = func.count(_CELL.tenant.distinct()).filter(_COUNTS)
    rows = await tx.all(select(_CELL.meter, users, *sums).where(*theirs).group_by(_CELL.meter).order_by(_CELL.meter))
    top, resources = await _top(tx, day), await _resources(tx, day)
    found = []
    for meter, number, *halves in rows:
        quantity, cost_nanos, refused = map(stored, map(joined, halves[::2], halves[1::2]))
        found.append(HouseDay(day, meter, quantity, cost_nanos, refused, number, top[meter], now_us, resources[meter]))
    return found


async def _top(tx: Transaction, day: date) -> dict[str, tuple[tuple[str, int], ...]]:
    """By meter. They are found by a sum that cannot overflow, and told by the exact one."""
    about: Any = func.sum(cast(_CELL.quantity, Double()))
    of_tenants = (
        select(_CELL.meter, _CELL.tenant, *exact_sum(_CELL.quantity), _rank(about))
        .where(_CELL.day == day, _CELL.scope == "", _COUNTS)
        .group_by(_CELL.meter, _CELL.tenant)
        .having(about > 0)
        .subquery()
    )
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for meter, tenant, high, low, _ in await tx.all(select(of_tenants).where(of_tenants.c.rank <= TOP)):
        found[meter].append((tenant, stored(joined(high, low))))
    top = {meter: tuple(sorted(theirs, key=lambda each: (-each[1], each[0]))) for meter, theirs in found.items()}
    return defaultdict(tuple, top)


async def _resources(tx: Transaction, day: date) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """By meter of an event type."""
    quantity: Any = func.sum(cast(_CELL.quantity, Double()))
    cost: Any = func.sum(cast(_CELL.cost_nanos, Double()))
    rank = func.row_number().over(partition_by=_CELL.meter, order_by=(cost.desc(), quantity.desc(), _CELL.resource))
    of_resources = (
        select(
            _CELL.meter,
            _CELL.resource,
            *exact_sum(_CELL.quantity),
            *exact_sum(_CELL.cost_nanos),
            rank.label("rank"),
        )
        .where(_CELL.day == day, _CELL.scope == "", _COUNTS, _CELL.meter.startswith(event_meter(""), autoescape=True))
        .group_by(_CELL.meter, _CELL.resource)
        .subquery()
    )
    found: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for meter, name, *halves, _ in await tx.all(select(of_resources).where(of_resources.c.rank <= TOP)):
        found[meter].append((name, *map(stored, map(joined, halves[::2], halves[1::2]))))
    return defaultdict(tuple, {meter: top_resources(theirs) for meter, theirs in found.items()})


def _rank(about: Any) -> Any:
    order = (about.desc(), _CELL.tenant)
    return func.row_number().over(partition_by=_CELL.meter, order_by=order).label("rank")


async def put(tx: Transaction, day: date, days: list[HouseDay], now_us: int) -> None:
    """In place of the day's sums, unless those are newer."""
    await tx.lock(ROLLING)
    stands = await tx.first(select(func.max(house_day.c.made_us)).where(house_day.c.day == day))
    if stands is not None and stands[0] is not None and stands[0] > now_us:
        return
    await tx.run(delete(house_day).where(house_day.c.day == day))
    await tx.run_each(house_day.insert(), [each._asdict() | _texts(each) for each in days])


def _texts(each: HouseDay) -> dict[str, str]:
    return {"top": json.dumps(each.top), "resources": json.dumps(each.resources)}


async def days(tx: Transaction, first: date, last: date) -> list[HouseDay]:
    statement = select(house_day).where(house_day.c.day.between(first, last)).order_by(*house_day.primary_key)
    return [_read(HouseDay._make(row)) for row in await tx.all(statement)]


def _read(row: Any) -> HouseDay:
    """With its two lists from their JSON."""
    top, resources = (tuple(map(tuple, json.loads(text))) for text in (row.top, row.resources))
    return row._replace(top=top, resources=resources)  # type: ignore[no-any-return]


async def first_day(tx: Transaction, since: date) -> date | None:
    row = await tx.first(select(_CELL.day).where(_CELL.day >= since, IS_SHOWN).order_by(_CELL.day).limit(1))
    return row.day if row else None
