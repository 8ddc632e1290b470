"""The payment provider's customers of tenants."""

from __future__ import annotations

from sqlalchemy import delete, select

from mm_metering.backends.accounts import refuse_other_payer
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import payer


async def link(tx: Transaction, tenant: str, customer: str) -> str:
    """The customer that the tenant has then; the first one stays."""
    await tx.run(tx.insert(payer).values(tenant=tenant, customer=customer).on_conflict_do_nothing())
    refuse_other_payer(tenant, await paid_for(tx, customer))
    linked = await of(tx, tenant)
    assert linked is not None
    return linked


async def of(tx: Transaction, tenant: str) -> str | None:
    row = await tx.first(select(payer.c.customer).where(payer.c.tenant == tenant))
    return row.customer if row else None


async def paid_for(tx: Transaction, customer: str) -> str | None:
    row = await tx.first(select(payer.c.tenant).where(payer.c.customer == customer))
    return row.tenant if row else None


async def unlink(tx: Transaction, tenant: str) -> None:
    await tx.run(delete(payer).where(payer.c.tenant == tenant))
