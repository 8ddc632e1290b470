"""What spans say. The host's own current span gets attributes; spans of our own are around what no request waits for,
and around AI calls. None has a text of an exception: that may name a tenant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from mm_metering.telemetry.options import Telemetry

SCOPE: Final = "mm_metering"
TENANT: Final = "mm_metering.tenant"
DECISION: Final = "mm_metering.decision"
PLAN: Final = "mm_metering.plan"
POLICY: Final = "mm_metering.policy"
REASON: Final = "mm_metering.reason"
COST: Final = "mm_metering.cost."
"""Before a meter's name: what was decided about, in units, or nano-units of money."""
ERROR: Final = "error.type"

Attributes: TypeAlias = Mapping[str, str | int]


class Spans:
    """``options`` say where they go, and whether they name the tenant."""

    def __init__(self, options: Telemetry) -> None:
        self._provider = options.tracer_provider
        self._names_tenant = options.span_tenant

    def tell(self, tenant: str, attributes: Attributes) -> None:
        """Attributes of the current span, if somebody records it."""
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attributes({**attributes, TENANT: tenant} if self._names_tenant else attributes)

    def tenant(self, tenant: str) -> Attributes:
        """The attribute that names it, where the host wants that."""
        return {TENANT: tenant} if self._names_tenant else {}

    def start(self, name: str, attributes: Attributes, *, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """One that goes on until ``end``, under the current one; it does not become current."""
        return self._tracer().start_span(name, kind=kind, attributes=attributes)

    @contextmanager
    def around(self, name: str, attributes: Attributes, *, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
        """One that is current within the block."""
        span = self.start(name, attributes, kind=kind)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            end(span, error)
            raise
        end(span)

    def _tracer(self) -> trace.Tracer:
        provider = self._provider
        return trace.get_tracer(SCOPE) if provider is None else provider.get_tracer(SCOPE)


def end(span: Span, error: BaseException | None = None) -> None:
    if error is not None:
        span.set_attribute(ERROR, type(error).__name__)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def log_keys() -> dict[str, str]:
    """For ``extra=`` of a log line: the trace and span that it belongs to, in hex; nothing outside of one."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
