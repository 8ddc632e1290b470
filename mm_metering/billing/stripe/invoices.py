"""Invoices at Stripe: a draft, the items bound to it, then finalized; only if Stripe's total is ours."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

from mm_metering.billing.adapter import BillingInvoice, BillingItem, Items, due, items_of, unknown
from mm_metering.billing.stripe.account import StripeAccount, default_method, digest, same_request
from mm_metering.billing.stripe.calls import key_of, once_begun
from mm_metering.billing.stripe.failures import NoSuchObject
from mm_metering.billing.stripe.shapes import (
    ASKED,
    ITEM,
    KEY,
    Coins,
    checked_id,
    due_ts,
    id_of,
    in_coins,
    invoice_of,
    of_coins,
    told,
)
from mm_metering.core.money import EXACT
from mm_metering.errors import ActionRequired, InvalidRequest, NoPaymentMethod

if TYPE_CHECKING:
    import stripe


class Invoices(StripeAccount):
    async def create_invoice(
        self,
        customer_id: str,
        *,
        items: Items,
        due_date: date | str | None = None,
        idempotency_key: str | None = None,
    ) -> BillingInvoice:
        checked_id(customer_id, "cus", "customer_id")
        lines, until = items_of(items), due(due_date)
        coins = [in_coins(each.unit_price, self.currency) for each in lines]
        key_of(idempotency_key, "")
        asked = digest(
            {"customer": customer_id, "items": [each.model_dump(mode="json") for each in lines], "due": str(until)}
        )
        draft = idempotency_key and await self._invoiced(customer_id, idempotency_key, asked)
        added: set[int] = set()
        if not draft:
            draft = await self._draft(customer_id, until, asked, idempotency_key)
        elif draft.status == "draft":
            added = {int(told(each.metadata).get(ITEM, -1)) for each in await self._lines(draft.id)}
        else:
            return await self._told(draft)
        missing = [place for place in range(len(lines)) if place not in added]
        with once_begun():
            for place in missing:
                await self._add(draft, place, lines[place], coins[place], key_of(idempotency_key, f"item:{place}"))
            return await self._finalized(draft.id, lines, idempotency_key)

    async def _invoiced(self, customer_id: str, key: str, asked: str) -> stripe.Invoice | None:
        """What was made under the key, also long after Stripe has forgotten the key; newest first."""
        pages = self._calls.pages(lambda client: client.v1.invoices.list_async({"customer": customer_id, "limit": 100}))
        async for each in pages:
            metadata = told(each.metadata)
            if metadata.get(KEY) == key:
                same_request(metadata.get(ASKED), asked, key)
                return each
        return None

    async def _draft(self, customer_id: str, until: date | None, asked: str, key: str | None) -> stripe.Invoice:
        """Takes in nothing but what is bound to it: no loose items, no discount of the customer's, no tax but ours."""
        wanted: stripe.params.InvoiceCreateParams = {
            "customer": customer_id,
            "currency": self.currency.lower(),
            "auto_advance": False,
            "pending_invoice_items_behavior": "exclude",
            "collection_method": "charge_automatically",
            "automatic_tax": {"enabled": False},
            "discounts": "",
            "metadata": {ASKED: asked, KEY: key} if key else {ASKED: asked},
        }
        if until is not None:
            wanted["collection_method"], wanted["due_date"] = "send_invoice", due_ts(until)
        return await self._calls.write(
            lambda client, options: client.v1.invoices.create_async(wanted, options), key_of(key, "draft")
        )

    async def _add(self, draft: stripe.Invoice, place: int, item: BillingItem, coins: Decimal, key: str | None) -> None:
        """Stripe's quantities are never negative: the price is, instead."""
        with localcontext(EXACT):
            price = Coins(-coins if item.quantity < 0 else coins)
        wanted: stripe.params.InvoiceItemCreateParams = {
            "customer": str(draft.customer),
            "invoice": draft.id,
            "currency": self.currency.lower(),
            "description": item.description,
            "quantity": abs(item.quantity),
            "unit_amount_decimal": price,
            "metadata": {ITEM: str(place)},
        }
        try:
            await self._calls.write(lambda client, options: client.v1.invoice_items.create_async(wanted, options), key)
        except InvalidRequest:
            with suppress(InvalidRequest):
                await self._deleted(draft)
            raise

    async def _finalized(self, invoice_id: str, items: tuple[BillingItem, ...], key: str | None) -> BillingInvoice:
        with localcontext(EXACT):
            ours = sum((each.amount(self.currency) for each in items), Decimal(0))
        known = await self._retrieved_invoice(invoice_id)
        if (theirs := of_coins(known.total, self.currency)) != ours:
            await self._deleted(known)
            raise InvalidRequest(
                f"these items are {ours} {self.currency} by our rules and {theirs} by Stripe's; nothing was invoiced"
            )
        if known.status == "draft":
            known = await self._calls.write(
                lambda client, options: client.v1.invoices.finalize_invoice_async(
                    invoice_id, {"auto_advance": False}, options
                ),
                key_of(key, "final"),
            )
        return await self._told(known)

    async def get_invoice(self, invoice_id: str) -> BillingInvoice | None:
        try:
            return await self._told(await self._retrieved_invoice(invoice_id))
        except NoSuchObject:
            return None

    async def pay_invoice(
        self, invoice_id: str, payment_method_id: str | None = None, *, idempotency_key: str | None = None
    ) -> BillingInvoice:
        wanted: stripe.params.InvoicePayParams = {"off_session": True}
        if payment_method_id is not None:
            wanted["payment_method"] = checked_id(payment_method_id, "pm", "payment_method_id")
        key = key_of(idempotency_key, "pay")
        known = await self._known_invoice(invoice_id)
        if known.status == "paid":
            return await self._told(known)
        if known.status == "void":
            raise InvalidRequest(f"invoice {invoice_id} is void; it cannot be paid")
        if payment_method_id is None and not default_method(await self._known(id_of(known.customer))):
            raise NoPaymentMethod
        try:
            known = await self._calls.write(
                lambda client, options: client.v1.invoices.pay_async(invoice_id, wanted, options), key
            )
        except ActionRequired as error:
            raise ActionRequired(error.client_secret or await self._secret(invoice_id)) from None
        except InvalidRequest:  # somebody else may have paid it meanwhile
            known = await self._known_invoice(invoice_id)
            if known.status != "paid":
                raise
        with once_begun():
            return await self._told(known)

    async def void_invoice(self, invoice_id: str) -> BillingInvoice:
        """A draft is deleted."""
        known = await self._known_invoice(invoice_id)
        if known.status == "paid":
            raise InvalidRequest(f"invoice {invoice_id} is paid; give the money back by a credit note instead")
        if known.status == "draft":
            told_before = await self._told(known)
            await self._deleted(known)
            return told_before.model_copy(update={"status": "void"})
        if known.status != "void":
            known = await self._calls.write(
                lambda client, options: client.v1.invoices.void_invoice_async(invoice_id, {}, options)
            )
        with once_begun():
            return await self._told(known)

    async def _deleted(self, draft: stripe.Invoice) -> None:
        try:
            await self._calls.write(lambda client, _: client.v1.invoices.delete_async(draft.id))
        except NoSuchObject:
            return

    async def _secret(self, invoice_id: str) -> str:
        found = await self._calls.read(
            lambda client: client.v1.invoices.retrieve_async(invoice_id, {"expand": ["confirmation_secret"]})
        )
        return found.confirmation_secret.client_secret if found.confirmation_secret is not None else ""

    async def _known_invoice(self, invoice_id: str) -> stripe.Invoice:
        try:
            return await self._retrieved_invoice(invoice_id)
        except NoSuchObject:
            raise unknown("invoice", invoice_id) from None

    async def _retrieved_invoice(self, invoice_id: str) -> stripe.Invoice:
        checked_id(invoice_id, "in", "invoice_id")
        return await self._calls.read(lambda client: client.v1.invoices.retrieve_async(invoice_id))

    async def _lines(self, invoice_id: str) -> list[stripe.InvoiceLineItem]:
        """All of them: an invoice itself shows ten."""
        pages = self._calls.pages(lambda client: client.v1.invoices.line_items.list_async(invoice_id, {"limit": 100}))
        return [each async for each in pages]

    async def _told(self, found: stripe.Invoice) -> BillingInvoice:
        return invoice_of(found, await self._lines(found.id))
