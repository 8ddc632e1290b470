"""A refused decision as the error of its kind."""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Final

from mm_metering.core.decision import Decision
from mm_metering.core.refusals import sentence
from mm_metering.errors import BudgetExceeded, FeatureNotInPlan, ModelNotAllowed, QuotaExceeded, Refused

ERRORS: Final = MappingProxyType(
    {
        "quota-exceeded": QuotaExceeded,
        "rate-limited": QuotaExceeded,
        "budget-exceeded": BudgetExceeded,
        "budget-busy": BudgetExceeded,
        "feature-not-in-plan": FeatureNotInPlan,
        "model-not-allowed": ModelNotAllowed,
        "model-unpriced": ModelNotAllowed,
    }
)


def raise_if_refused(decision: Decision, now: datetime) -> None:
    """Raises the error of the decision's reason; returns for an allowed one."""
    if not decision.allowed:
        raise ERRORS.get(decision.reason or "", Refused)(sentence(decision, now), decision=decision)
