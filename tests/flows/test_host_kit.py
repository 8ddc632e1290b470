"""The pytest plugin, as a host meets it: its example's tests, and a failure in words for each way to hold it wrong."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parents[2] / "examples" / "tested_app"
PLUGIN = "mm_metering.testing.plugin"
IS_INSTALLED = any(each.value == PLUGIN for each in entry_points(group="pytest11"))
ARGUMENTS = (
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:valkey",
    "-p",
    "no:xdist",
    *(() if IS_INSTALLED else ("-p", PLUGIN)),
)


@pytest.fixture
def host(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\nmarkers = other: of the host's"
    )
    return pytester


def test_a_host_tests_with_all_of_it(host: pytest.Pytester) -> None:
    ini = host.path / "tox.ini"
    ran = host.runpytest_inprocess(EXAMPLE, f"--rootdir={EXAMPLE}", "-c", ini, "--import-mode=importlib", *ARGUMENTS)
    ran.assert_outcomes(passed=7)
