"""Add-ons: how a plans file says them, what they make of a plan, and what they cost by the second."""

from __future__ import annotations

import json
from decimal import Decimal

import jsonschema
import pytest

from mm_metering.core.addons import bare, carried, raised, refusal, with_addon, without_addon
from mm_metering.core.catalogue import Addon, Catalogue, HeldAddon, Limit, Plan
from mm_metering.core.catalogue_file import parse
from mm_metering.core.catalogue_layout import overridden
from mm_metering.core.cells import Segment
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import Window, micros
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.timeline import VersionChange, changed_timeline
from mm_metering.errors import CatalogueError, InvalidInput
from tests.unit.billing_case import check_explained, instant

FILE = """
[meters]
api_calls = { event = "api_call" }
users = { aggregation = "level" }
ai_cost = { event = "ai_call", unit = "money" }
[plans.free]
price = "0.00"
quotas.api_calls = { limit = 10, per = "day" }
[plans.pro]
price = "99.00"
[plans.pro.quotas]
api_calls = [
    { limit = 5, per = "second" },
    { limit = 100, per = "day" },
    { limit = 1_000, per = "month", then = { charge_up_to = "20.00" }, unit_price = "0.01" },
]
users = { limit = 2, then = "charge", unit_price = "8.00" }
ai_cost = { limit = "5.00", per = "day" }
[plans.flat]
price = "300.00"
quotas.api_calls = { limit = "unlimited", per = "month" }
"""
ADDONS = """
[addons.calls]
price = "20.00"
plans = ["pro", "flat"]
quotas.api_calls = 50
[addons.bursts]
price = "7.00"
quotas.api_calls = { second = 5, month = 300 }
[addons.seats]
price = "31.00"
quotas.users = 3
[addons.budget]
price = "2.50"
quotas.ai_cost = { day = "1.50" }
[addons.help]
price = "9.30"
"""
CATALOGUE = parse(FILE + ADDONS, "plans.toml")
FREE, PRO, FLAT = (CATALOGUE.plan(name) for name in ("free", "pro", "flat"))
SOLD = CATALOGUE.addons


def limits(plan: Plan, meter: str = "api_calls") -> dict[str, int | None]:
    return {limit.window.value: limit.maximum for limit in plan.quotas[meter]}


# -- as a plans file says them -----------------------------------------------------------------------------------------


def test_a_number_adds_to_days_months_or_a_level_and_a_table_to_what_it_names() -> None:
    assert SOLD["calls"] == Addon(
        "calls",
        Decimal("20.00"),
        ("pro", "flat"),
        {"api_calls": (Limit("api_calls", Window.DAY, 50), Limit("api_calls", Window.MONTH, 50))},
    )
    assert SOLD["bursts"].quotas["api_calls"] == (
        Limit("api_calls", Window.SECOND, 5),
        Limit("api_calls", Window.MONTH, 300),
    )
    assert SOLD["seats"].quotas["users"] == (Limit("users", Window.NONE, 3),)
    assert SOLD["budget"].quotas["ai_cost"] == (Limit("ai_cost", Window.DAY, 1_500_000_000, unit="money"),)
    assert (SOLD["help"].plans, dict(SOLD["help"].quotas)) == (None, {})


def test_the_python_form_and_the_schema_have_them_too() -> None:
    tree = CATALOGUE.to_dict()
    assert Catalogue.from_dict(tree) == CATALOGUE
    assert tree["addons"]["calls"] == {
        "price": "20.00",
        "plans": ["pro", "flat"],
        "quotas": {"api_calls": {"day": 50, "month": 50}},
    }
    assert tree["addons"]["seats"]["quotas"] == {"users": 3}
    assert tree["addons"]["budget"]["quotas"] == {"ai_cost": {"day": "1.50"}}
    validator = jsonschema.Draft202012Validator(Catalogue.json_schema())
    validator.validate(json.loads(json.dumps(tree)))
    tree["addons"]["calls"]["quotas"]["api_calls"] = {"week": 5}
    assert not validator.is_valid(tree)
    assert "addons" in parse(FILE, "plans.toml").to_dict()


