"""A plan's limits as slots of the windows that are open now, in one time zone: shared by all tenants there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Final, NamedTuple

from mm_metering.core.catalogue import AI_COST_METER, AiPolicy, AlertRules, Catalogue, Limit, Meter, Plan
from mm_metering.core.facts import Count, Fact, quoted, rest
from mm_metering.core.identity import resource_name
from mm_metering.core.limits import UNBOUNDED, Line, Slot, window_start
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import Span, Window, from_micros, micros, window_span
from mm_metering.gate.admission import Candidate, Policy, Share, Wish
from mm_metering.gate.observed import NOWHERE, Observed, Tallied

MAX_PREPARED: Final = 1024
MAX_GAUGES: Final = 4096
"""Meters and scopes whose gauges are kept; users and runs come without end."""
RUN: Final = "run:"
FOREVER_US: Final = 2**62


class Gauge(NamedTuple):
    """A limit in the window that holds some instant: its slot, and when the window ends. ``policy`` is what an answer
    says of a count that has a limit and a window; None for levels, money and what is unlimited."""

    limit: Limit
    slot: Slot
    starts_us: int
    ends_us: int
    ends_at: datetime | None
    policy: Policy | None
    scope: str = ""

    @property
    def window_s(self) -> int:
        """How long the window is; 0 for none."""
        if self.ends_at is None:
            return 0
        return self.slot.rate_s or (self.ends_us - self.starts_us) // 1_000_000


class Shown(NamedTuple):
    """A line whose limit an answer tells of: its number among the lines, and what is known beforehand."""

    order: int
    policy: Policy
    slot: Slot
    ends_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A set of wishes against a plan, right from ``starts_us`` until ``ends_us``: all but tenant, ids and the instant.

    ``forms`` are the kinds and the rests of the facts' lines; ``shown`` are the lines that an answer tells of,
    ``charged`` those of them past whose limit usage is charged; ``tallied`` is where it counts for whoever watches.
    Compared by identity, like a Policy.
    """

    alternatives: tuple[tuple[Line, ...], ...]
    gauges: tuple[Gauge | None, ...]
    facts: tuple[Fact, ...]
    forms: tuple[tuple[str, str], ...]
    shown: tuple[Shown, ...]
    charged: tuple[tuple[int, Policy], ...]
    tallied: Tallied
    level: str
    allowed_in_outage: bool
    starts_us: int
    ends_us: int

    @property
    def lines(self) -> tuple[Line, ...]:
        return self.alternatives[0]

    def amounts(self) -> Iterable[tuple[str, int]]:
        """What is asked for, by meter: units, or nano-units of money."""
        amounts = Counter[str]()
        for fact in self.facts:
            for meter, _, amount in fact.counts:
                amounts[meter] += amount
        return amounts.items()


