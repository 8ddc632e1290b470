"""Callers that keep what they were told, until it is held against what is billed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mm_metering import Metering, QuotaExceeded, StoreUnavailable
from mm_metering.gate.deadlines import Timing
from mm_metering.testing import assert_conserved

NOW: Final = "2024-01-15T12:00:00Z"
STATE, STREAM = "{mm:0}:m", "{mm:0}:ev"
PATIENT: Final = Timing(decision_s=2, load_s=5)
GIVE_UP_S: Final = 20.0
YES, DEGRADED, NO, UNAVAILABLE = "yes", "degraded", "no", "unavailable"

Open = Callable[..., Awaitable[Metering]]


class Told:
    """Asks for one unit at a time, and keeps what it was told."""

    def __init__(self, metering: Metering) -> None:
        self.metering = metering
        self.units: dict[str, Counter[str]] = {}

    async def take(self, tenant: str, meter: str = "soft") -> str:
        try:
            decision = await self.metering.enforce_quota(tenant, meter)
        except StoreUnavailable:
            return UNAVAILABLE
        except QuotaExceeded:
            return NO
        self.units.setdefault(tenant, Counter())[meter] += 1
        return DEGRADED if decision.degraded else YES

    async def take_all(self, tenants: Sequence[str], meter: str = "soft") -> Counter[str]:
        return Counter(await asyncio.gather(*(self.take(tenant, meter) for tenant in tenants)))

    async def until(self, answer: str, tenant: str, meter: str = "soft") -> None:
        """Takes until it is told that."""
        async with asyncio.timeout(GIVE_UP_S):
            while await self.take(tenant, meter) != answer:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.01)

    async def assert_billed(self) -> None:
        await assert_conserved(self.metering, told=self.units)
