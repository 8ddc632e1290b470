"""The engine against a brute-force oracle: any month, any plans, in forty zones. ``MM_ORACLE_MONTHS`` is how many."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, fold_level
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoices import Invoice, InvoiceLine
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import micros
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.core.timeline import PlanChange
from tests.unit import oracle
from tests.unit.billing_case import check_explained, folded
from tests.unit.months import MARKS, METERS, NEVER_LESS, ZONES, Case, Mark, cases

MONTHS: Final = int(os.environ.get("MM_ORACLE_MONTHS", "300"))
BATCH: Final = 1_000

# -- the engine ---------------------------------------------------------------------------------------------------


def facts_of(case: Case) -> list[Fact]:
    """The events in order of time: ids that sort as they do."""
    return [
        Fact(
            f"{number:03}",
            micros(event.at),
            ("set" if event.sets else "add") if event.meter == "disk" else "use",
            "t",
            str(METERS[event.meter].get("event", "")),
            event.resource,
            event.units,
            None,
            (Count(event.meter, "", event.units),),
        )
        for number, event in enumerate([*case.events, *case.levels])
    ]


def cells_of(case: Case, terms: Terms) -> list[Cell]:
    """Sums in any order and batches; levels, which are ordered by time, each of its own."""
    facts = facts_of(case)
    levels, found = dict[CellKey, CellSum](), folded(facts[: len(case.events)], terms.tenant, case.rng)
    for resource in {event.resource for event in case.levels}:
        own = [fact for fact in facts[len(case.events) :] if fact.resource == resource]
        case.rng.shuffle(own)
        fold_level(levels, "disk", own, Calendar(terms.tenant.timezone, terms.tenant.segments))
    return [*found, *(Cell(key, total, 1) for key, total in levels.items())]


def before(cells: Sequence[Cell], first: date) -> dict[tuple[str, str], int]:
    values = Counter[tuple[str, str]]()
    for key, total, *_ in cells:
        if key.day < first and key.meter == "disk":
            values[key.meter, key.resource] += total.quantity
    return dict(values)


def bill(case: Case, terms: Terms, cells: Sequence[Cell], standing: Mapping[tuple[str, str], int]) -> Invoice:
    return draft(terms, case.period, cells, currency="USD", levels_before=standing)


def billed(case: Case) -> Invoice:
    terms = case.terms
    cells = cells_of(case, terms)
    return bill(case, terms, cells, before(cells, case.first_day))


def lines(invoice: Invoice) -> list[oracle.Line]:
    return [
        (line.kind, line.meter, line.resource, Fraction(line.quantity), Fraction(line.amount))
        for line in invoice.lines
        if line.kind != "carried_over"
    ]


def in_order(lines: Sequence[oracle.Line]) -> list[tuple[str, ...]]:
    return sorted(tuple(map(str, line)) for line in lines)


# -- what holds ---------------------------------------------------------------------------------------------------

many = settings(max_examples=min(MONTHS, BATCH), deadline=None, suppress_health_check=list(HealthCheck))
few = settings(many, max_examples=min(MONTHS // 3, BATCH))
long = pytest.mark.timeout(140)


@long
@pytest.mark.parametrize("batch", range(-(-MONTHS // BATCH)))
def test_months_are_billed_as_by_hand(batch: int) -> None:
    check = many(given(cases())(is_billed_as_by_hand))
    (seed(batch)(check) if batch else check)()


def is_billed_as_by_hand(case: Case) -> None:
    found = billed(case)
    assert in_order(lines(found)) == in_order(oracle.invoice(case.month, case.events, case.levels))
    check_explained(found)
    assert found.subtotal == sum(line.amount for line in found.lines if line.kind != "carried_over")
    for line in found.lines:
        if line.meter == "disk" and line.explanation:
            windows = line.explanation.windows
            assert line.quantity == sum(window.overage for window in windows)
            assert all(window.overage == window.used - window.allowance > 0 for window in windows)


@long
@few
@given(cases())
def test_neither_order_nor_batches_nor_repeats_change_a_bill(case: Case) -> None:
    """Through a ledger, which drops what it has, and folds anew where a plan changes below the facts."""
    assert in_order(lines(asyncio.run(through_a_ledger(case)))) == in_order(lines(billed(case)))


async def through_a_ledger(case: Case) -> Invoice:
    ledger, rng, defaults, terms = MemoryLedger(), case.rng, TenantDefaults("", 0, "UTC"), case.terms
    facts = facts_of(case)
    came = [*facts, *rng.choices(facts, k=5)] if facts else []
    rng.shuffle(came)
    half = rng.randint(0, len(came))
    batches = [came[:half], *([fact] for fact in came[half:])]
    (since_us, plan, version, _), *later = terms.tenant.segments
    sign_up = NewTenant("t", plan=plan, version=version, timezone=case.month.zone, subscribed_us=since_us)
    for number, batch in enumerate(batches):
        position = "0-0" if number == 0 else f"{number}-0"
        after = f"{number + 1}-0"
        assert await ledger.fold(0, generation=1, before=position, after=after, facts=batch, defaults=defaults)
        if number == 0:
            await ledger.put_tenant(sign_up, defaults=defaults, now_us=since_us)
            for change in later:
                await ledger.change_subscription("t", PlanChange(change.starts_us, change.plan, change.version))
    cells = await ledger.cells("t", first=date(2009, 1, 1), last=date(2025, 12, 31))
    day = case.first_day
    return bill(case, terms, cells, (await ledger.used("t", first=day, last=day, timezone="UTC")).carried)


@long
@few
@given(cases(kinds=NEVER_LESS), st.data())
def test_more_usage_never_costs_less(case: Case, data: st.DataObject) -> None:
    if case.events:
        more = case._replace(events=[*case.events, data.draw(st.sampled_from(case.events))])
        assert overage(more) >= overage(case)


def overage(case: Case) -> Decimal:
    return sum((line.amount for line in accrued(case)), Decimal(0))


@long
@few
@given(cases(), MARKS, st.sampled_from(("p0", "p1", "p2")))
def test_a_later_change_of_plan_does_not_touch_what_has_accrued(case: Case, mark: Mark, plan: str) -> None:
    at = mark.moment([start for start, _ in oracle.days(*case.month[:3])], [])
    timeline = [change for change in case.month.timeline if change[0] < at]
    if not timeline or plan not in case.month.plans:
        return
    until = case._replace(events=[event for event in case.events if event.at < at], levels=[])
    stays, changes = (
        until._replace(month=case.month._replace(timeline=changed)) for changed in (timeline, [*timeline, (at, plan)])
    )
    assert accrued(stays) == accrued(changes)


def accrued(case: Case) -> list[InvoiceLine]:
    return [line for line in billed(case).lines if line.kind == "overage"]


def test_the_zones_are_forty_and_among_them_the_odd_ones() -> None:
    assert len(set(ZONES)) == len(ZONES) == 40
    assert lengths("America/St_Johns", 2010, 11)[5:8] == [timedelta(hours=24), timedelta(hours=25), timedelta(hours=24)]
    assert lengths("Pacific/Apia", 2011, 12)[28:31] == [timedelta(hours=24), timedelta(0), timedelta(hours=24)]
    assert lengths("Australia/Lord_Howe", 2024, 4)[6] == timedelta(hours=24, minutes=30)


def lengths(zone: str, year: int, month: int) -> list[timedelta]:
    return [end - start for (start, _), (end, _) in pairwise(oracle.days(zone, year, month))]
