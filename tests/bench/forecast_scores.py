"""A month that is forecast, ours and simply, and what forecasts of many of them come to."""

from __future__ import annotations

import calendar
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from mm_metering.core.forecast import DayTotal, Forecast, forecast
from tests.bench.forecast_series import Series

KNOWN: Final = (3, 7, 14)
DECISIVE: Final = 7
BEFORE: Final = 90
YOUNG: Final = (10, 20, 40)
"""Days of history of a tenant who is new, on day 7."""
BUDGETS: Final = (0.75, 1.0, 1.25, 1.5)
OURS: Final = "ours"
RUN_RATE: Final = "run-rate"
CLIMATE: Final = "base rate"


class Month(NamedTuple):
    """Indices of a series: where a month begins and ends, and how many of its days are known."""

    series: Series
    start: int
    end: int
    known: int

    @property
    def now(self) -> int:
        return self.start + self.known

    @property
    def spent(self) -> int:
        return sum(self.series.cents[self.start : self.now])

    @property
    def total(self) -> int:
        return sum(self.series.cents[self.start : self.end])

    def at_mean_of(self, days: int) -> float:
        """The month's total when the days left are as the mean of so many before them."""
        return self.spent + (self.end - self.now) * sum(self.series.cents[self.now - days : self.now]) / days

    @property
    def budgets(self) -> list[int]:
        """None where nothing was used in those days."""
        usual = sum(self.series.cents[self.start - BEFORE : self.start]) / 3
        return [round(share * usual) for share in BUDGETS if usual]


SIMPLE: Final[Mapping[str, Callable[[Month], float]]] = {
    RUN_RATE: lambda month: month.at_mean_of(month.known),
    "last 7 days": lambda month: month.at_mean_of(7),
    "last 28 days": lambda month: month.at_mean_of(28),
}


@dataclass
class Scores:
    """What a class of series came to, by method and days known: errors, and pairs of a probability and what was."""

    months: int = 0
    total: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    error: defaultdict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))
    said: defaultdict[tuple[str, int], list[tuple[float, bool]]] = field(default_factory=lambda: defaultdict(list))
    inside: defaultdict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    ms: list[float] = field(default_factory=list)

    def wape(self, method: str, known: int) -> float:
        return 100 * self.error[method, known] / self.total[known]

    def inside_share(self, method: str) -> float:
        return 100 * sum(self.inside[method]) / len(self.inside[method])

    def brier(self, method: str, known: int) -> float:
        if method == CLIMATE:  # the share of all budgets that were exceeded, as if it had been known before
            happened = [was for _, was in self.said[OURS, known]]
            return (share := sum(happened) / len(happened)) * (1 - share)
        pairs = self.said[method, known]
        return sum((probability - was) ** 2 for probability, was in pairs) / len(pairs)


def months_of(series: Series) -> Iterator[Month]:
    """Each whole calendar month of a series with enough days before it, at each number of days known."""
    day, end = series.first.replace(day=1), series.first + timedelta(len(series.cents))
    while (following := day + timedelta(calendar.monthrange(day.year, day.month)[1])) <= end:
        start = (day - series.first).days
        if start >= BEFORE:
            yield from (Month(series, start, (following - series.first).days, known) for known in KNOWN)
        day = following


def score(scores: Scores, month: Month) -> None:
    known, total = month.known, month.total
    scores.months += known == KNOWN[0]
    scores.total[known] += total
    for method, simple in SIMPLE.items():
        value = simple(month)
        scores.error[method, known] += abs(value - total)
        scores.said[method, known] += [(float(value > budget), total > budget) for budget in month.budgets]
    _score_ours(scores, month, OURS, month.budgets)
    if known == DECISIVE:
        at = scores.months % len(BUDGETS)  # one budget is enough here, each in its turn
        for days in YOUNG:
            _score_ours(scores, month, young(days), month.budgets[at : at + 1], days)


def young(days: int) -> str:
    return f"{OURS}, {days} days of history"


def _score_ours(scores: Scores, month: Month, method: str, budgets: list[int], days: int | None = None) -> None:
    """``days`` are those of the history, all of them by default."""
    known, total, found = month.known, month.total, None
    first = 0 if days is None else month.now - days
    history = [DayTotal(_day(month, index), month.series.amount(index)) for index in range(first, month.now)]
    for budget in budgets or (None,):
        started = time.process_time()
        found = _forecast(month, history, budget)
        scores.ms.append(1e3 * (time.process_time() - started))
        if budget is not None:
            scores.said[method, known].append((found.p_exceed or 0.0, total > budget))
    assert found
    p10, p50, p90 = (value if value is None else int(100 * value) for value in (found.p10, found.p50, found.p90))
    scores.error[method, known] += abs((month.spent if p50 is None else p50) - total)
    if p10 is not None and p90 is not None:
        scores.inside[method].append(p10 <= total <= p90)


def _forecast(month: Month, history: list[DayTotal], budget: int | None) -> Forecast:
    return forecast(
        history,
        today=_day(month, month.now),
        spent_today=Decimal(0),
        period_start=_day(month, month.start),
        period_end=_day(month, month.end),
        budget=None if budget is None else Decimal(budget).scaleb(-2),
    )


def _day(month: Month, index: int) -> date:
    return month.series.first + timedelta(index)
