"""Meter API and AI usage inside a Starlette or FastAPI app, enforce per-tenant quotas inline, and bill for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_metering.clock import FrozenClock, SystemClock
    from mm_metering.core.decision import Decision
    from mm_metering.core.events import UsageEvent
    from mm_metering.decorators import MeteredSocket, message_quota, metered, quota
    from mm_metering.gate.context import current
    from mm_metering.metering import Metering
    from mm_metering.middleware.asgi import MeteringMiddleware
    from mm_metering.middleware.responses import EXPOSED_HEADERS
    from mm_metering.middleware.tenants import anonymous, first_of, from_header, from_state, from_user
    from mm_metering.middleware.tokens import from_jwt

_HOMES = {
    "EXPOSED_HEADERS": "mm_metering.middleware.responses",
    "Decision": "mm_metering.core.decision",
    "FrozenClock": "mm_metering.clock",
    "MeteredSocket": "mm_metering.decorators",
    "Metering": "mm_metering.metering",
    "MeteringMiddleware": "mm_metering.middleware.asgi",
    "SystemClock": "mm_metering.clock",
    "UsageEvent": "mm_metering.core.events",
    "anonymous": "mm_metering.middleware.tenants",
    "current": "mm_metering.gate.context",
    "first_of": "mm_metering.middleware.tenants",
    "from_header": "mm_metering.middleware.tenants",
    "from_jwt": "mm_metering.middleware.tokens",
    "from_state": "mm_metering.middleware.tenants",
    "from_user": "mm_metering.middleware.tenants",
    "message_quota": "mm_metering.decorators",
    "metered": "mm_metering.decorators",
    "quota": "mm_metering.decorators",
}

__all__ = [
    "EXPOSED_HEADERS",
    "Decision",
    "FrozenClock",
    "MeteredSocket",
    "Metering",
    "MeteringMiddleware",
    "SystemClock",
    "UsageEvent",
    "anonymous",
    "current",
    "first_of",
    "from_header",
    "from_jwt",
    "from_state",
    "from_user",
    "message_quota",
    "metered",
    "quota",
]


def __getattr__(name: str) -> Any:
    """Public names are imported at first use, so that ``import mm_metering`` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
