"""What differs between the plans that a ledger has and those of a plans file, and whom that touches.

Plans are compared as their definitions say them: there is a difference exactly where the digests differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, localcontext
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from mm_metering.core.addons import carried, terms_words
from mm_metering.core.catalogue import Addon, Limit, Plan
from mm_metering.core.money import EXACT
from mm_metering.core.periods import Window, days_of, local_day, micros, period_of, zone
from mm_metering.core.rating import version_of
from mm_metering.core.tenancy import OVERRIDE, TenantRow, plan_name

NAMED: Final = 20
"""How many tenants of a plan are named of those over a new limit; the others are counted."""
OWN: Final = 0
"""Stands for the version of tenants with an override: each has a version of its own."""

Key: TypeAlias = tuple[str, int]
Stored: TypeAlias = Mapping[Key, Plan]
"""Every stored version, by (plan, version)."""
Form: TypeAlias = Mapping[str, Any]
"""A limit as a plans file says it: ``limit``, ``then``, and a price."""


# -- what differs ------------------------------------------------------------------------------------------------------


class ValueChange(NamedTuple):
    """A value beside the quotas, as a plans file says it; None where one side has none. ``name`` is "price", "minimum",
    "support" or "ai daily_budget"."""

    name: str
    before: object
    after: object


class LimitChange(NamedTuple):
    """A meter's limit in one window; None where one side has none."""

    meter: str
    window: Window
    before: Form | None
    after: Form | None


@dataclass(frozen=True, slots=True)
class PlanDifference:
    """A plan whose newest stored version (0 for none) is not what the file says; ``after`` is None where it is gone
    from the file."""

    plan: str
    version: int
    before: Plan | None
    after: Plan | None

    @property
    def kind(self) -> Literal["new", "gone", "changed"]:
        if self.before is None:
            return "new"
        return "gone" if self.after is None else "changed"

    @property
    def values(self) -> tuple[ValueChange, ...]:
        """In the order in which a file says them."""
        return tuple(ValueChange(*each) for each in _apart(_values(self.before), _values(self.after)))

    @property
    def limits(self) -> tuple[LimitChange, ...]:
        """In the stored version's order of meters, then those that only the file has."""
        apart = _apart(limit_forms(self.before), limit_forms(self.after))
        return tuple(LimitChange(meter, window, before, after) for (meter, window), before, after in apart)


def newest_versions(stored: Collection[Key]) -> dict[str, int]:
    """The newest version of each plan, in order of name. Tenants' own versions are left out."""
    return {plan: version for plan, version in sorted(stored) if OVERRIDE not in plan}


def differences(stored: Stored, plans: Mapping[str, Plan]) -> tuple[PlanDifference, ...]:
    """The plans of the file that are new or changed, in its order, then those that are gone from it."""
    newest = newest_versions(stored.keys())
    ours = [PlanDifference(name, newest.get(name, 0), _newest(stored, newest, name), plans[name]) for name in plans]
    gone = [PlanDifference(name, version, stored[name, version], None) for name, version in newest.items()]
    changed = (each for each in ours if each.before is None or each.before.digest() != plans[each.plan].digest())
    return (*changed, *(each for each in gone if each.plan not in plans))


def _newest(stored: Stored, newest: Mapping[str, int], plan: str) -> Plan | None:
    return stored[plan, newest[plan]] if plan in newest else None


def _values(plan: Plan | None) -> dict[str, object]:
    if plan is None:
        return {}
    said = plan.definition()
    own = {name: said[name] for name in ("price", "minimum", "support") if name in said}
    return own | {f"ai {name}": value for name, value in said.get("ai", {}).items()}


def limit_forms(plan: Plan | None) -> dict[tuple[str, Window], Form]:
    """Each limit of the plan's quotas as a plans file says it, by meter and window; none without a plan."""
    quotas = plan.definition()["quotas"] if plan else {}
    return {(meter, Window(form.get("per", Window.NONE))): form for meter, forms in quotas.items() for form in forms}