WRONG = [
    ('price = "1.00"\nplans = ["prp"]', 'addons.x.plans[0]: unknown plan "prp"; did you mean "pro"?'),
    ('plans = ["pro"]', 'addons.x: price is missing; write price = "20.00", or "0.00" for one that is free'),
    (
        'price = "1.00"\nplans = []',
        "addons.x.plans: the list is empty; leave it out to sell it with every plan that it fits",
    ),
    ("price = 1.5", 'addons.x.price: 1.5 is a float and not exact; write it as a string, "1.5"'),
    (
        'price = "1.00"\nplans = ["pro", "free"]\nquotas.users = 3',
        "addons.x.plans[1]: free has no limit of users, so x would raise nothing; leave free out, or limit that there",
    ),
    (
        'price = "1.00"\nplans = ["free"]\nquotas.api_calls = { second = 1, month = 1 }',
        (
            "addons.x.plans[0]: free has no limit of api_calls per second or month, so x would raise nothing; "
            "leave free out, or limit that there"
        ),
    ),
    (
        'price = "1.00"\nquotas.api_calls = { minute = 1 }',
        (
            "addons.x.quotas: no plan has these limits "
            "(free has no limit of api_calls per minute, so x would raise nothing); limit them in one"
        ),
    ),
    ('price = "1.00"\nquotas.calls = 3', 'addons.x.quotas: unknown meter "calls"; did you mean "api_calls"?'),
    (
        'price = "1.00"\nquotas.users = { day = 3 }',
        "addons.x.quotas.users: users is a level and has no window; write users = 5",
    ),
    (
        'price = "1.00"\nquotas.api_calls = 0',
        "addons.x.quotas.api_calls: 0 is not a whole number from 1 to 9007199254740991",
    ),
    ('price = "1.00"\nquotas.api_calls = {}', "addons.x.quotas.api_calls: the table is empty; write { day = 5_000 }"),
    (
        'price = "1.00"\nquotas.api_calls = { week = 3 }',
        'addons.x.quotas.api_calls: unknown key "week"; choose from: second, minute, day, month',
    ),
    ('price = "1.00"\nquotas.ai_cost = "0.00"', 'addons.x.quotas.ai_cost: "0.00" adds nothing; write more than 0.00'),
    ('price = "1.00"\nquota = 3', 'addons.x: unknown key "quota"; did you mean "quotas"?'),
]


