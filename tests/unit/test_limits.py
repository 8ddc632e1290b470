"""Names in a tenant's hash."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.limits import window_start


@given(st.integers(-(2**40), 2**40))
def test_a_windows_start_is_read_back(second: int) -> None:
    assert int(window_start(second), 36) == second


def test_a_windows_start_is_short() -> None:
    assert window_start(1_705_276_800) == "s7a000"
