"""A server of this process's own."""

import asyncio

from mm_metering import Metering


async def used() -> object:
    async with Metering(counters="local://", worker="off", journal="off") as metering:
        await metering.record_api_call("acme", "/v1/reports")
        return (await metering.check_limit("acme", "api_calls")).used


assert asyncio.run(used()) == 1
