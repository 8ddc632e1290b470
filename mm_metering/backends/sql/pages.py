"""Pages of what was done, told, heard and invoiced, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeVar, get_args

from sqlalchemy import Select, Table, func, null, select, tuple_

from mm_metering.backends.collecting import Hint
from mm_metering.backends.looks import COUNTED, MAX_COUNT, OPEN_US, AlertKey, Place
from mm_metering.backends.sql import audit, finding, webhooks
from mm_metering.backends.sql.cells import exact_sum, joined
from mm_metering.backends.sql.collecting import notice_of
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Rows, Transaction
from mm_metering.backends.sql.rows import AnyRow
from mm_metering.backends.sql.tables import alert, audit_log, collection, delivery, endpoint, hint, invoice, notice
from mm_metering.backends.work import Alert
from mm_metering.core.audit import AuditEntry
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow
from mm_metering.core.invoices import Invoice, InvoiceStatus
from mm_metering.core.periods import later_period

S = TypeVar("S", bound=tuple[Any, ...])


def _newest(statement: Select[S], table: Table, instant: str, before: Place | None, limit: int) -> Select[S]:
    """The instant is compared by itself as well: by that an index finds it which has no id."""
    at, key = table.c[instant], (table.c[instant], table.c.id)
    if before is not None:
        statement = statement.where(at <= before.at_us, tuple_(*key) < before)
    return statement.order_by(*(each.desc() for each in key)).limit(limit)


async def _merged(tx: Transaction, parts: Iterable[Select[Any]], instant: str, limit: int) -> Rows:
    """The newest of several lists. They are asked one by one, so that each goes by its own part of the index."""
    found = [await tx.all(each) for each in parts]
    return [*islice(merge(*found, key=lambda row: (getattr(row, instant), row.id), reverse=True), limit)]


# -- what was done, told and heard ------------------------------------------------------------------------------------


async def entries(
    tx: Transaction, tenant: str | None, action: str, before: Place | None, limit: int
) -> list[AuditEntry]:
    statement = select(*audit.LINK)
    if tenant is not None:
        statement = statement.where(audit_log.c.tenant == tenant)
    if action:
        statement = statement.where(audit_log.c.action == action)
    return [each.entry for each in await audit.links(tx, _newest(statement, audit_log, "at_us", before, limit))]


async def notices(
    tx: Transaction, tenant: str | None, types: Sequence[str], before: Place | None, limit: int
) -> list[Notice]:
    statement = _newest(select(notice), notice, "made_us", before, limit)
    if tenant is not None:
        theirs = statement.where(notice.c.tenant == tenant)
        rows = await tx.all(theirs.where(notice.c.type.in_(types)) if types else theirs)
    elif types:
        rows = await _merged(tx, (statement.where(notice.c.type == each) for each in set(types)), "made_us", limit)
    else:
        rows = await tx.all(statement)
    return [notice_of(row) for row in rows]


async def hints(tx: Transaction, before: Place | None, limit: int) -> list[Hint]:
    return [Hint(*row) for row in await tx.all(_newest(select(hint), hint, "stored_us", before, limit))]


async def deliveries(
    tx: Transaction,
    *,
    tenant: str | None,
    endpoint_id: str | None,
    state: DeliveryState | None,
    before: Place | None,
    limit: int,
) -> list[Delivery]:
    statement = _newest(select(delivery), delivery, "occurred_us", before, limit)
    if tenant is not None:
        statement = statement.where(delivery.c.tenant == tenant)
    if endpoint_id is None:
        rows = await tx.all(statement if state is None else statement.where(delivery.c.state == state))
    else:
        states = get_args(DeliveryState) if state is None else (state,)
        parts = [statement.where(delivery.c.endpoint == endpoint_id, delivery.c.state == each) for each in states]
        rows = await _merged(tx, parts, "occurred_us", limit)
    return [webhooks.delivery_of(row) for row in rows]


async def endpoints(tx: Transaction, tenant: str | None, after: str, limit: int) -> list[EndpointRow]:
    statement = select(endpoint.c.document).where(endpoint.c.id > after).order_by(endpoint.c.id).limit(limit)
    if tenant is not None:
        statement = statement.where(endpoint.c.tenant == tenant)
    return [EndpointRow.model_validate_json(row.document) for row in await tx.all(statement)]


async def stats(tx: Transaction, since_us: int) -> Mapping[str, tuple[int, int]]:
    recent = select(delivery.c.endpoint, delivery.c.state).where(delivery.c.occurred_us >= since_us)
    counted = recent.order_by(delivery.c.occurred_us.desc()).limit(COUNTED).subquery()
    key = (counted.c.endpoint, counted.c.state)
    counts: dict[str, tuple[int, int]] = {}
    for name, state, number in await tx.all(select(*key, func.count()).group_by(*key)):
        done, undone = counts.get(name, (0, 0))
        counts[name] = (done + number, undone) if state == "delivered" else (done, undone + number)
    return counts


# -- money ------------------------------------------------------------------------------------------------------------

_INVOICE: Final = invoice.c
_NAMED: Final = (_INVOICE.period, _INVOICE.tenant, _INVOICE.issue)
_NAMES: Final[Columns] = {each.name: each.type for each in _NAMED}


async def invoices(
    tx: Transaction, *, tenant: str | None, period: str | None, status: InvoiceStatus | None, skip: int, limit: int
) -> tuple[list[Invoice], int]:
    """Found by what an index has of them; documents are read for one page."""
    wanted = select(*_NAMED)
    for column, value in ((_INVOICE.tenant, tenant), (_INVOICE.period, period), (_INVOICE.status, status)):
        if value is not None:
            wanted = wanted.where(column == value)
    number = await finding.count(tx, wanted)
    if skip >= number:
        return [], number
    order = (_INVOICE.period.desc(), _INVOICE.tenant, _INVOICE.issue.desc())
    page = wanted.order_by(*order).offset(skip).limit(min(limit, MAX_COUNT - skip))
    names = [tuple(row) for row in await tx.all(page)]
    found = {tuple(row[:-1]): row.document for row in await tx.matching((*_NAMED, _INVOICE.document), _NAMES, names)}
    return [Invoice.model_validate_json(found[each]) for each in names], number


async def invoice_totals(tx: Transaction, months: int) -> list[tuple[str, InvoiceStatus, int, int]]:
    newest = await tx.first(select(func.max(_INVOICE.period)))
    if newest is None or newest[0] is None:
        return []
    key = (_INVOICE.period, _INVOICE.status)
    totals = select(*key, func.count(), *exact_sum(_INVOICE.total)).group_by(*key)
    totals = totals.where(_INVOICE.period >= later_period(newest[0], 1 - months))
    found = [(row[0], row[1], row[2], joined(*row[3:])) for row in await tx.all(totals.order_by(_INVOICE.status))]
    return sorted(found, key=lambda row: row[0], reverse=True)


async def collection_totals(tx: Transaction) -> Mapping[str, tuple[int, int]]:
    state = collection.c.state
    rows = await tx.all(select(state, func.count(), *exact_sum(collection.c.amount)).group_by(state))
    return {row[0]: (row[1], joined(*row[2:])) for row in rows}


# -- alerts -----------------------------------------------------------------------------------------------------------


async def alerts(tx: Transaction, before: AlertKey | None, limit: int) -> list[Alert]:
    """The open ones in the index's order of what has no end, then the others: two lists, one after the other."""
    found = list[AnyRow]()
    if before is None or before[0] >= OPEN_US:
        found += await tx.all(_open_alerts(None if before is None else before[1:], limit))
        before = None
    if len(found) < limit:
        found += await tx.all(_closed_alerts(before, limit - len(found)))
    return [Alert(*row) for row in found]


def _open_alerts(before: tuple[int, str, str] | None, limit: int) -> Select[Any]:
    key = (alert.c.opened_us, alert.c.kind, alert.c.subject)
    statement = select(alert).where(alert.c.closed_us.is_(null())).order_by(*(each.desc() for each in key)).limit(limit)
    return statement if before is None else statement.where(tuple_(*key) < before)


def _closed_alerts(before: AlertKey | None, limit: int) -> Select[Any]:
    key = (alert.c.closed_us, alert.c.opened_us, alert.c.kind, alert.c.subject)
    statement = select(alert).where(alert.c.closed_us.is_not(null())).order_by(*(each.desc() for each in key))
    return (statement if before is None else statement.where(tuple_(*key) < before)).limit(limit)
