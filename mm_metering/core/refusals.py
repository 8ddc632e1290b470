"""A refusal in one sentence: what happened, the number, the way out."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

from mm_metering.core.decision import Decision, Quantity

BUSY_RETRY_S: Final = 1
_WITHOUT_NUMBERS: Final = {
    "model-not-allowed": "this model is not on the tenant's list; use one that is, or have it added",
    "model-unpriced": "this model has no price, so it cannot run under a budget; add one under [ai.prices]",
    "payment-required": "a bill is unpaid; pay it, then try again",
    "tenant-suspended": "this account is suspended; ask whoever runs this service",
}
_WHEN: Final = {"day": " today", "month": " this month", "minute": " this minute", "second": " this second"}


def sentence(decision: Decision, now: datetime) -> str:
    """For people: "reports: 50 of 50 used this month; resets in 9 days, or move to a larger plan"."""
    of = f" of {decision.scope}" if decision.scope else ""
    meter, needs = f"{decision.meter}{of}", f", and this needs {_text(decision.requested)}"
    match decision.reason:
        case "quota-exceeded":
            way = f"resets in {span(wait_s(decision, now))}" if decision.resets_at else "give some back"
            return f"{meter}: {_used(decision)}{needs if decision.remaining else ''}; {way}, or move to a larger plan"
        case "rate-limited":
            return f"{meter}: {_used(decision)}; try again in {span(wait_s(decision, now))}"
        case "budget-exceeded":
            wait = f", or wait {span(until_s(decision.resets_at, now))}" if decision.resets_at else ""
            return f"{meter}: {_used(decision)}{needs}; raise the budget{wait}"
        case "budget-busy":
            return f"{meter}: calls that still run hold the rest of the budget; try again in {span(BUSY_RETRY_S)}"
        case "feature-not-in-plan":
            plan = f"the plan {decision.plan}" if decision.plan else "this plan"
            return f"{meter}: not part of {plan}; move to a plan that has it"
        case reason:
            return f"{meter}: {_WITHOUT_NUMBERS.get(reason or '', reason or 'refused')}"


def standing(decision: Decision, now: datetime) -> str:
    """Why a limit has room: "api_calls: 12 of 10,000 used today, and this needs 1; resets in 9 hours"."""
    of = f" of {decision.scope}" if decision.scope else ""
    held = f", {_text(decision.reserved)} held by calls that still run" if decision.reserved else ""
    past = ", charged past it" if decision.overage else ""
    resets = f"; resets in {span(max(1, until_s(decision.resets_at, now)))}" if decision.resets_at else ""
    return f"{decision.meter}{of}: {_used(decision)}{held}, and this needs {_text(decision.requested)}{past}{resets}"


def wait_s(decision: Decision, now: datetime) -> int:
    """Seconds until asking again makes sense, rounded up; at least 1."""
    known = decision.retry_after_s
    return max(1, until_s(decision.resets_at, now) if known is None else known)


def until_s(moment: datetime | None, now: datetime) -> int:
    """Whole seconds until an instant, rounded up; 0 for none or one that is past."""
    return 0 if moment is None else max(0, -int((now - moment).total_seconds() // 1))


def span(seconds: int) -> str:
    """A stretch of time, rounded up to the unit that leaves at least two."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{-(-seconds // size)} {unit}"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def _used(decision: Decision) -> str:
    limit = "an unlimited amount" if decision.limit is None else _text(decision.limit)
    return f"{_text(decision.used)} of {limit} used{_WHEN.get(decision.window or '', '')}"


def _text(amount: Quantity) -> str:
    return f"{amount:,f}" if isinstance(amount, Decimal) else f"{amount:,}"
