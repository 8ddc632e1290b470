"""The dashboard for Grafana, made from the list of instruments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from mm_metering.telemetry.instruments import (
    AI_CALLS,
    AI_COST,
    ALERTS,
    BATCH_OPS,
    BATCHES,
    BILLING_DRIFT,
    CHECK,
    COUNTERS_DRIFT,
    DEAD_LETTERS,
    DECISIONS,
    DELIVERIES,
    FINDINGS,
    FOLD_BACKLOG,
    FOLD_FACTS,
    FOLD_LAG,
    HEARTBEAT,
    INPUT_TOKENS,
    JOBS,
    JOURNAL_AGE,
    JOURNAL_DEPTH,
    JOURNAL_LEFT_FACTS,
    LEASES,
    MODEL,
    OUTAGE,
    OUTPUT_TOKENS,
    PAYMENTS,
    RESERVATIONS,
    ROUTE,
    SHADOW_BLOCKS,
    TAKEN_BACK,
    USAGE,
)
from mm_metering.telemetry.queries import increase, now, per_second, quantile

WIDTH, HEIGHT, COLUMNS = 8, 8, 24
"""Of a panel, in Grafana's grid of 24 columns."""
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}

_rate = partial(per_second, window="$__rate_interval")
_quantile = partial(quantile, window="$__rate_interval")
_rise = partial(increase, window="$__range")


class Panel(NamedTuple):
    """``queries``: a legend and a question each. ``unit``: in Grafana's word. ``says``: how to read it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    says: str = ""
    kind: str = "timeseries"


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Decisions": (
        Panel("Decisions by outcome", (("{{decision}}", _rate(DECISIONS, "decision")),), "reqps"),
        Panel(
            "Refusals by policy",
            (("{{policy}} {{reason}}", _rate(DECISIONS, "policy", "reason", decision="refused")),),
            "reqps",
        ),
        Panel("Decisions by plan", (("{{plan}}", _rate(DECISIONS, "plan")),), "reqps"),
        Panel("Usage by meter", (("{{meter}}", _rate(USAGE, "meter")),), "short", "Units a second."),
        Panel("Usage by route", (("{{http_route}}", _rate(USAGE, ROUTE)),), "short", "Units a second."),
        Panel(
            "Taken back", (("{{meter}}", _rate(TAKEN_BACK, "meter")),), "short",
            "Units a second of requests that failed: they are not billed.",
        ),
    ),
    "Counters": (
        Panel(
            "Check duration",
            (("p50", _quantile(0.5, CHECK, outcome="answered")), ("p99", _quantile(0.99, CHECK, outcome="answered"))),
            "s", "From sending a batch of decisions to its answer.",
        ),
        Panel(
            "Outage policy decides", (("shard {{shard}}", now(OUTAGE, "shard")),), "short",
            "1 while the counters do not answer.",
        ),
        Panel("Decisions per batch", (("ops", f"{_rate(BATCH_OPS)} / {_rate(BATCHES)}"),)),
        Panel(
            "Journal", (("facts", now(JOURNAL_DEPTH)), ("left by ended processes", now(JOURNAL_LEFT_FACTS))), "short",
            "Acknowledged, and not confirmed by the ledger yet.",
        ),
        Panel("Journal age", (("oldest", now(JOURNAL_AGE)),), "s"),
        Panel(
            "Routes misread, callers unidentified", (("{{kind}}", _rise(FINDINGS, "kind")),), "short",
            "Anything above 0 is a route that may go unmetered: mm-metering doctor.", "stat",
        ),
    ),
    "Worker": (
        Panel("Fold lag", (("shard {{shard}}", now(FOLD_LAG, "shard")),), "s"),
        Panel("Facts folded", (("facts", _rate(FOLD_FACTS)),), "cps"),
        Panel("Backlog", (("shard {{shard}}", now(FOLD_BACKLOG, "shard")),), "short", "At 256 more may wait."),
        Panel("Heartbeat age", (("oldest", now(HEARTBEAT)),), "s"),
        Panel("Leases held", (("shards", now(LEASES)),), "short", "0: nobody folds.", "stat"),
        Panel("Jobs", (("{{job}} {{outcome}}", _rise(JOBS, "job", "outcome")),), "short", "", "stat"),
        Panel("Dead letters", (("kept", now(DEAD_LETTERS)),), "short", "mm-metering dead-letters", "stat"),
        Panel("Drift of counters", (("units", now(COUNTERS_DRIFT)),), "short", "Against the ledger.", "stat"),
        Panel("Alerts told", (("{{rule}}", _rise(ALERTS, "rule")),), "short", "", "stat"),
    ),
    "AI": (
        Panel(
            "Cost by model", (("{{gen_ai_request_model}}", f"{_rate(AI_COST, MODEL)} * 3600 / 1e9"),), "currencyUSD",
            "US dollars an hour.",
        ),
        Panel(
            "Tokens by model",
            (
                ("{{gen_ai_request_model}} in", _rate(INPUT_TOKENS, MODEL)),
                ("{{gen_ai_request_model}} out", _rate(OUTPUT_TOKENS, MODEL)),
            ),
            "short", "Tokens a second.",
        ),
        Panel("Calls by status", (("{{status}}", _rate(AI_CALLS, "status")),), "reqps"),
        Panel(
            "Refused by a budget",
            (("{{plan}} {{policy}}", _rate(DECISIONS, "plan", "policy", decision="refused", reason="~budget-.*")),),
            "reqps",
        ),
        Panel("Reservations open", (("calls", now(RESERVATIONS)),)),
        Panel(
            "Shadow plan refuses", (("{{meter}}", _rise(SHADOW_BLOCKS, "meter")),), "short",
            "Tenants' limits that a plan which is not in force would refuse by.", "stat",
        ),
    ),
    "Money": (
        Panel("Payments", (("{{outcome}}", _rise(PAYMENTS, "outcome")),), "short", "Invoices.", "stat"),
        Panel("Webhook attempts", (("{{outcome}}", _rate(DELIVERIES, "outcome")),), "cps"),
        Panel(
            "Drift of invoices", (("differences", now(BILLING_DRIFT)),), "short",
            "Against the provider's, where reconcile_payments ran.", "stat",
        ),
    ),
}  # fmt: skip


def dashboard() -> dict[str, Any]:
    """As Grafana imports it: it asks for a Prometheus data source, and has no id of its own."""
    return {
        "title": "mm-metering",
        "uid": "mm-metering",
        "tags": ["mm-metering"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [{**panel, "id": number} for number, panel in enumerate(_panels(), 1)],
    }


def _panels() -> Iterator[dict[str, Any]]:
    top = 0
    for title, panels in ROWS.items():
        yield {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _at(0, top, COLUMNS, 1)}
        for number, panel in enumerate(panels):
            down, across = divmod(number, COLUMNS // WIDTH)
            yield _panel(panel, _at(across * WIDTH, top + 1 + down * HEIGHT, WIDTH, HEIGHT))
        top += 1 + -(-len(panels) * WIDTH // COLUMNS) * HEIGHT


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + number), "expr": asked, "legendFormat": legend, "datasource": SOURCE}
        for number, (legend, asked) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
        if panel.kind == "timeseries"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"},
        "targets": targets,
    }


def _at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}
