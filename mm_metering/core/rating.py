"""Rating: a tenant's cells and its plans over time, as priced lines. Exact; nothing is rounded here.

One walk serves invoices, previews and the counters' loader. It lays a meter's cells end to end in order of time, local
day by local day and plan segment by plan segment, and counts them in their windows whatever the plan. Units past the
allowance of the plan in force are billed at its price, so that in one window a segment bills
max(0, C_i - max(L_i, C_i-1)), where C is what was counted by its end and L its allowance.

The units that one price bills in the month make one line, whatever the days and plans they come from: tiers, packages
and flat prices count them together. ``cells`` are therefore of one month where a plan has such prices.

Past a quota of the same plan that blocks, and past its cap, units count but are not billed (a recorded fact is never
refused). A cap is spent in whole units: what is billed is the most that fits under it. It counts the money past the
allowance, billed or not, of the month's segments that have a cap, exactly as the counters do (``core.limits``).

Where prices differ by resource, the allowance of a day and segment goes to the dearest resource first, and of equal
ones to the first by name: the bill is the lowest that the order of days allows. A resource without a price uses the
allowance last, and is not billed.

A level that charges bills its time-weighted mean over the month (``standing``). Each plan segment has its share of it:
the level times the seconds that it stood there, and the allowance times the segment's seconds, both by the month's
seconds; what is past the allowance is rounded half up to a millionth. A month in which the tenant signs up begins for
this with the local day of the sign-up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from decimal import ROUND_HALF_UP, Decimal, localcontext
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

from mm_metering.core.catalogue import HeldAddon, Limit, Plan, Proration
from mm_metering.core.cells import Cell, Segment
from mm_metering.core.lifecycles import FREE_STATES, TRIAL
from mm_metering.core.money import EXACT, to_nanos
from mm_metering.core.periods import (
    Span,
    Window,
    day_span,
    day_start,
    days_of,
    from_micros,
    local_day,
    micros,
    month_first,
    month_span,
    period_span,
    zone,
)
from mm_metering.core.pricing import Price, TierUse, cost, price_text, tier_uses
from mm_metering.core.standing import Part, parts
from mm_metering.core.tenancy import TenantRow

_MILLIONTH = Decimal("0.000001")
_MEAN_PLACES = Decimal("1e-12")

Levels: TypeAlias = Mapping[tuple[str, str], int]
"""The value of each level (meter, resource) at one instant."""
NO_LEVELS: Levels = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant and the plans it was ever on. A plan that is not among ``plans`` limits and charges nothing."""

    tenant: TenantRow
    plans: Mapping[tuple[str, int], Plan]
    proration: Proration = "second"

    @property
    def zone(self) -> tzinfo:
        return zone(self.tenant.timezone)

    def month(self, period: str) -> Span:
        return period_span(period, self.zone, self.tenant.anchor_day)

    def days(self, period: str) -> tuple[date, date]:
        """The first and the last day of a month."""
        return days_of(period, self.tenant.anchor_day)

    def first_day(self, window: Window, day: date) -> date:
        """The first day of the day or month that holds a day."""
        return day if window is Window.DAY else month_first(day, self.tenant.anchor_day)

    def window(self, window: Window, first: date) -> Span:
        """The day or month that begins on a day."""
        if window is Window.DAY:
            return day_span(first, self.zone)
        return month_span(first.year, first.month, self.zone, self.tenant.anchor_day)

    def plan(self, segment: Segment) -> Plan | None:
        return self.plans.get(version_of(segment))

    def limits(self, meter: str, since_us: int) -> tuple[Limit, ...]:
        """A meter's limits under the segment that began at ``since_us``."""
        segment = self.tenant.segment_at(since_us)
        plan = self.plan(segment)
        limits = plan.quotas.get(meter, ()) if plan else ()
        return tuple(limit.in_trial() for limit in limits) if segment.status == TRIAL else limits

    def fee(self, segment: Segment) -> Decimal:
        """What its plan costs a month, in the state that it is in."""
        plan = self.plan(segment)
        return plan.price if plan and segment.status not in FREE_STATES else Decimal(0)

    def addons(self, segment: Segment) -> Mapping[str, HeldAddon]:
        """The add-ons that cost something beside its plan, in the state that it is in."""
        plan = self.plan(segment)
        held = plan.addons if plan and segment.status not in FREE_STATES else {}
        return {name: each for name, each in held.items() if each.price}

    def minimum(self, segment: Segment) -> Decimal:
        """The least that its fee and usage of a month come to, in the state that it is in."""
        plan = self.plan(segment)
        return plan.minimum if plan and segment.status not in FREE_STATES else Decimal(0)

    def first_second(self, segment: Segment) -> int:
        """From which second since 1970 on its fee counts: an instant belongs to the second, or the day, it lies in."""
        if self.proration == "second":
            return segment.starts_us // 1_000_000
        return micros(day_start(local_day(from_micros(segment.starts_us), self.zone), self.zone)) // 1_000_000


