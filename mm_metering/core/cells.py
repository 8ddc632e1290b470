"""Cells: one tenant-day-meter fold of facts, split where the plan changes. Pure sums, so any order gives the same.

Every fact moves the cell of its event type (its meter is "*" plus the type, for what was used and what it cost) and
one cell for each meter it counts in. Levels are different: their sets are ordered by (occurred_us, id) and turned
into changes first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from mm_metering.core.digest import MASK, hash_of
from mm_metering.core.facts import Fact, encode
from mm_metering.core.periods import FIRST_US, day_span, from_micros, local_day, micros, zone

LEVEL_KINDS: Final = frozenset({"set", "add"})

MAX_LEVEL: Final = 2**40
"""The most a level may be, so that level x seconds of a month stays below 2**63."""


class Segment(NamedTuple):
    """A plan version and the subscription's state from ``starts_us`` until the next segment. The first one also covers
    what lies before."""

    starts_us: int
    plan: str
    version: int
    status: str = "active"


class CellKey(NamedTuple):
    """``since_us`` is the start of the plan segment (0 where the tenant has none yet)."""

    tenant: str
    day: date
    since_us: int
    meter: str
    resource: str
    scope: str


@dataclass(slots=True)
class CellSum:
    """quantity: units, or nano-units for a money meter, or the day's change of a level. weighted: change x seconds
    left in the day (levels). count: facts. facts and digest: those whose first cell this is, as a ``Digest``."""

    quantity: int = 0
    cost_nanos: int = 0
    weighted: int = 0
    count: int = 0
    facts: int = 0
    digest: int = 0

    def add(self, other: CellSum, sign: int = 1) -> None:
        self.quantity += sign * other.quantity
        self.cost_nanos += sign * other.cost_nanos
        self.weighted += sign * other.weighted
        self.count += sign * other.count
        self.hold(sign * other.facts, sign * other.digest)

    def hold(self, facts: int, digest: int) -> None:
        self.facts += facts
        self.digest = (self.digest + digest) & MASK


class Cell(NamedTuple):
    """A stored cell; ``revision`` counts how often it changed. ``refused`` is what was asked and not allowed: a
    statistic, in cells of their own resource "" and scope ""."""

    key: CellKey
    total: CellSum
    revision: int
    refused: int = 0


def merge(cells: dict[CellKey, CellSum], more: Mapping[CellKey, CellSum], sign: int = 1) -> None:
    """Adds to each cell, or takes out again with ``sign`` -1."""
    for key, change in more.items():
        cells.setdefault(key, CellSum()).add(change, sign)


class Calendar:
    """Where a tenant's facts belong: its zone's days and its plan segments. It remembers the last day that it found."""

    def __init__(self, timezone: str, segments: Sequence[Segment]) -> None:
        self.zone: tzinfo = zone(timezone)
        self.segments: tuple[Segment, ...] = tuple(segments)
        self._starts = [segment.starts_us for segment in segments]
        self._day: tuple[int, int, date] = (0, 0, date(1970, 1, 1))

    def day(self, occurred_us: int) -> date:
        """The tenant's local day."""
        return self._around(occurred_us)[2]

    def place(self, occurred_us: int) -> tuple[date, int]:
        """The tenant's local day, and the start of the segment in force."""
        start, end, day = self._day
        if not start <= occurred_us < end:
            day = self._around(occurred_us)[2]
        return day, self._starts[0] if len(self._starts) == 1 else self.since(occurred_us)

    def seconds_left(self, occurred_us: int) -> int:
        """Whole seconds from the instant to the end of its day."""
        return (self._around(occurred_us)[1] - occurred_us) // 1_000_000

    def since(self, occurred_us: int) -> int:
        """The start of the segment in force; the instant of a change belongs to the new plan."""
        if not self._starts:
            return 0
        return self._starts[max(0, bisect_right(self._starts, occurred_us) - 1)]

    def first_whole_day(self, since_us: int) -> date:
        """The first local day that begins at that instant or later."""
        return date.min if since_us == FIRST_US else self.day(since_us - 1) + timedelta(days=1)

    def _around(self, occurred_us: int) -> tuple[int, int, date]:
        around = self._day
        if not around[0] <= occurred_us < around[1]:
            around = self._day = _day_around(local_day(from_micros(occurred_us), self.zone), self.zone)
        return around


@lru_cache(maxsize=4096)
def _day_around(day: date, of: tzinfo) -> tuple[int, int, date]:
    """A local day with its start and its end."""
    start, end = day_span(day, of)
    return micros(start), micros(end), day


@lru_cache(maxsize=16_384)
def calendar_of(timezone: str, segments: tuple[Segment, ...]) -> Calendar:
    """The same object for the same arguments, so that its day need not be found again with each batch."""
    return Calendar(timezone, segments)


