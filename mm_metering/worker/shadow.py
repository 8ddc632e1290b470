"""What a shadow plan would refuse, noticed once: an alert in the ledger, a line in the log, a count."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Set
from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.backends.work import SHADOW_BLOCKS
from mm_metering.billing.shadow import Mark, ShadowPlans
from mm_metering.core.periods import micros
from mm_metering.core.shadow_report import LimitShadow, TenantShadow
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import InvalidInput

log: Final = logging.getLogger("mm_metering.worker")

EVERY: Final = timedelta(minutes=5)
PACE_S: Final = 0.001
"""Between two tenants: a pass never keeps a core busy."""
MOST_MARKS: Final = 100_000
"""Of how many tenants it is remembered that nothing has changed; others are looked at again."""


class ShadowWatch:
    """The alert is what makes it once, over all workers and restarts: whoever opens it writes the line. ``blocks``
    counts by meter what this process wrote."""

    def __init__(self, ledger: Ledger, plans: ShadowPlans, *, now: Callable[[], datetime]) -> None:
        self.blocks: Counter[str] = Counter()
        self._ledger = ledger
        self._plans = plans
        self._now = now
        self._marks: OrderedDict[str, Mark] = OrderedDict()

    async def run(self, _period: datetime, _fence: int) -> None:
        """One look at every tenant whose usage, plans or day changed since this process saw it."""
        noticed = await self._noticed()
        left_out, first = 0, ""
        async for page in tenant_pages(self._ledger):
            for row in page:
                try:
                    await self._look(row, noticed)
                except InvalidInput as error:
                    left_out, first = left_out + 1, first or f"{row.id!r}: {error}"
                await asyncio.sleep(PACE_S)
        if left_out:
            log.warning("shadow: tenants left out: %d, the first is %s", left_out, first)

    async def _look(self, row: TenantRow, noticed: Set[str]) -> None:
        seen = await self._plans.look(row, self._now(), mark=self._marks.get(row.id))
        if seen is not None:
            for limit in seen.shadow.limits:
                subject = f"{self._plans.id}/{limit.meter}/{limit.window}/{row.id}"
                if limit.refused_then_month and subject not in noticed:
                    await self._notice(subject, seen.shadow, limit)
            self._remember(row.id, seen.mark)

    async def _notice(self, subject: str, tenant: TenantShadow, limit: LimitShadow) -> None:
        line = words(tenant, limit)
        if await self._ledger.raise_alert(SHADOW_BLOCKS, subject, detail=line, now_us=micros(self._now())):
            log.warning("shadow: %s", line, extra={"shadow": limit.model_dump() | {"tenant": tenant.tenant}})
            self.blocks[limit.meter] += 1

    def _remember(self, tenant: str, mark: Mark) -> None:
        self._marks[tenant] = mark
        self._marks.move_to_end(tenant)
        if len(self._marks) > MOST_MARKS:
            self._marks.popitem(last=False)

    async def _noticed(self) -> Set[str]:
        """The subjects of the open alerts. Those of other shadow plans are closed."""
        found, after = set[str](), (SHADOW_BLOCKS, "")
        while page := [each for each in await self._ledger.open_alerts(after=after) if each.kind == SHADOW_BLOCKS]:
            for alert in page:
                if alert.subject.startswith(f"{self._plans.id}/"):
                    found.add(alert.subject)
                else:
                    await self._ledger.close_alert(alert.kind, alert.subject, now_us=micros(self._now()))
            after = (SHADOW_BLOCKS, page[-1].subject)
        return found


def words(tenant: TenantShadow, limit: LimitShadow) -> str:
    """ "tenant='acme' plan=pro@1 meter=api_calls window=day limit_now=10000 limit_then=8000 used=9000 ..."."""
    said = {
        "tenant": repr(tenant.tenant),
        "plan": repr(tenant.plan),
        "meter": limit.meter,
        "window": limit.window,
        "limit_now": limit.limit_now,
        "limit_then": limit.limit_then,
        "used": limit.used,
        "refused_then_month": limit.refused_then_month,
        "since": limit.since and f"{limit.since:%Y-%m-%dT%H:%M:%SZ}",
    }
    return " ".join(f"{name}={'none' if value is None else value}" for name, value in said.items())
