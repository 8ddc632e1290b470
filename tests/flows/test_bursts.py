"""Burst rates beside quotas: a request that comes too fast is told to wait, and consumes nothing anywhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from mm_metering import FrozenClock, Metering, UsageEvent, from_header
from mm_metering.errors import QuotaExceeded
from mm_metering.gate.admission import Wish
from tests.flows.conftest import Make

BURST, DAY, MONTH = 3, 100, 1_000
WINDOWS = {"second": 1, "minute": 60}


def plans(per: str) -> dict[str, Any]:
    limits = [{"limit": BURST, "per": per}, {"limit": DAY, "per": "day"}, {"limit": MONTH, "per": "month"}]
    meters: dict[str, Any] = {"api_calls": {"event": "api_call"}}
    plan = {"price": "0", "quotas": {"api_calls": limits}}
    return {"currency": "USD", "default_plan": "p", "meters": meters, "plans": {"p": plan}}


async def left(metering: Metering) -> dict[str, int]:
    """What the counters still give in each window."""
    admission = await metering.gate.take("acme", (Wish("", "", meter="api_calls"),), look=True)
    return {str(each.window): int(each.remaining or 0) for each in admission.decisions}


@pytest.mark.parametrize("per", WINDOWS)
async def test_a_request_that_comes_too_fast_consumes_nothing(
    stores: dict[str, str], make: Make, clock: FrozenClock, per: str
) -> None:
    metering = await make(catalogue=plans(per), **stores)
    for _ in range(BURST):
        await metering.enforce_quota("acme", "api_calls")
    for _ in range(4):
        with pytest.raises(QuotaExceeded) as refused:
            await metering.enforce_quota("acme", "api_calls")
        decision = refused.value.decision
        assert (decision.reason, decision.window, decision.retry_after_s) == ("rate-limited", per, WINDOWS[per])
    assert await left(metering) == {per: 0, "day": DAY - BURST, "month": MONTH - BURST}
    clock.advance(timedelta(seconds=WINDOWS[per]))
    await metering.enforce_quota("acme", "api_calls")
    assert await left(metering) == {per: BURST - 1, "day": DAY - BURST - 1, "month": MONTH - BURST - 1}
    assert (await metering.get_usage("acme", "2024-01-15", "2024-01-15")).meters["api_calls"] == BURST + 1


@pytest.mark.parametrize("per", WINDOWS)
async def test_a_request_that_no_quota_admits_leaves_the_burst_rate_alone(
    stores: dict[str, str], make: Make, per: str
) -> None:
    metering = await make(catalogue=plans(per), **stores)
    await metering.record_many(UsageEvent(tenant="acme", event_type="api_call", resource="/x") for _ in range(DAY))
    with pytest.raises(QuotaExceeded) as refused:
        await metering.enforce_quota("acme", "api_calls")
    assert refused.value.decision.reason == "quota-exceeded"
    assert (await left(metering))[per] == BURST


async def test_a_process_whose_clock_is_behind_waits_no_longer_than_the_window(
    shared_stores: dict[str, str], make: Make
) -> None:
    """The window is the one that the counters are in, which the fastest clock has opened."""
    ahead = await make(catalogue=plans("second"), clock=FrozenClock("2024-01-15T12:00:09Z"), **shared_stores)
    behind = await make(catalogue=plans("second"), **shared_stores)
    for _ in range(BURST):
        await ahead.enforce_quota("acme", "api_calls")
    with pytest.raises(QuotaExceeded) as refused:
        await behind.enforce_quota("acme", "api_calls")
    assert (refused.value.decision.reason, refused.value.decision.retry_after_s) == ("rate-limited", 1)


async def test_http_says_429_and_how_long_to_wait(stores: dict[str, str], make: Make) -> None:
    metering = await make(catalogue=plans("minute"), **stores)
    app = FastAPI()
    metering.install(app, tenant=from_header("x-org-id"))
    app.get("/x")(lambda: "ok")
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://t", headers={"x-org-id": "acme"}) as client:
        answers = [await client.get("/x") for _ in range(BURST + 2)]
    assert [answer.status_code for answer in answers] == [200] * BURST + [429] * 2
    assert {(each.json()["code"], each.headers["retry-after"]) for each in answers[BURST:]} == {("rate-limited", "60")}
    assert await left(metering) == {"minute": 0, "day": DAY - BURST, "month": MONTH - BURST}
