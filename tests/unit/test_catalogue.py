"""The catalogue: the shipped plans, what a quota means, and the forms a catalogue comes in and goes out."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.core.catalogue import AiPolicy, Catalogue, ChargeUpTo, Limit, Meter, Plan
from mm_metering.core.catalogue_file import parse
from mm_metering.core.periods import Window
from mm_metering.core.pricing import Flat, Graduated, Package, Tier, Volume
from mm_metering.errors import CatalogueError, InvalidEvent

SEED_FILE = Path(catalogues.__file__).with_name("seed.toml")
SEED_TEXT = SEED_FILE.read_text(encoding="utf-8")

METERS = """\
[meters]
api_calls = { event = "api_call" }
ai_tokens = { event = "ai_token" }
ai_cost = { event = "ai_call", unit = "money" }
users = { aggregation = "level" }
"""
PLAN = METERS + '[plans.pro]\nprice = "99.00"\n'  # lines 6 and 7
QUOTAS = PLAN + "[plans.pro.quotas]\n"  # line 8: what a test adds stands on line 9


def quota(text: str) -> tuple[Limit, ...]:
    return next(iter(parse(QUOTAS + text, "plans.toml").plan("pro").quotas.values()))


# ---- the shipped plans ----

CHARGED = {
    "api_calls": Decimal("0.01"),
    "ai_requests": Decimal("0.10"),
    "ai_tokens": Decimal("0.00003"),
    "reports": Decimal("5.00"),
    "webhook_deliveries": Decimal("0.001"),
}
SEED_TABLE = [
    # plan, price, support, {meter: (limit, window)}
    (
        "free",
        "0",
        "community",
        {
            "users": (1, "none"),
            "api_calls": (100, "day"),
            "ai_requests": (10, "day"),
            "ai_tokens": (None, "month"),
            "scenarios": (5, "none"),
            "reports": (1, "month"),
            "webhook_deliveries": (0, "month"),
        },
    ),
    (
        "pro",
        "99",
        "email",
        {
            "users": (10, "none"),
            "api_calls": (10_000, "day"),
            "ai_requests": (1_000, "day"),
            "ai_tokens": (0, "month"),
            "scenarios": (None, "none"),
            "reports": (50, "month"),
            "webhook_deliveries": (1_000, "month"),
        },
    ),
    (
        "enterprise",
        "499",
        "priority",
        {
            "users": (None, "none"),
            "api_calls": (100_000, "day"),
            "ai_requests": (10_000, "day"),
            "ai_tokens": (0, "month"),
            "scenarios": (None, "none"),
            "reports": (None, "month"),
            "webhook_deliveries": (10_000, "month"),
        },
    ),
]


@pytest.mark.parametrize(("name", "price", "support", "cells"), SEED_TABLE, ids=[row[0] for row in SEED_TABLE])
def test_seed_has_the_documented_plan(
    name: str, price: str, support: str, cells: dict[str, tuple[int | None, str]]
) -> None:
    plan = catalogues.seed.plan(name)
    assert (plan.price, plan.support, plan.ai) == (Decimal(price), support, None)
    assert {
        meter: [(limit.maximum, str(limit.window)) for limit in limits] for meter, limits in plan.quotas.items()
    } == {meter: [cell] for meter, cell in cells.items()}


def test_seed_charges_past_the_limits_of_paid_plans_only() -> None:
    for name, _, _, cells in SEED_TABLE:
        for meter, (maximum, window) in cells.items():
            (limit,) = catalogues.seed.plan(name).quotas[meter]
            charges = name != "free" and window != "none" and maximum is not None
            assert limit.blocks is not charges, (name, meter)
            assert limit.price_for("gpt-4") == (CHARGED[meter] if charges else None)
            assert limit.cap is None


def test_seed_bills_tokens_of_gpt_4_from_the_first_and_of_no_other_model() -> None:
    (limit,) = catalogues.seed.plan("pro").quotas["ai_tokens"]
    assert (limit.maximum, limit.not_in_plan) == (0, False)
    assert limit.price_for("gpt-4") == Decimal("0.00003")
    assert limit.price_for("gpt-3.5-turbo") is None
    assert limit.price_for(None) is None


def test_webhooks_are_not_in_the_free_plan() -> None:
    assert [m for m, limits in catalogues.seed.plan("free").quotas.items() if limits[0].not_in_plan] == [
        "webhook_deliveries"
    ]


def test_seed_puts_unknown_tenants_on_free_and_meters_all_six_event_types() -> None:
    seed = catalogues.seed
    assert (seed.currency, seed.timezone, seed.default_plan) == ("USD", "UTC", "free")
    assert (dict(seed.routes), seed.exempt, dict(seed.ai_prices)) == ({}, (), {})
    assert {meter.event for meter in seed.meters.values() if meter.event} == {
        "api_call",
        "ai_call",
        "ai_token",
        "webhook_delivery",
        "export",
        "storage",
    }


def test_seed_levels_have_no_window() -> None:
    levels = [meter.name for meter in catalogues.seed.meters.values() if meter.aggregation == "level"]
    assert levels == ["storage_mb", "users", "scenarios"]


# ---- what a catalogue answers ----


@pytest.mark.parametrize(
    ("event_type", "resource", "meters"),
    [
        ("export", "report_pdf", ["reports", "exports"]),
        ("export", "data_csv", ["exports"]),
        ("export", "Report_pdf", ["exports"]),
        ("export", None, ["exports"]),
        ("export", "report_*", ["reports", "exports"]),
        ("ai_call", "gpt-4", ["ai_requests", "ai_cost"]),
        ("api_call", "/v1/scenarios", ["api_calls"]),
        ("nothing", "gpt-4", []),
    ],
)
def test_an_event_counts_in_every_meter_that_matches(event_type: str, resource: str | None, meters: list[str]) -> None:
    for _ in range(2):  # computed, then remembered
        assert [meter.name for meter in catalogues.seed.meters_of(event_type, resource)] == meters


def test_remembered_matches_are_bounded() -> None:
    catalogue = parse(SEED_TEXT, "seed.toml")
    for number in range(10_000):
        catalogue.meters_of("api_call", f"/v1/{number}")
    assert len(catalogue._matches) <= 4096


def test_money_meters_deny_in_an_outage_and_counts_allow() -> None:
    assert catalogues.seed.meter("ai_cost").on_outage == "deny"
    assert catalogues.seed.meter("api_calls").on_outage == "allow"
    assert Meter("spend", event="ai_call", unit="money").on_outage == "deny"
    assert Meter("spend", event="ai_call", unit="money", on_outage="allow").on_outage == "allow"


def test_server_errors_do_not_stay_counted_by_default() -> None:
    meter = catalogues.seed.meter("api_calls")
    assert [meter.counts(status) for status in (200, 304, 429, 500)] == [True, True, True, False]


def test_an_unknown_meter_is_told_with_the_nearest_name() -> None:
    with pytest.raises(InvalidEvent, match=r'^meter: unknown meter "api_call"; did you mean "api_calls"\?$') as caught:
        catalogues.seed.meter("api_call")
    assert caught.value.field == "meter"


def test_a_plan_is_found_by_its_name_and_by_its_monthly_id() -> None:
    assert catalogues.seed.plan("pro_monthly") is catalogues.seed.plan("pro") is catalogues.seed.plans["pro"]
    with pytest.raises(CatalogueError, match=r'^unknown plan "por"; did you mean "pro"\?$'):
        catalogues.seed.plan("por")
    with pytest.raises(CatalogueError, match=r'^unknown plan "gold_monthly"; choose from: free, pro, enterprise$'):
        catalogues.seed.plan("gold_monthly")


def test_values_cannot_be_changed() -> None:
    seed: Any = catalogues.seed
    with pytest.raises(AttributeError):
        seed.currency = "EUR"
    with pytest.raises(AttributeError):
        seed.plans["pro"].price = Decimal(0)
    with pytest.raises(TypeError):
        seed.plans["pro"].quotas["api_calls"] = ()
    with pytest.raises(TypeError):
        seed.plans["pro"].quotas["ai_tokens"][0].unit_price["gpt-4"] = Decimal(0)


# ---- what a quota may say ----


def test_a_list_holds_a_charging_day_and_a_burst_rate_shortest_window_first() -> None:
    rate, day = quota(
        'api_calls = [{ limit = 10_000, per = "day", then = "charge", unit_price = "0.01" },'
        ' { limit = 200, per = "second" }]'
    )
    assert day == Limit("api_calls", Window.DAY, 10_000, then="charge", unit_price=Decimal("0.01"))
    assert rate == Limit("api_calls", Window.SECOND, 200)
    assert (rate.is_rate, day.is_rate, rate.blocks, day.blocks) == (True, False, True, False)


def test_charge_up_to_is_a_charge_with_a_cap() -> None:
    (limit,) = quota('api_calls = { limit = 5, per = "month", then = { charge_up_to = "20.00" }, unit_price = "0.01" }')
    assert (limit.then, limit.cap, limit.unit_price) == ("charge", Decimal(20), Decimal("0.01"))


def test_charge_up_to_has_a_python_form() -> None:
    limit = {"limit": 5, "per": "month", "then": ChargeUpTo(Decimal(20)), "unit_price": Decimal("0.01")}
    tree = {"meters": {"a": {"event": "a"}}, "plans": {"p": {"price": 1, "quotas": {"a": limit}}}}
    assert catalogues.load(tree).plan("p").quotas["a"][0].cap == Decimal(20)


@pytest.mark.parametrize(("written", "nanos"), [('"50.00"', 50 * 10**9), ("50", 50 * 10**9), ('"0.000000001"', 1)])
def test_a_limit_on_money_is_kept_in_nano_units(written: str, nanos: int) -> None:
    (limit,) = quota(f'ai_cost = {{ limit = {written}, per = "day" }}')
    assert (limit.maximum, limit.unit) == (nanos, "money")


@pytest.mark.parametrize("most", [0, 1, 2**53 - 1])
def test_a_count_may_be_anything_up_to_the_largest_exact_number(most: int) -> None:
    assert quota(f'api_calls = {{ limit = {most}, per = "day" }}')[0].maximum == most


def test_a_price_keeps_24_decimal_places() -> None:
    price = "0." + "0" * 23 + "1"
    (limit,) = quota(f'api_calls = {{ limit = 1, per = "day", then = "charge", unit_price = "{price}" }}')
    assert limit.price_for(None) == Decimal(price)


def test_ai_policy_prices_routes_and_exempt_paths_are_read() -> None:
    catalogue = parse(
        PLAN
        + """
