"""A ledger in a file: what was counted is there after the process."""

import asyncio

from mm_metering import Metering


async def used() -> object:
    async with Metering(ledger="sqlite:///usage.db", worker="off", journal="off") as metering:
        await metering.record_api_call("acme", "/v1/reports")
        await metering.flush()
        return (await metering.check_limit("acme", "api_calls")).used


assert [asyncio.run(used()) for _ in range(2)] == [1, 2]
