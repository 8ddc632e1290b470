"""The middleware over real Starlette and FastAPI apps: what is taken, what goes back, and what the caller reads."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import http_sf
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import Depends, FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering.clock import FrozenClock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.decision import Decision
from mm_metering.decorators import metered
from mm_metering.errors import (
    CatalogueError,
    InvalidEvent,
    InvalidInput,
    InvalidTenant,
    MeteringError,
    NotBound,
    QuotaExceeded,
    StoreUnavailable,
    UnknownTenant,
)
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.context import bind, current
from mm_metering.middleware.asgi import MeteringMiddleware, install
from mm_metering.middleware.callers import Callers
from mm_metering.middleware.doctor import Notes
from mm_metering.middleware.responses import EXPOSED_HEADERS
from mm_metering.middleware.tenants import Resolver, from_header

T = TypeVar("T")
CATALOGUE = Catalogue.from_dict(
    {
        "meters": {"api_calls": {"event": "api_call"}, "exports": {"event": "export"}},
        "plans": {"free": {"price": "0.00"}},
        "routes": {"exempt": ["/healthz"]},
    }
)


@dataclass(eq=False)
class FakeMeter:
    """Counts in memory; everybody has ``limit`` units a day, whatever they are for."""

    limit: int = 100
    used: dict[str, int] = field(default_factory=dict)
    reversed: list[Admission] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    known: set[str] | None = None
    error: Exception | None = None
    opening_error: Exception | None = None
    reverse_error: Exception | None = None
    degraded: bool = False
    reverse_may_end: asyncio.Event | None = None
    catalogue: Catalogue = CATALOGUE
    clock: FrozenClock = field(default_factory=lambda: FrozenClock("2026-11-22T09:31:28Z"))

    summary: str = "in memory"
    notes: Notes = field(default_factory=Notes)
    callers: Callers = field(default_factory=Callers)
    added: list[tuple[str, Wish]] = field(default_factory=list)

    async def startup(self) -> None:
        self.calls.append("startup")
        if self.opening_error:
            raise self.opening_error

    async def shutdown(self) -> None:
        self.calls.append("shutdown")

    async def take(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        self.calls.append("take")
        if self.error:
            raise self.error
        if self.known is not None and tenant not in self.known:
            raise UnknownTenant
        if self.degraded:
            return Admission(tenant, "free", allowed=True, degraded=True)
        wanted = sum(wish.quantity for wish in wishes)
        fits = self.used.get(tenant, 0) + wanted <= self.limit
        self.used[tenant] = self.used.get(tenant, 0) + wanted * fits
        return Admission(tenant, "free", allowed=fits, decisions=(self.decision(tenant, wanted, fits),))

    def decision(self, tenant: str, wanted: int, fits: bool) -> Decision:  # noqa: FBT001
        return Decision(
            allowed=fits,
            meter="api_calls",
            requested=wanted,
            limit=self.limit,
            used=self.used.get(tenant, 0),
            remaining=self.limit - self.used.get(tenant, 0),
            resets_at=datetime(2026, 11, 23, tzinfo=UTC),
            reason=None if fits else "quota-exceeded",
            retry_after_s=None if fits else 52_112,
            plan="free",
            window="day",
            window_s=86_400,
        )

    async def add(self, tenant: str, wishes: Sequence[Wish]) -> None:
        if self.error:
            raise self.error
        self.added += [(tenant, wish) for wish in wishes]

    def add_soon(self, tenant: str, wishes: Sequence[Wish]) -> None:
        self.added += [(tenant, wish) for wish in wishes]

    def from_sync(self, work: Callable[[], Awaitable[T]]) -> T:
        with start_blocking_portal("asyncio") as portal:
            return portal.call(work)

    async def reverse(self, admission: Admission, *, meters: Collection[str] | None = None) -> None:
        if self.reverse_may_end:
            await self.reverse_may_end.wait()
        if self.reverse_error:
            raise self.reverse_error
        if not admission.taken_back:
            admission.taken_back = True
            self.reversed.append(admission)
            self.used[admission.tenant] -= int(admission.decisions[0].requested)

    def refusal(self) -> QuotaExceeded:
        return QuotaExceeded("exports: used up", decision=self.decision("acme", 1, fits=False))


@dataclass(eq=False)
class Answer:
    messages: list[Message]

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(app: ASGIApp, path: str = "/x", method: str = "GET", **headers: str) -> Answer:
    """One request as a server makes it; an exception of the app comes out as it is."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await app(request_scope(path, method, **{"x_org_id": "acme", **headers}), staying(), send)
    return Answer(messages)


