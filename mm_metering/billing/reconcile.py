"""Our invoices against those at the payment provider, line by line. Looking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from mm_metering.backends.ledger import Ledger
from mm_metering.billing.adapter import BillingInvoice, BillingItem, WebhookAdapter
from mm_metering.billing.collection import Collector, Progress
from mm_metering.billing.items import items_of_invoice
from mm_metering.core.collecting import Collection
from mm_metering.core.invoices import Invoice
from mm_metering.core.money import plain
from mm_metering.core.periods import parse_period
from mm_metering.errors import InvalidRequest

PAGE: Final = 100
STANDS: Final = {
    "finalized": frozenset({"open"}),
    "paid": frozenset({"paid"}),
    "uncollectible": frozenset({"open", "uncollectible"}),
    "void": frozenset({"void"}),
}
"""Which states at the provider go with each of ours."""


class Drift(NamedTuple):
    """What is not the same. ``mends``: what ``apply`` does about it; empty where somebody must decide."""

    tenant: str
    invoice: str
    what: str
    ours: str
    theirs: str
    mends: str = ""


class Reconciliation(NamedTuple):
    invoices: int
    drift: tuple[Drift, ...]
    mended: int = 0


class Reconcile:
    def __init__(self, adapter: WebhookAdapter, ledger: Ledger, collector: Collector) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._collector = collector

    async def look(self, period: str, *, apply: bool, progress: Progress) -> Reconciliation:
        """A month's invoices of tenants that have a customer there. With ``apply`` payment states follow the provider,
        and what was never sent is; amounts are never changed."""
        parse_period(period)
        drift, done, mended, seen = list[Drift](), 0, 0, set[str]()
        after = ("", "", 0)
        while page := await self._ledger.invoices(period=period, after=after, limit=PAGE):
            after = (page[-1].period, page[-1].tenant, page[-1].issue)
            for invoice in page:
                customer = await self._ledger.payer(invoice.tenant)
                if customer is None or invoice.status == "draft":
                    continue
                found = await self._of(invoice)
                if invoice.tenant not in seen:
                    seen.add(invoice.tenant)
                    found += await self._twice(invoice, customer)
                drift += found
                if apply and any(each.mends for each in found):
                    mended += await self._mend(invoice)
                done += 1
                progress(done)
        if apply and mended:
            await self._collector.run()
        return Reconciliation(done, tuple(drift), mended)

    async def _of(self, invoice: Invoice) -> list[Drift]:
        collection = await self._ledger.collection(invoice.id)
        if collection is None or collection.provider_invoice is None:
            is_due = invoice.status == "finalized" and invoice.amount_due > 0
            return [_drift(invoice, "not sent", plain(invoice.amount_due), "", "is sent")] if is_due else []
        there = await self._adapter.get_invoice(collection.provider_invoice)
        if there is None:
            return [_drift(invoice, "missing", collection.provider_invoice, "")]
        return list(_differences(invoice, collection, there))

    async def _twice(self, invoice: Invoice, customer: str) -> list[Drift]:
        """Invoices there that ask for the same again, under none of our collections."""
        if invoice.finalized_at is None:
            return []
        wanted, since = items_of_invoice(invoice, invoice.total), invoice.finalized_at - timedelta(days=1)
        try:
            there = await self._adapter.list_invoices(customer, since=since)
        except InvalidRequest as error:
            return [_drift(invoice, "customer", customer, str(error))]
        return [
            _drift(invoice, "asked for twice", plain(invoice.total), each.id)
            for each in there
            if each.status in ("open", "paid")
            and each.items == wanted
            and await self._ledger.collection_at(each.id) is None
        ]

    async def _mend(self, invoice: Invoice) -> int:
        collection = await self._ledger.collection(invoice.id)
        if collection is None or collection.provider_invoice is None:
            return 1  # the run that follows sends it
        seen = await self._adapter.look("invoice", collection.provider_invoice)
        await self._collector.heard(seen)
        return 1


def _differences(invoice: Invoice, collection: Collection, there: BillingInvoice) -> Iterator[Drift]:
    ours = "void" if collection.state == "void" else invoice.status
    if there.status not in STANDS[ours]:
        mends = "payment follows" if there.status in ("paid", "uncollectible") and ours != "void" else ""
        yield _drift(invoice, "status", ours, there.status, mends)
    if there.status == "void":
        return
    if there.currency != invoice.currency:
        yield _drift(invoice, "currency", invoice.currency, there.currency)
    yield from _lines(invoice, items_of_invoice(invoice, collection.amount), there.items)
    if there.total != collection.amount:
        yield _drift(invoice, "total", plain(collection.amount), plain(there.total))


def _lines(invoice: Invoice, ours: Sequence[BillingItem], theirs: Sequence[BillingItem]) -> Iterator[Drift]:
    for number in range(max(len(ours), len(theirs))):
        mine, other = (_item(each[number]) if number < len(each) else "" for each in (ours, theirs))
        if mine != other:
            yield _drift(invoice, f"line {number + 1}", mine, other)


def _item(each: BillingItem) -> str:
    return f"{each.description}: {each.quantity:,} x {plain(each.unit_price)}"


def _drift(invoice: Invoice, what: str, ours: str, theirs: str, mends: str = "") -> Drift:
    return Drift(invoice.tenant, invoice.id, what, ours, theirs, mends)
