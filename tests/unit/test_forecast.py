"""What a month will come to: numbers that can be worked out by hand, laws that always hold, and honest odds."""

from __future__ import annotations

import calendar
import random
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_metering.core.forecast import Action, DayTotal, Forecast, forecast, recommended_action, share_gone
from mm_metering.core.forecast_draws import MILLION, Past, expected, is_steady
from mm_metering.core.periods import zone
from mm_metering.errors import InvalidInput
from tests.bench.forecast_series import bursty, regular

APRIL_11 = date(2024, 4, 11)
APRIL, MAY = date(2024, 4, 1), date(2024, 5, 1)
DAY = timedelta(days=1)
NOTHING = Decimal(0)


def days_before(today: date, amounts: Sequence[Decimal | int | str]) -> list[DayTotal]:
    """As many days as there are amounts, the last one yesterday."""
    first = today - len(amounts) * DAY
    return [DayTotal(first + number * DAY, Decimal(amount)) for number, amount in enumerate(amounts)]


def in_april(
    amounts: Sequence[Decimal | int | str],
    *,
    spent_today: Decimal = NOTHING,
    today_gone: float = 0.0,
    budget: Decimal | int | None = None,
) -> Forecast:
    """The forecast of April on its eleventh day, of which ten days are known, and twenty are ahead with today."""
    return forecast(
        days_before(APRIL_11, amounts),
        today=APRIL_11,
        spent_today=spent_today,
        period_start=APRIL,
        period_end=MAY,
        today_gone=today_gone,
        budget=None if budget is None else Decimal(budget),
    )


def interval(found: Forecast) -> tuple[Decimal | int, ...]:
    """p10, p50 and p90, which are there."""
    assert found.p10 is not None
    assert found.p50 is not None
    assert found.p90 is not None
    return found.p10, found.p50, found.p90


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_the_same_every_day_goes_on() -> None:
    """10 days x 10 are spent and 20 days x 10 are ahead; 260 are reached on the 26th, the first day past 250."""
    found = in_april([10] * 200, budget=250)
    assert interval(found) == (300, 300, 300)
    assert found.spent == 100
    assert found.runs_out_on == date(2024, 4, 26)
    assert (found.method, found.confidence) == ("weekday_blend", "high")


def test_a_budget_that_is_reached_exactly_is_not_exceeded() -> None:
    found = in_april([10] * 200, budget=300)
    assert not found.will_exceed_budget
    assert found.runs_out_on is None
    found = in_april([10] * 200, budget=Decimal("299.999999999"))
    assert found.will_exceed_budget
    assert found.runs_out_on == date(2024, 4, 30)


def test_weekends_without_usage_stay_without() -> None:
    """From Thursday 11 April on there are 14 working days, and before it 8: 22 x 10."""
    first = APRIL_11 - 182 * DAY
    working = [10 if (first + number * DAY).weekday() < 5 else 0 for number in range(182)]
    found = in_april(working)
    assert interval(found) == (220, 220, 220)
    assert found.method == "weekday_blend"
    assert found.reason == "steady: 40 days with usage in the last 8 weeks with any"


