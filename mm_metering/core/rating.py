"""Rating: a tenant's cells and its plans over time, as priced lines. Exact; nothing is rounded here.

One walk serves invoices, previews and the counters' loader. It lays a meter's cells end to end in order of time, local
day by local day and plan segment by plan segment, and counts them in their windows whatever the plan. Units past the
allowance of the plan in force are billed at its price, so that in one window a segment bills
max(0, C_i - max(L_i, C_i-1)), where C is what was counted by its end and L its allowance.

Past a quota of the same plan that blocks, and past its cap, units count but are not billed (a recorded fact is never
refused). A cap is spent in whole units: what is billed is the most that fits under it. It counts the money past the
allowance, billed or not, of the month's segments that have a cap, exactly as the counters do (``core.limits``).

Where prices differ by resource, the allowance of a day and segment goes to the dearest resource first, and of equal
ones to the first by name: the bill is the lowest that the order of days allows. A resource without a price uses the
allowance last, and is not billed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, localcontext
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from mm_metering.core.catalogue import Limit, Plan
from mm_metering.core.cells import Cell, Segment
from mm_metering.core.money import EXACT, Money, to_nanos
from mm_metering.core.periods import Span, Window, day_span, month_span, zone
from mm_metering.core.tenancy import TenantRow


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant and the plans it was ever on. A plan that is not among ``plans`` limits and charges nothing."""

    tenant: TenantRow
    plans: Mapping[tuple[str, int], Plan]

    @property
    def zone(self) -> ZoneInfo:
        return zone(self.tenant.timezone)

    def plan(self, segment: Segment) -> Plan | None:
        return self.plans.get((segment.plan, segment.version))

    def limits(self, meter: str, since_us: int) -> tuple[Limit, ...]:
        """A meter's limits under the segment that began at ``since_us``."""
        plan = self.plan(self.tenant.segment_at(since_us))
        return plan.quotas.get(meter, ()) if plan else ()


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
    allowance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    start: datetime
    end: datetime
    used: int
    allowance: int
    overage: int
    plan: str
    before: int = 0
    unbilled: int = 0
    events: int = 0


