# The exporters are no part of the test environment, and what is set for a process is set for all of its tests.
import sys
from functools import partial
from types import ModuleType
from unittest.mock import patch

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

AT = "opentelemetry.exporter.otlp.proto.http"
there = {name: ModuleType(name) for name in ("opentelemetry.exporter", AT.removesuffix(".proto.http"), AT[:-5], AT)}
for module, name, exporter in (
    ("metric_exporter", "OTLPMetricExporter", partial(ConsoleMetricExporter, out=open(os.devnull, "w"))),
    ("trace_exporter", "OTLPSpanExporter", InMemorySpanExporter),
):
    there[f"{AT}.{module}"] = ModuleType(module)
    setattr(there[f"{AT}.{module}"], name, exporter)
stack.enter_context(patch.dict(sys.modules, there))
stack.enter_context(patch.object(trace, "set_tracer_provider", lambda made: stack.callback(made.shutdown)))
stack.enter_context(patch.object(metrics, "set_meter_provider", lambda made: stack.callback(made.shutdown)))
