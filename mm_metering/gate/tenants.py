"""The tenants known in this process: each plan's limits as slots of the windows that are open now.

A view is right for one revision of the tenant. Nobody tells a process that a newer one exists: its next take misses,
because the tag in the counters has moved on, and the view is read from the ledger again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from mm_metering.backends.counters import Level, Stamp, Take
from mm_metering.core.catalogue import AI_COST_METER, Catalogue, Limit, Meter, Plan
from mm_metering.core.facts import Count, Fact, head, tail
from mm_metering.core.limits import UNBOUNDED, Delta, Line, Slot
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import Span, Window, from_micros, micros, window_span, zone
from mm_metering.core.tenancy import TenantRow
from mm_metering.gate.admission import Wish

MAX_VIEWS: Final = 10_000
MAX_PREPARED: Final = 256
SEGMENTS: Final = 10_000
"""More plan segments than one tenant can have: a tag's number is revision x SEGMENTS + segment."""
_FOREVER_US: Final = 2**62


class Gauge(NamedTuple):
    """A limit in the window that holds some instant: its slot, and when the window ends. ``listed`` names the window
    of a count that has a limit, for an answer's headers; "" for levels, money and what is unlimited."""

    limit: Limit
    slot: Slot
    starts_us: int
    ends_us: int
    ends_at: datetime | None
    listed: str

    @property
    def window_s(self) -> int:
        """How long the window is; 0 for none."""
        if self.ends_at is None:
            return 0
        return self.slot.rate_s or (self.ends_us - self.starts_us) // 1_000_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A set of wishes against a view, right from ``starts_us`` until ``ends_us``: all but ids and the instant."""

    alternatives: tuple[tuple[Line, ...], ...]
    gauges: tuple[Gauge | None, ...]
    facts: tuple[Fact, ...]
    tails: tuple[bytes, ...]
    level: str
    allowed_in_outage: bool
    starts_us: int
    ends_us: int

    def named(self, fact_id: str, now_us: int) -> tuple[Fact, ...]:
        """The facts under this id and instant: the first has the id itself, the others a suffix."""
        ids = (fact_id if n == 0 else f"{fact_id}.{n}" for n in range(len(self.facts)))
        return tuple(fact._replace(id=own, occurred_us=now_us) for own, fact in zip(ids, self.facts, strict=True))

    def payload(self, fact_id: str, now_us: int) -> bytes:
        if len(self.tails) == 1:
            return head(fact_id, now_us) + self.tails[0]
        ids = (fact_id if n == 0 else f"{fact_id}.{n}" for n in range(len(self.tails)))
        return b"\n".join(head(own, now_us) + rest for own, rest in zip(ids, self.tails, strict=True))

    @property
    def lines(self) -> tuple[Line, ...]:
        return self.alternatives[0]

    def take(self, tenant: str, tag: str, payload: bytes, now_us: int) -> Take:
        """The op; with an empty payload it only looks."""
        stamp = Stamp(self.level, now_us) if self.level else None
        return Take(tenant, tag, self.alternatives, (payload,) if payload else (), "", 0, stamp)