def request_scope(path: str = "/x", method: str = "GET", **headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items() if value]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": raw,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
    }


def staying() -> Receive:
    """A client that sends no body and waits for the whole answer."""
    inbox: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not inbox:
            await asyncio.Event().wait()
        return inbox.pop()

    return receive


def serving(endpoint: Any, meter: FakeMeter, **options: Any) -> Starlette:
    app = Starlette(routes=[Route("/x", endpoint, methods=["GET", "POST"])])
    install(app, metering=meter, **{"tenant": from_header("x-org-id"), **options})
    return app


def page(request: Request) -> Response:
    return PlainTextResponse("ok")


def answering(status: int) -> Callable[[Request], Response]:
    return lambda request: PlainTextResponse("answer", status_code=status)


def raising(error: Exception) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        raise error

    return endpoint


# ---- allowed and refused ----


async def test_an_allowed_request_is_counted_once_and_says_what_is_left() -> None:
    meter = FakeMeter(limit=3)
    answer = await ask(serving(page, meter))
    assert (answer.status, answer.body, meter.used) == (200, b"ok", {"acme": 1})
    assert answer.headers["ratelimit-policy"] == '"api_calls-day";q=3;w=86400'
    assert http_sf.parse(answer.headers["ratelimit"].encode(), tltype="list") == [
        ("api_calls-day", {"r": 2, "t": 52112})
    ]


async def test_what_has_come_of_a_refused_upload_is_read_only_while_its_answer_ends() -> None:
    """hypercorn ends an answer when the app has taken what it held back for it, and never if the app does not."""
    held: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
    held.put_nowait({"type": "http.request", "body": b"x" * 65_536, "more_body": True})
    happened = []

    async def receive() -> Message:
        happened.append("read")
        return await held.get()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await held.put({"type": "http.disconnect"})
        happened.append(message["type"])

    async with asyncio.timeout(5):
        await serving(page, FakeMeter(limit=0))(request_scope(method="POST", x_org_id="acme"), receive, send)
    assert happened[:2] == ["http.response.start", "read"]
    assert happened[-1] == "http.response.body"


async def test_a_refused_request_never_reaches_its_handler() -> None:
    meter, reached = FakeMeter(limit=0), []
    answer = await ask(serving(lambda request: reached.append(1), meter))
    assert (answer.status, reached, meter.used) == (429, [], {"acme": 0})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("52112", "false")
    assert (answer.json["code"], answer.json["instance"], answer.json["plan"]) == ("quota-exceeded", "/x", "free")


async def test_marks_join_the_one_decision_all_or_nothing() -> None:
    meter = FakeMeter(limit=3)

    @metered("export", resource="report_pdf", quantity=3)
    def report(request: Request) -> Response:
        return page(request)

    app = serving(report, meter)
    assert (await ask(app)).status == 429
    assert meter.used == {"acme": 0}
    meter.limit = 4
    assert (await ask(app)).status == 200
    assert (meter.used, meter.calls.count("take")) == ({"acme": 4}, 2)


