"""A tenant that only a dependency knows: the decision falls there, and its refusal is ours."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Response

from mm_metering import Metering, metered
from mm_metering.errors import InvalidInput, NotBound


@pytest.fixture
def app(memory: Metering) -> FastAPI:
    app = FastAPI()

    async def user(authorization: Annotated[str | None, Header()] = None) -> str:
        if authorization is None:
            raise HTTPException(401)
        await memory.identify(authorization if authorization != "stolen" else None)
        return authorization

    @app.get("/scenarios")
    async def scenarios(who: str = Depends(user), status: int = 200) -> Response:
        assert memory.current().tenant == who
        return Response(status_code=status)

    @app.get("/reports", dependencies=[Depends(user)])
    @metered("export", resource="report_pdf")
    def report() -> str:
        return "report"

    @app.get("/forgotten")
    def forgotten() -> str:
        with pytest.raises(NotBound, match="identify"):
            memory.current()
        return "free"

    @app.get("/twice", dependencies=[Depends(user)])
    async def twice() -> None:
        await memory.identify("acme")
        await memory.identify("other")

    memory.install(app, tenant=None)
    return app


def client(app: FastAPI, **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def used(metering: Metering, tenant: str = "acme") -> dict[str, Any]:
    usage = await metering.get_usage(tenant, "2024-01-15", "2024-01-15")
    return {"api_calls": usage.api_calls, "reports": usage.meters["reports"]}


async def test_the_decision_falls_in_the_dependency(app: FastAPI, memory: Metering) -> None:
    async with client(app, authorization="acme") as http:
        answer = await http.get("/scenarios")
        assert answer.headers["ratelimit"].startswith('"api_calls-day";r=99')
        assert [(await http.get("/reports")).status_code for _ in range(2)] == [200, 429]
        refused = await http.get("/reports")
    assert refused.json()["code"] == "quota-exceeded"
    assert refused.headers["ratelimit"].startswith('"reports-month";r=0')
    assert [each["meter"] for each in refused.json()["limits"]] == ["reports"]
    assert await used(memory) == {"api_calls": 2, "reports": 1}


async def test_nobody_and_a_failing_handler_count_nothing(app: FastAPI, memory: Metering) -> None:
    async with client(app) as http:
        assert (await http.get("/scenarios")).status_code == 401
    async with client(app, authorization="stolen") as http:
        answer = await http.get("/scenarios")
    assert (answer.status_code, answer.json()["code"]) == (401, "tenant-unknown")
    assert "www-authenticate" in answer.headers
    async with client(app, authorization="acme") as http:
        assert (await http.get("/scenarios?status=500")).status_code == 500
    assert await used(memory) == {"api_calls": 0, "reports": 0}


async def test_a_request_that_nobody_identified_leaves_one_line(
    app: FastAPI, memory: Metering, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(app) as http:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert (await http.get("/forgotten")).json() == "free"
    assert caplog.messages == ["unidentified: /forgotten was served without identify(): not metered"]


async def test_a_request_has_one_tenant(app: FastAPI, memory: Metering) -> None:
    async with client(app, authorization="acme") as http:
        with pytest.raises(InvalidInput, match="decided for another tenant"):
            await http.get("/twice")
    with pytest.raises(NotBound):
        await memory.identify("acme")
    assert await used(memory) == {"api_calls": 0, "reports": 0}