[plans.pro.ai]
daily_budget = "50.00"
model_allowlist = ["gpt-4", "gpt-3.5-turbo"]
fallback_model = "gpt-3.5-turbo"
[ai.prices]
"gpt-3.5-turbo" = "0.000002"
[routes]
"POST /v1/search" = { api_calls = 5 }
exempt = ["/healthz", "/metrics"]
""",
        "plans.toml",
    )
    assert catalogue.plan("pro").ai == AiPolicy(
        daily_budget=Decimal(50), model_allowlist=("gpt-4", "gpt-3.5-turbo"), fallback_model="gpt-3.5-turbo"
    )
    assert catalogue.ai_prices == {"gpt-3.5-turbo": Decimal("0.000002")}
    assert catalogue.routes == {"POST /v1/search": {"api_calls": 5}}
    assert catalogue.exempt == ("/healthz", "/metrics")


def test_plans_in_another_currency_say_that_their_budgets_are_in_dollars() -> None:
    euros = 'currency = "EUR"\n' + PLAN + '[plans.pro.ai]\ndaily_budget = "50.00"\n[ai]\ncurrency = "USD"'
    catalogue = parse(euros, "plans.toml")
    assert (catalogue.currency, catalogue.ai_currency) == ("EUR", "USD")
    assert Catalogue.from_dict(catalogue.to_dict()) == catalogue
    assert parse('currency = "EUR"\n' + PLAN, "plans.toml").ai_currency is None


# ---- sources ----
LIMITS = "0 to 9007199254740991"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (None, 'limit is missing; write a whole number from 0, or "unlimited"; 0 that blocks means not in the plan'),
        (True, f'limit: a boolean is not a whole number from {LIMITS}, nor "unlimited"'),
        (10**5000, f'limit: a number of more than 20 digits is not a whole number from {LIMITS}, nor "unlimited"'),
        ([], f'limit: a list is not a whole number from {LIMITS}, nor "unlimited"'),
        (1.0, f'limit: 1.0 is not a whole number from {LIMITS}, nor "unlimited"'),
    ],
    ids=["None", "True", "10**5000", "list", "float"],
)
def test_only_a_number_or_unlimited_is_a_limit(limit: object, message: str) -> None:
    tree = {
        "meters": {"a": {"event": "a"}},
        "plans": {"p": {"price": 1, "quotas": {"a": {"limit": limit, "per": "day"}}}},
    }
    with pytest.raises(CatalogueError) as caught:
        catalogues.load(tree)
    assert str(caught.value).removeprefix("plans.p.quotas.a").lstrip(".: ") == message


@pytest.mark.parametrize(
    ("price", "message"),
    [
        (0.1, 'plans.p.price: 0.1 is a float and not exact; write it as a string, "0.1"'),
        (float("nan"), 'plans.p.price: nan is a float and not exact; write it as a string, "0.01"'),
        (1e300, 'plans.p.price: 1e+300 is a float and not exact; write it as a string, "0.01"'),
        (10**5000, "plans.p.price: a number of more than 20 digits is out of range; the largest amount is 9,000,000"),
        (-(10**5000), "plans.p.price: a number of more than 20 digits is negative; the least is 0"),
        (Decimal("NaN"), "plans.p.price: 'NaN' is not a plain decimal number such as \"0.01\" (at most 24 places)"),
        (b"1", 'plans.p.price: expected money such as "0.01", got a list'),
    ],
    ids=["float", "nan", "1e300", "10**5000", "-10**5000", "Decimal NaN", "bytes"],
)
def test_only_exact_amounts_are_money(price: object, message: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        catalogues.load({"plans": {"p": {"price": price}}})
    assert str(caught.value) == message


def test_a_path_a_dict_and_a_catalogue_load_the_same(tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SEED_TEXT.replace("\n", "\r\n").encode())  # as some editors save it
    assert catalogues.load(path) == catalogues.load(str(path)) == catalogues.load(tomllib.loads(SEED_TEXT))
    assert catalogues.load(path) == catalogues.seed
    assert catalogues.load(catalogues.seed) is catalogues.seed


def test_a_file_that_cannot_be_read_is_a_catalogue_error(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'currency = "USD"\n# caf\xe9\n')
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    for source, message in {
        str(latin): f"{latin}:2: not UTF-8; save the file in UTF-8",
        str(folder): f"{folder}: cannot be read",
        str(tmp_path / "none.toml"): f"{tmp_path / 'none.toml'}: no such file in ",
        "nul\0.toml": "nul\0.toml: cannot be read",
        "plans.yaml": 'expected a Catalogue, a dict or the path of a .toml file, got "plans.yaml"',
    }.items():
        with pytest.raises(CatalogueError) as caught:
            catalogues.load(source)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("source", [None, 3, b"plans.toml", ["plans.toml"]], ids=repr)
def test_any_other_source_is_a_catalogue_error(source: Any) -> None:
    with pytest.raises(CatalogueError, match=r"^expected a Catalogue"):
        catalogues.load(source)


# ---- forms ----


def test_a_plan_comes_back_from_its_definition() -> None:
    for plan in [*catalogues.seed.plans.values(), every_kind_of_limit(), every_kind_of_price()]:
        stored = json.loads(json.dumps(plan.definition()))
        assert Plan.from_definition(plan.name, stored) == plan
        assert Plan.from_definition(plan.name, stored).digest() == plan.digest()


def every_kind_of_limit() -> Plan:
    return parse(
        QUOTAS
        + """
