"""What a period's usage will come to, how sure that is, and what to do about it.

Amounts are Decimals outside and whole nano-units inside. Floats are probabilities and shares of a day, never amounts;
no forecast is ever billed. Randomness comes with a fixed seed: the same input gives the same output.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final, Literal, NamedTuple, TypeAlias

from mm_metering.core.forecast_draws import (
    DRAWS,
    LEVEL_WEEKS,
    MAX_DAYS,
    MILLION,
    WEEKS,
    Past,
    draws,
    draws_of_few_days,
    expected,
    is_steady,
    used_weeks,
)
from mm_metering.core.money import from_nanos, to_nanos
from mm_metering.core.periods import day_span, local_day
from mm_metering.errors import InvalidInput

Method: TypeAlias = Literal["weekday_blend", "weekday", "run_rate", "none"]
Confidence: TypeAlias = Literal["none", "low", "medium", "high"]
Action: TypeAlias = Literal["none", "watch", "use_fallback_model", "raise_budget", "upgrade_plan"]

MIN_DAYS: Final = 3
MIN_DAYS_FOR_WEEKS: Final = 14
MAX_AHEAD: Final = 92
HALF_A_YEAR: Final = 26
LIKELY: Final = 0.5
WORTH_WATCHING: Final = 0.2
_SEED: Final = 5
_DAY: Final = timedelta(days=1)


class DayTotal(NamedTuple):
    """What was used on one local day, in whole; a correction may make it negative."""

    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a period comes to at its end: with 80 % probability between ``p10`` and ``p90``, as likely above as below
    ``p50``.

    ``p_exceed`` is the probability that it comes to more than the budget; None without a budget, and where nothing can
    be said. ``runs_out_on`` is the day on which it passes the budget, if ``p50`` comes true. ``method`` "none" is a
    refusal: the amounts are None then, and ``reason`` says why. Otherwise ``reason`` says what the forecast rests on.
    """

    method: Method
    confidence: Confidence
    reason: str
    spent: Decimal
    budget: Decimal | None = None
    p10: Decimal | None = None
    p50: Decimal | None = None
    p90: Decimal | None = None
    p_exceed: float | None = None
    runs_out_on: date | None = None

    @property
    def will_exceed_budget(self) -> bool:
        """Whether that is at least as likely as not. False, too, where nothing can be said: see ``p_exceed``."""
        return self.p_exceed is not None and self.p_exceed >= LIKELY


class _Period(NamedTuple):
    """A period that runs: its known days, today's so far with them, and the budget; nano-units."""

    by_day: dict[date, int]
    today: date
    end: date
    spent: int
    budget: int | None


def share_gone(now: datetime, tz: tzinfo) -> float:
    """How much of the tenant's local day is over at ``now``, from 0 up to 1; a day has 23 to 26 hours."""
    span = day_span(local_day(now, tz), tz)
    return (now - span.start) / (span.end - span.start)


def forecast(
    history: Sequence[DayTotal],
    *,
    today: date,
    spent_today: Decimal,
    period_start: date,
    period_end: date,
    today_gone: float = 0.0,
    budget: Decimal | None = None,
) -> Forecast:
    """What the period from ``period_start`` to before ``period_end`` comes to.

    ``history`` are whole days before today, in any order; it begins with the first day on which the tenant could have
    used anything, and a day that is missing after it had no usage. ``today_gone`` is the share of today that is over
    (``share_gone``). InvalidInput for a period that does not hold today or has more than 92 days ahead, for a share
    that is none, and for a day that is not over.
    """
    _check(history, today, period_start, period_end, today_gone)
    by_day: dict[date, int] = {}
    oldest = min(period_start, today - MAX_DAYS * _DAY)
    for day, amount in history:
        if day >= oldest:
            by_day[day] = by_day.get(day, 0) + to_nanos(amount)
    days = [max(0, by_day.get(day, 0)) for day in _days_before(today, min(by_day, default=today))]
    within = {day: amount for day, amount in sorted(by_day.items()) if day >= period_start}
    within[today] = to_nanos(spent_today)
    most = None if budget is None else to_nanos(budget)
    period = _Period(within, today, period_end, sum(within.values()), most)
    return _of(period, Past(days, (period_end - today).days, round(today_gone * MILLION)))


def _check(history: Sequence[DayTotal], today: date, start: date, end: date, gone: float) -> None:
    if not start <= today < end:
        raise InvalidInput(
            "today", f"{today} is not in the period from {start} to before {end}; name the one that runs"
        )
    if (ahead := (end - today).days) > MAX_AHEAD:
        raise InvalidInput("period_end", f"{end} is {ahead:,} days ahead, and at most {MAX_AHEAD} are forecast")
    if not 0 <= gone <= 1:
        raise InvalidInput("today_gone", f"{gone} is not a share of a day; it goes from 0 to 1")
    if history and (last := max(day for day, _ in history)) >= today:
        raise InvalidInput("history", f"{last} is not over on {today}; what today has so far goes into spent_today")


def _days_before(today: date, first: date) -> list[date]:
    count = min((today - first).days, MAX_DAYS)
    return [today - timedelta(back) for back in range(count, 0, -1)]


def _of(period: _Period, past: Past) -> Forecast:
    known = len(past.days)
    if known < MIN_DAYS:
        return _refused(period, f"{known} whole days are known, and a forecast needs {MIN_DAYS}")
    if not any(past.days):
        return _refused(period, f"nothing was used in {known} days before today")
    return _by_mean(period, past) if known < MIN_DAYS_FOR_WEEKS else _by_weekdays(period, past)


