"""Money pumps of a catalogue: what a tenant may do to its subscription that makes the same usage cheaper.

A bounded search, not a proof. It tries round trips within one month: the tenant ends as it began, and the month comes
to less than on any plan that it could have stayed on for the same usage. Tier cliffs, where one unit more makes the
month cheaper, need no trip. An upgrade that is kept until the month's end is bought, and paid for by the second; that
it may be bought for the last hour only, with whole allowances, is tried as "late".

Each trip is rated by ``draft`` as an invoice would be. What tenants can do without you is said by the catalogue's
``[changes]`` and by ``allow``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Final, NamedTuple

from mm_metering.core.addons import refusal, with_addon
from mm_metering.core.catalogue import Catalogue, Limit, Plan
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, add
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoicing import draft
from mm_metering.core.lifecycles import REFUSED_AS
from mm_metering.core.money import EXACT, plain
from mm_metering.core.periods import Window, micros, month_first
from mm_metering.core.pricing import Graduated, Volume
from mm_metering.core.rating import Terms
from mm_metering.core.scenario import Group, Scenario, Step, Usage
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow, changed_tenant, with_change
from mm_metering.core.timeline import PlanChange, StateChange

MOVES: Final = ("late", "cancel", "pause", "backdate", "zone")
"""What tenants may be able to do beside changing plans and add-ons back and forth: take a larger plan for the month's
last hour, cancel at once and subscribe again, pause and resume, have a change of plan hold from an earlier instant,
move to another zone."""
MONTH: Final = date(2024, 1, 1)
PERIOD: Final = f"{MONTH:%Y-%m}"
MOST_UNITS: Final = 100_000_000
_NAME: Final = "tenant"
_DEFAULTS: Final = TenantDefaults("", 0, "UTC")
_HOUR: Final = timedelta(hours=1)
_AWAY: Final = "Pacific/Kiritimati"
"""Where the date changes first."""


def _at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(MONTH.year, MONTH.month, day, tzinfo=UTC) + timedelta(hours=hour, minutes=minute)


STAYS: Final = ((_at(16, 12), _at(16, 13)), (_at(16, 0), _at(17, 0)), (_at(10, 0), _at(20, 0)))
"""For how long a trip leads elsewhere: an hour, a day, ten days."""


class Burst(NamedTuple):
    """Units of a meter at an instant."""

    at: datetime
    meter: str
    resource: str | None
    units: int


@dataclass(frozen=True, slots=True)
class Pump:
    """``steps`` and ``bursts`` cost ``cost``, and the same usage ``otherwise``, on the plan ``instead``: that is the
    cheapest way to stay. ``kind``: flip, addon, cliff, or one of MOVES."""

    kind: str
    plan: str
    steps: tuple[Step, ...]
    bursts: tuple[Burst, ...]
    cost: Decimal
    otherwise: Decimal
    instead: str

    @property
    def saves(self) -> Decimal:
        with localcontext(EXACT):
            return self.otherwise - self.cost

    def scenario(self, catalogue: str) -> Scenario:
        """The trip as a scenario that expects its cost."""
        usage = [Usage(b.meter, b.units, resource=b.resource, on=(b.at,)) for b in self.bursts]
        group = Group(_NAME, self.plan, "UTC", usage=tuple(usage), steps=self.steps)
        return Scenario(catalogue, MONTH, 1, (group,), expect=((PERIOD, _NAME, self.cost),))


class Try(NamedTuple):
    kind: str
    plan: str
    steps: tuple[Step, ...]
    bursts: tuple[Burst, ...]


def attack(
    catalogue: Catalogue, allow: Iterable[str] = (), progress: Callable[[int], None] = lambda _: None
) -> list[Pump]:
    """The pumps found, the one that saves the most first: at most one of a kind, plan, way and meter."""
    best: dict[tuple[object, ...], Pump] = {}
    for number, each in enumerate(tries(catalogue, allow)):
        found = _cliff(catalogue, each) if each.kind == "cliff" else _pump(catalogue, each)
        if found is not None:
            way = tuple((step.plan, step.event, step.timezone, step.addon) for step in each.steps)
            key = (each.kind, each.plan, way, *(burst.meter for burst in each.bursts[:1]))
            if key not in best or best[key].saves < found.saves:
                best[key] = found
        progress(number + 1)
    return sorted(best.values(), key=lambda pump: (-pump.saves, pump.kind, pump.plan))


def tries(catalogue: Catalogue, allow: Iterable[str] = ()) -> Iterator[Try]:
    """Everything that is tried."""
    allowed = set(allow)
    for plan in catalogue.plans:
        for bursts in _cliffs(catalogue, plan):
            yield Try("cliff", plan, (), bursts)
        for start, end in STAYS:
            yield from _pauses(plan, start, end, allowed)
        yield from _addons(catalogue, plan)
        for other in catalogue.plans:
            if other != plan:
                yield from _flips(catalogue, plan, other)
                if "late" in allowed:
                    yield from _late(catalogue, plan, other)
                if "backdate" in allowed:
                    yield from _backdated(catalogue, plan, other)
        if "zone" in allowed:
            yield from _zones(catalogue, plan)


def _flips(catalogue: Catalogue, plan: str, other: str) -> Iterator[Try]:
    """To another plan and back, if both are possible at once."""
    changes, prices = catalogue.changes, [catalogue.plans[name].price for name in (plan, other)]
    there, back = (
        (changes.upgrade, changes.downgrade) if prices[1] >= prices[0] else (changes.downgrade, changes.upgrade)
    )
    if there == back == "now":
        for start, end in STAYS:
            steps = (Step(start, plan=other), Step(end, plan=plan))
            for burst in _bursts(catalogue, (plan, other), start + (end - start) / 2):
                yield Try("flip", plan, steps, (burst,))
            yield Try("flip", plan, steps, ())


def _addons(catalogue: Catalogue, plan: str) -> Iterator[Try]:
    """An add-on for a while, if it can be had and given back at once."""
    if not catalogue.changes.upgrade == catalogue.changes.downgrade == "now":
        return
    for addon in catalogue.addons.values():
        if refusal(addon, catalogue.plans[plan]) is None:
            raised = replace(catalogue.plans[plan], quotas=with_addon(catalogue.plans[plan], addon, 1).quotas)
            more = replace(catalogue, plans={**catalogue.plans, plan: raised})
            for start, end in STAYS:
                steps = (Step(start, addon=addon.name), Step(end, addon=addon.name, quantity=0))
                for burst in _bursts(more, (plan,), start + (end - start) / 2):
                    yield Try("addon", plan, steps, (burst,))


def _late(catalogue: Catalogue, plan: str, other: str) -> Iterator[Try]:
    """A larger plan for the last hour; the next month begins on the old one."""
    if catalogue.changes.upgrade == "now" and catalogue.plans[other].price > catalogue.plans[plan].price:
        for burst in _bursts(catalogue, (plan, other), _at(31, 23, 30)):
            yield Try("late", plan, (Step(_at(31, 23), plan=other), Step(_at(31, 24), plan=plan)), (burst,))


def _backdated(catalogue: Catalogue, plan: str, other: str) -> Iterator[Try]:
    """Another plan for a day that lies back, once its usage is known."""
    steps = (Step(_at(16, 12), plan=other, since=_at(10, 0)), Step(_at(16, 12, 1), plan=plan, since=_at(11, 0)))
    for burst in _bursts(catalogue, (plan, other), _at(10, 12)):
        yield Try("backdate", plan, steps, (burst,))


def _pauses(plan: str, start: datetime, end: datetime, allowed: set[str]) -> Iterator[Try]:
    """Away, with no use in between."""
    if "cancel" in allowed:
        yield Try("cancel", plan, (Step(start, event="cancel"), Step(end, plan=plan)), ())
    if "pause" in allowed:
        yield Try("pause", plan, (Step(start, event="pause"), Step(end, event="resume")), ())


def _zones(catalogue: Catalogue, plan: str) -> Iterator[Try]:
    """To where it is tomorrow already, between two bursts of one day, and back."""
    steps = (Step(_at(16, 11), timezone=_AWAY), Step(_at(16, 13), timezone="UTC"))
    for burst in _bursts(catalogue, (plan,), _at(16, 10)):
        yield Try("zone", plan, steps, (burst, burst._replace(at=_at(16, 12))))


def _cliffs(catalogue: Catalogue, plan: str) -> Iterator[tuple[Burst, ...]]:
    """Where a price other than one per unit may fall: one unit before each of its tiers begins."""
    for limit in _priced(catalogue, plan):
        tiers = limit.price.tiers if isinstance(limit.price, Graduated | Volume) else ()
        for tier in tiers:
            if tier.up_to is not None and (units := (limit.maximum or 0) + tier.up_to) < MOST_UNITS:
                yield (Burst(_at(16, 12), limit.meter, None, units),)


def _bursts(catalogue: Catalogue, plans: Sequence[str], at: datetime) -> Iterator[Burst]:
    """Of each meter that some plan sells: as much as each of the plans allows, and a multiple of it."""
    for meter in dict.fromkeys(limit.meter for name in catalogue.plans for limit in _priced(catalogue, name)):
        limits = [
            limit for name in plans for limit in catalogue.plans[name].quotas.get(meter, ()) if _is_counted(limit)
        ]
        resources = dict.fromkeys(name for limit in limits for name in _resources(limit))
        sizes = {limit.maximum or 0 for limit in limits} | {2 * (limit.maximum or 0) for limit in limits} | {1_000}
        for resource in resources or (None,):
            for units in sorted(sizes):
                if 0 < units <= MOST_UNITS:
                    yield Burst(at, meter, resource, units)


def _resources(limit: Limit) -> Iterable[str]:
    return limit.unit_price if isinstance(limit.unit_price, Mapping) else ()


def _priced(catalogue: Catalogue, plan: str) -> Iterator[Limit]:
    for limits in catalogue.plans[plan].quotas.values():
        yield from (limit for limit in limits if _is_counted(limit) and not limit.blocks)


def _is_counted(limit: Limit) -> bool:
    return limit.window in (Window.DAY, Window.MONTH) and limit.unit == "count"


# -- what a trip costs -------------------------------------------------------------------------------------------------


def _pump(catalogue: Catalogue, tried: Try) -> Pump | None:
    cost = trip_cost(catalogue, tried.plan, tried.steps, tried.bursts)
    if cost is None:
        return None
    stays = {plan: trip_cost(catalogue, plan, (), tried.bursts) for plan in catalogue.plans}
    instead, otherwise = min(
        ((plan, each) for plan, each in stays.items() if each is not None), key=lambda stay: stay[1], default=("", None)
    )
    if tried.kind in (
        "cancel",
        "pause",
    ):  # whoever wants less may take a smaller plan: it must be cheaper than this one
        instead, otherwise = tried.plan, stays[tried.plan]
    if otherwise is None or otherwise <= cost:
        return None
    return Pump(tried.kind, tried.plan, tried.steps, tried.bursts, cost, otherwise, instead)


def _cliff(catalogue: Catalogue, tried: Try) -> Pump | None:
    """Whether one unit more is cheaper."""
    more = tuple(burst._replace(units=burst.units + 1) for burst in tried.bursts)
    fewer, cost = (trip_cost(catalogue, tried.plan, (), bursts) for bursts in (tried.bursts, more))
    if fewer is None or cost is None or fewer <= cost:
        return None
    return Pump("cliff", tried.plan, (), more, cost, fewer, tried.plan)


def trip_cost(catalogue: Catalogue, plan: str, steps: Sequence[Step], bursts: Sequence[Burst]) -> Decimal | None:
    """The month before tax; None where some of the usage would have been refused."""
    row, counted, waiting = _signed_up(plan), Counter[tuple[str, Window, date]](), [*steps]
    for burst in sorted(bursts):
        while waiting and waiting[0].at <= burst.at:
            row = _after(row, waiting.pop(0))
        if not _fits(catalogue, row, burst, counted):
            return None
    for step in waiting:
        row = _after(row, step)
    cells: dict[CellKey, CellSum] = {}
    calendar = Calendar(row.timezone, row.segments)
    for number, (at, meter, resource, units) in enumerate(bursts):
        counts = (Count(meter, "", units),)
        fact = Fact(str(number), micros(at), "use", _NAME, "", resource or "", units, None, counts)
        add(cells, fact, calendar)
    terms = Terms(row, {(name, 1): each for name, each in _offered(catalogue).items()}, catalogue.changes.proration)
    rated = (Cell(key, total, 0) for key, total in cells.items())
    return draft(terms, PERIOD, rated, currency=catalogue.currency, taxes=()).subtotal


def _offered(catalogue: Catalogue) -> dict[str, Plan]:
    """The plans, and each with one of an add-on that it may have, as "pro+calls"."""
    raised = {
        f"{name}+{addon.name}": with_addon(plan, addon, 1)
        for name, plan in catalogue.plans.items()
        for addon in catalogue.addons.values()
        if refusal(addon, plan) is None
    }
    return {**catalogue.plans, **raised}


def _signed_up(plan: str) -> TenantRow:
    start_us = micros(_at(1, 0))
    return changed_tenant(
        None, NewTenant(_NAME, plan, 1, subscribed_us=start_us), TenantDefaults("", 0, "UTC"), start_us
    )


def _after(row: TenantRow, step: Step) -> TenantRow:
    at_us = micros(step.at)
    if step.timezone:
        return changed_tenant(row, NewTenant(_NAME, timezone=step.timezone), _DEFAULTS, at_us)
    if step.plan:
        return with_change(row, PlanChange(micros(step.since) if step.since else at_us, step.plan, 1))
    if step.addon:
        plan = row.segment_at(at_us).plan.partition("+")[0]
        return with_change(row, PlanChange(at_us, f"{plan}+{step.addon}" if step.quantity else plan, 1))
    return with_change(row, StateChange(at_us, step.event or ""))


def _fits(catalogue: Catalogue, row: TenantRow, burst: Burst, counted: Counter[tuple[str, Window, date]]) -> bool:
    """Counts the burst, if the limits that block let it through; as the gate decides it."""
    at_us = micros(burst.at)
    segment, day = row.segment_at(at_us), Calendar(row.timezone, row.segments).day(at_us)
    keys = [(burst.meter, Window.DAY, day), (burst.meter, Window.MONTH, month_first(day))]
    counted.update(dict.fromkeys(keys, burst.units))
    limits = _offered(catalogue)[segment.plan].quotas.get(burst.meter, ())
    blocking = [limit for limit in limits if (limit.blocks or limit.cap is not None) and _is_counted(limit)]
    if segment.status in REFUSED_AS:
        return False
    used = {window: counted[meter, window, first] for meter, window, first in keys}
    return all(limit.maximum is None or used[limit.window] <= limit.maximum for limit in blocking)


# -- in words ----------------------------------------------------------------------------------------------------------


def words(pump: Pump, currency: str) -> str:
    """'pro -> enterprise -> pro, 2024-01-16, saves 48.20 USD with 20,000 api_calls: ...'."""
    used = ", ".join(
        f"{burst.units:,} {burst.meter}{f' ({burst.resource})' if burst.resource else ''}" for burst in pump.bursts
    )
    usage = f" with {used}" if used else ""
    saved = f"saves {plain(pump.saves)} {currency}{usage}"
    told = f"{plain(pump.cost)} instead of {plain(pump.otherwise)} on {pump.instead}"
    return f"{_way(pump)} {saved}: {told}"


def _stop(plan: str, step: Step) -> str:
    if step.addon:
        return f"{plan} + {step.addon}" if step.quantity else plan
    return step.plan or step.timezone or step.event or ""


def _way(pump: Pump) -> str:
    if pump.kind == "cliff":
        return f"{pump.plan}: one unit more"
    stops = [pump.plan, *(_stop(pump.plan, step) for step in pump.steps)]
    first, last = pump.steps[0].at, pump.steps[-1].at
    dated = ", backdated" if pump.kind == "backdate" else ""
    until = "" if last.date() == first.date() else f" to {last:%Y-%m-%d}"
    return f"{' -> '.join(stops)}{dated}, {first:%Y-%m-%d}{until},"
