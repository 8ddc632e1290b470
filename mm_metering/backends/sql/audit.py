"""The audit log: entries are chained as the last thing that a transaction does.

The head is one row, locked then and no earlier: who holds it waits for nothing any more, so that nobody waits for
another crosswise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, or_, select, update

from mm_metering.backends.audit_log import LinkKey
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import audit_head, audit_log
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import Head, Keys, Link, Outside, chained

PAGE: Final = 1000
LINK: Final = tuple(audit_log.c[name] for name in Link._fields)


async def chain(tx: Transaction, keys: Keys) -> None:
    """Writes what was noted in the transaction."""
    if not tx.noted:
        return
    head = await _head(tx, lock=True)
    if head.seq == 0:
        head = Head(0, (await _all_outside(tx)).mac)
    new = chained(tx.noted, head, keys)
    await tx.run_each(audit_log.insert(), [each._asdict() for each in new])
    await tx.run(update(audit_head).values(seq=new[-1].seq, mac=new[-1].mac))


async def _head(tx: Transaction, *, lock: bool = False) -> Head:
    statement = select(audit_head.c.seq, audit_head.c.mac)
    row = await tx.first(statement.with_for_update() if lock else statement)
    return Head(*row) if row else Head()


async def _all_outside(tx: Transaction) -> Outside:
    found, after = Outside(), ""
    while page := await outside(tx, after, PAGE):
        found.add(page)
        after = page[-1].id
    return found


async def newest(tx: Transaction, tenant: str | None, limit: int) -> Sequence[AuditEntry]:
    statement = select(*LINK).order_by(audit_log.c.at_us.desc(), audit_log.c.id.desc()).limit(limit)
    if tenant is not None:
        statement = statement.where(audit_log.c.tenant == tenant)
    return [each.entry for each in await links(tx, statement)]


async def page(tx: Transaction, after: LinkKey, limit: int) -> tuple[list[Link], Head]:
    """Also one that is there twice, which takes more than the table allows."""
    seq, past = after
    beyond = or_(audit_log.c.seq > seq, audit_log.c.id > past)
    statement = select(*LINK).where(audit_log.c.seq >= seq, beyond).order_by(audit_log.c.seq, audit_log.c.id)
    return await links(tx, statement.limit(limit)), await _head(tx)


async def outside(tx: Transaction, after: str, limit: int) -> list[Link]:
    statement = select(*LINK).where(audit_log.c.seq.is_(None), audit_log.c.id > after)
    return await links(tx, statement.order_by(audit_log.c.id).limit(limit))


async def links(tx: Transaction, statement: Select[Any]) -> list[Link]:
    return [*map(Link._make, await tx.plain(statement))]
