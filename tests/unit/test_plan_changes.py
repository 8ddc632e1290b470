"""What differs between stored plans and a file's, whom it touches, and how that is said."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.cells import Segment
from mm_metering.core.periods import Window, micros
from mm_metering.core.plan_changes import (
    NAMED,
    Census,
    Dropped,
    LimitChange,
    Over,
    Use,
    ValueChange,
    differences,
    dropped,
    new_limits,
)
from mm_metering.core.plan_words import MAX_CHARS, changes, headline, past_words, shortened
from mm_metering.core.tenancy import TenantRow

NOW = datetime.fromisoformat("2024-01-15T23:30:00+00:00")
DAILY = {"limit": 10_000, "per": "day", "then": "charge", "unit_price": "0.01"}
METERS = {
    "api_calls": {"event": "api_call"},
    "reports": {"event": "export"},
    "ai_cost": {"event": "ai_call", "unit": "money"},
    "users": {"aggregation": "level"},
}


def plan(price: str = "99.00", *, name: str = "pro", **more: Any) -> Plan:
    """A plan with these quotas and settings."""
    tree = {"meters": METERS, "plans": {name: {"price": price} | more}}
    return Catalogue.from_dict(tree).plans[name]


def of(**quotas: Any) -> Plan:
    return plan(quotas=quotas)


def said(before: Plan, after: Plan) -> list[str]:
    (found,) = differences({("pro", 1): before}, {"pro": after})
    return list(changes(found))


def tenant(name: str, *segments: tuple[str, str, int], zone: str = "UTC") -> TenantRow:
    """On plan versions from days on."""
    timeline = tuple(
        Segment(micros(datetime.fromisoformat(f"{day}T00:00:00+00:00")), plan, version)
        for day, plan, version in segments
    )
    return TenantRow(name, zone, timeline[0].starts_us, 1, None, timeline)


def on_pro(name: str, version: int = 1, **options: Any) -> TenantRow:
    return tenant(name, ("2024-01-01", "pro", version), **options)


# -- what differs ------------------------------------------------------------------------------------------------------


def test_new_gone_and_changed_plans_stand_against_the_newest_version() -> None:
    stored = {
        ("basic", 1): plan(name="basic"),
        ("free", 1): plan("0.00", name="free"),
        ("pro", 1): plan("119.00"),
        ("pro", 2): plan("99.00"),
        ("pro~acme", 1): plan("79.00"),
    }
    file = {"team": plan(name="team"), "pro": plan("119.00"), "free": plan("0", name="free")}
    found = differences(stored, file)
    assert [(each.plan, each.kind, each.version) for each in found] == [
        ("team", "new", 0),
        ("pro", "changed", 2),
        ("basic", "gone", 1),
    ]
    assert [headline(each) for each in found] == [
        "team: new",
        "pro: price 99.00 -> 119.00",
        "basic: gone from the file",
    ]


def test_a_difference_is_told_field_by_field() -> None:
    before = plan("99.00", support="email", quotas={"api_calls": DAILY, "users": {"limit": 10}})
    after = plan("119.00", quotas={"api_calls": DAILY | {"limit": 8_000}, "reports": {"limit": 50, "per": "month"}})
    (found,) = differences({("pro", 4): before}, {"pro": after})
    assert found.values == (ValueChange("price", "99.00", "119.00"), ValueChange("support", "email", None))
    calls, users, reports = found.limits
    assert calls[:2] == ("api_calls", Window.DAY)
    assert calls.before is not None
    assert calls.after == {**calls.before, "limit": 8_000}
    assert users == LimitChange("users", Window.NONE, {"limit": 10, "then": "block"}, None)
    assert reports[:3] == ("reports", Window.MONTH, None)
    assert list(changes(found)) == [
        "price 99.00 -> 119.00",
        "support email -> none",
        "api_calls per day 10000 -> 8000",
        "users: 10, past it refused -> no limit",
        "reports per month: no limit -> 50, past it refused",
    ]


def test_there_is_a_difference_exactly_where_the_digests_differ() -> None:
    assert differences({("pro", 1): plan("99")}, {"pro": plan("99.00")}) == ()
    assert said(plan(), plan(ai={})) == ["ai on_unpriced none -> block"]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (DAILY | {"unit_price": "0.02"}, ["api_calls per day past it: 0.01 each -> 0.02 each"]),
        ({"limit": 10_000, "per": "day"}, ["api_calls per day past it: 0.01 each -> refused"]),
        (
            DAILY | {"then": {"charge_up_to": "20.00"}},
            ["api_calls per day past it: 0.01 each -> 0.01 each up to 20.00, then refused"],
        ),
        (
            DAILY | {"unit_price": {"/a": "0.01", "/b": "0.03"}},
            ["api_calls per day past it: 0.01 each -> /a 0.01 each, /b 0.03 each"],
        ),
        (
            {"limit": "unlimited", "per": "day"},
            ["api_calls per day 10000 -> unlimited", "api_calls per day past it: 0.01 each -> nothing"],
        ),
        (
            {"limit": 0, "per": "day"},
            ["api_calls per day 10000 -> 0", "api_calls per day past it: 0.01 each -> not in the plan"],
        ),
        (
            DAILY | {"per": "month"},
            [
                "api_calls per day: 10000, past it 0.01 each -> no limit",
                "api_calls per month: no limit -> 10000, past it 0.01 each",
            ],
        ),
        (
            [{"limit": 5, "per": "second"}, DAILY],
            ["api_calls per second: no limit -> 5, past it refused"],
        ),
    ],
)
def test_a_limit_in_words(after: Any, words: list[str]) -> None:
    assert said(of(api_calls=DAILY), of(api_calls=after)) == words


@pytest.mark.parametrize(
    ("price", "words"),
    [
        (
            {"graduated": [{"up_to": 1_000, "unit_price": "0.01"}, {"unit_price": "0.008", "flat": "5.00"}]},
            "0.01 each up to 1000, then 0.008 each + 5.00",
        ),
        (
            {"volume": [{"up_to": 1_000, "unit_price": "0.01"}, {"unit_price": "0.008"}]},
            "all units at 0.01 each up to 1000, or 0.008 each",
        ),
        ({"package": 1_000, "unit_price": "5.00"}, "5.00 for each 1000"),
        ({"flat": "10.00"}, "10.00 flat"),
    ],
)
def test_a_price_in_words(price: dict[str, Any], words: str) -> None:
    (form,) = of(api_calls={"limit": 1, "per": "day", "then": "charge", "price": price}).definition()["quotas"][
        "api_calls"
    ]
    assert past_words(form) == words


def test_settings_of_ai_calls_are_told_one_by_one() -> None:
    before = plan(ai={"daily_budget": "50.00", "model_allowlist": ["gpt-4"]})
    after = plan(ai={"daily_budget": "40.00", "model_allowlist": ["gpt-4", "gpt-5"]})
    assert said(before, after) == ["ai daily_budget 50.00 -> 40.00", "ai model_allowlist gpt-4 -> gpt-4, gpt-5"]


def test_a_meter_that_becomes_money_is_told_whole() -> None:
    counts = Plan.from_definition("pro", {"price": "1.00", "quotas": {"x": [{"limit": 5, "per": "day"}]}})
    money = {"limit": "5.00", "per": "day", "unit": "money"}
    after = Plan.from_definition("pro", {"price": "1.00", "quotas": {"x": [money]}})
    assert said(counts, after) == ["x per day: 5, past it refused -> 5.00 of money, past it refused"]


def test_a_line_in_an_error_is_short() -> None:
    assert shortened("x" * MAX_CHARS) == "x" * MAX_CHARS
    assert shortened("x" * 1_000) == "x" * (MAX_CHARS - 1) + "…"


# -- whom it touches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_new"),
    [
        (DAILY, DAILY | {"limit": 8_000}, True),
        (DAILY, DAILY, False),
        (DAILY, DAILY | {"limit": 12_000}, False),
        (DAILY, {"limit": 12_000, "per": "day"}, True),
        ({"limit": 10_000, "per": "day"}, DAILY, False),
        (DAILY, {"limit": "unlimited", "per": "day"}, False),
        ({"limit": "unlimited", "per": "day"}, DAILY, True),
        (DAILY, DAILY | {"per": "month"}, True),
        (DAILY, [DAILY, {"limit": 5, "per": "second"}], False),
    ],
)
def test_which_limits_are_new_to_a_tenant(before: Any, after: Any, is_new: bool) -> None:  # noqa: FBT001
    assert bool(new_limits(of(api_calls=before), of(api_calls=after))) is is_new


def test_a_budget_is_a_limit_too() -> None:
    after = plan(ai={"monthly_budget": "5.00"})
    (limit,) = new_limits(plan(), after)
    assert (limit.meter, limit.window, limit.maximum) == ("ai_cost", Window.MONTH, 5_000_000_000)
    assert new_limits(after, after) == ()


def test_base_prices_are_those_of_each_tenants_own_version() -> None:
    stored = {("pro", 1): plan("89.00"), ("pro", 2): plan("99.00"), ("pro~own", 1): plan("79.50")}
    census = Census(stored, {"pro": plan("119.00")}, now=NOW)
    census.add(on_pro("a"))
    census.add(on_pro("b", 2))
    census.add(on_pro("lost", 9))
    census.add(tenant("own", ("2024-01-01", "pro", 1), ("2024-01-10", "pro~own", 1)))
    census.add(tenant("left", ("2024-01-01", "pro", 1), ("2024-01-15", "free", 1)))
    census.add(tenant("stays", ("2024-01-01", "pro", 1), ("2024-01-16", "free", 1)))
    audience = census.audiences["pro"]
    assert audience.versions == {1: 2, 2: 1, 9: 1, 0: 1}
    assert audience.tenants == 5
    assert audience.base == Decimal("356.50")
    assert audience.base_at(Decimal("119.00")) == Decimal("595.00")
    assert census.in_use == {("pro", 1): 2, ("pro", 2): 1, ("pro", 9): 1, ("pro~own", 1): 1, ("free", 1): 2}


def test_who_is_over_is_told_by_the_windows_that_are_open_in_the_tenants_zone() -> None:
    after = of(api_calls={"limit": 100, "per": "day"}, reports={"limit": 5, "per": "month"}, users={"limit": 2})
    census = Census({("pro", 1): plan()}, {"pro": after}, now=NOW)
    calls, reports, users = new_limits(plan(), after)
    uses = [
        Use(date(2023, 12, 31), "reports", 9),
        Use(date(2024, 1, 1), "reports", 5),
        Use(date(2024, 1, 15), "api_calls", 101),
        Use(date(2024, 1, 16), "api_calls", 100),
    ]
    for row in (on_pro("utc"), on_pro("tokyo", zone="Asia/Tokyo")):
        census.add(row)
        assert census.new_limits(row) == (calls, reports, users)
        census.weigh(row, uses, {("users", "a"): 1, ("users", "b"): 1, ("other", ""): 9})
    assert census.audiences["pro"].over == [Over("utc", calls, 101)]
    census.weigh(on_pro("many"), [*uses, Use(date(2024, 1, 15), "reports", 1)], {("users", "a"): 3})
    assert census.audiences["pro"].over[1:] == [
        Over("many", calls, 101),
        Over("many", reports, 6),
        Over("many", users, 3),
    ]
    assert census.audiences["pro"].over_tenants == 2


def test_at_most_so_many_are_named_and_the_rest_counted() -> None:
    census = Census({("pro", 1): plan()}, {"pro": of(users={"limit": 2})}, now=NOW)
    for number in range(NAMED + 3):
        census.weigh(on_pro(f"t{number:02}"), [], {("users", ""): 3})
    audience = census.audiences["pro"]
    assert [over.tenant for over in audience.over] == [f"t{number:02}" for number in range(NAMED)]
    assert audience.over_tenants == NAMED + 3


def test_nobodys_usage_matters_where_no_plan_changes() -> None:
    assert Census({("pro", 1): plan()}, {}, now=NOW).new_limits(on_pro("a")) == ()


# -- what it may not take away -----------------------------------------------------------------------------------------


def test_a_meter_stays_while_tenants_plans_or_facts_need_it() -> None:
    stored = {
        ("pro", 1): of(reports={"limit": 5, "per": "month"}, users={"limit": 1}),
        ("pro", 2): of(users={"limit": 1}),
        ("pro~a", 1): of(reports={"limit": 9, "per": "month"}),
        ("pro~b", 1): of(reports={"limit": 9, "per": "month"}),
        ("ai", 1): plan(name="ai", ai={"daily_budget": "1.00"}),
    }
    in_use = Counter({("pro", 1): 3, ("pro", 2): 4, ("pro~a", 1): 1, ("pro~b", 1): 1, ("ai", 1): 1, ("lost", 1): 1})
    assert dropped(stored, in_use, {"users": 2, "exports": 7}, {"users"}) == (
        Dropped("ai_cost", "ai", 1, 1),
        Dropped("reports", "pro", 0, 2),
        Dropped("reports", "pro", 1, 3),
        Dropped("exports", None, 0, 7),
    )
    assert dropped(stored, in_use, {"exports": 7}, {*METERS, "exports"}) == ()
    assert dropped(stored, Counter({("pro", 2): 4}), {}, {"users"}) == ()
