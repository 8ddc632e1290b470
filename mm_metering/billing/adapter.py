"""The law of payment providers: what an adapter must do, and the values that go in and out.

We rate, the provider collects: an adapter knows customers, ways to pay, mirrored subscriptions and invoices, and
nothing of usage. ``mm_metering.testing.BillingAdapterContract`` checks any implementation.

Amounts are Decimals in the currency's major unit. Every call that makes something takes an ``idempotency_key``: again
with the same key it returns what was made then, with other values it is InvalidRequest. Card numbers never come here:
``payment_method`` is a token that the provider's own form gave.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, localcontext
from typing import ClassVar, Final, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mm_metering.backends.collecting import About, Hint
from mm_metering.core.cards import luhn
from mm_metering.core.money import EXACT, Money, exact, round_minor
from mm_metering.errors import InvalidInput, InvalidRequest

SubscriptionStatus: TypeAlias = Literal[
    "incomplete", "incomplete_expired", "trialing", "active", "past_due", "unpaid", "paused", "canceled"
]
ProviderInvoiceStatus: TypeAlias = Literal["draft", "open", "paid", "void", "uncollectible"]

MAX_ITEMS: Final = 250
"""Of one invoice."""
MAX_TEXT: Final = 500
_DIGITS: Final = re.compile(r"(?:[0-9][ -]?){12,18}[0-9]")
_TOKEN: Final = re.compile(r"pm_[A-Za-z0-9_]{1,120}")


class Value(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class BillingCustomer(Value):
    """Who pays. ``id`` is the provider's; there is one for each organization."""

    id: str
    organization_id: str
    email: str = Field(repr=False)
    name: str = Field(repr=False)
    metadata: Mapping[str, str] = Field(default={}, repr=False)


class PaymentMethod(Value):
    """A card or another way to pay, as far as it may be shown."""

    id: str
    type: str
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None


class Subscription(Value):
    """The mirror of a plan at the provider: "pro", whatever its price there is called."""

    id: str
    customer_id: str
    plan_id: str
    status: SubscriptionStatus
    current_period_end: datetime
    cancel_at_period_end: bool = False


class BillingItem(Value):
    """A line of a provider's invoice: ``quantity`` x ``unit_price``, exact, rounded once. It may be negative."""

    description: str
    quantity: int = 1
    unit_price: Money

    @field_validator("unit_price", mode="before")
    @classmethod
    def _is_exact(cls, value: object) -> Decimal:
        return exact(value, "unit_price")

    def amount(self, currency: str) -> Decimal:
        with localcontext(EXACT):
            return round_minor(self.quantity * self.unit_price, currency)


class BillingInvoice(Value):
    """An invoice at the provider. ``total`` is the sum of the rounded items."""

    id: str
    customer_id: str
    status: ProviderInvoiceStatus
    items: tuple[BillingItem, ...]
    total: Money
    currency: str
    due_date: date | None = None


Items: TypeAlias = Iterable[BillingItem | Mapping[str, object]]


