from __future__ import annotations

import logging

import pytest

from mm_metering.gate.seldom import Seldom

log = logging.getLogger("tests.seldom")


def test_thousands_are_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom(log, "tenants not loaded in time")
    for now_s in (7.0, 7.1, 7.9, 8.0, 8.5, 20.0):
        seldom.add(now_s, f"at {now_s}")
    assert [record.getMessage() for record in caplog.records] == [
        "tenants not loaded in time: 1, the last one: at 7.0",
        "tenants not loaded in time: 3, the last one: at 8.0",
        "tenants not loaded in time: 2, the last one: at 20.0",
    ]
