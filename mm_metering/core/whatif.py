"""What if: a tenant's month, rated under the plans that it was on and under those of a new catalogue.

Each plan of the timeline is replaced by the new catalogue's plan of the same name, with the add-ons that it has. A
tenant's own version ("pro~acme") that has more than add-ons, and a plan that the new catalogue does not have, stay as
they are.

An amount is the subtotal of ``draft`` over fees, usage, commitment and discounts: before tax and credit, and without
what other months or hands put on an invoice (late usage, adjustments). All usage counts in its own month.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Final, NamedTuple

from mm_metering.core.addons import bare, carried
from mm_metering.core.catalogue import Catalogue, Limit, Plan
from mm_metering.core.cells import Cell, CellSum, Segment
from mm_metering.core.invoices import Discount
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import Window, later_period, micros, parse_period
from mm_metering.core.rating import NO_LEVELS, Levels, Terms, plan_label, version_of
from mm_metering.core.tenancy import OVERRIDE, TenantRow, plan_name
from mm_metering.errors import InvalidInput

MAX_MONTHS: Final = 36
_FIRST_ZONE: Final = timedelta(hours=14)
"""How far the earliest time zone is ahead of UTC."""


@dataclass(frozen=True, slots=True)
class Question:
    """Would ``catalogue`` have brought more in ``periods``, whole months in order?"""

    catalogue: Catalogue
    periods: tuple[str, ...]
    asked_at: datetime

    @classmethod
    def of(cls, new: Catalogue, current: Catalogue, *, start: str, end: str, now: datetime) -> Question:
        """InvalidInput for months that are none, run backwards, are too many or have not begun, and for a catalogue in
        another currency or with a meter that counts otherwise than the usage that is there."""
        parse_period(start)
        parse_period(end)
        months = _months_from(start, end)
        if months < 1:
            raise InvalidInput("end", f"{end} is before {start}, the first month; name the earlier one first")
        if months > MAX_MONTHS:
            raise InvalidInput(
                "end", f"{start} to {end} are {months:,} months, and at most {MAX_MONTHS} are compared at once"
            )
        if end > (newest := f"{now + _FIRST_ZONE:%Y-%m}"):
            raise InvalidInput("end", f"{end} has not begun anywhere; the last month that has is {newest}")
        check_comparable(new, current)
        return cls(new, tuple(later_period(start, month) for month in range(months)), now)

    def replaced(self, terms: Terms) -> Terms:
        """The tenant's terms with the new catalogue's plans."""
        known, plans = terms.plans, dict[tuple[str, int], Plan]()
        for key in map(version_of, terms.tenant.segments):
            if new := self._instead(key, known):
                plans[key] = new
            elif key in known:
                plans[key] = known[key]
        return Terms(terms.tenant, plans, self.catalogue.changes.proration)

    def _instead(self, key: tuple[str, int], known: Mapping[tuple[str, int], Plan]) -> Plan | None:
        """The new catalogue's plan of that name; with its add-ons, if that is all that a tenant's own version has."""
        new, present = self.catalogue.plans.get(plan_name(key[0])), known.get(key)
        if new is None or OVERRIDE not in key[0]:
            return new
        if present is None or not present.addons:
            return None
        sold = (plan for (name, _), plan in known.items() if name == present.name)
        return carried(new, present.addons, self.catalogue.addons) if bare(present) in sold else None

    def check_meters(self, terms: Terms, segments: Iterable[Segment]) -> None:
        """InvalidInput where a plan that is replaced limits a meter that the new catalogue does not have."""
        for segment in segments:
            plan = terms.plan(segment)
            if plan is not None and self._instead(version_of(segment), terms.plans) is not None:
                _check_kept(plan, plan_label(segment), self.catalogue)

    def keeps_own(self, segment: Segment, terms: Terms) -> bool:
        """Whether it is a tenant's own version, which stays."""
        return OVERRIDE in segment.plan and self._instead(version_of(segment), terms.plans) is None

    def is_missing(self, plan: str) -> bool:
        """Whether the new catalogue has no such plan, though it is not a tenant's own version of one."""
        return bool(plan) and OVERRIDE not in plan and plan not in self.catalogue.plans


def check_comparable(new: Catalogue, current: Catalogue) -> None:
    """InvalidInput for a catalogue in another currency, and for one with a meter that counts otherwise than the usage
    that is there."""
    if new.currency != current.currency:
        raise InvalidInput(
            "catalogue", f"is in {new.currency}, and the usage was sold in {current.currency}; nothing is converted"
        )
    for name, meter in new.meters.items():
        known = current.meters.get(name, meter)
        if (meter.aggregation, meter.unit) != (known.aggregation, known.unit):
            raise InvalidInput(
                "catalogue",
                f"{name} is a {meter.aggregation} of {meter.unit} there, and its usage was counted as a "
                f"{known.aggregation} of {known.unit}; give the new meter another name",
            )


