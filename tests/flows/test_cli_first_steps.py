"""``mm-metering init``, ``dev`` and ``demo``: what somebody does in the first minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from mm_metering import Metering, from_header
from mm_metering.cli import dev
from mm_metering.cli.init import STARTER
from mm_metering.clock import default_clock, instead_of_system
from mm_metering.errors import InvalidInput
from tests.flows.conftest import Shell


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("main", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_what_init_writes_runs_and_is_found(folder: Path, shell: Shell) -> None:
    code, said, _ = shell("init")
    assert (code, said.splitlines()[-1]) == (0, "next: mm-metering dev")
    assert {each.name for each in folder.iterdir()} == {*STARTER}
    assert shell("plans", "validate", "plans.toml")[0] == 0
    code, said, _ = shell("routes", "--json")
    costs = {each["template"]: each["costs"] for each in json.loads(said)["routes"]}
    assert (code, costs["/v1/reports"]) == (0, {"api_calls": 1, "reports": 1})
    code, said, _ = shell("doctor")
    assert (code, [line for line in said.splitlines() if not line.startswith("ok")]) == (0, [])
    sys.modules.pop("main", None)


def test_nothing_is_overwritten(folder: Path, shell: Shell) -> None:
    (folder / "main.py").write_text("mine")
    (folder / "pyproject.toml").write_text("")
    code, said, _ = shell("init")
    assert (code, "kept   main.py" in said, 'write app = "main:metering"' in said) == (0, True, True)
    assert (folder / "main.py").read_text() == "mine"
    code, said, _ = shell("init", "--json")
    assert (code, json.loads(said)["written"]) == (0, [])
    code, said, _ = shell("init", "new place")
    assert (code, said.splitlines()[-1]) == (0, "next: cd 'new place'; mm-metering dev")
    assert shell("init", "main.py")[0] == 2


def test_the_readme_has_the_same_app() -> None:
    """The README's routes are some of the starter's; only the annotations and what the comments say differ."""

    def routes(text: str) -> list[str]:
        code = text[text.index("\n\n\n@app.") :].replace(" -> list[str]", "").replace(" -> dict[str, str]", "")
        return [line.partition("  #")[0].rstrip() for line in code.splitlines() if line]

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = routes(readme.partition("```python\n")[2].partition("```")[0])
    starter = routes((Path(dev.__file__).with_name("_starter") / "main.py").read_text())
    assert len(shown) > 3
    assert "\n".join(shown) in "\n".join(starter)


def test_the_environment_that_init_describes_is_what_from_env_reads() -> None:
    from mm_metering.metering import ENVIRONMENT, STRIPE

    known = {f"MM_METERING_{name}" for name in (*ENVIRONMENT, *(f"STRIPE_{each}" for each in STRIPE), "APP")}
    text = (Path(dev.__file__).with_name("_starter") / "env.example").read_text()
    named = {line.removeprefix("# ").partition("=")[0] for line in text.splitlines() if "MM_METERING_" in line}
    assert {each for each in named if each.startswith("MM_METERING_")} <= known


def test_a_demo_is_a_month_with_invoices(shell: Shell) -> None:
    code, said, noted = shell("demo", "--json")
    found = json.loads(said)
    assert (code, noted) == (0, "")
    assert {each["tenant"]: each["total"] for each in found["invoices"]} == {
        "acme-mortgage": "99.00",
        "big-bank": "499.00",
        "kitchen-table": "0.00",
    }
    assert found["answers"]["kitchen-table"]["429"] > 0
    assert found["refusal"].startswith("api_calls: 100 of 100 used today")


# -- dev ---------------------------------------------------------------------------------------------------------------


class Running:
    def __init__(self, process: subprocess.Popen[str], introduction: list[str]) -> None:
        self.process = process
        self.introduction = introduction
        self.url = next(line.split()[1] for line in introduction if line.startswith("  app "))


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    """The example, in an empty folder."""
    env = {**os.environ, "PYTHONPATH": str(Path(dev.__file__).parents[2]), "MM_METERING_DEV_PORT": "0"}
    command = [sys.executable, "-m", "mm_metering.cli", "dev"]
    with subprocess.Popen(
        command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        try:
            yield Running(process, lines)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_it_serves_an_example_with_a_clock_that_is_moved(running: Running) -> None:
    said = "\n".join(running.introduction)
    assert "counters memory://, ledger memory://" in said
    assert all(f"  {name}" in said for name in ("clock", "models", "stripe"))
    transport = httpx2.HTTPTransport(retries=5)
    with httpx2.Client(base_url=running.url, transport=transport, timeout=30, follow_redirects=True) as client:
        caller = {"x-org-id": "acme"}
        answers = [client.post("/v1/reports", headers=caller).status_code for _ in range(2)]
        assert answers == [201, 429]
        before = datetime.fromisoformat(client.get("/__dev__").json()["now"])
        moved = client.post("/__dev__/clock", json={"advance": "32d"})
        assert datetime.fromisoformat(moved.json()["now"]) - before > timedelta(days=31)
        assert client.post("/v1/reports", headers=caller).status_code == 201, "it is another month"
        assert client.post("/__dev__/clock", json={"advance": "10y"}).status_code == 400
        assert client.post("/__dev__/clock", content='{"advance": "1d"}').status_code == 415
        assert client.get("/__dev__", headers={"host": "evil.example"}).status_code == 400
        page = client.get(next(line.split()[1] for line in running.introduction if line.startswith("  dashboard")))
        assert (page.status_code, "acme" in client.get("/__dev__/dashboard/tenants").text) == (200, True)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0


def test_what_it_says_to_try_is_a_route_of_the_apps(capsys: pytest.CaptureFixture[str]) -> None:
    """And none of those that FastAPI adds."""
    metering, app = Metering(), FastAPI()
    metering.install(app, tenant=from_header("x-org-id"))

    @app.put("/v1/plans/{name}")
    async def plan(name: str) -> str:
        return name

    dev._introduce(metering, dev.DevClock(), "http://127.0.0.1:8000", {}, "/dashboard")
    assert "curl -i -X PUT -H 'x-org-id: acme' http://127.0.0.1:8000/v1/plans/{name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "seconds"), [("90s", 90), ("15m", 900), ("6h", 21_600), ("1d", 86_400), ("2w", 1_209_600)]
)
def test_spans(asked: str, seconds: int) -> None:
    assert dev.span_of({"advance": asked}) == timedelta(seconds=seconds)


@pytest.mark.parametrize("asked", [{}, [], {"advance": 1}, {"advance": "1y"}, {"advance": "-1d"}, {"advance": "400d"}])
def test_other_spans_are_refused(asked: object) -> None:
    with pytest.raises(InvalidInput):
        dev.span_of(asked)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('metering = Metering(ledger="sqlite:///x.db")', "dev runs in memory alone"),
        ("metering = Metering()", "is installed on no app"),
    ],
)
def test_what_dev_cannot_run_is_said(
    folder: Path, shell: Shell, text: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "other.py").write_text(f"from mm_metering import Metering\n{text}\n")
    for name in [name for name in os.environ if name.startswith(("MM_METERING_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)
    with monkeypatch.context() as inside:
        inside.setattr(os, "environ", os.environ.copy())
        code, _, error = shell("dev", "--app", "other:metering", "--port", "0")
    assert (code, error.count("\n"), why in error) == (2, 1, True)


def test_a_clock_for_those_that_name_none() -> None:
    clock = dev.DevClock()
    with instead_of_system(clock):
        inside = Metering()
    assert (inside.clock is clock, Metering().clock is clock) == (True, False)
    assert default_clock() is not clock