class View:
    """A tenant at one revision and plan segment. Without a row nothing is limited, facts alone are written (an outage).

    ``starts_us``: facts under this view do not lie before it, whatever a skewed clock says, so that a unit admitted
    under a plan is billed under it.
    """

    def __init__(
        self,
        tenant: str,
        row: TenantRow | None,
        plan: Plan | None,
        *,
        shard: int,
        catalogue: Catalogue,
        now_us: int,
    ) -> None:
        self.tenant = tenant
        self.shard = shard
        self.plan_name = plan.name if plan else ""
        self.row = row
        self.plan = plan
        self.catalogue = catalogue
        self.zone = zone(row.timezone if row else catalogue.timezone)
        index = row.segment_index(now_us) if row else 0
        self.starts_us = row.segments[index].starts_us if row and index else 0
        self.valid_until_us = (row.next_change_us(now_us) if row else None) or _FOREVER_US
        self._revision = row.revision * SEGMENTS + index if row else 0
        self._limits = _limits(plan) if plan else {}
        self._gauges: dict[str, tuple[Gauge, ...]] = {}
        self._prepared: dict[tuple[Wish, ...], Prepared] = {}
        self._by_identity: dict[int, tuple[tuple[Wish, ...], Prepared]] = {}
        self._tag = (-1, "")

    def tag(self, generation: int) -> str:
        """Names what is in force: it rises with the tenant's revision, and when a planned segment begins."""
        if self._tag[0] != generation:
            self._tag = (generation, f"{generation}.{self._revision}")
        return self._tag[1]

    @property
    def limited_meters(self) -> Iterable[str]:
        return self._limits.keys()

    def gauges(self, meter: str, at_us: int) -> tuple[Gauge, ...]:
        """The meter's limits in the windows that hold ``at_us``; none where the plan has no limit."""
        known = self._gauges.get(meter, ())
        if known and all(gauge.starts_us <= at_us < gauge.ends_us for gauge in known):
            return known
        found = tuple(self._gauge(limit, at_us) for limit in self._limits.get(meter, ()))
        self._gauges[meter] = found
        return found

    def _gauge(self, limit: Limit, at_us: int) -> Gauge:
        moment = from_micros(at_us)
        span = window_span(limit.window, moment, self.zone)
        cap = self._cap(limit, window_span(Window.MONTH, moment, self.zone))
        maximum = UNBOUNDED if limit.maximum is None or not limit.blocks else limit.maximum
        free = limit.maximum or 0
        slot = Slot(field(limit.meter, limit.window, span), limit.meter, maximum, free, cap[2], cap[0], cap[1])
        endless = limit.window is Window.NONE
        listed = "" if endless or limit.maximum is None or limit.unit == "money" else limit.window.value
        slot = slot._replace(rate_s=limit.window.seconds)
        return Gauge(limit, slot, micros(span.start), micros(span.end), None if endless else span.end, listed)

    @staticmethod
    def _cap(limit: Limit, month: Span) -> tuple[str, int, int]:
        price = limit.price_for(None)
        if limit.cap is None or price is None:  # the catalogue refuses a cap without one price
            return "", 0, 0
        return field(f"{limit.meter}$", Window.MONTH, month), to_nanos(limit.cap), to_nanos(price)

    # -- from wishes to lines -----------------------------------------------------------------------------------------

    def prepare(self, wishes: tuple[Wish, ...], now_us: int) -> Prepared:
        """Remembered per set of wishes until one of its windows ends.

        A route asks with the same tuple each time: it is looked for by identity first, since hashing it costs more.
        The tuple is kept with what was found, so that its identity is not given to another.
        """
        known = self._by_identity.get(id(wishes))
        if known is None:
            found = self._prepared.get(wishes)
        elif known[1].starts_us <= now_us < known[1].ends_us:
            return known[1]
        else:
            found = None
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
            fact = new_fact(self.tenant, wish, meters)
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
        return Prepared(
            alternatives=(tuple(line for line, _ in lines.values()),),
            gauges=gauges,
            facts=tuple(facts),
            tails=tuple(tail(fact) for fact in facts),
            level=level,
            allowed_in_outage=all(meter.on_outage == "allow" for meter in everything),
            starts_us=max((start for start, _ in spans), default=0),
            ends_us=min((end for _, end in spans), default=_FOREVER_US),
        )

    def _lines(self, meter: Meter, resource: str, amount: int, now_us: int) -> Iterable[tuple[Line, Gauge | None]]:
        gauges = self.gauges(meter.name, now_us)
        for gauge in gauges:
            yield Line(gauge.slot, amount, amount), gauge
        if gauges and meter.aggregation == "level":
            yield Line(Slot(level_field(meter.name, resource), meter.name), amount, amount), None

    # -- from facts to deltas -----------------------------------------------------------------------------------------

    def deltas(self, facts: Sequence[Fact], now_us: int, *, sign: int = 1) -> tuple[Delta, ...]:
        """What counted facts move, each in the windows of its own instant.

        A priced slot is not open to a fact from before this plan: what it costs is for the ledger to say.
        """
        moved: dict[str, Delta] = {}
        for fact in facts:
            for meter, scope, amount in fact.counts:
                for gauge in self.gauges(meter, fact.occurred_us) if not scope else ():
                    slot = gauge.slot
                    opens = gauge.ends_us > now_us and not (slot.price and fact.occurred_us < self.starts_us)
                    known = moved.get(slot.field, Delta(slot, 0, 0, opens))
                    if not slot.rate_s:
                        moved[slot.field] = known._replace(used=known.used + sign * amount, opens=opens and known.opens)
        return tuple(moved.values())

    def level_op(self, fact: Fact, tag: str, payload: bytes) -> Level | None:
        """The op of a level's set or add; None where the plan does not limit the level."""
        limited = [count.meter for count in fact.counts if self.gauges(count.meter, fact.occurred_us)]
        if not limited:
            return None
        meter, absolute = limited[0], fact.kind == "set"
        stamp = Stamp(stamp_field(meter, fact.resource), fact.occurred_us)
        total, own = field(meter, Window.NONE, None), level_field(meter, fact.resource)
        return Level(self.tenant, tag, total, own, stamp, fact.quantity, absolute, payload)


