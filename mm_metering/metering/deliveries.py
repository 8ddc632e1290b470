"""Deliveries of webhooks that go out: who may have them, and their meter."""

from __future__ import annotations

from mm_metering.backends.webhooks import Claimed
from mm_metering.core.events import UsageEvent
from mm_metering.gate.refusals import raise_if_refused
from mm_metering.metering.limits import Limiting
from mm_metering.metering.usage import WEBHOOK_DELIVERY


class Delivering(Limiting):
    """What ``Webhooks`` asks of the house."""

    async def _may_have_webhooks(self, tenant: str) -> None:
        """FeatureNotInPlan where the plan's limit of deliveries is 0."""
        for meter in self._delivery_meters():
            decision = await self.check_limit(tenant, meter)
            if decision.reason == "feature-not-in-plan":
                raise_if_refused((decision,), self.clock.now())

    async def _meter_delivery(self, each: Claimed) -> None:
        """Once, however often it is said."""
        if self._delivery_meters():
            name, place = each.delivery.id, each.endpoint.id
            tenant, type_ = each.delivery.tenant, WEBHOOK_DELIVERY
            await self._recorder.record(UsageEvent(tenant=tenant, event_type=type_, resource=place, id=name))

    def _delivery_meters(self) -> list[str]:
        return [meter.name for meter in self.catalogue.meters.values() if meter.event == WEBHOOK_DELIVERY]
