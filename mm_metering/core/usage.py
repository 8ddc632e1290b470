"""Usage as hosts read it: one tenant's day, and a range of days, folded from the ledger's cells.

Counts of event types come from the cells of the types themselves, so that an export that is also a report counts
once; so does its cost. Levels are their last value. Days are the tenant's local ones.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict

from mm_metering.core.catalogue import Catalogue, Meter
from mm_metering.core.cells import Calendar, Cell, CellSum, event_meter, level_meters
from mm_metering.core.facts import Fact
from mm_metering.core.money import EXACT, Money, from_nanos, to_nanos
from mm_metering.core.periods import day_span, days_between, zone
from mm_metering.errors import InvalidInput

MAX_DAYS: Final = 3_660
"""The most days of one range: ten years."""
STORAGE: Final = event_meter("storage")
_COUNTS: Final = {
    "api_calls": event_meter("api_call"),
    "ai_requests": event_meter("ai_call"),
    "ai_tokens": event_meter("ai_token"),
    "webhook_deliveries": event_meter("webhook_delivery"),
    "exports": event_meter("export"),
}


class LevelUse(BaseModel):
    """A level over some days: as it was at their end, at its highest, and its mean over time."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    last: int
    peak: int
    mean: Decimal


class UsageSnapshot(BaseModel):
    """What a tenant used on one local day. ``total_cost`` is what that cost the host, never what the tenant pays.

    ``meters`` has every meter of the catalogue: units, money for a money meter, the last value of a level.
    ``levels`` says more of its levels. ``refused`` is the units that were asked and not allowed, by meter: a statistic,
    which a process that is killed takes along for the last seconds. ``revision`` rises with each change of the day's
    usage.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    tenant: str
    date: dt.date
    api_calls: int
    ai_requests: int
    ai_tokens: int
    webhook_deliveries: int
    exports: int
    storage_mb: int
    total_cost: Money
    created_at: dt.datetime
    revision: int
    meters: Mapping[str, int | Money]
    levels: Mapping[str, LevelUse]
    refused: Mapping[str, int]


class UsageRange(UsageSnapshot):
    """The days from ``start`` to ``end``, both included, and their sum; ``date`` is ``start``, levels the last's."""

    start: dt.date
    end: dt.date
    days: tuple[UsageSnapshot, ...]


class ResourceUse(BaseModel):
    """What was used of a meter and resource over some days: units or money, in so many facts, at what provider cost."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    meter: str
    resource: str
    quantity: int | Money
    events: int
    cost: Money


def resource_uses(cells: Iterable[Cell], catalogue: Catalogue) -> list[ResourceUse]:
    """By meter in the catalogue's order, the largest first. Levels are left out: they are no sums."""
    sums: dict[tuple[str, str], CellSum] = {}
    for key, total, *_ in cells:
        meter = catalogue.meters.get(key.meter)
        if meter is not None and meter.aggregation == "sum" and not key.scope:
            sums.setdefault((key.meter, key.resource), CellSum()).add(total)
    order = {name: number for number, name in enumerate(catalogue.meters)}
    found = [
        ResourceUse(
            meter=meter,
            resource=resource,
            quantity=from_nanos(each.quantity) if catalogue.meters[meter].unit == "money" else each.quantity,
            events=each.count,
            cost=from_nanos(each.cost_nanos),
        )
        for (meter, resource), each in sums.items()
        if each.count
    ]
    return sorted(found, key=lambda each: (order[each.meter], -each.quantity, each.resource))


def usage(
    tenant: str,
    first: dt.date,
    last: dt.date,
    cells: Iterable[Cell],
    *,
    carried: Mapping[tuple[str, str], int],
    moves: Iterable[Fact] = (),
    catalogue: Catalogue,
    timezone: str,
    now: dt.datetime,
) -> UsageRange:
    """The usage of all local days from first to last. ``carried`` has each level's value, by (meter, resource), at
    the start of the first day; ``moves`` are the facts that changed levels since, in order of (occurred_us, id);
    ``cells`` of other days are ignored."""
    if not 0 <= (last - first).days < MAX_DAYS:
        raise InvalidInput("end", f"{last} must be from {first}, the first day, to {MAX_DAYS - 1:,} days after it")
    days = _days(first, last, cells)
    levels = _Levels(catalogue, timezone)
    levels.start(carried, moves)
    snapshots = [_snapshot(tenant, day, folded, levels, now) for day, folded in days.items()]
    return _summed(tenant, snapshots, catalogue, timezone)


