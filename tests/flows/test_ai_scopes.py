"""AI budgets of parts of a tenant: models, features, users, runs; and holds that are renewed while their call runs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx2
import jsonschema
import pytest
from fastapi import FastAPI

from mm_metering import BudgetExceeded, FrozenClock, Metering, QuotaExceeded, from_header
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import CatalogueError, InvalidInput
from mm_metering.middleware.responses import problem_schema
from tests.flows.conftest import PATIENT, Make
from tests.flows.test_ai import PLANS, spent

DAY = "2024-01-15"
BUDGETS = {
    "user:*": {"daily": "0.03"},
    "user:vip": {"daily": "0.06"},
    "feature:chat": {"monthly": "0.05"},
    "model:gpt-4": {"daily": "0.09"},
}
SCOPED: dict[str, Any] = PLANS | {
    "plans": {"pro": {"price": "9.00", "ai": {"daily_budget": "9.00", "budgets": BUDGETS}}, "open": {"price": "0.00"}}
}


@pytest.fixture
async def metering(make: Make, stores: dict[str, str]) -> Metering:
    return await make(catalogue=SCOPED, **stores, worker="off")


async def call(metering: Metering, tokens: int = 1_000, *, model: str = "gpt-4", **scopes: Any) -> None:
    """One that costs 0.00003 USD a token."""
    async with metering.ai.reserve("acme", model, tokens=tokens, **scopes) as held:
        held.settle(input_tokens=tokens, output_tokens=0)


async def refused(metering: Metering, tokens: int = 1_000, **options: Any) -> tuple[str | None, str | None]:
    with pytest.raises(BudgetExceeded) as caught:
        await call(metering, tokens, **options)
    decision = caught.value.decision
    return decision.reason, decision.scope


async def test_each_scope_has_its_own_budget_beside_the_tenants(metering: Metering) -> None:
    await call(metering, user="ann")
    assert await refused(metering, user="ann") == ("budget-exceeded", "user:ann")
    await call(metering, user="bob", feature="chat")
    assert await refused(metering, user="vip", feature="chat") == ("budget-exceeded", "feature:chat")
    await call(metering, user="vip")
    assert await refused(metering, 1) == ("budget-exceeded", "model:gpt-4")
    await call(metering, 1_000, model="gpt-3.5-turbo")
    assert await spent(metering) == Decimal("0.091")
    assert (await metering.prove()).holds


async def test_they_are_counted_from_the_ledger_where_the_counters_are_loaded_anew(metering: Metering) -> None:
    await call(metering, user="ann")
    async with metering.ai.reserve("acme", "gpt-4", tokens=1_500, user="vip") as held:
        await metering.flush()
        await metering.gate.unload("acme")
        assert await refused(metering, user="ann") == ("budget-exceeded", "user:ann")
        assert await refused(metering, user="vip") == ("budget-busy", "user:vip")
        held.settle(input_tokens=500, output_tokens=0)
    await call(metering, user="vip")
    await metering.flush()
    _, expected = await metering.gate.expected("acme")
    there = await metering.counters.counters(metering.gate.shard_of("acme"), "acme")
    assert {name: value for name, value in expected.items() if value} == {
        name: value for name, value in there.items() if value and not name.startswith("!")
    }


async def test_a_refusal_says_scope_spent_reserved_requested_and_fallback(metering: Metering) -> None:
    await metering.ai.update_cost_config("acme", fallback_model="gpt-3.5-turbo")
    async with metering.ai.reserve("acme", "gpt-4", tokens=500, user="ann"):
        with pytest.raises(
            BudgetExceeded, match=r"^ai_cost of user:ann: 0\.00 of 0\.03 used today, and this needs"
        ) as caught:
            await call(metering, 50_000, user="ann")
    decision = caught.value.decision
    assert (decision.scope, decision.used, decision.reserved, decision.requested, decision.fallback_model) == (
        "user:ann",
        Decimal(0),
        Decimal("0.015"),
        Decimal("1.5"),
        "gpt-3.5-turbo",
    )


async def test_runs_inside_runs_count_in_all_of_them_and_the_tenant_pays_once(metering: Metering) -> None:
    with metering.ai.scope(run="ticket", cap="0.05", user="vip"):
        await call(metering, 500)
        with metering.ai.scope(run="search", cap="0.02"):
            await call(metering, 500)
            assert await refused(metering, 200) == ("budget-exceeded", "run:search")
        await asyncio.create_task(call(metering, 500))
        assert await refused(metering, 200) == ("budget-exceeded", "run:ticket")
    assert await spent(metering) == Decimal("0.045")
    with metering.ai.scope(run="ticket", cap="9.00"):
        assert (await metering.ai.check_request("acme", "gpt-4", 400)).allowed
        await call(metering, 400)
    with metering.ai.scope(run="ticket", cap="0.05"):
        assert await refused(metering, 1) == ("budget-exceeded", "run:ticket")
        check = await metering.ai.check_request("acme", "gpt-4", 1)
        assert (check.allowed, check.reason) == (False, "budget-exceeded")


async def test_many_at_once_in_one_run_never_pass_its_cap(metering: Metering) -> None:
    async def agent(number: int) -> bool:
        try:
            with metering.ai.scope(user=f"u{number}"):
                await call(metering, 100)
        except BudgetExceeded:
            return False
        return True

    with metering.ai.scope(run="swarm", cap="0.03"):
        assert sum(await asyncio.gather(*(agent(n) for n in range(40)))) == 10


async def test_a_cap_needs_a_price_and_a_scope_a_name(metering: Metering) -> None:
    await metering.put_tenant("acme", plan="open")
    async with metering.ai.reserve("acme", "no-such-model", tokens=5) as held:
        held.release()
    with metering.ai.scope(run="r", cap="1.00"):
        assert (await metering.ai.check_request("acme", "no-such-model", 5)).reason == "model-unpriced"
    for wrong in ({"cap": "1.00"}, {"run": ""}, {"run": "a\nb"}, {"run": "r", "cap": "-1"}, {"user": 7}):
        with pytest.raises(InvalidInput):
            metering.ai.scope(**wrong)
    with pytest.raises(InvalidInput, match="more than 8 runs inside each other"):
        nested(metering, 9)


def nested(metering: Metering, left: int) -> None:
    with metering.ai.scope(run=f"r{left}"):
        if left:
            nested(metering, left - 1)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({"team:a": {"daily": "1.00"}}, '"team:a" is not a part; write "feature:chat"'),
        ({"user:*": {}}, "the table is empty"),
        ({"user:*": {"weekly": "1.00"}}, 'unknown key "weekly"'),
        ({"user:*": {"daily": 0.5}}, "0.5 is a float"),
    ],
)
def test_a_wrong_budget_of_a_scope_is_said(budgets: Any, message: str) -> None:
    tree = SCOPED | {"plans": {"pro": {"price": "9.00", "ai": {"budgets": budgets}}}}
    with pytest.raises(CatalogueError) as caught:
        Catalogue.from_dict(tree)
    assert message in str(caught.value)


def test_budgets_survive_being_stored() -> None:
    catalogue = Catalogue.from_dict(SCOPED)
    plan = catalogue.plan("pro")
    assert Catalogue.from_dict(catalogue.to_dict()) == catalogue
    assert type(plan).from_definition("pro", plan.definition()) == plan


# -- holds that are renewed -------------------------------------------------------------------------------------------


async def test_a_hold_is_renewed_while_its_call_runs_here(metering: Metering, clock: FrozenClock) -> None:
    async with metering.ai.reserve("acme", "gpt-4", tokens=1_000) as held:
        for minute in range(30):
            clock.advance(timedelta(minutes=1))
            renewed = await metering.ai.holding.renew()
            assert renewed == (minute in (4, 14, 24)), minute
            await metering.flush()
            assert await metering.ai.holding.expire() == 0
        held.settle(input_tokens=10, output_tokens=0)
    assert await spent(metering) == Decimal("0.0003")
    assert await metering.ai.holding.renew() == 0
    assert (await metering.prove()).holds


async def test_one_whose_process_ends_after_a_renewal_expires_ten_minutes_past_it(
    metering: Metering, clock: FrozenClock
) -> None:
    reservation = metering.ai.reserve("acme", "gpt-4", tokens=1_000, user="vip")
    await reservation.__aenter__()
    clock.advance(timedelta(minutes=6))
    assert await metering.ai.holding.renew() == 1
    for minutes, expired in ((12, 0), (3, 1)):
        clock.advance(timedelta(minutes=minutes))
        await metering.flush()
        assert await metering.ai.holding.expire() == expired
    assert await spent(metering) == Decimal("0.03")
    assert await refused(metering, 1_001, user="vip") == ("budget-exceeded", "user:vip"), "its floor counts there too"


# -- what a host's client sees ----------------------------------------------------------------------------------------


async def test_a_refusal_over_http_says_scope_spent_reserved_requested_and_fallback(make: Make) -> None:
    metering = await make(catalogue=SCOPED, worker="off")
    await metering.ai.update_cost_config("acme", fallback_model="gpt-3.5-turbo")
    app = FastAPI()
    metering.install(app, tenant=from_header("x-org"))

    @app.post("/chat")
    async def chat() -> None:
        with metering.ai.scope(user="ann"):
            await call(metering, 50_000)

    await call(metering, 100, user="ann")
    async with (
        metering.ai.reserve("acme", "gpt-4", tokens=500, user="ann"),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://host") as client,
    ):
        answer = await client.post("/chat", headers={"x-org": "acme"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
    (entry, *_), body = answer.json()["limits"], answer.json()
    jsonschema.validate(body, problem_schema())
    assert (body["code"], body["detail"].partition(";")[0]) == (
        "budget-exceeded",
        "ai_cost of user:ann: 0.003 of 0.03 used today, and this needs 1.50",
    )
    assert entry | {"resets_at": "", "policy": ""} == {
        "policy": "",
        "meter": "ai_cost",
        "scope": "user:ann",
        "limit": "0.03",
        "used": "0.003",
        "reserved": "0.015",
        "remaining": "0.012",
        "requested": "1.50",
        "fallback_model": "gpt-3.5-turbo",
        "window": "day",
        "resets_at": "",
    }


async def test_tokens_a_minute_are_taken_with_the_call_and_come_back_with_the_minute(
    make: Make, stores: dict[str, str], clock: FrozenClock
) -> None:
    metering = await make(catalogue=PLANS, **stores, worker="off")
    await metering.put_tenant("acme", plan="tokens")
    async with metering.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=5_000) as held:
        assert held.max_output_tokens == 900, "what the minute leaves"
        held.settle(input_tokens=100, output_tokens=300)
    with pytest.raises(QuotaExceeded) as caught:
        await call(metering, 1)
    decision = caught.value.decision
    assert (decision.reason, decision.meter, decision.window, decision.used) == (
        "rate-limited",
        "ai_tokens",
        "minute",
        1_000,
    )
    clock.advance(timedelta(seconds=60))
    await call(metering, 1)
    used = await metering.get_usage("acme", DAY, DAY)
    assert used.ai_tokens == 401


async def test_one_is_expired_in_the_meters_of_whoever_held_it(
    make: Make, shared_stores: dict[str, str], clock: FrozenClock
) -> None:
    meters = {
        "llm_calls": {"event": "ai_call"},
        "llm_tokens": {"event": "ai_token"},
        "ai_cost": PLANS["meters"]["ai_cost"],
    }
    plan = {"price": "0.00", "quotas": {"llm_calls": {"limit": 9, "per": "day"}}, "ai": {"daily_budget": "1.00"}}
    house = await make(catalogue=PLANS | {"meters": meters, "plans": {"pro": plan}}, **shared_stores, worker="off")
    await house.ai.reserve("acme", "gpt-4", tokens=100).__aenter__()
    await house.flush()
    clock.advance(timedelta(minutes=12))
    stores: dict[str, Any] = dict(shared_stores)
    await Metering(**stores, clock=clock, worker="off", timing=PATIENT).work(once=True, bills=False)
    used = await house.get_usage("acme", DAY, DAY)
    assert (used.meters["llm_calls"], used.meters["llm_tokens"], used.meters["ai_cost"]) == (1, 100, Decimal("0.003"))
