"""``metering.ai``: what a call may use is held before it, and what it was is charged after it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from mm_metering import (
    BudgetExceeded,
    FrozenClock,
    Metering,
    ModelNotAllowed,
    QuotaExceeded,
    ai_call,
    from_header,
)
from mm_metering.ai.asking import asked
from mm_metering.core.facts import Fact
from mm_metering.errors import InvalidInput
from tests.flows.conftest import Make

PLANS: dict[str, Any] = {
    "currency": "USD",
    "default_plan": "pro",
    "meters": {
        "ai_requests": {"event": "ai_call"},
        "ai_tokens": {"event": "ai_token"},
        "ai_cost": {"event": "ai_call", "unit": "money"},
    },
    "ai": {"prices": {"gpt-4": "0.00003", "gpt-3.5-turbo": "0.000001"}},
    "plans": {
        "pro": {
            "price": "99.00",
            "quotas": {"ai_requests": {"limit": 1000, "per": "day"}},
            "ai": {"daily_budget": "0.10", "monthly_budget": "1.00"},
        },
        "big": {"price": "199.00", "ai": {"daily_budget": "9.00", "monthly_budget": "99.00"}},
        "tokens": {"price": "9.00", "quotas": {"ai_tokens": {"limit": 1000, "per": "minute"}}},
        "free": {"price": "0.00", "quotas": {"ai_requests": {"limit": 1, "per": "day"}}},
    },
}


def reply(read: int, written: int, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {"object": "chat.completion", "model": "gpt-4", "choices": [], "usage": usage, **more}


async def spent(metering: Metering, tenant: str = "acme", day: str = "2024-01-15") -> Decimal:
    return Decimal((await metering.get_usage(tenant, day, day)).meters.get("ai_cost", 0))


async def facts(metering: Metering, tenant: str = "acme") -> list[Fact]:
    await metering.flush()
    return await metering.ledger.facts(tenant, after=(0, ""), limit=1000)


@pytest.fixture
async def metering(make: Make, stores: dict[str, str]) -> Metering:
    return await make(catalogue=PLANS, **stores, worker="off")


@pytest.fixture
async def memory(make: Make) -> Metering:
    return await make(catalogue=PLANS, worker="off")


# -- reserve and settle -----------------------------------------------------------------------------------------------


async def test_a_call_is_charged_what_it_used_on_every_store(metering: Metering) -> None:
    async with metering.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=500) as call:
        assert (call.model, call.max_output_tokens, call.granted_nanos) == ("gpt-4", 500, 600 * 30_000)
        call.settle(reply(90, 200))
    assert await spent(metering) == Decimal("0.0087")
    used = await metering.get_usage("acme", "2024-01-15", "2024-01-15")
    assert (used.ai_requests, used.ai_tokens, used.total_cost) == (1, 290, Decimal("0.0087"))
    closed = next(each for each in await facts(metering) if each.kind == "close")
    assert json.loads(closed.metadata or "{}") == {
        "status": "exact",
        "source": "catalogue gpt-4",
        "input": 90,
        "output": 200,
    }
    assert (await metering.prove()).holds


async def test_output_is_what_the_budget_leaves_and_the_rest_is_busy_then_exceeded(memory: Metering) -> None:
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=5_000) as call:
        assert call.max_output_tokens == 100_000_000 // 30_000 - 100
        with pytest.raises(BudgetExceeded) as busy:
            await memory.ai.reserve("acme", "gpt-4", input_tokens=100).__aenter__()
        decision = busy.value.decision
        assert (decision.reason, decision.window, decision.reserved) == ("budget-busy", "day", Decimal("0.10"))
        call.settle(input_tokens=100, output_tokens=call.max_output_tokens)
    with pytest.raises(BudgetExceeded) as over:
        await memory.ai.reserve("acme", "gpt-4", input_tokens=100).__aenter__()
    assert over.value.decision.reason == "budget-exceeded"
    assert await spent(memory) <= Decimal("0.10")


async def test_the_fallback_is_tried_in_the_same_step_and_priced_as_itself(memory: Metering) -> None:
    await memory.ai.update_cost_config("acme", fallback_model="gpt-3.5-turbo")
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=3_000, max_output_tokens=300) as first:
        first.settle(input_tokens=3_000, output_tokens=300)
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=500, max_output_tokens=100) as call:
        assert (call.model, call.is_fallback, call.granted_nanos) == ("gpt-3.5-turbo", True, 600_000)
        call.settle(input_tokens=500, output_tokens=100)
    stats = await memory.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert stats.model_breakdown == {
        "gpt-3.5-turbo": (1, 600, Decimal("0.0006")),
        "gpt-4": (1, 3_300, Decimal("0.099")),
    }
    assert (stats.request_count, stats.total_tokens, stats.total_cost) == (2, 3_900, Decimal("0.0996"))


async def test_an_overrun_is_charged_in_full_and_blocks_the_next(memory: Metering) -> None:
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=100) as call:
        call.settle(reply(100, 9_000))
    assert await spent(memory) == Decimal("0.273")
    with pytest.raises(BudgetExceeded):
        await memory.ai.reserve("acme", "gpt-4", input_tokens=1).__aenter__()


async def test_models_that_are_not_listed_or_not_priced_are_refused_and_never_swapped(memory: Metering) -> None:
    await memory.ai.update_cost_config(
        "acme", model_allowlist=["gpt-4", "gpt-3.5-turbo", "in-house-1"], fallback_model="gpt-3.5-turbo"
    )
    for model, reason in (("gpt-5", "model-not-allowed"), ("in-house-1", "model-unpriced")):
        with pytest.raises(ModelNotAllowed) as refused:
            await memory.ai.reserve("acme", model, input_tokens=1).__aenter__()
        assert refused.value.decision.reason == reason
        assert (await memory.ai.check_request("acme", model, 10)).reason == reason
    assert (await memory.ai.check_request("acme", "gpt-4", 10)).allowed
    await memory.ai.update_cost_config("acme", on_unpriced="allow")
    async with memory.ai.reserve("acme", "in-house-1", input_tokens=10, max_output_tokens=10) as call:
        call.settle(input_tokens=10, output_tokens=5)
    closed = next(each for each in await facts(memory) if each.kind == "close")
    assert json.loads(closed.metadata or "{}")["status"] == "unpriced"


async def test_requests_and_tokens_have_quotas_of_their_own(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="free")
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=1) as call:
        call.settle(input_tokens=1, output_tokens=1)
    with pytest.raises(QuotaExceeded):
        await memory.ai.reserve("acme", "gpt-4", input_tokens=1).__aenter__()
    assert (await memory.ai.check_request("acme", "gpt-4", 10)).reason == "quota-exceeded"


async def test_nothing_is_charged_for_what_was_not_called(memory: Metering) -> None:
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100) as call:
        call.release()
        call.settle(reply(5, 5))
    assert await spent(memory) == 0
    assert (await memory.check_limit("acme", "ai_requests")).used == 0
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=3_000) as again:
        assert again.max_output_tokens == 3_000, "nothing is held any more"
        again.release()


class Refusal(Exception):
    status_code = 429


class Slow(Exception):
    """A time-out after the request had left."""


@pytest.mark.parametrize(
    ("error", "cost", "status"),
    [
        (Refusal(), "0", None),
        (Slow(), "0.003", "estimated"),
        (asyncio.CancelledError(), "0.003", "estimated"),
    ],
)
async def test_an_error_is_charged_as_far_as_the_provider_may_have_worked(
    memory: Metering, error: BaseException, cost: str, status: str | None
) -> None:
    with pytest.raises(type(error)):
        async with memory.ai.reserve("acme", "gpt-4", input_tokens=100):
            raise error
    assert await spent(memory) == Decimal(cost)
    closes = [each for each in await facts(memory) if each.kind == "close"]
    assert [json.loads(each.metadata or "{}")["status"] for each in closes] == ([status] if status else [])


async def test_what_nobody_settles_is_charged_as_held_and_said(
    memory: Metering, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=100):
        pass
    assert await spent(memory) == Decimal("0.006")
    assert "gpt-4: 1 were not settled" in caplog.text


@pytest.mark.parametrize("usage", [None, {}, {"error": {"message": "no"}}])
async def test_a_reply_without_usage_is_never_free(memory: Metering, usage: Any) -> None:
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=100) as call:
        call.settle(usage)
    assert await spent(memory) >= Decimal("0.003")


async def test_many_at_once_never_overshoot_and_use_nearly_all(metering: Metering) -> None:
    chance = random.Random(3)

    async def one() -> int:
        try:
            async with metering.ai.reserve("acme", "gpt-4", input_tokens=20, max_output_tokens=300) as call:
                await asyncio.sleep(0)
                written = chance.randrange(call.max_output_tokens + 1)
                call.settle(input_tokens=20, output_tokens=written)
                return 1
        except BudgetExceeded:
            return 0

    served = 0
    for _ in range(12):
        served += sum(await asyncio.gather(*(one() for _ in range(16))))
    assert await spent(metering) <= Decimal("0.10")
    assert await spent(metering) >= Decimal("0.09")
    assert served > 10
    assert (await metering.prove()).holds


async def test_calls_count_in_the_windows_that_admitted_them(memory: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-15T23:59:00Z")
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100) as call:
        clock.advance(timedelta(minutes=2))
        call.settle(input_tokens=100, output_tokens=100)
    assert [await spent(memory, day=f"2024-01-{day}") for day in (15, 16)] == [Decimal("0.006"), Decimal(0)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "x", "input_tokens": 1},
        {},
        {"input_tokens": -1},
        {"tokens": 1.5},
        {"input_tokens": 1, "max_output_tokens": -5},
    ],
)
async def test_what_is_no_call_is_refused_and_holds_nothing(memory: Metering, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await memory.ai.reserve("acme", "gpt-4", **wrong).__aenter__()
    for model in ("", "x" * 10_000, "a\nb", None):
        with pytest.raises(InvalidInput, match="model"):
            await memory.ai.reserve("acme", model, input_tokens=1).__aenter__()  # type: ignore[arg-type]
    assert await facts(memory) == []


async def test_a_call_whose_process_is_gone_is_charged_its_input_and_a_late_settle_replaces_that(
    metering: Metering, clock: FrozenClock
) -> None:
    gone = await metering.ai.holding.open(asked("acme", "gpt-4", input_tokens=100, max_output_tokens=500))
    late = await metering.ai.holding.open(asked("acme", "gpt-4", input_tokens=200, max_output_tokens=500))
    await metering.flush()
    assert await metering.ai.holding.expire() == 0
    clock.advance(timedelta(minutes=12))
    assert await metering.ai.holding.expire() == 2
    assert await metering.ai.holding.expire() == 0
    assert await spent(metering) == Decimal("0.009")
    assert (await metering.check_limit("acme", "ai_requests")).used == 2
    late.call.settle(input_tokens=200, output_tokens=300)
    await metering.ai.holding.write(late)
    await metering.ai.holding.write(late)
    assert await spent(metering) == Decimal("0.018")
    assert (await metering.check_limit("acme", "ai_requests")).used == 2
    used = await metering.get_usage("acme", "2024-01-15", "2024-01-15")
    assert (used.ai_requests, used.ai_tokens) == (2, 600)
    assert (await metering.prove()).holds
    assert gone.call.is_open


# -- the decorator ----------------------------------------------------------------------------------------------------


@ai_call(model="gpt-4", max_output_tokens=800)
async def summarise(text: str, *, model: str = "", max_output_tokens: int = 0) -> dict[str, Any]:
    return reply(10, 50, asked=(model, max_output_tokens))


@ai_call(model="gpt-4", max_output_tokens=100)
def summarise_sync(text: str) -> dict[str, Any]:
    return reply(10, 50)


CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"delta": {"content": "hello "}}], "usage": None},
    {"choices": [{"delta": {"content": "world"}}], "usage": None},
    {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}},
]


@ai_call(model="gpt-4", max_output_tokens=100)
async def streamed(text: str) -> AsyncIterator[dict[str, Any]]:
    for chunk in CHUNKS:
        yield chunk


@ai_call(model="gpt-4", max_output_tokens=100)
def streamed_sync(text: str) -> Iterator[dict[str, Any]]:
    yield from CHUNKS


async def test_every_kind_of_function_is_reserved_and_settled(memory: Metering) -> None:
    with memory.bind("acme"):
        answer = await summarise("hello")
        assert answer["asked"] == ("gpt-4", 800)
        await asyncio.to_thread(summarise_sync, "hello")
        assert [chunk async for chunk in streamed("hello")] == CHUNKS
        assert await asyncio.to_thread(lambda: list(streamed_sync("hello"))) == CHUNKS
    stats = await memory.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert (stats.request_count, stats.total_tokens, stats.total_cost) == (4, 220, Decimal("0.0066"))


async def test_a_stream_that_is_left_is_charged_what_was_seen(memory: Metering) -> None:
    with memory.bind("acme"):
        async for _ in (stream := streamed("hello")):
            break
        await stream.aclose()  # type: ignore[attr-defined]
    stats = await memory.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert (stats.request_count, stats.total_tokens > 0) == (1, True)
    closed = next(each for each in await facts(memory) if each.kind == "close")
    assert json.loads(closed.metadata or "{}")["status"] == "estimated"


async def test_what_a_request_leaves_open_is_settled_when_it_is_over(memory: Metering) -> None:
    app = FastAPI()
    memory.install(app, tenant=from_header("x-org-id"))
    left: list[Any] = []

    @app.get("/chat")
    async def chat() -> StreamingResponse:
        stream = streamed("hello")
        left.append(stream)

        async def some() -> AsyncIterator[bytes]:
            async for chunk in stream:
                yield json.dumps(chunk).encode()
                return

        return StreamingResponse(some())

    import httpx2

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/chat", headers={"x-org-id": "acme"})
    assert answer.status_code == 200
    stats = await memory.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert stats.request_count == 1
    assert (await memory.check_limit("acme", "ai_requests")).used == 1


# -- settings, prediction ---------------------------------------------------------------------------------------------


async def test_a_tenants_own_budgets_are_in_force_at_the_next_call(memory: Metering) -> None:
    policy = await memory.ai.update_cost_config(
        "acme", daily_budget="50.00", monthly_budget="1500.00", model_allowlist=["gpt-4"], fallback_model=None
    )
    assert (policy.daily_budget, policy.monthly_budget, policy.model_allowlist) == (
        Decimal(50),
        Decimal(1500),
        ("gpt-4",),
    )
    async with memory.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=100_000) as call:
        assert call.max_output_tokens == 100_000
        call.release()


async def test_a_prediction_says_what_is_left_and_what_the_month_will_cost(
    memory: Metering, clock: FrozenClock
) -> None:
    await memory.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    for day in range(1, 29):
        clock.set(f"2024-01-{day:02}T12:00:00Z")
        async with memory.ai.reserve("acme", "gpt-4", input_tokens=500, max_output_tokens=500) as call:
            call.settle(input_tokens=500, output_tokens=500)
    seen = await memory.ai.get_quota_prediction("acme")
    assert seen.remaining_requests == 2, "0.07 of the day's budget and 0.03 a call"
    assert (seen.will_exceed_budget, seen.estimated_cost) == (False, Decimal("0.945"))
    # 28 days of 0.03, the half of today that is left, and three days more
    assert seen.recommended_action in ("none", "watch")
    fresh = await memory.ai.get_quota_prediction((await memory.put_tenant("new")).id)
    assert (fresh.method, fresh.estimated_cost, fresh.will_exceed_budget) == ("none", None, False)
