"""Alerts: what is told, to be tried, and muted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mm_metering.backends.collecting import Mute
from mm_metering.core.alerting import RULES
from mm_metering.core.collecting import Notice
from mm_metering.core.events import aware
from mm_metering.core.identity import tenant_id
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput
from mm_metering.metering.house import House, new_id


class Alerting(House):
    """What is told of usage and of the house."""

    async def check_alerts(self, tenant: str | None = None) -> list[Notice]:
        """What the worker does every two seconds: looks what the usage that was folded here came to, or that of one
        tenant, and tells what was not told yet. Hooks of it are called."""
        if tenant is None:
            await self.flush()
            return await self._alerts.once()
        await self._flush_of(tenant_id(tenant))
        return await self._alerts.look([tenant])

    async def list_alerts(self, *, tenant: str | None = None, limit: int = 1000) -> list[Notice]:
        """What was told in the last 40 days, the newest first: usage alerts, and those of the house."""
        await self.startup()
        return [each for each in await self.ledger.notices(tenant=tenant, limit=limit) if each.type in RULES]

    async def test_alert(self, tenant: str) -> Notice:
        """Tells an alert that means nothing, as any other is told. It is never muted by a rule of usage."""
        await self.startup()
        notice = Notice(new_id(), tenant_id(tenant), "alert.test", {"what": "a test"}, self.clock.now())
        await self._alerts.tell([notice])
        await self._hooks.run()
        return notice

    async def _told(self, notices: Sequence[Notice]) -> None:
        await self._alerts.tell(notices)

    async def mute_alerts(self, rule: str, *, tenant: str = "*", until: datetime | str) -> None:
        """Tells nothing by a rule ("quota", "worker.lag", "*" for each) of a tenant, or of all, until then.
        InvalidInput for a rule that there is not, and an instant without a zone."""
        known = (*sorted({*RULES.values()}), "*")
        if rule not in known:
            raise InvalidInput("rule", f"{rule[:60]!r} is no rule; known: {', '.join(known)}")
        await self.startup()
        mute = Mute(rule, tenant if tenant == "*" else tenant_id(tenant), micros(aware(until, "until")))
        await self.ledger.put_mute(mute, act=self.act())

    async def list_mutes(self) -> list[Mute]:
        """Those that hold now."""
        await self.startup()
        return await self.ledger.mutes(micros(self.clock.now()))
