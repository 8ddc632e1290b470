"""Tenants and their plans over time. A change is in force at the next request, in every process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from mm_metering.backends.ledger import Ledger
from mm_metering.billing.addons import Addons, Version
from mm_metering.clock import Clock
from mm_metering.core.audit import Act
from mm_metering.core.cards import refuse_card
from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.catalogue_layout import check_currency, overridden
from mm_metering.core.events import aware, whole_quantity
from mm_metering.core.identity import tenant_id
from mm_metering.core.lifecycles import FREE_STATES, PAYMENT_EVENTS
from mm_metering.core.money import Amount, non_negative
from mm_metering.core.periods import Window, from_micros, local_day, micros, window_span, zone
from mm_metering.core.reporting import refuse_other_prices
from mm_metering.core.tenancy import OVERRIDE, NewTenant, TenantDefaults, TenantRow, plan_name
from mm_metering.core.timeline import Change, PlanChange, StateChange
from mm_metering.core.zones import zone_name
from mm_metering.errors import ChangedMeanwhile, InvalidInput, InvalidMoney, UnknownTenant
from mm_metering.gate.gate import Gate
from mm_metering.gate.plans import PlanBook

At: TypeAlias = datetime | str | None
"""An aware instant, ISO text, "now" or "period_end"; None where something else says when."""

PaymentState: TypeAlias = Literal["paid", "past_due", "unpaid"]
Anchor: TypeAlias = Literal["calendar", "anniversary"] | int
"""On which day months begin: the 1st, that of the sign-up, or a day of the month from 1 to 31."""
CALENDAR: Final = "calendar"
ANNIVERSARY: Final = "anniversary"
LAST_DAY: Final = 31
NOW: Final = "now"
PERIOD_END: Final = "period_end"
DAY_US: Final = 86_400_000_000
MAX_TRIAL_DAYS: Final = 730
MOST_TRIES: Final = 10
"""How often a change is decided anew; of those that change a tenant at once, one gets through each time."""


class Planned(BaseModel):
    """What holds for a tenant from a later instant on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    at: datetime
    plan: str
    status: str


