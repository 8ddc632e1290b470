"""A process of callers, for tests of several: ``python -m tests.e2e.takers CALLERS``, with the stores in MM_METERING_*.

A line "TENANT METER TAKES" on stdin has its callers take that many units at once; the answer is a line of JSON on
stdout: how many were granted per window (its end), and how many were refused with what Retry-After at most.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

from mm_metering import Metering
from mm_metering.errors import QuotaExceeded
from mm_metering.gate.deadlines import Timing
from tests.e2e.callers import PLANS

PATIENT = Timing(decision_s=10, load_s=10)
"""No outage policy on a machine that is busy with other tests."""


async def taken(metering: Metering, callers: int, tenant: str, meter: str, takes: int) -> str:
    granted, refused, waits = Counter[str](), Counter[str](), [0]
    left = iter(range(takes))

    async def call() -> None:
        for _ in left:
            try:
                decision = await metering.enforce_quota(tenant, meter)
            except QuotaExceeded as error:
                refused[error.decision.reason or ""] += 1
                waits.append(error.decision.retry_after_s or 0)
            else:
                granted[str(decision.resets_at)] += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return json.dumps({"granted": granted, "refused": refused, "longest_wait_s": max(waits)})


async def main(callers: int) -> None:
    async with Metering.from_env(catalogue=PLANS, worker="inline", timing=PATIENT) as metering:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            tenant, meter, takes = line.split()
            print(await taken(metering, callers, tenant, meter, int(takes)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