class TierUse(BaseModel):
    """The units of a line that one tier bills: those past ``after`` and up to ``up_to`` (None: all further ones), at
    ``unit_price`` each plus ``flat`` once. ``amount`` is exact."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    after: int
    up_to: int | None
    quantity: int | Decimal
    unit_price: Money
    flat: Money
    amount: Money


@dataclass(frozen=True, slots=True)
class Overage:
    """Units to be billed at one price. ``resource`` is "" where one price holds for all resources."""

    meter: str
    resource: str
    unit_price: Decimal
    windows: tuple[WindowUse, ...]

    @property
    def quantity(self) -> int:
        return sum(window.overage for window in self.windows)

    @property
    def amount(self) -> Decimal:
        """The exact product, not rounded."""
        with localcontext(EXACT):
            return self.quantity * self.unit_price


def rate(cells: Iterable[Cell], terms: Terms) -> list[Overage]:
    """What lies past the allowances, by meter, resource and unit price. Only windows that bill something are listed.

    ``cells`` must be whole windows: all of a month's cells where a plan has monthly limits.
    """
    by_meter = _by_meter(cells)
    return [line for meter in sorted(by_meter) for line in _lines(meter, by_meter[meter], terms)]


def cap_used(meter: str, uses: Iterable[Use], terms: Terms, *, month: date) -> int:
    """Nano-units counted against a meter's cap in the calendar month of the day ``month``: what the counters hold.

    May lie past the cap. ``uses`` must hold that whole month; resources do not matter, since a cap has one price.
    """
    walk = _Walk(meter, terms)
    for _ in walk.steps(uses):
        pass
    return walk.capped_nanos[_first_day(Window.MONTH, month)]


def used_by_window(uses: Iterable[Use], window: Window, tz: ZoneInfo) -> dict[Span, int]:
    """The units counted in each day or month that has any, whatever the plan."""
    used: Counter[date] = Counter()
    for use in uses:
        used[_first_day(window, use.day)] += use.quantity
    return {_span(window, first, tz): quantity for first, quantity in sorted(used.items())}


def _by_meter(cells: Iterable[Cell]) -> dict[str, list[Use]]:
    """Scoped cells repeat what the unscoped ones hold, for the AI budgets of a model or a user."""
    by_meter: dict[str, list[Use]] = defaultdict(list)
    for key, total, *_ in cells:
        if not key.scope:
            by_meter[key.meter].append(Use(key.day, key.since_us, key.resource, total.quantity, total.count))
    return by_meter


def _first_day(window: Window, day: date) -> date:
    return day if window is Window.DAY else day.replace(day=1)


def _span(window: Window, first: date, tz: ZoneInfo) -> Span:
    return day_span(first, tz) if window is Window.DAY else month_span(first.year, first.month, tz)


class _Step(NamedTuple):
    """A use under a limit with a price: ``before`` it, that much was counted in the limit's window; of its units,
    ``past`` lie past the allowance, and ``billed`` of those are billed."""

    use: Use
    limit: Limit
    price: Decimal | None
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
                if limit.unit_price is not None:
                    yield self._step(use, limit, limits)
            for window in (Window.DAY, Window.MONTH):
                self.counted[window, _first_day(window, use.day)] += use.quantity

    def _order(self, use: Use) -> tuple[date, int, Decimal, str]:
        limits = self.terms.limits(self.meter, use.since_us)
        dearest = max((limit.price_for(use.resource) or Decimal(0) for limit in limits), default=Decimal(0))
        return (use.day, use.since_us, dearest.copy_negate(), use.resource)

    def _step(self, use: Use, limit: Limit, limits: tuple[Limit, ...]) -> _Step:
        price = limit.price_for(use.resource)
        free = self._room(limit, use)
        past = use.quantity - free
        blocked_from = min((self._room(block, use) for block in limits if _is_block(block)), default=use.quantity)
        billed = max(0, min(use.quantity, blocked_from) - free)
        if limit.cap is not None and price is not None:
            billed = min(billed, self._spend(limit.cap, price, past, use.day))
        before = self.counted[limit.window, _first_day(limit.window, use.day)]
        return _Step(use, limit, price, before, past, billed if price is not None else 0)

    def _room(self, limit: Limit, use: Use) -> int:
        """How many of the use's units still fit under the limit."""
        if limit.maximum is None:
            return use.quantity
        counted = self.counted[limit.window, _first_day(limit.window, use.day)]
        return min(use.quantity, max(0, limit.maximum - counted))

    def _spend(self, cap: Decimal, price: Decimal, past: int, day: date) -> int:
        """Counts the units against the month's cap; how many of them were still under it."""
        month, nanos = _first_day(Window.MONTH, day), to_nanos(price)
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


_LineKey: TypeAlias = tuple[str, Decimal]
_RowKey: TypeAlias = tuple[date, int]


def _lines(meter: str, uses: Iterable[Use], terms: Terms) -> Iterator[Overage]:
    lines: dict[_LineKey, dict[_RowKey, _Row]] = defaultdict(dict)
    for step in _Walk(meter, terms).steps(uses):
        if step.price is not None:
            by_resource = not isinstance(step.limit.unit_price, Decimal)
            rows = lines[step.use.resource if by_resource else "", step.price]
            key = (_first_day(step.limit.window, step.use.day), step.use.since_us)
            rows.setdefault(key, _Row(step.limit, 0 if by_resource else step.before)).add(step)
    for (resource, price), rows in sorted(lines.items()):
        windows = tuple(_window_use(key, row, terms) for key, row in sorted(rows.items()) if row.billed)
        if windows:
            yield Overage(meter, resource, price, windows)


def _window_use(key: _RowKey, row: _Row, terms: Terms) -> WindowUse:
    first, since_us = key
    span = _span(row.limit.window, first, terms.zone)
    shared = not isinstance(row.limit.unit_price, Decimal)
    return WindowUse(
        start=span.start,
        end=span.end,
        used=row.before + row.units,
        allowance=row.units - row.past if shared else row.limit.maximum or 0,
        overage=row.billed,
        plan=plan_label(terms.tenant.segment_at(since_us)),
        before=row.before,
        unbilled=row.past - row.billed,
        events=row.events,
    )
