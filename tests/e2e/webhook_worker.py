"""Workers that only send webhooks, one by one: ``python -m tests.e2e.webhook_worker COUNTERS LEDGER KEY PORT``.

For each line on stdin, a failpoint or nothing, a process is forked that has everything imported, says "ready PID" and
works until it is killed; then "ended". Retries come soon and leases are short, so that a test of kills is.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

from examples.mortgagematch.stage import end_with_parent
from mm_metering import Metering, failpoints
from mm_metering.backends.sql import open_ledger
from mm_metering.core import deliveries
from mm_metering.webhooks.exchange import exchange
from mm_metering.webhooks.guard import Rules

PAUSE = timedelta(milliseconds=50)
LEASE = timedelta(seconds=1)
IMPORTED = (open_ledger("sqlite:///nowhere.db"), exchange)


async def work(counters: str, ledger: str, key: str, port: str) -> None:
    rules = Rules(allow_http=True, ports=(int(port),), allow_networks=("127.0.0.0/8",))
    metering = Metering(counters=counters, ledger=ledger, secret_key=key, webhook_rules=rules, worker="off")
    async with metering:
        metering.webhooks.dispatcher.lease = LEASE
        print("ready", os.getpid(), flush=True)
        await metering.webhooks.dispatcher.run()


def main(places: list[str]) -> None:
    deliveries.SCHEDULE = tuple(min(each, PAUSE) for each in deliveries.SCHEDULE)  # type: ignore[misc]
    for line in iter(sys.stdin.readline, ""):
        if pid := os.fork():
            os.waitpid(pid, 0)
            print("ended", flush=True)
            continue
        end_with_parent()
        if point := line.strip():
            failpoints.reach = failpoints.armed(point)
        asyncio.run(work(*places))


if __name__ == "__main__":
    main(sys.argv[1:])
