"""The examples as a stranger runs them: each tells its story, and its figures are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
STORIES: Final = {
    "multi_worker": (
        "acme    served   300  refused  100  counted   300",
        "globex  served   600  refused    0  counted   600",
        "the same 900 facts",
    ),
    "saas_stripe": (
        "97.80",
        "INV-000001, paid, USD 107.80",
        "mail: attempt 5 declined, insufficient_funds 09 March",
        "16 March, day 14: 402 payment-required",
        "INV-000002, paid, USD 99.00",
        "2024-02: 1 invoice compared",
    ),
    "starlette_dashboard": (
        "lands at /tools/login",
        "vera, viewer: opens the dashboard 200, changes acme's plan 403",
        "olaf, operator: opens the dashboard 200, changes acme's plan 200",
        "dashboard:u_2, plan changed",
        "its page says acme, api_calls 7",
    ),
    "llm_gateway": (
        "charged, USD 0.00378",
        "2 requests, one reply; charged, USD 0.00378",
        "then 402 budget-exceeded",
        "globex gpt-4 1 126 0.00378",
    ),
    "agents": (
        "3 steps: third-bank, at 6.28; USD 0.0048",
        "ai_cost of run:ticket-2",
        "globex has its answer in 3 steps",
    ),
    "jobs": (
        "202: enqueued 6",
        "429: reports: 6 of 6 used this month",
        "runs of 6 jobs 11",
        "15 pages in 5 reports",
        "total, USD 20.30",
    ),
}
"""The longest first: where tests run side by side it is waited for last."""


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", STORIES)
def test_an_example_tells_its_story(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert "WRONG" not in ended.stdout
    assert "  ok  " in ended.stdout
    words = " ".join(ended.stdout.split())
    assert [each for each in STORIES[name] if " ".join(each.split()) not in words] == []
    assert not list(tmp_path.iterdir())


def test_every_example_is_run_here_and_described() -> None:
    there = {path.parent.name for path in (ROOT / "examples").glob("*/__main__.py")}
    assert there == {*STORIES, "mortgagematch"}
    described = [name for name in there if f"python -m examples.{name}" not in _readme(name)]
    assert described == []


def _readme(name: str) -> str:
    place = ROOT / "examples" / name / "README.md"
    return place.read_text() if place.exists() else ""