def event_meter(event_type: str) -> str:
    """The name under which a fact's event type is summed; no catalogue meter can have it."""
    return "*" + event_type


def add(cells: dict[CellKey, CellSum], fact: Fact, calendar: Calendar, sign: int = 1) -> None:
    """Adds a counted fact (use or close) to its cells, or takes it out again with ``sign`` -1."""
    add_all(cells, (fact,), lambda _: calendar, sign)


def add_all(
    cells: dict[CellKey, CellSum], facts: Iterable[Fact], calendar_of: Callable[[str], Calendar], sign: int = 1
) -> None:
    """The same for many. Those of one kind that belong to the same cells are added up first: ``counts`` that are equal
    are mostly one and the same object."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    owner, place = "", None
    for fact in facts:
        _, occurred_us, _, tenant, event_type, resource, quantity, cost_nanos, counts, success, _, _ = fact
        if tenant != owner or place is None:
            owner, place = tenant, calendar_of(tenant).place
        key = (tenant, *place(occurred_us), event_type, resource, quantity, success, counts)
        sums = groups.get(key)
        if sums is None:
            sums = groups[key] = [0, 0, 0]
        sums[0] += sign
        sums[1] += cost_nanos or 0
        sums[2] += hash_of(encode(fact))
    for key, (number, cost, digest) in groups.items():
        _add_group(cells, key, number, sign * cost, sign * digest)


def _add_group(cells: dict[CellKey, CellSum], key: tuple[Any, ...], number: int, cost: int, digest: int) -> None:
    tenant, day, since, event_type, resource, quantity, success, counts = key
    if event_type:
        counts = ((event_meter(event_type), "", quantity if success else 0), *counts)
    for order, (meter, scope, amount) in enumerate(counts):
        cell_key = _new_key((tenant, day, since, meter, resource, scope))
        cell = cells.get(cell_key)
        if cell is None:
            cell = cells[cell_key] = CellSum()
        cell.quantity += number * amount
        cell.cost_nanos += cost
        cell.count += number
        if not order:
            cell.hold(number, digest)


_new_key: Final = partial(tuple.__new__, CellKey)
"""Its own constructor is a Python function, and each fact needs some."""


def moves_a_cell(fact: Fact) -> bool:
    """Whether the fact is in its tenant's ``Digest``: what is held, and what counts nowhere, is not."""
    return fact.kind not in ("hold", "void") and bool(fact.event_type or fact.counts)


class LevelEnd(NamedTuple):
    """A level after its facts: its value and the stamp of its last change (twice the instant, plus 1 for a set)."""

    value: int
    stamp: int


NO_LEVEL: Final = LevelEnd(0, -1)


def level_meters(fact: Fact) -> tuple[str, ...]:
    """The meters whose level a set or add fact moves: its event type's own, if it has one, and those it counts in."""
    own = (event_meter(fact.event_type),) if fact.event_type else ()
    return (*own, *dict.fromkeys(count.meter for count in fact.counts))


def fold_level(
    cells: dict[CellKey, CellSum], meter: str, facts: Iterable[Fact], calendar: Calendar, start: LevelEnd = NO_LEVEL
) -> LevelEnd:
    """Folds one (meter, resource)'s set and add facts into its cells, in order of (occurred_us, id).

    ``start`` is the level before the first of them. A level never falls below 0.
    """
    value, stamp = start
    for fact in sorted(facts, key=lambda fact: (fact.occurred_us, fact.id)):
        after = max(0, fact.quantity if fact.kind == "set" else value + fact.quantity)
        day, since = calendar.day(fact.occurred_us), calendar.since(fact.occurred_us)
        cell = cells.setdefault(CellKey(fact.tenant, day, since, meter, fact.resource, ""), CellSum())
        cell.quantity += after - value
        cell.weighted += (after - value) * calendar.seconds_left(fact.occurred_us)
        cell.count += 1
        if meter == level_meters(fact)[0]:
            cell.hold(1, hash_of(encode(fact)))
        value, stamp = after, max(stamp, 2 * fact.occurred_us + (fact.kind == "set"))
    return LevelEnd(value, stamp)


def fold_all(
    cells: dict[CellKey, CellSum], facts: Iterable[Fact], calendar: Calendar, ends: dict[tuple[str, str], LevelEnd]
) -> None:
    """Folds counted facts of every kind, in order of (occurred_us, id). ``ends`` has each level, by (meter, resource),
    as it was before them, and afterwards as it is."""
    for fact in facts:
        if fact.kind in LEVEL_KINDS:
            for meter in level_meters(fact):
                level = (meter, fact.resource)
                ends[level] = fold_level(cells, meter, [fact], calendar, ends.get(level, NO_LEVEL))
        elif fact.kind != "hold":
            add(cells, fact, calendar)
