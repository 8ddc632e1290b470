"""The catalogue of tests that kill and crowd AI calls: one model at one price, and a budget."""

from typing import Any, Final

MODEL: Final = "gpt-4"
TOKEN_NANOS: Final = 30_000


def ai_plans(monthly_budget: str) -> dict[str, Any]:
    return {
        "currency": "USD",
        "timezone": "UTC",
        "default_plan": "pro",
        "meters": {
            "ai_requests": {"event": "ai_call"},
            "ai_tokens": {"event": "ai_token"},
            "ai_cost": {"event": "ai_call", "unit": "money"},
        },
        "ai": {"prices": {MODEL: "0.00003"}},
        "plans": {"pro": {"price": "0", "ai": {"monthly_budget": monthly_budget}}},
    }
