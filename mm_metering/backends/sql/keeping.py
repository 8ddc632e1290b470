"""Where facts are kept, and for how long: room for the months to come, and months that go.

Whoever writes facts holds KEEPING shared from before the first until the end, so that no row moves or goes meanwhile,
and ``since_us`` stands still.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from sqlalchemy import BigInteger, bindparam, select, text, update

from mm_metering.backends.ledger import Retired
from mm_metering.backends.sql import partitions
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import kept
from mm_metering.core.periods import month_start_us

KEEPING: Final = 0x6D6D_6B65_6570_696E
"""The advisory lock's number: "mmkeepin"."""
AHEAD: Final = 3
"""Months that there is room for besides the running one."""
AT_ONCE: Final = 10_000
"""Most rows that one transaction deletes."""


async def hold_still(tx: Transaction) -> int:
    """Keeps all rows in place until the transaction ends; from which instant on all facts are here."""
    await tx.lock(KEEPING, shared=True)
    return await since_us(tx)


async def since_us(tx: Transaction) -> int:
    row = await tx.first(select(kept.c.since_us))
    if row is None:
        raise AssertionError("the row that the migration left in mm_kept is gone")
    return int(row.since_us)


async def make_room(tx: Transaction, now_us: int) -> tuple[str, ...]:
    if not tx.dialect.partitions:
        return ()
    await tx.lock(KEEPING)
    there = await partitions.every(tx)
    months = [month_start_us(now_us, number) for number in range(AHEAD + 2)]
    missing = [span for span in pairwise(months) if not any(each.meets(*span) for each in there)]
    return tuple([await partitions.make(tx, *span) for span in missing])


async def retire(tx: Transaction, now_us: int, keep_months: int) -> Retired:
    """``since_us`` moves with the first row that goes, so that months of which none went still take what comes late."""
    await tx.lock(KEEPING)
    end_us = max(await since_us(tx), month_start_us(now_us, -keep_months))
    retired = await _take_out(tx, end_us)
    if retired.facts or retired.tables:
        await tx.run(update(kept).values(since_us=end_us))
    return retired


async def _take_out(tx: Transaction, end_us: int) -> Retired:
    if tx.dialect.partitions:
        over = [each for each in await partitions.every(tx) if each.end_us <= end_us]
        if over:
            await partitions.detach(tx, over[0])
            return Retired(0, (over[0].name,), more=True)
    gone = await tx.run(_DELETE[tx.dialect.partitions], {"since_us": end_us, "limit": AT_ONCE})
    return Retired(gone, (), more=gone == AT_ONCE)


def _delete(table: str) -> str:
    """Tenant after tenant, since no index begins with the instant: the next tenant is one step in the key. It does not
    begin with WITH, of which SQLite's driver does not say how many rows went."""
    return f"""
    DELETE FROM {table} WHERE (tenant, occurred_us, id) IN (
        WITH RECURSIVE owner(tenant) AS (
            SELECT min(tenant) FROM {table}
            UNION ALL
            SELECT (SELECT min(f.tenant) FROM {table} AS f WHERE f.tenant > owner.tenant)
            FROM owner WHERE owner.tenant IS NOT NULL
        )
        SELECT f.tenant, f.occurred_us, f.id FROM owner JOIN {table} AS f ON f.tenant = owner.tenant
        WHERE f.occurred_us < :since_us AND f.kind NOT IN ('set', 'add') LIMIT :limit
    )
    """


_BOUNDS: Final = (bindparam("since_us", type_=BigInteger()), bindparam("limit", type_=BigInteger()))
_DELETE: Final = {
    has_partitions: text(_delete(table)).bindparams(*_BOUNDS)
    for has_partitions, table in ((False, "mm_usage_fact"), (True, partitions.DEFAULT))
}
