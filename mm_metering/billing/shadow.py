"""A shadow plan over the ledger: each tenant's running month, decided and billed under plans that are not in force.

Owns: reading a tenant's cells, and page by page the facts of the days on which sums do not tell. Does not own: the
decision (``core.shadow``). Reads only; what was not folded yet is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Set
from datetime import date, datetime
from fractions import Fraction
from itertools import groupby
from typing import Final, NamedTuple

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.billing.whatif import compared
from mm_metering.core.books import Account
from mm_metering.core.catalogue import Catalogue, Limit
from mm_metering.core.cells import Cell, Segment
from mm_metering.core.facts import Fact
from mm_metering.core.identity import derived_id, tenant_id
from mm_metering.core.lifecycles import REFUSED_AS, TRIAL
from mm_metering.core.periods import day_span, day_start, local_day, micros, period_of, zone
from mm_metering.core.rating import NO_LEVELS, Terms, plan_label
from mm_metering.core.shadow import Counts, Limits, Replay, Stretch, asks_of, request_of
from mm_metering.core.shadow_report import Month, ShadowReport, ShadowTally, TenantShadow, tenant_shadow
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.whatif import Question, check_comparable, check_plans, segments_in
from mm_metering.errors import UnknownTenant
from mm_metering.gate.plans import PlanBook
from mm_metering.gate.windows import Gauge, PlanWindows

PAGE: Final = 1000
"""Facts read at a time."""
MOST_FACTS: Final = 50_000
"""Most facts of a tenant that one look reads; past it sums must do."""


class Mark(NamedTuple):
    """While it is the same nothing has changed for a tenant: neither its plans, nor its use, nor the day."""

    today: date
    tenant: int
    cells: int
    refused: int


class Seen(NamedTuple):
    """A tenant's month as the shadow plans have it. ``share``: the largest part of a count's use that they refuse."""

    shadow: TenantShadow
    share: Fraction
    mark: Mark


class ShadowPlans:
    """Plans that decide nothing. InvalidInput for a catalogue that cannot be compared with the one in force."""

    def __init__(self, ledger: Ledger, *, plans: PlanBook, current: Catalogue, catalogue: Catalogue) -> None:
        check_comparable(catalogue, current)
        check_plans(catalogue, current)
        self.id: str = derived_id("shadow", *((name, plan.digest()) for name, plan in catalogue.plans.items()))
        self.current = current
        self._catalogue = catalogue
        self._ledger = ledger
        self._plans = plans
        self._meters = {**current.meters, **catalogue.meters}
        self._levels = frozenset(name for name, meter in self._meters.items() if meter.aggregation == "level")

    async def report(self, tenant: str | None, *, now: datetime, progress: Callable[[int], None]) -> ShadowReport:
        """All tenants, or one with all of its limits; UnknownTenant if there is none. InvalidInput where a tenant's
        plan limits a meter that the catalogue does not have. ``progress`` is told how many tenants are done."""
        tally, question, done = ShadowTally(self.current.currency, now), Question(self._catalogue, (), now), 0
        async for row in self._rows(tenant):
            seen = await self.look(row, now, every=tenant is not None)
            if seen is None:
                tally.left_out += 1
            else:
                tally.add(seen.shadow, seen.share, keep=tenant is not None)
                segment = row.segment_at(micros(now))
                tally.own_plans += question.keeps_own(segment, self._plans.terms(row))
                tally.missing.update([segment.plan] if question.is_missing(segment.plan) else ())
            progress(done := done + 1)
        return tally.report()

    async def _rows(self, tenant: str | None) -> AsyncIterator[TenantRow]:
        if tenant is None:
            async for page in tenant_pages(self._ledger):
                for row in page:
                    yield row
        elif found := await self._ledger.tenant(tenant_id(tenant)):
            yield found
        else:
            raise UnknownTenant(f"there is no tenant {tenant!r}")

    async def look(
        self, row: TenantRow, now: datetime, *, every: bool = False, mark: Mark | None = None
    ) -> Seen | None:
        """A tenant's running month. None if there is nothing to be billed, and while it is as it was at ``mark``."""
        period = period_of(local_day(now, zone(row.timezone)), row.anchor_day)
        account = await self._ledger.account(row.id, Wanted(usage=(period,), levels=True))
        if account is None or (found := _mark(account, now)) == mark:
            return None
        terms, question = await self._plans.of(account.tenant), Question(self._catalogue, (period,), now)
        amounts = compared(account, terms, period, question, currency=self.current.currency)
        if amounts is None:
            return None
        after, in_force = question.replaced(terms), segments_in(account.tenant, period, terms)
        stretches = tuple(stretches_of(account.cells, terms, levels=self._levels))
        now_limits, then_limits = (limits_of(each, self._catalogue) for each in (terms, after))
        replay = Replay(Counts(now_limits), Counts(then_limits), today_us=micros(day_start(found.today, terms.zone)))
        is_alike = all(_limits(terms, each) == _limits(after, each) for each in in_force)
        estimated = await self._run(replay, row.id, stretches, is_alike=is_alike)
        month = Month(self._meters, replay, stretches, self._standing(account, terms.days(period)[0]), micros(now))
        place = (row.id, plan_label(account.tenant.segment_at(micros(now))), period)
        shadow = tenant_shadow(place, month, amounts, self.current, every=every, estimated=estimated)
        return Seen(shadow, month.share, found)

    async def _run(self, replay: Replay, tenant: str, stretches: Iterable[Stretch], *, is_alike: bool) -> bool:
        """Whether there were too many facts to read all that matter."""
        left, estimated = MOST_FACTS, False
        for stretch in stretches:
            if is_alike or not replay.needs_facts(stretch):
                replay.add_sums(stretch)
            elif stretch.facts > left:
                replay.add_sums(stretch)
                estimated = True
            else:
                left -= stretch.facts
                async for facts in self._requests(tenant, stretch):
                    for ask in asks_of(facts):
                        replay.add(ask)
            replay.end(stretch)
        return estimated

    async def _requests(self, tenant: str, stretch: Stretch) -> AsyncIterator[list[Fact]]:
        """The facts of a stretch, page by page; those of one request stay together."""
        after, waiting = (stretch.start_us, ""), list[Fact]()
        while page := await self._ledger.facts(tenant, after=after, limit=PAGE):
            inside = [fact for fact in page if fact.occurred_us < stretch.end_us]
            waiting += inside
            if len(inside) < PAGE:
                break
            after, last = (page[-1].occurred_us, page[-1].id), request_of(page[-1])
            yield [fact for fact in waiting if request_of(fact) != last]
            waiting = [fact for fact in waiting if request_of(fact) == last]
        yield waiting

    def _standing(self, account: Account, first: date) -> Mapping[str, int]:
        """Each level as it stands, of all resources together."""
        standing: Counter[str] = Counter()
        for (meter, _), value in account.levels_before.get(first, NO_LEVELS).items():
            standing[meter] += value
        for cell in account.cells:
            if cell.key.meter in self._levels:
                standing[cell.key.meter] += cell.total.quantity
        return {meter: value for meter, value in standing.items() if meter in self._levels}


