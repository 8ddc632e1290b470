"""A payment provider in memory, for development and tests: the same law, with cards that decline as they are told.

Tokens decide what a card does, as at Stripe: ``pm_card_visa`` pays, ``pm_card_chargeDeclined`` and the others of
``CARDS`` do not. Time comes from the clock.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal, localcontext
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel

from mm_metering.backends.collecting import About, Hint
from mm_metering.billing.adapter import (
    BillingCustomer,
    BillingInvoice,
    BillingItem,
    Items,
    PaymentMethod,
    Seen,
    Subscription,
    due,
    items_of,
    plain_text,
    plan_of,
    token,
    unknown,
)
from mm_metering.billing.mock_meters import MockMeters
from mm_metering.billing.reporter import BillingMode
from mm_metering.billing.signatures import sign, verify
from mm_metering.clock import Clock, SystemClock
from mm_metering.core import strict_json
from mm_metering.core.money import EXACT
from mm_metering.core.periods import Window, micros, window_span, zone
from mm_metering.errors import (
    ActionRequired,
    CardDeclined,
    InvalidInput,
    InvalidRequest,
    NoPaymentMethod,
    WebhookRefused,
)

T = TypeVar("T", bound=BaseModel)


class Card(NamedTuple):
    """What a token stands for. ``declines``: the decline code of its payments; ``confirms``: each must be confirmed;
    ``takes_time``: the bank answers later (``finish_payment``)."""

    brand: str
    last4: str
    declines: str = ""
    confirms: bool = False
    takes_time: bool = False


CARDS: Final[Mapping[str, Card]] = {
    "pm_card_visa": Card("visa", "4242"),
    "pm_card_mastercard": Card("mastercard", "4444"),
    "pm_card_chargeDeclined": Card("visa", "0002", "generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": Card("visa", "9995", "insufficient_funds"),
    "pm_card_chargeDeclinedLostCard": Card("visa", "9987", "lost_card"),
    "pm_card_chargeDeclinedExpiredCard": Card("visa", "0069", "expired_card"),
    "pm_card_authenticationRequired": Card("visa", "3220", confirms=True),
    "pm_card_pending": Card("visa", "0259", takes_time=True),
}
"""Any other token pays, too."""
_USUAL: Final = Card("visa", "4242")
SIGNATURE: Final = "mock-signature"
ABOUT: Final[Mapping[str, About]] = {
    "in": "invoice",
    "sub": "subscription",
    "cus": "customer",
    "pm": "payment_method",
}
"""What an id is of, by its prefix."""


class MockBillingAdapter(MockMeters):
    """A ``BillingAdapter`` that keeps everything in this object."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        currency: str = "USD",
        webhook_secret: str = "whsec_mock",
        billing_mode: BillingMode = "invoice",
    ) -> None:
        super().__init__(billing_mode)
        self.clock: Clock = clock or SystemClock()
        self.currency = currency
        self.webhook_secret = webhook_secret
        self._happened: list[dict[str, Any]] = []
        self._pending: set[str] = set()
        self._declines: dict[str, str] = {}
        """By invoice: how its last payment failed."""
        self._payments: Counter[str] = Counter()
        """By invoice: how often a payment was tried."""
        self._responses: dict[str, Mapping[str, Any]] = {}
        self._numbers = count(1)
        self._customers: dict[str, BillingCustomer] = {}
        self._deleted: set[str] = set()
        self._methods: dict[str, tuple[str, str, PaymentMethod]] = {}
        """By id: the customer, the token, the method."""
        self._defaults: dict[str, str] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._invoices: dict[str, BillingInvoice] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        """By idempotency key: a digest of what was asked, and the id of what was made."""

    def set_mock_response(self, method: str, response: Mapping[str, Any]) -> None:
        """From now on that method's answer has these values over its own."""
        if not callable(getattr(self, method, None)) or method.startswith(("_", "set_mock")):
            raise InvalidInput("method", f"{str(method)[:40]!r} is no method of a billing adapter")
        self._responses[method] = dict(response)

    # -- customers ----------------------------------------------------------------------------------------------------

    async def create_customer(
        self, *, organization_id: str, email: str, name: str, metadata: Mapping[str, str] | None = None
    ) -> BillingCustomer:
        known = [each for each in self._customers.values() if each.organization_id == organization_id]
        made = known[0] if known else None
        if made is None:
            made = BillingCustomer(
                id=self._id("cus"),
                organization_id=organization_id,
                email=plain_text(email, "email"),
                name=plain_text(name, "name"),
                metadata=dict(metadata or {}),
            )
        made = self._answer("create_customer", made)
        self._customers[made.id] = made
        return made

    async def get_customer(self, customer_id: str) -> BillingCustomer | None:
        found = self._customers.get(customer_id)
        return None if found is None else self._answer("get_customer", found)

    async def update_customer(
        self,
        customer_id: str,
        *,
        email: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> BillingCustomer:
        known = self._customer(customer_id)
        merged = {key: value for key, value in {**known.metadata, **(metadata or {})}.items() if value}
        changed = known.model_copy(
            update={
                "email": known.email if email is None else plain_text(email, "email"),
                "name": known.name if name is None else plain_text(name, "name"),
                "metadata": merged,
            }
        )
        self._customers[customer_id] = changed
        return self._answer("update_customer", changed)

    async def delete_customer(self, customer_id: str) -> None:
        if customer_id in self._deleted:
            return
        self._customer(customer_id)
        del self._customers[customer_id]
        self._deleted.add(customer_id)
        self._tell("customer.deleted", customer_id)
        for each in self._subscriptions_of(customer_id):
            self._subscriptions[each.id] = each.model_copy(update={"status": "canceled"})

    # -- ways to pay --------------------------------------------------------------------------------------------------

    async def create_payment_method(self, customer_id: str, *, payment_method: str) -> PaymentMethod:
        self._customer(customer_id)
        given = token(payment_method)
        card = CARDS.get(given, _USUAL)
        if given == "pm_card_chargeDeclinedExpiredCard":
            raise CardDeclined(card.declines)
        year = self.clock.now().year + 3
        method = PaymentMethod(
            id=self._id("pm"), type="card", brand=card.brand, last4=card.last4, exp_month=12, exp_year=year
        )
        method = self._answer("create_payment_method", method)
        self._methods[method.id] = (customer_id, given, method)
        self._defaults.setdefault(customer_id, method.id)
        self._tell("payment_method.attached", method.id)
        return method

    async def get_payment_methods(self, customer_id: str) -> list[PaymentMethod]:
        self._customer(customer_id)
        return [method for owner, _, method in self._methods.values() if owner == customer_id]

    async def set_default_payment_method(self, customer_id: str, payment_method_id: str) -> None:
        self._method(payment_method_id, customer_id)
        self._defaults[customer_id] = payment_method_id
        self._tell("customer.updated", customer_id)

    async def delete_payment_method(self, payment_method_id: str) -> None:
        if payment_method_id not in self._methods:
            return
        customer_id = self._methods[payment_method_id][0]
        others = [each for each in await self.get_payment_methods(customer_id) if each.id != payment_method_id]
        if not others and any(each.status in ("active", "past_due") for each in self._subscriptions_of(customer_id)):
            raise InvalidRequest("an active subscription is paid by this method alone; add another one first")
        del self._methods[payment_method_id]
        if self._defaults.get(customer_id) == payment_method_id:
            self._defaults.pop(customer_id)
            if others:
                self._defaults[customer_id] = others[0].id

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def create_subscription(
        self,
        *,
        customer_id: str,
        plan_id: str,
        payment_method_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Subscription:
        self._customer(customer_id)
        asked = {"customer": customer_id, "plan": plan_of(plan_id), "method": payment_method_id}
        if made := self._made(idempotency_key, asked):
            return self._subscriptions[made]
        method = payment_method_id or self._defaults.get(customer_id)
        pays = method is not None and not self._refusal(self._method(method, customer_id))
        subscription = Subscription(
            id=self._id("sub"),
            customer_id=customer_id,
            plan_id=plan_of(plan_id),
            status="active" if pays else "incomplete",
            current_period_end=window_span(Window.MONTH, self.clock.now(), zone("UTC")).end,
        )
        subscription = self._answer("create_subscription", subscription)
        self._subscriptions[subscription.id] = subscription
        self._on_plan(subscription.id, subscription.plan_id)
        self._keep(idempotency_key, asked, subscription.id)
        return subscription

    async def get_subscription(self, subscription_id: str) -> Subscription | None:
        found = self._subscriptions.get(subscription_id)
        return None if found is None else self._answer("get_subscription", self._now(found))

    async def update_subscription(self, subscription_id: str, *, plan_id: str) -> Subscription:
        known = self._running(subscription_id)
        self._on_plan(subscription_id, plan_of(plan_id))
        return self._changed("update_subscription", known, plan_id=plan_of(plan_id))

    async def cancel_subscription(self, subscription_id: str, *, at_once: bool = False) -> Subscription:
        known = self._subscription(subscription_id)
        if known.status == "canceled":
            return known
        if at_once:
            return self._changed("cancel_subscription", known, status="canceled", cancel_at_period_end=False)
        return self._changed("cancel_subscription", known, cancel_at_period_end=True)

    async def resume_subscription(self, subscription_id: str) -> Subscription:
        known = self._running(subscription_id)
        status = "active" if known.status == "paused" else known.status
        return self._changed("resume_subscription", known, status=status, cancel_at_period_end=False)

    # -- invoices -----------------------------------------------------------------------------------------------------

    async def create_invoice(
        self,
        customer_id: str,
        *,
        items: Items,
        due_date: date | str | None = None,
        idempotency_key: str | None = None,
    ) -> BillingInvoice:
        self._customer(customer_id)
        lines, until = items_of(items), due(due_date)
        asked = {"customer": customer_id, "items": [each.model_dump(mode="json") for each in lines], "due": str(until)}
        if made := self._made(idempotency_key, asked):
            return self._invoices[made]
        invoice = self._make_invoice(customer_id, lines, until)
        self._keep(idempotency_key, asked, invoice.id)
        return invoice

    def _make_invoice(
        self, customer_id: str, items: tuple[BillingItem, ...], due_date: date | None = None
    ) -> BillingInvoice:
        invoice = BillingInvoice(
            id=self._id("in"),
            customer_id=customer_id,
            status="open",
            items=items,
            total=self._total(items),
            currency=self.currency,
            due_date=due_date,
        )
        invoice = self._answer("create_invoice", invoice)
        self._invoices[invoice.id] = invoice
        return invoice

    async def get_invoice(self, invoice_id: str) -> BillingInvoice | None:
        found = self._invoices.get(invoice_id)
        return None if found is None else self._answer("get_invoice", found)

    async def pay_invoice(
        self, invoice_id: str, payment_method_id: str | None = None, *, idempotency_key: str | None = None
    ) -> BillingInvoice:
        known = self._invoice(invoice_id)
        if known.status == "paid" or invoice_id in self._pending:
            return known
        if known.status == "void":
            raise InvalidRequest(f"invoice {invoice_id} is void; it cannot be paid")
        method = payment_method_id or self._defaults.get(known.customer_id)
        if method is None:
            raise NoPaymentMethod
        asked = {"invoice": invoice_id, "method": payment_method_id}
        if idempotency_key is None or self._made(idempotency_key, asked) is None:
            self._payments[invoice_id] += 1
        given = self._method(method, known.customer_id)
        self._keep(idempotency_key, asked, invoice_id)
        if refusal := self._refusal(given):
            if isinstance(refusal, CardDeclined):
                self._declines[invoice_id] = refusal.decline_code
            self._tell("invoice.payment_failed", invoice_id)
            raise refusal
        if CARDS.get(given, _USUAL).takes_time:
            self._pending.add(invoice_id)
            return known
        return self._settled("pay_invoice", known, "paid")

    def finish_payment(self, invoice_id: str, *, decline_code: str = "") -> None:
        """What a bank that took its time says, or a customer who confirmed: it is paid, or declined so."""
        known = self._invoice(invoice_id)
        self._pending.discard(invoice_id)
        if decline_code:
            self._declines[invoice_id] = decline_code
            self._tell("invoice.payment_failed", invoice_id)
        else:
            self._settled("finish_payment", known, "paid")

    async def void_invoice(self, invoice_id: str) -> BillingInvoice:
        known = self._invoice(invoice_id)
        if known.status == "paid":
            raise InvalidRequest(f"invoice {invoice_id} is paid; give the money back by a credit note instead")
        return self._settled("void_invoice", known, "void")

    # -- webhooks -----------------------------------------------------------------------------------------------------

    def webhooks(self) -> list[tuple[bytes, dict[str, str]]]:
        """What happened since the last call: bodies and headers, signed now with ``webhook_secret``."""
        told, self._happened = self._happened, []
        return [self.sign(each) for each in told]

    def sign(self, event: Mapping[str, object]) -> tuple[bytes, dict[str, str]]:
        body = json.dumps(event).encode()
        return body, {SIGNATURE: sign(body, self.webhook_secret, self.clock.now())}

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Hint:
        verify(body, headers.get(SIGNATURE, ""), (self.webhook_secret,), now)
        try:
            return self._hint(strict_json.loads(body), now)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise WebhookRefused("it is signed, and is no event") from None

    async def look(self, about: About, object_id: str) -> Seen:
        match about:
            case "invoice":
                return Seen(invoice=self._invoices.get(object_id), decline=self._declines.get(object_id, ""))
            case "subscription":
                return Seen(subscription=await self.get_subscription(object_id))
            case "customer":
                default = self._defaults.get(object_id, "")
                return Seen(customer_id=object_id, default_method=default, is_gone=object_id in self._deleted)
            case "payment_method" if object_id in self._methods:
                return await self.look("customer", self._methods[object_id][0])
        return Seen()

    async def list_invoices(self, customer_id: str, *, since: datetime) -> list[BillingInvoice]:
        self._customer(customer_id)
        return [each for each in self._invoices.values() if each.customer_id == customer_id]

    async def missed(self, since: datetime, now: datetime) -> list[Hint]:
        return [self._hint(each, now) for each in self._happened if each["created"] >= int(since.timestamp())]

    def _hint(self, event: Mapping[str, Any], now: datetime) -> Hint:
        about = ABOUT.get(event["object"].partition("_")[0], "other")
        happened_us = event["created"] * 1_000_000
        return Hint(event["id"], event["type"], about, event["object"], happened_us, micros(now), micros(now))

    def _tell(self, type_: str, object_id: str) -> None:
        created = int(self.clock.now().timestamp())
        self._happened.append({"id": self._id("evt"), "type": type_, "object": object_id, "created": created})

    # -- inside -------------------------------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        return f"{prefix}_mock_{next(self._numbers)}"

    def _answer(self, method: str, value: T) -> T:
        laid_over = self._responses.get(method)
        return value if laid_over is None else type(value).model_validate({**value.model_dump(), **laid_over})

    def _customer(self, customer_id: str) -> BillingCustomer:
        if customer_id not in self._customers:
            raise unknown("customer", customer_id)
        return self._customers[customer_id]

    def _method(self, method_id: str, customer_id: str) -> str:
        """Its token."""
        owner, given, _ = self._methods.get(method_id, ("", "", None))
        if owner != customer_id:
            raise unknown("payment method of this customer", method_id)
        return given

    @staticmethod
    def _refusal(given: str) -> CardDeclined | ActionRequired | None:
        card = CARDS.get(given, _USUAL)
        if card.confirms:
            return ActionRequired(f"{given}_secret_mock")
        return CardDeclined(card.declines) if card.declines else None

    def _subscriptions_of(self, customer_id: str) -> list[Subscription]:
        return [self._now(each) for each in self._subscriptions.values() if each.customer_id == customer_id]

    def _subscription(self, subscription_id: str) -> Subscription:
        if subscription_id not in self._subscriptions:
            raise unknown("subscription", subscription_id)
        return self._now(self._subscriptions[subscription_id])

    def _payer_of(self, subscription_id: str) -> str:
        return self._subscription(subscription_id).customer_id

    def _running(self, subscription_id: str) -> Subscription:
        known = self._subscription(subscription_id)
        if known.status in ("canceled", "incomplete_expired"):
            raise InvalidRequest(f"subscription {subscription_id} is {known.status}; create a new one")
        return known

    def _now(self, known: Subscription) -> Subscription:
        """As it is by the clock: periods go on, and a cancellation takes effect at the end of one."""
        now = self.clock.now()
        if known.status == "canceled" or now < known.current_period_end:
            return known
        if known.cancel_at_period_end:
            return known.model_copy(update={"status": "canceled", "cancel_at_period_end": False})
        return known.model_copy(update={"current_period_end": window_span(Window.MONTH, now, zone("UTC")).end})

    def _changed(self, method: str, known: Subscription, **changes: object) -> Subscription:
        changed = self._answer(method, known.model_copy(update=changes))
        self._subscriptions[known.id] = changed
        return changed

    def _invoice(self, invoice_id: str) -> BillingInvoice:
        if invoice_id not in self._invoices:
            raise unknown("invoice", invoice_id)
        return self._invoices[invoice_id]

    def _settled(self, method: str, known: BillingInvoice, status: str) -> BillingInvoice:
        changed = self._answer(method, known.model_copy(update={"status": status}))
        self._invoices[known.id] = changed
        self._declines.pop(known.id, None)
        self._tell(f"invoice.{'voided' if status == 'void' else status}", known.id)
        return changed

    def _total(self, lines: tuple[BillingItem, ...]) -> Decimal:
        with localcontext(EXACT):
            return sum((line.amount(self.currency) for line in lines), Decimal(0))

    def _made(self, key: str | None, asked: Mapping[str, object]) -> str | None:
        """The id of what this key made; InvalidRequest if it was used for something else."""
        if key is None or key not in self._keys:
            return None
        digest, made = self._keys[key]
        if digest != _digest(asked):
            raise InvalidRequest("this idempotency key was used for something else; a new request needs a new key")
        return made

    def _keep(self, key: str | None, asked: Mapping[str, object], made: str) -> None:
        if key is not None:
            self._keys[key] = (_digest(asked), made)


def _digest(asked: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
