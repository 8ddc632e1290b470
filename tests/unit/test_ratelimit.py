"""The quick way to a calm answer's fields says what the general one says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.limits import State
from mm_metering.core.periods import zone
from mm_metering.gate.admission import Wish
from mm_metering.gate.decisions import Granted
from mm_metering.gate.tenants import View
from mm_metering.gate.windows import PlanWindows
from mm_metering.middleware.ratelimit import headers_of, rate_limit_headers

NOW_US = 1_795_555_555_123_456
WISHES = (Wish("api_call", "/x"),)


def catalogue_of(quotas: list[dict[str, Any]]) -> Catalogue:
    plans = {"p": {"price": "0", "quotas": {"api_calls": quotas}}}
    meters = {"api_calls": {"event": "api_call"}}
    return catalogues.load(
        {"currency": "USD", "timezone": "UTC", "default_plan": "p", "meters": meters, "plans": plans}
    )


WINDOWS = [["day"], ["day", "month"], ["month", "day"], ["minute", "day"], ["day", "month", "second"]]
SHARES = st.sampled_from([0, 0.01, 0.3, 0.79, 0.8, 0.81, 0.99, 1])
LATER_US = st.one_of(st.integers(0, 10**9), st.integers(0, 40 * 86_400_000_000))


@given(st.sampled_from(WINDOWS), st.data())
def test_the_quick_way_says_what_the_general_one_says(windows: list[str], data: st.DataObject) -> None:
    catalogue = catalogue_of([{"limit": data.draw(st.integers(1, 10**15)), "per": window} for window in windows])
    plan = PlanWindows(catalogue.plans["p"], zone("UTC"), catalogue)
    asked = plan.prepare(WISHES, NOW_US)
    states = [
        State(int(line.slot.maximum * data.draw(SHARES)), data.draw(st.integers(0, 3)), NOW_US // 1_000_000)
        for line in asked.lines
    ]
    granted = Granted(View("t", None, plan, shard=0, now_us=NOW_US), asked, states, "id", NOW_US)
    later_us = NOW_US + data.draw(LATER_US)
    assert headers_of(granted, later_us, "standard") == rate_limit_headers(granted.readings, later_us)
