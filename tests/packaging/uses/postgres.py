"""PostgreSQL: nothing is missing, only the server is."""

import asyncio

from mm_metering import Metering, StoreUnavailable


async def start() -> None:
    async with Metering(ledger="postgresql://nobody@127.0.0.1:1/none"):
        pass


try:
    asyncio.run(start())
except StoreUnavailable:
    pass
else:
    raise AssertionError("there is no server, and nothing was said")
