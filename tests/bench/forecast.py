"""How far forecasts of a month are off, beside what one would do in a line: on generated series and on public ones.

A month is forecast after 3, 7 and 14 whole days, with at least 90 days before it. Budgets are parts and multiples of a
month at the mean of those 90 days. Exit code 1 where ours is worse than the run-rate, or takes longer than 10 ms.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from statistics import median, quantiles
from typing import Final

from tests.bench.forecast_scores import (
    CLIMATE,
    DECISIVE,
    KNOWN,
    OURS,
    RUN_RATE,
    SIMPLE,
    YOUNG,
    Scores,
    months_of,
    score,
    young,
)
from tests.bench.forecast_series import NotThere, Series, generated, public
from tests.bench.report import Report

MOST_MS: Final = 10.0
EDGES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)


def forecasts(report: Report) -> None:
    _score_all(report, generated(), "generated")
    try:
        with public(report.status.update) as series:
            _score_all(report, series, "public")
    except NotThere as missing:
        report.console.print(f"public series: not measured; {missing}", end="\n\n")


def _score_all(report: Report, classes: Mapping[str, Sequence[Series]], where: str) -> None:
    found: dict[str, Scores] = {}
    for name, series in classes.items():
        found[name] = scores = Scores()
        for number, each in enumerate(series, 1):
            report.status.update(f"forecasting {where} series, {name}: {number} of {len(series)}")
            for month in months_of(each):
                score(scores, month)
        _judge(report, name, scores)
    _tables(report, where, found)


# -- verdict and tables ------------------------------------------------------------------------------------------------


def _judge(report: Report, name: str, scores: Scores) -> None:
    """Keeps the figures, and says what is worse than it must be."""
    figures = {}
    for known in KNOWN:
        figures[f"wape/{known}"] = scores.wape(OURS, known) / scores.wape(RUN_RATE, known)
        figures[f"brier/{known}"] = scores.brier(OURS, known) / scores.brier(RUN_RATE, known)
    report.failures += [f"{name}: {what} is {at:.2f} × the run-rate's" for what, at in figures.items() if at > 1]
    figures["ms"] = median(scores.ms)
    if figures["ms"] > MOST_MS:
        report.failures.append(f"{name}: a forecast takes {figures['ms']:.1f} ms, and may take {MOST_MS:g}")
    report.figures.update({f"forecast/{name}/{figure}": value for figure, value in figures.items()})


def _tables(report: Report, where: str, found: Mapping[str, Scores]) -> None:
    after = [f"day {known}" for known in KNOWN]
    methods = (*SIMPLE, OURS)
    report.table(
        f"error of the month's total, % of it (WAPE), {where}",
        ("", *after, "months"),
        [
            (f"{name}: {method}", *(scores.wape(method, known) for known in KNOWN), f"{scores.months:,}")
            for name, scores in found.items()
            for method in methods
        ],
    )
    report.table(
        f"will it exceed the budget: Brier, 0 is best, {where}",
        ("", *after),
        [
            (f"{name}: {method}", *(f"{scores.brier(method, known):.3f}" for known in KNOWN))
            for name, scores in found.items()
            for method in (*methods[:-1], CLIMATE, OURS)
        ],
    )
    report.table(
        f"how often it came, when the probability on day {DECISIVE} was so, %, {where}",
        ("", *_buckets()),
        [(name, *_came(scores.said[OURS, DECISIVE])) for name, scores in found.items()],
    )
    report.table(
        f"ours with less history, on day {DECISIVE}, {where}",
        ("", "error, %", "Brier", "between p10 and p90, %"),
        [
            (
                f"{name}: {method}",
                each.wape(method, DECISIVE),
                f"{each.brier(method, DECISIVE):.3f}",
                each.inside_share(method),
            )
            for name, each in found.items()
            for method in (*map(young, YOUNG), OURS)
        ],
    )
    report.table(
        f"CPU time of a forecast, {where}",
        ("", "median ms", "99 % of them"),
        [(name, median(each.ms), quantiles(each.ms, n=100)[-1]) for name, each in found.items()],
    )


def _buckets() -> Iterator[str]:
    for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True):
        yield f"{100 * low:.0f} to {100 * high:.0f} %"


def _came(pairs: Sequence[tuple[float, bool]]) -> Iterator[str]:
    counts = [[0, 0] for _ in (*EDGES, 1)]
    for probability, was in pairs:
        bucket = counts[bisect_right(EDGES, probability)]
        bucket[0] += 1
        bucket[1] += was
    for count, were in counts:
        yield f"{100 * were / count:.0f} of {count:,}" if count else "-"
