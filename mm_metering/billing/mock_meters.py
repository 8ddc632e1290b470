"""The mock's meters: what it is told of usage, and the invoice of a month that it makes of that by its own prices.

It is as strict as a real provider: it knows identifiers for 24 h, takes instants of the last 35 days, and of what is
told after a month's invoice was made nothing joins it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from mm_metering.billing.adapter import BillingCustomer, BillingInvoice, BillingItem, unknown
from mm_metering.billing.plan_prices import PlanPrice
from mm_metering.billing.reporter import BillingMode
from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import EXACT, round_minor
from mm_metering.core.periods import Span
from mm_metering.core.reporting import UsageReport, metered_prices
from mm_metering.errors import InvalidInput, InvalidRequest

KNOWN: Final = timedelta(hours=24)
OLDEST: Final = timedelta(days=35)
AHEAD: Final = timedelta(minutes=5)
FINALIZED: Final = timedelta(hours=1)
"""How long after a month's end its invoice is made."""


class _Event(NamedTuple):
    report: UsageReport
    received: datetime


class MockMeters:
    """A ``UsageReporter``, and the prices that it multiplies by."""

    clock: Clock
    currency: str
    takes: Literal["deltas", "totals"] = "deltas"

    def __init__(self, billing_mode: BillingMode) -> None:
        self.billing_mode: BillingMode = billing_mode
        self._prices: dict[tuple[str, str], Decimal] = {}
        """By plan and meter; the plan's own a month has the meter ""."""
        self._events: list[_Event] = []
        self._plans: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
        """By subscription: since when it is to which plan."""

    def _customer(self, customer_id: str) -> BillingCustomer:
        raise NotImplementedError

    def _make_invoice(self, customer_id: str, items: tuple[BillingItem, ...]) -> BillingInvoice:
        raise NotImplementedError

    def _on_plan(self, subscription_id: str, plan: str) -> None:
        self._plans[subscription_id].append((self.clock.now(), plan))

    async def push_plans(self, catalogue: Catalogue, *, dry_run: bool = False) -> tuple[PlanPrice, ...]:
        """Prices that are missing, made; where we rate, a plan's is zero."""
        multiplies = self.billing_mode == "report"
        wanted: dict[tuple[str, str], Decimal] = {}
        units = metered_prices(catalogue) if multiplies else ()
        for plan in catalogue.plans.values():
            wanted[plan.name, ""] = plan.price if multiplies else Decimal(0)
            wanted |= {(each.plan, each.meter): each.unit_price for each in units if each.plan == plan.name}
        return tuple(self._push(*key, amount, make=not dry_run) for key, amount in wanted.items())

    def _push(self, plan: str, meter: str, amount: Decimal, *, make: bool) -> PlanPrice:
        name = f"mm_{plan}_{meter}" if meter else f"mm_{plan}"
        row = PlanPrice(plan, name, "missing", "", meter, amount)
        known = self._prices.get((plan, meter))
        if known is None and not make:
            return row
        row = row._replace(price_id=f"price_mock_{name}")
        if known is None:
            self._prices[plan, meter] = amount
            return row._replace(state="made")
        return row._replace(state="there") if known == amount else row._replace(state="other", theirs=f"{known:f}")

    # -- usage --------------------------------------------------------------------------------------------------------

    async def report_usage(self, report: UsageReport) -> None:
        now = self.clock.now()
        self._customer(report.customer)
        if report.meter not in {meter for _, meter in self._prices if meter}:
            raise unknown("meter", report.meter)
        if not now - OLDEST <= report.instant <= now + AHEAD:
            raise InvalidRequest(f"{report.instant:%Y-%m-%dT%H:%M:%SZ} is not of the last 35 days")
        same = (each for each in self._events if each.report.identifier == report.identifier)
        if not any(now - each.received < KNOWN for each in same):
            self._events.append(_Event(report, now))

    async def reported_usage(self, *, customer: str, meter: str, start: datetime, end: datetime) -> int:
        return sum(each.quantity for each in self._told(customer, Span(start, end)) if each.meter == meter)

    def _told(self, customer: str, span: Span) -> Iterator[UsageReport]:
        for each in self._events:
            if each.report.customer == customer and span.start <= each.report.instant < span.end:
                yield each.report

    # -- invoices -----------------------------------------------------------------------------------------------------

    def invoice_month(self, subscription_id: str, start: datetime, end: datetime) -> BillingInvoice:
        """The invoice of a subscription's month that is over, as a provider makes it by itself an hour later: the
        plan's price, and the usage that it was told of. InvalidRequest before that."""
        if self.billing_mode != "report":
            raise InvalidInput("billing_mode", 'is "invoice": nothing is multiplied here')
        if self.clock.now() < end + FINALIZED:
            raise InvalidRequest(f"the month that ends at {end:%Y-%m-%dT%H:%M:%SZ} is finalized an hour later")
        customer, month = self._payer_of(subscription_id), Span(start, end)
        items = [*self._fees(subscription_id, month), *self._usage(subscription_id, customer, month)]
        return self._make_invoice(customer, tuple(items))

    def _payer_of(self, subscription_id: str) -> str:
        raise NotImplementedError

    def _plan_at(self, subscription_id: str, instant: datetime) -> str:
        """The first one holds for what was before it, too."""
        plans = self._plans[subscription_id]
        return next((plan for since, plan in reversed(plans) if since <= instant), plans[0][1])

    def _fees(self, subscription_id: str, month: Span) -> Iterator[BillingItem]:
        """The plan's at the month's start, or the sign-up; each rise after it for the rest of the month."""
        first = max(month.start, self._plans[subscription_id][0][0])
        changes = [(since, plan) for since, plan in self._plans[subscription_id] if first < since < month.end]
        plans = [(first, self._plan_at(subscription_id, first)), *changes]
        yield self._fee(plans[0][1], plans[0][0], month, 1)
        for (_, old), (since, new) in pairwise(plans):
            if self._prices[new, ""] > self._prices[old, ""]:
                yield self._fee(old, since, month, -1)
                yield self._fee(new, since, month, 1)

    def _fee(self, plan: str, since: datetime, month: Span, sign: int) -> BillingItem:
        seconds = int(month.end.timestamp()) - int(since.timestamp())
        with localcontext(EXACT):
            share = sign * self._prices[plan, ""] * seconds / month.seconds
        return BillingItem(description=f"{plan}, {seconds:,} s", unit_price=round_minor(share, self.currency))

    def _usage(self, subscription_id: str, customer: str, month: Span) -> Iterator[BillingItem]:
        """One item for each meter and price: rounded once."""
        units: dict[tuple[str, Decimal], int] = defaultdict(int)
        for each in self._told(customer, month):
            plan = self._plan_at(subscription_id, each.instant)
            price = self._prices.get((plan, each.meter))
            if price is not None:
                units[each.meter, price] += each.quantity
        yield from _items(units)


def _items(units: Mapping[tuple[str, Decimal], int]) -> Iterator[BillingItem]:
    for (meter, price), quantity in sorted(units.items()):
        if quantity:
            yield BillingItem(description=meter, quantity=quantity, unit_price=price)
