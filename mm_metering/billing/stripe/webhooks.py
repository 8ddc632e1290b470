"""What Stripe tells by webhooks: a hint, checked without the SDK, and what Stripe says when it is asked.

Snapshot events and thin ones give the same hint. What their payload says of the object is not read: it may be old.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mm_metering.backends.collecting import About, Hint
from mm_metering.billing.adapter import BillingInvoice, Seen
from mm_metering.billing.signatures import verify
from mm_metering.billing.stripe.account import default_method
from mm_metering.billing.stripe.calls import Calls
from mm_metering.billing.stripe.customers import Customers
from mm_metering.billing.stripe.failures import NoSuchObject
from mm_metering.billing.stripe.invoices import Invoices
from mm_metering.billing.stripe.prices import Prices
from mm_metering.billing.stripe.shapes import checked_id, id_of
from mm_metering.billing.stripe.subscriptions import Subscriptions
from mm_metering.core import strict_json
from mm_metering.core.events import aware
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput, WebhookRefused

if TYPE_CHECKING:
    import stripe

log: Final = logging.getLogger("mm_metering")

SIGNATURE: Final = "stripe-signature"
API_VERSION: Final = "2026-10-28.endive"
ABOUT: Final[Mapping[str, About]] = {
    "invoice": "invoice",
    "payment_intent": "payment",
    "subscription": "subscription",
    "billing.subscription": "subscription",
    "customer": "customer",
    "payment_method": "payment_method",
}
"""What we ask after, by the kind of the object."""
_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}")
_SECRET: Final = re.compile(r"whsec_[!-~]{1,250}")


class Webhooks(Customers, Subscriptions, Invoices):
    def __init__(
        self, calls: Calls, prices: Prices, currency: str, *, secrets: Sequence[str], account: str | None
    ) -> None:
        super().__init__(calls, prices, currency)
        if not all(_SECRET.fullmatch(each) for each in secrets):
            raise InvalidInput("webhook_secret", 'is no signing secret of Stripe, such as "whsec_…"')
        self._secrets = tuple(secrets)
        self._account = account

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Hint:
        if not self._secrets:
            raise WebhookRefused("no webhook_secret is set: StripeBillingAdapter(webhook_secret=...)")
        verify(body, headers.get(SIGNATURE, ""), self._secrets, now)
        try:
            event = strict_json.loads(body)
        except ValueError:
            raise WebhookRefused("it is signed, and is no JSON") from None
        if not isinstance(event, dict) or event.get("object") not in ("event", "v2.core.event"):
            raise WebhookRefused("it is signed, and is no event")
        self._check_that_it_is_for_us(event)
        return _hint(event, now)

    async def missed(self, since: datetime, now: datetime) -> list[Hint]:
        """Of the 30 days that Stripe keeps events."""
        wanted: stripe.params.EventListParams = {
            "created": {"gte": int(since.timestamp())},
            "delivery_success": False,
            "limit": 100,
        }
        found = self._calls.pages(lambda client: client.v1.events.list_async(wanted))
        return [_hint(each.to_dict(), now) async for each in found]

    def _check_that_it_is_for_us(self, event: Mapping[str, Any]) -> None:
        if event.get("livemode") is not self._calls.is_live:
            raise WebhookRefused("it is of live data and the api_key of test data, or the other way round")
        if (account := event.get("account") or event.get("context")) and account != self._account:
            raise WebhookRefused("it is of another account than the one that is set here")
        if (version := event.get("api_version")) not in (None, API_VERSION):
            log.info("a webhook endpoint at Stripe has the version %.40r, not %s: no matter", version, API_VERSION)

    async def look(self, about: About, object_id: str) -> Seen:
        try:
            return await self._looked(about, object_id)
        except NoSuchObject:
            return Seen()

    async def _looked(self, about: About, object_id: str) -> Seen:
        match about:
            case "invoice":
                found = await self.get_invoice(object_id)
                return Seen(invoice=found, decline=await self._decline(found))
            case "payment":
                invoice_id = await self._invoice_of(object_id)
                return await self._looked("invoice", invoice_id) if invoice_id else Seen()
            case "subscription":
                return Seen(subscription=await self.get_subscription(object_id))
            case "customer":
                found_customer = await self._customer(object_id)
                if found_customer is None:
                    return Seen(customer_id=object_id, is_gone=True)
                return Seen(customer_id=object_id, default_method=default_method(found_customer))
            case "payment_method":
                method = await self._method(checked_id(object_id, "pm", "payment_method_id"))
                owner = id_of(method.customer)
                return await self._looked("customer", owner) if owner else Seen()
        return Seen()

    async def list_invoices(self, customer_id: str, *, since: datetime) -> list[BillingInvoice]:
        checked_id(customer_id, "cus", "customer_id")
        wanted: stripe.params.InvoiceListParams = {
            "customer": customer_id,
            "created": {"gte": int(since.timestamp())},
            "limit": 100,
        }
        found = self._calls.pages(lambda client: client.v1.invoices.list_async(wanted))
        return [await self._told(each) async for each in found]

    async def _invoice_of(self, payment_intent: str) -> str:
        """The invoice that a payment is for, or nothing."""
        checked_id(payment_intent, "pi", "payment_intent")
        page = await self._calls.read(
            lambda client: client.v1.invoice_payments.list_async(
                {"payment": {"type": "payment_intent", "payment_intent": payment_intent}, "limit": 1}
            )
        )
        return id_of(page.data[0].invoice) if page.data else ""

    async def _decline(self, invoice: BillingInvoice | None) -> str:
        """How the last payment of an open invoice failed, or nothing."""
        if invoice is None or invoice.status != "open":
            return ""
        page = await self._calls.read(
            lambda client: client.v1.invoice_payments.list_async({"invoice": invoice.id, "limit": 10})
        )
        for each in page.data:
            if each.status != "open" or not (intent_id := id_of(each.payment.payment_intent)):
                continue
            intent = await self._calls.read(
                lambda client, intent_id=intent_id: client.v1.payment_intents.retrieve_async(intent_id)  # type: ignore[misc]
            )
            error = intent.last_payment_error
            if intent.status == "requires_payment_method" and error is not None:
                return error.decline_code or error.code or "generic_decline"
        return ""


def _hint(event: Mapping[str, Any], now: datetime) -> Hint:
    is_thin = event["object"] == "v2.core.event"
    kind, object_id = _subject_of(event, is_thin=is_thin)
    try:
        happened = (
            aware(event["created"], "created") if is_thin else datetime.fromtimestamp(event["created"], now.tzinfo)
        )
        id_, type_ = _named(event["id"]), _named(event["type"].replace(".", "_")) and event["type"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError, InvalidInput):
        raise WebhookRefused("it is an event without an id, a type or a time") from None
    return Hint(id_, type_, ABOUT.get(kind, "other"), object_id, micros(happened), micros(now), micros(now))


def _subject_of(event: Mapping[str, Any], *, is_thin: bool) -> tuple[str, str]:
    """The kind and the id of what it is about; nothing for an event about nothing."""
    about: object = event.get("related_object") if is_thin else event.get("data")
    if not is_thin and isinstance(about, dict):
        about = about.get("object")
    if not isinstance(about, dict):
        return "", ""
    kind, id_ = about.get("type" if is_thin else "object"), about.get("id")
    if not isinstance(kind, str) or not isinstance(id_, str) or not _ID.fullmatch(id_):
        return "", ""
    return kind, id_


def _named(value: object) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError
    return value
