"""``@metered``, ``quota`` and ``current().add`` wherever they are called from, on real apps and a real Metering."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps
from types import FunctionType
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.responses import FileResponse, StreamingResponse

from mm_metering import Metering, from_header, metered, quota
from mm_metering.errors import InvalidEvent, NotBound, QuotaExceeded
from tests.flows.conftest import Make

PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {
        "api_calls": {"event": "api_call"},
        "reports": {"event": "export", "resource": "report_*"},
        "exports": {"event": "export"},
        "rows": {"event": "row"},
        "egress": {"event": "egress"},
        "polite": {"event": "polite", "count_on": ["2xx"]},
        "always": {"event": "polite"},
        "seats": {"aggregation": "level"},
    },
    "plans": {
        "small": {
            "price": "0",
            "quotas": {
                "api_calls": {"limit": 20, "per": "day"},
                "reports": {"limit": 2, "per": "month"},
                "rows": {"limit": 10, "per": "day"},
                "polite": {"limit": 10, "per": "day"},
                "always": {"limit": 10, "per": "day"},
                "egress": {"limit": 10_000_000, "per": "month"},
                "seats": {"limit": 3},
            },
        }
    },
}


@pytest.fixture
async def metering(make: Make) -> Metering:
    return await make(catalogue=PLANS)


def client(app: FastAPI) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers={"x-org-id": "acme"})


def hosted(metering: Metering, **routes: Callable[..., Any]) -> httpx2.AsyncClient:
    """A FastAPI app with each function at ``/name``, metered."""
    app = FastAPI()
    for name, endpoint in routes.items():
        app.add_api_route(f"/{name}", endpoint, methods=["GET", "POST"], response_model=None)
    metering.install(app, tenant=from_header("x-org-id"))
    return client(app)


async def used(metering: Metering, *meters: str) -> tuple[int, ...]:
    decisions = [await metering.check_limit("acme", meter) for meter in meters]
    return tuple(int(decision.used) for decision in decisions)


# ---- endpoints ------------------------------------------------------------------------------------------------------


def plain(function: Any) -> Any:
    """Another decorator of the host's."""

    async def later(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    def at_once(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wraps(function)(later if inspect.iscoroutinefunction(function) else at_once)


async def report_async() -> str:
    return "report"


def report_sync() -> str:
    return "report"


@pytest.mark.parametrize("endpoint", [report_async, report_sync])
@pytest.mark.parametrize("place", ["below", "above", "below another decorator"])
async def test_a_mark_is_taken_once_by_the_one_decision(metering: Metering, endpoint: Any, place: str) -> None:
    router = APIRouter()

    if place == "below":
        router.post("/r")(metered("export", resource="report_pdf")(_copy(endpoint)))
    elif place == "above":
        metered("export", resource="report_pdf")(router.post("/r")(_copy(endpoint)))
    else:
        router.post("/r")(plain(metered("export", resource="report_pdf")(_copy(endpoint))))
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    metering.install(app, tenant=from_header("x-org-id"))
    async with client(app) as http:
        assert [(await http.post("/v1/r")).status_code for _ in range(3)] == [200, 200, 429]
    assert await used(metering, "reports", "api_calls") == (2, 2)


def _copy(function: Any) -> Any:
    """The same function anew, so that the marks of one test are not on another's."""
    return FunctionType(function.__code__, function.__globals__, function.__name__)


async def test_an_endpoint_that_is_called_again_by_another_takes_each_time(metering: Metering) -> None:
    @metered("export", resource="report_pdf")
    async def report() -> str:
        return "report"

    async def both() -> str:
        return await report() + await report()

    async with hosted(metering, both=both, report=report) as http:
        assert (await http.get("/both")).status_code == 200
        assert await used(metering, "reports") == (2,)
        assert (await http.get("/report")).status_code == 429


async def test_signatures_and_kinds_stay(metering: Metering) -> None:
    async def coroutine(a: int, *, b: str = "x") -> str:
        return b * a

    def function(a: int, *, b: str = "x") -> str:
        return b * a

    def generator(a: int) -> Iterator[int]:
        yield a

    async def stream(a: int) -> AsyncIterator[int]:
        yield a

    for each in (coroutine, function, generator, stream):
        call = metered("export")(each)
        assert inspect.signature(call) == inspect.signature(each)
        for kind in ("iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction"):
            assert getattr(inspect, kind)(call) is getattr(inspect, kind)(each)


# ---- elsewhere ------------------------------------------------------------------------------------------------------


async def test_a_helper_takes_by_itself_and_its_refusal_takes_the_request_back(metering: Metering) -> None:
    @metered("export", resource="report_pdf")
    def render() -> str:
        return "page"

    async def report(pages: int) -> str:
        return "".join([await asyncio.to_thread(render) for _ in range(pages)])

    def report_in_thread(pages: int) -> str:
        return "".join(render() for _ in range(pages))

    async with hosted(metering, report=report, other=report_in_thread) as http:
        refused = await http.get("/report?pages=3")
        assert (refused.status_code, refused.json()["code"]) == (429, "quota-exceeded")
        assert await used(metering, "reports", "api_calls") == (0, 0)
        assert (await http.get("/other?pages=2")).status_code == 200
    assert await used(metering, "reports", "api_calls") == (2, 1)


async def test_a_quantity_may_be_told_from_the_arguments(metering: Metering) -> None:
    @metered("row", quantity=len)
    async def save(rows: list[int]) -> int:
        return len(rows)

    with metering.bind("acme"):
        assert await save([1, 2, 3]) == 3
        assert await save([]) == 0
        with pytest.raises(QuotaExceeded):
            await save(list(range(8)))
    assert await used(metering, "rows") == (3,)


async def test_a_refused_call_may_degrade(metering: Metering) -> None:
    @metered("export", resource="report_pdf", otherwise=lambda title: f"{title}: summary")
    async def report(title: str) -> str:
        return f"{title}: in full"

    async with hosted(metering, report=report) as http:
        answers = [(await http.get("/report?title=a")).json() for _ in range(3)]
    assert answers == ["a: in full", "a: in full", "a: summary"]
    assert await used(metering, "reports", "api_calls") == (2, 3)


async def test_generators_take_before_their_first_item(metering: Metering) -> None:
    closed = []

    @metered("row", quantity=4)
    async def stream(n: int) -> AsyncIterator[int]:
        try:
            for each in range(n):
                yield each
        finally:
            closed.append("async")

    @metered("row", quantity=4)
    def items(n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            closed.append("sync")

    with metering.bind("acme"):
        assert [each async for each in stream(3)] == [0, 1, 2]
        assert list(items(3)) == [0, 1, 2]
        with pytest.raises(QuotaExceeded):
            await anext(stream(1))
    assert closed == ["async", "sync"]
    assert await used(metering, "rows") == (8,)


async def test_what_is_sent_and_thrown_reaches_the_inner_generator(metering: Metering) -> None:
    @metered("row")
    async def echo() -> Any:
        said = None
        while True:
            try:
                said = yield said
            except ValueError as error:
                said = str(error)

    with metering.bind("acme"):
        talk = echo()
        assert await anext(talk) is None
        assert await talk.asend("a") == "a"
        assert await talk.athrow(ValueError("b")) == "b"
        await talk.aclose()


async def test_a_dependency_with_yield_may_be_metered(metering: Metering) -> None:
    @metered("row", quantity=5)
    async def session() -> AsyncIterator[str]:
        yield "session"

    async def page(value: str = Depends(session)) -> str:
        return value

    async with hosted(metering, page=page) as http:
        assert [(await http.get("/page")).status_code for _ in range(3)] == [200, 200, 429]
    assert await used(metering, "rows", "api_calls") == (10, 2)


async def test_nothing_bound_is_an_error_that_says_what_to_do(metering: Metering) -> None:
    @metered("row")
    async def save() -> None: ...

    with pytest.raises(NotBound, match=r"metering\.bind"):
        await save()
    with pytest.raises(NotBound):
        metering.current()

    @metered("rows")
    async def misspelt() -> None: ...

    with metering.bind("acme"), pytest.raises(InvalidEvent, match="counts in no meter"):
        await misspelt()


def test_a_script_without_a_loop_is_metered_too() -> None:
    @metered("row", quantity=2)
    def save() -> str:
        return "saved"

    metering = Metering(PLANS)
    with metering.bind("acme") as bound:
        assert save() == "saved"
        bound.add("rows", 3)

    async def after() -> tuple[int, ...]:
        async with metering:
            return await used(metering, "rows")

    assert asyncio.run(after()) == (5,)


# ---- quota ----------------------------------------------------------------------------------------------------------


async def test_a_quota_dependency_consumes_and_is_overridable(metering: Metering) -> None:
    app = FastAPI()

    @app.get("/r")
    async def report(left: Annotated[Any, Depends(quota("reports"))]) -> int:
        return int(left.remaining)

    metering.install(app, tenant=from_header("x-org-id"))
    assert quota("reports") is quota("reports")
    async with client(app) as http:
        assert [(await http.get("/r")).status_code for _ in range(3)] == [200, 200, 429]
        assert await used(metering, "reports", "api_calls") == (2, 2)
        app.dependency_overrides[quota("reports")] = lambda: type("Left", (), {"remaining": 7})
        assert (await http.get("/r")).json() == 7
    cost = app.openapi()["paths"]["/r"]["get"]["x-metering"]
    assert cost == {"api_calls": 1, "reports": 1, "exports": 1}


async def test_a_quota_on_a_meter_that_is_not_there_stops_the_start(metering: Metering) -> None:
    app = FastAPI()
    app.add_api_route("/r", lambda: 1, dependencies=[Depends(quota("reprots"))])
    metering.install(app, tenant=from_header("x-org-id"))
    with pytest.raises(Exception, match='unknown meter "reprots"; did you mean "reports"'):
        app.openapi()


# ---- added, and measured --------------------------------------------------------------------------------------------


async def test_what_is_added_is_written_with_the_answer_and_not_with_an_error(metering: Metering) -> None:
    def deep(n: int) -> None:
        metering.current().add("rows", n)

    def page(n: int, status: int = 200) -> Response:
        deep(n)
        deep(n)
        return Response(status_code=status)

    async with hosted(metering, page=page) as http:
        assert (await http.get("/page?n=8")).status_code == 200  # past the limit too: it is a fact
        assert await used(metering, "rows") == (16,)
        for status in (500, 401):
            await http.get(f"/page?n=100&status={status}")
    assert await used(metering, "rows", "api_calls") == (16, 1)
    usage = await metering.get_usage("acme", "2024-01-15", "2024-01-15")
    assert usage.meters["rows"] == 16


async def test_a_level_and_a_stream_may_add_too(metering: Metering) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            metering.current().add("rows")
            yield b"row\n"

    async def rows() -> StreamingResponse:
        metering.current().add("seats", 2, resource="eu")
        return StreamingResponse(chunks())

    async with hosted(metering, rows=rows) as http:
        assert (await http.get("/rows")).text == "row\n" * 3
    assert await used(metering, "rows", "seats") == (3, 2)


@pytest.mark.parametrize("kind", ["plain", "stream", "file"])
async def test_the_bytes_of_a_response_are_measured_without_buffering(
    metering: Metering, kind: str, tmp_path: Any
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 70_000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield b"x" * 10_000

    @metered("egress", quantity="response_bytes")
    async def body() -> Response:
        if kind == "stream":
            return StreamingResponse(chunks())
        return FileResponse(tmp_path / "file") if kind == "file" else Response(b"x" * 70_000)

    async with hosted(metering, body=body) as http:
        assert len((await http.get("/body")).content) == 70_000
        assert (await http.head("/body")).status_code == 405
    assert await used(metering, "egress", "api_calls") == (70_000, 1)


async def test_a_head_request_sends_no_bytes_to_measure(metering: Metering) -> None:
    app = FastAPI()
    page = metered("egress", quantity="response_bytes")(lambda: Response(b"x" * 1_000))
    app.add_api_route("/page", page, methods=["GET", "HEAD"])
    metering.install(app, tenant=from_header("x-org-id"))
    async with client(app) as http:
        assert (await http.head("/page")).status_code == 200
        assert await used(metering, "egress", "api_calls") == (0, 1)
        assert (await http.get("/page")).status_code == 200
    assert await used(metering, "egress", "api_calls") == (1_000, 2)


async def test_a_meter_says_on_which_answers_it_counts(metering: Metering) -> None:
    @metered("polite")
    async def page(status: int) -> Response:
        return Response(status_code=status)

    async with hosted(metering, page=page) as http:
        for status in (200, 404, 302, 503):
            await http.get(f"/page?status={status}")
    assert await used(metering, "polite", "always", "api_calls") == (1, 3, 3)
    usage = await metering.get_usage("acme", "2024-01-15", "2024-01-15")
    assert (usage.meters["polite"], usage.meters["always"], usage.api_calls) == (1, 3, 3)