def version_of(segment: Segment) -> tuple[str, int]:
    """The key of its plan among ``Terms.plans``."""
    return segment.plan, segment.version


def plan_label(segment: Segment) -> str:
    """ "pro@2": the second version of the plan pro."""
    return f"{segment.plan}@{segment.version}"


class Use(NamedTuple):
    """Units of one meter and resource on a local day, under the plan segment that began at ``since_us``."""

    day: date
    since_us: int
    resource: str
    quantity: int
    events: int = 0


class WindowUse(BaseModel):
    """One window of a line. overage = max(0, used - max(allowance, before)) - unbilled.

    ``before`` was counted in the same window under earlier plans, and ``used`` includes it. ``unbilled`` lies past a
    blocking quota or a cap. Where prices differ by resource, all numbers are this resource's, with its share of the
    allowance. Of a level, the window is the time under one plan, and its numbers are that time's share of the month:
    ``used`` is the mean over the month of what stood there.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    start: datetime
    end: datetime
    used: int | Decimal
    allowance: int | Decimal
    overage: int | Decimal
    plan: str
    before: int = 0
    unbilled: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Overage:
    """Units to be billed at one price. ``resource`` is "" where one price holds for all resources."""

    meter: str
    resource: str
    price: Price
    windows: tuple[WindowUse, ...]

    @property
    def quantity(self) -> int | Decimal:
        with localcontext(EXACT):
            return sum(window.overage for window in self.windows)

    @property
    def amount(self) -> Decimal:
        """The exact cost, not rounded."""
        return cost(self.price, self.quantity)

    @property
    def tiers(self) -> tuple[TierUse, ...]:
        """Through which tiers the units are billed; none at one price per unit."""
        return tier_uses(self.price, self.quantity)

    @property
    def unit_price(self) -> Decimal:
        """The price of each unit; for other prices what a unit costs in the mean, half up to 12 places. The amount does
        not come from it."""
        if isinstance(self.price, Decimal):
            return self.price
        return mean_price(self.amount, self.quantity)


def mean_price(amount: Decimal, quantity: int | Decimal) -> Decimal:
    """What a unit costs in the mean, half up to 12 places, for display."""
    with localcontext(EXACT):
        return (amount / quantity).quantize(_MEAN_PLACES, ROUND_HALF_UP)


def rate(
    cells: Iterable[Cell],
    terms: Terms,
    *,
    period: str | None = None,
    levels_before: Levels = NO_LEVELS,
) -> list[Overage]:
    """What lies past the allowances, by meter, resource and price. Only windows that bill something are listed.

    ``cells`` must be whole windows: all of a month's cells where a plan has monthly limits. Levels are billed with a
    ``period``, "2024-01", the month that all cells are of: ``levels_before`` is each (meter, resource)'s value as it
    begins (``Used.carried``), and a level that only stands there is billed too.
    """
    of_month = list(cells)
    by_meter = _by_meter(of_month)
    lines = [line for meter, uses in by_meter.items() for line in _lines(meter, uses, terms)]
    if period is not None:
        month = terms.month(period)
        lines += _level_lines(of_month, terms, month, levels_before)
    return sorted(lines, key=lambda line: line.meter)


def cap_used(meter: str, uses: Iterable[Use], terms: Terms, *, month: date) -> int:
    """Nano-units counted against a meter's cap in the month of the day ``month``: what the counters hold.

    May lie past the cap. ``uses`` must hold that whole month; resources do not matter, since a cap has one price.
    """
    walk = _Walk(meter, terms)
    for _ in walk.steps(uses):
        pass
    return walk.capped_nanos[terms.first_day(Window.MONTH, month)]


def _by_meter(cells: Iterable[Cell]) -> dict[str, list[Use]]:
    """Scoped cells repeat what the unscoped ones hold, for the AI budgets of a model or a user."""
    by_meter: dict[str, list[Use]] = defaultdict(list)
    for key, total, *_ in cells:
        if not key.scope:
            by_meter[key.meter].append(Use(key.day, key.since_us, key.resource, total.quantity, total.count))
    return by_meter


class _Step(NamedTuple):
    """A use under a limit with a price: ``before`` it, that much was counted in the limit's window; of its units,
    ``past`` lie past the allowance, and ``billed`` of those are billed."""

    use: Use
    limit: Limit
    price: Price | None
    before: int
    past: int
    billed: int


@dataclass(slots=True)
class _Walk:
    """One meter's uses in order of time, with what was counted in each window and against each month's cap so far."""

    meter: str
    terms: Terms
    counted: Counter[tuple[Window, date]] = field(default_factory=Counter)
    capped_nanos: Counter[date] = field(default_factory=Counter)

    def steps(self, uses: Iterable[Use]) -> Iterator[_Step]:
        """Each use that a priced limit applies to; the others are only counted."""
        for use in sorted(uses, key=self._order):
            limits = self.terms.limits(self.meter, use.since_us)
            for limit in limits:
                if not limit.blocks and not limit.is_level:
                    yield self._step(use, limit, limits)
            for window in (Window.DAY, Window.MONTH):
                self.counted[window, self.terms.first_day(window, use.day)] += use.quantity

    def _order(self, use: Use) -> tuple[date, int, Decimal, str]:
        prices = [limit.price_for(use.resource) for limit in self.terms.limits(self.meter, use.since_us)]
        dearest = max((price for price in prices if isinstance(price, Decimal)), default=Decimal(0))
        return (use.day, use.since_us, dearest.copy_negate(), use.resource)

    def _step(self, use: Use, limit: Limit, limits: tuple[Limit, ...]) -> _Step:
        price = limit.price_for(use.resource)
        free = self._room(limit, use)
        past = use.quantity - free
        blocked_from = min((self._room(block, use) for block in limits if _is_block(block)), default=use.quantity)
        billed = max(0, min(use.quantity, blocked_from) - free)
        if limit.cap is not None and isinstance(price, Decimal):
            billed = min(billed, self._spend(limit.cap, price, past, use.day))
        before = self.counted[limit.window, self.terms.first_day(limit.window, use.day)]
        return _Step(use, limit, price, before, past, billed if price is not None else 0)

    def _room(self, limit: Limit, use: Use) -> int:
        """How many of the use's units still fit under the limit."""
        if limit.maximum is None:
            return use.quantity
        counted = self.counted[limit.window, self.terms.first_day(limit.window, use.day)]
        return min(use.quantity, max(0, limit.maximum - counted))

    def _spend(self, cap: Decimal, price: Decimal, past: int, day: date) -> int:
        """Counts the units against the month's cap; how many of them were still under it."""
        month, nanos = self.terms.first_day(Window.MONTH, day), to_nanos(price)
        left = max(0, to_nanos(cap) - self.capped_nanos[month])
        self.capped_nanos[month] += nanos * past
        return min(past, left // nanos) if nanos else past


def _is_block(limit: Limit) -> bool:
    return limit.blocks and limit.window in (Window.DAY, Window.MONTH)


@dataclass(slots=True)
class _Row:
    """The steps of one line in one window and plan segment."""

    limit: Limit
    before: int
    units: int = 0
    past: int = 0
    billed: int = 0
    events: int = 0

    def add(self, step: _Step) -> None:
        self.units += step.use.quantity
        self.past += step.past
        self.billed += step.billed
        self.events += step.use.events


_LineKey: TypeAlias = tuple[str, Price]
_RowKey: TypeAlias = tuple[date, int]


def _lines(meter: str, uses: Iterable[Use], terms: Terms) -> Iterator[Overage]:
    lines: dict[_LineKey, dict[_RowKey, _Row]] = defaultdict(dict)
    for step in _Walk(meter, terms).steps(uses):
        if step.price is not None:
            by_resource = step.limit.by_resource
            rows = lines[step.use.resource if by_resource else "", step.price]
            key = (terms.first_day(step.limit.window, step.use.day), step.use.since_us)
            rows.setdefault(key, _Row(step.limit, 0 if by_resource else step.before)).add(step)
    for (resource, price), rows in sorted(lines.items(), key=_order_of_lines):
        windows = tuple(_window_use(key, row, terms) for key, row in sorted(rows.items()) if row.billed)
        if windows:
            yield Overage(meter, resource, price, windows)


def _order_of_lines(line: tuple[_LineKey, object]) -> tuple[str, bool, Decimal, str]:
    """By resource; prices per unit come first, the least before the others."""
    (resource, price), _ = line
    if isinstance(price, Decimal):
        return resource, False, price, ""
    return resource, True, Decimal(0), price_text(price)


def _window_use(key: _RowKey, row: _Row, terms: Terms) -> WindowUse:
    first, since_us = key
    span = terms.window(row.limit.window, first)
    return WindowUse(
        start=span.start,
        end=span.end,
        used=row.before + row.units,
        allowance=row.units - row.past if row.limit.by_resource else row.limit.maximum or 0,
        overage=row.billed,
        plan=plan_label(terms.tenant.segment_at(since_us)),
        before=row.before,
        unbilled=row.past - row.billed,
        events=row.events,
    )


# -- levels -------------------------------------------------------------------------------------------------------


def _level_lines(cells: Sequence[Cell], terms: Terms, month: Span, before: Levels) -> Iterator[Overage]:
    stood: Counter[str] = Counter()
    for (meter, _), value in before.items():
        stood[meter] += value
    for meter in sorted(_charged_levels(terms)):
        own = [cell for cell in cells if cell.key.meter == meter and not cell.key.scope]
        lines: dict[_LineKey, list[WindowUse]] = defaultdict(list)
        for part in parts(own, terms.tenant, month, stood[meter]):
            for limit in terms.limits(meter, part.since_us):
                price = limit.price_for("") if limit.is_level else None
                if price is not None and (window := _level_use(part, limit, month, terms)).overage:
                    lines["", price].append(window)
        for (resource, price), windows in sorted(lines.items(), key=_order_of_lines):
            yield Overage(meter, resource, price, tuple(windows))


def _charged_levels(terms: Terms) -> set[str]:
    plans = filter(None, map(terms.plan, terms.tenant.segments))
    return {meter for plan in plans for meter in plan.charged_levels}


def _level_use(part: Part, limit: Limit, month: Span, terms: Terms) -> WindowUse:
    """The allowance shown makes up for what rounding the other two moves: at most a millionth."""
    allowed = (limit.maximum or 0) * part.seconds
    used, overage = _share(part.weighted, month), _share(max(0, part.weighted - allowed), month)
    with localcontext(EXACT):
        return WindowUse(
            start=part.span.start,
            end=part.span.end,
            used=used,
            allowance=used - overage if overage else _share(allowed, month),
            overage=overage,
            plan=plan_label(terms.tenant.segment_at(part.since_us)),
            events=part.events,
        )


def _share(unit_seconds: int, month: Span) -> Decimal:
    """Unit-seconds as units that stand for the whole month, rounded half up to a millionth."""
    with localcontext(EXACT):
        return (Decimal(unit_seconds) / month.seconds).quantize(_MILLIONTH, ROUND_HALF_UP)
