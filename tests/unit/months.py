"""Any month of any tenant, for hypothesis: plans of every price, changes of plan, use near where days and plans end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from mm_metering.core.addon_layout import HELD, read_held
from mm_metering.core.addons import raised
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Segment
from mm_metering.core.periods import micros
from mm_metering.core.rating import Terms
from mm_metering.core.schema import ROOT
from mm_metering.core.tenancy import TenantRow
from tests.unit.oracle import Event, Month, days

AREAS: Final = {
    "Europe": "Berlin Dublin London Lisbon Moscow Istanbul",
    "Atlantic": "Azores",
    "America": "New_York Los_Angeles St_Johns Havana Asuncion Santiago Sao_Paulo Caracas Nuuk Scoresbysund Goose_Bay",
    "Africa": "Cairo Casablanca Windhoek",
    "Asia": "Beirut Gaza Amman Tehran Damascus Kathmandu Kolkata Pyongyang Dhaka Tokyo",
    "Australia": "Lord_Howe Sydney",
    "Pacific": "Apia Auckland Chatham Kiritimati Norfolk",
    "Antarctica": "Troll",
}
ZONES: Final = ["UTC", *(f"{area}/{city}" for area, cities in AREAS.items() for city in cities.split())]
METERS: Final = {
    "calls": {"event": "call"},
    "tokens": {"event": "token"},
    "disk": {"aggregation": "level"},
}
PRICES: Final = ("0.00", "0.01", "0.03", "0.005", "1.25", "0.000000000001", "0.123456789012345678901234", "7.00")
NEAR_S: Final = (0, 0, -1, 1, -60, 59, 1_800, -1_800, 3_600, -3_601, 43_200)
"""Seconds from a day's first instant: where clocks change and days end."""


def without_addons(plans: Mapping[str, Any]) -> dict[str, Any]:
    """As a plans file may say them: only a tenant's own version has add-ons."""
    return {name: {key: plan[key] for key in plan if key != "addons"} for name, plan in plans.items()}


class Case(NamedTuple):
    month: Month
    events: list[Event]
    levels: list[Event]
    rng: random.Random

    @property
    def period(self) -> str:
        return f"{self.month.year}-{self.month.month:02}"

    def without_addons(self) -> Case:
        return self._replace(month=self.month._replace(plans=without_addons(self.month.plans)))

    @property
    def first_day(self) -> date:
        return date(self.month.year, self.month.month, 1)

    @property
    def terms(self) -> Terms:
        tree = {"currency": "USD", "meters": METERS, "plans": without_addons(self.month.plans)}
        found = Catalogue.from_dict(tree).plans
        held = {
            name: read_held(HELD.read(plan.get("addons", {}), ROOT), ROOT) for name, plan in self.month.plans.items()
        }
        plans = {(name, 1): raised(plan, held[name]) for name, plan in found.items()}
        segments = tuple(Segment(micros(at), plan, 1) for at, plan in self.month.timeline)
        return Terms(TenantRow("t", self.month.zone, segments[0].starts_us, 1, None, segments), plans)


# -- plans --------------------------------------------------------------------------------------------------------