def test_a_steady_tenant_is_at_the_level_of_late() -> None:
    """49 days of 8 and 7 of 24 have a mean of 10; the last four weeks have one of 12, and halfway to 24 that is 18."""
    past = Past([8_000] * 49 + [24_000] * 7, ahead=20, gone=MILLION // 4)
    assert expected(past, steady=is_steady(past)) == [13_500] + [18_000] * 19
    assert expected(past, steady=False) == [7_500] + [10_000] * 19


def test_only_what_is_left_of_today_is_ahead() -> None:
    found = in_april([10] * 200, spent_today=Decimal(7), today_gone=0.75)
    assert found.spent == 107
    assert interval(found) == (Decimal("299.5"),) * 3  # 107, a quarter of 10, 19 x 10


def test_the_last_day_of_the_month_once_it_is_over() -> None:
    found = forecast(
        days_before(date(2024, 4, 30), [10] * 200),
        today=date(2024, 4, 30),
        spent_today=Decimal(3),
        period_start=APRIL,
        period_end=MAY,
        today_gone=1.0,
        budget=Decimal(293),
    )
    assert interval(found) == (293, 293, 293)
    assert not found.will_exceed_budget


def test_with_few_days_it_is_their_mean_and_not_sure() -> None:
    """50 and 20 x 10, at a level that may go down by 28 % or up by 39 %."""
    found = in_april([10] * 5)
    assert (found.method, found.confidence) == ("run_rate", "low")
    assert interval(found) == (194, 250, 328)
    p10, _, p90 = interval(in_april([0, 20, 0, 20, 0, 20, 10]))
    assert p10 < 70 + 200 < p90


@pytest.mark.parametrize(
    ("known", "method"), [(2, "none"), (3, "run_rate"), (13, "run_rate"), (14, "weekday_blend"), (500, "weekday_blend")]
)
def test_the_method_is_that_of_the_days_known(known: int, method: str) -> None:
    assert in_april([10] * known).method == method


@pytest.mark.parametrize(
    ("amounts", "why"),
    [
        ([], "0 whole days are known, and a forecast needs 3"),
        ([10, 10], "2 whole days are known, and a forecast needs 3"),
        ([0] * 40, "nothing was used in 40 days before today"),
    ],
)
def test_it_refuses_where_there_is_nothing_to_go_by(amounts: Sequence[int], why: str) -> None:
    found = in_april(amounts, budget=100)
    assert (found.method, found.confidence, found.reason) == ("none", "none", why)
    assert (found.p10, found.p50, found.p90) == (None, None, None)
    assert found.p_exceed is None
    assert not found.will_exceed_budget


def test_a_budget_that_is_spent_is_so_even_without_a_forecast() -> None:
    found = in_april([60, 50], budget=100)
    assert (found.method, found.p_exceed, found.runs_out_on) == ("none", 1.0, date(2024, 4, 10))


def test_a_spent_budget_has_run_out_on_the_day_that_passed_it() -> None:
    found = in_april([10] * 200, budget=45)
    assert (found.p_exceed, found.runs_out_on) == (1.0, date(2024, 4, 5))
    found = in_april([10] * 200, spent_today=Decimal(1), budget=100)
    assert (found.p_exceed, found.runs_out_on) == (1.0, APRIL_11)


def test_who_was_away_for_eight_weeks_may_come_back() -> None:
    """They bought 90 every fourth week for a year, and nothing in the last eight weeks."""
    amounts = [90 if day % 28 == 0 else 0 for day in range(364)] + [0] * 56
    found = in_april(amounts, budget=50)
    assert found.method == "weekday"
    assert found.confidence == "low"
    assert found.p_exceed is not None
    assert 0.2 < found.p_exceed < 0.6


def test_a_steady_tenant_that_has_stopped_has_probably_left_and_may_come_back() -> None:
    found = in_april([10] * 300 + [0] * 40, budget=50)
    assert (found.method, found.confidence, found.spent, found.p50) == ("weekday_blend", "low", NOTHING, NOTHING)
    assert found.p_exceed is not None
    assert 0.1 < found.p_exceed < 0.25
    assert found.p90 == 200


def test_a_steady_tenant_that_is_back_goes_on() -> None:
    """Away for 100 days, and back for the last five: that is the level of a week and a part of that of four weeks."""
    found = in_april([10] * 300 + [0] * 100 + [10] * 5)
    assert found.method == "weekday_blend"
    assert interval(found)[1] > 100


def test_one_large_day_in_five_may_have_been_the_only_one() -> None:
    """One draw of twenty days leaves it out in 1 of 100 cases; that the five are not the truth makes it 1 of 3."""
    found = in_april([0, 0, 100, 0, 0])
    assert interval(found)[0] == found.spent == 100


def test_a_budget_does_not_run_out_on_a_weekend_without_usage() -> None:
    """80 are spent, and after Friday the 12th 100; Monday the 15th passes 105."""
    first = APRIL_11 - 182 * DAY
    found = in_april([10 if (first + number * DAY).weekday() < 5 else 0 for number in range(182)], budget=105)
    assert found.runs_out_on == date(2024, 4, 15)


def test_a_budget_does_not_run_out_on_a_day_that_is_over() -> None:
    assert in_april([10] * 5, budget=55).runs_out_on == APRIL_11
    assert in_april([10] * 5, budget=55, today_gone=1.0).runs_out_on == APRIL_11 + DAY


@pytest.mark.parametrize(
    ("amounts", "confidence"),
    [
        ([10] * 55, "low"),
        ([10] * 56, "medium"),
        ([10] * 181, "medium"),
        ([10] * 182, "high"),
        ([10, 0, 0, 10, 0, 0, 0] * 25, "low"),
        ([10, 0, 0, 10, 0, 0, 0] * 26, "medium"),
        ([10, 0, 0, 0, 0, 0, 0] * 26, "low"),
        ([10, 0, 0, 10, 0, 0, 0] * 26 + [0] * 28, "low"),
    ],
)
def test_confidence_takes_time_and_usage(amounts: Sequence[int], confidence: str) -> None:
    assert in_april(amounts).confidence == confidence


# -- laws --------------------------------------------------------------------------------------------------------------


amounts_in_cents = st.one_of(
    st.lists(st.integers(0, 50_000), min_size=3, max_size=130),
    st.lists(st.sampled_from([0, 0, 0, 0, 700, 123_456]), min_size=3, max_size=130),
    st.lists(st.integers(-500, 500), min_size=3, max_size=60),
)


@settings(max_examples=60, deadline=None)
@given(amounts_in_cents, st.integers(0, 30_000), st.floats(0, 1), st.integers(0, 2_000_000))
def test_the_parts_of_a_forecast_agree(cents: list[int], spent: int, gone: float, budget: int) -> None:
    amounts = [Decimal(each) / 100 for each in cents]
    most = Decimal(budget) / 100
    found = in_april(amounts, spent_today=Decimal(spent) / 100, today_gone=gone, budget=most)
    assert found.spent == sum(amounts[-10:]) + Decimal(spent) / 100
    if found.method == "none":
        assert found.p50 is None
        assert found.will_exceed_budget == (found.spent > most)
        return
    p10, p50, p90 = interval(found)
    assert found.spent <= p10 <= p50 <= p90
    assert found.p_exceed is not None
    assert 0 < found.p_exceed <= 1
    assert found.will_exceed_budget == (p50 > most) == (found.runs_out_on is not None)


@settings(max_examples=15, deadline=None)
@given(amounts_in_cents, st.randoms(use_true_random=False))
def test_the_same_days_in_any_order_give_the_same_forecast(cents: list[int], chance: random.Random) -> None:
    history = days_before(APRIL_11, [Decimal(each) / 100 for each in cents])
    about: dict[str, Any] = {"today": APRIL_11, "period_start": APRIL, "period_end": MAY}
    found = forecast(history, spent_today=NOTHING, budget=Decimal(100), **about)
    chance.shuffle(history)
    assert forecast(history, spent_today=NOTHING, budget=Decimal(100), **about) == found


def test_a_larger_budget_is_never_likelier_to_be_exceeded() -> None:
    amounts = [Decimal(each) / 100 for each in islice(bursty(random.Random(11)), 300)]
    found = [in_april(amounts, budget=budget).p_exceed for budget in (0, 50, 200, 800, 3_200, 10**6)]
    said = [each for each in found if each is not None]
    assert said == sorted(said, reverse=True)
    assert said[0] > 0.9
    assert 0 < said[-1] < 0.01


def test_a_day_that_is_missing_had_no_usage() -> None:
    """As long as an earlier one is there, which says since when the tenant could have used something."""
    amounts = [0 if day % 3 else 40 for day in range(90)]
    history = days_before(APRIL_11, amounts)
    about: dict[str, Any] = {"today": APRIL_11, "period_start": APRIL, "period_end": MAY}
    thin = [each for each in history if each.amount]
    assert forecast(thin, spent_today=NOTHING, **about) == forecast(history, spent_today=NOTHING, **about)


def test_several_totals_of_a_day_add_up() -> None:
    history = days_before(APRIL_11, [4] * 200) + days_before(APRIL_11, [6] * 200)
    found = forecast(history, today=APRIL_11, spent_today=NOTHING, period_start=APRIL, period_end=MAY)
    assert interval(found) == (300, 300, 300)


def test_a_correction_lowers_what_is_spent_and_nothing_ahead() -> None:
    found = in_april([10] * 199 + [-5])
    assert found.spent == 85
    assert interval(found)[2] <= 85 + 200


@pytest.mark.parametrize("month", [*((2023, month) for month in range(1, 13)), (2024, 2)])
def test_months_of_28_to_31_days_on_every_day(month: tuple[int, int]) -> None:
    start = date(*month, 1)
    length = calendar.monthrange(*month)[1]
    for day in (0, length // 2, length - 1):
        found = forecast(
            days_before(start + day * DAY, [10] * 200),
            today=start + day * DAY,
            spent_today=NOTHING,
            period_start=start,
            period_end=start + length * DAY,
        )
        assert interval(found) == (10 * length,) * 3


@pytest.mark.parametrize(
    ("day", "noon_share"), [("2024-03-30", (12, 24)), ("2024-03-31", (11, 23)), ("2024-10-27", (13, 25))]
)
def test_a_day_of_23_or_25_hours_has_its_own_noon(day: str, noon_share: tuple[int, int]) -> None:
    berlin = zone("Europe/Berlin")
    start = datetime.fromisoformat(day).replace(tzinfo=berlin)
    assert share_gone(start.replace(hour=12).astimezone(UTC), berlin) == noon_share[0] / noon_share[1]
    assert share_gone(start.astimezone(UTC), berlin) == 0


@pytest.mark.parametrize("series", [regular, bursty])
def test_a_thousandfold_usage_has_a_thousandfold_forecast(series: Callable[[random.Random], Iterator[int]]) -> None:
    cents = list(islice(series(random.Random(7)), 200))
    small = in_april([Decimal(each) / 100 for each in cents], budget=1_000)
    large = in_april([Decimal(each) * 10 for each in cents], budget=1_000_000)
    assert large.spent == 1_000 * small.spent
    assert large.p_exceed == small.p_exceed
    assert large.runs_out_on == small.runs_out_on
    for index in range(3):
        gap = Decimal(interval(large)[index]) - 1_000 * Decimal(interval(small)[index])
        assert abs(gap) < Decimal("0.0001")


def test_large_amounts_are_exact_to_the_last_digit() -> None:
    found = in_april([Decimal("1000000.000000001")] * 200, spent_today=Decimal("0.000000001"))
    assert found.spent == Decimal("10000000.000000011")
    assert interval(found) == (Decimal("30000000.000000031"),) * 3


# -- odds --------------------------------------------------------------------------------------------------------------


def test_the_odds_hold() -> None:
    """Of months of generated tenants, half of them bursty, after a week: what is said to come with 10, 30 or 50 % comes
    about as often, and about four of five totals lie between p10 and p90."""
    chance = random.Random(31)
    said: list[tuple[float, bool]] = []
    inside: list[bool] = []
    for series in [regular, bursty] * 12:
        cents = list(series(chance))
        for start in range(200, 680, 30):
            total, usual = sum(cents[start : start + 30]), sum(cents[start - 90 : start]) // 3
            budget = usual * chance.choice((3, 4, 5, 6)) // 4
            p10, p_exceed, p90 = _after_a_week(cents[: start + 7], budget)
            said.append((p_exceed, total > budget))
            inside.append(p10 <= total <= p90)
    assert 0.72 <= sum(inside) / len(inside) <= 0.88
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        bucket = [each for each in said if low <= each[0] < low + 0.2]
        assert abs(sum(probability - came for probability, came in bucket)) / len(bucket) < 0.12, low


def _after_a_week(cents: Sequence[int], budget: int) -> tuple[Decimal | int, float, Decimal | int]:
    """p10, p_exceed and p90 of a month of 30 days of which seven are known."""
    today = MAY
    found = forecast(
        days_before(today, cents),
        today=today,
        spent_today=NOTHING,
        period_start=today - 7 * DAY,
        period_end=today + 23 * DAY,
        budget=Decimal(budget),
    )
    assert found.p_exceed is not None
    p10, _, p90 = interval(found)
    return p10, found.p_exceed, p90


# -- bounds and advice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"today": date(2024, 5, 1)}, "today: 2024-05-01 is not in the period from 2024-04-01 to before 2024-05-01"),
        ({"today": date(2024, 3, 31)}, "today: 2024-03-31 is not in the period"),
        ({"period_end": date(2024, 7, 13)}, "period_end: 2024-07-13 is 93 days ahead, and at most 92 are forecast"),
        ({"today_gone": 1.01}, "today_gone: 1.01 is not a share of a day"),
        ({"today_gone": float("nan")}, "today_gone: nan is not a share of a day"),
        ({"today": date(2024, 4, 10)}, "history: 2024-04-10 is not over on 2024-04-10; what today has so far"),
    ],
)
def test_what_cannot_be_forecast_is_refused(change: dict[str, Any], words: str) -> None:
    given_values: dict[str, Any] = {"today": APRIL_11, "spent_today": NOTHING, "period_start": APRIL, "period_end": MAY}
    with pytest.raises(InvalidInput, match=re.escape(words)):
        forecast(days_before(APRIL_11, [10] * 20), **{**given_values, **change})


