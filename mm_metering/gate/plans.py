"""The plans that tenants were ever on, read from the ledger once: a version never changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from mm_metering.backends.ledger import Ledger
from mm_metering.core.audit import Act
from mm_metering.core.catalogue import Plan, Proration
from mm_metering.core.plan_changes import differences
from mm_metering.core.plan_words import headline, shortened
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.errors import NotApplied

log: Final = logging.getLogger("mm_metering")

STAY: Final = "tenants of an older one stay there until put_tenant or `mm-metering tenants set-plan` moves them"
DIFF_COMMAND: Final = "mm-metering plans diff FILE"
APPLY_COMMAND: Final = "mm-metering plans apply FILE"
SAID: Final = 3
"""How many of the plans that differ an error tells of."""


class PlanBook:
    """Plans by (name, version)."""

    def __init__(self, ledger: Ledger, *, proration: Proration = "second") -> None:
        self._ledger = ledger
        self._proration: Proration = proration
        self._plans: dict[tuple[str, int], Plan] = {}

    async def get(self, plan: str, version: int) -> Plan | None:
        """The plan of that version; None for a version that the ledger does not have."""
        if (plan, version) not in self._plans:
            await self.refresh()
        return self._plans.get((plan, version))

    @property
    def known(self) -> Mapping[tuple[str, int], Plan]:
        """The versions that were read so far."""
        return self._plans

    async def refresh(self) -> None:
        """Reads what is new."""
        for key, definition in (await self._ledger.plan_versions()).items():
            if key not in self._plans:
                self._plans[key] = Plan.from_definition(plan_name(key[0]), definition)

    async def put(self, plan: str, definition: Plan, *, now_us: int, act: Act | None = None) -> int:
        """The version under which the plan is stored, a new one unless it is the newest."""
        return (await self._ledger.put_plans({plan: definition.definition()}, now_us=now_us, act=act))[plan]

    async def apply(
        self, plans: Mapping[str, Plan], *, now_us: int, apply: bool, act: Act | None = None
    ) -> Mapping[str, int]:
        """The newest version of each plan. What differs from the ledger's becomes a new version, or is NotApplied."""
        definitions = {name: plan.definition() for name, plan in plans.items()}
        before = await self._ledger.plan_versions()
        if not apply:
            self._refuse_changes(plans, before)
        newest = await self._ledger.put_plans(definitions, now_us=now_us, act=act)
        for name, version in newest.items():
            if version > 1 and (name, version) not in before:
                log.warning("plan %s has changed: version %d is for whoever comes now; %s", name, version, STAY)
        return newest

    @staticmethod
    def _refuse_changes(plans: Mapping[str, Plan], versions: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        stored = {key: Plan.from_definition(plan_name(key[0]), definition) for key, definition in versions.items()}
        apart = [each for each in differences(stored, plans) if each.after is not None]
        if apart:
            said = [shortened(headline(each)) for each in apart[:SAID]]
            more = f" | and {len(apart) - SAID} more" if len(apart) > SAID else ""
            raise NotApplied(
                f"the plans differ from what the ledger has: {' | '.join(said)}{more}. `{DIFF_COMMAND}` shows all of "
                f"it, `{APPLY_COMMAND}` stores it"
            )

    async def of(self, row: TenantRow) -> Terms:
        """The tenant with every plan of its timeline: what rating needs."""
        for segment in row.segments:
            await self.get(segment.plan, segment.version)
        return self.terms(row)

    def terms(self, row: TenantRow) -> Terms:
        """The same with the plans that are known."""
        return Terms(row, self._plans, self._proration)