def test_a_mark_that_could_not_be_recorded_fails_at_import() -> None:
    for wrong in (
        {"event_type": "Export!"},
        {"event_type": "export", "quantity": 0},
        {"event_type": "export", "resource": ""},
    ):
        with pytest.raises(InvalidEvent):
            metered(**wrong)
    with pytest.raises(TypeError, match="cannot carry a mark"):
        metered("export")(3)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/nowhere", "GET", {}),
        ("/x", "DELETE", {}),
        ("/x", "OPTIONS", {"access_control_request_method": "POST"}),
        ("/healthz", "GET", {}),
        ("/exempt", "GET", {}),
    ],
)
async def test_what_is_not_metered_is_not_taken_and_needs_no_tenant(path: str, method: str, headers: Any) -> None:
    meter = FakeMeter(limit=0)
    app = serving(page, meter, exempt=["/exempt"])
    app.add_route("/healthz", page)
    app.add_route("/exempt", page)
    answer = await ask(app, path, method, x_org_id="", **headers)
    assert answer.status in (200, 404, 405)
    assert "ratelimit" not in answer.headers
    assert meter.calls == []


async def test_a_route_that_costs_nothing_binds_a_tenant_if_there_is_one() -> None:
    meter = FakeMeter()
    meter.catalogue = Catalogue.from_dict({**CATALOGUE.to_dict(), "routes": {"GET /x": {"api_calls": 0}}})

    def endpoint(request: Request) -> Response:
        try:
            return PlainTextResponse(current().tenant)
        except NotBound:
            return PlainTextResponse("nobody")

    app = serving(endpoint, meter)
    assert (await ask(app)).body == b"acme"
    assert (await ask(app, x_org_id="")).body == b"nobody"
    assert meter.calls == []


async def test_head_counts_as_get() -> None:
    meter = FakeMeter()
    assert (await ask(serving(page, meter), method="HEAD")).status == 200
    assert meter.used == {"acme": 1}


# ---- tenants ----


def keyed(**keys: str) -> Resolver:
    return from_header("x-api-key", keys.get)


async def test_a_missing_and_a_wrong_key_get_the_same_answer() -> None:
    meter = FakeMeter()
    app = serving(page, meter, tenant=keyed(good="acme"))
    given = {"x_request_id": "req_1"}
    answers = [await ask(app, x_api_key=key, **given) for key in ("", "wrong", "x" * 9_000)]
    assert {answer.body for answer in answers} == {answers[0].body}
    assert {str(sorted(answer.headers.items())) for answer in answers} == {str(sorted(answers[0].headers.items()))}
    assert (answers[0].status, answers[0].json["code"]) == (401, "tenant-unknown")
    assert answers[0].headers["www-authenticate"] == 'ApiKey realm="api", header="x-api-key"'
    assert meter.calls == []
    assert (await ask(app, x_api_key="good")).status == 200


async def test_a_tenant_that_the_gate_does_not_know_gets_that_answer_too() -> None:
    answer = await ask(serving(page, FakeMeter(known={"other"})))
    assert (answer.status, answer.json["code"]) == (401, "tenant-unknown")


@dataclass(frozen=True)
class Organisation:
    id: str


async def later(found: Any) -> Any:
    return found


def unknown(scope: Scope) -> str:
    raise UnknownTenant


@pytest.mark.parametrize(
    ("resolver", "tenant"),
    [
        (lambda scope: "a:b{}🙂", "a:b{}🙂"),
        (lambda scope: Organisation("org"), "org"),
        (lambda scope: later("slow"), "slow"),
        (lambda scope: later(Organisation("slow org")), "slow org"),
        (lambda scope: later(None), None),
        (lambda scope: "", None),
        (lambda scope: "nul\x00", None),
        (lambda scope: "\ud800", None),
        (lambda scope: "x" * 257, None),
        (unknown, None),
    ],
)
async def test_a_resolver_may_be_any_callable(resolver: Resolver, tenant: str | None) -> None:
    meter = FakeMeter()
    answer = await ask(serving(page, meter, tenant=resolver))
    assert list(meter.used) == ([] if tenant is None else [tenant])
    assert answer.status == (401 if tenant is None else 200)


