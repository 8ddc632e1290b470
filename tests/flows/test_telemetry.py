"""What watchers are told of requests, AI calls and work in the background, by a real SDK; and what they never are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from fastapi import FastAPI, HTTPException
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.testclient import TestClient

from mm_metering import (
    BudgetExceeded,
    FrozenClock,
    Metering,
    MockBillingAdapter,
    ModelNotAllowed,
    QuotaExceeded,
    Telemetry,
    UsageEvent,
    from_header,
)
from mm_metering.errors import StoreUnavailable
from mm_metering.telemetry.alarms import ALARMS
from mm_metering.telemetry.grafana import dashboard
from tests.flows.conftest import Make, Shell
from tests.flows.test_ai import PLANS as AI_PLANS
from tests.flows.test_ai import reply
from tests.webhook_receiver import receiving

PLANS: dict[str, Any] = {
    "default_plan": "free",
    "meters": {
        "api_calls": {"event": "api_call"},
        "reports": {"event": "export", "resource": "report"},
        "exports": {"event": "export"},
    },
    "plans": {
        "free": {
            "price": "0.00",
            "quotas": {
                "api_calls": {"limit": 3, "per": "day"},
                "exports": {"limit": 1, "per": "month", "then": "charge", "unit_price": "0.01"},
            },
        },
    },
}
ROUTE = "/items/{name}"


class Watch:
    """Collects metrics and spans as a host's SDK does."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._spans = InMemorySpanExporter()
        self.metrics = MeterProvider(metric_readers=[self._reader])
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = self.tracing.get_tracer("host")

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(meter_provider=self.metrics, tracer_provider=self.tracing, **options)

    def points(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data else ()
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def told(self, name: str, *attributes: str) -> dict[tuple[str, ...] | str, float]:
        """Sums by these attributes; series that are at 0 left out."""
        found: dict[tuple[str, ...] | str, float] = {}
        for point in self.points().get(name, ()):
            values = tuple(str(point.attributes.get(each, "")) for each in attributes)
            key = values[0] if len(values) == 1 else values
            found[key] = found.get(key, 0) + point.value
        return {key: value for key, value in found.items() if value}

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        (found,) = (each for each in self.spans if each.name == name)
        return found


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.metrics.shutdown()
    made.tracing.shutdown()


def client_of(metering: Metering, watch: Watch) -> TestClient:
    app = FastAPI()

    @app.get(ROUTE)
    async def item(name: str) -> str:
        if name == "bad":
            raise HTTPException(503)
        return name

    metering.install(app, tenant=from_header("x-org-id"))

    async def spanned(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with watch.tracer.start_as_current_span(scope["path"], kind=SpanKind.SERVER):
            await app(scope, receive, send)

    return TestClient(spanned)


# -- requests ---------------------------------------------------------------------------------------------------------


def test_requests_are_decisions_and_usage_by_template_and_attributes_of_their_spans(
    clock: FrozenClock, watch: Watch
) -> None:
    metering = Metering(PLANS, clock=clock, worker="off", telemetry=watch.telemetry())
    with client_of(metering, watch) as client:
        client.portal.call(metering.record_api_call, "beta", "/items/of-somebody")  # type: ignore[union-attr]
        paths = ("/items/a", "/items/bad", "/items/b", "/items/c", "/items/d", "/nowhere")
        statuses = [client.get(path, headers={"x-org-id": "acme"}).status_code for path in paths]
    assert statuses == [200, 503, 200, 200, 429, 404]
    assert watch.told("mm_metering.decisions", "decision", "policy", "reason", "plan") == {
        ("allowed", "", "", "free"): 4,
        ("refused", "api_calls-day", "quota-exceeded", "free"): 1,
    }
    assert watch.told("mm_metering.usage", "meter", "plan", "http.route") == {
        ("api_calls", "free", ROUTE): 4,
        ("api_calls", "free", ""): 1,
    }
    assert watch.told("mm_metering.taken_back", "meter", "plan") == {("api_calls", "free"): 1}
    assert watch.told("mm_metering.batches", "store")["memory"] >= 6
    assert watch.told("mm_metering.batch.ops", "store")["memory"] >= 6
    assert dict(watch.span("/items/a").attributes or {}) == {
        "mm_metering.decision": "allowed",
        "mm_metering.plan": "free",
        "mm_metering.cost.api_calls": 1,
    }
    assert dict(watch.span("/items/d").attributes or {}) == {
        "mm_metering.decision": "refused",
        "mm_metering.plan": "free",
        "mm_metering.policy": "api_calls-day",
        "mm_metering.reason": "quota-exceeded",
    }
    assert not watch.span("/nowhere").attributes
    (check,) = watch.points()["mm_metering.check.duration"]
    assert dict(check.attributes) == {"store": "memory", "outcome": "answered"}
    assert check.explicit_bounds[0] == 0.0001
    told = str(watch.points()) + "".join(each.to_json() for each in watch.spans)
    assert [each for each in ("acme", "beta", "of-somebody") if each in told] == []


def test_the_tenant_is_on_spans_where_the_host_wants_it(clock: FrozenClock, watch: Watch) -> None:
    metering = Metering(PLANS, clock=clock, worker="off", telemetry=watch.telemetry(span_tenant=True))
    with client_of(metering, watch) as client:
        client.get("/items/a", headers={"x-org-id": "acme"})
    assert (watch.span("/items/a").attributes or {})["mm_metering.tenant"] == "acme"
    assert "acme" not in str(watch.points())


async def test_usage_counts_each_way_to_use_once_and_looks_never(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=PLANS, worker="off", telemetry=watch.telemetry())
    await metering.record_api_call("acme", "/v1/x")
    for _ in range(2):
        await metering.record(UsageEvent(tenant="acme", event_type="export", resource="report", id="once"))
    await metering.check_limit("acme", "api_calls")
    assert watch.told("mm_metering.decisions") == {}
    await metering.enforce_quota("acme", "exports")
    await metering.enforce_quota("acme", "api_calls", 2)
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("acme", "api_calls")
    assert watch.told("mm_metering.usage", "meter", "http.route") == {
        ("api_calls", ""): 3,
        ("exports", ""): 2,
        ("reports", ""): 1,
    }
    assert watch.told("mm_metering.decisions", "decision", "policy") == {
        ("overage", "exports-month"): 1,
        ("allowed", ""): 1,
        ("refused", "api_calls-day"): 1,
    }


async def test_tenants_that_are_named_have_numbers_of_their_own(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=PLANS, worker="off", telemetry=watch.telemetry(tenant_label={"acme"}))
    for tenant in ("acme", "beta", "gamma"):
        await metering.enforce_quota(tenant, "api_calls")
    assert watch.told("mm_metering.tenant.decisions", "tenant", "decision") == {
        ("acme", "allowed"): 1,
        ("(other)", "allowed"): 2,
    }
    assert watch.told("mm_metering.tenant.usage", "tenant") == {"acme": 1, "(other)": 2}
    assert watch.told("mm_metering.usage", "meter") == {"api_calls": 3}


@pytest.mark.parametrize(("on_outage", "decision"), [("allow", "degraded"), ("deny", "unavailable")])
async def test_an_outage_is_told(make: Make, watch: Watch, on_outage: str, decision: str) -> None:
    plans = PLANS | {"meters": {**PLANS["meters"], "api_calls": {"event": "api_call", "on_outage": on_outage}}}
    metering = await make(catalogue=plans, worker="off", telemetry=watch.telemetry())
    await metering.enforce_quota("acme", "api_calls")
    assert [each.value for each in watch.points()["mm_metering.store.outage"]] == [0]
    lane: Any = metering.gate._lane("acme")
    lane._go_down(StoreUnavailable("the counters do not answer"))
    depth = watch.told("mm_metering.journal.depth")[()]
    if on_outage == "allow":
        await metering.enforce_quota("acme", "api_calls")
    else:
        with pytest.raises(StoreUnavailable):
            await metering.enforce_quota("acme", "api_calls")
    points = watch.points()
    assert [(dict(each.attributes), each.value) for each in points["mm_metering.store.outage"]] == [({"shard": "0"}, 1)]
    assert watch.told("mm_metering.journal.depth")[()] - depth == (on_outage == "allow")
    assert watch.told("mm_metering.decisions", "decision") == {"allowed": 1, decision: 1}


async def test_the_first_refusal_has_the_ids_of_its_trace(
    make: Make, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mm_metering.refused")
    metering = await make(catalogue=PLANS, worker="off")
    await metering.put_tenant("acme", plan="free")
    for tenant in ("acme", "beta"):
        await metering.enforce_quota(tenant, "api_calls", 3)
    with watch.tracer.start_as_current_span("job") as span, pytest.raises(QuotaExceeded):
        await metering.enforce_quota("acme", "api_calls")
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("beta", "api_calls")
    traced, plain = (record for record in caplog.records if record.name == "mm_metering.refused")
    context: Any = span.get_span_context()
    assert vars(traced)["trace_id"] == f"{context.trace_id:032x}"
    assert vars(traced)["span_id"] == f"{context.span_id:016x}"
    assert vars(traced)["refused"]["tenant"] == "acme"
    assert "trace_id" not in vars(plain)


# -- AI ---------------------------------------------------------------------------------------------------------------


async def call(metering: Metering, tenant: str = "acme", **options: Any) -> None:
    async with metering.ai.reserve(tenant, "gpt-4", input_tokens=10, max_output_tokens=100, **options) as made:
        made.settle(reply(10, 40, id="x"))


async def test_an_ai_call_is_cost_and_tokens_by_model_and_a_span_of_the_conventions(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=AI_PLANS, worker="off", telemetry=watch.telemetry())
    with watch.tracer.start_as_current_span("request") as outer:
        async with metering.ai.reserve("acme", "gpt-4", input_tokens=10, max_output_tokens=100, user="u_7") as made:
            assert watch.told("mm_metering.reservations.open") == {(): 1}
            made.settle(reply(10, 40))
    by = ("gen_ai.request.model", "gen_ai.provider.name")
    nanos = 50 * 30_000
    assert watch.told("mm_metering.ai.cost", *by) == {("gpt-4", "openai"): nanos}
    assert watch.told("mm_metering.ai.calls", *by, "status") == {("gpt-4", "openai", "exact"): 1}
    family = "gen_ai.client.inference.usage"
    for name, tokens in (("input_tokens", 10), ("output_tokens", 40)):
        about = ("gen_ai.operation.name", "gen_ai.token.modality")
        assert watch.told(f"{family}.{name}", *by, *about) == {("gpt-4", "openai", "chat", "unknown"): tokens}
    assert watch.told("mm_metering.reservations.open") == {}
    assert watch.told("mm_metering.usage", "meter") == {"ai_requests": 1, "ai_tokens": 50}
    assert watch.told("mm_metering.decisions", "decision") == {"allowed": 1}
    span = watch.span("chat gpt-4")
    assert (span.kind, span.parent) == (SpanKind.CLIENT, outer.get_span_context())
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.model": "gpt-4",
        "mm_metering.ai.status": "exact",
        "mm_metering.cost.ai_cost": nanos,
    }
    assert not {"acme", "u_7"} & {*str(watch.points()).split("'")}


async def test_a_call_that_is_released_or_refused_costs_nothing(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=AI_PLANS, worker="off", telemetry=watch.telemetry())
    async with metering.ai.reserve("acme", "gpt-4", input_tokens=10, max_output_tokens=0) as made:
        made.release()
    with pytest.raises(BudgetExceeded):
        async with metering.ai.reserve("acme", "gpt-4", input_tokens=1_000_000):
            raise AssertionError("its input alone is too much")
    await metering.ai.update_cost_config("acme", model_allowlist=["gpt-3.5-turbo"])
    with pytest.raises(ModelNotAllowed):
        async with metering.ai.reserve("acme", "gpt-4", input_tokens=1):
            raise AssertionError("it is not on the list")
    assert watch.told("mm_metering.ai.calls", "status") == {"released": 1}
    assert watch.told("mm_metering.ai.cost") == {}
    assert (watch.span("embeddings gpt-4").attributes or {})["mm_metering.ai.status"] == "released"
    assert watch.told("mm_metering.decisions", "decision", "reason") == {
        ("allowed", ""): 1,
        ("refused", "budget-exceeded"): 1,
        ("refused", "model-not-allowed"): 1,
    }


async def test_a_call_that_expires_is_told_by_whoever_expires_it(make: Make, watch: Watch, clock: FrozenClock) -> None:
    metering = await make(catalogue=AI_PLANS, worker="off", telemetry=watch.telemetry())
    reserved = metering.ai.reserve("acme", "gpt-4", input_tokens=10, max_output_tokens=100)
    await reserved.__aenter__()
    await metering.flush()
    metering.ai.holding._running.clear()  # as if its process were gone
    clock.advance(timedelta(minutes=30))
    assert await metering.ai.holding.expire() == 1
    assert watch.told("mm_metering.ai.calls", "status") == {"expired": 1}
    assert watch.told("mm_metering.ai.cost") == {(): 10 * 30_000}


async def test_a_span_of_this_kind_that_is_there_already_is_left_and_gets_the_cost(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=AI_PLANS, worker="off", telemetry=watch.telemetry())
    with watch.tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}) as span:
        await call(metering)
        assert span.is_recording()
    (only,) = watch.spans
    assert (only.attributes or {})["mm_metering.cost.ai_cost"] == 50 * 30_000


