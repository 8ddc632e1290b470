"""Tenants, their timelines, and the folding anew that a change of these asks for.

A fold reads its tenants' calendars under a key-share lock; who changes a calendar locks the row against that. So no
fold in flight still counts by the old calendar when the new one folds the facts again. A tenant without a row has no
row to lock: folds that meet one, and whoever makes one, lock MAKING_TENANTS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import Text, delete, select

from mm_metering.backends.sql import cells, facts, keeping, levels
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import AnyRow
from mm_metering.backends.sql.tables import subscription, tenant
from mm_metering.core.audit import Act
from mm_metering.core.audited import cells_rebuilt
from mm_metering.core.cells import LEVEL_KINDS, Calendar, CellKey, CellSum, LevelEnd, Segment, calendar_of, fold_all
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow, changed_tenant, forgotten, with_change
from mm_metering.core.timeline import Change
from mm_metering.core.zones import last_move_us
from mm_metering.errors import UnknownTenant

MAKING_TENANTS: Final = 0x6D6D_7465_6E61_6E74
"""The advisory lock's number: "mmtenant"."""

_ID: Final[Columns] = {"id": Text()}
_TENANT: Final[Columns] = {"tenant": Text()}
_SEGMENT: Final = tuple(subscription.c[name] for name in Segment._fields)


# -- reading ----------------------------------------------------------------------------------------------------------


async def find(tx: Transaction, tenant_id: str) -> TenantRow | None:
    return _one(await _with_segments(tx, await tx.all(select(tenant).where(tenant.c.id == tenant_id))))


async def find_all(tx: Transaction, ids: Iterable[str]) -> list[TenantRow]:
    """The rows of those that have one."""
    return await _with_segments(tx, await tx.matching(tuple(tenant.c), _ID, ((each,) for each in ids)))


async def page(tx: Transaction, after: str, limit: int) -> list[TenantRow]:
    statement = select(tenant).where(tenant.c.id > after).order_by(tenant.c.id).limit(limit)
    return await _with_segments(tx, await tx.all(statement))


async def _with_segments(tx: Transaction, rows: Sequence[AnyRow]) -> list[TenantRow]:
    timelines = await _timelines(tx, [row.id for row in rows])
    return [TenantRow(**row._mapping, segments=timelines[row.id]) for row in rows]


async def _timelines(tx: Transaction, ids: Sequence[str]) -> dict[str, tuple[Segment, ...]]:
    """Read by a statement of their own: after waiting for a lock only that sees the newest."""
    rows = await tx.matching((subscription.c.tenant, *_SEGMENT), _TENANT, [(each,) for each in ids])
    timelines: dict[str, list[Segment]] = {each: [] for each in ids}
    for owner, *segment in rows:
        timelines[owner].append(Segment._make(segment))
    return {each: tuple(sorted(segments)) for each, segments in timelines.items()}


def _one(rows: Sequence[TenantRow]) -> TenantRow | None:
    return rows[0] if rows else None


async def calendars(tx: Transaction, ids: Iterable[str], default_timezone: str) -> dict[str, Calendar]:
    """Where each tenant's facts belong, fixed until the transaction ends."""
    wanted = sorted(set(ids))
    rows = await _held(tx, wanted)
    if unknown := sorted(set(wanted) - rows.keys()):
        await tx.lock(MAKING_TENANTS, shared=True)
        rows |= await _held(tx, unknown)
    other = calendar_of(default_timezone, ())
    return {each: rows.get(each, other) for each in wanted}


async def _held(tx: Transaction, ids: Sequence[str]) -> dict[str, Calendar]:
    """Of those that have a row."""
    rows = await tx.matching((tenant.c.id, tenant.c.timezone), _ID, [(each,) for each in ids], lock=True)
    timelines = await _timelines(tx, [each for each, _ in rows])
    return {each: calendar_of(timezone, timelines[each]) for each, timezone in rows}


async def _locked(tx: Transaction, tenant_id: str) -> TenantRow | None:
    statement = select(tenant).where(tenant.c.id == tenant_id).with_for_update()
    return _one(await _with_segments(tx, await tx.all(statement)))


async def locked_all(tx: Transaction, ids: Sequence[str]) -> list[TenantRow]:
    """The rows of those that have one, in order; nothing of theirs is folded until the transaction ends."""
    statement = select(tenant).where(tenant.c.id.in_(ids)).order_by(tenant.c.id).with_for_update()
    return await _with_segments(tx, await tx.all(statement))


# -- changing ---------------------------------------------------------------------------------------------------------


async def put(
    tx: Transaction, new: NewTenant, defaults: TenantDefaults, now_us: int
) -> tuple[TenantRow | None, TenantRow]:
    """Before and after."""
    before = await _locked(tx, new.id)
    if before is None:
        await tx.lock(MAKING_TENANTS)
        before = await _locked(tx, new.id)
    after = changed_tenant(before, new, defaults, now_us)
    if after != before:
        await _replace(tx, before, after)
    return before, after