@dataclass(slots=True)
class _Day:
    """The sums of a day's cells: quantity and weighted seconds by meter, cost, and their revisions."""

    quantity: dict[str, int] = field(default_factory=dict)
    weighted: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    cost_nanos: int = 0
    revision: int = 0


def _days(first: dt.date, last: dt.date, cells: Iterable[Cell]) -> dict[dt.date, _Day]:
    days = {day: _Day() for day in days_between(first, last)}
    for key, total, revision, refused in cells:
        day = days.get(key.day)
        if day is None or key.scope:
            continue
        _add(day.quantity, key.meter, total.quantity)
        if total.weighted:
            _add(day.weighted, key.meter, total.weighted)
        if total.cost_nanos and key.meter.startswith("*"):
            day.cost_nanos += total.cost_nanos
        day.revision += revision
        if refused:
            _add(day.refused, key.meter, refused)
    return days


def _add(into: dict[str, int], meter: str, more: int) -> None:
    """A year has a thousand of these: plain dicts are made several times faster than Counters."""
    into[meter] = into.get(meter, 0) + more


@dataclass(slots=True)
class _Levels:
    """Levels as the days pass: ``value`` by meter is as of the last day that was added."""

    catalogue: Catalogue
    timezone: str
    value: Counter[str] = field(default_factory=Counter)
    peaks: dict[tuple[dt.date, str], int] = field(default_factory=dict)
    """The highest total of a meter on a day on which it changed."""
    standing: dict[str, LevelUse] = field(default_factory=dict)
    """The use of each meter on the last day on which it did not change."""
    meters: tuple[Meter, ...] = ()

    def __post_init__(self) -> None:
        self.meters = tuple(meter for meter in self.catalogue.meters.values() if meter.aggregation == "level")

    def start(self, carried: Mapping[tuple[str, str], int], moves: Iterable[Fact]) -> None:
        """Takes the values before the first day, by (meter, resource), and finds the peaks from there."""
        calendar, value = Calendar(self.timezone, ()), Counter(carried)
        for (meter, _), units in value.items():
            self.value[meter] += units
        totals = Counter(self.value)
        for fact in moves:
            day = calendar.day(fact.occurred_us)
            for meter in level_meters(fact):
                level = (meter, fact.resource)
                after = max(0, fact.quantity if fact.kind == "set" else value[level] + fact.quantity)
                totals[meter] += after - value[level]
                value[level] = after
                self.peaks[day, meter] = max(self.peaks.get((day, meter), 0), totals[meter])

    def add(self, folded: _Day) -> None:
        for name in (*(meter.name for meter in self.meters), STORAGE):
            if change := folded.quantity.get(name):
                self.value[name] += change

    def cost_nanos(self, day: dt.date, folded: _Day) -> int:
        """The time-weighted mean of each level with a cost, before the day is added, times that cost."""
        costly = [meter for meter in self.meters if meter.cost]
        seconds = self._seconds(day) if costly else 0
        return sum(self._mean_cost(meter, folded, seconds) for meter in costly) if seconds else 0

    def use(self, day: dt.date, folded: _Day) -> dict[str, LevelUse]:
        """The day of each level meter, before the day is added."""
        return {meter.name: self._use(meter.name, day, folded) for meter in self.meters}

    def _use(self, meter: str, day: dt.date, folded: _Day) -> LevelUse:
        before = self.value[meter]
        if meter not in folded.quantity and (day, meter) not in self.peaks:
            return self._stood(meter, before)
        seconds = self._seconds(day)
        last = before + folded.quantity.get(meter, 0)
        weighted = before * seconds + folded.weighted.get(meter, 0)
        return LevelUse(
            last=last,
            peak=max(before, last, self.peaks.get((day, meter), 0)),
            mean=Decimal(weighted) / seconds if seconds else Decimal(before),
        )

    def _stood(self, meter: str, value: int) -> LevelUse:
        use = self.standing.get(meter)
        if use is None or use.last != value:
            use = self.standing[meter] = LevelUse(last=value, peak=value, mean=Decimal(value))
        return use

    def _seconds(self, day: dt.date) -> int:
        return day_span(day, zone(self.timezone)).seconds

    def _mean_cost(self, meter: Meter, folded: _Day, seconds: int) -> int:
        weighted = self.value[meter.name] * seconds + folded.weighted.get(meter.name, 0)
        with localcontext(EXACT):
            return to_nanos((meter.cost or Decimal(0)) * weighted / seconds)


