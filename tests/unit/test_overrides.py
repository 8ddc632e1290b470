"""A plan as one tenant has it: what changes, what stays, and that every rule of a plan still holds."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest

from mm_metering import catalogues
from mm_metering.core.catalogue import AiPolicy, Limit, Plan
from mm_metering.core.catalogue_file import parse
from mm_metering.core.catalogue_layout import overridden
from mm_metering.core.periods import Window
from mm_metering.core.pricing import Flat
from mm_metering.errors import CatalogueError

METERS = catalogues.seed.meters
PRO = catalogues.seed.plan("pro")
WITH_AI = parse(
    """
[meters]
ai_cost = { event = "ai_call", unit = "money" }
[plans.pro]
price = "99.00"
[plans.pro.quotas]
ai_cost = { limit = "5", per = "day" }
[plans.pro.ai]
monthly_budget = "50.00"
model_allowlist = ["gpt-4", "mini"]
fallback_model = "mini"
on_unpriced = "allow"
""",
    "plans.toml",
).plan("pro")


def changed(plan: Plan, **changes: object) -> Plan:
    """With the catalogue's meters, and without them as stored changes are read: both come to the same."""
    found = overridden(plan, changes, meters=METERS)
    assert overridden(plan, changes) == found
    assert Plan.from_definition(found.name, found.definition()) == found
    return found


def test_nothing_changed_is_the_same_plan() -> None:
    assert changed(PRO) == changed(PRO, price=None, quotas=None, ai=None) == PRO
    assert changed(WITH_AI, ai={}) == WITH_AI


def test_another_price_leaves_all_else() -> None:
    found = changed(PRO, price="79.00")
    assert (found.name, found.price, found.support) == ("pro", Decimal("79.00"), "email")
    assert found.quotas == PRO.quotas


def test_a_meters_limits_are_replaced_together_and_others_stay() -> None:
    day = {"limit": 50_000, "per": "day", "then": "charge", "price": {"flat": "10.00"}}
    found = changed(PRO, quotas={"api_calls": [day, {"limit": 9, "per": "second"}], "users": {"limit": 25}})
    assert found.quotas["api_calls"] == (
        Limit("api_calls", Window.SECOND, 9),
        Limit("api_calls", Window.DAY, 50_000, then="charge", price=Flat(Decimal(10))),
    )
    assert found.quotas["users"] == (Limit("users", Window.NONE, 25),)
    untouched = set(PRO.quotas) - {"api_calls", "users"}
    assert {meter: found.quotas[meter] for meter in untouched} == {meter: PRO.quotas[meter] for meter in untouched}


def test_none_takes_a_meters_limits_away() -> None:
    assert set(PRO.quotas) - set(changed(PRO, quotas={"api_calls": None, "exports": None}).quotas) == {"api_calls"}


def test_a_meter_that_the_plan_does_not_limit_may_be_limited() -> None:
    found = changed(PRO, quotas={"exports": {"limit": 5, "per": "day"}})
    assert found.quotas["exports"] == (Limit("exports", Window.DAY, 5),)


def test_money_stays_money() -> None:
    found = changed(WITH_AI, quotas={"ai_cost": {"limit": "7.50", "per": "day"}})
    assert found.quotas["ai_cost"] == (Limit("ai_cost", Window.DAY, 7_500_000_000, unit="money"),)
    new = overridden(PRO, {"quotas": {"ai_cost": {"limit": "7.50", "per": "day", "unit": "money"}}})
    assert new.quotas["ai_cost"] == found.quotas["ai_cost"]


def test_ai_settings_change_one_by_one_and_none_takes_one_away() -> None:
    found = changed(WITH_AI, ai={"daily_budget": None, "monthly_budget": "70.00", "on_unpriced": None})
    assert found.ai == AiPolicy(
        monthly_budget=Decimal("70.00"), model_allowlist=("gpt-4", "mini"), fallback_model="mini", on_unpriced="block"
    )
    assert changed(PRO, ai={"model_allowlist": ["gpt-4"]}).ai == AiPolicy(model_allowlist=("gpt-4",))


WRONG: list[tuple[Plan, object, str]] = [
    (PRO, None, "overrides: expected a table, got nothing"),
    (PRO, {"prize": 1}, 'overrides: unknown key "prize"; did you mean "price"?'),
    (PRO, {"support": "priority"}, 'overrides: unknown key "support"; choose from: price, minimum, quotas, ai, alerts'),
    (PRO, {"price": 0.1}, 'overrides.price: 0.1 is a float and not exact; write it as a string, "0.1"'),
    (
        PRO,
        {"quotas": {"api_calls": {"limit": 1, "per": "day", "then": "charge"}}},
        'overrides.quotas.api_calls: charging needs a price; add unit_price = "0.01", or write then = "block"',
    ),
    (
        PRO,
        {"quotas": {"users": {"limit": 1, "per": "day"}}},
        "overrides.quotas.users: users is a level and has no window; leave per out",
    ),
    (
        PRO,
        {"quotas": {"api_calls": [{"limit": 1, "per": "day"}, {"limit": 2, "per": "day"}]}},
        "overrides.quotas.api_calls[1]: api_calls has another limit per day; keep one",
    ),
    (
        WITH_AI,
        {"ai": {"fallback_model": "gpt-4o"}},
        'overrides.ai.fallback_model: "gpt-4o" is not in model_allowlist; did you mean "gpt-4"?',
    ),
    (
        WITH_AI,
        {"ai": {"daily_budget": "1"}},
        "overrides.ai.daily_budget: quotas.ai_cost has a limit per day too; keep one of the two",
    ),
]


@pytest.mark.parametrize(("plan", "changes", "message"), WRONG, ids=[message[:50] for *_, message in WRONG])
def test_a_wrong_change_is_told_with_the_way_out(plan: Plan, changes: object, message: str) -> None:
    for meters in (METERS, None):
        with pytest.raises(CatalogueError) as caught:
            overridden(plan, changes, meters=meters)
        assert str(caught.value) == message


def test_with_the_catalogues_meters_an_unknown_one_is_refused() -> None:
    changes: Mapping[str, object] = {"quotas": {"api_call": {"limit": 1, "per": "day"}}}
    with pytest.raises(CatalogueError) as caught:
        overridden(PRO, changes, meters=METERS)
    assert str(caught.value) == 'overrides.quotas: unknown meter "api_call"; did you mean "api_calls"?'
    with pytest.raises(CatalogueError, match=r"overrides\.ai\.daily_budget: a budget limits the meter ai_cost; add"):
        overridden(PRO, {"ai": {"daily_budget": "1"}}, meters={})
