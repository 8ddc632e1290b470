"""What a request will meet, told before dispatch: the same as what the framework then does."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering.core.catalogue import Catalogue
from mm_metering.decorators import metered
from mm_metering.errors import CatalogueError
from mm_metering.gate.admission import Wish
from mm_metering.middleware.matches import UNMATCHED, Kind, RouteMatch
from mm_metering.middleware.routes import Resolver

Routes: TypeAlias = dict[str, Any]
METERS = {
    "api_calls": {"event": "api_call"},
    "exports": {"event": "export"},
    "reports": {"event": "export", "resource": "report_*"},
}


def catalogue(routes: Routes) -> Catalogue:
    return Catalogue.from_dict({"meters": METERS, "plans": {"free": {"price": "0.00"}}, "routes": routes})


def resolver(app: ASGIApp, *, exempt: tuple[str, ...] = (), routes: Routes | None = None) -> Resolver:
    listed = catalogue(routes or {})
    return Resolver(app, lambda: listed, exempt)


def scope_of(path: str, method: str = "GET", *, root_path: str = "", **headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": raw, "query_string": b""}


def met(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> RouteMatch:
    return resolver(app).resolve(scope_of(path, method, **headers))


def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def raw_app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("raw")(scope, receive, send)


# ---- templates ----


def router() -> APIRouter:
    routes = APIRouter(prefix="/v1")
    routes.add_api_route("/orders/{order:int}", lambda order: order, methods=["GET", "DELETE"])
    routes.add_api_route("/orders", lambda: 2)
    routes.add_api_route("/orders", lambda: 1, methods=["POST"])
    return routes


def nested_app() -> FastAPI:
    """Included twice, nested, mounted with a parameter, beside a route that comes too late and one that is shadowed."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/outer"), APIRouter(prefix="/inner")
    inner.add_api_route("/leaf/{name}", lambda name: name)
    inner.add_api_route("/static", lambda: 1)
    outer.include_router(inner, prefix="/between")
    outer.routes.append(Mount("/outer/wrapped", app=Starlette(routes=[Route("/{x}/y", page), Route("/plain", page)])))
    app.include_router(router(), prefix="/api")
    app.include_router(router(), prefix="/api2")
    app.include_router(outer)
    sub = FastAPI()
    sub.add_api_route("/things/{thing}", lambda tenant, thing: thing)
    sub.add_api_route("/things", lambda tenant: 1, methods=["PUT"])
    app.mount("/sub/{tenant}", sub)
    app.mount("/gz", GZipMiddleware(Starlette(routes=[Route("/deep", page)])))
    app.mount("/raw", raw_app)
    app.add_api_route("/users/{name}", lambda name: name)
    app.add_api_route("/users/me", lambda: "never reached")
    app.add_api_route("/raw/late", lambda: "never reached")
    app.add_api_route("/", lambda: "root")
    return app


@pytest.mark.parametrize(
    ("path", "method", "template"),
    [
        ("/api/v1/orders/7", "GET", "/api/v1/orders/{order}"),
        ("/api2/v1/orders/7", "DELETE", "/api2/v1/orders/{order}"),
        ("/api/v1/orders", "POST", "/api/v1/orders"),
        ("/outer/between/inner/leaf/x", "GET", "/outer/between/inner/leaf/{name}"),
        ("/outer/between/inner/static", "GET", "/outer/between/inner/static"),
        ("/outer/wrapped/a/y", "GET", "/outer/wrapped/{x}/y"),
        ("/outer/wrapped/plain", "HEAD", "/outer/wrapped/plain"),
        ("/sub/t1/things/9", "GET", "/sub/{tenant}/things/{thing}"),
        ("/sub/t1/things", "PUT", "/sub/{tenant}/things"),
        ("/gz/deep", "GET", "/gz/deep"),
        ("/users/me", "GET", "/users/{name}"),
        ("/", "GET", "/"),
    ],
)
def test_a_template_has_every_prefix(path: str, method: str, template: str) -> None:
    app = nested_app()
    found = met(app, path, method)
    if TestClient(app).request(method, path).status_code == 404:  # FastAPI before 0.137 left out included mounts
        assert found.kind is Kind.NOT_FOUND
    else:
        assert (found.kind, found.template) == (Kind.ROUTE, template)