class Views:
    """The most recently used views, bounded."""

    def __init__(self, most: int = MAX_VIEWS) -> None:
        self._most = most
        self._views: OrderedDict[str, View] = OrderedDict()

    def get(self, tenant: str, now_us: int) -> View | None:
        view = self._views.get(tenant)
        return view if view is not None and now_us < view.valid_until_us else None

    def put(self, view: View) -> None:
        self._views[view.tenant] = view
        self._views.move_to_end(view.tenant)
        if len(self._views) > self._most:
            self._views.popitem(last=False)


def field(meter: str, window: Window, span: Span | None) -> str:
    """A counter's name: "api_calls@d1705276800", "users@-". The plan is not in it: a change of plan keeps the count."""
    if window is Window.NONE or span is None:
        return f"{meter}@-"
    if window.seconds:
        return f"{meter}@{window.value[0]}"
    return f"{meter}@{window.value[0]}{micros(span.start) // 1_000_000}"


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
    resource = wish.resource or (named.resource or named.name if named else "")
    cost = wish.cost_nanos if wish.cost_nanos is not None else default_cost(meters, wish.quantity)
    levels = any(meter.aggregation == "level" for meter in meters)
    counts = tuple(Count(meter.name, "", (cost or 0) if meter.unit == "money" else wish.quantity) for meter in meters)
    return Fact("", 0, "add" if levels else "use", tenant, event_type, resource, wish.quantity, cost, counts)


def default_cost(meters: Sequence[Meter], quantity: int) -> int | None:
    """The catalogue's provider cost per unit, for the first meter that has one; None where none has."""
    unit = next((meter.cost for meter in meters if meter.cost is not None and meter.aggregation == "sum"), None)
    return None if unit is None else to_nanos(unit * quantity)


def _limits(plan: Plan) -> dict[str, tuple[Limit, ...]]:
    """A plan's limits by meter, its AI budgets among them: they limit the provider cost of AI calls."""
    limits = dict(plan.quotas)
    budgets = (
        (Window.DAY, plan.ai.daily_budget if plan.ai else None),
        (Window.MONTH, plan.ai.monthly_budget if plan.ai else None),
    )
    for window, budget in budgets:
        if budget is not None:
            limit = Limit(AI_COST_METER, window, to_nanos(budget), unit="money")
            limits[AI_COST_METER] = (*limits.get(AI_COST_METER, ()), limit)
    return limits