@runtime_checkable
class BillingAdapter(Protocol):
    """A payment provider. Unknown ids are InvalidRequest, but for the ``get_`` calls, which return None. All its
    invoices are in one ``currency``."""

    currency: str

    async def create_customer(
        self, *, organization_id: str, email: str, name: str, metadata: Mapping[str, str] | None = None
    ) -> BillingCustomer:
        """The organization's customer: made, or the one that there is, unchanged."""
        ...

    async def get_customer(self, customer_id: str) -> BillingCustomer | None:
        """None also for one that was deleted."""
        ...

    async def update_customer(
        self,
        customer_id: str,
        *,
        email: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> BillingCustomer:
        """What is None stays; metadata is merged, and "" takes a key out."""
        ...

    async def delete_customer(self, customer_id: str) -> None:
        """For good; its subscriptions end at once. Nothing happens if it is gone already."""
        ...

    async def create_payment_method(self, customer_id: str, *, payment_method: str) -> PaymentMethod:
        """Keeps a token for later payments. ActionRequired if the customer must confirm first."""
        ...

    async def get_payment_methods(self, customer_id: str) -> list[PaymentMethod]: ...

    async def set_default_payment_method(self, customer_id: str, payment_method_id: str) -> None: ...

    async def delete_payment_method(self, payment_method_id: str) -> None:
        """InvalidRequest if an active subscription has no other. Nothing happens if it is gone already."""
        ...

    async def create_subscription(
        self,
        *,
        customer_id: str,
        plan_id: str,
        payment_method_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Subscription:
        """A plan is named "pro" or "pro_monthly". A payment that fails makes it "incomplete", which is no error."""
        ...

    async def get_subscription(self, subscription_id: str) -> Subscription | None: ...

    async def update_subscription(self, subscription_id: str, *, plan_id: str) -> Subscription: ...

    async def cancel_subscription(self, subscription_id: str, *, at_once: bool = False) -> Subscription:
        """At the period's end, or at once. Nothing happens if it is canceled already."""
        ...

    async def resume_subscription(self, subscription_id: str) -> Subscription:
        """Undoes a cancellation that is to come, or ends a pause. InvalidRequest for what has ended."""
        ...

    async def create_invoice(
        self,
        customer_id: str,
        *,
        items: Items,
        due_date: date | str | None = None,
        idempotency_key: str | None = None,
    ) -> BillingInvoice:
        """Of 1 to 250 items, open to be paid; exactly these items."""
        ...

    async def get_invoice(self, invoice_id: str) -> BillingInvoice | None: ...

    async def pay_invoice(
        self, invoice_id: str, payment_method_id: str | None = None, *, idempotency_key: str | None = None
    ) -> BillingInvoice:
        """By the customer's default way to pay, unless another is named. CardDeclined, ActionRequired, NoPaymentMethod;
        what is paid already is returned, and nothing is taken twice. "open" if the bank takes its time."""
        ...

    async def void_invoice(self, invoice_id: str) -> BillingInvoice:
        """InvalidRequest for what is paid."""
        ...


class Seen(Value):
    """What the provider says of an object now. ``decline``: the last payment of ``invoice``, which is open, failed so.
    ``customer_id``: whose ways to pay may have changed, ``default_method`` the one that is asked; ``is_gone``: it was
    deleted."""

    invoice: BillingInvoice | None = None
    decline: str = ""
    subscription: Subscription | None = None
    customer_id: str | None = None
    default_method: str = ""
    is_gone: bool = False


@runtime_checkable
class WebhookAdapter(BillingAdapter, Protocol):
    """A provider that tells what happens, too. What it tells is a hint: what holds is asked of it afterwards."""

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: datetime) -> Hint:
        """Of the very bytes that came, with header names in lower case; WebhookRefused for anything but a signed
        webhook of this account."""
        ...

    async def look(self, about: About, object_id: str) -> Seen:
        """What there is now; nothing for an object that is unknown, or that payment does not depend on."""
        ...

    async def list_invoices(self, customer_id: str, *, since: datetime) -> list[BillingInvoice]:
        """At least those that were made since then, in any state; at most 2,000."""
        ...

    async def missed(self, since: datetime, now: datetime) -> list[Hint]:
        """What has happened since then and was not delivered; what was may be among it."""
        ...


# -- what every adapter checks before anything leaves the process -----------------------------------------------------


def token(payment_method: object) -> str:
    """A provider's token, "pm_…". InvalidInput for anything else, which is never repeated: it may be a card number."""
    if isinstance(payment_method, str) and _TOKEN.fullmatch(payment_method) and not looks_like_a_card(payment_method):
        return payment_method
    raise InvalidInput(
        "payment_method",
        'is not a token such as "pm_1N…". Card numbers must not come here: the provider\'s form takes them in the '
        "browser and gives the token",
    )


def looks_like_a_card(text: str) -> bool:
    """Whether some 13 to 19 digits in it pass the check of card numbers (Luhn), whoever would have issued them and
    whatever is beside them: nothing that a provider's token has to have."""
    return any(luhn(re.sub(r"[ -]", "", found.group())) for found in _DIGITS.finditer(text))


def plain_text(value: object, field: str) -> str:
    """1 to 500 printable characters without a card number."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_TEXT:
        raise InvalidInput(field, f"is not 1 to {MAX_TEXT} printable characters")
    if looks_like_a_card(value):
        raise InvalidInput(field, "holds what looks like a card number; leave it out")
    return value


def items_of(items: Items) -> tuple[BillingItem, ...]:
    """Checked; InvalidInput for none, too many, or one that is wrong."""
    found: Sequence[BillingItem] = [
        each if isinstance(each, BillingItem) else BillingItem.model_validate(each) for each in items
    ]
    if not 1 <= len(found) <= MAX_ITEMS:
        raise InvalidInput("items", f"are {len(found)}; an invoice has 1 to {MAX_ITEMS}")
    for each in found:
        plain_text(each.description, "description")
    return tuple(found)


def due(value: date | str | None) -> date | None:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise InvalidInput("due_date", f'{value[:40]!r} is not a day such as "2024-02-15"') from None
    return value


def plan_of(plan_id: str) -> str:
    """ "pro" for "pro" and "pro_monthly"."""
    return plan_id.removesuffix("_monthly")


def unknown(what: str, given: str) -> InvalidRequest:
    return InvalidRequest(f"there is no {what} {given[:60]!r} at the provider")