MONEY: Final = st.sampled_from(PRICES)
ENDS: Final = st.sets(st.one_of(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=3).map(sorted)
TIERS: Final = st.lists(
    st.fixed_dictionaries({"unit_price": MONEY, "flat": st.sampled_from(("0.00", "0.00", "0.50", "12.34"))}),
    min_size=4,
    max_size=4,
)
SCHEMES: Final = {
    "graduated": st.builds(lambda ends, found: {"price": {"graduated": rising(ends, found)}}, ENDS, TIERS),
    "volume": st.builds(lambda ends, found: {"price": {"volume": rising(ends, found)}}, ENDS, TIERS),
    "package": st.builds(
        lambda units, each: {"price": {"package": units, "unit_price": each}}, st.integers(1, 9), MONEY
    ),
    "flat": MONEY.map(lambda amount: {"price": {"flat": amount}}),
    "unit": MONEY.map(lambda each: {"unit_price": each}),
}
COUNTED: Final = SCHEMES | {
    "resource": st.dictionaries(st.sampled_from("abc"), MONEY, min_size=1).map(lambda prices: {"unit_price": prices}),
    "capped": st.builds(
        lambda each, cap: {"unit_price": each, "then": {"charge_up_to": cap}},
        st.sampled_from(("0.00", "0.01", "0.03", "1.25")),
        st.sampled_from(("0.00", "0.10", "1.00", "20.00")),
    ),
}
ALL: Final = tuple(COUNTED)
NEVER_LESS: Final = ("unit", "resource", "graduated", "package", "flat")
"""With these more units never cost less. At a volume price they may, and so they may under caps and second quotas,
which cheap units use up."""
LIMIT: Final = {"limit": st.integers(0, 6), "per": st.sampled_from(("day", "month"))}
BLOCKS: Final = st.fixed_dictionaries(LIMIT | {"limit": st.one_of(LIMIT["limit"], st.just("unlimited"))})
LEVEL_CHARGES: Final = st.builds(
    lambda limit, how: [{"limit": limit, "then": "charge"} | how], st.integers(0, 6), st.one_of([*SCHEMES.values()])
)
LEVEL_QUOTAS: Final = st.one_of(LEVEL_CHARGES, LEVEL_CHARGES, LEVEL_CHARGES, st.just([]), st.just([{"limit": 5}]))


def rising(ends: Sequence[int], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many tiers as have an end, and an open one."""
    return [tier | {"up_to": end} for end, tier in zip(ends, found, strict=False)] + [found[-1]]


@lru_cache(None)
def quotas(kinds: tuple[str, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """One limit or none, perhaps with a burst rate, which bills nothing, and one that blocks in the other window."""
    charges = st.builds(
        lambda limit, how: limit | {"then": "charge"} | how,
        st.fixed_dictionaries(LIMIT),
        st.one_of([COUNTED[kind] for kind in kinds]),
    )
    sizes = (1, 1, 1, 0, 2, 3) if "capped" in kinds else (1, 1, 0, 2)
    return st.builds(several, st.one_of(charges, charges, charges, BLOCKS), st.integers(0, 30), st.sampled_from(sizes))


def several(first: dict[str, Any], most: int, size: int) -> list[dict[str, Any]]:
    other = {"day": "month", "month": "day"}[first["per"]]
    return [first, {"limit": 1, "per": "second"}, {"limit": most, "per": other}][:size]


ADDON: Final = st.fixed_dictionaries(
    {
        "quantity": st.integers(1, 3),
        "price": st.sampled_from(("0.00", "10.00", "19.995", "0.01")),
        "quotas": st.fixed_dictionaries(
            {},
            optional={
                "calls": st.dictionaries(st.sampled_from(("second", "day", "month")), st.integers(1, 4), min_size=1),
                "disk": st.integers(1, 3),
            },
        ),
    }
)
ADDONS: Final[st.SearchStrategy[dict[str, Any]]] = st.one_of(
    st.just({}), st.just({}), st.dictionaries(st.sampled_from("xy"), ADDON, min_size=1)
)


@lru_cache(None)
def plans(kinds: tuple[str, ...]) -> st.SearchStrategy[list[dict[str, Any]]]:
    limits = {"calls": quotas(kinds), "tokens": quotas(kinds), "disk": LEVEL_QUOTAS}
    plan = st.builds(
        lambda price, least, addons, given: {
            "price": price,
            "minimum": least,
            "addons": addons,
            "quotas": {meter: each for meter, each in given.items() if each},
        },
        st.sampled_from(("0.00", "99.00", "499.00", "19.995")),
        st.sampled_from(("0.00", "0.00", "0.00", "100.00", "120.005", "1000.00")),
        ADDONS,
        st.fixed_dictionaries(limits),
    )
    return st.lists(plan, min_size=1, max_size=3)


# -- instants and usage -------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """An instant near the start of one of the month's days, or with ``change`` that of a change of plan."""

    day: int
    seconds: int
    micros: int
    change: int | None = None

    def moment(self, starts: Sequence[datetime], changes: Sequence[datetime]) -> datetime:
        if self.change is not None:
            return changes[self.change % len(changes)]
        start = starts[self.day % len(starts)]
        return start + timedelta(seconds=self.seconds, microseconds=self.micros)


MARKS: Final = st.builds(
    Mark,
    st.one_of(st.integers(0, 31), st.integers(4, 7)),
    st.one_of(st.sampled_from(NEAR_S), st.integers(-86_400, 86_400)),
    st.sampled_from((0, 0, 0, 1, 999_999)),
    change=st.none(),
)
WHEN: Final = st.one_of(MARKS, MARKS, st.builds(partial(Mark, 0, 0, 0), change=st.integers(0, 3)))
LONG_BEFORE: Final = Mark(0, -70 * 86_400, 0)
LAST_MONTH: Final = Mark(0, -9 * 86_400, 0)
RESOURCES: Final = st.sampled_from("abcd")
UNITS: Final = st.one_of(st.integers(1, 20), st.integers(1, 3))
USES: Final = st.lists(
    st.tuples(WHEN, st.sampled_from(("calls", "calls", "tokens")), RESOURCES, UNITS), min_size=4, max_size=14
)
SETS: Final = st.tuples(st.integers(0, 20), st.just("set"))
ADDS: Final = st.tuples(st.integers(-9, 9), st.just("add"))
LEVELS: Final = st.lists(
    st.tuples(st.one_of(WHEN, st.just(LAST_MONTH)), RESOURCES, st.one_of(SETS, ADDS)), min_size=1, max_size=6
)


def cases(kinds: tuple[str, ...] = ALL) -> st.SearchStrategy[Case]:
    return st.builds(
        case_of,
        month=st.tuples(st.sampled_from(ZONES), st.sampled_from((2010, 2011, 2016, 2024)), st.integers(1, 12)),
        offered=plans(kinds),
        sign_up=st.one_of(st.just(LONG_BEFORE), MARKS),
        later=st.lists(st.tuples(MARKS, st.integers(0, 2)), max_size=3),
        uses=USES,
        levels=LEVELS,
        seed=st.integers(0, 2**32),
    )


def case_of(
    *,
    month: tuple[str, int, int],
    offered: Sequence[dict[str, Any]],
    sign_up: Mark,
    later: Sequence[tuple[Mark, int]],
    uses: Sequence[tuple[Mark, str, str, int]],
    levels: Sequence[tuple[Mark, str, tuple[int, str]]],
    seed: int,
) -> Case:
    named = {f"p{number}": plan for number, plan in enumerate(offered)}
    starts = [start for start, _ in days(*month)]
    first = sign_up.moment(starts, [])
    changes = {mark.moment(starts, []): f"p{plan % len(named)}" for mark, plan in later}
    timeline = [(first, "p0")]
    for at, plan in sorted(changes.items()):
        if at > first and plan != timeline[-1][1]:
            timeline.append((at, plan))
    instants = [at for at, _ in timeline]
    events = [Event(mark.moment(starts, instants), meter, resource, units) for mark, meter, resource, units in uses]
    stood = [
        Event(mark.moment(starts, instants).replace(microsecond=0), "disk", resource, units, kind == "set")
        for mark, resource, (units, kind) in levels
    ]
    return Case(Month(*month, timeline, named), events, sorted(stood), random.Random(seed))
