"""The payment provider's customers of tenants."""

from __future__ import annotations

from sqlalchemy import delete, select

from mm_metering.backends.accounts import refuse_other_payer
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import payer
from mm_metering.core.audit import Act
from mm_metering.core.audited import payer_moved


async def link(tx: Transaction, tenant: str, customer: str, act: Act | None = None) -> str:
    """The customer that the tenant has then; the first one stays."""
    is_new = await tx.run(tx.insert(payer).values(tenant=tenant, customer=customer).on_conflict_do_nothing())
    refuse_other_payer(tenant, await paid_for(tx, customer))
    linked = await of(tx, tenant)
    assert linked is not None
    if is_new:
        tx.note(payer_moved(tenant, None, linked, act))
    return linked


async def of(tx: Transaction, tenant: str) -> str | None:
    row = await tx.first(select(payer.c.customer).where(payer.c.tenant == tenant))
    return row.customer if row else None


async def paid_for(tx: Transaction, customer: str) -> str | None:
    row = await tx.first(select(payer.c.tenant).where(payer.c.customer == customer))
    return row.tenant if row else None


async def unlink(tx: Transaction, tenant: str, act: Act | None = None) -> None:
    linked = await of(tx, tenant)
    if await tx.run(delete(payer).where(payer.c.tenant == tenant)):
        tx.note(payer_moved(tenant, linked, None, act))
