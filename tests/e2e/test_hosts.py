"""Any ASGI app under ``MeteringMiddleware``: what counts is the same, however its framework routes.

The routes of Starlette and FastAPI are read. Of other hosts the keys of ``[routes]`` are the templates that are known;
all else is one bucket, and a 404 or 405 there is taken for a route that the host does not have.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import httpx2
import pytest
from litestar import Litestar, get
from litestar.params import FromPath
from litestar.response import Stream
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering import FrozenClock, Metering, MeteringMiddleware, from_header, metered
from mm_metering.middleware.matches import UNMATCHED

ORDER = "/v1/orders/{id}"
PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {"api_calls": {"event": "api_call"}, "rows": {"event": "row"}},
    "plans": {
        "small": {
            "price": "0",
            "quotas": {"api_calls": {"limit": 3, "per": "day"}, "rows": {"limit": 100, "per": "day"}},
        }
    },
    "routes": {f"GET {ORDER}": {"api_calls": 1}, "exempt": ["/healthz"]},
}


@metered("row", quantity=2)
def save() -> None:
    """Uses two rows by itself, from wherever it is called."""


@metered("row", quantity=3)
async def save_later() -> None:
    """The same, async."""


# ---- the hosts: an order by its id, one that fails, a stream, rows that are added, and a health check ----


def starlette_app(metering: Metering) -> ASGIApp:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def order(request: Request) -> Response:
        if request.path_params["id"] == "broken":
            raise ZeroDivisionError
        return PlainTextResponse(request.path_params["id"])

    async def rows(request: Request) -> Response:
        metering.current().add("rows", 5)
        await asyncio.to_thread(save)
        await save_later()
        return PlainTextResponse("ok")

    async def stream(request: Request) -> Response:
        return StreamingResponse(iter([b"a", b"b"]))

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    paths = {ORDER: order, "/rows": rows, "/stream": stream, "/healthz": health}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])


def litestar_app(metering: Metering) -> ASGIApp:
    @get("/v1/orders/{order:str}", sync_to_thread=False)
    def order(order: FromPath[str]) -> str:
        if order == "broken":
            raise ZeroDivisionError
        return order

    @get("/rows")
    async def rows() -> str:
        metering.current().add("rows", 5)
        await asyncio.to_thread(save)
        await save_later()
        return "ok"

    @get("/stream", sync_to_thread=False)
    def stream() -> Stream:
        return Stream(iter([b"a", b"b"]))

    @get("/healthz", sync_to_thread=False)
    def health() -> str:
        return "ok"

    return Litestar([order, rows, stream, health])  # type: ignore[return-value]


def django_app(metering: Metering) -> ASGIApp:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path

    async def order(request: HttpRequest, order: str) -> HttpResponse:
        if order == "broken":
            raise ZeroDivisionError
        return HttpResponse(order)

    async def rows(request: HttpRequest) -> HttpResponse:
        current["metering"].current().add("rows", 5)
        await asyncio.to_thread(save)
        await save_later()
        return HttpResponse("ok")

    async def stream(request: HttpRequest) -> StreamingHttpResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingHttpResponse(parts())

    def health(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    current["metering"] = metering
    if not settings.configured:
        urls = ModuleType("mm_test_urls")
        urls.urlpatterns = [  # type: ignore[attr-defined]
            path("v1/orders/<order>", order),
            path("rows", rows),
            path("stream", stream),
            path("healthz", health),
        ]
        sys.modules[urls.__name__] = urls
        settings.configure(ROOT_URLCONF=urls.__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, SECRET_KEY="test")
        django.setup()
    app: ASGIApp = get_asgi_application()
    return app


current: dict[str, Metering] = {}
"""Django has one configuration per process: its views outlive a test."""


def bare_app(metering: Metering) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        status, parts = 200, [b"ok"]
        match scope["path"].split("/"):
            case ["", "v1", "orders", "broken"]:
                raise ZeroDivisionError
            case ["", "v1", "orders", order]:
                parts = [order.encode()]
            case ["", "rows"]:
                metering.current().add("rows", 5)
                await asyncio.to_thread(save)
                await save_later()
            case ["", "stream"]:
                parts = [b"a", b"b"]
            case ["", "healthz"]:
                pass
            case _:
                status = 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


HOSTS = {"starlette": starlette_app, "litestar": litestar_app, "django": django_app, "bare": bare_app}


class Host:
    def __init__(self, name: str, build: Callable[[Metering], ASGIApp]) -> None:
        self.name = name
        self.metering = Metering(PLANS, clock=FrozenClock("2024-01-15T12:00:00Z"))
        self.app = MeteringMiddleware(build(self.metering), metering=self.metering, tenant=from_header("x-org-id"))
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"x-org-id": "acme"})

    async def used(self) -> dict[str, int]:
        """The counters, which the ledger must agree with, and the calls by template."""
        usage = await self.metering.get_usage("acme", "2024-01-15", "2024-01-15")
        for meter in ("api_calls", "rows"):
            assert (await self.metering.check_limit("acme", meter)).used == usage.meters[meter]
        facts = await self.metering.ledger.facts("acme", after=(0, ""), limit=100)
        calls: dict[str, int] = {}
        for fact in facts:
            if fact.event_type == "api_call":
                calls[fact.resource] = calls.get(fact.resource, 0) + fact.quantity
        return {**calls, "rows": int(usage.meters["rows"])}

    def template(self, path: str) -> str:
        """How this host's routes are called: those of Starlette are read."""
        return path if self.name == "starlette" else UNMATCHED


