"""Any ASGI app under ``MeteringMiddleware``: what counts is the same, however its framework routes, called in this
process and by uvicorn.

The routes of Starlette and FastAPI are read. Of other hosts the keys of ``[routes]`` are the templates that are known;
all else is one bucket, and a 404 or 405 there is taken for a route that the host does not have.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvicorn
from litestar import Litestar, get
from litestar.params import FromPath
from litestar.response import Stream
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering import FrozenClock, Metering, MeteringMiddleware, from_header, metered
from mm_metering.errors import CatalogueError
from mm_metering.middleware.matches import UNMATCHED

TIMEOUT_S = 10
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
    "routes": {f"GET {ORDER}": {"api_calls": 1, "rows": 1}, "exempt": ["/healthz"]},
}


@metered("row", quantity=2)
def save() -> None:
    """Uses two rows by itself, from wherever it is called."""


@metered("row", quantity=3)
async def save_later() -> None:
    """The same, async."""


# ---- the hosts: an order by its id, one that fails, a stream, rows added, rows saved in a def, and a health check ----


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
        await save_later()
        return PlainTextResponse("ok")

    def saved(request: Request) -> Response:
        save()
        return PlainTextResponse("ok")

    async def stream(request: Request) -> Response:
        return StreamingResponse(iter([b"a", b"b"]))

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    paths = {ORDER: order, "/rows": rows, "/saved": saved, "/stream": stream, "/healthz": health}
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
        await save_later()
        return "ok"

    @get("/saved", sync_to_thread=True)
    def saved() -> str:
        save()
        return "ok"

    @get("/stream", sync_to_thread=False)
    def stream() -> Stream:
        return Stream(iter([b"a", b"b"]))

    @get("/healthz", sync_to_thread=False)
    def health() -> str:
        return "ok"

    return Litestar([order, rows, saved, stream, health], logging_config=None)  # type: ignore[return-value]


def django_app(metering: Metering) -> ASGIApp:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path
    from django.views.decorators.http import require_safe

    async def order(request: HttpRequest, order: str) -> HttpResponse:
        if order == "broken":
            raise ZeroDivisionError
        return HttpResponse(order)

    async def rows(request: HttpRequest) -> HttpResponse:
        current["metering"].current().add("rows", 5)
        await save_later()
        return HttpResponse("ok")

    def saved(request: HttpRequest) -> HttpResponse:
        save()
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
            path("rows", require_safe(rows)),
            path("saved", saved),
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
            case ["", "rows"] if scope["method"] == "POST":
                status = 405
            case ["", "v1", "orders", "broken"]:
                raise ZeroDivisionError
            case ["", "v1", "orders", order]:
                parts = [order.encode()]
            case ["", "rows"]:
                metering.current().add("rows", 5)
                await save_later()
            case ["", "saved"]:
                await asyncio.to_thread(save)
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


HOSTS: dict[str, Callable[[Metering], ASGIApp]] = {
    "starlette": starlette_app,
    "litestar": litestar_app,
    "django": django_app,
    "bare": bare_app,
}


class Host:
    def __init__(self, name: str, plans: dict[str, Any] = PLANS) -> None:
        self.name = name
        self.metering = Metering(plans, clock=FrozenClock("2024-01-15T12:00:00Z"))
        self.app = MeteringMiddleware(
            HOSTS[name](self.metering), metering=self.metering, tenant=from_header("x-org-id")
        )
        self.http = self.client(transport=httpx2.ASGITransport(app=self.app, raise_app_exceptions=False))

    def client(self, url: str = "http://test", transport: httpx2.ASGITransport | None = None) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=transport, base_url=url, headers={"x-org-id": "acme"}, timeout=TIMEOUT_S, trust_env=False
        )

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

    def is_open(self) -> bool:
        return self.metering._open

    def template(self, path: str) -> str:
        """How this host's routes are called: those of Starlette are read."""
        return path if self.name == "starlette" else UNMATCHED


@asynccontextmanager
async def by_uvicorn(host: Host) -> AsyncIterator[None]:
    """Its requests go through a socket to uvicorn, which drives the lifespan of those that have one."""
    server = uvicorn.Server(uvicorn.Config(host.app, port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.005)
        _, port = server.servers[0].sockets[0].getsockname()
        async with host.http, host.client(f"http://127.0.0.1:{port}") as host.http:
            yield
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, TIMEOUT_S)


@pytest.fixture(params=[f"{name}-{server}" for name in HOSTS for server in ("inside", "uvicorn")])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    name, _, server = request.param.partition("-")
    host = Host(name)
    async with by_uvicorn(host) if server == "uvicorn" else host.http:
        yield host
    await host.metering.shutdown()