def test_a_quarter_ahead_is_forecast_from_whatever_is_there() -> None:
    for known in (3, 20, 100, 800):
        about: dict[str, Any] = {"today": APRIL_11, "spent_today": NOTHING, "period_start": APRIL_11}
        found = forecast(days_before(APRIL_11, [10] * known), period_end=APRIL_11 + 92 * DAY, **about)
        assert interval(found)[1] == 920


@pytest.mark.parametrize(
    ("p_exceed", "spent", "has_fallback", "higher_plan_has_more", "action"),
    [
        (None, 10, True, True, "none"),
        (0.19, 10, True, True, "none"),
        (0.2, 10, True, True, "watch"),
        (0.49, 10, False, False, "watch"),
        (0.5, 10, True, True, "use_fallback_model"),
        (0.5, 10, True, False, "use_fallback_model"),
        (0.5, 10, False, True, "upgrade_plan"),
        (0.5, 10, False, False, "raise_budget"),
        (1.0, 100, True, True, "upgrade_plan"),
        (1.0, 100, True, False, "raise_budget"),
    ],
)
def test_the_advice(
    *, p_exceed: float | None, spent: int, has_fallback: bool, higher_plan_has_more: bool, action: Action
) -> None:
    """A budget of 100: a cheaper model helps until it is used up."""
    found = Forecast("weekday", "medium", "", spent=Decimal(spent), budget=Decimal(100), p_exceed=p_exceed)
    advice = recommended_action(found, has_fallback=has_fallback, higher_plan_has_more=higher_plan_has_more)
    assert advice == action
