"""An app that does as it is told, a line each: "NUMBER" uses that many calls and says how many were allowed, "flush"
says what the ledger has, "stop" ends it cleanly. It only writes: usage waits in the stream."""

from __future__ import annotations

import asyncio
import logging
import sys

from mm_metering import Metering

USES = 1_000
PLANS = {
    "currency": "USD",
    "default_plan": "all",
    "meters": {"calls": {"event": "call"}},
    "plans": {"all": {"price": "0", "quotas": {"calls": {"limit": USES, "per": "month"}}}},
}


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    metering = Metering.from_env(catalogue=PLANS, worker="off")
    await metering.startup()
    print("ready", flush=True)
    while (order := (await asyncio.to_thread(sys.stdin.readline)).strip()) != "stop":
        if order == "flush":
            await metering.flush()
            print("flushed", flush=True)
        else:
            allowed = [await metering.enforce_quota("acme", "calls") for _ in range(int(order))]
            print(len(allowed), flush=True)
    await metering.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