async def test_a_request_counts_under_its_template_until_the_limit(host: Host) -> None:
    answers = [await host.http.get(f"/v1/orders/{n}") for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].text == "0"
    assert answers[0].headers["ratelimit"] == '"api_calls-day";r=2;t=43200, "rows-day";r=99;t=43200'
    assert answers[3].headers["ratelimit"] == '"api_calls-day";r=0;t=43200, "rows-day";r=97;t=43200'
    assert answers[3].json()["code"] == "quota-exceeded"
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert await host.used() == {ORDER: 3, "rows": 3}


async def test_what_fails_or_is_not_there_counts_nothing(host: Host) -> None:
    assert (await host.http.get("/v1/orders/broken")).status_code == 500
    assert (await host.http.get("/nowhere")).status_code == 404
    assert (await host.http.post("/rows")).status_code == 405
    nobody = await host.http.get("/v1/orders/1", headers={"x-org-id": ""})
    assert (nobody.status_code, nobody.json()["code"]) == (401, "tenant-unknown")
    assert await host.used() == {"rows": 0}


async def test_head_counts_as_get(host: Host) -> None:
    """Litestar has no HEAD of its own, and a 405 never counts."""
    has_head = host.name != "litestar"
    assert (await host.http.head("/v1/orders/1")).status_code == (200 if has_head else 405)
    assert await host.used() == ({ORDER: 1, "rows": 1} if has_head else {"rows": 0})


async def test_what_is_exempt_needs_no_tenant_and_counts_nothing(host: Host) -> None:
    assert (await host.http.get("/healthz", headers={"x-org-id": ""})).status_code == 200
    assert (await host.http.get("/healthz")).status_code == 200
    assert await host.used() == {"rows": 0}


async def test_streams_and_usage_from_inside_are_metered(host: Host) -> None:
    assert (await host.http.get("/stream")).content == b"ab"
    assert (await host.http.get("/rows")).status_code == 200
    assert (await host.http.get("/saved")).status_code == 200
    used = await host.used()
    assert used.pop("rows") == 10
    assert sum(used.values()) == 3
    assert set(used) == {host.template(path) for path in ("/stream", "/rows", "/saved")}


# ---- opening and closing ----


class Life:
    """A server's side of a lifespan."""

    def __init__(self, host: Host) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self.serving = asyncio.create_task(host.app(scope, self._inbox.get, self._sent.put))

    def tell(self, phase: str) -> None:
        self._inbox.put_nowait({"type": f"lifespan.{phase}"})

    async def says(self, phase: str) -> Message:
        """What the app answers to it."""
        self.tell(phase)
        return await asyncio.wait_for(self._sent.get(), TIMEOUT_S)


@pytest.mark.parametrize("name", ["starlette", "litestar", "bare"])
async def test_the_lifespan_opens_and_closes_it(name: str) -> None:
    host = Host(name)
    async with host.http:
        life = Life(host)
        for phase in ("startup", "shutdown"):
            assert (await life.says(phase))["type"] == f"lifespan.{phase}.complete"
            assert host.is_open() is (phase == "startup")
        await asyncio.wait_for(life.serving, TIMEOUT_S)


async def test_django_has_no_lifespan_so_the_first_request_opens_it() -> None:
    host = Host("django")
    async with host.http:
        life = Life(host)
        life.tell("startup")
        with pytest.raises(ValueError, match="lifespan"):  # by which a server knows that there is none
            await asyncio.wait_for(life.serving, TIMEOUT_S)
        assert not host.is_open()
        assert (await host.http.get("/v1/orders/1")).status_code == 200
        assert host.is_open()
        assert await host.used() == {ORDER: 1, "rows": 1}
    await host.metering.shutdown()


@pytest.mark.parametrize("name", ["starlette", "litestar", "bare"])
async def test_a_routes_key_that_nothing_serves_stops_only_a_host_whose_routes_are_read(name: str) -> None:
    host = Host(name, {**PLANS, "routes": {"GET /v1/ordres/{id}": {"api_calls": 2}}})
    async with host.http:
        life = Life(host)
        said = await life.says("startup")
        if name == "starlette":
            assert said["type"] == "lifespan.startup.failed"
            assert '"GET /v1/ordres/{id}" matches no route' in said["message"]
            with pytest.raises(CatalogueError):
                await asyncio.wait_for(life.serving, TIMEOUT_S)
        else:
            assert said["type"] == "lifespan.startup.complete"
            assert (await life.says("shutdown"))["type"] == "lifespan.shutdown.complete"
            await asyncio.wait_for(life.serving, TIMEOUT_S)