async def test_a_resolver_that_returns_something_else_is_a_bug_and_not_a_401() -> None:
    with pytest.raises(TypeError, match="resolver returned int; return an id"):
        await ask(serving(page, FakeMeter(), tenant=lambda scope: 7))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([b"acme"], "acme"),
        ([b" acme "], "acme"),
        (["ä🙂".encode()], "ä🙂"),
        ([], None),
        ([b""], None),
        ([b"a", b"a"], None),
        ([b"\xff"], None),
    ],
)
def test_a_header_names_one_tenant_or_nobody(values: list[bytes], found: str | None) -> None:
    scope = {"headers": [(b"other", b"x"), *((b"x-org-id", value) for value in values)]}
    assert from_header("X-Org-Id")(scope) == found


async def test_a_lookup_may_be_async() -> None:
    async def find(key: str) -> Organisation | None:
        return Organisation("acme") if key == "good" else None

    meter = FakeMeter()
    app = serving(page, meter, tenant=from_header("authorization", find))
    assert (await ask(app, authorization="good")).status == 200
    assert (await ask(app, authorization="bad")).headers["www-authenticate"] == 'Bearer realm="api"'
    assert meter.used == {"acme": 1}


def test_a_header_name_is_checked() -> None:
    with pytest.raises(InvalidInput, match="not a header name"):
        from_header("x org id")


# ---- what goes back ----


@pytest.mark.parametrize(("status", "counts"), [(200, 1), (204, 1), (302, 1), (404, 1), (422, 1), (429, 1)])
async def test_an_answer_below_500_counts(status: int, counts: int) -> None:
    meter = FakeMeter()
    assert (await ask(serving(answering(status), meter))).status == status
    assert meter.used == {"acme": counts}


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_server_errors_and_the_hosts_own_refusals_go_back(status: int) -> None:
    meter = FakeMeter()
    answer = await ask(serving(answering(status), meter))
    assert (answer.status, meter.used) == (status, {"acme": 0})
    assert "ratelimit" not in answer.headers


async def test_an_exception_goes_back_and_stays_the_hosts() -> None:
    meter = FakeMeter()
    with pytest.raises(ZeroDivisionError):
        await ask(serving(raising(ZeroDivisionError()), meter))
    assert meter.used == {"acme": 0}


async def test_what_goes_back_is_back_before_the_client_knows() -> None:
    meter = FakeMeter()
    used: list[int] = []

    async def send(message: Message) -> None:
        used.append(meter.used["acme"])

    await serving(answering(500), meter)(request_scope(x_org_id="acme"), staying(), send)
    assert used == [0, 0]


async def test_an_app_that_answers_nothing_is_not_paid_for() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    meter = FakeMeter()
    await ask(MeteringMiddleware(silent, metering=meter, tenant=from_header("x-org-id")))
    assert meter.used == {"acme": 0}


async def test_an_error_in_mid_stream_counts() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    meter = FakeMeter()
    with pytest.raises((ZeroDivisionError, ExceptionGroup)):  # Starlette before 0.46 lets the group through
        await ask(serving(lambda request: StreamingResponse(chunks()), meter))
    assert meter.used == {"acme": 1}


async def test_a_reversal_that_fails_leaves_the_answer_alone(caplog: pytest.LogCaptureFixture) -> None:
    meter = FakeMeter(reverse_error=StoreUnavailable("down"))
    app = serving(answering(500), meter)
    assert (await ask(app)).status == 500
    assert "a failed request stays counted" in caplog.text


async def test_a_reversal_survives_the_cancellation_of_its_request() -> None:
    meter = FakeMeter(reverse_may_end=asyncio.Event())
    reached = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        reached.set()
        await asyncio.sleep(3600)
        return page(request)

    task = asyncio.create_task(ask(serving(endpoint, meter)))
    await reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # while it waits for the reversal
    with pytest.raises(asyncio.CancelledError):
        await task
    assert meter.used == {"acme": 1}
    assert meter.reverse_may_end
    meter.reverse_may_end.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert meter.used == {"acme": 0}


