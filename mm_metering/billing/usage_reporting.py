"""Tells a payment provider what each tenant used past its allowances: each unit once, whatever ends a process when.

What is told is written first (``Intent``), then told under its identifier, then marked as sent. One that is not marked
is told again under the same identifier before anything new of its tenant, month and meter is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Set
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.backends.work import USAGE_REPORT, Alert
from mm_metering.billing.reporter import UsageReporter
from mm_metering.clock import Clock
from mm_metering.core.books import Account, usage_months
from mm_metering.core.periods import from_micros, local_day, micros, period_of
from mm_metering.core.rating import Terms, rate
from mm_metering.core.reporting import IDENTIFIER_KNOWN, Intent, ReportState, billed_units, next_intent
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import (
    BillingError,
    InvalidInput,
    InvalidRequest,
    ProviderRefused,
)
from mm_metering.gate.plans import PlanBook

log: Final = logging.getLogger("mm_metering.billing")

EVERY: Final = timedelta(minutes=10)
"""How often the worker reports: several times before a provider finalizes a month."""
PACE_S: Final = 0.001
"""Between two tenants: a run never keeps a core busy."""
MOST_FAILURES: Final = 3
"""In a row; after that many the provider is left alone until the next run."""
MINUTE: Final = timedelta(minutes=1)


class UsageReporting:
    """``run`` may be called by several processes at once: of two who would tell the same, one does."""

    def __init__(
        self,
        reporter: UsageReporter,
        ledger: Ledger,
        *,
        plans: PlanBook,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._reporter = reporter
        self._ledger = ledger
        self._plans = plans
        self._clock = clock
        self._new_id = new_id

    async def run(self, *, parked: bool = False) -> int:
        """How many reports were sent. ``parked``: those that were refused are tried again, too. Raises the provider's
        last error if it does not answer; the next run goes on."""
        since = from_micros(await self._ledger.reports_since(now_us=micros(self._clock.now())))
        run = _Run({each.subject async for each in self._alerts()})
        if parked:
            async for intent in self._open("parked"):
                await self._send(await self._payable(intent), run)
        async for intent in self._open("unsent"):
            await self._send(intent, run)
        async for page in tenant_pages(self._ledger):
            for row in page:
                if run.is_over:
                    break
                if customer := await self._ledger.payer(row.id):
                    await self._report(row, customer, since, run)
                await asyncio.sleep(PACE_S)
        if run.error is not None:
            raise run.error
        return run.sent

    async def _alerts(self) -> AsyncIterator[Alert]:
        after = (USAGE_REPORT, "")
        while page := [each for each in await self._ledger.open_alerts(after=after) if each.kind == USAGE_REPORT]:
            for alert in page:
                yield alert
            after = (USAGE_REPORT, page[-1].subject)

    async def _open(self, state: ReportState) -> AsyncIterator[Intent]:
        after = ("", "", "")
        while page := await self._ledger.open_reports(state, after=after):
            for intent in page:
                yield intent
            after = (page[-1].tenant, page[-1].period, page[-1].meter)

    async def _report(self, row: TenantRow, customer: str, since: datetime, run: _Run) -> None:
        """The tenant's running month, and those before it in which usage may still come, or go again."""
        now, terms = self._clock.now(), await self._plans.of(row)
        months = usage_months(period_of(local_day(now, terms.zone), row.anchor_day))
        months = tuple(month for month in months if terms.month(month).end > since)
        # First what was told: then a number that is still free says that nobody told anything since.
        last = {(each.period, each.meter): each for each in await self._ledger.last_reports(row.id, months)}
        account = await self._ledger.account(row.id, Wanted(usage=months))
        for month in months if account else ():
            billed = await self._billed(account, terms, month, run)
            for meter in sorted({*(billed or ()), *(name for period, name in last if period == month)}):
                before = last.get((month, meter))
                if billed is None or (before is not None and before.state != "sent"):
                    continue
                intent = next_intent(
                    before,
                    tenant=row.id,
                    period=month,
                    meter=meter,
                    customer=customer,
                    billed=billed.get(meter, 0),
                    identifier=f"mm_{self._new_id()}",
                    month=terms.month(month),
                    now=now,
                )
                if intent is not None and await self._ledger.add_report(intent):
                    await self._send(intent, run)

    async def _billed(self, account: Account | None, terms: Terms, month: str, run: _Run) -> Mapping[str, int] | None:
        """None, and an alert, where a plan of the tenant has prices that the provider cannot multiply."""
        first, last = terms.days(month)
        cells = [cell for cell in account.cells if first <= cell.key.day <= last] if account else []
        subject = f"{terms.tenant.id}/{month}"
        try:
            billed = billed_units(rate(cells, terms, period=month))
        except InvalidInput as error:
            await self._alert(subject, f"{terms.tenant.id!r} in {month}: {error}; nothing of the month is reported")
            return None
        if subject in run.alerts:
            await self._ledger.close_alert(USAGE_REPORT, subject, now_us=micros(self._clock.now()))
        return billed

    # -- one report ---------------------------------------------------------------------------------------------------

    async def _send(self, intent: Intent, run: _Run) -> None:
        if run.is_over:
            return
        try:
            told = await self._told_already(intent)
            if told is None:
                await self._park(intent, "the provider has other usage in its minute than was told")
                return
            if not told:
                intent = await self._fresh(intent)
                await self._reporter.report_usage(intent.report(totals=self._takes_totals))
        except ProviderRefused as error:  # of every tenant
            run.failures, run.error = MOST_FAILURES, error
        except InvalidRequest as error:
            await self._park(intent, str(error))
        except BillingError as error:
            log.warning("report-usage: %s waits: %s", _subject(intent), error)
            run.failures, run.error = run.failures + 1, error
        else:
            if await self._ledger.move_report(replace(intent, state="sent")):
                run.sent += 1
            run.failures = 0
            if _subject(intent) in run.alerts:
                await self._ledger.close_alert(USAGE_REPORT, _subject(intent), now_us=micros(self._clock.now()))

    @property
    def _takes_totals(self) -> bool:
        return self._reporter.takes == "totals"

    async def _payable(self, intent: Intent) -> Intent:
        """What was refused, for the customer that the tenant has now: the one that it had may be gone."""
        customer = await self._ledger.payer(intent.tenant)
        if customer in (None, intent.customer):
            return intent
        moved = replace(intent, customer=customer or intent.customer)
        await self._ledger.move_report(moved)
        return moved

    async def _fresh(self, intent: Intent) -> Intent:
        """The same with an instant that the provider takes; it did not have it before."""
        now = self._clock.now().replace(microsecond=0)
        dated = intent.dated(now)
        if dated != intent:
            await self._ledger.move_report(dated)
        return dated

    async def _told_already(self, intent: Intent) -> bool | None:
        """Whether an intent of long ago was told before its process ended: the provider may have forgotten the
        identifier, so that telling it again could count it twice. It has the sum of its minute with it, or without
        it; None for any other."""
        if self._takes_totals or self._clock.now() - intent.made_at <= IDENTIFIER_KNOWN:
            return False
        start = intent.instant.replace(second=0)
        end = start + MINUTE
        theirs = await self._ledger.reports(intent.customer, intent.meter, start_us=micros(start), end_us=micros(end))
        without = sum(each.quantity for each in theirs if each.state == "sent")
        counted = await self._reporter.reported_usage(
            customer=intent.customer, meter=intent.meter, start=start, end=end
        )
        if counted == without:
            return False
        return True if counted == without + intent.quantity else None

    async def _park(self, intent: Intent, why: str) -> None:
        """Until somebody asks for it: its tenant, month and meter wait."""
        await self._ledger.move_report(replace(intent, state="parked"))
        await self._alert(
            _subject(intent),
            f"{intent.quantity:,} {intent.meter} of {intent.tenant!r} in {intent.period} for customer "
            f"{intent.customer} were refused: {why}. Mend it, then report_usage(parked=True)",
        )

    async def _alert(self, subject: str, detail: str) -> None:
        if await self._ledger.raise_alert(USAGE_REPORT, subject, detail=detail, now_us=micros(self._clock.now())):
            log.error("report-usage: %s", detail)


class _Run:
    """What a run did: ``failures`` in a row, of which ``error`` is the last. ``alerts``: the subjects of those that
    were open."""

    def __init__(self, alerts: Set[str]) -> None:
        self.alerts = alerts
        self.sent = 0
        self.failures = 0
        self.error: BillingError | None = None

    @property
    def is_over(self) -> bool:
        """Whether the provider is left alone."""
        return self.failures >= MOST_FAILURES


def _subject(intent: Intent) -> str:
    return f"{intent.tenant}/{intent.period}/{intent.meter}"