api_calls = [{ limit = 9, per = "month", then = { charge_up_to = "20" }, unit_price = 1 },
             { limit = 2, per = "minute" }]
ai_tokens = { limit = 0, per = "month", then = "charge", unit_price = { "gpt-4" = "0.00003", "o3" = 0 } }
ai_cost = [{ limit = "unlimited", per = "month" }, { limit = "0.000000001", per = "day" }]
users = { limit = "unlimited" }
[plans.pro.ai]
model_allowlist = ["gpt-4"]
fallback_model = "gpt-4"
on_unpriced = "allow"
""",
        "plans.toml",
    ).plan("pro")


EVERY_PRICE = """
api_calls = { limit = 9, per = "day", then = "charge", price = { graduated = [
  { flat = 0, unit_price = "0.010", up_to = 1_000 }, { unit_price = "0.008", flat = 5 }] } }
ai_tokens = { limit = 0, per = "month", then = "charge", price = { volume = [
  { up_to = 5, unit_price = 1 }, { unit_price = "0.000000000001" }] } }
exports = { limit = 2, per = "day", then = "charge", price = { flat = "10" } }
users = { limit = 5, then = "charge", price = { package = 5, unit_price = "9" } }
"""
PRICES = QUOTAS.replace("[meters]", '[meters]\nexports = { event = "export" }') + EVERY_PRICE


def every_kind_of_price() -> Plan:
    return parse(PRICES, "plans.toml").plan("pro")


def test_a_price_is_read_as_a_value() -> None:
    limits = {meter: limit for meter, (limit,) in every_kind_of_price().quotas.items()}
    assert {meter: (limit.unit_price, limit.price) for meter, limit in limits.items()} == {
        "api_calls": (
            None,
            Graduated((Tier(1_000, Decimal("0.01")), Tier(None, Decimal("0.008"), Decimal(5)))),
        ),
        "ai_tokens": (None, Volume((Tier(5, Decimal(1)), Tier(None, Decimal("0.000000000001"))))),
        "exports": (None, Flat(Decimal(10))),
        "users": (None, Package(5, Decimal(9))),
    }
    assert all(limit.price_for(resource) == limit.price for limit in limits.values() for resource in (None, "x"))
    assert [limit.blocks for limit in limits.values()] == [False] * 4


def test_a_definition_says_each_price_in_one_way() -> None:
    quotas = every_kind_of_price().definition()["quotas"]
    assert {meter: limit["price"] for meter, (limit,) in quotas.items()} == {
        "api_calls": {
            "graduated": [{"unit_price": "0.01", "up_to": 1_000}, {"flat": "5.00", "unit_price": "0.008"}],
        },
        "ai_tokens": {"volume": [{"unit_price": "1.00", "up_to": 5}, {"unit_price": "0.000000000001"}]},
        "exports": {"flat": "10.00"},
        "users": {"package": 5, "unit_price": "9.00"},
    }
    assert list(quotas["api_calls"][0]) == ["limit", "per", "price", "then"]


def test_plans_without_the_newer_prices_keep_the_digest_that_ledgers_hold() -> None:
    assert {name: plan.digest()[:16] for name, plan in catalogues.seed.plans.items()} == {
        "free": "93454d357f33e0a8",
        "pro": "8312b0545d8a3ea4",
        "enterprise": "4d18c9f6529e0776",
    }


def test_a_definition_is_canonical_json() -> None:
    assert json.dumps(every_kind_of_limit().definition()) == json.dumps(
        {
            "ai": {"fallback_model": "gpt-4", "model_allowlist": ["gpt-4"], "on_unpriced": "allow"},
            "price": "99.00",
            "quotas": {
                "ai_cost": [
                    {"limit": "0.000000001", "per": "day", "then": "block", "unit": "money"},
                    {"limit": "unlimited", "per": "month", "then": "block", "unit": "money"},
                ],
                "ai_tokens": [
                    {"limit": 0, "per": "month", "then": "charge", "unit_price": {"gpt-4": "0.00003", "o3": "0.00"}}
                ],
                "api_calls": [
                    {"limit": 2, "per": "minute", "then": "block"},
                    {"limit": 9, "per": "month", "then": {"charge_up_to": "20.00"}, "unit_price": "1.00"},
                ],
                "users": [{"limit": "unlimited", "then": "block"}],
            },
        }
    )


def test_the_digest_does_not_see_how_a_plan_is_written() -> None:
    meters = {"a": {"event": "a"}, "b": {"aggregation": "level"}}
    day, month = {"limit": 1, "per": "day"}, {"limit": 9, "per": "month", "then": "block"}

    def plan(price: object, quotas: dict[str, object]) -> Plan:
        return catalogues.load({"meters": meters, "plans": {"p": {"price": price, "quotas": quotas}}}).plan("p")

    one = plan("99.00", {"a": [day, month], "b": {"limit": 1}})
    same = plan(99, {"b": [{"limit": 1}], "a": [month, day]})
    assert one == same
    assert one.digest() == same.digest()
    assert one.digest() != plan("99.01", {"a": [day, month], "b": {"limit": 1}}).digest()


@pytest.mark.parametrize("definition", [None, [], {}, {"price": "1", "quotas": {"a": [{"limit": 1.5, "per": "day"}]}}])
def test_a_broken_definition_is_a_catalogue_error(definition: object) -> None:
    with pytest.raises(CatalogueError, match=r"^plans\.pro"):
        Plan.from_definition("pro", definition)


RICH = (
    QUOTAS
    + """
