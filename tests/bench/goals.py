"""What is to be reached, and whether it is, all from one run. A request has two limits, usage, event and headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tests.bench.forecast_series import CLASSES
from tests.bench.report import Report


class Goal(NamedTuple):
    """The worst of some figures should be at most ``goal``, and at best ``stretch``."""

    text: str
    figures: tuple[str, ...]
    goal: float
    stretch: float
    unit: str = ""


def _at_any_size(store: str) -> tuple[str, ...]:
    return tuple(f"ledger/{store}/{10**digits}/wall_us" for digits in range(3, 8))


def _forecast(*figures: str) -> tuple[str, ...]:
    return tuple(f"forecast/{name}/{each}" for name in CLASSES for each in figures)


def _ai(callers: str) -> tuple[str, ...]:
    return tuple(f"ai/{step}, {callers}/round_trips" for step in ("reserve", "settle"))


GOALS: Final = (
    Goal("in-process CPU at c64 × bare Starlette", ("in-process/2/mm_metering/c64/ratio",), 1.8, 1.5, "×"),
    Goal("on FastAPI × bare FastAPI, in-process", ("in-process/2/mm_metering on fastapi/c64/ratio",), 1.3, 1.2, "×"),
    Goal("added p50 at c1", ("in-process/2/mm_metering/c1/added_p50_us",), 65, 50, "µs"),
    Goal("uvicorn CPU × bare, 1 process", ("uvicorn/1/mm_metering/ratio",), 1.25, 1.1, "×"),
    Goal("uvicorn CPU × bare, 2 processes", ("uvicorn/2/mm_metering/ratio",), 1.4, 1.25, "×"),
    Goal("Redis 7 CPU per decision, batch >= 16", ("server/Redis 7/16", "server/Redis 7/64"), 4.5, 3.5, "µs"),
    Goal("Redis 7 CPU per decision, single", ("server/Redis 7/1",), 10, 8, "µs"),
    Goal("Valkey 9 CPU per decision, batch >= 16", ("server/Valkey 9/16", "server/Valkey 9/64"), 5.5, 3.5, "µs"),
    Goal("Valkey 9 CPU per decision, single", ("server/Valkey 9/1",), 11, 8, "µs"),
    Goal("bytes per tenant, 12 counters", ("growth/bytes/12",), 400, 400),
    Goal("bytes per event above its payload", ("bytes/event/1", "bytes/event/16", "bytes/event/64"), 30, 30),
    Goal("memory:// decision, 64 callers", ("memory/c64",), 10, 5, "µs"),
    Goal("a fact into SQLite: 15,000 a second", _at_any_size("SQLite"), 66.7, 50, "µs"),
    Goal("a fact into PostgreSQL: 20,000 a second", _at_any_size("PostgreSQL"), 50, 33, "µs"),
    Goal("its CPU at the most rows × at 1,000", ("ledger/SQLite/growth", "ledger/PostgreSQL/growth"), 1.25, 1.1, "×"),
    Goal("get_usage of a year", ("ledger/SQLite/year_ms", "ledger/PostgreSQL/year_ms"), 20, 10, "ms"),
    Goal("10,000 tenants close a month", ("invoices/10000/1/wall_s",), 60, 30, "s"),
    Goal("its CPU a tenant at 10,000 × at 1,000", ("invoices/growth",), 1.25, 1.1, "×"),
    Goal("its CPU with 30 × the facts", ("invoices/facts",), 1.25, 1.1, "×"),
    Goal("a forecast's error × the run-rate's", _forecast("wape/3", "wape/7", "wape/14"), 1, 0.8, "×"),
    Goal("its Brier score × the run-rate's", _forecast("brier/3", "brier/7", "brier/14"), 1, 0.8, "×"),
    Goal("a forecast", _forecast("ms"), 10, 5, "ms"),
    Goal("round trips to hold an AI call, and to settle it", _ai("1 caller"), 1.05, 1.02),
    Goal("the same with 64 callers", _ai("64 callers"), 0.1, 0.05),
    Goal("errors with 256 connections", ("connections/256/cold/errors", "connections/256/warm/errors"), 0, 0),
    Goal("errors with 512 connections", ("connections/512/cold/errors", "connections/512/warm/errors"), 0, 0),
)


def goals(report: Report) -> None:
    report.table("goals", ("goal", "goal", "stretch", "measured", ""), [_row(each, report.figures) for each in GOALS])


def _row(goal: Goal, figures: Mapping[str, float]) -> tuple[str, ...]:
    found = [figures[name] for name in goal.figures if name in figures]
    bounds = (goal.text, f"<= {goal.goal:g} {goal.unit}", f"{goal.stretch:g}")
    if not found:
        return (*bounds, "-", "not measured")
    measured = max(found)
    verdict = "stretch" if measured <= goal.stretch else "met" if measured <= goal.goal else "NOT MET"
    return (*bounds, f"{measured:.2f} {goal.unit}", verdict)