@pytest.mark.parametrize(("said", "message"), WRONG, ids=[said[-40:] for said, _ in WRONG])
def test_what_is_wrong_is_told_with_its_line(said: str, message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        parse(f"{FILE}[addons.x]\n{said}\n", "plans.toml")
    where, _, what = str(caught.value).partition(": ")
    assert what == message
    assert where.startswith("plans.toml:")
    assert caught.value.line is not None
    assert caught.value.line > FILE.count("\n")


# -- what they make of a plan ------------------------------------------------------------------------------------------


def test_limits_that_block_charge_or_are_capped_are_raised_by_each() -> None:
    two = with_addon(PRO, SOLD["calls"], 2)
    assert limits(two) == {"second": 5, "day": 200, "month": 1_100}
    assert two.quotas["api_calls"][2].cap == Decimal("20.00")
    assert limits(with_addon(two, SOLD["bursts"], 3)) == {"second": 20, "day": 200, "month": 2_000}
    assert limits(with_addon(PRO, SOLD["seats"], 4), "users") == {"none": 14}
    assert limits(with_addon(PRO, SOLD["budget"], 2), "ai_cost") == {"day": 8_000_000_000}
    assert (two.price, two.addons["calls"].fee) == (Decimal("99.00"), Decimal("40.00"))


def test_unlimited_stays_unlimited() -> None:
    flat = with_addon(FLAT, SOLD["calls"], 2)
    assert limits(flat) == {"month": None}
    assert without_addon(flat, "calls") == FLAT


def test_another_number_takes_the_place_of_the_first_and_none_leaves_the_plan() -> None:
    several = with_addon(with_addon(with_addon(PRO, SOLD["calls"], 2), SOLD["help"], 1), SOLD["bursts"], 1)
    assert list(several.addons) == ["bursts", "calls", "help"]
    assert with_addon(several, SOLD["calls"], 2) is several
    assert limits(with_addon(several, SOLD["calls"], 1)) == {"second": 10, "day": 150, "month": 1_350}
    none = without_addon(without_addon(with_addon(several, SOLD["calls"], 0), "help"), "bursts")
    assert none == bare(several) == PRO
    assert without_addon(PRO, "calls") is PRO
    assert with_addon(PRO, SOLD["calls"], 0) is PRO


@pytest.mark.parametrize("names", [["calls"], ["seats", "budget"], ["bursts", "help", "calls"]])
def test_a_stored_plan_is_read_as_it_was(names: list[str]) -> None:
    plan = PRO
    for number, name in enumerate(names, 1):
        plan = with_addon(plan, SOLD[name], number)
    stored = json.loads(json.dumps(plan.definition()))
    assert Plan.from_definition("pro", stored) == plan
    assert bare(Plan.from_definition("pro", stored)) == PRO
    assert "addons" not in PRO.definition()


def test_what_a_tenant_has_otherwise_is_raised_too() -> None:
    own = overridden(
        with_addon(PRO, SOLD["calls"], 2),
        {"minimum": "500.00", "quotas": {"api_calls": {"limit": 7, "per": "day"}}},
        meters=CATALOGUE.meters,
    )
    assert (limits(own), own.minimum, list(own.addons)) == ({"day": 107}, Decimal(500), ["calls"])
    assert limits(bare(own)) == {"day": 7}
    gone = overridden(own, {"quotas": {"api_calls": None}}, meters=CATALOGUE.meters)
    assert "api_calls" not in gone.quotas
    back = overridden(gone, {"quotas": {"api_calls": {"limit": 1, "per": "month"}}}, meters=CATALOGUE.meters)
    assert limits(back) == {"month": 101}


def test_what_goes_along_to_another_plan_has_todays_terms() -> None:
    held = with_addon(with_addon(with_addon(PRO, SOLD["calls"], 2), SOLD["seats"], 1), SOLD["help"], 1).addons
    assert dict(carried(FREE, held, SOLD).addons) == {"help": HeldAddon(1, Decimal("9.30"))}
    dearer = Addon("calls", Decimal(25), ("flat",), SOLD["calls"].quotas)
    assert dict(carried(FLAT, held, {"calls": dearer}).addons) == {"calls": HeldAddon(2, Decimal(25), dearer.quotas)}
    assert carried(FREE, held, {}) is FREE


def test_who_may_have_one_is_told() -> None:
    assert refusal(SOLD["calls"], PRO) is None
    assert refusal(SOLD["calls"], FREE) == "calls is for pro, flat, and not for free"
    assert refusal(SOLD["seats"], FLAT) == "flat has no limit of users, so seats would raise nothing"
    with pytest.raises(InvalidInput, match="addon: calls is for pro, flat, and not for free"):
        with_addon(FREE, SOLD["calls"], 1)
    assert with_addon(FREE, SOLD["calls"], 0) is FREE


def test_more_than_a_limit_or_a_fee_can_be_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        with_addon(PRO, SOLD["calls"], 450_001)
    assert str(caught.value) == ("quantity: 450,001 x calls cost 9,000,020.00 a month; the largest amount is 9,000,000")
    assert with_addon(PRO, SOLD["calls"], 450_000).addons["calls"].fee == 9_000_000
    free = Addon("budget", Decimal(0), None, SOLD["budget"].quotas)
    with pytest.raises(InvalidInput) as caught:
        with_addon(PRO, free, 5_999_997)
    assert str(caught.value) == (
        "quantity: 5,999,997 x budget raise ai_cost past 9,000,000, the largest limit; take fewer"
    )
    assert limits(with_addon(PRO, free, 5_999_996), "ai_cost") == {"day": 8_999_999 * 10**9}


# -- a timeline in other versions --------------------------------------------------------------------------------------


def test_other_versions_leave_what_is_planned() -> None:
    segments = (Segment(0, "pro", 1), Segment(20, "free", 1), Segment(30, "free", 1, "canceled"))
    changed = changed_timeline(segments, VersionChange(10, {("pro", 1): ("pro~t", 1), ("x", 1): ("y", 1)}), name="t")
    assert changed == (Segment(0, "pro", 1), Segment(10, "pro~t", 1), *segments[1:])
    both = VersionChange(25, {("free", 1): ("free~t", 4), ("pro", 1): ("pro~t", 1)})
    assert [(each.starts_us, each.plan, each.status) for each in changed_timeline(changed, both, name="t")] == [
        (0, "pro", "active"),
        (10, "pro~t", "active"),
        (20, "free", "active"),
        (25, "free~t", "active"),
        (30, "free~t", "canceled"),
    ]


# -- what they cost ----------------------------------------------------------------------------------------------------


def month(*changes: tuple[str, Plan, str], period: str = "2024-01") -> list[tuple[str, str]]:
    """The fees of a month: (from when, the plan, its state)."""
    plans = {("pro~t", number): plan for number, (_, plan, _) in enumerate(changes)}
    segments = tuple(
        Segment(micros(instant(when, "UTC")), "pro~t", number, state) for number, (when, _, state) in enumerate(changes)
    )
    invoice = draft(
        Terms(TenantRow("t", "UTC", segments[0].starts_us, 1, None, segments), plans), period, [], currency="USD"
    )
    check_explained(invoice)
    assert len({line.id for line in invoice.lines}) == len(invoice.lines)
    return [(line.description, str(line.amount)) for line in invoice.lines]


ONE, TWO = (with_addon(PRO, SOLD["calls"], number) for number in (1, 2))
SINCE = "2023-05-01T00:00Z"
LATER = "2024-01-20T12:00:01Z"
"""993,599 of the month's 2,678,400 seconds are left."""


def test_an_add_on_is_a_line_beside_the_base_fee() -> None:
    plan = with_addon(TWO, SOLD["help"], 1)
    assert month((SINCE, plan, "active")) == [
        ("pro, 2024-01", "99.00"),
        ("calls x 2, 2024-01", "40.00"),
        ("help x 1, 2024-01", "9.30"),
    ]


def test_a_change_of_add_ons_splits_only_what_changes_to_the_second() -> None:
    assert month(
        (SINCE, with_addon(ONE, SOLD["help"], 1), "active"), (LATER, with_addon(TWO, SOLD["help"], 1), "active")
    ) == [
        ("pro, 2024-01", "99.00"),
        ("calls x 1, 2024-01", "20.00"),
        ("help x 1, 2024-01", "9.30"),
        ("calls x 1, unused, 2024-01 from 2024-01-20 12:00:01", "-7.42"),
        ("calls x 2, 2024-01 from 2024-01-20 12:00:01", "14.84"),
    ]


def test_a_sign_up_and_a_pause_pay_for_their_seconds() -> None:
    assert month((LATER, TWO, "active")) == [
        ("pro, 2024-01 from 2024-01-20 12:00:01", "36.73"),
        ("calls x 2, 2024-01 from 2024-01-20 12:00:01", "14.84"),
    ]
    assert month((SINCE, TWO, "active"), (LATER, TWO, "paused"))[1:] == [
        ("calls x 2, 2024-01", "40.00"),
        ("pro, unused, 2024-01 from 2024-01-20 12:00:01", "-36.73"),
        ("calls x 2, unused, 2024-01 from 2024-01-20 12:00:01", "-14.84"),
    ]
    assert month((SINCE, TWO, "paused"), (LATER, TWO, "active")) == [
        ("pro, 2024-01 from 2024-01-20 12:00:01", "36.73"),
        ("calls x 2, 2024-01 from 2024-01-20 12:00:01", "14.84"),
    ]


def test_what_costs_nothing_has_no_line_and_what_was_sold_dearer_is_given_back_as_such() -> None:
    free = raised(PRO, {"calls": HeldAddon(2, Decimal("0.00"), SOLD["calls"].quotas)})
    assert month((SINCE, free, "active")) == [("pro, 2024-01", "99.00")]
    dear = raised(PRO, {"calls": HeldAddon(1, Decimal("40.00"), SOLD["calls"].quotas)})
    assert month((SINCE, dear, "active"), ("2024-01-16T12:00Z", TWO, "active"))[1:] == [
        ("calls x 1, 2024-01", "40.00"),
        ("calls x 1, unused, 2024-01 from 2024-01-16 12:00:00", "-20.00"),
        ("calls x 2, 2024-01 from 2024-01-16 12:00:00", "20.00"),
    ]


def test_add_ons_count_towards_the_minimum() -> None:
    least = overridden(TWO, {"minimum": "150.00"}, meters=CATALOGUE.meters)
    assert month((SINCE, least, "active"))[-1] == ("minimum 150.00, less 139.00 used", "11.00")
