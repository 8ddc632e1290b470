"""The deadlines that MM_METERING_DEADLINE_MS sets."""

from __future__ import annotations

import pytest

from mm_metering.errors import InvalidInput
from mm_metering.gate.deadlines import Timing


@pytest.mark.parametrize(("text", "decision_s", "load_s"), [("50", 0.05, 2.0), ("2000", 2.0, 2.0), ("5000", 5.0, 5.0)])
def test_a_load_waits_at_least_as_long_as_a_decision(text: str, decision_s: float, load_s: float) -> None:
    timing = Timing.of_ms(text)
    assert (timing.decision_s, timing.load_s) == (decision_s, load_s)


@pytest.mark.parametrize("text", ["", "0", "60001", "-5", "1.5", "\u0665", "1e3"])
def test_what_is_no_number_of_milliseconds(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a number of milliseconds from 1 to 60000"):
        Timing.of_ms(text)