# ---- streams ----


async def test_a_stream_is_passed_on_as_it_comes() -> None:
    order: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            order.append(f"made {number}")
            yield str(number).encode()

    async def send(message: Message) -> None:
        if message.get("body"):
            order.append(f"sent {message['body'].decode()}")

    app = serving(lambda request: StreamingResponse(chunks()), FakeMeter())
    await app(request_scope(x_org_id="acme"), staying(), send)
    assert order == ["made 0", "sent 0", "made 1", "sent 1", "made 2", "sent 2"]


async def test_messages_we_do_not_know_pass_through_untouched() -> None:
    messages: list[Message] = [
        {"type": "http.response.start", "status": 200, "headers": ((b"a", b"b"),), "trailers": True},
        {"type": "http.response.pathsend", "path": "/file"},
        {"type": "http.response.trailers", "headers": []},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    answer = await ask(MeteringMiddleware(app, metering=FakeMeter(), tenant=from_header("x-org-id")))
    assert answer.messages[1:] == messages[1:]
    assert answer.messages[0]["trailers"] is True
    assert list(answer.headers) == ["a", "ratelimit-policy", "ratelimit"]
    assert messages[0]["headers"] == ((b"a", b"b"),)


async def test_a_response_object_that_is_sent_twice_gains_nothing() -> None:
    once = PlainTextResponse("ok")
    app = serving(lambda request: once, FakeMeter())
    await ask(app)
    answer = await ask(app)
    assert [name for name, _ in answer.messages[0]["headers"]].count(b"ratelimit") == 1


async def test_an_apps_own_ratelimit_entry_survives() -> None:
    app = serving(lambda request: PlainTextResponse("ok", headers={"RateLimit": '"own";r=1'}), FakeMeter())
    values = [value for name, value in (await ask(app)).messages[0]["headers"] if name == b"ratelimit"]
    assert [value.decode().split(";")[0] for value in values] == ['"own"', '"api_calls-day"']


async def test_redirects_and_headers_off_say_nothing() -> None:
    assert "ratelimit" not in (await ask(serving(lambda request: RedirectResponse("/y"), FakeMeter()))).headers
    assert "ratelimit" not in (await ask(serving(answering(304), FakeMeter()))).headers
    assert "ratelimit" not in (await ask(serving(page, FakeMeter(), headers="off"))).headers


# ---- outage ----


async def test_a_degraded_answer_says_so_and_claims_no_numbers() -> None:
    answer = await ask(serving(page, FakeMeter(degraded=True)))
    assert (answer.headers["mm-metering"], "ratelimit" in answer.headers) == ("degraded", False)


async def test_an_outage_that_denies_is_a_503() -> None:
    answer = await ask(serving(page, FakeMeter(error=StoreUnavailable("redis at 10.0.0.7 is down"))))
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "metering-unavailable", "5")
    assert b"10.0.0.7" not in answer.body


async def test_exempt_routes_live_through_an_outage() -> None:
    meter = FakeMeter(opening_error=StoreUnavailable("down"))
    app = serving(page, meter)
    app.add_route("/healthz", page)
    assert (await ask(app, "/healthz")).status == 200
    assert (await ask(app)).status == 503


# ---- refusals in handlers ----


async def test_a_refusal_in_a_handler_gets_our_answer_and_the_request_is_taken_back() -> None:
    meter = FakeMeter(limit=5)
    answer = await ask(serving(raising(meter.refusal()), meter))
    assert (answer.status, answer.json["code"], meter.used) == (429, "quota-exceeded", {"acme": 0})