def check_plans(new: Catalogue, current: Catalogue) -> None:
    """InvalidInput where a plan of both limits a meter in ``current`` that ``new`` does not have."""
    for name, plan in current.plans.items():
        if name in new.plans:
            _check_kept(plan, name, new)


def _check_kept(plan: Plan, label: str, new: Catalogue) -> None:
    for meter in plan.quotas:
        if meter not in new.meters:
            raise InvalidInput(
                "catalogue",
                f"has no meter {meter!r}, which {label} limits; keep it under [meters]: a plan that does not name it "
                "neither limits nor bills it",
            )


def _months_from(start: str, end: str) -> int:
    (first_year, first_month), (last_year, last_month) = parse_period(start), parse_period(end)
    return 12 * (last_year - first_year) + last_month - first_month + 1


def segments_in(tenant: TenantRow, period: str, terms: Terms) -> tuple[Segment, ...]:
    """The plan segments that are in force at some time of a month; the first one covers what lies before it, too."""
    month = terms.month(period)
    return tenant.segments_in(micros(month.start), micros(month.end))


class Compared(NamedTuple):
    """A month's amounts, before tax and credit, and the units that were refused in it, by meter."""

    before: Decimal
    after: Decimal
    with_refused: Decimal
    refused: Mapping[str, int]


def compare(
    before: Terms,
    after: Terms,
    period: str,
    cells: Sequence[Cell],
    *,
    currency: str,
    discounts: Sequence[Discount] = (),
    levels_before: Levels = NO_LEVELS,
) -> Compared:
    """The month under the terms ``before`` and ``after``, and under those with the refused demand that they have room
    for. ``cells`` are those of the month, ``levels_before`` each level (meter, resource) as it begins."""

    def amount(terms: Terms, use: Iterable[Cell]) -> Decimal:
        return draft(
            terms, period, use, currency=currency, discounts=discounts, levels_before=levels_before, taxes=()
        ).subtotal

    now, added = amount(after, cells), let_in(cells, before, after)
    refused: Counter[str] = Counter()
    for cell in cells:
        refused[cell.key.meter] += cell.refused
    return Compared(
        before=amount(before, cells),
        after=now,
        with_refused=amount(after, [*cells, *added]) if added else now,
        refused=+refused,
    )


# -- refused demand ----------------------------------------------------------------------------------------------------


def let_in(cells: Iterable[Cell], before: Terms, after: Terms) -> list[Cell]:
    """What was refused in a month and would fit under the new limits, as cells of more use.

    In order of time, each day's refused units take the room that the blocking limits per day and month leave past what
    was used up to then. What the new limits refuse exactly as the old ones did stays refused, and so do levels. Refused
    units have no resource: they are shared out as the day's use is by resource, or else as the month's.
    """
    by_meter: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if not cell.key.scope:
            by_meter[cell.key.meter].append(cell)
    found: list[Cell] = []
    for own in by_meter.values():
        if any(cell.refused for cell in own):
            found += _of_meter(own, before, after)
    return found


def _of_meter(cells: Sequence[Cell], before: Terms, after: Terms) -> Iterator[Cell]:
    counted: Counter[Window | date] = Counter()
    for (day, since_us), group in groupby(sorted(cells, key=_place), key=_place):
        here = list(group)
        used = sum(cell.total.quantity for cell in here)
        meter, refused = here[0].key.meter, sum(cell.refused for cell in here)
        counted.update({Window.MONTH: used, day: used})
        old, new = before.limits(meter, since_us), after.limits(meter, since_us)
        if not refused or refusing(old) == refusing(new) or any(limit.is_level for limit in (*old, *new)):
            continue
        room = [
            limit.maximum - counted[Window.MONTH if limit.window is Window.MONTH else day]
            for limit in new
            if limit.blocks and limit.maximum is not None and not limit.is_rate
        ]
        units = max(0, min((refused, *room)))
        counted.update({Window.MONTH: units, day: units})
        for resource, share in _shares(units, here, cells):
            key = here[0].key._replace(resource=resource)
            yield Cell(key, CellSum(quantity=share), 0)


def _place(cell: Cell) -> tuple[date, int]:
    return cell.key.day, cell.key.since_us


def refusing(limits: Iterable[Limit]) -> list[Limit]:
    """Those of the limits that can refuse. A cap comes with the price at which it is spent; no other price matters."""
    return [limit for limit in limits if limit.blocks or limit.cap is not None]


def _shares(units: int, day: Iterable[Cell], month: Iterable[Cell]) -> Iterator[tuple[str, int]]:
    """Whole shares that add up to the units."""
    weights = _by_resource(day) or _by_resource(month) or {"": 1}
    whole, passed, given = sum(weights.values()), 0, 0
    for resource, weight in sorted(weights.items()):
        passed += weight
        share = units * passed // whole - given
        given += share
        if share:
            yield resource, share


def _by_resource(cells: Iterable[Cell]) -> Counter[str]:
    used: Counter[str] = Counter()
    for cell in cells:
        used[cell.key.resource] += cell.total.quantity
    return +used
