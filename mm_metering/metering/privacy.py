"""Keys, and what is kept of tenants: all of it in a file, or forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from mm_metering.backends.privacy import Forgotten
from mm_metering.billing.invoices import Progress
from mm_metering.core.facts import Fact
from mm_metering.metering.house import House
from mm_metering.privacy import KeyUse, Rotated


class Keeping(House):
    """What is sealed, and what is personal."""

    async def list_keys(self) -> list[KeyUse]:
        """How many stored values each key has sealed: the newest first, those that are missing here last."""
        await self.startup()
        return await self._sealed.keys()

    async def rotate_keys(self, *, progress: Progress = lambda _: None) -> Rotated:
        """Seals anew under the newest ``secret_key`` what older ones have sealed; apps go on meanwhile, and it may be
        run again at any time. ``progress`` is told how many are done."""
        await self.startup()
        done = await self._sealed.rotate(progress)
        await self.ledger.add_audit([self.act().did("keys rotated", "", "secret_key", detail=f"{done.values} values")])
        return done

    async def export_tenant(self, tenant: str) -> AsyncIterator[Mapping[str, Any]]:
        """All that is kept of a tenant: one mapping for each thing, which its "kind" names, secrets left out."""
        await self.startup()
        async for each in self._tenant_data.export(tenant):
            yield each

    async def forget_tenant(self, tenant: str, *, reason: str) -> Forgotten:
        """Cancels a tenant for good and destroys what is personal of it; invoices, their usage and the audit log stay,
        under its id. ``reason`` stands in the audit log, and should name nobody. The provider's customer is deleted
        unless an invoice is on its way to be paid. It may be run again. See docs/privacy.md."""
        await self.startup()
        return await self._tenant_data.forget(tenant, reason)

    async def _adopt_and_flush(self, tenant: str) -> None:
        await self.gate.adopt()
        await self._flush_of(tenant)

    async def _end_holds(self, holds: Iterable[Fact]) -> None:
        await self.ai.holding.end(holds)

    async def _delete_customer(self, customer: str) -> None:
        if self.billing.has_adapter:
            await self.billing.delete_customer(customer)
