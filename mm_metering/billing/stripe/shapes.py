"""Stripe's objects as our values, and amounts as Stripe counts them: whole or decimal numbers of the smallest coin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, Final, cast

from mm_metering.billing.adapter import (
    BillingCustomer,
    BillingInvoice,
    BillingItem,
    PaymentMethod,
    ProviderInvoiceStatus,
)
from mm_metering.core.money import EXACT, minor_unit
from mm_metering.errors import InvalidInput

if TYPE_CHECKING:
    import stripe

ORGANIZATION: Final = "organization_id"
KEY: Final = "mm_key"
ASKED: Final = "mm_asked"
"""A digest of what was asked under the key."""
ITEM: Final = "mm_item"
"""An invoice item's place, from 0."""
PLAN: Final = "mm_plan"
OURS: Final = frozenset({ORGANIZATION, KEY, ASKED, ITEM, PLAN})

MAX_PLACES: Final = 12
"""Of ``unit_amount_decimal``."""
_PLACES: Final[Mapping[str, int]] = {"ISK": 2, "UGX": 2, "MGA": 0}
"""Where Stripe's smallest coin is not that of ISO 4217 (docs.stripe.com/currencies)."""


def checked_id(value: object, prefix: str, field: str) -> str:
    """An id of the right kind: an empty one would ask for a list, and one of another kind for something else."""
    if isinstance(value, str) and re.fullmatch(rf"{prefix}_[A-Za-z0-9_]{{1,250}}", value):
        return value
    raise InvalidInput(field, f'is no id of Stripe such as "{prefix}_1N…"')


def id_of(expandable: object) -> str:
    """Of an object, or of the id that stands for it."""
    return expandable if isinstance(expandable, str) else str(getattr(expandable, "id", ""))


def told(metadata: object) -> dict[str, str]:
    """An object's metadata as a dict."""
    return cast("dict[str, str]", cast(Any, metadata).to_dict()) if metadata else {}


# -- amounts ----------------------------------------------------------------------------------------------------------


def coin(currency: str) -> Decimal:
    """Stripe's smallest coin: 0.01 for USD."""
    places = _PLACES.get(currency)
    return minor_unit(currency) if places is None else Decimal((0, (1,), -places))


class Coins(Decimal):
    """Written without an exponent: the SDK sends ``str`` of it, and 99 / 0.01 would be "9.9E+3"."""

    def __str__(self) -> str:
        return format(self, "f")


def in_coins(amount: Decimal, currency: str) -> Coins:
    """0.00003 USD are 0.003 coins. InvalidInput past 12 decimal places."""
    with localcontext(EXACT):
        coins = amount / coin(currency)
        if coins != coins.quantize(Decimal((0, (1,), -MAX_PLACES))):
            raise InvalidInput("unit_price", f"{amount} has more places than Stripe takes, {MAX_PLACES} of a cent")
        return Coins(coins)


def of_coins(coins: Decimal | int, currency: str) -> Decimal:
    """9900 coins are 99.00 USD."""
    with localcontext(EXACT):
        return Decimal(coins) * coin(currency)


# -- days -------------------------------------------------------------------------------------------------------------


def due_ts(day: date) -> int:
    """The day's last second in UTC: today is not over yet."""
    return int(datetime.combine(day, time(23, 59, 59), UTC).timestamp())


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# -- values -----------------------------------------------------------------------------------------------------------


def customer_of(found: stripe.Customer) -> BillingCustomer:
    metadata = told(found.metadata)
    return BillingCustomer(
        id=found.id,
        organization_id=metadata.get(ORGANIZATION, ""),
        email=found.email or "",
        name=found.name or "",
        metadata={key: value for key, value in metadata.items() if key not in OURS},
    )


def method_of(found: stripe.PaymentMethod) -> PaymentMethod:
    card = found.card if "card" in found else None
    if card is None:
        return PaymentMethod(id=found.id, type=found.type)
    return PaymentMethod(
        id=found.id,
        type=found.type,
        brand=card.brand,
        last4=card.last4,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
    )


def item_of(line: stripe.InvoiceLineItem, currency: str) -> BillingItem:
    """A line without a unit price, as a proration is, becomes one of its amount."""
    price = line.pricing.unit_amount_decimal if line.pricing is not None else None
    quantity = line.quantity if price is not None and line.quantity is not None else 1
    return BillingItem(
        description=line.description or "",
        quantity=quantity,
        unit_price=of_coins(line.amount if price is None else price, currency),
    )


def invoice_of(found: stripe.Invoice, lines: Sequence[stripe.InvoiceLineItem]) -> BillingInvoice:
    currency = found.currency.upper()
    in_order = sorted(lines, key=lambda each: int(told(each.metadata).get(ITEM, 0)))
    return BillingInvoice(
        id=found.id,
        customer_id=id_of(found.customer),
        status=cast(ProviderInvoiceStatus, found.status or "draft"),
        items=tuple(item_of(each, currency) for each in in_order),
        total=of_coins(found.total, currency),
        currency=currency,
        due_date=None if found.due_date is None else instant(found.due_date).date(),
    )