async def test_an_instrumented_client_tells_the_rest_itself(make: Make, watch: Watch) -> None:
    metering = await make(catalogue=AI_PLANS, worker="off", telemetry=watch.telemetry(gen_ai=False))
    await call(metering)
    assert watch.spans == []
    assert [name for name, points in watch.points().items() if name.startswith("gen_ai.") and points] == []
    assert watch.told("mm_metering.ai.calls", "status") == {"exact": 1}


# -- work in the background -------------------------------------------------------------------------------------------


async def test_jobs_alerts_payments_and_webhooks_are_told_without_a_tenant(
    make: Make, watch: Watch, clock: FrozenClock
) -> None:
    async with receiving() as receiver:
        receiver.answers["/down"] = 500
        metering = await make(
            webhook_rules=receiver.rules,
            worker="off",
            billing=MockBillingAdapter(clock=clock),
            telemetry=watch.telemetry(),
        )
        clock.set("2024-01-01T00:00:00Z")
        await metering.put_tenant("canary-tenant", plan="pro")
        made = await metering.billing.create_customer(organization_id="canary-tenant", email="a@b.example", name="Acme")
        await metering.billing.create_payment_method(made.id, payment_method="pm_card_visa")
        for path in ("/", "/down"):
            await metering.webhooks.create_endpoint("canary-tenant", receiver.url(path), ["invoice.paid"])
        await metering.record_api_call("canary-tenant", "/v1/x")
        clock.set("2024-02-03T00:00:00Z")
        await metering.close_period("2024-01")
        await metering.collect()
        await metering.test_alert("canary-tenant")
        await metering.catch_up()
        scraped = await metering.monitor.exposition()
    assert watch.told("mm_metering.payments", "outcome") == {"paid": 1}
    assert watch.told("mm_metering.webhook.deliveries", "outcome") == {"delivered": 1, "failed": 1}
    assert watch.told("mm_metering.alerts", "rule") == {"alert.test": 1}
    assert watch.told("mm_metering.worker.jobs", "job", "outcome")["close-month", "done"] == 1
    assert watch.told("mm_metering.fold.facts")[()] >= 1
    names = {each.name for each in watch.spans}
    assert {"job close-month", "job alerts", "alert", "invoice create", "invoice pay"} <= names
    assert watch.span("invoice pay").kind is SpanKind.CLIENT
    assert (watch.span("job close-month").attributes or {})["mm_metering.job"] == "close-month"
    assert 'mm_metering_webhook_deliveries_total{outcome="failed"} 1' in scraped
    assert 'mm_metering_alerts_total{rule="alert.test"} 1' in scraped
    told = [str(watch.points()), *(each.to_json() for each in watch.spans), scraped]
    assert [each for each in told if "canary-tenant" in each] == []