class PlanWindows:
    """A plan's limits in one time zone. Without a plan nothing is limited."""

    def __init__(
        self,
        plan: Plan | None,
        zone: tzinfo,
        catalogue: Catalogue,
        anchor: int = 1,
        *,
        observed: Observed | None = None,
    ) -> None:
        self.plan: str = plan.name if plan else ""
        self.ai: AiPolicy = (plan.ai if plan else None) or AiPolicy()
        self.alerts: AlertRules = (plan.alerts if plan else None) or catalogue.alerts
        self.zone = zone
        self._anchor = anchor
        self._observed = observed
        self.catalogue = catalogue
        self._limits = plan.limits if plan else {}
        self._gauges: dict[tuple[str, str], tuple[Gauge, ...]] = {}
        self._prepared: dict[tuple[Wish, ...], Prepared] = {}
        self._by_identity: dict[int, tuple[tuple[Wish, ...], Prepared]] = {}

    @property
    def limited_meters(self) -> Iterable[str]:
        return self._limits.keys()

    def gauges(self, meter: str, at_us: int, scope: str = "") -> tuple[Gauge, ...]:
        """The meter's limits in the windows that hold ``at_us``; none where the plan has no limit. With a ``scope``,
        those of that part of it: a run's cost of a month is counted also where it has none."""
        key = (meter, scope)
        known = self._gauges.get(key, ())
        if known and all(gauge.starts_us <= at_us < gauge.ends_us for gauge in known):
            return known
        found = tuple(self._gauge(limit, at_us, scope) for limit in self._limits_of(meter, scope))
        if not known or at_us >= known[0].starts_us:  # the past is asked for now and then, the present all the time
            if scope and len(self._gauges) >= MAX_GAUGES:
                self._gauges.clear()
            self._gauges[key] = found
        return found

    def _limits_of(self, meter: str, scope: str) -> tuple[Limit, ...]:
        if not scope:
            return self._limits.get(meter, ())
        if meter != AI_COST_METER:
            return ()
        found = self.ai.limits_of(scope)
        is_counted = scope.startswith(RUN) and all(each.window is not Window.MONTH for each in found)
        return (*found, Limit(meter, Window.MONTH, None, unit="money")) if is_counted else found

    def _gauge(self, limit: Limit, at_us: int, scope: str) -> Gauge:
        moment = from_micros(at_us)
        span = window_span(limit.window, moment, self.zone, self._anchor)
        cap = self._cap(limit, window_span(Window.MONTH, moment, self.zone, self._anchor))
        maximum = UNBOUNDED if limit.maximum is None or not limit.blocks else limit.maximum
        free = limit.maximum or 0
        name = field(f"{limit.meter}/{scope}" if scope else limit.meter, limit.window, span)
        slot = Slot(name, limit.meter, maximum, free, cap[2], cap[0], cap[1])
        slot = slot._replace(rate_s=limit.window.seconds)
        ends_at = None if limit.window is Window.NONE else span.end
        gauge = Gauge(limit, slot, micros(span.start), micros(span.end), ends_at, None, scope)
        if ends_at is None or limit.maximum is None or limit.unit == "money":
            return gauge
        return gauge._replace(policy=Policy(limit.meter, limit.window.value, limit.maximum, gauge.window_s))

    @staticmethod
    def _cap(limit: Limit, month: Span) -> tuple[str, int, int]:
        price = limit.unit_price
        if limit.cap is None or not isinstance(price, Decimal):  # the catalogue refuses a cap without one price
            return "", 0, 0
        return field(f"{limit.meter}$", Window.MONTH, month), to_nanos(limit.cap), to_nanos(price)

    # -- from wishes to lines -----------------------------------------------------------------------------------------

    def prepare(self, wishes: tuple[Wish, ...], now_us: int) -> Prepared:
        """Remembered per set of wishes until one of its windows ends.

        A route asks with the same tuple each time: it is looked for by identity first, since hashing it costs more.
        The tuple is kept with what was found, so that its identity is not given to another.
        """
        known = self._by_identity.get(id(wishes))
        if known is not None and known[1].starts_us <= now_us < known[1].ends_us:
            return known[1]
        found = self._prepared.get(wishes)
        if found is None or not found.starts_us <= now_us < found.ends_us:
            found = self._prepared[wishes] = self._prepare(wishes, now_us)
        if len(self._by_identity) >= MAX_PREPARED:
            self._by_identity.clear()
            self._prepared.clear()
        self._by_identity[id(wishes)] = (wishes, found)
        return found

    def _prepare(self, wishes: tuple[Wish, ...], now_us: int) -> Prepared:
        facts, lines, level = [], dict[str, tuple[Line, Gauge | None]](), ""
        for wish in wishes:
            meters = counted_meters(self.catalogue, wish)
            fact = new_fact("", wish, meters)
            facts.append(fact)
            for meter, count in zip(meters, fact.counts, strict=True):
                for line, gauge in self._lines(meter, fact.resource, count.amount, now_us):
                    need = line.need + (lines[line.slot.field][0].need if line.slot.field in lines else 0)
                    lines[line.slot.field] = (Line(line.slot, need, need), gauge)
                if meter.aggregation == "level" and self.gauges(meter.name, now_us):
                    level = stamp_field(meter.name, fact.resource)
        gauges = tuple(gauge for _, gauge in lines.values())
        spans = [(gauge.starts_us, gauge.ends_us) for gauge in gauges if gauge and not gauge.slot.rate_s]
        everything = [meter for wish in wishes for meter in counted_meters(self.catalogue, wish)]
        shown = tuple(
            Shown(order, gauge.policy, gauge.slot, gauge.ends_us)
            for order, gauge in enumerate(gauges)
            if gauge and gauge.policy
        )
        return Prepared(
            alternatives=(tuple(line for line, _ in lines.values()),),
            gauges=gauges,
            facts=tuple(facts),
            forms=tuple((quoted(fact.kind), rest(fact)) for fact in facts),
            shown=shown,
            charged=tuple((each.order, each.policy) for each in shown if each.slot.maximum == UNBOUNDED),
            tallied=self._observed.tallied(self.plan, facts) if self._observed else NOWHERE,
            level=level,
            allowed_in_outage=all(meter.on_outage == "allow" for meter in everything),
            starts_us=max((start for start, _ in spans), default=0),
            ends_us=min((end for _, end in spans), default=FOREVER_US),
        )

    def prepare_hold(self, candidates: Sequence[Candidate], now_us: int) -> Prepared:
        """A reservation: the first candidate that fits. What has no limit is not held, and stands in no fact until it
        is used."""
        alternatives, gauges, facts, forms = [], list[Gauge](), list[Fact](), list[tuple[str, str]]()
        for number, candidate in enumerate(candidates):
            found = [(share, gauge) for share in candidate.shares for gauge in self._gauges_of(share, now_us)]
            alternatives.append(tuple(Line(gauge.slot, share.need, share.want) for share, gauge in found))
            limited = dict.fromkeys((share, gauge.scope) for share, gauge in found)
            fact = Fact("", 0, "hold", "", candidate.event_type, resource_name(candidate.resource), 1, None, ())
            fact = fact._replace(metadata=candidate.note)
            if number == 0:
                gauges = [gauge for _, gauge in found]
                asked = tuple(Count(each.meter, "", each.need) for each in dict.fromkeys(each for each, _ in limited))
                facts.append(fact._replace(counts=asked))
            fact = fact._replace(counts=tuple(Count(each.meter, scope, each.want) for each, scope in limited))
            forms.append((quoted(fact.kind), rest(fact)))
        held = {share.meter for candidate in candidates for share in candidate.shares}
        return Prepared(
            alternatives=tuple(alternatives),
            gauges=tuple(gauges),
            facts=tuple(facts),
            forms=tuple(forms),
            shown=(),
            charged=(),
            tallied=NOWHERE,
            level="",
            allowed_in_outage=all(self.catalogue.meter(meter).on_outage == "allow" for meter in held),
            starts_us=0,
            ends_us=now_us,
        )

    def _gauges_of(self, share: Share, now_us: int) -> Iterator[Gauge]:
        """What a share of a reservation is held in: the meter, and its scopes with their own caps."""
        yield from self.gauges(share.meter, now_us)
        for scope in share.scopes:
            for gauge in self.gauges(share.meter, now_us, scope.name):
                is_capped = scope.cap is not None and gauge.limit.window is Window.MONTH
                yield self._capped(gauge, scope.cap or 0) if is_capped else gauge

    @staticmethod
    def _capped(gauge: Gauge, cap: int) -> Gauge:
        most = cap if gauge.limit.maximum is None else min(cap, gauge.limit.maximum)
        return gauge._replace(limit=replace(gauge.limit, maximum=most), slot=gauge.slot._replace(maximum=most))

    def _lines(self, meter: Meter, resource: str, amount: int, now_us: int) -> Iterable[tuple[Line, Gauge | None]]:
        gauges = self.gauges(meter.name, now_us)
        for gauge in gauges:
            yield Line(gauge.slot, amount, amount), gauge
        if gauges and meter.aggregation == "level":
            yield Line(Slot(level_field(meter.name, resource), meter.name), amount, amount), None


