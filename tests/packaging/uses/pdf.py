"""An invoice as PDF."""

import asyncio

from mm_metering import FrozenClock, Metering


async def paper() -> bytes:
    clock = FrozenClock("2024-01-01T00:00:00Z")
    async with Metering(clock=clock, worker="off") as metering:
        await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        clock.set("2024-02-03T00:00:00Z")
        (invoice,) = await metering.close_period("2024-01")
        return await metering.invoice_document(invoice.id, "pdf")


assert asyncio.run(paper()).startswith(b"%PDF")
