"""The jobs that every worker brings along."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.core.periods import micros
from mm_metering.worker.jobs import Job

KEEP_RUNS: Final = timedelta(days=7)
KEEP_REPORTS: Final = timedelta(days=7)
"""A process reports each hour while it lives."""


def upkeep(ledger: Ledger) -> tuple[Job, ...]:
    async def forget_runs(period: datetime, _fence: int) -> None:
        await ledger.forget_runs(before_us=micros(period - KEEP_RUNS))

    async def merge_reports(period: datetime, _fence: int) -> None:
        await ledger.merge_reports(before_us=micros(period - KEEP_REPORTS))

    return (
        Job("forget-runs", timedelta(hours=1), forget_runs),
        Job("merge-reports", timedelta(days=1), merge_reports),
    )
