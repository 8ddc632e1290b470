"""``metering.override``: what a host's test has otherwise within a block, over HTTP, by hand and for AI calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mm_metering import (
    FrozenClock,
    Metering,
    Refused,
    from_header,
    metered,
)
from mm_metering.errors import CatalogueError, InvalidEvent, InvalidInput

API = {"x-org-id": "acme"}


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-15T12:00:00Z")


@pytest.fixture
def metering(clock: FrozenClock) -> Metering:
    return Metering(clock=clock, worker="off", journal="off")


async def scenarios(request: Request) -> JSONResponse:
    return JSONResponse({})


@metered("export", resource="report_pdf")
async def report(request: Request) -> JSONResponse:
    return JSONResponse({})


@pytest.fixture
def client(metering: Metering) -> Iterator[TestClient]:
    app = Starlette(routes=[Route("/v1/scenarios", scenarios), Route("/v1/reports", report, methods=["POST"])])
    metering.install(app, tenant=from_header("x-org-id"))
    with TestClient(app) as client:
        yield client


def usage(metering: Metering, tenant: str = "acme") -> dict[str, int]:
    found = metering.from_sync(lambda: metering.get_usage(tenant, "2024-01-15", "2024-01-15"))
    return {meter: int(used) for meter, used in found.meters.items() if used}


def test_every_tenant_is_on_a_plan_or_has_a_limit_within_the_block_and_its_own_after_it(
    metering: Metering, client: TestClient
) -> None:
    assert client.post("/v1/reports", headers=API).status_code == 200
    assert client.post("/v1/reports", headers=API).status_code == 429
    with metering.override(plan="pro"):
        assert client.post("/v1/reports", headers=API).headers["ratelimit"].count("r=48") == 1  # 2 of 50
        with metering.override(limits={"reports": 3, "api_calls": {"limit": 5, "per": "month"}}):
            assert client.post("/v1/reports", headers=API).status_code == 200
            refused = client.post("/v1/reports", headers=API).json()
            assert "reports: 3 of 3 used this month" in refused["detail"]
            assert [client.get("/v1/scenarios", headers=API).status_code for _ in range(3)] == [200, 200, 429]
        with metering.override(limits={"reports": None, "users": 2}):
            assert client.post("/v1/reports", headers=API).status_code == 200
            assert metering.from_sync(lambda: metering.check_limit("acme", "users", 2)).limit == 2
    assert "reports: 4 of 1 used" in client.post("/v1/reports", headers=API).json()["detail"]
    left = client.get("/v1/scenarios", headers=API).headers["ratelimit"]
    assert usage(metering) == {"api_calls": 7, "reports": 4, "exports": 4}
    assert "r=93" in left


@pytest.mark.parametrize(
    ("reason", "status", "said"),
    [
        ("quota-exceeded", 429, "api_calls: 100 of 100 used today; resets in 12 hours"),
        ("rate-limited", 429, "try again in"),
        ("budget-exceeded", 402, "raise the budget"),
        ("feature-not-in-plan", 403, "not part of the plan free"),
        ("payment-required", 402, "a bill is unpaid"),
        ("tenant-suspended", 403, "this account is suspended"),
    ],
)
def test_a_refusal_for_any_reason(metering: Metering, client: TestClient, reason: str, status: int, said: str) -> None:
    with metering.override(deny=reason):
        answer = client.post("/v1/reports", headers=API)
        assert (answer.status_code, answer.json()["code"]) == (status, reason)
        assert said in answer.json()["detail"]
        assert ("retry-after" in answer.headers) == (status == 429)
        with pytest.raises(Refused) as refused:
            metering.from_sync(lambda: metering.enforce_quota("acme", "reports"))
        assert refused.value.decision.reason == reason
        assert not metering.from_sync(lambda: metering.check_limit("acme", "storage_mb"))  # not limited by the plan
        with pytest.raises(Refused):
            metering.from_sync(lambda: reserve(metering))
    assert client.post("/v1/reports", headers=API).status_code == 200
    assert usage(metering) == {"api_calls": 1, "reports": 1, "exports": 1}


async def reserve(metering: Metering, model: str = "gpt-4") -> None:
    async with metering.ai.reserve("acme", model, input_tokens=10, max_output_tokens=10) as call:
        call.settle(input_tokens=10, output_tokens=5)


def test_what_is_allowed_is_counted_and_what_is_off_is_not(metering: Metering, client: TestClient) -> None:
    with metering.override(allow=True):
        assert {client.post("/v1/reports", headers=API).status_code for _ in range(3)} == {200}
    counted = {"api_calls": 3, "reports": 3, "exports": 3}
    assert usage(metering) == counted
    with metering.override(disabled=True):
        answer = client.post("/v1/reports")  # nobody is known, and nothing is said
        assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
        metering.from_sync(lambda: metering.record_api_call("acme", "/v1/reports"))
        metering.from_sync(lambda: reserve(metering, "a-model-without-a-price"))
        assert metering.from_sync(lambda: metering.enforce_quota("acme", "reports", 1000))
        with metering.bind("acme") as bound:
            bound.add("api_calls", 5)
    assert usage(metering) == counted
    assert client.post("/v1/reports").status_code == 401


def test_a_suspended_tenant_is_allowed_too(metering: Metering, client: TestClient) -> None:
    metering.from_sync(lambda: metering.put_tenant("acme", plan="free"))
    metering.from_sync(lambda: metering.pause_subscription("acme"))
    assert client.get("/v1/scenarios", headers=API).status_code == 403
    with metering.override(allow=True):
        assert client.get("/v1/scenarios", headers=API).status_code == 200
    assert client.get("/v1/scenarios", headers=API).status_code == 403


def test_who_calls_is_said_by_the_test(metering: Metering, client: TestClient) -> None:
    with metering.override(tenant="globex"):
        assert client.get("/v1/scenarios").status_code == 200
        assert client.get("/v1/scenarios", headers=API).status_code == 200
    assert client.get("/v1/scenarios").status_code == 401
    assert usage(metering, "globex") == {"api_calls": 2}


def test_who_calls_where_a_dependency_identifies_it(metering: Metering) -> None:
    async def late(request: Request) -> JSONResponse:
        await metering.identify(request.headers.get("x-org-id"))
        return JSONResponse({"tenant": metering.current().tenant})

    app = Starlette(routes=[Route("/late", late)])
    metering.install(app, tenant=None)
    with TestClient(app) as client:
        with metering.override(tenant="globex"):
            assert client.get("/late", headers=API).json() == {"tenant": "globex"}
        assert client.get("/late", headers=API).json() == {"tenant": "acme"}
        assert client.get("/late").status_code == 401


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ({"plan": "por"}, CatalogueError, 'did you mean "pro"'),
        ({"limits": {"report": 1}}, InvalidEvent, 'did you mean "reports"'),
        ({"limits": {"reports": -1}}, CatalogueError, "reports"),
        ({"deny": "quota"}, InvalidInput, "quota-exceeded, rate-limited"),
        ({"allow": True, "deny": "quota-exceeded"}, InvalidInput, "leave out limits and deny"),
        ({"tenant": ""}, InvalidInput, "tenant"),
    ],
)
def test_what_cannot_be_is_refused_before_the_block(
    metering: Metering, what: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said), metering.override(**what):
        pytest.fail("the block was entered")
    assert not {"take", "hold", "look"} & vars(metering.gate).keys()
