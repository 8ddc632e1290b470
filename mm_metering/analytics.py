"""What was used: daily snapshots and ranges, folded from the ledger's cells."""

from __future__ import annotations

from datetime import date

from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.identity import tenant_id
from mm_metering.core.periods import parse_day
from mm_metering.core.usage import ResourceUse, UsageRange, UsageSnapshot, resource_uses, usage
from mm_metering.errors import InvalidInput


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

    async def by_resource(self, tenant: str, start: date | str, end: date | str) -> list[ResourceUse]:
        """The sums of those days by meter and resource, each meter's largest first."""
        first, last = parse_day(start, "start"), parse_day(end, "end")
        if last < first:
            raise InvalidInput("end", f"{last} lies before {first}, the first day")
        cells = await self._ledger.cells(tenant_id(tenant), first=first, last=last)
        return resource_uses(cells, self._catalogue)

    async def usage(self, tenant: str, start: date | str, end: date | str) -> UsageRange:
        """The local days from start to end, both included."""
        first, last, name = parse_day(start, "start"), parse_day(end, "end"), tenant_id(tenant)
        default = self._catalogue.timezone
        used = await self._ledger.used(name, first=first, last=last, timezone=default)
        return usage(
            name,
            first,
            last,
            used.sums,
            carried=used.carried,
            moves=used.moves,
            catalogue=self._catalogue,
            timezone=used.tenant.timezone if used.tenant else default,
            now=self._clock.now(),
        )
