"""What payment providers were told of usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import and_, func, select, tuple_, update

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import AnyRow
from mm_metering.backends.sql.tables import usage_report as table
from mm_metering.core.periods import from_micros, micros
from mm_metering.core.reporting import Intent, ReportState

BEGUN: Final[dict[str, str | int]] = {"tenant": "", "period": "", "meter": "", "number": 0}
"""The key of the row that says since when usage is reported; no tenant is called so."""
_SERIES: Final = (table.c.tenant, table.c.period, table.c.meter)


async def since(tx: Transaction, now_us: int) -> int:
    begun = BEGUN | {"customer": "", "quantity": 0, "total": 0, "identifier": "", "state": "sent"}
    row = tx.insert(table).values(**begun, instant_us=now_us, made_us=now_us)
    await tx.run(row.on_conflict_do_nothing())
    found = await tx.first(select(table.c.made_us).where(*(table.c[name] == value for name, value in BEGUN.items())))
    assert found is not None
    return int(found.made_us)


async def add(tx: Transaction, intent: Intent) -> bool:
    names = ("tenant", "period", "meter", "number", "customer", "quantity", "total", "identifier", "state")
    row = {name: getattr(intent, name) for name in names}
    row |= {"instant_us": micros(intent.instant), "made_us": micros(intent.made_at)}
    return await tx.run(tx.insert(table).values(row).on_conflict_do_nothing()) > 0


async def move(tx: Transaction, intent: Intent) -> bool:
    is_it = (table.c.tenant == intent.tenant, table.c.period == intent.period, table.c.meter == intent.meter)
    statement = update(table).where(*is_it, table.c.number == intent.number, table.c.state != "sent")
    changes = {"state": intent.state, "instant_us": micros(intent.instant), "customer": intent.customer}
    return await tx.run(statement.values(changes)) > 0


async def last(tx: Transaction, tenant: str, periods: Sequence[str]) -> list[Intent]:
    newest = (
        select(table.c.period, table.c.meter, func.max(table.c.number).label("number"))
        .where(table.c.tenant == tenant, table.c.period.in_(periods))
        .group_by(table.c.period, table.c.meter)
        .subquery()
    )
    same = and_(*(table.c[name] == newest.c[name] for name in ("period", "meter", "number")))
    statement = select(table).join(newest, same).where(table.c.tenant == tenant).order_by(*_SERIES)
    return [_intent(row) for row in await tx.all(statement)]


async def page(tx: Transaction, state: ReportState, after: tuple[str, str, str], limit: int) -> list[Intent]:
    is_open = (table.c.state != "sent", table.c.state == state)  # the first is the index's
    statement = select(table).where(*is_open, tuple_(*_SERIES) > after).order_by(*_SERIES).limit(limit)
    return [_intent(row) for row in await tx.all(statement)]


async def of_customer(tx: Transaction, customer: str, meter: str, start_us: int, end_us: int) -> list[Intent]:
    statement = select(table).where(
        table.c.customer == customer,
        table.c.meter == meter,
        table.c.instant_us >= start_us,
        table.c.instant_us < end_us,
    )
    return [_intent(row) for row in await tx.all(statement.order_by(table.c.period, table.c.number))]


def _intent(row: AnyRow) -> Intent:
    return Intent(
        tenant=row.tenant,
        period=row.period,
        meter=row.meter,
        number=row.number,
        customer=row.customer,
        quantity=row.quantity,
        total=row.total,
        identifier=row.identifier,
        instant=from_micros(row.instant_us),
        made_at=from_micros(row.made_us),
        state=row.state,
    )
