"""Usage out of the ledger, as the lines that a backfill reads: each fact with its id and what it counts in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any, Final

from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.core.facts import Fact
from mm_metering.core.identity import tenant_id
from mm_metering.core.money import from_nanos, plain
from mm_metering.core.periods import days_us, from_micros, parse_day
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.gate.keyring import Keyring

PAGE: Final = 5_000
COLUMNS: Final = (
    *("tenant", "kind", "id", "event_type", "resource", "quantity", "occurred_at", "cost"),
    *("success", "counts", "metadata"),
)
"""Of a line, in order."""


class Export:
    """Reads facts, page by page."""

    def __init__(self, ledger: Ledger, keyring: Keyring) -> None:
        self._ledger = ledger
        self._keyring = keyring

    async def lines(
        self, tenant: str | None, start: date | str | None, end: date | str | None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """By tenant, and in order of their instants. Holds and what was voided are no usage; a settled hold is."""
        first, last = (None if day is None else parse_day(day, name) for day, name in ((start, "start"), (end, "end")))
        if first and last and last < first:
            raise InvalidInput("end", f"{last} lies before {first}, the first day")
        async for row in self._rows(tenant):
            async for line in self._of(row, first, last):
                yield line

    async def _rows(self, tenant: str | None) -> AsyncIterator[TenantRow]:
        if tenant is None:
            async for page in tenant_pages(self._ledger):
                for row in page:
                    yield row
        elif (only := await self._ledger.tenant(tenant_id(tenant))) is not None:
            yield only
        else:
            raise UnknownTenant(f"tenant {tenant!r} is not known; `mm-metering tenants list` has those that are")

    async def _of(self, row: TenantRow, first: date | None, last: date | None) -> AsyncIterator[Mapping[str, Any]]:
        start_us = days_us(first, first, row.timezone)[0] if first else -(2**62)
        end_us = days_us(last, last, row.timezone)[1] if last else 2**62
        after = (start_us, "")
        while page := await self._ledger.facts(row.id, after=after, limit=PAGE):
            for fact in page:
                if fact.occurred_us >= end_us:
                    return
                if fact.kind != "hold":
                    yield line_of(await self._keyring.opened(fact))
            after = (page[-1].occurred_us, page[-1].id)


def line_of(fact: Fact) -> dict[str, Any]:
    """What is as it mostly is stays out: success, and what was not said."""
    line: dict[str, Any] = {
        "tenant": fact.tenant,
        "kind": "use" if fact.kind == "close" else fact.kind,
        "id": fact.id,
        "event_type": fact.event_type,
        "resource": fact.resource,
        "quantity": fact.quantity,
        "occurred_at": from_micros(fact.occurred_us).isoformat().replace("+00:00", "Z"),
        "counts": [list(count) for count in fact.counts],
    }
    if fact.cost_nanos is not None:
        line["cost"] = plain(from_nanos(fact.cost_nanos))
    if not fact.success:
        line["success"] = False
    if fact.metadata is not None:
        line["metadata"] = json.loads(fact.metadata)
    return line
