"""Tenants and their plans over time. A change is in force at the next request, in every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.catalogue_layout import overridden
from mm_metering.core.events import aware
from mm_metering.core.identity import tenant_id
from mm_metering.core.money import Amount, non_negative
from mm_metering.core.periods import from_micros, micros, zone
from mm_metering.core.tenancy import OVERRIDE, NewTenant, TenantDefaults, TenantRow, plan_name
from mm_metering.errors import InvalidInput, InvalidMoney, UnknownTenant
from mm_metering.gate.gate import Gate
from mm_metering.gate.plans import PlanBook


class Tenant(BaseModel):
    """A tenant as it stands now. ``subscribed_at`` is where its first base fee begins."""

    model_config = ConfigDict(frozen=True)

    id: str
    plan: str
    timezone: str
    subscribed_at: datetime
    status: str
    tax_rate: Decimal | None = None


class Subscriptions:
    """Writes the ledger first, then tells the counters."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        *,
        catalogue: Catalogue,
        plans: PlanBook,
        clock: Clock,
        defaults: Callable[[], TenantDefaults],
        versions: Callable[[], dict[str, int]],
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._catalogue = catalogue
        self._plans = plans
        self._clock = clock
        self._defaults = defaults
        self._versions = versions

    async def put(
        self,
        tenant: str,
        *,
        plan: str | None = None,
        timezone: str | None = None,
        subscribed_at: datetime | str | None = None,
        tax_rate: Amount | None = None,
    ) -> Tenant:
        """Inserts or changes a tenant. What is None stays as it is; a new tenant gets the catalogue's defaults."""
        name = None if plan is None else self._catalogue.plan(plan).name
        new = NewTenant(
            id=tenant_id(tenant),
            plan=name,
            version=None if name is None else self._versions()[name],
            timezone=None if timezone is None else zone(timezone).key,
            subscribed_us=None if subscribed_at is None else micros(aware(subscribed_at, "subscribed_at")),
            tax_rate=None if tax_rate is None else _rate(tax_rate),
        )
        before = await self._ledger.tenant(new.id)
        if before is None and name is None and not self._defaults().plan:
            raise UnknownTenant("plan: the catalogue has no default_plan, so a new tenant needs one")
        return await self._write(before, new)

    async def get(self, tenant: str) -> Tenant | None:
        row = await self._ledger.tenant(tenant_id(tenant))
        return None if row is None else self._shown(row)

    async def change_plan(self, tenant: str, plan: str, *, at: datetime | str | None = None) -> Tenant:
        """Moves a tenant to the newest version of a plan, now or at an instant; later changes are dropped."""
        name = self._catalogue.plan(plan).name
        at_us = self._now_us() if at is None else micros(aware(at, "at"))
        before = await self._ledger.tenant(tenant_id(tenant))
        after = await self._ledger.change_plan(tenant, plan=name, version=self._versions()[name], at_us=at_us)
        await self._announce(before, after)
        return self._shown(after)

    async def override(self, tenant: str, changes: Mapping[str, Any], *, at: datetime | str | None) -> Tenant:
        """The tenant's plan from an instant on, with changes that it alone has."""
        name, at_us = tenant_id(tenant), self._now_us() if at is None else micros(aware(at, "at"))
        before = await self._ledger.tenant(name)
        if before is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        plan = await self._plan(before, at_us)
        if plan is None:
            raise InvalidInput("tenant", f"{tenant!r} is on no plan at that instant; change_plan puts it on one")
        own = f"{plan.name}{OVERRIDE}{name}"
        changed = overridden(plan, changes, meters=self._catalogue.meters)
        version = await self._plans.put(own, changed, now_us=self._now_us())
        after = await self._ledger.change_plan(name, plan=own, version=version, at_us=at_us)
        await self._announce(before, after)
        return self._shown(after)

    async def set_status(self, tenant: str, status: str) -> Tenant:
        """UnknownTenant if there is none."""
        before = await self._ledger.tenant(tenant_id(tenant))
        if before is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        return await self._write(before, NewTenant(before.id, status=status))

    async def _write(self, before: TenantRow | None, new: NewTenant) -> Tenant:
        after = await self._ledger.put_tenant(new, defaults=self._defaults(), now_us=self._now_us())
        if after != before:
            await self._announce(before, after)
        return self._shown(after)

    async def _announce(self, before: TenantRow | None, after: TenantRow) -> None:
        """The counters keep what they have where neither zone nor windows nor caps changed."""
        now_us = self._now_us()
        keep = False
        if before is not None and before.timezone == after.timezone:
            old, new = await self._plan(before, now_us), await self._plan(after, now_us)
            keep = _windows(old) == _windows(new) and before.subscribed_us == after.subscribed_us
        await self._gate.changed(after, keep=keep)

    async def _plan(self, row: TenantRow, now_us: int) -> Plan | None:
        _, plan, version = row.segment_at(now_us)
        return await self._plans.get(plan, version)

    def _shown(self, row: TenantRow) -> Tenant:
        rate = None if row.tax_rate is None else Decimal(row.tax_rate)
        plan = plan_name(row.segment_at(self._now_us()).plan)
        return Tenant(
            id=row.id,
            plan=plan,
            timezone=row.timezone,
            subscribed_at=from_micros(row.subscribed_us),
            status=row.status,
            tax_rate=rate,
        )

    def _now_us(self) -> int:
        return micros(self._clock.now())


def _windows(plan: Plan | None) -> object:
    """What the counters of a plan consist of; a cap makes it unlike any other, since money was counted under it."""
    if plan is None:
        return object()
    limits = [limit for limits in plan.quotas.values() for limit in limits]
    if any(limit.cap is not None for limit in limits):
        return object()
    return {(limit.meter, limit.window) for limit in limits}, plan.ai is None


def _rate(value: Amount) -> str:
    rate = non_negative(value, "tax_rate")
    if rate > 1:
        raise InvalidMoney("tax_rate", f"{rate} is more than 1; write 19 % as 0.19")
    return format(rate, "f")
