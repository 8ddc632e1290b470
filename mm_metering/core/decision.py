"""What a limit said."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict

Quantity: TypeAlias = int | Decimal
"""Units, or money for a money meter."""


class Decision(BaseModel):
    """One meter's answer; truthy when allowed.

    limit None means unlimited. Past a limit that charges, ``allowed`` is True, ``remaining`` 0 and ``overage`` what
    lies past it. ``reason`` is None or a code of the HTTP table: quota-exceeded, rate-limited, budget-exceeded,
    budget-busy, feature-not-in-plan, tenant-suspended, metering-unavailable. ``window_s`` is the length of the window:
    a day with a clock change has 23 or 25 hours. ``degraded``: allowed while the counters did not answer.
    ``reserved``: what calls that still run hold; ``fallback_model``: the plan's, which did not fit either;
    ``scope``: the part of AI cost whose budget it is, such as "user:u_7".
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    allowed: bool
    meter: str
    requested: Quantity
    limit: Quantity | None = None
    used: Quantity = 0
    remaining: Quantity | None = None
    resets_at: datetime | None = None
    reason: str | None = None
    retry_after_s: int | None = None
    plan: str | None = None
    overage: Quantity = 0
    window: str | None = None
    window_s: int | None = None
    degraded: bool = False
    reserved: Quantity = 0
    fallback_model: str | None = None
    scope: str | None = None

    def __bool__(self) -> bool:
        return self.allowed
