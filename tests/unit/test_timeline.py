"""Subscriptions over time: every event in every state, and what stays of what was planned."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.cells import Segment
from mm_metering.core.lifecycles import FREE_STATES, REFUSED_AS, SUBSCRIPTION
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow, changed_tenant, with_change
from mm_metering.core.timeline import Change, PlanChange, StateChange, settled
from mm_metering.errors import InvalidInput, WrongState

EVENTS = ("pause", "resume", "cancel", "fail payment", "suspend", "pay")
DEFAULTS = TenantDefaults("free", 1, "UTC")

WAYS: dict[str, tuple[Change, ...]] = {
    "trial": (),
    "active": (),
    "past_due": (StateChange(50, "fail payment"),),
    "unpaid": (StateChange(50, "suspend"),),
    "paused": (StateChange(50, "pause"),),
    "canceled": (StateChange(50, "cancel"),),
}
"""How a subscription that began at 0 comes into each state by 50."""


def row(*segments: Segment, trial_us: int = 0) -> TenantRow:
    starts_us = segments[0].starts_us
    return TenantRow("t", "UTC", starts_us, 1, None, settled(segments, starts_us + trial_us), trial_us)


def pro(trial_us: int = 0) -> TenantRow:
    return row(Segment(0, "pro", 1), trial_us=trial_us)


def after(tenant: TenantRow, *changes: Change) -> TenantRow:
    for change in changes:
        tenant = with_change(tenant, change)
    return tenant


def seen(tenant: TenantRow) -> list[tuple[int, str, str]]:
    return [(each.starts_us, each.plan, each.status) for each in tenant.segments]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", SUBSCRIPTION.moves)
def test_each_event_in_each_state_does_what_the_table_says(state: str, event: str) -> None:
    tenant = after(pro(trial_us=1000 if state == "trial" else 0), *WAYS[state])
    assert tenant.segment_at(100).status == state
    becomes = SUBSCRIPTION.moves[state].get(event)
    if becomes is None:
        with pytest.raises(WrongState, match=f"subscription t is {state}: {event} is not possible; it allows"):
            with_change(tenant, StateChange(100, event))
        return
    changed = with_change(tenant, StateChange(100, event))
    assert changed.segment_at(100).status == becomes
    assert changed.segment_at(99) == tenant.segment_at(99)
    assert (changed is tenant) == (becomes == state)


def test_all_states_are_reached_and_each_allows_a_change_of_plan_and_a_cancellation() -> None:
    assert set(SUBSCRIPTION.moves) == set(WAYS)
    reached = {state for moves in SUBSCRIPTION.moves.values() for state in moves.values()}
    assert reached | {"trial"} == set(SUBSCRIPTION.moves)
    assert all({"change plan", "cancel"} <= moves.keys() for moves in SUBSCRIPTION.moves.values())
    assert set(REFUSED_AS) < FREE_STATES == {"trial", *REFUSED_AS}
    owes = [state for state, moves in SUBSCRIPTION.moves.items() if "pause" not in moves]
    assert owes == ["past_due", "unpaid", "canceled"]


CASES: dict[str, tuple[TenantRow, tuple[Change, ...], list[tuple[int, str, str]]]] = {
    "a trial ends by itself": (pro(trial_us=10), (), [(0, "pro", "trial"), (10, "pro", "active")]),
    "a trial that ends while paused": (
        pro(trial_us=10),
        (StateChange(5, "pause"), StateChange(20, "resume")),
        [(0, "pro", "trial"), (5, "pro", "paused"), (20, "pro", "active")],
    ),
    "a pause that ends within the trial": (
        pro(trial_us=10),
        (StateChange(5, "pause"), StateChange(7, "resume")),
        [(0, "pro", "trial"), (5, "pro", "paused"), (7, "pro", "trial"), (10, "pro", "active")],
    ),
    "a plan that changes in the trial": (
        pro(trial_us=10),
        (PlanChange(4, "enterprise", 1),),
        [(0, "pro", "trial"), (4, "enterprise", "trial"), (10, "enterprise", "active")],
    ),
    "a trial that was canceled": (
        pro(trial_us=10),
        (StateChange(5, "cancel"),),
        [(0, "pro", "trial"), (5, "pro", "canceled")],
    ),
    "a planned cancellation stays when the plan changes": (
        pro(),
        (StateChange(30, "cancel"), PlanChange(10, "enterprise", 1)),
        [(0, "pro", "active"), (10, "enterprise", "active"), (30, "enterprise", "canceled")],
    ),
    "resume undoes a planned cancellation": (
        pro(),
        (StateChange(30, "cancel"), StateChange(10, "resume")),
        [(0, "pro", "active")],
    ),
    "a planned downgrade stays through a pause": (
        pro(),
        (PlanChange(30, "free", 1), StateChange(10, "pause"), StateChange(40, "resume")),
        [(0, "pro", "active"), (10, "pro", "paused"), (30, "free", "paused"), (40, "free", "active")],
    ),
    "a cancellation ends a pause": (
        pro(),
        (StateChange(10, "pause"), StateChange(20, "cancel")),
        [(0, "pro", "active"), (10, "pro", "paused"), (20, "pro", "canceled")],
    ),
    "a pause does not bring back what is canceled": (
        pro(),
        (StateChange(20, "cancel"), StateChange(10, "pause")),
        [(0, "pro", "active"), (10, "pro", "paused"), (20, "pro", "canceled")],
    ),
    "who is canceled subscribes again": (
        pro(),
        (StateChange(10, "cancel"), PlanChange(20, "free", 1)),
        [(0, "pro", "active"), (10, "pro", "canceled"), (20, "free", "active")],
    ),
    "also on the same plan": (
        pro(),
        (StateChange(10, "cancel"), PlanChange(20, "pro", 1)),
        [(0, "pro", "active"), (10, "pro", "canceled"), (20, "pro", "active")],
    ),
    "of two changes at one instant the last holds": (
        pro(),
        (PlanChange(10, "free", 1), PlanChange(10, "enterprise", 1)),
        [(0, "pro", "active"), (10, "enterprise", "active")],
    ),
    "a plan and a state at one instant": (
        pro(),
        (PlanChange(10, "free", 1), StateChange(10, "pause")),
        [(0, "pro", "active"), (10, "free", "paused")],
    ),
    "there and back at one instant": (
        pro(),
        (PlanChange(10, "free", 1), PlanChange(10, "pro", 1)),
        [(0, "pro", "active")],
    ),
    "later changes of plan end with an earlier one": (
        pro(),
        (PlanChange(30, "free", 1), PlanChange(10, "enterprise", 1)),
        [(0, "pro", "active"), (10, "enterprise", "active")],
    ),
    "a change at the sign-up itself": (pro(), (PlanChange(0, "free", 1),), [(0, "free", "active")]),
    "who pays is active again": (
        pro(),
        (StateChange(10, "fail payment"), StateChange(20, "suspend"), StateChange(30, "pay")),
        [(0, "pro", "active"), (10, "pro", "past_due"), (20, "pro", "unpaid"), (30, "pro", "active")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_timeline_afterwards(case: str) -> None:
    tenant, changes, expected = CASES[case]
    assert seen(after(tenant, *changes)) == expected


def test_nothing_changes_before_the_sign_up() -> None:
    tenant = row(Segment(100, "pro", 1))
    for change in (PlanChange(99, "free", 1), StateChange(99, "pause")):
        with pytest.raises(InvalidInput, match="lies before the tenant's sign-up, 1970-01-01T00:00:00Z"):
            with_change(tenant, change)


def test_a_trial_is_counted_from_the_sign_up_and_moves_with_it() -> None:
    tenant = changed_tenant(None, NewTenant("t", "pro", 1, subscribed_us=100, trial_us=50), DEFAULTS, 100)
    assert seen(tenant) == [(100, "pro", "trial"), (150, "pro", "active")]
    again = changed_tenant(tenant, NewTenant("t", "pro", 1, trial_us=50), DEFAULTS, 120)
    assert again is tenant
    longer = changed_tenant(tenant, NewTenant("t", trial_us=80), DEFAULTS, 120)
    assert seen(longer) == [(100, "pro", "trial"), (180, "pro", "active")]
    assert longer.revision == tenant.revision + 1
    assert seen(changed_tenant(longer, NewTenant("t", trial_us=0), DEFAULTS, 120)) == [(100, "pro", "active")]
    moved = changed_tenant(tenant, NewTenant("t", subscribed_us=160), DEFAULTS, 120)
    assert seen(moved) == [(160, "pro", "trial"), (210, "pro", "active")]
    paused = after(tenant, StateChange(130, "pause"))
    assert seen(changed_tenant(paused, NewTenant("t", trial_us=10), DEFAULTS, 140)) == [
        (100, "pro", "trial"),
        (110, "pro", "active"),
        (130, "pro", "paused"),
    ]


def test_an_anchor_can_be_changed_until_the_first_month_ends() -> None:
    tenant = changed_tenant(None, NewTenant("t", "pro", 1, subscribed_us=0), DEFAULTS, 0)
    day_us = 86_400_000_000
    moved = changed_tenant(tenant, NewTenant("t", anchor_day=15), DEFAULTS, 14 * day_us - 1)
    assert (moved.anchor_day, moved.revision) == (15, tenant.revision + 1)
    with pytest.raises(InvalidInput, match="can be changed until 1970-01-15T00:00:00Z"):
        changed_tenant(tenant, NewTenant("t", anchor_day=15), DEFAULTS, 14 * day_us)


INSTANTS = st.integers(0, 40)
CHANGES = st.one_of(
    st.builds(PlanChange, INSTANTS, st.sampled_from(("free", "pro", "enterprise")), st.just(1)),
    st.builds(StateChange, INSTANTS, st.sampled_from(EVENTS)),
)


@given(st.integers(0, 30), st.lists(CHANGES, max_size=8))
def test_whatever_happens_a_timeline_is_in_order_says_nothing_twice_and_keeps_its_past(
    trial_us: int, changes: list[Any]
) -> None:
    tenant = pro(trial_us)
    for change in changes:
        before = tenant
        try:
            tenant = with_change(tenant, change)
        except WrongState:
            continue
        segments = tenant.segments
        assert [each.starts_us for each in segments] == sorted({each.starts_us for each in segments})
        assert all(one[1:] != other[1:] for one, other in pairwise(segments))
        assert settled(segments, tenant.trial_ends_us) == segments
        for moment in range(change.at_us):
            assert tenant.segment_at(moment)[1:] == before.segment_at(moment)[1:]
        if isinstance(change, PlanChange):
            assert all(each.plan == change.plan for each in segments if each.starts_us >= change.at_us)
        for each in segments:
            assert (each.status == "trial") <= (each.starts_us < trial_us)
        assert with_change(tenant, change) is tenant
