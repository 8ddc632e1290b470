"""A refused decision as the error of its kind."""

from __future__ import annotations

from collections.abc import Sequence
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


def raise_if_refused(decisions: Sequence[Decision], now: datetime) -> None:
    """Raises the error of the first decision's reason, with all of them; returns where it is allowed or there is none.

    An admission's decisions stand refused ones first.
    """
    first = next(iter(decisions), None)
    if first is not None and not first.allowed:
        kind = ERRORS.get(first.reason or "", Refused)
        raise kind(sentence(first, now), decision=first, decisions=tuple(decisions))
