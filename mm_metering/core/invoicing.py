"""Invoices: the draft of one tenant and calendar month, with the reason of every line.

One code path for previews and final invoices: the same cells and plans give the same draft, whenever it is made.
Each line is an exact product, rounded once, half up, to the currency's minor unit; a total is the sum of its lines.
Fees count by the whole second: an instant belongs to the second it lies in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal, localcontext
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

from mm_metering.core.cells import Cell, Segment
from mm_metering.core.invoices import Explanation, Invoice, InvoiceLine, LineKind, Share
from mm_metering.core.money import EXACT, exact, minor_unit, plain, round_minor
from mm_metering.core.periods import from_micros, micros, parse_period, period_span
from mm_metering.core.rating import Overage, Terms, plan_label, rate

_SECOND_US = 1_000_000
_ZERO = Decimal(0)


def draft(
    terms: Terms,
    period: str,
    cells: Iterable[Cell],
    *,
    currency: str,
    late: Sequence[InvoiceLine] = (),
    issue: int = 1,
) -> Invoice:
    """The invoice of a calendar month in the tenant's zone: base, proration, overage by meter, then ``late`` lines.

    ``cells`` of other months are ignored. Usage so far and the whole month's fees are billed, also before the month is
    over. The ids depend on tenant, period and ``issue`` only: count issues up for a new invoice after a void.
    """
    bill = _Bill(terms, period, currency, issue)
    year, month = parse_period(period)
    inside = (cell for cell in cells if (cell[0].day.year, cell[0].day.month) == (year, month))
    lines = [*bill.fees(), *(bill.overage(line) for line in rate(inside, terms)), *late]
    return bill.invoice(lines)


class _Bill(NamedTuple):
    """What all lines of an invoice have in common."""

    terms: Terms
    period: str
    currency: str
    issue: int

    def invoice(self, lines: Sequence[InvoiceLine]) -> Invoice:
        subtotal = self._sum(lines)
        closing = [line for line in (self._tax(subtotal), self._carried_over(subtotal)) if line]
        return Invoice(
            id=self._id("inv"),
            number=None,
            tenant=self.terms.tenant.id,
            period=self.period,
            status="draft",
            currency=self.currency,
            lines=(*lines, *closing),
            subtotal=subtotal,
            tax=self._sum(line for line in closing if line.kind == "tax"),
            credits_applied=self._sum(()),
            total=self._sum((*lines, *closing)),
            carried_over=self._sum(line for line in closing if line.kind == "carried_over"),
        )

    def overage(self, over: Overage) -> InvoiceLine:
        what = f"{over.meter} ({over.resource})" if over.resource else over.meter
        plans = ", ".join(dict.fromkeys(window.plan for window in over.windows))
        amount, rounding = self._rounded(over.amount)
        return InvoiceLine(
            id=self._id("line", "overage", over.meter, over.resource, _canonical(over.unit_price)),
            kind="overage",
            meter=over.meter,
            resource=over.resource,
            description=f"{over.quantity:,} {what} past the allowance, {plain(over.unit_price)} each",
            quantity=over.quantity,
            unit_price=over.unit_price,
            amount=amount,
            explanation=Explanation(
                windows=over.windows,
                unit_price=over.unit_price,
                plan_version=plans,
                rounding=rounding,
                events=sum(window.events for window in over.windows),
            ),
        )

    def fees(self) -> Iterator[InvoiceLine]:
        """The plan at the month's start or the sign-up, then a credit and a charge for each change of plan."""
        month = period_span(self.period, self.terms.zone)
        start, end = micros(month.start) // _SECOND_US, micros(month.end) // _SECOND_US
        in_force = _in_force(self.terms, start, end)
        for since, segment in in_force[:1]:
            yield from self._fee("base", since, segment)
        for (_, old), (since, new) in pairwise(in_force):
            if self._price(old) != self._price(new):
                yield from self._fee("proration", since, old, sign=-1)
                yield from self._fee("proration", since, new)

    def _fee(self, kind: LineKind, since: int, segment: Segment, sign: int = 1) -> Iterator[InvoiceLine]:
        """A plan's fee, or its credit, from the second ``since`` to the month's end. No line for a change to or from
        what costs nothing, nor for a tenant without a plan."""
        plan = self.terms.plan(segment)
        if plan is None or (kind == "proration" and not plan.price):
            return
        month = period_span(self.period, self.terms.zone)
        share = Share(seconds=micros(month.end) // _SECOND_US - since, of_seconds=month.seconds)
        with localcontext(EXACT):
            monthly = sign * plan.price
            amount, rounding = self._rounded(monthly * share.seconds / share.of_seconds)
        yield InvoiceLine(
            id=self._id("line", kind, plan_label(segment), str(since), str(sign)),
            kind=kind,
            meter=None,
            description=self._fee_text(plan.name, since, share, sign),
            quantity=1,
            unit_price=amount,
            amount=amount,
            explanation=Explanation(
                windows=(),
                unit_price=monthly,
                plan_version=plan_label(segment),
                rounding=rounding,
                events=0,
                share=share,
            ),
        )

    def _fee_text(self, plan: str, since: int, share: Share, sign: int) -> str:
        if share.seconds == share.of_seconds and sign > 0:
            return f"{plan}, {self.period}"
        unused = "unused, " if sign < 0 else ""
        return f"{plan}, {unused}{self.period} from {_moment(from_micros(since * _SECOND_US), self.terms)}"

    def _price(self, segment: Segment) -> Decimal:
        plan = self.terms.plan(segment)
        return plan.price if plan else _ZERO

    def _tax(self, subtotal: Decimal) -> InvoiceLine | None:
        """The tenant's rate, a fraction such as "0.19", on what is due."""
        rate = exact(self.terms.tenant.tax_rate or 0, "tax_rate")
        if rate <= 0 or subtotal <= 0:
            return None
        with localcontext(EXACT):
            amount, _ = self._rounded(subtotal * rate)
            percent = f"{plain((rate * 100).normalize())} %"
        return self._plain_line("tax", f"tax, {percent} of {plain(subtotal)}", amount)

    def _carried_over(self, subtotal: Decimal) -> InvoiceLine | None:
        return self._plain_line("carried_over", "carried over to your credit", -subtotal) if subtotal < 0 else None

    def _plain_line(self, kind: LineKind, description: str, amount: Decimal) -> InvoiceLine:
        return InvoiceLine(
            id=self._id("line", kind),
            kind=kind,
            meter=None,
            description=description,
            quantity=1,
            unit_price=amount,
            amount=amount,
        )

    def _rounded(self, amount: Decimal) -> tuple[Decimal, str]:
        rounded = round_minor(amount, self.currency)
        unit = plain(minor_unit(self.currency))
        return rounded, f"{_canonical(amount)[:40]} rounded half up to {unit}: {plain(rounded)}"

    def _sum(self, lines: Iterable[InvoiceLine]) -> Decimal:
        with localcontext(EXACT):
            return sum((line.amount for line in lines), minor_unit(self.currency) * 0)

    def _id(self, prefix: str, *parts: str) -> str:
        """Equal for equal parts, on every machine and in every run."""
        text = json.dumps([self.terms.tenant.id, self.period, self.issue, *parts])
        return f"{prefix}_{sha256(text.encode()).hexdigest()[:24]}"


def _in_force(terms: Terms, start: int, end: int) -> list[tuple[int, Segment]]:
    """The plans of the seconds from ``start`` to ``end``, each with its first second there. What began and ended
    within one second never was; before the sign-up there is none."""
    since = {segment.starts_us // _SECOND_US: segment for segment in terms.tenant.segments}
    before = [second for second in since if second <= start]
    first = [(start, since[max(before)])] if before else []
    return first + [(second, segment) for second, segment in sorted(since.items()) if start < second < end]


def _canonical(amount: Decimal) -> str:
    with localcontext(EXACT):
        return plain(amount.normalize())


def _moment(moment: datetime, terms: Terms) -> str:
    local = moment.astimezone(terms.zone)
    return f"{local:%Y-%m-%d}" if not (local.hour or local.minute or local.second) else f"{local:%Y-%m-%d %H:%M:%S}"