def test_an_app_whose_routes_cannot_be_read_is_one_template_per_mount() -> None:
    app = nested_app()
    assert met(app, "/raw/late")[:2] == met(app, "/raw/anything/else", "POST")[:2] == (Kind.MOUNT, "/raw/{path}")
    assert met(raw_app, "/any/path")[:2] == (Kind.MOUNT, UNMATCHED)
    assert met(raw_app, "/any/path").wishes == (Wish("api_call", UNMATCHED, 1),)


@pytest.mark.parametrize(
    ("path", "method", "kind"),
    [
        ("/nowhere", "GET", Kind.NOT_FOUND),
        ("", "GET", Kind.NOT_FOUND),
        ("/api/v1/orders/seven", "GET", Kind.NOT_FOUND),
        ("/sub/t1/nowhere", "GET", Kind.NOT_FOUND),
        ("/api/v1/orders", "PATCH", Kind.METHOD_NOT_ALLOWED),
        ("/api/v1/orders/7", "POST", Kind.METHOD_NOT_ALLOWED),
        ("/sub/t1/things", "GET", Kind.METHOD_NOT_ALLOWED),
        ("/api/v1/orders", "HEAD", Kind.METHOD_NOT_ALLOWED),  # FastAPI serves HEAD only where it is declared
    ],
)
def test_what_has_no_route_costs_nothing(path: str, method: str, kind: Kind) -> None:
    found = met(nested_app(), path, method)
    assert found.kind is kind
    assert found.wishes == ()


def test_a_preflight_costs_nothing_and_other_options_are_a_route() -> None:
    app = Starlette(routes=[Route("/x", page, methods=["OPTIONS"])])
    assert met(app, "/x", "OPTIONS", access_control_request_method="POST").kind is Kind.PREFLIGHT
    assert met(app, "/x", "OPTIONS").kind is Kind.ROUTE


def test_a_path_that_ends_in_a_newline_is_no_way_around_the_meter() -> None:
    """Starlette serves /x%0A by the route /x, since "$" matches before a final newline."""
    app = Starlette(routes=[Route("/x", page), Route("/y/{z}", page)])
    assert met(app, "/x\n").template == "/x"


def test_root_path_is_taken_off_as_the_framework_does() -> None:
    app = Starlette(routes=[Route("/x", page), Mount("/m", routes=[Route("/{y}", page)])])
    for path, root in [("/x", ""), ("/proxy/x", "/proxy"), ("/x", "/proxy")]:
        assert resolver(app).resolve(scope_of(path, root_path=root)).template == "/x"
    assert resolver(app).resolve(scope_of("/proxy/m/1", root_path="/proxy")).template == "/m/{y}"


def test_hosts_are_told_apart() -> None:
    first, second = Router([Route("/{a}", page)]), Router([Route("/{b}", page)])
    app = Starlette(routes=[Host("one.example", first), Host("{any}.example", second), Route("/x", page)])
    assert met(app, "/x", host="ONE.example:8000").template == "/{a}"
    assert met(app, "/x", host="two.example").template == "/{b}"
    assert met(app, "/x", host="elsewhere").template == "/x"


def test_a_class_based_endpoint_says_its_methods() -> None:
    class Reports(HTTPEndpoint):
        async def get(self, request: Request) -> PlainTextResponse:
            return page(request)

        @metered("export", resource="report_pdf")
        async def post(self, request: Request) -> PlainTextResponse:
            return page(request)

    app = Starlette(routes=[Route("/reports", Reports)])
    assert met(app, "/reports", "HEAD").kind is Kind.ROUTE
    assert met(app, "/reports", "PUT").kind is Kind.METHOD_NOT_ALLOWED
    assert met(app, "/reports").wishes == (Wish("api_call", "/reports", 1),)
    assert met(app, "/reports", "POST").wishes[1] == Wish("export", "report_pdf", 1)


def test_a_route_with_its_own_pattern_is_matched_by_it() -> None:
    route = Route("/Mixed", page)
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE)
    assert met(Starlette(routes=[route]), "/mIXED").template == "/Mixed"


def test_a_route_of_an_unknown_class_is_asked_itself() -> None:
    class Versioned(BaseRoute):
        path = "/versioned"

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            is_ours = scope["path"] == "/versioned" and (b"version", b"2") in scope["headers"]
            return (Match.FULL, {"endpoint": page}) if is_ours else (Match.NONE, {})

    app = Starlette(routes=[Versioned(), Route("/x", page)])
    assert met(app, "/versioned", version="2")[:3] == (Kind.ROUTE, "/versioned", page)
    assert met(app, "/versioned").kind is Kind.NOT_FOUND
    assert met(app, "/x").kind is Kind.ROUTE


