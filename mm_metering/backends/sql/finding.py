"""Tenants by what they are called, and by what they have in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select

from mm_metering.backends.looks import MAX_COUNT, TenantOrder, lowered
from mm_metering.backends.sql import tenants
from mm_metering.backends.sql.dialects import Dialect
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import subscription, tenant
from mm_metering.core.tenancy import OVERRIDE, TenantRow, plan_name

_ID: Final = tenant.c.id
_SEGMENT: Final = subscription.c


async def page(
    tx: Transaction, *, text: str, plan: str, status: str, now_us: int, order: TenantOrder, skip: int, limit: int
) -> tuple[list[TenantRow], int]:
    wanted = select(_ID).select_from(tenant)
    if plan or status or order == "plan":
        wanted = wanted.join(subscription, _in_force(now_us))
    if text:
        wanted = wanted.where(tx.dialect.position(func.lower(_ID), lowered(text)) > 0)
    if status:
        wanted = wanted.where(_SEGMENT.status == status)
    if plan:
        wanted = wanted.where(_name(tx.dialect) == plan)
    number = await count(tx, wanted)
    if skip >= number:
        return [], number
    ordered = wanted.order_by(*_order(order, tx.dialect)).offset(skip).limit(min(limit, MAX_COUNT - skip))
    ids = [row.id for row in await tx.all(ordered)]
    rows = {row.id: row for row in await tenants.find_all(tx, ids)}
    return [rows[each] for each in ids], number


async def count(tx: Transaction, wanted: Select[Any]) -> int:
    """MAX_COUNT at most."""
    row = await tx.first(select(func.count()).select_from(wanted.limit(MAX_COUNT).subquery()))
    return row[0] if row else 0


def _order(order: TenantOrder, dialect: Dialect) -> list[ColumnElement[Any]]:
    match order:
        case "id":
            return [_ID]
        case "-id":
            return [_ID.desc()]
        case "plan":
            return [_name(dialect), _ID]
        case "since":
            return [tenant.c.subscribed_us, _ID]
        case "-since":
            return [tenant.c.subscribed_us.desc(), _ID.desc()]


def _name(dialect: Dialect) -> ColumnElement[Any]:
    """``plan_name``."""
    return func.substr(_SEGMENT.plan, 1, dialect.position(_SEGMENT.plan + OVERRIDE, OVERRIDE) - 1)


def _in_force(now_us: int) -> ColumnElement[bool]:
    """The segment that has begun last; of a tenant whose first one is still to begin, that one."""
    theirs = subscription.alias("mm_theirs")
    begun = select(func.max(theirs.c.starts_us)).where(theirs.c.tenant == _ID, theirs.c.starts_us <= now_us)
    first = select(func.min(theirs.c.starts_us)).where(theirs.c.tenant == _ID)
    starts_us = func.coalesce(begun.scalar_subquery(), first.scalar_subquery())
    return and_(_SEGMENT.tenant == _ID, _SEGMENT.starts_us == starts_us)


async def by_plan(tx: Transaction, now_us: int) -> Mapping[tuple[str, str], int]:
    key = (_SEGMENT.plan, _SEGMENT.status)
    standing = select(*key, func.count()).select_from(tenant).join(subscription, _in_force(now_us)).group_by(*key)
    counts = Counter[tuple[str, str]]()
    for plan, status, number in await tx.all(standing):
        counts[plan_name(plan), status] += number
    return counts
