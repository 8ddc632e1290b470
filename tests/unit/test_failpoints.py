"""Failpoints: off, and costing nothing, unless one is named; each name is in one table and in one place."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mm_metering import failpoints

SOURCES = Path(failpoints.__file__).parent
REACHED = re.compile(r'failpoints\.reach\(((?:"[a-z_.]+"|[^()])+)\)')
NAME = re.compile(r'"([a-z_]+\.[a-z_]+)"')


def test_each_point_of_the_table_is_in_the_code_once() -> None:
    calls = [call for path in SOURCES.rglob("*.py") for call in REACHED.findall(path.read_text())]
    assert sorted(name for call in calls for name in NAME.findall(call)) == sorted(failpoints.POINTS)


def test_nothing_is_armed_without_the_variable() -> None:
    assert failpoints.VARIABLE not in os.environ
    assert failpoints.reach is failpoints._off
    for point in failpoints.POINTS:
        failpoints.reach(point)


@pytest.mark.parametrize(("spec", "said"), [("drain.after_trim", "0"), ("drain.after_trim:3", "012")])
def test_an_armed_process_is_killed_at_its_point_and_time(spec: str, said: str) -> None:
    script = (
        "from mm_metering.failpoints import reach\n"
        "for n in range(9):\n"
        "    print(n, end='', flush=True)\n"
        "    reach('drain.after_commit')\n"
        "    reach('drain.after_trim')\n"
    )
    environment = {**os.environ, failpoints.VARIABLE: spec}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, said)


def test_a_probability_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = list[int]()
    monkeypatch.setattr(os, "kill", lambda _, what: killed.append(what))
    reach = failpoints.armed("drain.after_trim:0.25")
    for _ in range(1_000):
        reach("drain.after_trim")
    assert 150 < len(killed) < 350
    assert set(killed) == {signal.SIGKILL}


def test_an_unknown_point_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'drain.nowhere', and the points are middleware.before_take, "):
        failpoints.armed("drain.nowhere")
