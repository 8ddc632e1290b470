"""Usage at Stripe: events for the meters that its metered prices multiply."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from mm_metering.billing.stripe.account import StripeAccount
from mm_metering.billing.stripe.prices import PREFIX
from mm_metering.billing.stripe.shapes import checked_id
from mm_metering.core.reporting import UsageReport
from mm_metering.errors import InvalidRequest

KNOWN: Final = "already exists with identifier"
"""What Stripe says of an event that it has. It is HTTP 400 there, and success here."""


class Meters(StripeAccount):
    """A ``UsageReporter``. An event's identifier is what makes it once: unlike an idempotency key, under which Stripe
    keeps a failure too, it is known for the event alone."""

    takes: Literal["deltas", "totals"] = "deltas"

    async def report_usage(self, report: UsageReport) -> None:
        checked_id(report.customer, "cus", "customer")
        try:
            await self._calls.write(
                lambda client, options: client.v1.billing.meter_events.create_async(
                    {
                        "event_name": f"{PREFIX}{report.meter}",
                        "payload": {"stripe_customer_id": report.customer, "value": str(report.quantity)},
                        "identifier": report.identifier,
                        "timestamp": int(report.instant.timestamp()),
                    },
                    options,
                )
            )
        except InvalidRequest as error:
            if KNOWN not in str(error):
                raise

    async def reported_usage(self, *, customer: str, meter: str, start: datetime, end: datetime) -> int:
        checked_id(customer, "cus", "customer")
        known = (await self._prices.meters()).get(f"{PREFIX}{meter}")
        if known is None:
            raise InvalidRequest(f"there is no meter {PREFIX}{meter} at Stripe; `mm-metering plans push` makes it")
        pages = self._calls.pages(
            lambda client: client.v1.billing.meters.event_summaries.list_async(
                known,
                {"customer": customer, "start_time": int(start.timestamp()), "end_time": int(end.timestamp())},
            )
        )
        return sum([int(Decimal(str(each.aggregated_value))) async for each in pages])
