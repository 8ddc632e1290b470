"""What the environment says of a Metering."""

from __future__ import annotations

import os
from typing import Any

from mm_metering import catalogues
from mm_metering.gate.deadlines import Timing

ENVIRONMENT = (
    "CATALOGUE",
    "COUNTERS",
    "LEDGER",
    "APPLY",
    "JOURNAL",
    "SHADOW",
    "BILLING_MODE",
    "SECRET_KEY",
    "AUDIT_ANCHORS",
)
STRIPE = ("API_KEY", "WEBHOOK_SECRET", "BASE_URL")


def found_in_environment(options: dict[str, Any]) -> dict[str, Any]:
    """What MM_METERING_* make of ``Metering``'s options; those that are given win over them."""
    found: dict[str, Any] = {name.lower(): os.environ.get(f"MM_METERING_{name}") for name in ENVIRONMENT}
    deadline_ms = os.environ.get("MM_METERING_DEADLINE_MS", "")
    if deadline_ms:
        found["timing"] = Timing.of_ms(deadline_ms)
    stripe = {name.lower(): os.environ.get(f"MM_METERING_STRIPE_{name}") for name in STRIPE}
    if stripe["api_key"] and "billing" not in options:
        from mm_metering.billing.stripe import StripeBillingAdapter

        catalogue = catalogues.load(options.get("catalogue") or found["catalogue"] or catalogues.seed)
        given: dict[str, Any] = {name: value for name, value in stripe.items() if value}
        if mode := options.get("billing_mode") or found["billing_mode"]:
            given["billing_mode"] = mode
        found["billing"] = StripeBillingAdapter(**given, currency=catalogue.currency)
    return {name: value for name, value in found.items() if value} | options
