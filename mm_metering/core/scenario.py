"""Scenarios: tenants, what they use each day and what becomes of their subscriptions, in months that never were.

The same scenario gives the same units on every machine. ``scenario_file`` reads and writes it; ``testing.scenario``
runs it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any, Final, TypeAlias

from mm_metering.core.money import EXACT
from mm_metering.core.periods import day_start, days_between, days_of, later_period, zone

EVENTS: Final = ("pause", "resume", "cancel")
MAX_MONTHS: Final = 36
MAX_TENANTS: Final = 10_000
MOST_A_DAY: Final = 1_000_000_000
"""Units of one meter."""
FRIDAY: Final = 5
NOON: Final = timedelta(hours=12)
_PARTS: Final = 1_000_000
"""How finely ``spread`` is drawn."""

Moment: TypeAlias = date | datetime
"""A local day, whose noon is meant, or an instant in UTC."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant uses of a meter, on every day or at the moments ``on``.

    mean      units a day; of a level, its value
    spread    0 to 1: a day's units lie evenly between mean x (1 - spread) and mean x (1 + spread)
    growth    how much more each month is than the one before; 0.1 is a tenth, -0.1 a tenth less
    weekend   what Saturdays and Sundays are multiplied by
    """

    meter: str
    mean: int
    resource: str | None = None
    spread: Decimal = Decimal(0)
    growth: Decimal = Decimal(0)
    weekend: Decimal = Decimal(1)
    on: tuple[Moment, ...] = ()
    is_level: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """At an instant: another plan, or zone, one of EVENTS, or so many of an add-on; exactly one of them. A plan may
    hold ``since`` an earlier instant."""

    at: datetime
    plan: str | None = None
    event: str | None = None
    timezone: str | None = None
    since: datetime | None = None
    addon: str | None = None
    quantity: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` tenants who do the same: "acme", or "acme-1", "acme-2" and so on."""

    name: str
    plan: str
    timezone: str
    count: int = 1
    subscribed_at: datetime | None = None
    trial_days: int = 0
    anchor: str | int = "calendar"
    usage: tuple[Usage, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def tenants(self) -> list[str]:
        return [self.name] if self.count == 1 else [f"{self.name}-{number + 1}" for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``catalogue``: "seed", "starter", the path of a plans file, or a plans file's tables. ``expect``: totals before
    tax by month and group."""

    catalogue: str | Mapping[str, Any]
    start: date
    months: int
    groups: tuple[Group, ...]
    seed: int = 1
    expect: tuple[tuple[str, str, Decimal], ...] = ()

    @property
    def periods(self) -> list[str]:
        return [later_period(f"{self.start:%Y-%m}", number) for number in range(self.months)]

    def ends(self, group: Group) -> datetime:
        """When the last month is over for a group's tenants, as months of the calendar are."""
        return day_start(days_of(self.periods[-1])[1] + timedelta(days=1), zone(group.timezone))

    def begins(self, group: Group) -> datetime:
        """When a group's tenants sign up."""
        return group.subscribed_at or day_start(self.start, zone(group.timezone))

    def uses(self, group: Group, tenant: str) -> Iterator[tuple[datetime, Usage, int]]:
        """What a tenant uses, and when: instants in UTC, and units."""
        tz, last = zone(group.timezone), days_of(self.periods[-1])[1]
        for usage in group.usage:
            moments: Sequence[Moment] = usage.on or [*days_between(self.start, last)]
            for moment in moments:
                is_instant = isinstance(moment, datetime)
                at = moment if isinstance(moment, datetime) else day_start(moment, tz) + NOON
                units = usage.mean if is_instant else self._units(usage, tenant, moment)
                if at >= self.begins(group) and (units or usage.is_level):
                    yield at, usage, min(units, MOST_A_DAY)

    def _units(self, usage: Usage, tenant: str, day: date) -> int:
        month = 12 * (day.year - self.start.year) + day.month - self.start.month
        with localcontext(EXACT):
            units = usage.mean * (1 + usage.growth) ** month
            if day.isoweekday() > FRIDAY:
                units *= usage.weekend
            if usage.spread:
                source = f"{self.seed}/{tenant}/{usage.meter}/{usage.resource}/{day}"
                units += units * usage.spread * random.Random(source).randint(-_PARTS, _PARTS) / _PARTS
            return int(units.to_integral_value(ROUND_HALF_UP))