def limits_of(terms: Terms, catalogue: Catalogue) -> Limits:
    """A tenant's limits as the gate makes them, at any instant of its timeline."""
    tenant, windows = terms.tenant, dict[Segment, PlanWindows]()

    def limits(meter: str, at_us: int) -> tuple[Gauge, ...]:
        segment = tenant.segment_at(at_us)
        if segment not in windows:
            plan = terms.plan(segment)
            plan = plan.in_trial() if plan is not None and segment.status == TRIAL else plan
            windows[segment] = PlanWindows(plan, terms.zone, catalogue, tenant.anchor_day)
        return windows[segment].gauges(meter, at_us)

    return limits


def stretches_of(cells: Iterable[Cell], terms: Terms, *, levels: Set[str]) -> Iterator[Stretch]:
    """A month's cells by local day and plan segment, in order of time; of ``levels`` only what was refused."""
    for (day, since_us), group in groupby(sorted(cells, key=_place), key=_place):
        span, segment = day_span(day, terms.zone), terms.tenant.segment_at(since_us)
        is_first = segment == terms.tenant.segments[0]
        start_us = micros(span.start) if is_first else max(micros(span.start), since_us)
        used, refused, facts = Counter[str](), Counter[str](), 0
        for key, total, _, units in group:
            if total.count and key.meter not in levels:
                used[key.meter] += total.quantity
                facts += total.count
            if units:
                refused[key.meter] += units
        end_us = min(micros(span.end), terms.tenant.next_change_us(start_us) or micros(span.end))
        yield Stretch(start_us, end_us, used, refused, facts, asks=segment.status not in REFUSED_AS)


def _place(cell: Cell) -> tuple[date, int]:
    return cell.key.day, cell.key.since_us


def _limits(terms: Terms, segment: Segment) -> Mapping[str, tuple[Limit, ...]]:
    plan = terms.plan(segment)
    return plan.limits if plan else {}


def _mark(account: Account, now: datetime) -> Mark:
    tenant, cells = account.tenant, account.cells
    today = local_day(now, zone(tenant.timezone))
    return Mark(today, tenant.revision, sum(cell.revision for cell in cells), sum(cell.refused for cell in cells))
