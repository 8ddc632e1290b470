"""What a host may say about its telemetry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput

MOST_TENANTS: Final = 200
"""Most tenants that may have series of their own, in each process."""
TOP: Final = "top:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What is told, and to whom.

    tenant_label     whose decisions and usage are metrics of their own: nobody's; "top:50", the first fifty that are
                     busiest when numbers are read; or these tenants. All others are "(other)" there. At most 200
    span_tenant      whether spans have the tenant's id, as ``mm_metering.tenant``
    gen_ai           whether AI calls are metrics and spans of the GenAI conventions; False where the provider's client
                     is instrumented, which tells the same
    meter_provider   where metrics go, instead of OpenTelemetry's global provider
    tracer_provider  where spans go, instead of the global one
    """

    tenant_label: str | Iterable[str] | None = None
    span_tenant: bool = False
    gen_ai: bool = True
    meter_provider: MeterProvider | None = None
    tracer_provider: TracerProvider | None = None
    named: frozenset[str] = field(init=False, repr=False)
    """The tenants that were named."""
    top: int = field(init=False, repr=False)
    """How many others may earn a name."""

    def __post_init__(self) -> None:
        label = self.tenant_label
        top = _top(label) if isinstance(label, str) else 0
        named = frozenset() if label is None or isinstance(label, str) else frozenset(map(tenant_id, label))
        if len(named) > MOST_TENANTS:
            raise InvalidInput("tenant_label", f"names {len(named):,} tenants; the most is {MOST_TENANTS:,}")
        object.__setattr__(self, "top", top)
        object.__setattr__(self, "named", named)

    @property
    def tells_tenants(self) -> bool:
        return bool(self.top or self.named)


def _top(label: str) -> int:
    number = label.removeprefix(TOP)
    top = int(number) if label.startswith(TOP) and number.isascii() and number[:5].isdigit() else 0
    if not 1 <= top <= MOST_TENANTS:
        raise InvalidInput(
            "tenant_label", f'is {label[:60]!r}; write "top:50" (1 to {MOST_TENANTS:,}) or a set of tenants'
        )
    return top
