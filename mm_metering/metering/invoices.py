"""Invoices: a month as it stands, closed, and what may become of it; credit and discounts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from mm_metering.billing.invoices import DocumentForm, Progress
from mm_metering.billing.summary import BillingSummary, summary
from mm_metering.core.invoices import (
    Adjustment,
    BilledFact,
    CreditGrant,
    CreditKind,
    CreditNote,
    CreditScope,
    Discount,
    DiscountScope,
    Explanation,
    Invoice,
    InvoiceStatus,
)
from mm_metering.core.money import Amount
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import plan_name
from mm_metering.errors import UnknownTenant
from mm_metering.metering.usage import Recording

if TYPE_CHECKING:
    from mm_metering.billing.documents import Party


class Invoicing(Recording):
    """What a tenant owes."""

    # -- a month

    async def get_billing_summary(self, tenant: str) -> BillingSummary:
        """The tenant's plan, what its running month comes to so far, and what it used of each quota."""
        invoice = await self.preview_invoice(tenant)
        row = await self.ledger.tenant(tenant)
        if row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        terms = await self.plans.of(row)
        first, last = terms.days(invoice.period)
        segment = row.segment_at(micros(self.clock.now()))
        usage = await self.get_usage(tenant, first, last)
        return summary(plan_name(segment.plan), terms.plan(segment), usage, invoice)

    async def preview_invoice(self, tenant: str, *, period: str | None = None) -> Invoice:
        """The tenant's invoice for a calendar month in its zone, as it stands; the current month if absent."""
        await self._flush_of(tenant)
        return await self._invoices.preview(tenant, period)

    async def close_period(
        self,
        period: str,
        *,
        tenant: str | None = None,
        progress: Progress = lambda _: None,
        not_over: Callable[[str], None] = lambda _: None,
    ) -> list[Invoice]:
        """Each tenant's invoice of a calendar month, or one's, in order of their ids: drafts until the month's end and
        ``grace`` are over, then finalized with a number; from then on the same at every call.

        A draft that looks wrong (far above the usual total, too many lines) is not finalized: its ``held`` says why.
        PeriodNotOver before the month's end in the tenant's zone; where it is over for some, the others are left out
        and told to ``not_over``. ``progress`` is told how many tenants are done.
        """
        await (self.flush() if tenant is None else self._flush_of(tenant))
        return await self._invoices.close(period, tenant, progress, not_over=not_over)

    async def _close_last_month(self, today: datetime, _fence: int) -> None:
        await self._drain.fully()
        await self._invoices.close_last_month(today)

    # -- what was closed

    async def get_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """One that was closed, by its id or its number; else NotFound. This and each call below may name a ``tenant``,
        who asks: what is another's is then not found. None: the host itself asks."""
        await self.startup()
        return await self._invoices.get(invoice_id, tenant)

    async def _asks_for(self, invoice_id: str, tenant: str | None) -> None:
        """NotFound where a tenant asks for another's invoice."""
        await self.startup()
        if tenant is not None:
            await self._invoices.get(invoice_id, tenant)

    async def list_invoices(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        limit: int = 1000,
    ) -> list[Invoice]:
        """The first ``limit`` of those that were closed, in order of (period, tenant, issue)."""
        await self.startup()
        return await self._invoices.every(tenant, period, status, limit)

    async def rerun_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """A finalized invoice, made again from what it was made of. It equals ``get_invoice``: anything else means that
        the stored one was changed, or that this release rates differently."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.rerun(invoice_id)

    async def finalize_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """Finalizes a draft by hand, within the grace too and where it waits for a review. WrongState unless it is a
        draft: of two at once one wins."""
        draft = await self.get_invoice(invoice_id, tenant=tenant)
        await self._flush_of(draft.tenant)
        return await self._invoices.finalize(draft.id)

    async def void_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """Takes an unpaid invoice back. ``close_period`` then issues a new one, under a new number. WrongState for one
        that is a draft, paid, void, or has credit notes."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.void(invoice_id)

    async def mark_invoice(
        self, invoice_id: str, status: Literal["paid", "uncollectible"], *, tenant: str | None = None
    ) -> Invoice:
        """Says that a finalized invoice was paid, or never will be. WrongState unless it may become that."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.settle(invoice_id, status)

    async def credit_invoice(
        self,
        invoice_id: str,
        *,
        line_id: str | None = None,
        quantity: int | None = None,
        amount: Amount | None = None,
        reason: str,
        tenant: str | None = None,
    ) -> CreditNote:
        """Takes back ``amount`` before tax, ``quantity`` units of a line, a whole line, or all that is left, with its
        tax. What was paid becomes the tenant's credit, what was not is no longer due."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.credit(invoice_id, line_id=line_id, quantity=quantity, amount=amount, reason=reason)

    async def invoice_document(
        self,
        invoice_id: str,
        form: DocumentForm = "html",
        *,
        seller: Party | None = None,
        buyer: Party | None = None,
        tenant: str | None = None,
    ) -> bytes:
        """A closed invoice to be sent or shown: a self-contained page in UTF-8, a PDF (extra ``pdf``), rows, or JSON.
        ``seller`` and ``buyer`` are who stands on it: ``Party(name, address, tax_id, email)``."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.document(invoice_id, form, seller=seller, buyer=buyer)

    async def explain(self, line_id: str, *, tenant: str | None = None) -> Explanation:
        """Why a line of a closed invoice is what it is."""
        await self.startup()
        return await self._invoices.explain(line_id, tenant)

    async def line_facts(
        self,
        line_id: str,
        *,
        after: tuple[datetime, str] | None = None,
        limit: int = 1000,
        tenant: str | None = None,
    ) -> list[BilledFact]:
        """A page of the facts in a line's windows, past (occurred_at, id) and in that order."""
        await self.startup()
        return await self._invoices.facts_of(line_id, after, limit, tenant)

    # -- what the next ones take off or add

    async def grant_credit(
        self,
        tenant: str,
        amount: Amount,
        *,
        kind: CreditKind = "promo",
        priority: int = 0,
        expires_at: datetime | str | None = None,
        applies_to: CreditScope = "metered",
        reason: str = "",
    ) -> CreditGrant:
        """Credit that the tenant's next invoices take: by priority (the lowest first), then the earliest expiry, then
        the earliest grant. "metered" pays usage before tax, "all" pays everything."""
        await self.startup()
        return await self._invoices.grant(
            tenant,
            amount,
            kind=kind,
            priority=priority,
            expires_at=expires_at,
            applies_to=applies_to,
            reason=reason,
        )

    async def list_credits(self, tenant: str) -> list[CreditGrant]:
        """Also those that are used up."""
        await self.startup()
        return await self._invoices.credits(tenant)

    async def put_discount(
        self,
        tenant: str,
        *,
        percent: Amount | None = None,
        amount: Amount | None = None,
        applies_to: DiscountScope = "all",
        starts_at: datetime | str | None = None,
        ends_at: datetime | str | None = None,
        name: str = "discount",
    ) -> Discount:
        """A discount on the invoice of each month of which [starts_at, ends_at) has a part, from now on if absent:
        ``percent="10"`` or ``amount="20.00"``, off the fees ("base"), the usage ("metered") or "all"."""
        await self.startup()
        return await self._invoices.discount(
            tenant,
            percent=percent,
            amount=amount,
            applies_to=applies_to,
            starts_at=starts_at,
            ends_at=ends_at,
            name=name,
        )

    async def end_discount(self, tenant: str, discount_id: str, *, at: datetime | str | None = None) -> Discount:
        """No month that begins at that instant or later has the discount any more; now, if absent."""
        await self.startup()
        return await self._invoices.end_discount(tenant, discount_id, at)

    async def adjust_invoice(self, tenant: str, amount: Amount, *, reason: str) -> Adjustment:
        """An amount with a reason on the tenant's next invoice, before tax; negative in the tenant's favour."""
        await self.startup()
        return await self._invoices.adjust(tenant, amount, reason)