async def test_a_refusal_in_a_dependency_or_a_mounted_app_gets_it_too() -> None:
    meter = FakeMeter(limit=5)

    def dependency() -> None:
        raise meter.refusal()

    app, sub = FastAPI(), FastAPI()
    app.add_api_route("/x", lambda: 1, dependencies=[Depends(dependency)])
    sub.add_api_route("/x", lambda: 1, dependencies=[Depends(dependency)])
    app.mount("/sub", sub)
    app.mount("/deep", Starlette(routes=[Mount("/er", app=sub)]))
    install(app, metering=meter, tenant=from_header("x-org-id"))
    for path in ("/x", "/sub/x", "/deep/er/x"):
        answer = await ask(app, path)
        assert (answer.status, answer.json["code"], meter.used) == (429, "quota-exceeded", {"acme": 0}), path


async def test_the_hosts_own_answer_to_a_refusal_stands_and_the_request_is_taken_back() -> None:
    meter = FakeMeter(limit=5)

    def convert(request: Request) -> Response:
        try:
            raise meter.refusal()
        except QuotaExceeded:
            raise HTTPException(409) from None

    handled = serving(raising(meter.refusal()), meter)
    handled.add_exception_handler(QuotaExceeded, lambda request, error: PlainTextResponse("own", 418))
    for app, status in [(handled, 418), (serving(convert, meter), 409)]:
        answer = await ask(app)
        assert (answer.status, meter.used) == (status, {"acme": 0})


async def test_a_refusal_that_a_handler_copes_with_is_an_ordinary_request() -> None:
    meter = FakeMeter(limit=5)

    def cope(request: Request) -> Response:
        try:
            raise meter.refusal()
        except QuotaExceeded:
            pass
        return PlainTextResponse("cached", 404)

    assert (await ask(serving(cope, meter))).status == 404
    assert meter.used == {"acme": 1}


async def test_a_store_that_fails_in_a_handler_is_a_503() -> None:
    meter = FakeMeter()
    assert (await ask(serving(raising(StoreUnavailable("down")), meter))).status == 503
    assert meter.used == {"acme": 0}


# ---- the bound tenant ----


async def test_the_tenant_is_bound_in_handlers_threads_streams_and_background_tasks() -> None:
    seen: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        seen.append(current().tenant)
        yield b""

    def endpoint(request: Request) -> Response:  # runs in a thread
        seen.append(current().tenant)
        return StreamingResponse(chunks(), background=BackgroundTask(lambda: seen.append(current().tenant)))

    await ask(serving(endpoint, FakeMeter()))
    assert seen == ["acme"] * 3
    with pytest.raises(NotBound, match=r"with metering\.bind"):
        current()


async def test_what_a_handler_takes_besides_goes_back_with_the_request() -> None:
    meter = FakeMeter()

    async def endpoint(request: Request) -> Response:
        current().taken.append(await meter.take("acme", [Wish("export", "a", 3)]))
        return PlainTextResponse("failed", 500)

    await ask(serving(endpoint, meter))
    assert (meter.used, len(meter.reversed)) == ({"acme": 0}, 2)


def test_bind_is_for_one_block_and_nests() -> None:
    meter = FakeMeter()
    with bind(meter, "outer") as bound:
        assert current() is bound
        with bind(meter, "inner"):
            assert current().tenant == "inner"
        assert current().tenant == "outer"
    with pytest.raises(InvalidTenant), bind(meter, "nul\x00"):
        pass


# ---- installing ----


async def test_it_is_innermost_whatever_the_order_of_calls() -> None:
    app = Starlette(routes=[Route("/x", page)])
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], expose_headers=EXPOSED_HEADERS)
    install(app, metering=FakeMeter(limit=0), tenant=from_header("x-org-id"))
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    answer = await ask(app, origin="https://a.example")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (429, "https://a.example")
    assert (
        await ask(app, method="OPTIONS", origin="https://a.example", access_control_request_method="GET")
    ).status == 200


async def test_an_app_that_has_started_is_refused() -> None:
    app = Starlette(routes=[Route("/x", page)])
    await ask(app)
    with pytest.raises(MeteringError, match="install before it starts"):
        install(app, metering=FakeMeter(), tenant=from_header("x-org-id"))
    with pytest.raises(MeteringError, match="wrap it: MeteringMiddleware"):
        install(page, metering=FakeMeter(), tenant=from_header("x-org-id"))