async def test_a_job_that_fails_is_an_error_without_its_text(make: Make, watch: Watch) -> None:
    metering = await make(worker="off", telemetry=watch.telemetry())
    job = next(each for each in metering._jobs._jobs if each.name == "alerts")

    async def fails(*_: object) -> None:
        raise ZeroDivisionError("canary-tenant")

    object.__setattr__(job, "run", fails)
    await metering._jobs.once()
    assert watch.told("mm_metering.worker.jobs", "job", "outcome")["alerts", "failed"] == 1
    span = watch.span("job alerts")
    assert ((span.attributes or {})["error.type"], span.status.is_ok) == ("ZeroDivisionError", False)
    assert "canary-tenant" not in span.to_json()


async def test_drift_of_invoices_is_told_once_it_was_looked_for(make: Make, watch: Watch, clock: FrozenClock) -> None:
    metering = await make(worker="off", billing=MockBillingAdapter(clock=clock), telemetry=watch.telemetry())
    assert "mm_metering.billing.drift" not in watch.points()
    found = await metering.reconcile_payments("2024-01")
    assert watch.points()["mm_metering.billing.drift"][0].value == len(found.drift) == 0


# -- the command line -------------------------------------------------------------------------------------------------


def test_an_installed_package_prints_its_dashboard_and_its_alarms(shell: Shell) -> None:
    code, printed, _ = shell("telemetry", "grafana")
    assert (code, json.loads(printed)) == (0, dashboard())
    code, printed, _ = shell("telemetry", "alerts")
    assert (code, len(yaml.safe_load(printed)["groups"][0]["rules"])) == (0, len(ALARMS))
