"""The pytest plugin as hosts meet it: all of it in an app's tests, other hosts' ways, and failures in words."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mm_metering.testing import plugin
from tests.flows.hosts import apps

HOSTS = Path(__file__).parent / "hosts"
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
EXAMPLE = Path(__file__).parents[2] / "examples" / "tested_app"
PLUGIN = "mm_metering.testing.plugin"
LOADED = () if any(each.value == PLUGIN for each in entry_points(group="pytest11")) else (plugin,)
SETTINGS = "[pytest]\nfilterwarnings = error\n"
ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


class Outcomes:
    """What became of the tests of an inner run. It is no run of pytester's, which forgets the modules that were loaded
    within: they would then be there twice."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext
        elif report.when == "call":
            self.passed.append(report.nodeid)


def run(ini: Path, tests: Path, *arguments: str) -> Outcomes:
    ini = ini / "tox.ini"
    ini.write_text(SETTINGS + ("" if "no:asyncio" in arguments else ASYNCIO))
    own = ("-c", str(ini), f"--rootdir={tests.parent}", f"--confcutdir={tests.parent}", "--import-mode=importlib")
    without = [word for name in ("cacheprovider", "faulthandler", "valkey", "xdist") for word in ("-p", f"no:{name}")]
    plugins = [outcomes := Outcomes(), *LOADED]
    if tests.parent == HOSTS:  # their app comes after the plugin, as from a conftest.py
        plugins, without = [outcomes, plugin, apps], [*without, "-p", "no:mm_metering"]
    pytest.main([str(tests), "--strict-markers", *own, *without, *arguments], plugins=plugins)
    return outcomes


def test_an_app_is_tested_with_all_of_it(tmp_path: Path) -> None:
    found = run(tmp_path, EXAMPLE / "test_app.py")
    assert (len(found.passed), found.failed) == (7, {})


@pytest.mark.parametrize(("tests", "options", "passed"), [("passing", (), 14), ("anyio_only", ("-p", "no:asyncio"), 1)])
def test_other_hosts(tmp_path: Path, tests: str, options: tuple[str, ...], passed: int) -> None:
    found = run(tmp_path, HOSTS / f"{tests}.py", *options)
    assert (len(found.passed), found.failed) == (passed, {})


def test_each_failure_says_in_words_what_was_and_what_to_do(tmp_path: Path) -> None:
    tests = HOSTS / "failing.py"
    found = run(tmp_path, tests)
    said = {name.rpartition("::")[2]: text for name, text in found.failed.items()}
    functions = [each for each in ast.walk(ast.parse(tests.read_text())) if isinstance(each, FUNCTION)]
    expected = {each.name: ast.get_docstring(each) or "" for each in functions if each.name.startswith("test_")}
    assert {name: text for name, text in said.items() if expected[name] not in text} == {}
    assert (said.keys(), found.passed) == (expected.keys(), [])


def test_third_parties_are_held_to_the_contracts(tmp_path: Path) -> None:
    found = run(tmp_path, HOSTS / "third_party.py")
    assert {name.split("::")[1] for name in found.passed} == {"TestMyCounters", "TestMyLedger", "TestMyProvider"}
    assert found.failed == {}


def test_without_an_app_it_says_what_to_write(tmp_path: Path) -> None:
    tests = tmp_path / "test_bare.py"
    tests.write_text("def test_it(metering_client): pass")
    [said] = run(tmp_path, tests).failed.values()
    assert "metering_client needs your app. In conftest.py:" in said


def test_loading_the_plugin_imports_nothing_but_pytest() -> None:
    code = f"import sys, pytest\nbefore = {{*sys.modules}}\nimport {PLUGIN}\nprint(*sorted({{*sys.modules}} - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["mm_metering", "mm_metering.testing", PLUGIN]