def _snapshot(tenant: str, day: dt.date, folded: _Day, levels: _Levels, now: dt.datetime) -> UsageSnapshot:
    cost_nanos, use = folded.cost_nanos + levels.cost_nanos(day, folded), levels.use(day, folded)
    levels.add(folded)
    return UsageSnapshot(
        id=f"{tenant}/{day}",
        tenant=tenant,
        date=day,
        storage_mb=levels.value[STORAGE],
        total_cost=from_nanos(cost_nanos),
        created_at=now,
        revision=folded.revision,
        meters={meter.name: _quantity(meter, folded, levels) for meter in levels.catalogue.meters.values()},
        levels=use,
        refused=folded.refused,
        **{name: folded.quantity.get(meter, 0) for name, meter in _COUNTS.items()},
    )


def _quantity(meter: Meter, folded: _Day, levels: _Levels) -> int | Decimal:
    if meter.aggregation == "level":
        return levels.value[meter.name]
    units = folded.quantity.get(meter.name, 0)
    return from_nanos(units) if meter.unit == "money" else units


def _summed(tenant: str, days: Sequence[UsageSnapshot], catalogue: Catalogue, timezone: str) -> UsageRange:
    first, last = days[0], days[-1]
    with localcontext(EXACT):
        return UsageRange(
            id=f"{tenant}/{first.date}/{last.date}",
            tenant=tenant,
            date=first.date,
            start=first.date,
            end=last.date,
            days=tuple(days),
            storage_mb=last.storage_mb,
            total_cost=sum((day.total_cost for day in days), Decimal("0.00")),
            created_at=last.created_at,
            revision=sum(day.revision for day in days),
            meters={meter.name: _over_days(meter, days) for meter in catalogue.meters.values()},
            levels={name: _level_over_days(name, days, timezone) for name in last.levels},
            refused=_refused_over_days(days),
            **{name: sum(getattr(day, name) for day in days) for name in _COUNTS},
        )


def _refused_over_days(days: Iterable[UsageSnapshot]) -> dict[str, int]:
    refused: dict[str, int] = {}
    for day in days:
        for meter, units in day.refused.items():
            _add(refused, meter, units)
    return refused


def _level_over_days(meter: str, days: Sequence[UsageSnapshot], timezone: str) -> LevelUse:
    uses = [day.levels[meter] for day in days]
    mean = uses[-1].mean
    if any(use is not uses[0] for use in uses):
        seconds = [day_span(day.date, zone(timezone)).seconds for day in days]
        weighted = sum((use.mean * each for use, each in zip(uses, seconds, strict=True)), Decimal(0))
        mean = weighted / sum(seconds) if any(seconds) else mean
    return LevelUse(last=uses[-1].last, peak=max(use.peak for use in uses), mean=mean)


def _over_days(meter: Meter, days: Sequence[UsageSnapshot]) -> int | Decimal:
    if meter.aggregation == "level":
        return days[-1].meters[meter.name]
    zero = Decimal("0.00") if meter.unit == "money" else 0
    return sum((day.meters[meter.name] for day in days), zero)
