"""What it costs a request that somebody may watch: with none of it, as it is, with an SDK that collects, and with one
that records a span around each request too. On counters in memory, beside which it is easiest seen."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering import Metering, Telemetry, from_header
from tests.bench import machine
from tests.bench.apps import Contender, catalogue, starlette
from tests.bench.inprocess import HEADINGS, measure, rows
from tests.bench.report import Report
from tests.bench.server import running

BARE: Final = "bare starlette"


def told(_: str, limits: int, telemetry: Telemetry | None = None) -> Any:
    app = starlette()
    metering = Metering(catalogue(limits), worker="off", telemetry=telemetry)
    metering.install(app, tenant=from_header("x-org-id"))
    app.state.metering = metering
    return app


def untold(url: str, limits: int) -> ASGIApp:
    """Without the steps on a request's way that are there for watchers."""
    app = told(url, limits)
    gate = app.state.metering.gate
    gate.observed.granted = lambda *_: None
    gate._pulse.answered = lambda *_: None
    gate._pulse.took = lambda *_: None
    found: ASGIApp = app
    return found


def collected(url: str, limits: int) -> ASGIApp:
    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    found: ASGIApp = told(url, limits, Telemetry(meter_provider=provider))
    return found


class Spanned:
    """With a span around each request, as FastAPI has it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state = getattr(app, "state", None)
        self._tracer = TracerProvider().get_tracer("bench")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._tracer.start_as_current_span("GET /x"):
            await self.app(scope, receive, send)


SPANNED: Final = "a span around bare starlette"
WATCHED: Final = {
    BARE: Contender(starlette, BARE),
    "ours, nothing told": Contender(untold, BARE),
    "ours": Contender(told, BARE),
    "ours, an SDK collects": Contender(collected, BARE),
    SPANNED: Contender(lambda *_: Spanned(starlette()), SPANNED),
    "a span around ours, nothing told": Contender(lambda *given: Spanned(untold(*given)), SPANNED),
    "a span around ours, an SDK collects": Contender(lambda *given: Spanned(collected(*given)), SPANNED),
}


def telemetry(report: Report) -> None:
    with running(report.server) as server, machine.on(machine.APP):
        readings = machine.run(measure(report, WATCHED, server, limits=2))
    for (name, callers), reading in readings.items():
        report.figures[f"telemetry/{name}/c{callers}/cpu_us"] = reading.cpu_us
    report.table("what watchers cost: 2 limits (µs per request)", HEADINGS, rows(WATCHED, readings))
