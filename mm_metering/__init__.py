"""Meter API and AI usage inside a Starlette or FastAPI app, enforce per-tenant quotas inline, and bill for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_metering.ai.decorator import ai_call
    from mm_metering.billing.documents import Party
    from mm_metering.billing.mock import MockBillingAdapter
    from mm_metering.billing.stripe import StripeBillingAdapter
    from mm_metering.clock import FrozenClock, SystemClock
    from mm_metering.core.collecting import Notice
    from mm_metering.core.decision import Decision
    from mm_metering.core.dunning import Dunning
    from mm_metering.core.events import UsageEvent
    from mm_metering.core.invoices import CreditNote, Invoice, InvoiceLine, Tax
    from mm_metering.decorators import MeteredSocket, message_quota, metered, quota
    from mm_metering.errors import (
        ActionRequired,
        BillingError,
        BudgetExceeded,
        CardDeclined,
        CatalogueError,
        EventConflict,
        FeatureNotInPlan,
        InvalidEvent,
        InvalidMoney,
        InvalidRequest,
        InvalidTenant,
        MeteringError,
        ModelNotAllowed,
        NoPaymentMethod,
        NotBound,
        NotFound,
        PeriodNotOver,
        ProviderRateLimited,
        ProviderRefused,
        ProviderUnavailable,
        QuotaExceeded,
        Refused,
        StoreUnavailable,
        UnknownTenant,
        UrlRefused,
        WebhookRefused,
        WrongState,
    )
    from mm_metering.gate.context import current
    from mm_metering.metering import Metering
    from mm_metering.middleware.asgi import MeteringMiddleware
    from mm_metering.middleware.endpoint_guard import EndpointRules
    from mm_metering.middleware.responses import EXPOSED_HEADERS
    from mm_metering.middleware.tenants import anonymous, first_of, from_header, from_state, from_user
    from mm_metering.middleware.tokens import from_jwt
    from mm_metering.telemetry.options import Telemetry

_HOMES = {
    "ActionRequired": "mm_metering.errors",
    "BillingError": "mm_metering.errors",
    "BudgetExceeded": "mm_metering.errors",
    "CardDeclined": "mm_metering.errors",
    "CatalogueError": "mm_metering.errors",
    "CreditNote": "mm_metering.core.invoices",
    "Decision": "mm_metering.core.decision",
    "Dunning": "mm_metering.core.dunning",
    "EXPOSED_HEADERS": "mm_metering.middleware.responses",
    "EndpointRules": "mm_metering.middleware.endpoint_guard",
    "EventConflict": "mm_metering.errors",
    "FeatureNotInPlan": "mm_metering.errors",
    "FrozenClock": "mm_metering.clock",
    "InvalidEvent": "mm_metering.errors",
    "InvalidMoney": "mm_metering.errors",
    "InvalidRequest": "mm_metering.errors",
    "InvalidTenant": "mm_metering.errors",
    "Invoice": "mm_metering.core.invoices",
    "InvoiceLine": "mm_metering.core.invoices",
    "MeteredSocket": "mm_metering.decorators",
    "Metering": "mm_metering.metering",
    "MeteringError": "mm_metering.errors",
    "MeteringMiddleware": "mm_metering.middleware.asgi",
    "MockBillingAdapter": "mm_metering.billing.mock",
    "ModelNotAllowed": "mm_metering.errors",
    "NoPaymentMethod": "mm_metering.errors",
    "NotBound": "mm_metering.errors",
    "NotFound": "mm_metering.errors",
    "Notice": "mm_metering.core.collecting",
    "Party": "mm_metering.billing.documents",
    "PeriodNotOver": "mm_metering.errors",
    "ProviderRateLimited": "mm_metering.errors",
    "ProviderRefused": "mm_metering.errors",
    "ProviderUnavailable": "mm_metering.errors",
    "QuotaExceeded": "mm_metering.errors",
    "Refused": "mm_metering.errors",
    "StoreUnavailable": "mm_metering.errors",
    "StripeBillingAdapter": "mm_metering.billing.stripe",
    "SystemClock": "mm_metering.clock",
    "Tax": "mm_metering.core.invoices",
    "Telemetry": "mm_metering.telemetry.options",
    "UnknownTenant": "mm_metering.errors",
    "UrlRefused": "mm_metering.errors",
    "UsageEvent": "mm_metering.core.events",
    "WebhookRefused": "mm_metering.errors",
    "WrongState": "mm_metering.errors",
    "anonymous": "mm_metering.middleware.tenants",
    "ai_call": "mm_metering.ai.decorator",
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
    "ActionRequired",
    "BillingError",
    "BudgetExceeded",
    "CardDeclined",
    "CatalogueError",
    "CreditNote",
    "Decision",
    "Dunning",
    "EndpointRules",
    "EventConflict",
    "FeatureNotInPlan",
    "FrozenClock",
    "InvalidEvent",
    "InvalidMoney",
    "InvalidRequest",
    "InvalidTenant",
    "Invoice",
    "InvoiceLine",
    "MeteredSocket",
    "Metering",
    "MeteringError",
    "MeteringMiddleware",
    "MockBillingAdapter",
    "ModelNotAllowed",
    "NoPaymentMethod",
    "NotBound",
    "NotFound",
    "Notice",
    "Party",
    "PeriodNotOver",
    "ProviderRateLimited",
    "ProviderRefused",
    "ProviderUnavailable",
    "QuotaExceeded",
    "Refused",
    "StoreUnavailable",
    "StripeBillingAdapter",
    "SystemClock",
    "Tax",
    "Telemetry",
    "UnknownTenant",
    "UrlRefused",
    "UsageEvent",
    "WebhookRefused",
    "WrongState",
    "ai_call",
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
