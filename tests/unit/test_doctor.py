"""The check-up: what goes wrong silently in an app's routes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI

from mm_metering import FrozenClock, Metering, from_header
from mm_metering.core.findings import Finding
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
    assert [level for level, _ in await metered.check_up()] == ["ok", "ok"]


async def test_a_route_that_is_never_reached_is_named_with_the_one_before_it() -> None:
    app, metered = FastAPI(), metering()
    app.add_api_route("/users/{name}", lambda name: name)
    app.add_api_route("/users/me", lambda: "never")
    metered.install(app, tenant=from_header("x-org-id"))
    found = await metered.check_up()
    assert Finding("warn", "GET /users/me is never reached: GET /users/{name} comes first") in found


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
        ]
