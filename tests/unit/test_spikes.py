"""An hour stands out, or it does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.spikes import Spike, is_spike

ONE = Decimal(1)


def looked_at(amount: int, same_hours: Sequence[int], least: int = 1) -> Spike | None:
    return is_spike(Decimal(amount), [Decimal(each) for each in same_hours], least=Decimal(least))


def test_median_and_median_deviation_by_hand() -> None:
    """Of 90, 95, 100, 105, 110 the median is 100 and the median deviation 5, below a quarter of 100: 100 + 6 x 25.
    Of 60, 80, 100, 120, 140 it is 20, as standard deviation 29.652: 100 + 6 x 29.652."""
    assert looked_at(250, [90, 95, 100, 105, 110]) is None
    assert looked_at(251, [90, 95, 100, 105, 110]) == Spike(Decimal(251), usual=Decimal(100), most=Decimal(250))
    assert looked_at(277, [60, 80, 100, 120, 140]) is None
    assert looked_at(278, [140, 60, 100, 80, 120]) == Spike(Decimal(278), Decimal(100), Decimal("277.912"))


def test_a_past_spike_hides_none() -> None:
    assert looked_at(5_000, [100, 100, 100, 100, 100, 100, 9_000, 100])


def test_the_first_use_of_an_hour_is_a_spike_only_above_the_least() -> None:
    assert looked_at(50, [0] * 8, least=50) is None
    assert looked_at(51, [0] * 8, least=50) == Spike(Decimal(51), Decimal(0), Decimal(50))


@pytest.mark.parametrize(("weeks", "is_found"), [(0, False), (3, False), (4, True)])
def test_fewer_than_four_weeks_are_nothing_to_go_by(*, weeks: int, is_found: bool) -> None:
    assert bool(looked_at(10_000, [10] * weeks)) == is_found


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=12), st.integers(0, 10**7), st.integers(0, 10**6))
def test_more_is_never_less_of_a_spike(same_hours: list[int], amount: int, least: int) -> None:
    if found := looked_at(amount, same_hours, least):
        assert found.amount > found.most >= found.usual
        assert found.most >= least
        assert looked_at(amount + 1, same_hours, least)
    thousandfold = looked_at(1_000 * amount, [1_000 * each for each in same_hours], 1_000 * least)
    assert bool(thousandfold) == bool(found)


def test_ordinary_hours_seldom_alarm_and_tenfold_ones_always_do() -> None:
    """Eight past weeks, each hour off by a quarter either way as a rule."""
    chance, alarms, hours = random.Random(3), 0, 2_000
    for _ in range(hours):
        *past, now = (Decimal(round(10_000 * chance.lognormvariate(0, 0.25))) for _ in range(9))
        alarms += is_spike(now, past, least=ONE) is not None
        assert is_spike(10 * max(past), past, least=ONE)
    assert alarms / hours < 0.02
