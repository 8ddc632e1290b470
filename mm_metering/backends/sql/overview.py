"""What the ledger shows of the house, in statements that an index or a small table answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, literal, select

from mm_metering.backends.overview import MOST_ALERTS, MOST_COUNTED, MOST_ENDPOINTS, PERIODS, Overview, Queue
from mm_metering.backends.sql import work
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import (
    IS_OPEN,
    dead_letter,
    delivery,
    endpoint,
    hint,
    invoice,
    job_run,
    lease,
    notice,
    shard,
    usage_fact,
)
from mm_metering.backends.work import Lease, Run
from mm_metering.core.deliveries import EndpointRow


async def look(tx: Transaction) -> Overview:
    return Overview(
        leases=tuple(Lease(*row) for row in await tx.all(select(lease).order_by(lease.c.name))),
        positions=await _positions(tx),
        runs=await _newest_runs(tx),
        dead_letters=await _count(tx, dead_letter),
        alerts=tuple(await work.open_alerts(tx, ("", ""), MOST_ALERTS)),
        invoices=await _invoices(tx),
        deliveries=await _queue(tx, delivery, delivery.c.next_us, delivery.c.next_us.is_not(None)),
        notices=await _queue(tx, notice, notice.c.next_us, notice.c.next_us.is_not(None)),
        hints=await _queue(tx, hint, hint.c.next_us, hint.c.next_us.is_not(None)),
        holds=await _queue(tx, usage_fact, usage_fact.c.occurred_us, and_(IS_OPEN)),
        endpoints_off=await _endpoints_off(tx),
    )


async def _positions(tx: Transaction) -> Mapping[int, tuple[int, str]]:
    rows = await tx.all(select(shard.c.shard, shard.c.generation, shard.c.position).order_by(shard.c.shard))
    return {number: (generation, position) for number, generation, position in rows}


async def _newest_runs(tx: Transaction) -> tuple[Run, ...]:
    newest = select(job_run.c.job, func.max(job_run.c.period_us).label("period_us")).group_by(job_run.c.job).subquery()
    is_newest = and_(job_run.c.job == newest.c.job, job_run.c.period_us == newest.c.period_us)
    rows = await tx.all(select(job_run).select_from(job_run.join(newest, is_newest)).order_by(job_run.c.job))
    return tuple(Run(*row) for row in rows)


async def _invoices(tx: Transaction) -> Mapping[str, Mapping[str, int]]:
    found: dict[str, Mapping[str, int]] = {}
    before: list[ColumnElement[bool]] = []
    for _ in range(PERIODS):
        newest = await tx.first(select(func.max(invoice.c.period)).where(*before))
        if newest is None or newest[0] is None:
            break
        counted = select(invoice.c.status, func.count()).where(invoice.c.period == newest[0])
        rows = await tx.all(counted.group_by(invoice.c.status).order_by(invoice.c.status))
        found[newest[0]] = {row[0]: row[1] for row in rows}
        before = [invoice.c.period < newest[0]]
    return found


async def _endpoints_off(tx: Transaction) -> int:
    rows = await tx.all(select(endpoint.c.document).where(endpoint.c.enabled.is_(False)).limit(MOST_ENDPOINTS))
    return sum(EndpointRow.model_validate_json(row[0]).was_switched_off for row in rows)


async def _queue(tx: Transaction, table: Table, at: ColumnElement[Any], waits: ColumnElement[bool]) -> Queue:
    row = await tx.first(select(func.min(at)).where(waits))
    return Queue(await _count(tx, table, waits), row[0] if row else None)


async def _count(tx: Transaction, table: Table, *where: ColumnElement[bool]) -> int:
    some = select(literal(1)).select_from(table).where(*where).limit(MOST_COUNTED).subquery()
    row = await tx.first(select(func.count()).select_from(some))
    return row[0] if row else 0