def test_an_app_that_mounts_itself_ends() -> None:
    app = Starlette(routes=[Route("/x", page)])
    app.mount("/again", app)
    assert met(app, "/again/again/x").kind is Kind.ROUTE


# ---- the same as dispatch ----

PARTS = re.findall(
    "[a-z0-9]+", "api v1 orders 7 outer between inner leaf static wrapped y plain sub things gz deep raw users me"
)
ODD_PARTS = ["x\n", "plain\n", "deep\n", ""]
PATHS = st.lists(st.sampled_from([*PARTS, *ODD_PARTS]), max_size=6).map(lambda parts: "/" + "/".join(parts))


@functools.cache
def compared_app() -> tuple[FastAPI, Resolver]:
    app = nested_app()
    return app, resolver(app)


@given(path=PATHS, method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]), root=st.sampled_from(["", "/api"]))
@example(path="/sub/api/things", method="PUT", root="/api")
@example(path="/sub/api/things", method="GET", root="/api")
@example(path="/apix", method="GET", root="/api")
async def test_it_says_what_dispatch_does(path: str, method: str, root: str) -> None:
    """The framework itself is the oracle: its endpoint, or its 404, 405 or redirect."""
    app, routes = compared_app()
    scope = scope_of(path, method, root_path=root)
    said = routes.resolve(scope)
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, receive, send)
    match said.kind:
        case Kind.ROUTE:
            assert scope["endpoint"] is said.endpoint
        case Kind.METHOD_NOT_ALLOWED:
            assert statuses[0] == 405
        case Kind.NOT_FOUND:
            assert statuses[0] in (404, 307)
        case Kind.MOUNT:
            assert scope["endpoint"] is raw_app


# ---- exempt ----


def test_docs_and_static_files_are_always_exempt(tmp_path: Path) -> None:
    app = FastAPI()
    app.mount("/assets", StaticFiles(directory=tmp_path))
    app.mount("/zipped", GZipMiddleware(StaticFiles(directory=tmp_path)))
    sub = FastAPI()
    app.mount("/sub", sub)
    for path in ("/docs", "/openapi.json", "/redoc", "/assets/a.css", "/zipped/a.css", "/sub/docs"):
        assert met(app, path).kind is Kind.EXEMPT, path


def test_a_mounted_fastapi_app_is_not_taken_for_its_docs() -> None:
    app, sub = FastAPI(), FastAPI(routes=[Route("/x", page)])
    app.mount("/sub", sub)
    app.mount("/router", APIRouter(routes=[Route("/x", page)]))
    assert met(app, "/sub/x").kind is met(app, "/router/x").kind is Kind.ROUTE


def test_exempt_names_a_path_a_template_or_a_mount() -> None:
    app = Starlette(
        routes=[
            Route("/healthz", page),
            Route("/users/{name}", page),
            Route("/files/{name}", page),
            Mount("/metrics", app=raw_app),
            Mount("/admin", routes=[Route("/{page}", page)]),
        ]
    )
    exempt = ("/healthz", "/users/{name}", "/files/public", "/metrics", "/admin", "/not/there")
    routes = resolver(app, exempt=exempt)
    for path in ("/healthz", "/users/x", "/files/public", "/metrics/", "/metrics/x", "/admin/x", "/not/there"):
        assert routes.resolve(scope_of(path)).kind is Kind.EXEMPT, path
    assert routes.resolve(scope_of("/files/private")).kind is Kind.ROUTE
    assert resolver(app, routes={"exempt": ["/healthz"]}).resolve(scope_of("/healthz")).kind is Kind.EXEMPT


# ---- costs ----


@metered("export", resource="report_pdf")
@metered("export", quantity=3)
def report(request: Request) -> PlainTextResponse:
    return page(request)