def test_options_are_checked() -> None:
    for wrong, message in [({"exempt": ["healthz"]}, 'write "/healthz"'), ({"headers": "loud"}, "is none of")]:
        with pytest.raises(InvalidInput, match=message):
            MeteringMiddleware(page, metering=FakeMeter(), tenant=from_header("x-org-id"), **wrong)  # type: ignore[arg-type]


async def test_a_request_is_metered_once_per_metering() -> None:
    meter, other = FakeMeter(), FakeMeter()
    sub = serving(page, meter)
    install(sub, metering=other, tenant=from_header("x-org-id"))
    app = Starlette(routes=[Mount("/sub", app=sub), Mount("/free", app=sub)])
    install(app, metering=meter, tenant=from_header("x-org-id"), exempt=["/free"])
    wrapped = MeteringMiddleware(app, metering=meter, tenant=from_header("x-org-id"), exempt=["/free"])
    assert (await ask(wrapped, "/sub/x")).status == 200
    assert (await ask(wrapped, "/free/x")).status == 200
    assert (meter.used, other.used) == ({"acme": 1}, {"acme": 2})


async def test_a_wrapped_app_answers_refusals_as_an_installed_one() -> None:
    meter = FakeMeter(limit=5)
    app = Starlette(routes=[Route("/x", raising(meter.refusal()))])
    answer = await ask(MeteringMiddleware(app, metering=meter, tenant=from_header("x-org-id")))
    assert (answer.status, meter.used) == (429, {"acme": 0})


async def nothing(message: Message) -> None:
    return


async def test_a_route_we_misread_leaves_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        """Serves /x by another endpoint than its routes say."""

        def __init__(self) -> None:
            self.routes = [Route("/x", page)]

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope["endpoint"] = answering
            await PlainTextResponse("ok")(scope, receive, send)

    app = MeteringMiddleware(Other(), metering=FakeMeter(), tenant=from_header("x-org-id"))
    with caplog.at_level(logging.WARNING):
        for path in ("/x", "/x", "/y"):
            await ask(app, path)
    told = "misread: metered as {}, but served by answering; please report the app's routes"
    assert caplog.messages == [told.format("/x"), told.format("(unmatched)")]


async def test_a_correct_reading_leaves_none(caplog: pytest.LogCaptureFixture) -> None:
    app, sub = FastAPI(), FastAPI()
    app.add_api_route("/x/{y}", lambda y: y)
    sub.add_api_route("/x", lambda: 1)
    app.mount("/sub", sub)
    install(sub, metering=FakeMeter(), tenant=from_header("x-org-id"))
    install(app, metering=FakeMeter(), tenant=from_header("x-org-id"))
    for path in ("/x/1", "/sub/x", "/sub/none", "/none", "/docs", "/sub/docs"):
        await ask(app, path)
    assert caplog.messages == []


# ---- lifespan ----


