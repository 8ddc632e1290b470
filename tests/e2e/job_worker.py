"""A worker that only runs one job: ``python -m tests.e2e.job_worker LEDGER LOG NAME``. It says what it does in LOG, a
line each, as begun and ended; leases are short, so that a test of kills is."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime, timedelta

from mm_metering.backends.sql import open_ledger
from mm_metering.clock import SystemClock, micros_of
from mm_metering.worker import jobs

EVERY = timedelta(seconds=1)
TAKES_S = 0.3


async def main(url: str, path: str, name: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def work(period: datetime, fence: int) -> None:
        os.write(log, f"begun {period.timestamp():.0f} {fence} {name}\n".encode())
        await asyncio.sleep(TAKES_S)
        os.write(log, f"ended {period.timestamp():.0f} {fence} {name}\n".encode())

    ledger = open_ledger(url)
    job = jobs.Job("tick", EVERY, work, catch_up=1000)
    await jobs.Jobs(ledger, [job], worker=name, now_us=micros_of(SystemClock())).run()


if __name__ == "__main__":
    jobs.LOOK_S = 0.1  # type: ignore[misc]
    jobs.RUN_LEASE_S = 1.0  # type: ignore[misc]
    asyncio.run(main(*sys.argv[1:]))