def _apart(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[tuple[Any, Any, Any]]:
    pairs = [(key, before.get(key), after.get(key)) for key in dict.fromkeys((*before, *after))]
    return [(key, old, new) for key, old, new in pairs if old != new]


# -- whom it touches ---------------------------------------------------------------------------------------------------


class Over(NamedTuple):
    """A tenant that has used more of a meter, in the window that is open now, than a limit says. ``used`` is units, or
    nano-units of money."""

    tenant: str
    limit: Limit
    used: int


class Holding(NamedTuple):
    """So many tenants have so many of an add-on, on these terms (``addons.terms_words``)."""

    addon: str
    terms: str
    tenants: int
    quantity: int


@dataclass(slots=True)
class Audience:
    """The tenants that are on a plan now: how many by version, what their base prices add up to in a month, which
    add-ons they have, and which would be over a limit that is new to them if they were moved to the file's plan (NAMED
    of them by name)."""

    versions: Counter[int] = field(default_factory=Counter)
    base: Decimal = Decimal("0.00")
    over: list[Over] = field(default_factory=list)
    over_tenants: int = 0
    addons: dict[tuple[str, str], Holding] = field(default_factory=dict)
    """By name and terms."""

    @property
    def tenants(self) -> int:
        return self.versions.total()

    def base_at(self, price: Decimal) -> Decimal:
        """What the base prices add up to if all of them pay that price."""
        with localcontext(EXACT):
            return self.tenants * price

    def hold(self, more: Holding) -> None:
        key = (more.addon, more.terms)
        known = self.addons.get(key, Holding(*key, 0, 0))
        self.addons[key] = Holding(*key, known.tenants + more.tenants, known.quantity + more.quantity)


def holdings(audiences: Iterable[Audience]) -> tuple[Holding, ...]:
    """The add-ons that all of them have, by name and terms."""
    everybody = Audience()
    for audience in audiences:
        for each in audience.addons.values():
            everybody.hold(each)
    return tuple(each for _, each in sorted(everybody.addons.items()))


class Use(NamedTuple):
    """Units of a meter on a local day; nano-units of money."""

    day: date
    meter: str
    quantity: int


class Census:
    """Counts tenants one by one. ``plans`` are those to which tenants may be moved, by name, ``addons`` those that may
    go along."""

    def __init__(
        self,
        stored: Stored,
        plans: Mapping[str, Plan],
        *,
        now: datetime,
        addons: Mapping[str, Addon] = MappingProxyType({}),
    ) -> None:
        self._stored = stored
        self._plans = plans
        self._addons = addons
        self._now = now
        self._new_limits: dict[Key, tuple[Limit, ...]] = {}
        self.audiences: dict[str, Audience] = {}
        self.in_use: Counter[Key] = Counter()
        """By version: the tenants that are on it now, or will be by a change that is planned."""

    def audience(self, plan: str) -> Audience:
        return self.audiences.setdefault(plan, Audience())

    def add(self, row: TenantRow) -> None:
        """Counts a tenant in the plan that is in force now, and in those that follow."""
        now_us = micros(self._now)
        following = row.segments[row.segment_index(now_us) :]
        self.in_use.update(map(version_of, following))
        segment = row.segment_at(now_us)
        audience, present = self.audience(plan_name(segment.plan)), self._stored.get(version_of(segment))
        audience.versions[OWN if OVERRIDE in segment.plan else segment.version] += 1
        if present is not None:
            with localcontext(EXACT):
                audience.base += present.price
            for name, held in present.addons.items():
                audience.hold(Holding(name, terms_words(held), 1, held.quantity))

    def new_limits(self, row: TenantRow) -> tuple[Limit, ...]:
        """The limits that a move would make stricter for a tenant: it must be told how much of them is used."""
        segment = row.segment_at(micros(self._now))
        after = self._plans.get(plan_name(segment.plan))
        if after is None:
            return ()
        key = version_of(segment)
        if key not in self._new_limits:
            present = self._stored.get(key)
            after = carried(after, present.addons, self._addons) if present else after
            self._new_limits[key] = new_limits(present, after)
        return self._new_limits[key]

    def weigh(self, row: TenantRow, uses: Collection[Use], levels: Mapping[tuple[str, str], int]) -> None:
        """Takes what a tenant has used since its month began; ``levels`` as they stand, by (meter, resource)."""
        today = local_day(self._now, zone(row.timezone))
        used = [(limit, _used(limit, uses, levels, today, row.anchor_day)) for limit in self.new_limits(row)]
        over = [Over(row.id, limit, units) for limit, units in used if units > (limit.maximum or 0)]
        if over:
            audience = self.audience(plan_name(row.segment_at(micros(self._now)).plan))
            audience.over_tenants += 1
            if audience.over_tenants <= NAMED:
                audience.over += over


def new_limits(present: Plan | None, after: Plan) -> tuple[Limit, ...]:
    """The limits of ``after`` that ``present`` has not, or not as strict: not as low, or charging where it will refuse.
    Burst rates are left out: nothing is kept of what was used of them."""
    limits = [limit for limits in after.limits.values() for limit in limits]
    return tuple(
        limit for limit in limits if limit.maximum is not None and not limit.is_rate and not _has(present, limit)
    )


def _has(present: Plan | None, limit: Limit) -> bool:
    before = present.limits.get(limit.meter, ()) if present else ()
    return any(
        each.window is limit.window
        and each.maximum is not None
        and each.maximum <= (limit.maximum or 0)
        and (each.blocks or not limit.blocks)
        for each in before
    )


def _used(limit: Limit, uses: Iterable[Use], levels: Mapping[tuple[str, str], int], today: date, anchor: int) -> int:
    if limit.is_level:
        return sum(value for (meter, _), value in levels.items() if meter == limit.meter)
    first, last = (today, today) if limit.window is Window.DAY else days_of(period_of(today, anchor), anchor)
    return sum(use.quantity for use in uses if use.meter == limit.meter and first <= use.day <= last)


# -- what it may not take away -----------------------------------------------------------------------------------------


class Dropped(NamedTuple):
    """A meter that the file has no more, though a stored version (OWN for overrides) that ``tenants`` are on limits or
    prices it; without a plan, though ``tenants`` have facts in it."""

    meter: str
    plan: str | None
    version: int
    tenants: int


def dropped(
    stored: Stored, in_use: Mapping[Key, int], recorded: Mapping[str, int], meters: Collection[str]
) -> tuple[Dropped, ...]:
    """What of that is not among ``meters``. ``recorded``: by meter, how many tenants have facts in it."""
    by_plan: Counter[tuple[str, str, int]] = Counter()
    for (plan, version), tenants in in_use.items():
        limits = stored[plan, version].limits if (plan, version) in stored else {}
        own = OWN if OVERRIDE in plan else version
        by_plan.update({(meter, plan_name(plan), own): tenants for meter in limits if meter not in meters})
    limited = [Dropped(*key, tenants) for key, tenants in sorted(by_plan.items())]
    facts = [Dropped(meter, None, OWN, tenants) for meter, tenants in sorted(recorded.items()) if meter not in meters]
    return (*limited, *facts)
