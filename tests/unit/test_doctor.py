"""The check-up: what goes wrong silently in an app's routes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from mm_metering import EXPOSED_HEADERS, FrozenClock, Metering, from_header
from mm_metering.core.findings import Finding
from mm_metering.middleware import doctor
from mm_metering.middleware.doctor import Notes
from mm_metering.telemetry.instruments import FINDINGS
from mm_metering.telemetry.measures import Measures

APP = """
from fastapi import FastAPI
from mm_metering import Metering, from_header

metering = Metering({plans})
app = FastAPI()
app.add_api_route("/users/{{name}}", lambda name: name)
app.add_api_route("/users/me", lambda: "never")
metering.install(app, tenant=from_header("x-org-id"))
"""


def metering() -> Metering:
    return Metering(clock=FrozenClock("2024-01-15T12:00:00Z"))


async def test_a_healthy_app_has_only_ok() -> None:
    app, router, metered = FastAPI(), APIRouter(), metering()
    for path in ("/a", "/a/{n:int}", "/a/{name}", "/u/{u:uuid}/{rest:path}"):
        router.add_api_route(path, lambda: 1, methods=["GET", "POST"])
    app.include_router(router, prefix="/{tenant}")
    metered.install(app, tenant=from_header("x-org-id"))
    assert [level for level, _ in await metered.check_up()] == ["ok", "ok", "ok"]


async def test_a_route_that_is_never_reached_is_named_with_the_one_before_it() -> None:
    app, metered = FastAPI(), metering()
    app.add_api_route("/users/{name}", lambda name: name)
    app.add_api_route("/users/me", lambda: "never")
    metered.install(app, tenant=from_header("x-org-id"))
    found = await metered.check_up()
    assert Finding("warn", "GET /users/me is never reached: GET /users/{name} comes first") in found


async def texts(app: FastAPI, *exempt: str) -> list[str]:
    """What is not ok."""
    metered = metering()
    metered.install(app, tenant=from_header("x-org-id"), exempt=exempt)
    return [text for level, text in await metered.check_up() if level != "ok"]


async def test_browsers_that_cannot_read_our_headers_are_said() -> None:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["ratelimit", "Retry-After"])
    (said,) = await texts(app)
    assert said.startswith("browsers cannot read RateLimit-Policy, X-RateLimit-Limit")
    assert "Retry-After" not in said
    assert said.endswith("CORSMiddleware(..., expose_headers=mm_metering.EXPOSED_HEADERS)")
    for enough in (EXPOSED_HEADERS, ["*"]):
        healthy = FastAPI()
        healthy.add_middleware(CORSMiddleware, expose_headers=enough)
        assert await texts(healthy) == []


async def test_a_middleware_that_does_not_see_what_is_bound_is_said() -> None:
    app = FastAPI()

    @app.middleware("http")
    async def log_all(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    (said,) = await texts(app)
    assert said.startswith("BaseHTTPMiddleware 'log_all' is outside the meter")


async def test_a_mount_that_cannot_be_read_and_an_exempt_path_that_is_not_there_are_said(tmp_path: Path) -> None:
    async def old(scope: Scope, receive: Receive, send: Send) -> None:
        """Somebody's own ASGI app."""

    app = FastAPI()
    app.mount("/old", old)
    (said,) = await texts(app)
    assert said.startswith("/old/{path}: its routes cannot be read, so all of them are metered as one")
    healthy = FastAPI()
    healthy.mount("/old", old)
    healthy.mount("/files", StaticFiles(directory=tmp_path))
    assert await texts(healthy, "/old", "/docs") == []
    assert await texts(FastAPI(), "/heatlh") == ["exempt /heatlh matches no route and no mount"]


def test_a_fastapi_that_hides_its_routes_is_said() -> None:
    assert [*doctor.check_apps([], lambda _: "0.137.1")] == [
        Finding("FAIL", "FastAPI 0.137.1 does not say its included routes: take 0.137.2 or newer")
    ]
    assert [*doctor.check_apps([], lambda _: None)] == [*doctor.check_apps([], lambda _: "0.137.2")] == []


async def test_an_app_that_runs_stays_open(tmp_path: Path) -> None:
    async with metering() as metered:
        await metered.record_api_call("acme", "/v1")
        await metered.check_up()
        assert (await metered.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 1


async def test_nothing_installed_and_a_catalogue_that_does_not_fit_are_said() -> None:
    metered = metering()
    assert "no app is installed" in (await metered.check_up())[0].text
    other = Metering({**metered.catalogue.to_dict(), "routes": {"GET /nowhere": {"api_calls": 2}}})
    other.install(FastAPI(), tenant=from_header("x-org-id"))
    assert (await other.check_up())[0].level == "FAIL"


def test_what_is_noticed_is_a_metric_each_time_and_a_line_once(caplog: pytest.LogCaptureFixture) -> None:
    measures = Measures()
    notes = Notes(measures)
    for _ in range(3):
        notes.note("misread", "metered as /a, but served by b")
    assert caplog.messages == ["misread: metered as /a, but served by b"]
    assert [*notes.findings()] == [Finding("FAIL", "misread: metered as /a, but served by b")]
    assert [*measures.read(FINDINGS)] == [({"kind": "misread"}, 3), ({"kind": "unidentified"}, 0)]


@pytest.mark.parametrize(("plans", "code"), [("", 0), ('"missing.toml"', 2)])
def test_the_command_prints_a_line_per_finding(tmp_path: Path, plans: str, code: int) -> None:
    (tmp_path / "main.py").write_text(APP.format(plans=plans))
    command = [sys.executable, "-m", "mm_metering.cli", "doctor", "--app", "main:metering"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code == 0:
        assert done.stdout.splitlines() == [
            "ok    2 routes read, and the catalogue fits them",
            "warn  GET /users/me is never reached: GET /users/{name} comes first",
            "ok    metering: counters memory://, ledger memory://, 3 plans, 10 meters",
            "ok    the ledger is 0 s behind",
        ]
