"""Add-ons of tenants: which version of a plan a tenant is on for what it has, stored where it is new.

Owns: choosing and storing these versions. Does not own: what an add-on makes of a plan (``core.addons``), the timeline
(``subscriptions``), fees. A version that is stored and not used after all changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mm_metering.clock import Clock
from mm_metering.core.addons import carried, refusal, with_addon, without_addon
from mm_metering.core.audit import Act
from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.events import whole_quantity
from mm_metering.core.periods import micros
from mm_metering.core.rating import version_of
from mm_metering.core.tenancy import OVERRIDE, TenantRow, plan_name, with_change
from mm_metering.core.timeline import VersionChange
from mm_metering.errors import InvalidInput
from mm_metering.gate.plans import PlanBook

Version: TypeAlias = tuple[str, int]


class Addons:
    """What tenants have beside their plans."""

    def __init__(self, plans: PlanBook, *, catalogue: Catalogue, clock: Clock, act: Callable[[], Act]) -> None:
        self._plans = plans
        self._catalogue = catalogue
        self._clock = clock
        self._act = act

    async def change(self, row: TenantRow, addon: str, quantity: int, at_us: int) -> VersionChange:
        """So many of an add-on from an instant on: beside the plan that holds then, which must be one that may have it,
        and beside those planned for later that may."""
        whole_quantity(quantity, least=0)
        with_change(row, VersionChange(at_us, {}))  # before the sign-up there is nothing to change
        present = row.segment_at(at_us)
        plan = await self._plans.get(*version_of(present))
        if plan is None:
            raise InvalidInput("tenant", f"{row.id!r} is on no plan at that instant; change_plan puts it on one")
        changed = {version_of(present): self._with(plan, addon, quantity)}
        for segment in row.segments[row.segment_index(at_us) + 1 :]:
            later, key = await self._plans.get(*version_of(segment)), version_of(segment)
            if later is not None and key not in changed and self._may(later, addon, quantity):
                changed[key] = self._with(later, addon, quantity)
        return VersionChange(at_us, {key: await self._stored(key, each, row) for key, each in changed.items()})

    async def carried(self, row: TenantRow, newest: Version, at_us: int) -> Version:
        """The version for a move to another plan: with those of the add-ons that go along, else the newest one."""
        present = await self._plans.get(*version_of(row.segment_at(at_us)))
        if present is None or not present.addons:
            return newest
        plan = self._catalogue.plans[newest[0]]
        return await self._stored(newest, carried(plan, present.addons, self._catalogue.addons), row)

    def _may(self, plan: Plan, addon: str, quantity: int) -> bool:
        return not quantity or refusal(self._catalogue.addon(addon), plan) is None

    def _with(self, plan: Plan, addon: str, quantity: int) -> Plan:
        """What a tenant has may be taken away though it is not sold any more."""
        if not quantity and addon in plan.addons:
            return without_addon(plan, addon)
        return with_addon(plan, self._catalogue.addon(addon), quantity)

    async def _stored(self, before: Version, plan: Plan, row: TenantRow) -> Version:
        """The version that the plan is: what it was before if it is the same, or the catalogue's, or the tenant's."""
        await self._plans.refresh()
        if self._plans.known.get(before) == plan:
            return before
        own = f"{plan_name(before[0])}{OVERRIDE}{row.id}"
        for name in (plan.name, own):
            if same := [key for key, known in self._plans.known.items() if key[0] == name and known == plan]:
                return max(same)
        return own, await self._plans.put(own, plan, now_us=micros(self._clock.now()), act=self._act())
