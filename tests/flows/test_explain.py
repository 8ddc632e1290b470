"""Why a request would be allowed or refused, and what routes cost: as values, and as somebody types it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import Depends, FastAPI

from mm_metering import FrozenClock, Metering, catalogues, from_header, quota
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.middleware.listing import RouteCost
from mm_metering.middleware.matches import Kind
from tests.flows.conftest import Make, Shell
from tests.redis_server import RedisServer

ROUTES = {"POST /v1/reports": {"reports": 2}}
APP = ("--app", "house_of_routes:metering")


def with_app(metering: Metering, *exempt: str) -> Metering:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/v1/reports", lambda: 1, methods=["POST"])
    app.add_api_route("/users/{number:int}", lambda number: number)
    app.add_api_route("/users/me", lambda: "me", dependencies=[Depends(quota("reports"))])
    app.add_api_route("/health", lambda: "ok")
    metering.install(app, tenant=from_header("x-org-id"), exempt=exempt)
    return metering


async def test_each_limit_of_a_route_says_its_numbers_and_nothing_is_consumed(make: Make) -> None:
    metering = with_app(await make(catalogue={**catalogues.load(catalogues.seed).to_dict(), "routes": ROUTES}))
    await metering.put_tenant("acme", plan="free")
    await metering.enforce_quota("acme", "api_calls", 99)
    for _ in range(3):
        found = await metering.explain_request("acme", route="POST /v1/reports")
        assert (bool(found), found.asked, found.plan) == (False, {"api_calls": 1, "reports": 2, "exports": 2}, "free")
        assert [(each.decision.meter, each.decision.allowed) for each in found.limits] == [
            ("reports", False),
            ("api_calls", True),
        ]
        assert found.words == (
            "refused: reports: 0 of 1 used this month, and this needs 2; resets in 17 days, or move to a larger plan"
        )
        assert found.limits[1].words == "api_calls: 99 of 100 used today, and this needs 1; resets in 12 hours"
    assert await metering.check_limit("acme", "api_calls")
    assert not await metering.explain_request("acme", meter="api_calls", quantity=2)
    assert not await metering.explain_request("acme", route="get /users/7", quantity=2)


async def test_what_is_not_metered_is_allowed_and_says_why(make: Make) -> None:
    metering = with_app(await make(), "/health")
    await metering.put_tenant("acme", plan="free")
    found = await metering.explain_request("acme", route="GET /health")
    assert (found.allowed, found.limits, found.words) == (True, (), "allowed: it is exempt, so nothing is counted")
    found = await metering.explain_request("acme", route="GET /users/7")
    assert (found.route, found.words) == ("GET /users/{number}", "allowed: each limit has room for it")


async def test_a_suspended_tenant_is_refused_whatever_its_limits_say(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="pro")
    await memory.pause_subscription("acme")
    found = await memory.explain_request("acme", meter="api_calls")
    assert (found.allowed, found.limits[0].decision.reason) == (False, "tenant-suspended")


async def test_without_a_name_each_meter_is_looked_at_by_itself(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="free")
    found = await memory.explain_request("acme")
    assert {each.decision.meter for each in found.limits if not each.decision.allowed} == {"webhook_deliveries"}
    assert {*found.asked} == {*memory.catalogue.meters}


async def test_nobody_is_made_by_asking(memory: Metering) -> None:
    with pytest.raises(UnknownTenant, match="first request makes it"):
        await memory.explain_request("stranger")
    assert await memory.get_tenant("stranger") is None


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"route": "POST /v1/report"}, 'did you mean "POST /v1/reports"'),
        ({"route": "DELETE /v1/reports"}, "no app has DELETE"),
        ({"route": "/v1/reports"}, 'form "POST /v1/reports"'),
        ({"route": "POST /v1/reports", "meter": "reports"}, "not both"),
        ({"meter": "report"}, "reports"),
        ({"quantity": 0}, "quantity"),
    ],
)
async def test_what_cannot_be_explained_is_said(make: Make, asked: dict[str, object], error: str) -> None:
    metering = with_app(await make())
    await metering.put_tenant("acme", plan="free")
    with pytest.raises(InvalidInput, match=error):
        await metering.explain_request("acme", **asked)  # type: ignore[arg-type]


async def test_without_an_app_there_is_no_route(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="free")
    with pytest.raises(InvalidInput, match="no app is installed"):
        await memory.explain_request("acme", route="GET /x")
    assert memory.list_routes().routes == ()


def test_routes_say_what_they_cost_and_what_hides_them() -> None:
    metering = with_app(Metering(), "/health", "/nowhere")
    found = metering.list_routes()
    assert found.unused == ("/nowhere",)
    assert [each for each in found.routes if each.template == "/health"] == [
        RouteCost(method="GET", template="/health", kind=Kind.EXEMPT, costs={})
    ]
    costs = {each.template: dict(each.costs) for each in found.routes}
    assert costs["/v1/reports"] == {"api_calls": 1}
    assert costs["/users/me"] == {"api_calls": 1, "reports": 1, "exports": 1}


def test_a_key_that_no_route_has_is_listed_not_raised() -> None:
    metering = Metering({**catalogues.load(catalogues.seed).to_dict(), "routes": {"GET /nowhere": {"api_calls": 2}}})
    assert with_app(metering).list_routes().unused == ("GET /nowhere",)


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("house_of_routes")
    stores = {"counters": redis_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    clock = FrozenClock("2024-01-15T12:00:00Z")
    module.__getattr__ = lambda _: with_app(  # type: ignore[method-assign]
        Metering(**stores, clock=clock, worker="off"),  # type: ignore[arg-type]
        "/nowhere",
    )
    monkeypatch.setitem(sys.modules, "house_of_routes", module)

    async def opens() -> None:
        async with module.metering as metering:
            await metering.put_tenant("acme", plan="free")

    asyncio.run(opens())
    return module


def test_the_commands_show_both(house: ModuleType, shell: Shell) -> None:
    code, said, _ = shell("routes", *APP)
    assert (code, "/v1/reports" in said, "matches nothing: /nowhere" in said) == (1, True, True)
    code, said, _ = shell("routes", "--json", *APP)
    assert (code, json.loads(said)["unused"]) == (1, ["/nowhere"])
    code, said, _ = shell("explain", "acme", *APP)
    assert (code, "REFUSES  webhook_deliveries: not part of the plan free" in said) == (0, True)
    code, said, _ = shell("explain", "acme", "--route", "POST /v1/reports", "--quantity", 101, *APP)
    assert (code, said.splitlines()[-1].startswith("refused: api_calls: 0 of 100 used today")) == (1, True)
    code, said, _ = shell("explain", "acme", "--meter", "api_calls", "--json", *APP)
    assert (code, json.loads(said)["limits"][0]["decision"]["limit"]) == (0, 100)
    assert shell("explain", "nobody", *APP)[0] == 1
    code, _, error = shell("explain", "acme", "--route", "GET /nothing", *APP)
    assert (code, error.count("\n")) == (2, 1)
