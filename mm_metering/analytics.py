"""What was used: daily snapshots and ranges, folded from the ledger's cells."""

from __future__ import annotations

from datetime import date

from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.facts import Fact
from mm_metering.core.identity import tenant_id
from mm_metering.core.periods import day_span, micros, parse_day, zone
from mm_metering.core.usage import UsageRange, UsageSnapshot, usage


class Analytics:
    """Reads; never writes."""

    def __init__(self, ledger: Ledger, *, catalogue: Catalogue, clock: Clock) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._clock = clock

    async def snapshot(self, tenant: str, day: date | str) -> UsageSnapshot:
        """One local day of a tenant; ``revision`` tells whether it changed since the last time."""
        wanted = parse_day(day, "day")
        return (await self.usage(tenant, wanted, wanted)).days[0]

    async def usage(self, tenant: str, start: date | str, end: date | str) -> UsageRange:
        """The local days from start to end, both included."""
        first, last, name = parse_day(start, "start"), parse_day(end, "end"), tenant_id(tenant)
        row = await self._ledger.tenant(name)
        timezone = row.timezone if row else self._catalogue.timezone
        return usage(
            name,
            first,
            last,
            await self._ledger.day_sums(name, first=first, last=last),
            carried=await self._ledger.level_values(name, before=first),
            moves=await self._moves(name, first, last, timezone),
            catalogue=self._catalogue,
            timezone=timezone,
            now=self._clock.now(),
        )

    async def _moves(self, tenant: str, first: date, last: date, timezone: str) -> list[Fact]:
        """What changed the tenant's levels in these days; nothing where the catalogue has none."""
        if all(meter.aggregation != "level" for meter in self._catalogue.meters.values()):
            return []
        tz = zone(timezone)
        start, end = micros(day_span(first, tz).start), micros(day_span(last, tz).end)
        return await self._ledger.level_facts(tenant, start_us=start, end_us=end)
