"""The jobs that every worker brings along."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import KEEP_MONTHS, Ledger
from mm_metering.core.periods import micros
from mm_metering.worker.jobs import Job

log: Final = logging.getLogger("mm_metering.worker")

KEEP_RUNS: Final = timedelta(days=7)
KEEP_REPORTS: Final = timedelta(days=7)
KEEP_NOTICES: Final = timedelta(days=40)
"""Longer than any window: what was told in one must be known until it ends."""
"""A process reports each hour while it lives."""
MOST_RETIRED: Final = 1_000
"""Most transactions of one run; the next day's goes on."""


def upkeep(ledger: Ledger) -> tuple[Job, ...]:
    async def forget_runs(period: datetime, _fence: int) -> None:
        await ledger.forget_runs(before_us=micros(period - KEEP_RUNS))

    async def merge_reports(period: datetime, _fence: int) -> None:
        await ledger.merge_reports(before_us=micros(period - KEEP_REPORTS))

    async def forget_notices(period: datetime, _fence: int) -> None:
        await ledger.forget_notices(before_us=micros(period - KEEP_NOTICES))

    async def make_room(period: datetime, _fence: int) -> None:
        for name in await ledger.make_room(micros(period)):
            log.info("facts have room in %s", name)

    async def retire(period: datetime, _fence: int) -> None:
        for _ in range(MOST_RETIRED):
            gone = await ledger.retire(micros(period))
            for name in gone.tables:
                log.warning(
                    "facts older than %d months are in the detached table %s: archive or drop it", KEEP_MONTHS, name
                )
            if not gone.more:
                break

    return (
        Job("forget-runs", timedelta(hours=1), forget_runs),
        Job("merge-reports", timedelta(days=1), merge_reports),
        Job("forget-notices", timedelta(days=1), forget_notices),
        Job("make-room", timedelta(days=1), make_room),
        Job("retire", timedelta(days=1), retire),
    )
