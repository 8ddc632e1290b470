"""What the parts of the adapter share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mm_metering.billing.adapter import unknown
from mm_metering.billing.stripe.calls import Calls
from mm_metering.billing.stripe.failures import NoSuchObject
from mm_metering.billing.stripe.prices import Prices
from mm_metering.billing.stripe.shapes import checked_id, id_of
from mm_metering.errors import InvalidRequest

if TYPE_CHECKING:
    import stripe


class StripeAccount:
    """One account at Stripe, in one currency."""

    def __init__(self, calls: Calls, prices: Prices, currency: str) -> None:
        self._calls = calls
        self._prices = prices
        self.currency = currency

    async def _customer(self, customer_id: str) -> stripe.Customer | None:
        """None for one that is unknown or deleted."""
        checked_id(customer_id, "cus", "customer_id")
        try:
            found = await self._calls.read(lambda client: client.v1.customers.retrieve_async(customer_id))
        except NoSuchObject:
            return None
        return None if "deleted" in found and found.deleted else found

    async def _known(self, customer_id: str) -> stripe.Customer:
        if (found := await self._customer(customer_id)) is None:
            raise unknown("customer", customer_id)
        return found


def default_method(customer: stripe.Customer) -> str:
    """The id of the customer's default way to pay, or nothing."""
    settings = customer.invoice_settings
    return id_of(settings.default_payment_method) if settings is not None else ""


def digest(asked: Mapping[str, object]) -> str:
    """Of a request, to see whether another under the same key is the same."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:32]


def same_request(before: str | None, now: str, key: str | None) -> None:
    """InvalidRequest where a key stands for something else already."""
    if before != now:
        raise InvalidRequest(
            f"the idempotency key {key!r} was used before for another request; take a new one for a new request"
        )
