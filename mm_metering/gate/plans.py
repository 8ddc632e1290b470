"""The plans that tenants were ever on, read from the ledger once: a version never changes."""

from __future__ import annotations

from mm_metering.backends.ledger import Ledger
from mm_metering.core.catalogue import Plan
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import TenantRow


class PlanBook:
    """Plans by (name, version)."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._plans: dict[tuple[str, int], Plan] = {}

    async def get(self, plan: str, version: int) -> Plan | None:
        """The plan of that version; None for a version that the ledger does not have."""
        if (plan, version) not in self._plans:
            stored = await self._ledger.plan_versions()
            self._plans = {key: Plan.from_definition(key[0], definition) for key, definition in stored.items()}
        return self._plans.get((plan, version))

    async def of(self, row: TenantRow) -> Terms:
        """The tenant with every plan of its timeline: what rating needs."""
        for segment in row.segments:
            await self.get(segment.plan, segment.version)
        return Terms(row, self._plans)
