"""Tenants' own keys, and forgetting a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, delete, not_, or_, select, update

from mm_metering.backends.privacy import SEALED, Forgotten, KeyRow
from mm_metering.backends.sql import cells, collecting, keeping, reports, shards, tenants
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import (
    alert,
    collection,
    delivery,
    endpoint,
    event_key,
    mute,
    notice,
    payer,
    tenant,
    tenant_key,
    usage_fact,
)
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import Entries
from mm_metering.core.collecting import FINAL, changed_notice
from mm_metering.core.deliveries import EndpointRow
from mm_metering.core.digest import Digest

# -- keys -------------------------------------------------------------------------------------------------------------


async def key(tx: Transaction, owner: str) -> str | None:
    row = await tx.first(select(tenant_key.c.sealed).where(tenant_key.c.tenant == owner))
    return row.sealed if row else None


async def put_key(tx: Transaction, new: KeyRow, instead_of: str | None) -> bool:
    """Whoever forgets the tenant has its row, or waits for it here."""
    row = await tx.first(select(tenant.c.forgotten_us).where(tenant.c.id == new.tenant).with_for_update())
    if row is not None and row.forgotten_us:
        return False
    if instead_of is None:
        return bool(await tx.run(tx.insert(tenant_key).values(new._asdict()).on_conflict_do_nothing()))
    stands = and_(tenant_key.c.tenant == new.tenant, tenant_key.c.sealed == instead_of)
    return bool(await tx.run(update(tenant_key).where(stands).values(sealed=new.sealed)))


async def keys(tx: Transaction, after: str, limit: int) -> list[KeyRow]:
    statement = select(tenant_key).where(tenant_key.c.tenant > after).order_by(tenant_key.c.tenant).limit(limit)
    return [KeyRow(*row) for row in await tx.all(statement)]


async def every_endpoint(tx: Transaction, after: str, limit: int) -> list[EndpointRow]:
    statement = select(endpoint.c.document).where(endpoint.c.id > after).order_by(endpoint.c.id).limit(limit)
    return [EndpointRow.model_validate_json(row.document) for row in await tx.all(statement)]


# -- forgetting -------------------------------------------------------------------------------------------------------


async def forget(tx: Transaction, owner: str, now_us: int, shard: int, audit: Sequence[AuditEntry]) -> Forgotten:
    await shards.find(tx, shard, lock=True)  # shard, tenant, rows: in the order of who folds
    before, after = await tenants.forget(tx, owner, now_us)
    await keeping.hold_still(tx)
    blanked = await _blank_metadata(tx, owner, shard)
    await _close_alerts(tx, owner)
    told = changed_notice(after, now_us, now_us)
    gone = {each.name: await _delete(tx, each, owner) for each in (delivery, endpoint, event_key, mute, tenant_key)}
    notices = await tx.run(delete(notice).where(notice.c.tenant == owner, notice.c.id != told.id))
    unpaid = and_(collection.c.tenant == owner, collection.c.state.not_in(sorted(FINAL)))
    if await tx.first(select(collection.c.invoice).where(unpaid).limit(1)) is None:
        await _delete(tx, payer, owner)
    await collecting.write(tx, Entries(notices=() if after == before else (told,), audit=tuple(audit)))
    return Forgotten(after, blanked, gone[endpoint.name], gone[delivery.name], notices, gone[event_key.name])


async def _delete(tx: Transaction, table: Table, owner: str) -> int:
    return await tx.run(delete(table).where(table.c.tenant == owner))


async def _close_alerts(tx: Transaction, owner: str) -> None:
    """Those of the tenant itself, its endpoints and its notices."""
    theirs: list[ColumnElement[bool]] = [
        alert.c.subject.in_(select(each.c.id).where(each.c.tenant == owner)) for each in (endpoint, notice)
    ]
    await tx.run(delete(alert).where(or_(alert.c.subject == owner, *theirs)))


_STATED: Final = and_(
    usage_fact.c.kind.in_(("use", "set")),  # others' metadata is the house's own: numbers and states
    usage_fact.c.metadata.is_not(None),
    not_(usage_fact.c.metadata.startswith(SEALED, autoescape=True)),
)


async def _blank_metadata(tx: Transaction, owner: str, shard: int) -> int:
    stood = await _digest(tx, owner)
    blanked = await tx.run(update(usage_fact).where(usage_fact.c.tenant == owner, _STATED).values(metadata=None))
    if blanked:
        await tenants.rebuild_cells(tx, owner)
        stands = await _digest(tx, owner)
        moved = Digest().plus(stands.facts - stood.facts, stands.hashes - stood.hashes)
        await shards.hold(tx, shard, moved)
        await reports.add(tx, shard, moved)
    return blanked


async def _digest(tx: Transaction, owner: str) -> Digest:
    found = [each for name, each in await cells.digests(tx, "", 1, of=owner) if name == owner]
    return found[0] if found else Digest()
