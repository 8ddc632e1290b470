"""The list of instruments, what is made of it, and the bounds of what is told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

import pytest
import yaml
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import mm_metering
from mm_metering import Telemetry
from mm_metering.ai.calls import Settled
from mm_metering.ai.observed import ObservedCalls, provider_of
from mm_metering.ai.usage import Usage
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.decision import Decision
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import zone
from mm_metering.errors import InvalidInput
from mm_metering.gate.observed import Observed
from mm_metering.gate.tenants import View
from mm_metering.gate.windows import PlanWindows
from mm_metering.telemetry import instruments
from mm_metering.telemetry.alarms import ALARMS, rules
from mm_metering.telemetry.exposition import exposition
from mm_metering.telemetry.grafana import dashboard
from mm_metering.telemetry.instruments import (
    ALL,
    BOUNDS,
    DECISIONS,
    MODEL,
    MOST_SERIES,
    OTHER,
    ROUTE,
    USAGE,
    Instrument,
    label_name,
    prometheus_name,
)
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.options import MOST_TENANTS
from mm_metering.telemetry.queries import now, per_second

MANY: Final = 100_000
MODELS: Final = 10_000
GOLDEN: Final = Path(__file__).parent / "prometheus_names.txt"
"""As opentelemetry-exporter-prometheus 0.66b2 called these instruments on a registry of its own."""
ROOT: Final = Path(mm_metering.__file__).parent
SUFFIXES: Final = ("_bucket", "_sum", "_count")
CATALOGUE: Final = Catalogue.from_dict(
    {"meters": {"api_calls": {"event": "api_call"}}, "plans": {"free": {"price": "0.00"}}}
)


# -- the list ---------------------------------------------------------------------------------------------------------


def test_names_units_and_attributes_follow_the_rules() -> None:
    assert len({each.name for each in ALL}) == len(ALL)
    for each in ALL:
        assert re.fullmatch(r"(mm_metering|gen_ai)(\.[a-z_]+)+", each.name)
        assert re.fullmatch(r"s|\{[a-z_]+\}", each.unit)
        assert not each.name.endswith(("_total", "_seconds", ".total"))
        assert each.description.endswith(".")
        assert ("tenant" in each.attributes) == (each in instruments.OF_TENANTS)


def test_each_instrument_is_measured_somewhere() -> None:
    sources = [path.read_text() for path in ROOT.rglob("*.py") if path.parent.name != "telemetry"]
    constants = {name for name, value in vars(instruments).items() if isinstance(value, Instrument)}
    assert [name for name in constants if not any(re.search(rf"\b{name}\b", text) for text in sources)] == []
    assert len(constants) == len(ALL)


def test_names_are_what_the_exporter_for_prometheus_makes_of_them() -> None:
    assert [f"{each.name} {prometheus_name(each)}" for each in ALL] == GOLDEN.read_text().splitlines()


# -- the dashboard and the alarms -------------------------------------------------------------------------------------


def asked(expression: str) -> Iterator[tuple[str, str]]:
    """The metrics that a question is about, each with the labels it names, and without any."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    for by, metric, where in re.findall(r"(?:by \(([^)]*)\) )?\(?(?:rate|increase)?\(?(\w+)(?:\{([^}]*)\})?", plain):
        if metric.startswith(("mm_metering_", "gen_ai_client_")):
            yield metric, ""
            yield from ((metric, name.strip()) for name in by.split(",") if name.strip())
            yield from ((metric, pair.split("=")[0].strip()) for pair in where.split(",") if pair.strip())


def known() -> dict[str, set[str]]:
    found = {}
    for each in ALL:
        labels = {"", *map(label_name, each.attributes)}
        if each.kind == "histogram":
            found.update({prometheus_name(each) + suffix: labels | {"le"} for suffix in SUFFIXES})
        else:
            found[prometheus_name(each)] = labels
    return found


def unknown(expression: str) -> list[tuple[str, str]]:
    told = known()
    return [(metric, label) for metric, label in asked(expression) if label not in told.get(metric, ())]


def test_the_check_itself_finds_what_does_not_exist() -> None:
    assert [*asked(per_second(DECISIONS, "plan", window="5m", decision="refused"))] == [
        ("mm_metering_decisions_total", ""),
        ("mm_metering_decisions_total", "plan"),
        ("mm_metering_decisions_total", "decision"),
    ]
    assert unknown("sum by (tenant) (rate(mm_metering_decisions_total[5m]))") == [
        ("mm_metering_decisions_total", "tenant")
    ]
    assert unknown("max (mm_metering_nothing)") == [("mm_metering_nothing", "")]
    with pytest.raises(ValueError, match="no attribute tenant"):
        per_second(DECISIONS, "tenant", window="5m")
    assert now(USAGE._replace(over="max")) == "max (mm_metering_usage_total)"


def test_the_dashboard_asks_only_for_what_exists_and_fits_grafanas_grid() -> None:
    made = dashboard()
    panels = [each for each in made["panels"] if each["type"] != "row"]
    assert (made["uid"], made["schemaVersion"], made["templating"]["list"][0]["type"]) == (
        "mm-metering", 39, "datasource",
    )  # fmt: skip
    assert "id" not in made
    assert len({each["id"] for each in made["panels"]}) == len(made["panels"])
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert all([*asked(each)] for each in expressions)
    assert [found for each in expressions for found in unknown(each)] == []
    places = [tuple(each["gridPos"].values()) for each in made["panels"]]
    assert len(set(places)) == len(places)
    assert all(x + width <= 24 for x, _, width, _ in places)
    titles = " ".join(each["title"] for each in panels)
    for wanted in ("outcome", "policy", "duration", "Journal", "lag", "Cost", "Tokens", "budget", "Webhook"):
        assert wanted in titles
    for wanted in ("Payments", "Dead letters", "Drift", "Heartbeat"):
        assert wanted in titles
    legends = [(target["expr"], target["legendFormat"]) for panel in panels for target in panel["targets"]]
    for expression, legend in legends:
        assert all(name in expression for name in re.findall(r"\{\{(\w+)\}\}", legend))


def test_alarms_are_yaml_and_ask_only_for_what_exists() -> None:
    (group,) = yaml.safe_load(rules())["groups"]
    assert [each["alert"] for each in group["rules"]] == [each.name for each in ALARMS]
    for each, alarm in zip(group["rules"], ALARMS, strict=True):
        assert (each["expr"], each["for"]) == (alarm.when, alarm.lasts)
        assert each["labels"]["severity"] in ("critical", "warning")
        assert each["annotations"]["summary"] == alarm.says
        assert [*asked(alarm.when)]
        assert unknown(alarm.when) == []


# -- bounds -----------------------------------------------------------------------------------------------------------


class Watched:
    """Measures that a real SDK collects."""

    def __init__(self, **options: Any) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider(metric_readers=[self._reader])
        self.measures = Measures(Telemetry(meter_provider=self._provider, **options))
        self.measures.show()

    def series(self, name: str) -> dict[tuple[tuple[str, Any], ...], float]:
        data: Any = self._reader.get_metrics_data()
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics if data else ():
            if metric.name == name:
                found = {tuple(sorted(each.attributes.items())): each.value for each in metric.data.data_points}
        return found

    def close(self) -> None:
        self._provider.shutdown()


def view_of(tenant: str, plan: str = "free") -> View:
    windows = PlanWindows(None, zone("UTC"), CATALOGUE)
    windows.plan = plan
    return View(tenant, None, windows, shard=0, now_us=0)


def fact_of(route: str) -> Fact:
    return Fact("f", 0, "use", "t", "api_call", route, 1, None, (Count("api_calls", "", 1),))


def test_a_flood_of_tenants_routes_plans_and_policies_has_bounded_series_and_loses_nothing() -> None:
    watched = Watched()
    observed = Observed(watched.measures, money=frozenset())
    watched.measures.routes.update(f"/items/{n}" for n in range(MANY))
    for n in range(MANY):
        observed.posted(view_of(f"tenant-{n}", f"plan-{n % 500}"), [fact_of(f"/items/{n}")])
        decision = Decision(allowed=False, meter=f"m{n}", requested=1, reason="quota-exceeded", window="day")
        observed.refused(f"tenant-{n}", "free", decision)
    usage, decisions = watched.series("mm_metering.usage"), watched.series("mm_metering.decisions")
    watched.close()
    assert len(usage) <= MOST_SERIES + 1
    assert len({dict(each)[ROUTE] for each in usage}) == BOUNDS[ROUTE] + 1
    assert len({dict(each)["plan"] for each in usage}) == BOUNDS["plan"] + 1
    assert len(decisions) == BOUNDS["policy"] + 1
    assert sum(usage.values()) == sum(decisions.values()) == MANY
    assert "tenant" not in str([*usage, *decisions])


def test_without_a_tenant_label_its_instruments_have_no_series() -> None:
    watched = Watched()
    Observed(watched.measures, money=frozenset()).posted(view_of("acme"), [fact_of("/a")])
    assert watched.series("mm_metering.tenant.usage") == {}
    assert "acme" not in exposition(watched.measures)
    watched.close()


def test_the_busiest_get_the_places_of_top_and_keep_them() -> None:
    watched = Watched(tenant_label="top:3")
    observed = Observed(watched.measures, money=frozenset())

    def use(tenant: str, times: int = 1) -> None:
        for _ in range(times):
            observed.posted(view_of(tenant), [fact_of("/a")])

    for n in range(MANY):
        use(f"tenant-{n}")
    for n in range(3):
        use(f"tenant-{n}", 2)
    name = "mm_metering.tenant.usage"
    assert watched.series(name) == {(("meter", "api_calls"), ("tenant", OTHER)): MANY + 6}
    for n in range(5):
        use(f"tenant-{n}", 10 + n)
    named = {dict(each)["tenant"]: count for each, count in watched.series(name).items()}
    assert named == {OTHER: MANY + 6 + 13 + 14, "tenant-0": 10, "tenant-1": 11, "tenant-2": 12}
    watched.close()


def test_tenants_that_the_host_names_are_named_at_once_and_no_others() -> None:
    watched = Watched(tenant_label={"acme"})
    observed = Observed(watched.measures, money=frozenset())
    for tenant in ("acme", "beta"):
        observed.posted(view_of(tenant), [fact_of("/a")])
        observed.unavailable(view_of(tenant))
    assert {dict(each)["tenant"] for each in watched.series("mm_metering.tenant.usage")} == {"acme", OTHER}
    assert watched.series("mm_metering.tenant.decisions")[("decision", "unavailable"), ("tenant", "acme")] == 1
    watched.close()


@pytest.mark.parametrize("label", ["50", "top:", "top:0", "top:201", "top:x", "top:²", {f"t{n}" for n in range(201)}])
def test_a_tenant_label_that_is_none_is_refused(label: Any) -> None:
    with pytest.raises(InvalidInput, match="tenant_label"):
        Telemetry(tenant_label=label)


def test_a_flood_of_models_has_bounded_series_and_loses_no_cost() -> None:
    watched = Watched()
    calls = ObservedCalls(watched.measures)
    usage = Usage(input=10, output=3, cached=4, reasoning=2)
    for n in range(MODELS):
        calls.count(f"model-{n}", Settled(7, 13, "exact", "own", usage))
    cost = watched.series("mm_metering.ai.cost")
    tokens = watched.series("gen_ai.client.inference.usage.input_tokens")
    watched.close()
    assert len(cost) == len(tokens) == BOUNDS[MODEL] + 1
    assert (sum(cost.values()), sum(tokens.values())) == (7 * MODELS, 10 * MODELS)
    assert {dict(each)["gen_ai.token.modality"] for each in tokens} == {"unknown"}


@pytest.mark.parametrize(
    ("model", "source", "provider"),
    [
        ("gpt-4o", "own", "openai"),
        ("claude-sonnet-4-5", "own", "anthropic"),
        ("bedrock/anthropic.claude-3-haiku", "own", "aws.bedrock"),
        ("azure/gpt-4o", "own", "azure.ai.openai"),
        ("house-model", "own", "unknown"),
        ("house-model", "genai-prices 0.2 mistral/house-model", "mistral_ai"),
    ],
)
def test_the_provider_is_in_the_conventions_words(model: str, source: str, provider: str) -> None:
    assert provider_of(model, Settled(1, 1, "exact", source)) == provider


# -- exposures --------------------------------------------------------------------------------------------------------


def test_several_meterings_of_a_process_are_told_together() -> None:
    first = Watched()
    second = Measures(first.measures.options)
    second.show()
    for measures, depth in ((first.measures, 3), (second, 4)):
        measures.tally(DECISIONS).add("allowed", "", "", "free", n=depth)
        measures.answer(instruments.FOLD_LAG, partial(list, [("0", depth)]))
    assert [*first.series("mm_metering.decisions").values()] == [7]
    assert [*first.series("mm_metering.fold.lag").values()] == [4]
    first.close()


def test_text_of_a_label_is_escaped() -> None:
    measures = Measures()
    measures.tally(USAGE).add("api_calls", 'a"b\\c\nd', "/x")
    (line,) = [each for each in exposition(measures).splitlines() if not each.startswith("#")]
    assert line == r'mm_metering_usage_total{meter="api_calls",plan="a\"b\\c\nd",http_route="/x"} 1'


# -- the page ---------------------------------------------------------------------------------------------------------

PAGE: Final = ROOT.parent / "docs" / "observability.md"


def table() -> str:
    """For the page, between its two marks."""
    lines = ["| instrument | kind, unit | attributes | where | of several | |", "|---|---|---|---|---|---|"]
    for each in ALL:
        attributes = ", ".join(f"`{name}`" for name in each.attributes) or "–"
        over = {"sum": "add", "max": "largest"}[each.over] if each.kind != "histogram" else "merge"
        where = {"both": "app, worker"}.get(each.where, each.where)
        lines.append(
            f"| `{each.name}` | {each.kind}, `{each.unit}` | {attributes} | {where} | {over} | {each.description} |"
        )
    return "\n".join(lines)


def test_the_page_has_the_list_of_instruments_and_the_bounds() -> None:
    text = PAGE.read_text()
    between = text.partition("<!-- begin instruments -->\n")[2].partition("\n<!-- end instruments -->")[0]
    assert between == table(), f"docs/observability.md should have:\n{table()}"
    said = {"plans": "plan", "policies": "policy", "meters": "meter", "routes": ROUTE, "models": MODEL}
    told = " ".join(text.split())
    assert [word for word, name in said.items() if f"{BOUNDS[name]} {word}" not in told] == []
    assert f"past {MOST_SERIES:,} series" in told
    assert f"at most {MOST_TENANTS}" in told


def test_the_set_up_on_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exporters of OTLP as they are called, and the real SDK otherwise."""
    set_up, choice = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    made = dict[str, Any]()
    monkeypatch.setattr(metrics, "set_meter_provider", lambda provider: made.update(metrics=provider))
    monkeypatch.setattr(trace, "set_tracer_provider", lambda provider: made.update(spans=provider))
    otlp = "opentelemetry.exporter.otlp.proto.http"
    kinds: dict[str, Any] = {
        "metric_exporter": ("OTLPMetricExporter", InMemoryMetricExporter),
        "trace_exporter": ("OTLPSpanExporter", InMemorySpanExporter),
    }
    for module, (name, kind) in kinds.items():
        stand_in = ModuleType(f"{otlp}.{module}")
        setattr(stand_in, name, kind)
        monkeypatch.setitem(sys.modules, f"{otlp}.{module}", stand_in)
    exec(compile(set_up, str(PAGE), "exec"), {})
    measures = Measures(Telemetry(meter_provider=made["metrics"]))
    measures.tally(DECISIONS).add("allowed", "", "", "free")
    measures.show()
    made["metrics"].force_flush()
    assert "mm_metering.decisions" in str(InMemoryMetricExporter.told)
    for each in made.values():
        each.shutdown()
    names: dict[str, Any] = {}
    exec(compile(choice, str(PAGE), "exec"), names)
    assert names["metering"]._measures.options.top == 50


class InMemoryMetricExporter(MetricExporter):
    """Keeps what it is told."""

    told: ClassVar[list[Any]] = []

    def export(self, metrics_data: Any, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        self.told.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass
