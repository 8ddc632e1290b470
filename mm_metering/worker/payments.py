"""The jobs of a worker that has a payment provider."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.billing.collection import BillingRun, Collector, Progress
from mm_metering.billing.hooks import Hooks
from mm_metering.billing.inbox import Inbox
from mm_metering.core.periods import micros
from mm_metering.worker.jobs import Job

log: Final = logging.getLogger("mm_metering.worker")

COLLECT: Final = "collect"
EVERY: Final = timedelta(seconds=10)
BACK_FILL_EVERY: Final = timedelta(hours=6)
BACK_FILL: Final = timedelta(days=3)
"""How far back it is asked for webhooks that did not come: as long as a provider sends them again."""
KEEP: Final = timedelta(days=30)


async def collect_now(
    collector: Collector, inbox: Inbox | None, hooks: Hooks, progress: Progress = lambda _: None
) -> BillingRun:
    """Follows webhooks, sends and has paid what is due, and calls hooks of what came of it."""
    if inbox is not None:
        await inbox.work()
    run = await collector.run(progress)
    await hooks.run()
    return run


def payment_jobs(collector: Collector, inbox: Inbox | None, hooks: Hooks, ledger: Ledger) -> tuple[Job, ...]:
    async def collect(_period: datetime, _fence: int) -> None:
        run = await collect_now(collector, inbox, hooks)
        if run.done:
            became = ", ".join(f"{count} {state}" for state, count in sorted(run.became.items()))
            log.info("payments: %d invoices: %s; %d unanswered", run.done, became or "none moved", run.unanswered)
        if run.stopped:
            log.error("payments stopped: %s", run.stopped)

    async def back_fill(period: datetime, _fence: int) -> None:
        if inbox is not None and (found := await inbox.back_fill(period - BACK_FILL)):
            log.warning("payments: %d webhooks had not come and were asked for", found)

    async def forget(period: datetime, _fence: int) -> None:
        await ledger.forget_hints(before_us=micros(period - KEEP))

    return (
        Job(COLLECT, EVERY, collect),
        Job("back-fill", BACK_FILL_EVERY, back_fill),
        Job("forget-payments", timedelta(days=1), forget),
    )