def living(meter: FakeMeter, *, fails: bool = False, tenant: Any = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        meter.calls.append("app up")
        if fails:
            raise RuntimeError("the app does not start")
        yield {"from": "app"}
        meter.calls.append("app down")

    app = FastAPI(lifespan=lifespan, routes=[Route("/x", page)])
    install(app, metering=meter, tenant=tenant or from_header("x-org-id"))
    return app


def test_it_opens_before_the_app_and_closes_after_it() -> None:
    meter = FakeMeter()
    with TestClient(living(meter)) as client:
        assert client.get("/x", headers={"x-org-id": "acme"}).status_code == 200
    assert meter.calls == ["startup", "app up", "take", "app down", "shutdown"]


def test_without_a_lifespan_it_opens_at_the_first_request() -> None:
    meter = FakeMeter()
    client = TestClient(living(meter))
    for _ in range(2):
        assert client.get("/x", headers={"x-org-id": "acme"}).status_code == 200
    assert meter.calls == ["startup", "take", "take"]


async def lifespan_messages(app: ASGIApp) -> list[Message]:
    inbox: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    outbox: list[Message] = []

    async def receive() -> Message:
        return inbox.pop(0)

    async def send(message: Message) -> None:
        outbox.append(message)

    try:
        await app({"type": "lifespan", "state": {}}, receive, send)
    except Exception as error:  # noqa: BLE001 - servers swallow it as well, after lifespan.startup.failed
        outbox.append({"type": "raised", "error": type(error)})
    return outbox


async def test_a_store_that_does_not_open_stops_the_start_with_one_line() -> None:
    meter = FakeMeter(opening_error=StoreUnavailable("counters: 2 of 16 shards\ndid not open"))
    assert await lifespan_messages(living(meter)) == [
        {"type": "lifespan.startup.failed", "message": "mm_metering: counters: 2 of 16 shards did not open"},
        {"type": "raised", "error": StoreUnavailable},
    ]
    assert meter.calls == ["startup"]


async def test_routes_that_do_not_fit_the_catalogue_stop_the_start_with_one_line() -> None:
    meter = FakeMeter()
    meter.catalogue = Catalogue.from_dict({**CATALOGUE.to_dict(), "routes": {"POST /y": {"api_calls": 5}}})
    failed, raised = await lifespan_messages(living(meter))
    assert failed["message"].startswith('mm_metering: [routes] "POST /y" matches no route')
    assert raised["error"] is CatalogueError
    assert meter.calls == ["startup", "app up", "shutdown"]


async def test_an_app_that_does_not_start_closes_us_and_keeps_its_own_message() -> None:
    meter = FakeMeter()
    failed, raised = await lifespan_messages(living(meter, fails=True))
    assert "the app does not start" in failed["message"]
    assert raised["error"] is RuntimeError
    assert meter.calls[-1] == "shutdown"


async def test_a_shutdown_that_fails_says_so() -> None:
    class Leaking(FakeMeter):
        async def shutdown(self) -> None:
            raise StoreUnavailable("3 facts stay journalled")

    messages = await lifespan_messages(living(Leaking()))
    assert messages[-1] == {"type": "lifespan.shutdown.failed", "message": "mm_metering: 3 facts stay journalled"}


def test_the_apps_lifespan_state_is_kept() -> None:
    app = living(FakeMeter())
    app.add_route("/state", lambda request: PlainTextResponse(request.state._state["from"]))
    with TestClient(app) as client:
        assert client.get("/state", headers={"x-org-id": "acme"}).text == "app"


async def test_an_exempt_route_pays_for_next_to_nothing() -> None:
    """Instead of a stop watch: what runs beside the app itself is counted."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    calls: list[str] = []

    def note(frame: Any, event: str, arg: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname") else frame.f_code.co_name)

    middleware = MeteringMiddleware(app, metering=FakeMeter(), tenant=from_header("x-org-id"), exempt=["/healthz"])
    scope = request_scope("/healthz")
    sys.setprofile(note)
    try:
        await middleware(scope, staying(), nothing)
    finally:
        sys.setprofile(None)
    assert len(calls) <= 3, calls


def test_the_start_says_what_each_route_costs(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    report = metered("export", resource="report_pdf")(answering(200))
    app.add_api_route("/v1/reports", report, methods=["POST"])
    app.add_api_websocket_route("/ws", raising(ZeroDivisionError()))
    app.add_api_route("/healthz", answering(200))
    install(app, metering=FakeMeter(), tenant=from_header("x-org-id"))
    with caplog.at_level(logging.INFO, "mm_metering"), TestClient(app):
        pass
    assert caplog.messages[0].splitlines() == [
        "in memory",
        "  metered  POST      /v1/reports   api_calls=1 exports=1",
        "  metered  WEBSOCKET /ws   api_calls=1",
        "  exempt   /docs /docs/oauth2-redirect /healthz /openapi.json /redoc",
    ]
