"""Tenants, and their subscriptions: plans, add-ons, states."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from mm_metering.billing.change_preview import ChangePreview
from mm_metering.billing.subscriptions import Anchor, At, PaymentState, Tenant
from mm_metering.core.money import Amount
from mm_metering.errors import InvalidInput
from mm_metering.metering.house import House


class Subscribing(House):
    """What a tenant is on."""

    async def put_tenant(
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
        """Inserts or changes a tenant; None leaves a value as it is. In force at the next request: a tenant that is
        known already, perhaps by its first request, is on another ``plan`` from now on whatever ``subscribed_at`` says.

        ``trial_days``, 0 to 730, of 24 hours from ``subscribed_at`` on: free of charge, and what charges past a limit
        blocks. Another ``timezone`` holds from now on; in the first day of a subscription, from its start.
        ``anchor``: the day on which the tenant's months begin, for quotas, fees and invoices alike: "calendar" (the
        1st), "anniversary" (that of the sign-up), or a day from 1 to 31, which is the last one in shorter months. It
        can be changed in the first month. "2024-01" is then the month that begins in January.
        """
        await self.startup()
        return await self._subscriptions.put(
            tenant,
            plan=plan,
            timezone=timezone,
            subscribed_at=subscribed_at,
            tax_rate=tax_rate,
            trial_days=trial_days,
            anchor=anchor,
        )

    async def get_tenant(self, tenant: str) -> Tenant | None:
        await self.startup()
        return await self._subscriptions.get(tenant)

    async def change_plan(self, tenant: str, plan: str, *, at: At = None) -> Tenant:
        """Moves a tenant to a plan at an instant, which belongs to the new plan: "now", "period_end", or one that may
        lie ahead or back, but not before the sign-up. None: what the catalogue's ``[changes]`` say, by default now, but
        at the period's end where the new plan's price is lower. Changes of plan that were planned for later end; of two
        at one instant the last holds. Add-ons go along where the new plan may have them, on the terms of now. It
        subscribes again who is canceled."""
        await self.startup()
        return await self._subscriptions.change_plan(tenant, plan, at=at)

    async def override_plan(self, tenant: str, changes: Mapping[str, Any], *, at: At = None) -> Tenant:
        """What a tenant has otherwise than its plan, now or from an instant on, in the form of a plan:
        ``{"price": "79.00", "quotas": {"api_calls": {"limit": 20_000, "per": "day"}}}``. A meter's limits are replaced
        together; None takes them away; what is not named stays, also what was overridden before. It ends with the next
        ``change_plan``; add-ons stay. CatalogueError for what a plans file may not say either."""
        await self.startup()
        return await self._subscriptions.override(tenant, changes, at=at)

    async def set_addon(self, tenant: str, addon: str, *, quantity: int, at: At = None) -> Tenant:
        """How many of an add-on a tenant has from an instant on; 0 takes it away. None: as for ``change_plan``, by
        default more of it now, and fewer at the period's end. Its limits are raised at the next request, its fee is
        split to the second. What is planned stays, and has it too where the plan may.

        CatalogueError for an add-on that is not sold, InvalidInput where the plan may not have it or not so many.
        """
        await self.startup()
        return await self._subscriptions.set_addon(tenant, addon, quantity=quantity, at=at)

    async def pause_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Pauses a subscription, now if no instant is named: each request is refused as ``tenant-suspended``, in every
        process, and no fee is due. What is recorded still counts. WrongState while a payment is due, or canceled."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "pause", at=at)

    async def resume_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Ends a pause, and undoes a pause or cancellation that is to come. It changes nothing for a tenant that has
        neither. WrongState for one that is canceled by then: ``change_plan`` subscribes it again."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "resume", at=at)

    async def cancel_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Ends a subscription now, at ``at="period_end"`` or at an instant: each request is refused as
        ``payment-required``, and no fee is due from then on."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "cancel", at=at)

    async def set_payment_state(self, tenant: str, state: PaymentState) -> Tenant:
        """Says how payment stands: past_due is served on; unpaid is refused as ``payment-required``, and no fee is due;
        paid makes it active again. WrongState for a tenant in trial, paused or canceled."""
        await self.startup()
        return await self._subscriptions.set_payment_state(tenant, state)

    async def preview_change(
        self,
        tenant: str,
        *,
        plan: str | None = None,
        event: Literal["pause", "resume", "cancel"] | None = None,
        at: At = None,
    ) -> ChangePreview:
        """What ``change_plan`` with that plan, or that event of the subscription, would come to at an instant: the
        month's invoice before and after, and the ``difference``. Nothing changes for the tenant. Raises what the change
        itself would.
        """
        if (plan is None) == (event is None):
            raise InvalidInput("plan", "or event must be named, and not both: what is to be previewed?")
        await self._flush_of(tenant)
        if plan is not None:
            _, change = await self._subscriptions.plan_change(tenant, plan, at)
        else:
            _, change = await self._subscriptions.state_change(tenant, event or "", at)
        return await self._invoices.preview_change(tenant, change)
