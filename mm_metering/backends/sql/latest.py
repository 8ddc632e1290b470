"""The newest facts of all tenants or of one, a bounded look at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_

from mm_metering.backends.looks import LOOK, FactPage, FactPlace, StoredFact, lowered
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import FACT, AnyRow, fact_of
from mm_metering.backends.sql.tables import usage_fact

_ROW: Final = usage_fact.c
_COLUMNS: Final = (*FACT, _ROW.stored_us, _ROW.voided, _ROW.open)
_CAME: Final = (_ROW.stored_us, _ROW.tenant, _ROW.occurred_us, _ROW.id)
_OCCURRED: Final = (_ROW.occurred_us, _ROW.id)


async def page(
    tx: Transaction,
    *,
    tenant: str | None,
    event_type: str,
    kind: str,
    text: str,
    before: FactPlace | None,
    after: FactPlace | None,
    limit: int,
) -> FactPage:
    looked = _looked_at(tenant, before, after)
    seen = looked.limit(LOOK).subquery()
    fact = seen.c
    wanted = [column == value for column, value in ((fact.event_type, event_type), (fact.kind, kind)) if value]
    if tenant is not None:
        wanted.append(fact.tenant == tenant)
    if text:
        wanted.append(or_(tx.dialect.position(func.lower(fact.resource), lowered(text)) > 0, fact.id == text))
    # tombstones (facts that were voided before they came) are no facts
    rows = await tx.all(select(seen).where(fact.kind != "void", *wanted).limit(limit + 1))
    found = [_stored_fact(row) for row in rows[:limit]]
    if len(rows) > limit:
        return FactPage(found, found[-1].place if found else before)
    return FactPage(found, await _last_looked_at(tx, looked))


def _looked_at(tenant: str | None, before: FactPlace | None, after: FactPlace | None) -> Select[Any]:
    """In order. Each bound also without the columns past the first, by which the index of what is stored finds it."""
    if tenant is not None and after is None:
        theirs = select(*_COLUMNS).where(_ROW.tenant == tenant).order_by(*_newest(_OCCURRED))
        return theirs if before is None else theirs.where(tuple_(*_OCCURRED) < (before.occurred_us, before.id))
    looked = select(*_COLUMNS).order_by(*_newest(_CAME))
    if before is not None:
        looked = looked.where(_ROW.stored_us <= before.stored_us, tuple_(*_CAME) < before)
    if after is not None:
        looked = looked.where(_ROW.stored_us >= after.stored_us, tuple_(*_CAME) > after)
    return looked


def _newest(columns: Sequence[Any]) -> list[ColumnElement[Any]]:
    return [each.desc() for each in columns]


async def _last_looked_at(tx: Transaction, looked: Select[Any]) -> FactPlace | None:
    """None if it was the very last one."""
    rows = await tx.all(looked.with_only_columns(*_CAME).offset(LOOK - 1).limit(2))
    return FactPlace._make(rows[0]) if len(rows) > 1 else None


def _stored_fact(row: AnyRow) -> StoredFact:
    return StoredFact(fact_of(row), row.stored_us, row.voided, row.open)
