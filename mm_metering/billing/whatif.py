"""What a new catalogue would have brought: every tenant's months from the ledger, rated twice. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Set

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.core import books
from mm_metering.core.books import Account
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Segment
from mm_metering.core.rating import NO_LEVELS, Terms
from mm_metering.core.simulation import Simulation, Tally
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.whatif import Compared, Question, compare, segments_in
from mm_metering.gate.plans import PlanBook


class WhatIf:
    """Asks the ledger for one tenant's month at a time, and keeps sums."""

    def __init__(self, ledger: Ledger, *, plans: PlanBook, catalogue: Catalogue) -> None:
        self._ledger = ledger
        self._plans = plans
        self._catalogue = catalogue

    async def answer(self, question: Question, progress: Callable[[int], None]) -> Simulation:
        """InvalidInput where a plan that is compared limits a meter that the new catalogue dropped. ``progress`` is
        told how many tenants are done."""
        tally, known = Tally(question, self._catalogue), set[str]()
        await self._plans.refresh()
        async for rows in tenant_pages(self._ledger):
            for row in rows:
                await self._add(row, question, tally)
                known.add(row.id)
                progress(len(known))
        tally.left_out += await self._strangers(known)
        return tally.simulation()

    async def _strangers(self, known: Set[str]) -> int:
        """How many have usage, or were refused some, and are no tenants."""
        count, after = 0, ""
        while page := await self._ledger.cell_digests(after=after):
            count += sum(tenant not in known for tenant, _ in page)
            after = page[-1][0]
        return count

    async def _add(self, row: TenantRow, question: Question, tally: Tally) -> None:
        months, segments = dict[str, Compared](), list[Segment]()
        for period in question.periods:
            account = await self._ledger.account(row.id, self._wanted(period, question))
            if account is None:
                continue
            terms = await self._plans.of(account.tenant)
            month = compared(account, terms, period, question, currency=self._catalogue.currency)
            if month is None:
                continue
            months[period] = month
            segments += segments_in(account.tenant, period, terms)
            tally.running += terms.month(period).end > question.asked_at
        if not months:
            tally.left_out += 1
            return
        plans = {segment.plan: None for segment in segments}
        tally.missing.update(filter(question.is_missing, plans))
        terms = self._plans.terms(row)
        tally.own_plans += any(question.keeps_own(segment, terms) for segment in segments)
        tally.add(row.id, plans, months)

    def _wanted(self, period: str, question: Question) -> Wanted:
        plans = (*self._plans.known.values(), *question.catalogue.plans.values())
        bills_levels = any(plan.charged_levels for plan in plans)
        return Wanted(usage=(period,), levels=bills_levels)


def compared(account: Account, terms: Terms, period: str, question: Question, *, currency: str) -> Compared | None:
    """One tenant's month under both; None where there is nothing to be billed. InvalidInput where a plan that is
    compared limits a meter that the new catalogue dropped."""
    in_force = segments_in(account.tenant, period, terms)
    if not any(map(terms.plan, in_force)) or not books.is_billable(account, terms, period, currency=currency):
        return None
    question.check_meters(terms, in_force)
    return compare(
        terms,
        question.replaced(terms),
        period,
        account.cells,
        currency=currency,
        discounts=account.discounts,
        levels_before=account.levels_before.get(terms.days(period)[0], NO_LEVELS),
    )
