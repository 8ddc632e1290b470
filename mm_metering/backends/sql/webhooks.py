"""Webhooks that go out: endpoints, deliveries, and the outbox that these are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import Select, and_, delete, func, select, tuple_, update

from mm_metering.backends.sql.collecting import notice_of, notice_row
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import AnyRow
from mm_metering.backends.sql.tables import IS_FRESH, delivery, endpoint, notice
from mm_metering.backends.webhooks import FAN_OUT_PAGE, SCAN, Claimed, refuse_more
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.audited import deliveries_opened, endpoint_disabled
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import (
    Attempt,
    Delivery,
    DeliveryState,
    EndpointRow,
    Result,
    deliveries_of,
    settled,
    webhook_id,
)
from mm_metering.core.periods import from_micros, micros

_ATTEMPTS: Final = TypeAdapter(tuple[Attempt, ...])

# -- endpoints --------------------------------------------------------------------------------------------------------


async def put_endpoint(
    tx: Transaction, row: EndpointRow, instead_of: EndpointRow | None, audit: Sequence[AuditEntry]
) -> bool:
    if not await (_insert(tx, row) if instead_of is None else _update(tx, row, instead_of.revision)):
        return False
    tx.note(audit)
    return True


async def _insert(tx: Transaction, row: EndpointRow) -> bool:
    held = select(func.count()).select_from(endpoint).where(endpoint.c.tenant == row.tenant)
    found = await tx.first(held)
    refuse_more(found[0] if found else 0)
    return bool(await tx.run(tx.insert(endpoint).values(_endpoint_row(row)).on_conflict_do_nothing()))


async def _update(tx: Transaction, row: EndpointRow, revision: int) -> bool:
    stands = and_(endpoint.c.id == row.id, endpoint.c.revision == revision)
    if not await tx.run(update(endpoint).where(stands).values(_endpoint_row(row))):
        return False
    if not row.enabled:
        waits = and_(delivery.c.endpoint == row.id, delivery.c.state == "pending")
        ends = {"state": "dead", "next_us": None, "claim": delivery.c.claim + 1}
        await tx.run(update(delivery).where(waits).values(ends))
    return True


def _endpoint_row(row: EndpointRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "tenant": row.tenant,
        "created_us": micros(row.created_at),
        "enabled": row.enabled,
        "throttled_us": micros(row.throttled_until) if row.throttled_until else 0,
        "revision": row.revision,
        "document": row.model_dump_json(),
    }


async def find_endpoint(tx: Transaction, endpoint_id: str) -> EndpointRow | None:
    row = await tx.first(select(endpoint.c.document).where(endpoint.c.id == endpoint_id))
    return None if row is None else EndpointRow.model_validate_json(row.document)


async def endpoints(tx: Transaction, tenant: str) -> list[EndpointRow]:
    order = (endpoint.c.created_us, endpoint.c.id)
    rows = await tx.all(select(endpoint.c.document).where(endpoint.c.tenant == tenant).order_by(*order))
    return [EndpointRow.model_validate_json(row.document) for row in rows]


async def _endpoints(tx: Transaction, names: Iterable[str], *, lock: bool = False) -> dict[str, EndpointRow]:
    statement = select(endpoint.c.document).where(endpoint.c.id.in_(sorted(set(names)))).order_by(endpoint.c.id)
    rows = await tx.all(statement.with_for_update() if lock else statement)
    found = [EndpointRow.model_validate_json(row.document) for row in rows]
    return {each.id: each for each in found}


# -- the outbox -------------------------------------------------------------------------------------------------------


async def put_notice(tx: Transaction, given: Notice) -> bool:
    return bool(await tx.run(tx.insert(notice).values(notice_row(given)).on_conflict_do_nothing()))


async def find_notice(tx: Transaction, notice_id: str) -> Notice | None:
    row = await tx.first(select(notice).where(notice.c.id == notice_id))
    return None if row is None else notice_of(row)


async def notices_of(
    tx: Transaction, tenant: str, *, start_us: int, end_us: int, after: tuple[int, str] | None, limit: int
) -> list[Notice]:
    key = (notice.c.made_us, notice.c.id)
    span = (notice.c.tenant == tenant, notice.c.made_us >= start_us, notice.c.made_us < end_us)
    statement = select(notice).where(*span).order_by(*key).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*key) > after)
    return [notice_of(row) for row in await tx.all(statement)]


async def has_fresh(tx: Transaction) -> bool:
    return await tx.first(select(notice.c.id).where(IS_FRESH).limit(1)) is not None


async def fan_out(tx: Transaction, now_us: int) -> int:
    statement = select(notice).where(IS_FRESH).order_by(notice.c.made_us, notice.c.id).limit(FAN_OUT_PAGE)
    fresh = [notice_of(row) for row in await tx.all(statement.with_for_update(skip_locked=True))]
    theirs = await _of_tenants(tx, {each.tenant for each in fresh})
    made = [
        _delivery_row(each)
        for one in fresh
        for each in deliveries_of(one, theirs.get(one.tenant, ()), from_micros(now_us))
    ]
    await tx.run_each(tx.insert(delivery).on_conflict_do_nothing(), made)
    if fresh:
        await tx.run(update(notice).where(notice.c.id.in_([each.id for each in fresh])).values(fanned=True))
    return len(fresh)


async def _of_tenants(tx: Transaction, tenants: Iterable[str]) -> Mapping[str, Sequence[EndpointRow]]:
    names = sorted(tenants)
    if not names:
        return {}
    found = dict[str, list[EndpointRow]]()
    for row in await tx.all(select(endpoint.c.document).where(endpoint.c.tenant.in_(names))):
        each = EndpointRow.model_validate_json(row.document)
        found.setdefault(each.tenant, []).append(each)
    return found


# -- deliveries -------------------------------------------------------------------------------------------------------


def _delivery_row(each: Delivery) -> dict[str, Any]:
    return {
        "id": each.id,
        "tenant": each.tenant,
        "endpoint": each.endpoint,
        "notice": each.notice,
        "type": each.type,
        "occurred_us": micros(each.occurred_at),
        **_moved(each),
    }


def _moved(each: Delivery) -> dict[str, Any]:
    """What changes on its way."""
    return {
        "state": each.state,
        "next_us": micros(each.next_at) if each.next_at else None,
        "tries": each.tries,
        "claim": each.claim,
        "attempts": _ATTEMPTS.dump_json(each.attempts).decode(),
    }


def delivery_of(row: AnyRow) -> Delivery:
    return Delivery(
        id=row.id,
        tenant=row.tenant,
        endpoint=row.endpoint,
        event=webhook_id(row.notice),
        notice=row.notice,
        type=row.type,
        occurred_at=from_micros(row.occurred_us),
        state=row.state,
        next_at=None if row.next_us is None else from_micros(row.next_us),
        tries=row.tries,
        claim=row.claim,
        attempts=_ATTEMPTS.validate_json(row.attempts),
    )


def _due(now_us: int, busy: Sequence[str]) -> Select[Any]:
    """Of endpoints that take some now."""
    takes = [endpoint.c.enabled, endpoint.c.throttled_us <= now_us]
    if busy:
        takes.append(endpoint.c.id.not_in(sorted(busy)))
    return (
        select(delivery.c.id, delivery.c.endpoint)
        .join(endpoint, endpoint.c.id == delivery.c.endpoint)
        .where(delivery.c.next_us <= now_us, *takes)
        .order_by(delivery.c.next_us, delivery.c.id)
    )


async def has_due(tx: Transaction, now_us: int, busy: Sequence[str]) -> bool:
    return await tx.first(_due(now_us, busy).limit(1)) is not None


async def claim(
    tx: Transaction, now_us: int, *, until_us: int, busy: Sequence[str], per_endpoint: int, limit: int
) -> list[Claimed]:
    rows = await tx.all(_due(now_us, busy).limit(SCAN))
    known = await _endpoints(tx, (row.endpoint for row in rows))
    taken, wanted = Counter[str](), list[str]()
    for row in rows:
        most = 1 if known[row.endpoint].failing_since else per_endpoint
        if taken[row.endpoint] < most and len(wanted) < limit:
            taken[row.endpoint] += 1
            wanted.append(row.id)
    mine = await _lock_due(tx, wanted, now_us)
    leased = {"next_us": until_us, "claim": delivery.c.claim + 1}
    await tx.run(update(delivery).where(delivery.c.id.in_(sorted(mine))).values(leased))
    told = await tx.all(select(notice).where(notice.c.id.in_(sorted({each.notice for each in mine.values()}))))
    notices = {row.id: notice_of(row) for row in told}
    changes = {"next_at": from_micros(until_us)}
    return [
        Claimed(
            mine[name].model_copy(update={**changes, "claim": mine[name].claim + 1}),
            known[mine[name].endpoint],
            notices[mine[name].notice],
        )
        for name in wanted
        if name in mine and mine[name].notice in notices
    ]


async def _lock_due(tx: Transaction, names: Sequence[str], now_us: int) -> dict[str, Delivery]:
    """Those of them that are still due, and that nobody else is at."""
    if not names:
        return {}
    due = and_(delivery.c.id.in_(sorted(names)), delivery.c.next_us <= now_us)
    statement = select(delivery).where(due).order_by(delivery.c.id).with_for_update(skip_locked=True)
    return {row.id: delivery_of(row) for row in await tx.all(statement)}


async def settle(tx: Transaction, results: Sequence[Result], act: Act | None = None) -> int:
    names = sorted({each.delivery for each in results})
    claimed = await tx.all(select(delivery.c.endpoint).where(delivery.c.id.in_(names)).distinct())
    before = await _endpoints(tx, (row.endpoint for row in claimed), lock=True)  # before their deliveries: see _update
    statement = select(delivery).where(delivery.c.id.in_(names)).order_by(delivery.c.id).with_for_update()
    stand = {row.id: delivery_of(row) for row in await tx.all(statement)}
    now_is, counted, notices = dict(before), 0, list[Notice]()
    for result in results:
        each = stand.get(result.delivery)
        if each is None or each.state != "pending" or each.claim != result.claim:
            continue
        counted += 1
        after = settled(each, now_is[each.endpoint], result)
        now_is[each.endpoint] = after.endpoint
        notices += after.notices
        await tx.run(update(delivery).where(delivery.c.id == each.id).values(_moved(after.delivery)))
    for name, row in now_is.items():
        if row != before[name]:
            await _update(tx, row, before[name].revision)
            tx.note(endpoint_disabled(before[name], row, act))
    await tx.run_each(tx.insert(notice).on_conflict_do_nothing(), [notice_row(each) for each in notices])
    return counted


async def open_again(tx: Transaction, deliveries: Sequence[Delivery], act: Act | None, *, again: bool) -> int:
    insert = tx.insert(delivery)
    anew = {"state": "pending", "next_us": insert.excluded.next_us, "tries": 0, "claim": delivery.c.claim + 1}
    may = None if again else delivery.c.state == "dead"
    statement = insert.on_conflict_do_update(index_elements=[delivery.c.id], set_=anew, where=may)
    ordered = sorted(deliveries, key=lambda each: each.id)
    opened = [each for each in ordered if await tx.run(statement, _delivery_row(each))]
    tx.note(deliveries_opened(opened, act))
    return len(opened)


async def find(tx: Transaction, delivery_id: str) -> Delivery | None:
    row = await tx.first(select(delivery).where(delivery.c.id == delivery_id))
    return None if row is None else delivery_of(row)


async def page(
    tx: Transaction,
    tenant: str,
    *,
    endpoint_id: str | None,
    state: DeliveryState | None,
    before: tuple[int, str] | None,
    limit: int,
) -> list[Delivery]:
    key = (delivery.c.occurred_us, delivery.c.id)
    statement = select(delivery).where(delivery.c.tenant == tenant)
    for column, value in ((delivery.c.endpoint, endpoint_id), (delivery.c.state, state)):
        if value is not None:
            statement = statement.where(column == value)
    if before is not None:
        statement = statement.where(tuple_(*key) < before)
    rows = await tx.all(statement.order_by(*(each.desc() for each in key)).limit(limit))
    return [delivery_of(row) for row in rows]


async def forget(tx: Transaction, before_us: int) -> int:
    return await tx.run(delete(delivery).where(delivery.c.occurred_us < before_us))