def _by_mean(period: _Period, past: Past) -> Forecast:
    known = len(past.days)
    plan = [sum(past.days) // known] * past.ahead
    plan[0] = plan[0] * (MILLION - past.gone) // MILLION
    return _drawn(
        period,
        plan,
        draws_of_few_days(past, random.Random(_SEED)),
        method="run_rate",
        confidence="low",
        reason=f"the mean of {known} days; weekdays count from {MIN_DAYS_FOR_WEEKS} on",
    )


def _by_weekdays(period: _Period, past: Past) -> Forecast:
    steady = is_steady(past)
    plan = expected(past, steady=steady)
    used = used_weeks(past)
    kind = "steady" if steady else "bursty"
    return _drawn(
        period,
        plan,
        draws(past, plan, steady=steady, chance=random.Random(_SEED)),
        method="weekday_blend" if steady else "weekday",
        confidence=_confidence(past, used, steady=steady),
        reason=f"{kind}: {sum(used)} days with usage in the last {len(used)} weeks with any",
    )


def _confidence(past: Past, used: Sequence[int], *, steady: bool) -> Confidence:
    """What the kind of tenant and the weeks that are known allow; how wide the interval is says the rest."""
    weeks = len(past.days) // 7
    if not any(past.days[-7 * LEVEL_WEEKS :]):
        return "low"
    if steady:
        return "high" if weeks >= HALF_A_YEAR else "medium" if weeks >= WEEKS else "low"
    return "medium" if weeks >= HALF_A_YEAR and sum(used) >= 2 * WEEKS else "low"


def _refused(period: _Period, why: str) -> Forecast:
    """No forecast, but what is known all the same: a budget that is spent is spent."""
    is_over = period.budget is not None and period.spent > period.budget
    return Forecast(
        method="none",
        confidence="none",
        reason=why,
        spent=from_nanos(period.spent),
        budget=_decimal(period.budget),
        p_exceed=1.0 if is_over else None,
        runs_out_on=_ran_out_on(period) if is_over else None,
    )


def _drawn(
    period: _Period, plan: Sequence[int], rests: Sequence[int], *, method: Method, confidence: Confidence, reason: str
) -> Forecast:
    """The forecast of which ``rests``, in order of size, are the draws; ``plan`` says on which days they fall."""
    p10, p50, p90 = (period.spent + rests[index] for index in (DRAWS // 10, DRAWS // 2, DRAWS - 1 - DRAWS // 10))
    return Forecast(
        method=method,
        confidence=confidence,
        reason=reason,
        spent=from_nanos(period.spent),
        budget=_decimal(period.budget),
        p10=from_nanos(p10),
        p50=from_nanos(p50),
        p90=from_nanos(p90),
        p_exceed=_p_exceed(period, rests),
        runs_out_on=_runs_out_on(period, plan, rests[DRAWS // 2]),
    )


def _decimal(nanos: int | None) -> Decimal | None:
    return None if nanos is None else from_nanos(nanos)


def _p_exceed(period: _Period, rests: Sequence[int]) -> float | None:
    """The share of draws past the budget. 1 is for what has happened: 400 draws alone never say 0 or 1."""
    if period.budget is None:
        return None
    if period.spent > period.budget:
        return 1.0
    over = DRAWS - bisect_right(rests, period.budget - period.spent)
    return (over + 0.5) / (DRAWS + 1)


def _runs_out_on(period: _Period, plan: Sequence[int], rest: int) -> date | None:
    """The day on which the budget is passed when ``rest`` comes, spread over the days ahead as planned."""
    if period.budget is None or period.spent + rest <= period.budget:
        return None
    if period.spent > period.budget:
        return _ran_out_on(period)
    shares = plan if any(plan) else [1] * len(plan)
    whole, passed = sum(shares), 0
    for offset, share in enumerate(shares):
        passed += share
        if period.spent + rest * passed // whole > period.budget:
            return period.today + offset * _DAY
    raise AssertionError("the shares add up to the rest, which passes the budget")


def _ran_out_on(period: _Period) -> date:
    """The day on which the budget was passed, which it is."""
    total = 0
    for day, amount in period.by_day.items():
        total += amount
        if period.budget is not None and total > period.budget:
            return day
    return period.today


# -- what to do --------------------------------------------------------------------------------------------------------


class _Advice(NamedTuple):
    """Holds from a probability on; None means either."""

    action: Action
    from_p: float = 0.0
    is_used_up: bool | None = None
    has_fallback: bool | None = None
    plan_has_more: bool | None = None


_ADVICE: Final = (
    _Advice("use_fallback_model", LIKELY, is_used_up=False, has_fallback=True),
    _Advice("upgrade_plan", LIKELY, plan_has_more=True),
    _Advice("raise_budget", LIKELY),
    _Advice("watch", WORTH_WATCHING),
    _Advice("none"),
)
"""The first that fits. A cheaper model makes a budget last longer, but does nothing for one that is used up."""


def recommended_action(forecast: Forecast, *, has_fallback: bool, higher_plan_has_more: bool) -> Action:
    """What the tenant should do. ``has_fallback``: a cheaper model may be used instead; ``higher_plan_has_more``: a
    higher plan has a larger budget."""
    is_used_up = forecast.budget is not None and forecast.spent >= forecast.budget
    p_exceed = forecast.p_exceed or 0.0
    for row in _ADVICE:
        wanted = (row.is_used_up, row.has_fallback, row.plan_has_more)
        facts = (is_used_up, has_fallback, higher_plan_has_more)
        if p_exceed >= row.from_p and all(want in {None, fact} for want, fact in zip(wanted, facts, strict=True)):
            return row.action
    raise AssertionError("the last row fits always")
