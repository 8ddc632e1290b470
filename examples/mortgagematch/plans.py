"""What MortgageMatch sells: the three plans that come with the package, what its routes and its models cost.

A file does the same: copy ``mm_metering/catalogues/seed.toml``, add ``[routes]`` and ``[plans.pro.ai]``, name it in
MM_METERING_CATALOGUE.
"""

from __future__ import annotations

from typing import Any

from mm_metering import catalogues

SEED: dict[str, Any] = catalogues.seed.to_dict()
GOVERNED = {"model_allowlist": ["gpt-4", "gpt-3.5-turbo"], "fallback_model": "gpt-3.5-turbo"}
PRO_AI = {"daily_budget": "50.00", "monthly_budget": "1500.00", **GOVERNED}

PLANS: dict[str, Any] = {
    **SEED,
    "plans": {**SEED["plans"], "pro": {**SEED["plans"]["pro"], "ai": PRO_AI}},
    "ai": {"prices": {"gpt-4": "0.00003", "gpt-3.5-turbo": "0.000002"}},  # what the provider takes for a token
    "routes": {
        "POST /v1/scenarios/bulk": {"api_calls": 500},  # prices 500 loans in one request, and costs what 500 would
        "GET /v1/invoice": {"api_calls": 0},  # looking at the bill is free
        "exempt": ["/healthz", "/as/{org}"],
    },
}
