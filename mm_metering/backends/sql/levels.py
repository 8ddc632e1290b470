"""Folding levels: on from where they stand, or anew from the day of the earliest fact that came late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Final

from sqlalchemy import Text, bindparam, delete, select

from mm_metering.backends.sql import cells, facts
from mm_metering.backends.sql.batch import LevelChange, LevelKey
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import usage_level
from mm_metering.core.cells import NO_LEVEL, Calendar, CellKey, CellSum, LevelEnd, fold_level, level_meters, merge
from mm_metering.core.periods import FIRST_US, day_start, micros

FIRST_DAY: Final = date(1, 1, 1)
_KEY: Final[Columns] = {name: Text() for name in LevelKey._fields}
_TENANT: Final[Columns] = {"tenant": Text()}


def start_us(calendar: Calendar, day: date) -> int:
    """When a local day begins; before every fact for FIRST_DAY."""
    return FIRST_US if day == FIRST_DAY else micros(day_start(day, calendar.zone))


async def fold(
    tx: Transaction,
    changes: dict[CellKey, CellSum],
    levels: Mapping[LevelKey, LevelChange],
    calendars: Mapping[str, Calendar],
) -> None:
    """Adds to ``changes`` what the levels' facts (written already) change in cells, and stores where they end."""
    stood = await _ends(tx, levels)
    ends: dict[LevelKey, LevelEnd] = {}
    for key, change in sorted(levels.items(), key=lambda item: item[0]):
        before, calendar = stood.get(key, NO_LEVEL), calendars[key.tenant]
        if change.follows(before):
            ends[key] = fold_level(changes, key.meter, change.came, calendar, before)
        else:
            ends[key], moved = await _anew(tx, key, before, calendar, calendar.day(change.earliest_us))
            merge(changes, moved)
    await _store(tx, ends)


async def _anew(
    tx: Transaction, key: LevelKey, before: LevelEnd, calendar: Calendar, day: date
) -> tuple[LevelEnd, dict[CellKey, CellSum]]:
    """Folds one level again from ``day`` on. What it was by then is its value less what its cells changed since."""
    theirs = [
        fact
        for fact in await facts.of_level(tx, key.tenant, key.resource, start_us(calendar, day))
        if key.meter in level_meters(fact)
    ]
    if not theirs and day != FIRST_DAY:  # the last ones were voided: an earlier fact tells when it changed last
        return await _anew(tx, key, before, calendar, FIRST_DAY)
    stored = await cells.of_level(tx, *key, day)
    start = LevelEnd(before.value - sum(cell.quantity for cell in stored.values()), NO_LEVEL.stamp)
    fresh: dict[CellKey, CellSum] = {}
    end = fold_level(fresh, key.meter, theirs, calendar, start)
    return end, cells.difference(fresh, stored)


async def _ends(tx: Transaction, keys: Mapping[LevelKey, Any]) -> dict[LevelKey, LevelEnd]:
    rows = await tx.matching(tuple(usage_level.c), _KEY, keys)
    return {LevelKey(*row[:3]): LevelEnd(*row[3:]) for row in rows}


async def _store(tx: Transaction, ends: Mapping[LevelKey, LevelEnd]) -> None:
    statement = tx.insert(usage_level)
    upsert = statement.on_conflict_do_update(
        index_elements=list(usage_level.primary_key),
        set_={"value": statement.excluded.value, "stamp": statement.excluded.stamp},
    )
    kept = {key: end for key, end in ends.items() if end != NO_LEVEL}
    await tx.run_each(upsert, [key._asdict() | end._asdict() for key, end in kept.items()])
    gone = sorted(ends.keys() - kept.keys())
    await tx.run_each(_FORGET, [{f"of_{name}": word for name, word in key._asdict().items()} for key in gone])


_FORGET: Final = delete(usage_level).where(*(usage_level.c[name] == bindparam(f"of_{name}") for name in _KEY))


async def of_tenant(tx: Transaction, tenant: str) -> dict[tuple[str, str], LevelEnd]:
    """Each of a tenant's levels, as it stands."""
    rows = await tx.all(select(usage_level).where(usage_level.c.tenant == tenant))
    return {(row.meter, row.resource): LevelEnd(row.value, row.stamp) for row in rows}


async def of_tenants(tx: Transaction, tenants: Iterable[str]) -> dict[str, dict[tuple[str, str], LevelEnd]]:
    """The same for several tenants; those with none are left out."""
    found: dict[str, dict[tuple[str, str], LevelEnd]] = {}
    for row in await tx.matching(tuple(usage_level.c), _TENANT, ((each,) for each in tenants)):
        found.setdefault(row.tenant, {})[row.meter, row.resource] = LevelEnd(row.value, row.stamp)
    return found


async def values(tx: Transaction, tenant: str, before: date) -> dict[tuple[str, str], int]:
    """Each of a tenant's levels, as it stood at the start of the day."""
    ends = await of_tenant(tx, tenant)
    moved = await cells.moved_levels(tx, tenant, before) if ends else {}
    return {level: end.value - moved.get(level, 0) for level, end in ends.items()}
