"""Requests through a FastAPI app, the real gate and the real stores."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from mm_metering import FrozenClock, Metering, from_header, metered
from mm_metering.errors import QuotaExceeded
from tests.flows.conftest import Make

KEY = base64.b64encode(bytes(range(32))).decode()


def app_of(metering: Metering) -> FastAPI:
    app = FastAPI()
    metering.install(app, tenant=from_header("x-org-id"))
    router = APIRouter(prefix="/v1")

    @router.get("/scenarios/{name}")
    async def scenario(name: str) -> dict[str, str]:
        return {"name": name}

    @router.post("/reports")
    @metered("export", resource="report_pdf")
    def report(fail: bool = False) -> dict[str, str]:  # noqa: FBT001, FBT002 - a query parameter
        if fail:
            raise RuntimeError("the printer is on fire")
        return {"id": "rep_1"}

    @router.get("/forbidden")
    async def forbidden() -> None:
        raise HTTPException(403)

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"line\n"

        return StreamingResponse(lines())

    async def seat() -> None:
        await metering.enforce_quota("acme", "users", 2)

    @router.post("/users", dependencies=[Depends(seat)])
    async def users() -> None:
        raise AssertionError("never reached")

    app.include_router(router, prefix="/api")
    return app


@asynccontextmanager
async def client_of(app: FastAPI, tenant: str = "acme") -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"x-org-id": tenant}) as client:
        yield client


async def used(metering: Metering, tenant: str = "acme") -> dict[str, Any]:
    """What the counters and the ledger say; they must agree."""
    usage = await metering.get_usage(tenant, "2024-01-15", "2024-01-15")
    for meter in ("api_calls", "reports"):
        assert (await metering.check_limit(tenant, meter)).used == usage.meters[meter]
    return {"api_calls": usage.api_calls, "reports": usage.meters["reports"]}


async def test_a_request_counts_per_template_and_says_what_is_left(metering: Metering) -> None:
    async with client_of(app_of(metering)) as client:
        await client.get("/api/v1/scenarios/base")
        answer = await client.get("/api/v1/scenarios/stress")
        assert answer.status_code == 200
        assert answer.headers["ratelimit"] == '"api_calls-day";r=98;t=43200'
        assert (await client.get("/api/v1/stream")).text == "line\nline\nline\n"
    await metering.flush()
    facts = await metering.ledger.facts("acme", after=(0, ""), limit=10)
    assert [fact.resource for fact in facts] == ["/api/v1/scenarios/{name}"] * 2 + ["/api/v1/stream"]


async def test_a_refused_request_consumes_nothing_on_any_meter(metering: Metering) -> None:
    async with client_of(app_of(metering)) as client:
        assert (await client.post("/api/v1/reports")).status_code == 200
        answer = await client.post("/api/v1/reports")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-should-retry"] == "false"
    problem = answer.json()
    assert problem["code"] == "quota-exceeded"
    assert problem["detail"].startswith("reports: 1 of 1 used this month; resets in 17 days")
    assert await used(metering) == {"api_calls": 1, "reports": 1}


async def test_what_fails_is_taken_back(metering: Metering) -> None:
    async with client_of(app_of(metering)) as client:
        assert (await client.post("/api/v1/reports?fail=1")).status_code == 500
        assert (await client.get("/api/v1/forbidden")).status_code == 403
        assert (await client.get("/api/v1/nothing")).status_code == 404
        assert (await client.put("/api/v1/reports")).status_code == 405
    assert await used(metering) == {"api_calls": 0, "reports": 0}


async def test_a_client_error_of_the_handler_counts(metering: Metering) -> None:
    async with client_of(app_of(metering)) as client:
        assert (await client.post("/api/v1/reports?fail=maybe")).status_code == 422
    assert await used(metering) == {"api_calls": 1, "reports": 1}


async def test_a_refusal_inside_the_handler_is_answered_and_takes_the_request_back(metering: Metering) -> None:
    async with client_of(app_of(metering)) as client:
        answer = await client.post("/api/v1/users")
    assert (answer.status_code, answer.json()["code"]) == (429, "quota-exceeded")
    assert "users: 0 of 1 used, and this needs 2" in answer.json()["detail"]
    assert await used(metering) == {"api_calls": 0, "reports": 0}


async def test_nobody_is_401_and_a_feature_that_is_missing_403(metering: Metering, clock: FrozenClock) -> None:
    app = app_of(metering)

    @app.post("/hooks")
    @metered("webhook_delivery", resource="wh_1")
    async def hooks() -> None: ...

    async with client_of(app) as client:
        nobody = await client.get("/api/v1/scenarios/x", headers={"x-org-id": ""})
        assert (nobody.status_code, nobody.json()["code"]) == (401, "tenant-unknown")
        answer = await client.post("/hooks")
        assert (answer.status_code, answer.json()["code"]) == (403, "feature-not-in-plan")
        await metering.put_tenant("acme", plan="pro")
        assert (await client.post("/hooks")).status_code == 200


async def test_the_last_unit_goes_to_exactly_one(metering: Metering) -> None:
    app = app_of(metering)
    await metering.enforce_quota("acme", "api_calls", 99)
    async with client_of(app) as client:
        first, second = await client.get("/api/v1/stream"), await client.get("/api/v1/stream")
    assert (first.status_code, second.status_code) == (200, 429)
    with pytest.raises(QuotaExceeded) as refused:
        await metering.enforce_quota("acme", "api_calls")
    assert refused.value.decision.used == 100


@pytest.mark.parametrize(
    ("now", "timezone", "day_s", "month_d"),
    [
        ("2024-01-15T12:00:00Z", "UTC", 86_400, 31),
        ("2024-02-29T12:00:00Z", "America/New_York", 86_400, 29),
        ("2024-03-10T12:00:00Z", "America/New_York", 82_800, 31),
        ("2024-11-03T12:00:00Z", "America/New_York", 90_000, 30),
    ],
)
async def test_a_policys_window_is_as_long_as_the_tenants_own(
    make: Make, now: str, timezone: str, day_s: int, month_d: int
) -> None:
    memory = await make(clock=FrozenClock(now))
    await memory.put_tenant("acme", plan="pro", timezone=timezone)
    async with client_of(app_of(memory)) as client:
        policy = (await client.post("/api/v1/reports")).headers["ratelimit-policy"]
    month_s = month_d * 86_400 + day_s - 86_400
    assert sorted(policy.split(", ")) == [f'"api_calls-day";q=10000;w={day_s}', f'"reports-month";q=50;w={month_s}']


async def test_a_tenants_bad_webhook_url_is_no_error_of_the_host(make: Make) -> None:
    metering, app = await make(worker="off", secret_key=KEY), FastAPI()
    metering.install(app, tenant=from_header("x-org-id"))

    @app.post("/hooks")
    async def hook(url: str) -> None:
        await metering.webhooks.create_endpoint("acme", url)

    await metering.put_tenant("acme", plan="pro")
    async with client_of(app) as client:
        answer = await client.post("/hooks", params={"url": "https://10.0.0.1/"})
        problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "url-refused")
    assert problem["detail"].startswith("url: ")
    assert await metering.webhooks.list_endpoints("acme") == []


async def test_an_exempt_path_that_is_nowhere_is_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    metering, app = await make(worker="off"), FastAPI()
    metering.install(app, tenant=from_header("x-org-id"), exempt=["/hooks/stripe", "/hooks"])

    @app.post("/hooks/{provider}")
    async def hook(provider: str) -> str:
        return provider

    async with client_of(app) as client:
        for provider in ("stripe", "adyen", "adyen"):
            await client.post(f"/hooks/{provider}")
    told = "exempt /hooks matches no route and no mount; `mm-metering routes` lists what there is"
    assert [each for each in caplog.messages if "exempt" in each] == [told]
