"""Invoices from the ledger. Preview and close are one code path."""

from __future__ import annotations

from datetime import timedelta

from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.identity import tenant_id
from mm_metering.core.invoices import Invoice
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import local_day, period_span
from mm_metering.errors import UnknownTenant
from mm_metering.gate.plans import PlanBook


class Invoices:
    """Drafts what a tenant owes for a calendar month in its zone."""

    def __init__(self, ledger: Ledger, *, catalogue: Catalogue, plans: PlanBook, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._catalogue = catalogue
        self._plans = plans

    async def preview(self, tenant: str, period: str | None) -> Invoice:
        """The month's invoice as it stands: usage so far, the whole month's fees. ``period`` is "2024-01"; None, the
        month that is now."""
        row = await self._ledger.tenant(tenant_id(tenant))
        if row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        terms = await self._plans.of(row)
        period = period or f"{local_day(self._clock.now(), terms.zone):%Y-%m}"
        span = period_span(period, terms.zone)
        first, last = local_day(span.start, terms.zone), local_day(span.end - timedelta(microseconds=1), terms.zone)
        cells = await self._ledger.cells(row.id, first=first, last=last)
        return draft(terms, period, cells, currency=self._catalogue.currency)
