"""The pytest plugin as hosts meet it: all of it in an app's tests, other hosts' ways, and failures in words."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import openai
import pytest

from mm_metering import Metering, StripeBillingAdapter
from mm_metering.testing import FakeLlm, FakeStripe, MeteringClient, MeteringRecorder, WebhookSink

pytest_plugins = ["pytester"]

_ = (openai, Metering, StripeBillingAdapter, FakeLlm, FakeStripe, MeteringClient, MeteringRecorder, WebhookSink)
"""Loaded here, so that no inner run loads them anew."""
HOSTS = Path(__file__).parent / "hosts"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
EXAMPLE = Path(__file__).parents[2] / "examples" / "tested_app"
PLUGIN = "mm_metering.testing.plugin"
LOADED = () if any(each.value == PLUGIN for each in entry_points(group="pytest11")) else ("-p", PLUGIN)
SETTINGS = "[pytest]\nfilterwarnings = error\n"
ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


def run(pytester: pytest.Pytester, tests: Path, *arguments: str) -> Any:
    ini = pytester.makeini(SETTINGS + ("" if "no:asyncio" in arguments else ASYNCIO))
    options = (
        "-c",
        str(ini),
        f"--rootdir={tests.parent}",
        f"--confcutdir={tests.parent}",
        "--import-mode=importlib",
        "--strict-markers",
    )
    without = [word for name in ("cacheprovider", "valkey", "xdist") for word in ("-p", f"no:{name}")]
    return pytester.inline_run(tests, *options, *LOADED, *without, *arguments)


def test_an_app_is_tested_with_all_of_it(pytester: pytest.Pytester) -> None:
    run(pytester, EXAMPLE / "test_app.py").assertoutcome(passed=7)


@pytest.mark.parametrize(
    ("tests", "options", "passed"),
    [("passing", (), 14), ("anyio_only", ("-p", "no:asyncio"), 1)],
)
def test_other_hosts(pytester: pytest.Pytester, tests: str, options: tuple[str, ...], passed: int) -> None:
    found = run(pytester, HOSTS / f"{tests}.py", "-p", "tests.flows.hosts.apps", *options)
    found.assertoutcome(passed=passed)


def test_each_failure_says_in_words_what_was_and_what_to_do(pytester: pytest.Pytester) -> None:
    tests = HOSTS / "failing.py"
    found = run(pytester, tests, "-p", "tests.flows.hosts.apps")
    said = {each.nodeid.rpartition("::")[2]: each.longreprtext for each in found.getreports() if each.failed}
    functions = [each for each in ast.walk(ast.parse(tests.read_text())) if isinstance(each, FUNCTION)]
    expected = {each.name: ast.get_docstring(each) or "" for each in functions if each.name.startswith("test_")}
    assert {name: text for name, text in said.items() if expected[name] not in text} == {}
    assert said.keys() == expected.keys()


def test_third_parties_are_held_to_the_contracts(pytester: pytest.Pytester) -> None:
    passed, skipped, failed = run(pytester, HOSTS / "third_party.py").listoutcomes()
    assert {each.nodeid.split("::")[1] for each in passed} == {"TestMyCounters", "TestMyLedger", "TestMyProvider"}
    assert (skipped, failed) == ([], [])


def test_without_an_app_it_says_what_to_write(pytester: pytest.Pytester) -> None:
    found = run(pytester, pytester.makepyfile("def test_it(metering_client): pass"))
    [failed] = [each for each in found.getreports() if each.failed]
    assert "metering_client needs your app. In conftest.py:" in failed.longreprtext


def test_loading_the_plugin_imports_nothing_but_pytest() -> None:
    code = f"import sys, pytest\nbefore = {{*sys.modules}}\nimport {PLUGIN}\nprint(*sorted({{*sys.modules}} - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["mm_metering", "mm_metering.testing", PLUGIN]
