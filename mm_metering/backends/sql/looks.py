"""What people look at, in SQL: each of the Protocol's methods as one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

from mm_metering.backends.collecting import Hint
from mm_metering.backends.looks import (
    FactPage,
    FactPlace,
    HouseDay,
    Place,
    TenantOrder,
    alert_key,
    can_be_found,
    refuse_days,
    refuse_types,
)
from mm_metering.backends.sql import finding, house, latest, pages
from mm_metering.backends.sql.engine import Store, Transaction, Work
from mm_metering.backends.work import Alert
from mm_metering.core.audit import AuditEntry
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow
from mm_metering.core.invoices import Invoice, InvoiceStatus
from mm_metering.core.tenancy import TenantRow

T = TypeVar("T")


class SqlLooks:
    """A part of a ledger with a store."""

    _store: Store

    async def _in_order(self, work: Work[T]) -> T:
        async def ordered(tx: Transaction) -> T:
            await tx.dialect.in_order(tx.connection)
            return await work(tx)

        return await self._store.read(ordered)

    # -- the house by day ---------------------------------------------------------------------------------------------

    async def roll_up(self, day: date, *, now_us: int) -> None:
        """Added up by a transaction that only reads, so that nobody waits meanwhile who writes."""
        days = await self._store.read(lambda tx: house.added_up(tx, day, now_us))
        await self._store.write(lambda tx: house.put(tx, day, days, now_us))

    async def house_days(self, first: date, last: date) -> list[HouseDay]:
        refuse_days(first, last)
        return await self._store.read(lambda tx: house.days(tx, first, last))

    async def first_day(self, *, since: date = date.min) -> date | None:
        return await self._in_order(lambda tx: house.first_day(tx, since))

    # -- tenants and facts --------------------------------------------------------------------------------------------

    async def find_tenants(
        self,
        *,
        text: str = "",
        plan: str = "",
        status: str = "",
        now_us: int,
        order: TenantOrder = "id",
        skip: int = 0,
        limit: int = 50,
    ) -> tuple[list[TenantRow], int]:
        if not can_be_found(text, plan, status):
            return [], 0
        chosen: dict[str, Any] = {"text": text, "plan": plan, "status": status, "skip": skip, "limit": limit}
        return await self._store.read(lambda tx: finding.page(tx, now_us=now_us, order=order, **chosen))

    async def count_tenants(self, now_us: int) -> Mapping[tuple[str, str], int]:
        return await self._store.read(lambda tx: finding.by_plan(tx, now_us))

    async def latest_facts(
        self,
        *,
        tenant: str | None = None,
        event_type: str = "",
        kind: str = "",
        text: str = "",
        before: FactPlace | None = None,
        after: FactPlace | None = None,
        limit: int = 100,
    ) -> FactPage:
        if not can_be_found(tenant, event_type, kind, text, *(before or ()), *(after or ())):
            return FactPage([], None)
        chosen: dict[str, Any] = {"tenant": tenant, "event_type": event_type, "kind": kind, "text": text}
        return await self._in_order(lambda tx: latest.page(tx, before=before, after=after, limit=limit, **chosen))

    # -- what was done, told and heard --------------------------------------------------------------------------------

    async def audit_page(
        self, *, tenant: str | None = None, action: str = "", before: Place | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        if not can_be_found(tenant, action, *(before or ())):
            return []
        return await self._in_order(lambda tx: pages.entries(tx, tenant, action, before, limit))

    async def notices_page(
        self, *, tenant: str | None = None, types: Sequence[str] = (), before: Place | None = None, limit: int = 100
    ) -> list[Notice]:
        refuse_types(types)
        if not can_be_found(tenant, *types, *(before or ())):
            return []
        return await self._in_order(lambda tx: pages.notices(tx, tenant, types, before, limit))

    async def hints_page(self, *, before: Place | None = None, limit: int = 100) -> list[Hint]:
        if not can_be_found(*(before or ())):
            return []
        return await self._in_order(lambda tx: pages.hints(tx, before, limit))

    async def deliveries_page(
        self,
        *,
        tenant: str | None = None,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: Place | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        if not can_be_found(tenant, endpoint, state, *(before or ())):
            return []
        chosen: dict[str, Any] = {"tenant": tenant, "endpoint_id": endpoint, "state": state}
        return await self._in_order(lambda tx: pages.deliveries(tx, before=before, limit=limit, **chosen))

    async def endpoints_page(
        self, *, tenant: str | None = None, after: str = "", limit: int = 100
    ) -> list[EndpointRow]:
        if not can_be_found(tenant, after):
            return []
        run = self._in_order if tenant is None else self._store.read  # one tenant has few: they may be sorted
        return await run(lambda tx: pages.endpoints(tx, tenant, after, limit))

    async def delivery_stats(self, *, since_us: int) -> Mapping[str, tuple[int, int]]:
        return await self._in_order(lambda tx: pages.stats(tx, since_us))

    # -- money and alerts ---------------------------------------------------------------------------------------------

    async def invoices_page(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        skip: int = 0,
        limit: int = 50,
    ) -> tuple[list[Invoice], int]:
        if not can_be_found(tenant, period, status):
            return [], 0
        chosen: dict[str, Any] = {"tenant": tenant, "period": period, "status": status}
        return await self._store.read(lambda tx: pages.invoices(tx, skip=skip, limit=limit, **chosen))

    async def invoice_totals(self, *, months: int = 12) -> list[tuple[str, InvoiceStatus, int, int]]:
        return await self._store.read(lambda tx: pages.invoice_totals(tx, months))

    async def collection_totals(self) -> Mapping[str, tuple[int, int]]:
        return await self._store.read(pages.collection_totals)

    async def alert_history(self, *, before: Place | None = None, limit: int = 100) -> list[Alert]:
        key = None if before is None else alert_key(before)
        if not can_be_found(*(key or ())):
            return []
        return await self._in_order(lambda tx: pages.alerts(tx, key, limit))