async def make(tx: Transaction, ids: Iterable[str], defaults: TenantDefaults, now_us: int) -> list[TenantRow]:
    """Makes those without a row, with the defaults. The new rows of tenants that have no facts: before this
    transaction they had none either.

    Only MAKING_TENANTS is waited for, so that two of these never wait for each other crosswise.
    """
    await tx.lock(MAKING_TENANTS)
    wanted = set(ids)
    known = await tx.matching((tenant.c.id,), _ID, ((each,) for each in wanted))
    unknown = sorted(wanted - {row.id for row in known})
    made = [changed_tenant(None, NewTenant(each), defaults, now_us) for each in unknown]
    await tx.run_each(tenant.insert(), [_columns(row) for row in made])
    await tx.run_each(subscription.insert(), [segment for row in made for segment in _segments(row)])
    used = await facts.owners(tx, unknown)
    for row in made:
        if row.id in used:
            await _fold_anew(tx, None, row, levels.FIRST_DAY)
    return [row for row in made if row.id not in used]


async def change_subscription(tx: Transaction, tenant_id: str, change: Change) -> tuple[TenantRow, TenantRow]:
    """Before and after."""
    before = await _locked(tx, tenant_id)
    if before is None:
        raise UnknownTenant(f"tenant {tenant_id!r} is not known; put_tenant makes it")
    after = with_change(before, change)
    if after != before:
        await _replace(tx, before, after)
    return before, after


async def forget(tx: Transaction, tenant_id: str, now_us: int) -> tuple[TenantRow, TenantRow]:
    """Before and after."""
    before = await _locked(tx, tenant_id)
    if before is None:
        raise UnknownTenant(f"tenant {tenant_id!r} is not known: there is nothing to forget")
    after = forgotten(before, now_us)
    if after != before:
        await _replace(tx, before, after)
    return before, after


async def _replace(tx: Transaction, before: TenantRow | None, after: TenantRow) -> None:
    if before is None:
        await tx.run(tenant.insert(), _columns(after))
    else:
        await tx.run(tenant.update().where(tenant.c.id == after.id).values(_columns(after)))
    if before is None or before.segments != after.segments:
        await tx.run(delete(subscription).where(subscription.c.tenant == after.id))
        await tx.run_each(subscription.insert(), _segments(after))
    day = _first_moved_day(before, after)
    if day is not None:
        await _fold_anew(tx, before, after, day)


def _columns(row: TenantRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in tenant.c.keys()}  # noqa: SIM118 - of its columns, not of a mapping


def _segments(row: TenantRow) -> list[dict[str, Any]]:
    return [{"tenant": row.id, **each._asdict()} for each in row.segments]


def _first_moved_day(before: TenantRow | None, after: TenantRow) -> date | None:
    """The first local day with facts that may belong to other cells now, as it was before: a zone that moves forward
    begins another at that instant. None if there is none."""
    if before is None:
        return levels.FIRST_DAY
    moves = set[int]()
    if before.timezone != after.timezone:
        at_us = last_move_us(before.timezone, after.timezone)
        if at_us is None:
            return levels.FIRST_DAY
        moves.add(at_us)
    then, now = ([segment.starts_us for segment in row.segments] for row in (before, after))
    if then[0] != now[0]:  # the first segment also covers what lies before it
        return levels.FIRST_DAY
    moved = moves | set(then) ^ set(now)
    return Calendar(before.timezone, before.segments).day(min(moved)) if moved else None


async def rebuild_cells(tx: Transaction, tenant_id: str, act: Act | None = None) -> int:
    """How many cells differed. A tenant without a row has no facts that another calendar could place."""
    row = await _locked(tx, tenant_id)
    changed = await _fold_anew(tx, None, row, levels.FIRST_DAY) if row else 0
    tx.note(cells_rebuilt(tenant_id, changed, act))
    return changed


async def _fold_anew(tx: Transaction, before: TenantRow | None, row: TenantRow, day: date) -> int:
    """Takes the tenant's facts from ``day`` on out of the cells where ``before`` put them, and adds them where they
    belong now: how many cells changed. Without ``before`` all cells are made anew of the days of which all facts are
    here. So either way cells keep what retired facts added."""
    since_us = await keeping.hold_still(tx)
    calendar = Calendar(row.timezone, row.segments)
    stored = await cells.from_day(tx, row.id, day)
    ends = _standing(await levels.of_tenant(tx, row.id), stored)
    whole = levels.FIRST_DAY if before else calendar.first_whole_day(since_us)
    gone: dict[CellKey, CellSum] = {}
    if before is None:
        gone = {key: cell for key, cell in stored.items() if key.day >= whole or (key.meter, key.resource) in ends}
    fresh, stood = dict[CellKey, CellSum](), dict(ends)
    async for theirs in facts.pages(tx, row.id, levels.start_us(calendar, day)):
        if before:
            fold_all(gone, theirs, Calendar(before.timezone, before.segments), stood)
        here = [fact for fact in theirs if fact.kind in LEVEL_KINDS or calendar.day(fact.occurred_us) >= whole]
        fold_all(fresh, here, calendar, ends)
    changes = cells.difference(fresh, gone)
    await cells.apply(tx, changes)
    return sum(change != CellSum() for change in changes.values())


def _standing(ends: dict[tuple[str, str], LevelEnd], stored: dict[CellKey, CellSum]) -> dict[tuple[str, str], LevelEnd]:
    """The levels as they were before the stored cells changed them."""
    for key, cell in stored.items():
        if (end := ends.get((key.meter, key.resource))) is not None:
            ends[key.meter, key.resource] = end._replace(value=end.value - cell.quantity)
    return ends