ai_cost = { limit = "5.50", per = "day" }
[plans.pro.ai]
monthly_budget = 7
[meters.storage_mb]
event = "storage"
aggregation = "level"
cost = "0.02"
on_outage = "deny"
[meters.reports]
event = "export"
resource = "report_*"
count_on = ["2xx"]
[routes]
"GET /v1/{id}" = { api_calls = 0, reports = 2 }
exempt = ["/healthz"]
[ai.prices]
"gpt-4" = "0.00003"
"""
)


@pytest.mark.parametrize("text", [SEED_TEXT, RICH, PRICES], ids=["seed", "rich", "prices"])
def test_a_catalogue_comes_back_from_its_dict(text: str) -> None:
    catalogue = parse(text, "plans.toml")
    tree = json.loads(json.dumps(catalogue.to_dict()))
    assert Catalogue.from_dict(tree) == catalogue


# ---- whatever comes in ----
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 2**53, "unlimited", "charge", "block", "day", "second", "0.01", "a\0b", "\ud800", ""]),
    st.floats(),
    st.decimals(),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.just(object()),
)
KEYS = st.one_of(
    st.sampled_from(
        ["plans", "meters", "quotas", "limit", "per", "then", "unit_price", "ai", "routes", "event", "price"]
    ),
    st.sampled_from(["api_calls", "charge_up_to", "exempt", "prices", "count_on", "GET /x"]),
    st.sampled_from(["graduated", "volume", "package", "flat", "up_to"]),
    st.text(max_size=4),
    st.integers(),
    st.none(),
)
TREES_OF_ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(TREES_OF_ANYTHING)
def test_any_tree_is_a_catalogue_or_a_catalogue_error(tree: object) -> None:
    check_tree(tree)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_damaged_tree_is_a_catalogue_or_a_catalogue_error(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from([tomllib.loads(text) for text in (SEED_TEXT, RICH, PRICES)])))
    for _ in range(data.draw(st.integers(1, 3))):
        table: Any = tree
        path = data.draw(st.sampled_from(list(paths_of(tree)) or [("plans",)]))
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = data.draw(TREES_OF_ANYTHING)
    check_tree(tree)


@settings(deadline=None, max_examples=100)
@given(TREES_OF_ANYTHING)
def test_any_definition_is_a_plan_or_a_catalogue_error(definition: object) -> None:
    try:
        plan = Plan.from_definition("p", definition)
    except CatalogueError:
        return
    assert Plan.from_definition("p", plan.definition()) == plan


def check_tree(tree: object) -> None:
    catalogue = built_or_refused(tree)
    if isinstance(catalogue, CatalogueError):
        assert (catalogue.file, catalogue.line) == (None, None)
        str(catalogue).encode()  # can be printed and logged
        return
    assert Catalogue.from_dict(json.loads(json.dumps(catalogue.to_dict()))) == catalogue
    for plan in catalogue.plans.values():
        assert Plan.from_definition(plan.name, json.loads(json.dumps(plan.definition()))) == plan


def built_or_refused(tree: object) -> Catalogue | CatalogueError:
    try:
        return Catalogue.from_dict(tree)
    except CatalogueError as error:
        return error


def paths_of(tree: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from paths_of(value, (*path, key))
