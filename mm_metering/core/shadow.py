"""A shadow plan: what the limits of another catalogue would have decided about the requests that were let in.

A ``Replay`` counts a tenant's usage twice, by the one rule (``limits``): under the plans in force, as it happened, and
under those of the other catalogue, as it would have happened. A request is taken whole or not at all. What the plans in
force would not have let in was stated and not asked (``record``, an outage): it counts under both.

Where a stretch of time fits as a whole, sums are enough; facts are for those that do not. What was refused has no
instant: it takes the room that its stretch leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, Protocol, TypeAlias

from mm_metering.core.catalogue import Limit
from mm_metering.core.cells import LEVEL_KINDS
from mm_metering.core.facts import Fact
from mm_metering.core.limits import UNBOUNDED, Line, Slot, State, decide, over_cost
from mm_metering.core.periods import Window
from mm_metering.core.whatif import refusing

Needs: TypeAlias = Mapping[str, int]
"""By meter: units, or nano-units of money."""


class Bound(Protocol):
    """A limit, and its slot in the window that holds some instant."""

    @property
    def limit(self) -> Limit: ...
    @property
    def slot(self) -> Slot: ...


Limits: TypeAlias = Callable[[str, int], Sequence[Bound]]
"""A meter's limits in force at an instant, from the shortest window to the longest."""


class Ask(NamedTuple):
    """What one request took, all or nothing."""

    at_us: int
    needs: Needs


class Stretch(NamedTuple):
    """A local day under one plan, [start, end): what was used and refused in it, by meter, and how many facts at most
    that was. ``asks`` is False where the subscription's state refuses every request."""

    start_us: int
    end_us: int
    used: Needs
    refused: Needs
    facts: int
    asks: bool = True


def request_of(fact: Fact) -> tuple[int, str]:
    """Equal for the facts of one request: the id of the first, to which the others have a suffix."""
    return fact.occurred_us, fact.id.partition(".")[0]


def asks_of(facts: Iterable[Fact]) -> Iterator[Ask]:
    """The requests that facts in order of (occurred_us, id) come from. Levels are left out."""
    counted = (fact for fact in facts if fact.kind not in LEVEL_KINDS)
    for (at_us, _), group in groupby(counted, key=request_of):
        needs: Counter[str] = Counter()
        for fact in group:
            for meter, scope, amount in fact.counts:
                if not scope:
                    needs[meter] += amount
        if needs:
            yield Ask(at_us, needs)