class Tenant(BaseModel):
    """A tenant as it stands now. ``subscribed_at`` is where its first base fee begins; ``status`` one of trial, active,
    past_due, unpaid, paused, canceled; its months begin on the day ``anchor_day``; ``planned`` is what is to come, in
    order; ``addons`` says how many it has of each."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    id: str
    plan: str
    timezone: str
    subscribed_at: datetime
    status: str
    tax_rate: Decimal | None = None
    trial_ends_at: datetime | None = None
    anchor_day: int = 1
    planned: tuple[Planned, ...] = ()
    addons: Mapping[str, int] = {}


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
        act: Callable[[], Act],
        own_prices: bool = True,
    ) -> None:
        """``own_prices`` False: no tenant may have prices of its own."""
        self._gate = gate
        self._ledger = ledger
        self._catalogue = catalogue
        self._plans = plans
        self._clock = clock
        self._defaults = defaults
        self._versions = versions
        self._act = act
        self._own_prices = own_prices
        self._addons = Addons(plans, catalogue=catalogue, clock=clock, act=act)

    async def put(
        self,
        tenant: str,
        *,
        plan: str | None = None,
        timezone: str | None = None,
        subscribed_at: datetime | str | None = None,
        tax_rate: Amount | None = None,
        trial_days: int | None = None,
        anchor: Anchor | None = None,
    ) -> Tenant:
        """Inserts or changes a tenant. What is None stays as it is; a new tenant gets the catalogue's defaults."""
        name = None if plan is None else self._catalogue.plan(plan).name
        before = await self._ledger.tenant(tenant_id(tenant))
        new = NewTenant(
            id=tenant_id(tenant),
            plan=name,
            version=None if name is None else self._versions()[name],
            timezone=None if timezone is None else _iana(timezone),
            subscribed_us=None if subscribed_at is None else micros(aware(subscribed_at, "subscribed_at")),
            tax_rate=None if tax_rate is None else _rate(tax_rate),
            trial_us=None if trial_days is None else _days(trial_days) * DAY_US,
        )
        if anchor is not None:
            new = replace(new, anchor_day=self._anchor_day(anchor, new, before))
        if before is None and name is None and not self._defaults().plan:
            raise UnknownTenant("plan: the catalogue has no default_plan, so a new tenant needs one")
        if before is None or name is None:
            return await self._write(before, new)
        return await self._anew(lambda: self._put_on(new, (name, self._versions()[name])))

    async def _put_on(self, new: NewTenant, newest: Version) -> Tenant:
        """A known tenant, with a plan named: add-ons go along to another one."""
        before = await self._row(new.id)
        if newest[0] != plan_name(before.segment_at(self._now_us()).plan):
            own, version = await self._addons.carried(before, newest, self._now_us())
            new = replace(new, plan=own, version=version, of_revision=before.revision)
        return await self._write(before, new)

    def _anchor_day(self, anchor: Anchor, new: NewTenant, before: TenantRow | None) -> int:
        if anchor == CALENDAR:
            return 1
        if anchor == ANNIVERSARY:
            known = (before.subscribed_us, before.timezone) if before else (self._now_us(), self._defaults().timezone)
            signed_up_us = known[0] if new.subscribed_us is None else new.subscribed_us
            return local_day(from_micros(signed_up_us), zone(new.timezone or known[1])).day
        if type(anchor) is not int or not 1 <= anchor <= LAST_DAY:
            raise InvalidInput(
                "anchor", f"{str(anchor)[:40]!r} is not calendar, anniversary or a day from 1 to {LAST_DAY}"
            )
        return anchor

    async def get(self, tenant: str) -> Tenant | None:
        row = await self._ledger.tenant(tenant_id(tenant))
        return None if row is None else await self._shown(row)

    async def revision(self, tenant: str) -> int:
        """It rises with each change."""
        return (await self._row(tenant)).revision

    async def change_plan(self, tenant: str, plan: str, *, at: At = None) -> Tenant:
        """Moves a tenant to the newest version of a plan; changes of plan that were planned for later are dropped."""
        return await self._decided(lambda: self.plan_change(tenant, plan, at))

    async def happen(self, tenant: str, event: str, *, at: At = None) -> Tenant:
        """What ``lifecycles.SUBSCRIPTION`` allows: "pause", "resume", "cancel"."""
        return await self._change(*await self.state_change(tenant, event, at))

    async def set_payment_state(self, tenant: str, state: PaymentState) -> Tenant:
        if state not in PAYMENT_EVENTS:
            raise InvalidInput("state", f"{str(state)[:40]!r} is not one of {', '.join(PAYMENT_EVENTS)}")
        return await self.happen(tenant, PAYMENT_EVENTS[state])

    async def state_change(self, tenant: str, event: str, at: At) -> tuple[TenantRow, Change]:
        """The tenant, and what ``happen`` does to it."""
        row = await self._row(tenant)
        return row, StateChange(self._at_us(row, at), event)

    async def plan_change(self, tenant: str, plan: str, at: At) -> tuple[TenantRow, Change]:
        """The tenant, and what ``change_plan`` does to it. Without an instant the catalogue's ``[changes]`` say when it
        holds."""
        row, new = await self._row(tenant), self._catalogue.plan(plan)
        if at is None:
            old = await self._plan(row, self._now_us())
            at = self._usual(row, is_lower=old is not None and new.price < old.price)
        at_us = self._at_us(row, at)
        version = await self._addons.carried(row, (new.name, self._versions()[new.name]), at_us)
        return row, PlanChange(at_us, *version)

    def _usual(self, row: TenantRow, *, is_lower: bool) -> At:
        """When a change holds that names no instant. Who pays nothing has nothing to keep until the period's end."""
        pays = row.segment_at(self._now_us()).status not in FREE_STATES
        return self._catalogue.changes.downgrade if is_lower and pays else self._catalogue.changes.upgrade

    async def _decided(self, decide: Callable[[], Awaitable[tuple[TenantRow, Change]]]) -> Tenant:
        """A change that depends on the plan that the tenant has: decided anew where another came in between."""

        async def attempt() -> Tenant:
            row, change = await decide()
            return await self._change(row, replace(change, of_revision=row.revision))

        return await self._anew(attempt)

    async def _anew(self, attempt: Callable[[], Awaitable[Tenant]]) -> Tenant:
        """ChangedMeanwhile where others came in between each time."""
        for _ in range(MOST_TRIES - 1):
            with suppress(ChangedMeanwhile):
                return await attempt()
        return await attempt()

    async def _change(self, before: TenantRow, change: Change) -> Tenant:
        after = await self._ledger.change_subscription(before.id, change, now_us=self._now_us(), act=self._act())
        if after != before:
            await self._announce(before, after)
        return await self._shown(after)

    def _at_us(self, row: TenantRow, at: At) -> int:
        if at is None or at == NOW:
            return self._now_us()
        if at == PERIOD_END:
            return micros(window_span(Window.MONTH, self._clock.now(), zone(row.timezone), row.anchor_day).end)
        return micros(aware(at, "at"))

    async def _row(self, tenant: str) -> TenantRow:
        row = await self._ledger.tenant(tenant_id(tenant))
        if row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        return row

    async def override(self, tenant: str, changes: Mapping[str, Any], *, at: At) -> Tenant:
        """The tenant's plan from an instant on, with changes that it alone has."""
        return await self._decided(lambda: self._override_change(tenant, changes, at))

    async def _override_change(self, tenant: str, changes: Mapping[str, Any], at: At) -> tuple[TenantRow, Change]:
        before = await self._row(tenant)
        at_us = self._at_us(before, at)
        plan = await self._plan(before, at_us)
        if plan is None:
            raise InvalidInput("tenant", f"{tenant!r} is on no plan at that instant; change_plan puts it on one")
        own = f"{plan.name}{OVERRIDE}{before.id}"
        changed = overridden(plan, changes, meters=self._catalogue.meters)
        check_currency(changed, self._catalogue.currency, self._catalogue.ai_currency)
        refuse_card(str(changed.definition()), "changes")
        if not self._own_prices:
            refuse_other_prices(plan, changed)
        version = await self._plans.put(own, changed, now_us=self._now_us(), act=self._act())
        return before, PlanChange(at_us, own, version)

    async def set_addon(self, tenant: str, addon: str, *, quantity: int, at: At) -> Tenant:
        """So many of an add-on beside the tenant's plan from an instant on; what is planned stays."""
        return await self._decided(lambda: self._addon_change(tenant, addon, quantity, at))

    async def _addon_change(self, tenant: str, addon: str, quantity: int, at: At) -> tuple[TenantRow, Change]:
        row = await self._row(tenant)
        if at is None:
            plan = await self._plan(row, self._now_us())
            held = plan.addons.get(addon) if plan else None
            at = self._usual(row, is_lower=held is not None and whole_quantity(quantity, least=0) < held.quantity)
        return row, await self._addons.change(row, addon, quantity, self._at_us(row, at))

    async def _write(self, before: TenantRow | None, new: NewTenant) -> Tenant:
        now_us, act = self._now_us(), self._act()
        after = await self._ledger.put_tenant(new, defaults=self._defaults(), now_us=now_us, act=act)
        if after != before:
            await self._announce(before, after)
        return await self._shown(after)

    async def _announce(self, before: TenantRow | None, after: TenantRow) -> None:
        """The counters keep what they have where neither days and months nor windows nor caps changed."""
        now_us = self._now_us()
        keep = False
        if before is not None and _calendar(before) == _calendar(after):
            keep = _windows(await self._plan(before, now_us)) == _windows(await self._plan(after, now_us))
        await self._gate.changed(after, keep=keep)

    async def _plan(self, row: TenantRow, now_us: int) -> Plan | None:
        segment = row.segment_at(now_us)
        return await self._plans.get(segment.plan, segment.version)

    async def _shown(self, row: TenantRow) -> Tenant:
        plan = await self._plan(row, self._now_us())
        number = row.segment_index(self._now_us())
        segment, later = row.segments[number], row.segments[number + 1 :]
        return Tenant(
            id=row.id,
            plan=plan_name(segment.plan),
            timezone=zone_name(row.timezone),
            subscribed_at=from_micros(row.subscribed_us),
            status=segment.status,
            tax_rate=None if row.tax_rate is None else Decimal(row.tax_rate),
            trial_ends_at=from_micros(row.trial_ends_us) if row.trial_us else None,
            anchor_day=row.anchor_day,
            planned=tuple(
                Planned(at=from_micros(each.starts_us), plan=plan_name(each.plan), status=each.status) for each in later
            ),
            addons={name: held.quantity for name, held in plan.addons.items()} if plan else {},
        )

    def _now_us(self) -> int:
        return micros(self._clock.now())


def _calendar(row: TenantRow) -> object:
    return row.timezone, row.anchor_day, row.subscribed_us


def _windows(plan: Plan | None) -> object:
    """What the counters of a plan consist of; a cap makes it unlike any other, since money was counted under it."""
    if plan is None:
        return object()
    limits = [limit for limits in plan.quotas.values() for limit in limits]
    if any(limit.cap is not None for limit in limits):
        return object()
    return {(limit.meter, limit.window) for limit in limits}, plan.ai is None


def _iana(timezone: str) -> str:
    zone(timezone)
    if zone_name(timezone) != timezone:
        raise InvalidInput("timezone", f"{timezone[:60]!r} is not an IANA time zone such as Europe/Berlin")
    return timezone


def _days(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TRIAL_DAYS:
        raise InvalidInput("trial_days", f"{str(value)[:40]!r} is not a whole number from 0 to {MAX_TRIAL_DAYS}")
    return value


def _rate(value: Amount) -> str:
    rate = non_negative(value, "tax_rate")
    if rate > 1:
        raise InvalidMoney("tax_rate", f"{rate} is more than 1; write 19 % as 0.19")
    return format(rate, "f")