@pytest.fixture(params=HOSTS)
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    host = Host(request.param, HOSTS[request.param])
    async with host.http:
        yield host
    await host.metering.shutdown()


async def test_a_request_counts_under_its_template_until_the_limit(host: Host) -> None:
    answers = [await host.http.get(f"/v1/orders/{n}") for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].text == "0"
    assert answers[0].headers["ratelimit"].startswith('"api_calls-day";r=2')
    assert answers[3].json()["code"] == "quota-exceeded"
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert await host.used() == {ORDER: 3, "rows": 0}


async def test_what_fails_or_is_not_there_counts_nothing(host: Host) -> None:
    assert (await host.http.get("/v1/orders/broken")).status_code == 500
    assert (await host.http.get("/nowhere")).status_code == 404
    nobody = await host.http.get("/v1/orders/1", headers={"x-org-id": ""})
    assert (nobody.status_code, nobody.json()["code"]) == (401, "tenant-unknown")
    assert await host.used() == {"rows": 0}


async def test_head_counts_as_get_and_what_is_exempt_not_at_all(host: Host) -> None:
    assert (await host.http.head("/v1/orders/1")).status_code in (200, 405)  # Litestar has no HEAD of its own
    assert (await host.http.get("/healthz", headers={"x-org-id": ""})).status_code == 200
    assert await host.used() == {ORDER: 1, "rows": 0}


async def test_streams_and_usage_from_inside_are_metered(host: Host) -> None:
    assert (await host.http.get("/stream")).content == b"ab"
    assert (await host.http.get("/rows")).status_code == 200
    used = await host.used()
    assert used.pop("rows") == 10
    assert sum(used.values()) == 2
    assert set(used) == {host.template("/stream"), host.template("/rows")}


@pytest.mark.parametrize("name", ["starlette", "litestar", "bare"])
async def test_the_lifespan_opens_and_closes_it(name: str) -> None:
    host = Host(name, HOSTS[name])
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    serving = asyncio.create_task(host.app(scope, inbox.get, sent.put))
    for phase in ("startup", "shutdown"):
        await inbox.put({"type": f"lifespan.{phase}"})
        assert (await asyncio.wait_for(sent.get(), 10))["type"] == f"lifespan.{phase}.complete"
        assert host.metering._open is (phase == "startup")
    await asyncio.wait_for(serving, 10)
    await host.http.aclose()
