"""Invoices: the draft of one tenant and calendar month, with the reason of every line.

One code path for previews and final invoices: the same cells and plans give the same draft, whenever it is made.
Each line is an exact product, rounded once, half up, to the currency's minor unit; a total is the sum of its lines.
Fees count by the whole second: an instant belongs to the second it lies in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from mm_metering.core.catalogue import HeldAddon
from mm_metering.core.cells import Cell, Segment
from mm_metering.core.commitments import Commitment, Stay
from mm_metering.core.identity import derived_id
from mm_metering.core.invoices import (
    FEES,
    METERED,
    Adjustment,
    CreditGrant,
    CreditUse,
    Discount,
    DiscountScope,
    Explanation,
    Invoice,
    InvoiceLine,
    LineKind,
    Share,
    Tax,
)
from mm_metering.core.lifecycles import REFUSED_AS, TRIAL
from mm_metering.core.money import EXACT, exact, minor_unit, plain, round_minor, split
from mm_metering.core.periods import from_micros, micros
from mm_metering.core.pricing import price_text, price_words, quantity_text
from mm_metering.core.rating import NO_LEVELS, Levels, Overage, Terms, mean_price, plan_label, rate
from mm_metering.core.tenancy import plan_name

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
    adjustments: Sequence[Adjustment] = (),
    discounts: Sequence[Discount] = (),
    grants: Sequence[CreditGrant] = (),
    taxes: Sequence[Tax] | None = None,
    levels_before: Levels = NO_LEVELS,
) -> Invoice:
    """The invoice of a calendar month in the tenant's zone: base, proration, add-ons, overage by meter, commitment,
    ``late`` lines, adjustments, discounts, tax, credit.

    ``cells`` of other months are ignored. Usage so far and the whole month's fees are billed, also before the month is
    over. ``levels_before`` has each level (meter, resource) as the month begins. ``taxes`` None: the tenant's own rate.
    The ids depend on tenant, period and ``issue`` only: count issues up for a new invoice after a void.
    """
    bill = _Bill(terms, period, currency, issue)
    first, last = terms.days(period)
    inside = (cell for cell in cells if first <= cell[0].day <= last)
    usage = rate(inside, terms, period=period, levels_before=levels_before)
    lines = [*bill.fees(), *map(bill.overage, usage)]
    lines += [*bill.commitment(lines), *late]
    lines += [bill.adjustment(each) for each in adjustments]
    return bill.invoice(lines, discounts, grants, taxes)


def late_lines(
    terms: Terms,
    period: str,
    cells: Iterable[Cell],
    billed: Iterable[InvoiceLine],
    *,
    into: str,
    currency: str,
    issue: int = 1,
    levels_before: Levels = NO_LEVELS,
) -> list[InvoiceLine]:
    """What the month ``period`` comes to now, less what invoices had of it: lines of that issue of the invoice of the
    month ``into``.

    ``cells`` are that month's, ``billed`` its invoice's lines and those that later invoices had for it. One line per
    meter and resource, one for its fees if the plans of that month have changed since, one for its commitment, which
    shrinks as these grow; negative if too much was billed.
    """
    now = draft(terms, period, cells, currency=currency, levels_before=levels_before).lines
    return _Bill(terms, into, currency, issue).differences(period, now, billed)


def billed_already(
    terms: Terms, period: str, billed: Iterable[InvoiceLine], *, currency: str, issue: int
) -> list[InvoiceLine]:
    """Takes off what later invoices had of the month ``period``: lines of its own, issued again after a void."""
    return _Bill(terms, period, currency, issue).differences(period, (), billed)


_Use: TypeAlias = tuple[str, str]
"""A meter and a resource; ("", "") for fees, ("", "commitment") for what tops up to the minimum."""
_FEES: _Use = ("", "")
_COMMITMENT: _Use = ("", "commitment")
_OTHER_THAN_USAGE: dict[_Use, tuple[LineKind, str]] = {
    _FEES: ("proration", "changes of plan in"),
    _COMMITMENT: ("commitment", "minimum of"),
}


def _by_use(lines: Iterable[InvoiceLine]) -> dict[_Use, list[InvoiceLine]]:
    found: dict[_Use, list[InvoiceLine]] = defaultdict(list)
    for line in lines:
        if line.kind == "commitment":
            found[_COMMITMENT].append(line)
        elif line.kind in METERED | FEES:
            found[line.meter or "", line.resource].append(line)
    return found


@dataclass(slots=True)
class _Nets:
    """What is left of the fees, the usage, the commitment and the adjustments of an invoice while discounts are taken
    off. A commitment that shrank is set against all of it: it is usage that the minimum had paid already."""

    base: Decimal = _ZERO
    metered: Decimal = _ZERO
    commitment: Decimal = _ZERO
    other: Decimal = _ZERO

    @classmethod
    def of(cls, lines: Iterable[InvoiceLine]) -> _Nets:
        nets = cls()
        with localcontext(EXACT):
            for line in lines:
                group = _group(line.kind)
                setattr(nets, group, getattr(nets, group) + line.amount)
        return nets

    def take(self, scope: DiscountScope, amount: Decimal, currency: str) -> None:
        """Takes the amount off, in proportion where it concerns all."""
        groups = _GROUPS if scope == "all" else (scope,)
        unit = minor_unit(currency)
        with localcontext(EXACT):
            weights = [max(0, int(getattr(self, group) / unit)) for group in groups]
            for group, part in zip(groups, split(amount, weights, currency), strict=True):
                setattr(self, group, getattr(self, group) - part)

    def room(self, scope: DiscountScope) -> Decimal:
        with localcontext(EXACT):
            nets = [getattr(self, group) for group in (_GROUPS if scope == "all" else (scope,))]
            shrunk = min(_ZERO, self.commitment) if scope == "all" else _ZERO
            return max(_ZERO, sum((max(_ZERO, net) for net in nets), shrunk))


_GROUPS: Final = ("base", "metered", "commitment", "other")


def _group(kind: LineKind) -> str:
    if kind == "commitment":
        return kind
    return "base" if kind in FEES else "metered" if kind in METERED else "other"


class _Fee(NamedTuple):
    """What a plan costs a month, or with its name an add-on beside it."""

    kind: LineKind
    name: str
    monthly: Decimal
    segment: Segment
    addon: tuple[str, ...] = ()


def _addon_fee(name: str, held: HeldAddon, segment: Segment) -> _Fee:
    return _Fee("addon", f"{name} x {held.quantity:,}", held.fee, segment, (name,))


class _Bill(NamedTuple):
    """What all lines of an invoice have in common."""

    terms: Terms
    period: str
    currency: str
    issue: int

    def invoice(
        self,
        usage: Sequence[InvoiceLine],
        discounts: Sequence[Discount],
        grants: Sequence[CreditGrant],
        taxes: Sequence[Tax] | None,
    ) -> Invoice:
        nets = _Nets.of(usage)
        lines = [*usage, *self._discounts(discounts, nets)]
        subtotal = self._sum(lines)
        taxed = [*self._taxes(subtotal, taxes)]
        taken = [*self._credits(grants, nets, self._sum((*lines, *taxed)))]
        credited = [line for _, line in taken]
        carried = [line for line in [self._carried_over(self._sum((*lines, *taxed)))] if line]
        return Invoice(
            id=self._id("inv"),
            number=None,
            tenant=self.terms.tenant.id,
            period=self.period,
            issue=self.issue,
            status="draft",
            currency=self.currency,
            lines=(*lines, *taxed, *credited, *carried),
            subtotal=subtotal,
            tax=self._sum(taxed),
            credits_applied=self._sum(credited).copy_negate() if credited else self._sum(()),
            total=self._sum((*lines, *taxed, *credited, *carried)),
            carried_over=self._sum(carried),
            credits=tuple(use for use, _ in taken),
        )

    def adjustment(self, each: Adjustment) -> InvoiceLine:
        return self._plain_line("adjustment", each.reason, each.amount, each.id)

    def differences(self, period: str, now: Iterable[InvoiceLine], billed: Iterable[InvoiceLine]) -> list[InvoiceLine]:
        before, after = _by_use(billed), _by_use(now)
        uses = sorted({*before, *after})
        lines = (self._late(use, period, after.get(use, ()), before.get(use, ())) for use in uses)
        return [line for line in lines if line is not None]

    def _late(
        self, use: _Use, period: str, now: Sequence[InvoiceLine], billed: Sequence[InvoiceLine]
    ) -> InvoiceLine | None:
        """None where all that is due was billed."""
        (meter, resource), due, had = use, self._sum(now), self._sum(billed)
        if due == had:
            return None
        with localcontext(EXACT):
            amount = due - had
        if use in _OTHER_THAN_USAGE:
            kind, words = _OTHER_THAN_USAGE[use]
            line = self._plain_line(kind, f"{words} {period}, after its invoice", amount, period)
            return line.model_copy(update={"period": period})
        with localcontext(EXACT):
            quantity = sum(line.quantity for line in now) - sum(line.quantity for line in billed)
        prices = {line.unit_price for line in (*now, *billed)}
        why = [line.explanation for line in now if line.explanation]
        known = {window for line in billed if line.explanation for window in line.explanation.windows}
        windows = tuple(window for each in why for window in each.windows if window not in known)
        price = prices.pop() if len(prices) == 1 else mean_price(amount, quantity).normalize() if quantity else amount
        days = sorted({f"{window.start.astimezone(self.terms.zone):%Y-%m-%d}" for window in windows})
        when = days[0] if len(days) == 1 else period
        what = f"{meter} ({resource})" if resource else meter
        return InvoiceLine(
            id=self._id("line", "late_usage", meter, resource, period),
            kind="late_usage",
            meter=meter,
            resource=resource,
            description=f"late usage {when}, {quantity:,} {what}, {plain(price)} each",
            quantity=quantity,
            unit_price=price,
            amount=amount,
            period=period,
            explanation=Explanation(
                windows=windows,
                unit_price=price,
                plan_version=", ".join(dict.fromkeys(each.plan_version for each in why)),
                rounding=f"{period} comes to {plain(due)} now, less {plain(had)} billed before",
                events=sum(window.events for window in windows),
                billed_before=had,
            ),
        )

    def _discounts(self, discounts: Sequence[Discount], nets: _Nets) -> Iterator[InvoiceLine]:
        """Percentages first. None takes more than is there."""
        month = self.terms.month(self.period)
        for each in sorted(discounts, key=lambda each: each.percent is None):
            if each.starts_at >= month.end or (each.ends_at is not None and each.ends_at <= month.start):
                continue
            room = nets.room(each.applies_to)
            with localcontext(EXACT):
                wanted = each.amount if each.percent is None else room * each.percent / 100
            amount = min(room, round_minor(wanted or _ZERO, self.currency))
            if amount > 0:
                nets.take(each.applies_to, amount, self.currency)
                share = "" if each.percent is None else f", {plain(each.percent)} % of {plain(room)}"
                yield self._plain_line("discount", f"{each.name}{share}", amount.copy_negate(), each.id)

    def _credits(
        self, grants: Sequence[CreditGrant], nets: _Nets, due: Decimal
    ) -> Iterator[tuple[CreditUse, InvoiceLine]]:
        """By priority, then the earliest expiry, then the earliest grant. Credit for usage pays usage, without tax."""
        end = self.terms.month(self.period).end
        metered = nets.room("metered")
        for grant in sorted(grants, key=_burn_order):
            if grant.currency != self.currency or (grant.expires_at is not None and grant.expires_at < end):
                continue
            taken = min(grant.remaining, due if grant.applies_to == "all" else min(due, metered))
            if taken <= 0:
                continue
            with localcontext(EXACT):
                due -= taken
                metered = max(_ZERO, min(metered - taken, due)) if grant.applies_to == "metered" else min(metered, due)
            text = f"credit, {grant.reason}" if grant.reason else f"{grant.kind} credit"
            yield CreditUse(grant=grant.id, amount=taken), self._plain_line("credit", text, -taken, grant.id)

    def overage(self, over: Overage) -> InvoiceLine:
        what = f"{over.meter} ({over.resource})" if over.resource else over.meter
        how = price_words(over.price, over.quantity)
        mean = " in the month's mean" if isinstance(over.quantity, Decimal) else ""
        plans = ", ".join(dict.fromkeys(window.plan for window in over.windows))
        amount, rounding = self._rounded(over.amount)
        return InvoiceLine(
            id=self._id("line", "overage", over.meter, over.resource, price_text(over.price)),
            kind="overage",
            meter=over.meter,
            resource=over.resource,
            description=f"{quantity_text(over.quantity)} {what} past the allowance{mean}, {how}",
            quantity=over.quantity,
            unit_price=over.unit_price,
            amount=amount,
            explanation=Explanation(
                windows=over.windows,
                unit_price=over.unit_price,
                plan_version=plans,
                rounding=rounding,
                events=sum(window.events for window in over.windows),
                tiers=over.tiers,
            ),
        )

    def fees(self) -> Iterator[InvoiceLine]:
        """The plan at the month's start or the sign-up, then a credit and a charge for each change of plan. The
        add-ons beside it likewise, each by itself."""
        month = self.terms.month(self.period)
        start, end = micros(month.start) // _SECOND_US, micros(month.end) // _SECOND_US
        in_force = _in_force(self.terms, start, end)
        for since, segment in in_force[:1]:
            if segment.status not in REFUSED_AS:
                yield from self._fee("base", since, segment)
            yield from self._addons(since, None, segment)
        for (_, old), (since, new) in pairwise(in_force):
            if self.terms.fee(old) != self.terms.fee(new):
                yield from self._fee("proration", since, old, sign=-1)
                yield from self._fee("proration", since, new)
            yield from self._addons(since, old, new)

    def _fee(self, kind: LineKind, since: int, segment: Segment, sign: int = 1) -> Iterator[InvoiceLine]:
        """A plan's fee, or its credit, from the second ``since`` to the month's end. No line for a change to or from
        what costs nothing, nor for a tenant without a plan."""
        plan = self.terms.plan(segment)
        fee = self.terms.fee(segment)
        if plan is None or (kind == "proration" and not fee):
            return
        name = plan_name(segment.plan) + (", trial" if segment.status == TRIAL else "")
        yield self._shared(_Fee(kind, name, fee, segment), since, sign)

    def _addons(self, since: int, old: Segment | None, new: Segment) -> Iterator[InvoiceLine]:
        """The add-ons from the second ``since`` on: those whose number or price is another than before."""
        before, after = self.terms.addons(old) if old else {}, self.terms.addons(new)
        for name in sorted({*before, *after}):
            gone, fresh = before.get(name), after.get(name)
            if gone and fresh and (gone.quantity, gone.price) == (fresh.quantity, fresh.price):
                continue
            if gone and old:
                yield self._shared(_addon_fee(name, gone, old), since, -1)
            if fresh:
                yield self._shared(_addon_fee(name, fresh, new), since, 1)

    def _shared(self, fee: _Fee, since: int, sign: int) -> InvoiceLine:
        """A fee, or with ``sign`` -1 its credit, from the second ``since`` to the month's end."""
        month, label = self.terms.month(self.period), plan_label(fee.segment)
        share = Share(seconds=micros(month.end) // _SECOND_US - since, of_seconds=month.seconds)
        with localcontext(EXACT):
            monthly = sign * fee.monthly
            amount, rounding = self._rounded(monthly * share.seconds / share.of_seconds)
        return InvoiceLine(
            id=self._id("line", fee.kind, *fee.addon, label, str(since), str(sign)),
            kind=fee.kind,
            meter=None,
            description=self._fee_text(fee.name, since, share, sign),
            quantity=1,
            unit_price=amount,
            amount=amount,
            explanation=Explanation(
                windows=(),
                unit_price=monthly,
                plan_version=label,
                rounding=rounding,
                events=0,
                share=share,
            ),
        )

    def commitment(self, billed: Sequence[InvoiceLine]) -> Iterator[InvoiceLine]:
        """What the fees and the usage that are billed leave short of the month's minimum, if anything."""
        found = Commitment.of(self._stays(), self.terms.month(self.period).seconds)
        if found is None:
            return
        used = self._sum(billed)
        with localcontext(EXACT):
            amount, rounding = self._rounded(found.amount - used)
        if amount <= 0:
            return
        minimum = round_minor(found.amount, self.currency)
        yield InvoiceLine(
            id=self._id("line", "commitment"),
            kind="commitment",
            meter=None,
            description=f"minimum {plain(minimum)}, less {plain(used)} used",
            quantity=1,
            unit_price=amount,
            amount=amount,
            explanation=Explanation(
                windows=(),
                unit_price=found.terms[0][0] if found.share else minimum,
                plan_version=", ".join(found.plans),
                rounding=f"{found.words}, less {plain(used)}: {rounding}",
                events=0,
                share=found.share,
            ),
        )

    def _stays(self) -> Iterator[Stay]:
        month = self.terms.month(self.period)
        end = micros(month.end) // _SECOND_US
        in_force = _in_force(self.terms, micros(month.start) // _SECOND_US, end)
        ends = [*(since for since, _ in in_force[1:]), end]
        for (since, segment), until in zip(in_force, ends, strict=False):  # none before the sign-up, but an end
            yield Stay(plan_label(segment), self.terms.minimum(segment), until - since)

    def _fee_text(self, name: str, since: int, share: Share, sign: int) -> str:
        period = self.period if self.terms.tenant.anchor_day == 1 else "{} to {}".format(*self.terms.days(self.period))
        if share.seconds == share.of_seconds and sign > 0:
            return f"{name}, {period}"
        unused = "unused, " if sign < 0 else ""
        return f"{name}, {unused}{period} from {_moment(from_micros(since * _SECOND_US), self.terms)}"

    def _taxes(self, subtotal: Decimal, taxes: Sequence[Tax] | None) -> Iterator[InvoiceLine]:
        """Those given, or the tenant's rate, a fraction such as "0.19", on what is due."""
        if taxes is None:
            rate = exact(self.terms.tenant.tax_rate or 0, "tax_rate")
            with localcontext(EXACT):
                percent = f"{plain((rate * 100).normalize())} %"
                taxes = [Tax(name=f"tax, {percent} of {plain(subtotal)}", amount=subtotal * rate)] if rate else []
        for number, each in enumerate(taxes if subtotal > 0 else ()):
            amount, _ = self._rounded(each.amount)
            if amount:
                yield self._plain_line("tax", each.name, amount, *([str(number)] if number else []))

    def _carried_over(self, due: Decimal) -> InvoiceLine | None:
        return self._plain_line("carried_over", "carried over to your credit", -due) if due < 0 else None

    def _plain_line(self, kind: LineKind, description: str, amount: Decimal, *parts: str) -> InvoiceLine:
        return InvoiceLine(
            id=self._id("line", kind, *parts),
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
        return derived_id(prefix, self.terms.tenant.id, self.period, self.issue, *parts)


def _in_force(terms: Terms, start: int, end: int) -> list[tuple[int, Segment]]:
    """The plans of the seconds from ``start`` to ``end``, each with its first second there. What began and ended
    within one second never was; before the sign-up there is none."""
    since = {terms.first_second(segment): segment for segment in terms.tenant.segments}
    before = [second for second in since if second <= start]
    first = [(start, since[max(before)])] if before else []
    return first + [(second, segment) for second, segment in sorted(since.items()) if start < second < end]


def _burn_order(grant: CreditGrant) -> tuple[int, bool, datetime, datetime, str]:
    expires_at = grant.expires_at
    return (grant.priority, expires_at is None, expires_at or grant.granted_at, grant.granted_at, grant.id)


def _canonical(amount: Decimal) -> str:
    with localcontext(EXACT):
        return plain(amount.normalize())


def _moment(moment: datetime, terms: Terms) -> str:
    local = moment.astimezone(terms.zone)
    return f"{local:%Y-%m-%d}" if not (local.hour or local.minute or local.second) else f"{local:%Y-%m-%d %H:%M:%S}"
