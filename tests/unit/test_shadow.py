"""What another plan would have decided, request by request and by sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.billing.shadow import limits_of, stretches_of
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Cell, CellKey, CellSum, Segment
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import Window, micros
from mm_metering.core.rating import Terms
from mm_metering.core.shadow import Ask, Bound, Counts, Replay, Stretch, asks_of, level_let_in, level_past
from mm_metering.core.tenancy import TenantRow

NOON = micros(datetime(2024, 1, 15, 12, tzinfo=UTC))
SECOND, DAY = 1_000_000, 86_400_000_000
METERS = {
    "calls": {"event": "call"},
    "pages": {"event": "page"},
    "seats": {"aggregation": "level"},
}


def limits(status: str = "active", **quotas: Any) -> Counts:
    """The counters of a tenant on a plan with these quotas since January began."""
    catalogue = Catalogue.from_dict(
        {"currency": "USD", "meters": METERS, "plans": {"p": {"price": "0.00", "quotas": quotas}}}
    )
    start = micros(datetime(2024, 1, 1, tzinfo=UTC))
    row = TenantRow("t", "UTC", start, 1, None, (Segment(start, "p", 1, status),))
    return Counts(limits_of(Terms(row, {("p", 1): catalogue.plans["p"]}), catalogue))


def per_day(units: int) -> dict[str, Any]:
    return {"limit": units, "per": "day"}


def per_month(units: int) -> dict[str, Any]:
    return {"limit": units, "per": "month"}


OPEN: dict[str, Any] = {"calls": {"limit": "unlimited", "per": "day"}}


def replay(then: Counts, now: Counts | None = None) -> Replay:
    return Replay(now or limits(**OPEN), then, today_us=NOON // DAY * DAY)


def stretch(used: Mapping[str, int], refused: Mapping[str, int] | None = None, day: int = 0, **more: Any) -> Stretch:
    """A day of January, counted from the 15th."""
    start_us = NOON // DAY * DAY + day * DAY
    return Stretch(start_us, start_us + DAY, used, refused or {}, sum(used.values()), **more)


def send(into: Replay, *units: int, meter: str = "calls", from_us: int = NOON) -> None:
    for number, each in enumerate(units):
        into.add(Ask(from_us + number * SECOND, {meter: each}))


# -- one rule ----------------------------------------------------------------------------------------------------------


def test_a_request_is_refused_whole_and_smaller_ones_after_it_fit() -> None:
    found = replay(limits(calls=per_day(10)))
    send(found, 6, 5, 4, 1)
    hit = found.hits["calls", Window.DAY]
    assert (found.refused, hit.window, hit.month, hit.since_us) == ({"calls": 6}, 6, 6, NOON + SECOND)


def test_of_several_limits_the_shortest_window_is_named() -> None:
    found = replay(limits(calls=[per_day(3), per_month(3)]))
    send(found, 3, 2)
    assert found.hits.keys() == {("calls", Window.DAY)}
    send(found, 2, from_us=NOON + DAY)
    assert found.hits.keys() == {("calls", Window.DAY), ("calls", Window.MONTH)}
    assert found.hits["calls", Window.MONTH].since_us == NOON + DAY
    assert found.refused == {"calls": 4}


def test_one_meter_that_refuses_keeps_the_others_free() -> None:
    found = replay(limits(calls=per_day(10), pages=per_day(1)), limits(pages=per_day(99)))
    for _ in range(2):
        found.add(Ask(NOON, {"calls": 4, "pages": 1}))
    send(found, 6)
    assert found.refused == {"pages": 1}


def test_what_refuses_on_an_earlier_day_is_in_the_month_and_not_in_the_window() -> None:
    found = replay(limits(calls=per_day(2)))
    send(found, 1, 1, 1, from_us=NOON - DAY)
    hit = found.hits["calls", Window.DAY]
    assert (hit.month, hit.window, hit.since_us) == (1, 0, None)


def test_a_cap_refuses_by_the_money_past_the_limit() -> None:
    capped = {"limit": 2, "per": "day", "then": {"charge_up_to": "0.25"}, "unit_price": "0.10"}
    found = replay(limits(calls=capped))
    send(found, 2, 1, 1, 1, 1)
    assert found.refused == {"calls": 2}
    other_day = stretch({"calls": 3}, day=1)
    assert found.needs_facts(other_day), "the cap is the month's"
    found.add_sums(other_day)
    assert found.refused == {"calls": 3}


def test_a_month_that_is_full_since_an_earlier_day_is_the_window_that_is_open() -> None:
    found = replay(limits(calls=per_month(1)))
    send(found, 1, 1, from_us=NOON - DAY)
    hit = found.hits["calls", Window.MONTH]
    assert (hit.month, hit.window, hit.since_us) == (1, 1, NOON - DAY + SECOND)


def test_rates_are_looked_at_from_the_running_day_on() -> None:
    found = replay(limits(calls=[{"limit": 2, "per": "second"}, per_day(100)]))
    for day in (-1, 0):
        for step in (0, 1, 2, SECOND):
            found.add(Ask(NOON + day * DAY + step, {"calls": 1}))
    hit = found.hits["calls", Window.SECOND]
    assert (hit.window, hit.since_us, found.refused) == (1, NOON + 2, {"calls": 1})


def test_in_trial_what_charges_blocks() -> None:
    charges = {"limit": 3, "per": "day", "then": "charge", "unit_price": "1.00"}
    for status, refused in (("trial", 2), ("active", 0)):
        found = replay(limits(status, calls=charges))
        send(found, 1, 1, 1, 1, 1)
        assert found.refused["calls"] == refused


# -- stated, not asked -------------------------------------------------------------------------------------------------


def test_past_the_limit_in_force_it_was_stated_and_counts_under_both() -> None:
    found = replay(limits(calls=per_day(4)), limits(calls=per_day(5)))
    send(found, 1, 1, 1, 1, 1, 1, 1)
    assert found.refused == {"calls": 1}, "the fifth; two more were never asked"
    sums = replay(limits(calls=per_day(4)), limits(calls=per_day(5)))
    sums.add_sums(stretch({"calls": 7}))
    assert (sums.refused, sums.hits["calls", Window.DAY].since_us) == ({"calls": 1}, None)


def test_a_correction_is_never_refused() -> None:
    found = replay(limits(calls=per_day(4)))
    found.add_sums(stretch({"calls": 9}, asks=False))
    send(found, -6, 1, 1)
    assert found.refused == {"calls": 1}


def test_nothing_is_asked_while_the_state_refuses_all() -> None:
    found, silent = replay(limits(calls=per_day(4))), stretch({"calls": 9}, {"calls": 5}, asks=False)
    assert not found.needs_facts(silent)
    found.add_sums(silent)
    found.end(silent)
    assert (found.refused, found.allowed) == ({}, {})


# -- sums --------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 1), max_size=12), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 25)
)
def test_of_single_units_sums_tell_what_facts_do(days: list[list[int]], a_day: int, a_month: int) -> None:
    both = [replay(limits(calls=[per_day(a_day), per_month(a_month)])) for _ in range(2)]
    for number, units in enumerate(days):
        whole = stretch({"calls": len(units)} if units else {}, day=number - 2)
        send(both[0], *units, from_us=whole.start_us)
        both[1].add_sums(whole)
    assert both[0].refused == both[1].refused
    assert sum(hit.month for hit in both[0].hits.values()) == both[0].refused["calls"]


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=4), st.integers(0, 20), st.integers(0, 40)
)
def test_where_sums_do_not_ask_for_facts_nothing_is_refused(days: list[list[int]], a_day: int, a_month: int) -> None:
    exact, quick = (replay(limits(calls=[per_day(a_day), per_month(a_month)])) for _ in range(2))
    for number, units in enumerate(days):
        whole = stretch({"calls": sum(units)} if units else {}, day=number - 3)
        send(exact, *units, from_us=whole.start_us)
        if quick.needs_facts(whole):
            send(quick, *units, from_us=whole.start_us)
        else:
            quick.add_sums(whole)
    assert (exact.refused, exact.hits) == (quick.refused, quick.hits)


def test_a_new_rate_needs_the_facts_of_the_running_day_alone() -> None:
    a_rate = limits(calls=[{"limit": 2, "per": "second"}, per_day(100)])
    found = replay(a_rate)
    assert [found.needs_facts(stretch({"calls": 3}, day=day)) for day in (-1, 0)] == [False, True]
    assert not replay(a_rate, a_rate).needs_facts(stretch({"calls": 3}))
    assert not found.needs_facts(stretch({"pages": 3}))


# -- refused demand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "then", "let_in"),
    [
        (per_day(5), per_day(8), 3),
        (per_day(5), per_day(99), 6),
        (per_day(5), {"limit": "unlimited", "per": "day"}, 6),
        (per_day(5), per_day(5), 0),
        (per_day(5), per_day(2), 0),
        (per_day(5), [per_day(8), per_month(6)], 1),
        (per_day(5), {"limit": 5, "per": "day", "then": {"charge_up_to": "0.20"}, "unit_price": "0.10"}, 2),
        ([per_day(5), {"limit": 1, "per": "second"}], [per_day(5), {"limit": 9, "per": "second"}], 0),
    ],
)
def test_refused_units_take_the_room_that_is_left(now: Any, then: Any, let_in: int) -> None:
    found, day = replay(limits(calls=then), limits(calls=now)), stretch({"calls": 5}, {"calls": 6})
    found.add_sums(day)
    found.end(day)
    assert (found.allowed["calls"], found.allowed_today["calls"]) == (let_in, let_in)


def test_what_a_rate_refused_stays_refused_where_both_have_it() -> None:
    same: dict[str, Any] = {"calls": [{"limit": 1, "per": "second"}, per_day(9)]}
    found, day = replay(limits(**same), limits(**same)), stretch({"calls": 3}, {"calls": 4})
    found.add_sums(day)
    found.end(day)
    assert not found.allowed


def test_what_is_let_in_is_used_on_the_days_that_follow() -> None:
    found = replay(limits(calls=per_month(30)), limits(calls=per_day(10)))
    for day in (-2, -1, 0):
        each = stretch({"calls": 10}, {"calls": 10}, day=day)
        found.add_sums(each)
        found.end(each)
    assert (found.allowed, found.refused) == ({"calls": 10}, {"calls": 10})
    assert not found.allowed_today["calls"]


# -- levels ------------------------------------------------------------------------------------------------------------


def seats(most: int | None) -> Bound | None:
    form = {"limit": "unlimited" if most is None else most}
    (bound,) = limits(seats=form).limits("seats", NOON)
    return bound


@pytest.mark.parametrize(
    ("value", "refused", "now", "then", "past", "let_in"),
    [
        (8, 3, 8, 5, 3, 0),
        (8, 3, 8, 10, 0, 2),
        (8, 3, 8, None, 0, 3),
        (5, 3, 8, 8, 0, 0),
        (12, 0, 8, 5, 3, 0),
        (12, 0, None, 5, 7, 0),
        (12, 0, 5, 5, 0, 0),
        (2, 1, 5, 4, 0, 1),
    ],
)
def test_levels_are_what_stands_but_for_what_was_stated(
    value: int, refused: int, now: int | None, then: int | None, *, past: int, let_in: int
) -> None:
    assert level_past(value, seats(now), seats(then)) == past
    assert level_let_in(value, refused, seats(now), seats(then)) == let_in
    assert level_past(value, None, None) == 0


# -- from the ledger ---------------------------------------------------------------------------------------------------


def fact(fact_id: str, *counts: tuple[str, int], at: int = NOON, kind: str = "use") -> Fact:
    named = tuple(Count(meter, "", units) for meter, units in counts)
    return Fact(fact_id, at, kind, "t", "call", "/x", 1, None, named)


def test_facts_of_one_request_are_one_ask() -> None:
    scoped = fact("b")._replace(counts=(Count("calls", "", 2), Count("calls", "user", 2)))
    found = asks_of(
        [
            fact("a", ("calls", 1), ("pages", 2)),
            fact("a.1", ("calls", 3)),
            scoped,
            fact("b.1", ("calls", 1), at=NOON + 1),
            fact("c", ("seats", 5), kind="set"),
            fact("d"),
        ]
    )
    assert list(found) == [
        (NOON, {"calls": 4, "pages": 2}),
        (NOON, {"calls": 2}),
        (NOON + 1, {"calls": 1}),
    ]


def test_cells_become_stretches_cut_where_plans_change() -> None:
    start, change = (micros(datetime(2024, 1, day, 12, tzinfo=UTC)) for day in (1, 16))
    segments = (Segment(start, "p", 1), Segment(change, "p", 2, "paused"))
    terms = Terms(TenantRow("t", "Europe/Berlin", start, 1, None, segments), {})

    def cell(day: int, since_us: int, meter: str, units: int, refused: int = 0) -> Cell:
        key = CellKey("t", date(2024, 1, day), since_us, meter, "" if refused else "/x", "")
        return Cell(key, CellSum(units, count=bool(units)), 1, refused)

    cells = [
        cell(16, change, "calls", 4),
        cell(1, start, "calls", 1),
        cell(16, start, "calls", 2),
        cell(16, start, "calls", 0, 7),
        cell(16, start, "seats", 3),
    ]
    midnight = micros(datetime(2024, 1, 15, 23, tzinfo=UTC))
    first = micros(datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert list(stretches_of(cells, terms, levels={"seats"})) == [
        Stretch(first, first + DAY, Counter(calls=1), Counter(), 1),
        Stretch(midnight, change, Counter(calls=2), Counter(calls=7), 1),
        Stretch(change, midnight + DAY, Counter(calls=4), Counter(), 1, asks=False),
    ]