def field(meter: str, window: Window, span: Span | None) -> str:
    """A counter's name: "api_calls@ds7a000", "users@-". The plan is not in it: a change of plan keeps the count."""
    if window is Window.NONE or span is None:
        return f"{meter}@-"
    if window.seconds:
        return f"{meter}@{window.value[0]}"
    return f"{meter}@{window.value[0]}{window_start(micros(span.start) // 1_000_000)}"


def level_field(meter: str, resource: str) -> str:
    return f"{meter}/{resource}@-"


def stamp_field(meter: str, resource: str) -> str:
    return f"{meter}/{resource}@-!"


def counted_meters(catalogue: Catalogue, wish: Wish) -> tuple[Meter, ...]:
    """Where a wish counts. A wish for a patterned meter by name counts in the unpatterned ones of its event too."""
    if wish.meter is None:
        return catalogue.meters_of(wish.event_type, wish.resource)
    meter = catalogue.meter(wish.meter)
    if meter.event is None or meter.resource is None:
        return (meter,)
    return (meter, *(other for other in catalogue.meters.values() if other.event == meter.event and not other.resource))


def new_fact(tenant: str, wish: Wish, meters: Sequence[Meter]) -> Fact:
    """The fact of a wish, without id and instant. A meter's default cost applies where the wish has none."""
    named = next((meter for meter in meters if meter.name == wish.meter), None)
    event_type = (named.event or "") if named else wish.event_type
    own = named.resource or named.name if named else ""
    resource = resource_name(wish.resource) if wish.resource else own
    cost = wish.cost_nanos if wish.cost_nanos is not None else default_cost(meters, wish.quantity)
    levels = any(meter.aggregation == "level" for meter in meters)
    counts = tuple(Count(meter.name, "", (cost or 0) if meter.unit == "money" else wish.quantity) for meter in meters)
    return Fact("", 0, "add" if levels else "use", tenant, event_type, resource, wish.quantity, cost, counts)


def default_cost(meters: Sequence[Meter], quantity: int) -> int | None:
    """The catalogue's provider cost per unit, for the first meter that has one; None where none has."""
    unit = next((meter.cost for meter in meters if meter.cost is not None and meter.aggregation == "sum"), None)
    return None if unit is None else to_nanos(unit * quantity)