def test_a_cost_is_one_call_its_route_entry_and_its_marks() -> None:
    app = Starlette(routes=[Route("/reports/{kind}", report, methods=["POST", "GET"]), Route("/free", page)])
    routes = resolver(
        app,
        routes={
            "POST /reports/{kind:str}": {"api_calls": 5, "reports": 2},
            "GET /reports/{kind}": {"api_calls": 0},
            "GET /free": {"api_calls": 0},
        },
    )
    marks = (Wish("export", "/reports/{kind}", 3), Wish("export", "report_pdf", 1))
    assert routes.resolve(scope_of("/reports/pdf", "POST")).wishes == (
        Wish("api_call", "/reports/{kind}", 5),
        Wish("", "/reports/{kind}", 2, meter="reports"),
        *marks,
    )
    assert routes.resolve(scope_of("/reports/pdf", "GET")).wishes == marks
    free = routes.resolve(scope_of("/free", "HEAD"))
    assert (free.kind, free.wishes) == (Kind.ROUTE, ())


def decorated() -> Iterator[tuple[str, Any]]:
    def passing(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    @metered("export", resource="a")
    async def endpoint(request: Request) -> PlainTextResponse:
        return page(request)

    yield "plain", endpoint
    yield "below a decorator", passing(endpoint)
    yield "in a partial", functools.partial(endpoint)
    yield "in a partial of a decorator", functools.partial(passing(endpoint))


@pytest.mark.parametrize("endpoint", [pytest.param(each, id=name) for name, each in decorated()])
def test_a_mark_is_found_once_wherever_it_stands(endpoint: Any) -> None:
    app = Starlette(routes=[Route("/x", endpoint, methods=["GET"])])
    assert met(app, "/x").wishes == (Wish("api_call", "/x", 1), Wish("export", "a", 1))


def test_a_mark_works_above_and_below_the_route_decorator() -> None:
    app = FastAPI()

    @metered("export", resource="above")
    @app.get("/x")
    @metered("export", resource="below")
    def endpoint(q: int = 0) -> int:
        return q

    assert [wish.resource for wish in met(app, "/x").wishes] == ["/x", "below", "above"]
    assert [*inspect.signature(endpoint).parameters] == ["q"]


def test_a_routes_key_without_a_route_stops_the_app_and_lists_the_routes() -> None:
    app = Starlette(routes=[Route("/v1/search", page, methods=["POST"]), Route("/v1/other", page)])
    with pytest.raises(CatalogueError) as stopped:
        resolver(app, routes={"POST /v1/serch": {"api_calls": 5}}).table()
    assert str(stopped.value) == (
        '[routes] "POST /v1/serch" matches no route; did you mean "POST /v1/search"?; '
        "known routes: POST /v1/search, GET /v1/other"
    )
    with pytest.raises(CatalogueError, match="matches no route"):
        resolver(app, routes={"GET /v1/search": {"api_calls": 5}}).table()


def test_a_routes_key_for_what_is_never_metered_stops_the_app() -> None:
    app = FastAPI()
    app.add_api_route("/x", lambda: 1)
    with pytest.raises(CatalogueError, match=r"known routes: GET /x$"):
        resolver(app, routes={"GET /docs": {"api_calls": 5}}).table()


def test_a_mark_that_no_meter_counts_stops_the_app() -> None:
    @metered("exprot")
    def endpoint(request: Request) -> PlainTextResponse:
        return page(request)

    app = Starlette(routes=[Route("/x", endpoint)])
    with pytest.raises(CatalogueError, match=r'@metered\("exprot"\) on GET /x .* did you mean "export"\?'):
        resolver(app).table()


# ---- change ----


def test_routes_added_later_are_seen() -> None:
    app, included = FastAPI(), APIRouter()
    mounted = Starlette()
    app.include_router(included, prefix="/in")
    app.mount("/m", mounted)
    routes = resolver(app)
    for path in ("/late", "/in/late", "/m/late"):
        assert routes.resolve(scope_of(path)).kind is Kind.NOT_FOUND
    app.add_api_route("/late", lambda: 1)
    included.add_api_route("/late", lambda: 1)
    mounted.add_route("/late", page)
    for path in ("/late", "/in/late", "/m/late"):
        is_served = TestClient(app).get(path).status_code == 200  # before FastAPI 0.137 an included router was copied
        assert (routes.resolve(scope_of(path)).kind is Kind.ROUTE) is is_served, path


def test_a_middleware_around_a_mount_is_seen_through() -> None:
    app = Starlette(routes=[Mount("/m", routes=[Route("/x", page)], middleware=[Middleware(GZipMiddleware)])])
    assert met(app, "/m/x").template == "/m/x"
