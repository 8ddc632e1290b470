"""Meter API and AI usage inside a Starlette or FastAPI app, enforce per-tenant quotas inline, and bill for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_metering.clock import FrozenClock, SystemClock
    from mm_metering.core.decision import Decision
    from mm_metering.core.events import UsageEvent
    from mm_metering.decorators import MeteredSocket, message_quota, metered, quota
    from mm_metering.errors import (
        BudgetExceeded,
        CatalogueError,
        EventConflict,
        FeatureNotInPlan,
        InvalidEvent,
        InvalidMoney,
        InvalidTenant,
        MeteringError,
        ModelNotAllowed,
        NotBound,
        PeriodNotOver,
        QuotaExceeded,
        Refused,
        StoreUnavailable,
        UnknownTenant,
    )
    from mm_metering.gate.context import current
    from mm_metering.metering import Metering
    from mm_metering.middleware.asgi import MeteringMiddleware
    from mm_metering.middleware.responses import EXPOSED_HEADERS
    from mm_metering.middleware.tenants import anonymous, first_of, from_header, from_state, from_user
    from mm_metering.middleware.tokens import from_jwt

_HOMES = {
    "BudgetExceeded": "mm_metering.errors",
    "CatalogueError": "mm_metering.errors",
    "Decision": "mm_metering.core.decision",
    "EXPOSED_HEADERS": "mm_metering.middleware.responses",
    "EventConflict": "mm_metering.errors",
    "FeatureNotInPlan": "mm_metering.errors",
    "FrozenClock": "mm_metering.clock",
    "InvalidEvent": "mm_metering.errors",
    "InvalidMoney": "mm_metering.errors",
    "InvalidTenant": "mm_metering.errors",
    "MeteredSocket": "mm_metering.decorators",
    "Metering": "mm_metering.metering",
    "MeteringError": "mm_metering.errors",
    "MeteringMiddleware": "mm_metering.middleware.asgi",
    "ModelNotAllowed": "mm_metering.errors",
    "NotBound": "mm_metering.errors",
    "PeriodNotOver": "mm_metering.errors",
    "QuotaExceeded": "mm_metering.errors",
    "Refused": "mm_metering.errors",
    "StoreUnavailable": "mm_metering.errors",
    "SystemClock": "mm_metering.clock",
    "UnknownTenant": "mm_metering.errors",
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
    "BudgetExceeded",
    "CatalogueError",
    "Decision",
    "EventConflict",
    "FeatureNotInPlan",
    "FrozenClock",
    "InvalidEvent",
    "InvalidMoney",
    "InvalidTenant",
    "MeteredSocket",
    "Metering",
    "MeteringError",
    "MeteringMiddleware",
    "ModelNotAllowed",
    "NotBound",
    "PeriodNotOver",
    "QuotaExceeded",
    "Refused",
    "StoreUnavailable",
    "SystemClock",
    "UnknownTenant",
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
