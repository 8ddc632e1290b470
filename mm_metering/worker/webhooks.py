"""The job that forgets webhooks that went out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.core.periods import micros
from mm_metering.worker.jobs import Job

KEEP: Final = timedelta(days=30)
"""What happened before that can be sent again no more."""


def webhook_jobs(ledger: Ledger) -> tuple[Job, ...]:
    async def forget(period: datetime, _fence: int) -> None:
        await ledger.forget_deliveries(before_us=micros(period - KEEP))

    return (Job("forget-webhooks", timedelta(days=1), forget),)
