"""The Stripe adapter where Stripe multiplies: what is asked of it, and what its answers mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mm_metering import Metering
from mm_metering.billing.reporter import UsageReport, UsageReporter
from mm_metering.billing.stripe import StripeBillingAdapter
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import InvalidInput, InvalidRequest, ProviderRefused, ProviderUnavailable
from tests.contract.test_stripe_failures import CUSTOMER, HTML, KEY, LOST, Answer, Scripted, error, patient, serving

THEN = datetime(2024, 1, 15, 12, 0, 7, tzinfo=UTC)
REPORT = UsageReport("acme", "cus_1", "ai_tokens.gpt-4", -25, "mm_0123", THEN, "2024-01")
PLANS = Catalogue.from_dict(
    {
        "meters": {"calls": {"event": "call"}, "tokens": {"event": "token"}},
        "plans": {
            "pro": {
                "price": "99.00",
                "quotas": {
                    "calls": {"limit": 1, "per": "day", "then": "charge", "unit_price": "0.01"},
                    "tokens": {"limit": 0, "per": "month", "then": "charge", "unit_price": {"gpt-4": "0.00003"}},
                },
            }
        },
    }
)


@pytest.fixture
def script() -> Iterator[Scripted]:
    with serving() as script:
        yield script


@pytest.fixture
async def adapter(script: Scripted) -> AsyncIterator[StripeBillingAdapter]:
    adapter = StripeBillingAdapter(api_key=KEY, base_url=script.url, retries=patient([]), billing_mode="report")
    yield adapter
    await adapter.aclose()


def listed(*data: Mapping[str, Any], has_more: object = False) -> Answer:
    return Answer(200, {"object": "list", "url": "/v1/x", "has_more": has_more, "data": [*data]})


def a_price(name: str, coins: str, *, meter: str | None = None, plan: str = "pro", **changes: Any) -> dict[str, Any]:
    recurring = {
        "interval": "month",
        "interval_count": 1,
        "meter": meter,
        "usage_type": "metered" if meter else "licensed",
    }
    price = {"id": f"price_{name}", "object": "price", "lookup_key": name, "unit_amount_decimal": coins}
    return price | {"currency": "usd", "recurring": recurring, "metadata": {"mm_plan": plan}} | changes


def a_meter(name: str) -> dict[str, Any]:
    return {"id": f"mtr_{name}", "object": "billing.meter", "event_name": f"mm_{name}"}


LICENSED = a_price("mm_pro", "9900")
CALLS = a_price("mm_pro_calls", "1", meter="mtr_calls")
TOKENS = a_price("mm_pro_tokens.gpt-4", "0.003", meter="mtr_tokens.gpt-4")


def a_subscription(*prices: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    items = [
        {"id": f"si_{number}", "object": "subscription_item", "price": price, "current_period_end": 1_706_745_600}
        for number, price in enumerate(prices)
    ]
    found = {"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "created": 1}
    found |= {
        "cancel_at_period_end": False,
        "metadata": {},
        "items": {"object": "list", "has_more": False, "data": items},
    }
    return found | changes


# -- events -----------------------------------------------------------------------------------------------------------


async def test_an_event_has_the_meter_the_customer_the_units_and_its_identifier(
    adapter: StripeBillingAdapter, script: Scripted
) -> None:
    assert isinstance(adapter, UsageReporter)
    script.answers = [LOST, Answer(200, {"object": "billing.meter_event"})]
    await adapter.report_usage(REPORT)
    assert [(each.path, each.params) for each in script.asked] == [
        (
            "/v1/billing/meter_events",
            {
                "event_name": ["mm_ai_tokens.gpt-4"],
                "payload[stripe_customer_id]": ["cus_1"],
                "payload[value]": ["-25"],
                "identifier": ["mm_0123"],
                "timestamp": [str(int(THEN.timestamp()))],
            },
        )
    ] * 2
    assert len({*script.keys}) == 1
    await adapter.report_usage(REPORT)
    assert script.keys[2] != script.keys[0], "a failure that is kept under a key is not met again"


async def test_an_event_that_stripe_has_is_told(adapter: StripeBillingAdapter, script: Scripted) -> None:
    known = "An event already exists with identifier mm_0123."
    script.answers = [error(400, type="invalid_request_error", message=known)]
    await adapter.report_usage(REPORT)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(400, type="invalid_request_error", message="No active meter found for event name"), InvalidRequest),
        (error(404, type="invalid_request_error", code="resource_missing", message="No such customer"), InvalidRequest),
        (error(401, type="invalid_request_error"), ProviderRefused),
        (error(403, type="invalid_request_error"), ProviderRefused),
        (error(500, type="api_error"), ProviderUnavailable),
        (Answer(502, HTML), ProviderUnavailable),
    ],
)
async def test_what_else_it_says_is_no_success(
    adapter: StripeBillingAdapter, script: Scripted, answer: Answer, kind: type[Exception]
) -> None:
    script.answers = [answer]
    with pytest.raises(kind) as found:
        await adapter.report_usage(REPORT)
    assert type(found.value) is kind or kind is InvalidRequest
    assert isinstance(found.value, ProviderRefused) == (kind is ProviderRefused)


async def test_what_it_has_counted_is_summed(adapter: StripeBillingAdapter, script: Scripted) -> None:
    summaries = [
        {"id": f"mtrusg_{each}", "object": "billing.meter_event_summary", "aggregated_value": each}
        for each in (25.0, -3.0)
    ]
    script.answers = [listed(a_meter("calls")), listed(*summaries)]
    asked = {"customer": "cus_1", "start": THEN.replace(second=0), "end": THEN.replace(minute=1, second=0)}
    assert await adapter.reported_usage(meter="calls", **asked) == 22  # type: ignore[arg-type]
    path = urlsplit(script.asked[1].path)
    assert path.path == "/v1/billing/meters/mtr_calls/event_summaries"
    assert parse_qs(path.query) == {"customer": ["cus_1"], "start_time": ["1705320000"], "end_time": ["1705320060"]}
    script.answers = [listed()]
    with pytest.raises(InvalidRequest, match="there is no meter mm_calls at Stripe"):
        await adapter.reported_usage(meter="calls", **asked)  # type: ignore[arg-type]


# -- prices -----------------------------------------------------------------------------------------------------------


async def test_prices_and_their_meters_are_made(adapter: StripeBillingAdapter, script: Scripted) -> None:
    made = [Answer(200, {"id": f"price_{number}", "object": "price"}) for number in range(3)]
    script.answers = [
        listed(a_meter("calls")),
        listed(),
        made[0],
        made[1],
        Answer(200, a_meter("tokens.gpt-4")),
        made[2],
    ]
    found = await adapter.push_plans(PLANS)
    assert [(each.lookup_key, each.state, each.price_id) for each in found] == [
        ("mm_pro", "made", "price_0"),
        ("mm_pro_calls", "made", "price_1"),
        ("mm_pro_tokens.gpt-4", "made", "price_2"),
    ]
    licensed, calls, meter, tokens = (each.params for each in script.asked[2:])
    assert (licensed["unit_amount_decimal"], licensed["recurring[interval]"]) == (["9900"], ["month"])
    assert "recurring[meter]" not in licensed
    assert (calls["unit_amount_decimal"], calls["recurring[meter]"]) == (["1"], ["mtr_calls"])
    assert (meter["event_name"], meter["default_aggregation[formula]"]) == (["mm_tokens.gpt-4"], ["sum"])
    assert (tokens["unit_amount_decimal"], tokens["recurring[usage_type]"]) == (["0.003"], ["metered"])
    assert tokens["recurring[meter]"] == ["mtr_tokens.gpt-4"]


@pytest.mark.parametrize(
    ("found", "theirs"),
    [
        (LICENSED, ""),
        (a_price("mm_pro", "9900.0"), ""),
        (a_price("mm_pro", "7900"), "79.00"),
        (a_price("mm_pro", "9900", currency="eur"), "EUR"),
        (a_price("mm_pro", "9900", meter="mtr_calls"), "another meter"),
        (a_price("mm_pro", "9900", recurring={"interval": "year", "interval_count": 1}), "another kind of price"),
        (a_price("mm_pro", "9900", unit_amount_decimal=None), "another kind of price"),
    ],
)
async def test_what_is_there_is_compared_and_never_changed(
    adapter: StripeBillingAdapter, script: Scripted, found: Mapping[str, Any], theirs: str
) -> None:
    script.answers = [listed(a_meter("calls"), a_meter("tokens.gpt-4")), listed(found, CALLS, TOKENS)]
    rows = await adapter.push_plans(PLANS)
    assert [each.state for each in rows] == ["other" if theirs else "there", "there", "there"]
    assert rows[0].theirs == theirs
    assert {each.method for each in script.asked} == {"GET"}


# -- subscriptions ----------------------------------------------------------------------------------------------------


async def test_a_subscription_has_all_of_the_plans_prices_without_quantities(
    adapter: StripeBillingAdapter, script: Scripted
) -> None:
    other = a_price("mm_other_calls", "9", meter="mtr_calls", plan="other")
    old = a_price("mm_pro_calls", "7", meter="mtr_calls", lookup_key=None)
    made = Answer(200, a_subscription(CALLS, LICENSED, TOKENS))
    customer = Answer(200, CUSTOMER | {"invoice_settings": None})
    script.answers = [customer, listed(LICENSED), listed(other, TOKENS, old, CALLS), made]
    found = await adapter.create_subscription(customer_id="cus_1", plan_id="pro")
    asked = script.asked[-1].params
    assert found.plan_id == "pro"
    assert {key: value for key, value in asked.items() if key.startswith("items")} == {
        "items[0][price]": ["price_mm_pro"],
        "items[1][price]": ["price_mm_pro_calls"],
        "items[2][price]": ["price_mm_pro_tokens.gpt-4"],
    }
    assert asked["billing_cycle_anchor_config[day_of_month]"] == ["1"]


TEAM = a_price("mm_team", "19900", plan="team")
TEAM_CALLS = a_price("mm_team_calls", "2", meter="mtr_calls", plan="team")
TEAM_MORE = a_price("mm_team_more", "3", meter="mtr_more", plan="team")


@pytest.mark.parametrize(("coins", "proration"), [("19900", "create_prorations"), ("900", "none")])
async def test_a_change_of_plan_replaces_each_item_and_leaves_none_over(
    adapter: StripeBillingAdapter, script: Scripted, coins: str, proration: str
) -> None:
    team = TEAM | {"unit_amount_decimal": coins}
    had = a_subscription(CALLS, LICENSED, TOKENS)
    script.answers = [Answer(200, had), listed(team), listed(TEAM_MORE, TEAM_CALLS), Answer(200, a_subscription(team))]
    assert (await adapter.update_subscription("sub_1", plan_id="team")).plan_id == "team"
    asked = script.asked[-1].params
    assert {key: value for key, value in asked.items() if key.startswith("items")} == {
        "items[0][id]": ["si_0"],
        "items[0][price]": ["price_mm_team_calls"],
        "items[1][id]": ["si_1"],
        "items[1][price]": ["price_mm_team"],
        "items[2][id]": ["si_2"],
        "items[2][deleted]": ["true"],
        "items[3][price]": ["price_mm_team_more"],
    }
    assert asked["proration_behavior"] == [proration]


async def test_items_that_the_subscription_does_not_show_are_replaced_too(
    adapter: StripeBillingAdapter, script: Scripted
) -> None:
    had = a_subscription(LICENSED)
    had["items"]["has_more"] = True
    every = a_subscription(LICENSED, CALLS)["items"]["data"]
    script.answers = [Answer(200, had), listed(TEAM), listed(), listed(*every), Answer(200, a_subscription(TEAM))]
    await adapter.update_subscription("sub_1", plan_id="team")
    assert script.asked[-1].params["items[1][deleted]"] == ["true"]
    assert script.asked[3].path.startswith("/v1/subscription_items?subscription=sub_1")


# -- modes ------------------------------------------------------------------------------------------------------------


async def test_the_modes_of_both_sides_are_one(adapter: StripeBillingAdapter) -> None:
    with pytest.raises(InvalidInput, match='that of StripeBillingAdapter is "report"'):
        Metering(billing=adapter)
    with pytest.raises(InvalidInput, match='not "invoice" or "report"'):
        StripeBillingAdapter(api_key=KEY, billing_mode="both")  # type: ignore[arg-type]
    Metering(billing=adapter, billing_mode="report")