class Counts:
    """A tenant's counters under one catalogue, as they pass through time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._used: Counter[str] = Counter()
        self._rates: dict[str, tuple[int, int]] = {}

    def refusing(self, ask: Ask, *, rates: bool) -> list[Limit]:
        """The limits that refuse the request, one per meter: that of the shortest window. None if all of it fits."""
        lines = list(self._lines(ask, rates=rates))
        states = [self._state(line.slot, ask.at_us) for _, line in lines]
        if decide([[line for _, line in lines]], [states]).chosen == 0:
            return []
        alone = [limit for (limit, line), state in zip(lines, states, strict=True) if _is_refused(line, state)]
        alone = alone or [limit for limit, line in lines if line.slot.price]  # several meters fill one cap together
        return [*{limit.meter: limit for limit in reversed(alone)}.values()]

    def add(self, ask: Ask, *, rates: bool) -> None:
        """Counts the request, whether it fits or not."""
        for _, line in self._lines(ask, rates=rates):
            slot, state = line.slot, self._state(line.slot, ask.at_us)
            if slot.rate_s:
                self._rates[slot.field] = (state.extra, state.used + line.need)
                continue
            if slot.price:
                self._used[slot.cap_field] += over_cost(slot, state.used, line.need)
            self._used[slot.field] += line.need

    def room(self, meter: str, at_us: int) -> tuple[int | None, Limit | None]:
        """How many units more fit, and the limit that refuses the next one; None for ever more. Rates are left out."""
        rooms = [(room, bound.limit) for bound in self._bounds(meter, at_us) if (room := self._left(bound)) is not None]
        return min(rooms, key=lambda each: each[0], default=(None, None))

    def _left(self, bound: Bound) -> int | None:
        slot, state = bound.slot, self._state(bound.slot, 0)
        if slot.maximum != UNBOUNDED:
            return max(0, slot.maximum - state.used)
        if slot.price:
            return max(0, slot.free - state.used) + max(0, slot.cap - state.extra) // slot.price
        return None

    def _bounds(self, meter: str, at_us: int, *, rates: bool = False) -> Iterator[Bound]:
        return (
            bound
            for bound in self.limits(meter, at_us)
            if not bound.limit.is_level and (rates or not bound.limit.is_rate)
        )

    def _lines(self, ask: Ask, *, rates: bool) -> Iterator[tuple[Limit, Line]]:
        for meter, need in ask.needs.items():
            for bound in self._bounds(meter, ask.at_us, rates=rates):
                yield bound.limit, Line(bound.slot, need, need)

    def _state(self, slot: Slot, at_us: int) -> State:
        if slot.rate_s:
            own = at_us // 1_000_000 // slot.rate_s * slot.rate_s
            start, count = self._rates.get(slot.field, (0, 0))
            return State(count, 0, start) if start >= own else State(0, 0, own)
        return State(self._used[slot.field], 0, self._used[slot.cap_field] if slot.price else 0)


def _is_refused(line: Line, state: State) -> bool:
    return decide([[line]], [[state]]).chosen < 0


@dataclass(slots=True)
class Hit:
    """What a limit would have refused: in the windows of ``month``, in that which is open (of a rate: on the running
    day), and the first instant of these; None where only sums are known."""

    month: int = 0
    window: int = 0
    since_us: int | None = None


@dataclass
class Replay:
    """One tenant's running month, stretch by stretch in order of time. ``today_us``: when its local day began, from
    which on rates are looked at, too. ``hits`` by (meter, window); ``refused`` and ``allowed`` by meter: units let in
    that would have been refused, and the other way round, ``allowed_today`` of them on the running day."""

    now: Counts
    then: Counts
    today_us: int
    hits: dict[tuple[str, Window], Hit] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    allowed: Counter[str] = field(default_factory=Counter)
    allowed_today: Counter[str] = field(default_factory=Counter)

    def needs_facts(self, stretch: Stretch) -> bool:
        """Whether sums do not tell what would have been refused."""
        if not stretch.asks:
            return False
        whole = Ask(stretch.start_us, stretch.used)
        return bool(self.then.refusing(whole, rates=False)) or (self._is_today(whole) and self._has_new_rates(whole))

    def _has_new_rates(self, whole: Ask) -> bool:
        return any(
            [bound.limit for bound in self.now.limits(meter, whole.at_us) if bound.limit.is_rate] != rates
            for meter in whole.needs
            if (rates := [bound.limit for bound in self.then.limits(meter, whole.at_us) if bound.limit.is_rate])
        )

    def _is_today(self, ask: Ask) -> bool:
        return ask.at_us >= self.today_us

    def add(self, ask: Ask) -> None:
        """Decides one request."""
        rates = self._is_today(ask)
        was_stated = min(ask.needs.values()) < 0 or bool(self.now.refusing(ask, rates=rates))
        against = [] if was_stated else self.then.refusing(ask, rates=rates)
        self.now.add(ask, rates=rates)
        if not against:
            self.then.add(ask, rates=rates)
        for limit in against:
            self._note(limit, ask.needs[limit.meter], ask.at_us, is_exact=True)

    def add_sums(self, stretch: Stretch) -> None:
        """The same for a whole stretch by its sums: unit by unit, each meter by itself. Rates are not looked at."""
        for meter, units in stretch.used.items():
            limit, refused = self._past(stretch, meter, units)
            if limit is not None and refused:
                self._note(limit, refused, stretch.start_us, is_exact=False)
            self.now.add(Ask(stretch.start_us, {meter: units}), rates=False)
            self.then.add(Ask(stretch.start_us, {meter: units - refused}), rates=False)

    def _past(self, stretch: Stretch, meter: str, units: int) -> tuple[Limit | None, int]:
        """The limit and how many units it would have refused; not what the plans in force would not have let in."""
        (now, _), (then, limit) = (each.room(meter, stretch.start_us) for each in (self.now, self.then))
        if then is None or not stretch.asks:
            return None, 0
        asked = units if now is None else min(units, now)
        return limit, max(0, asked - then)

    def end(self, stretch: Stretch) -> None:
        """Lets what was refused in the stretch into the room that is left. What both refuse by the same limits stays
        refused; what a rate refused is in there, too, so this is the most."""
        for meter, units in stretch.refused.items():
            old, new = (
                [bound.limit for bound in each.limits(meter, stretch.start_us)] for each in (self.now, self.then)
            )
            if not stretch.asks or refusing(old) == refusing(new) or any(limit.is_level for limit in (*old, *new)):
                continue
            room, _ = self.then.room(meter, stretch.start_us)
            let_in = units if room is None else min(units, room)
            self.then.add(Ask(stretch.start_us, {meter: let_in}), rates=False)
            self.allowed[meter] += let_in
            if stretch.start_us >= self.today_us:
                self.allowed_today[meter] += let_in

    def _note(self, limit: Limit, units: int, at_us: int, *, is_exact: bool) -> None:
        hit = self.hits.setdefault((limit.meter, limit.window), Hit())
        self.refused[limit.meter] += units
        hit.month += units
        if limit.window is Window.MONTH or at_us >= self.today_us:
            hit.since_us = hit.since_us if hit.window or not is_exact else at_us
            hit.window += units


def level_past(value: int, now: Bound | None, then: Bound | None) -> int:
    """How much of a level would not have been let in: what stands past the other limit, but for what stands past the
    limit in force, which was stated and not asked."""
    most, limit = most_of(now), most_of(then)
    asked = value if most is None else min(value, most)
    return 0 if limit is None else max(0, asked - limit)


def level_let_in(value: int, refused: int, now: Bound | None, then: Bound | None) -> int:
    """How much of what was refused the other limit of a level has room for."""
    limit = most_of(then)
    if limit == most_of(now):
        return 0
    return refused if limit is None else min(refused, max(0, limit - value))


def most_of(bound: Bound | None) -> int | None:
    """The most that a limit lets in; None where no number refuses."""
    return None if bound is None or bound.slot.maximum == UNBOUNDED else bound.slot.maximum
