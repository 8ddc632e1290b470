"""The first page: the house today, and what needs somebody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from mm_metering.backends.looks import HouseDay
from mm_metering.core.alerting import HOUSE
from mm_metering.core.cells import event_meter
from mm_metering.core.collecting import Notice
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import days_between, from_micros
from mm_metering.dashboard.charts import Chart, Number, Series
from mm_metering.dashboard.page import Link, Page, Visit
from mm_metering.dashboard.render import link, told, words

DAYS: Final = 30
SPARK: Final = 14
AT_ONCE: Final = 20
"""Most of a kind that the list of what needs somebody has."""
LATELY: Final = timedelta(days=2)
NEAR: Final = ("quota.warning", "quota.exceeded", "budget.warning", "budget.exceeded", "budget.forecast")
CALLS, AI = event_meter("api_call"), event_meter("ai_call")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of today with its last days."""

    name: str
    value: Number
    unit: str
    days: Sequence[Number]
    see: str


@dataclass(frozen=True, slots=True)
class Need:
    """What somebody should look at, and where."""

    tone: str
    what: str
    why: str
    see: str


async def overview(visit: Visit) -> Page:
    today = visit.now.date()
    first = today - timedelta(DAYS - 1)
    days, needs, totals = await asyncio.gather(
        visit.house.ledger.house_days(first, today), _needs(visit), visit.house.ledger.invoice_totals(months=2)
    )
    calls, spent, refused = _by_day(days, first, today)
    shown = [*days_between(first, today)]
    top = next((each for each in days if each.day == today and each.meter == CALLS), None)
    billed = sum(nanos for _, status, _, nanos in totals if status in ("finalized", "paid"))
    due = sum(nanos for _, status, _, nanos in totals if status == "finalized")
    figures = [
        Figure("requests today", calls[-1], "", calls[-SPARK:], "events?type=api_call"),
        Figure("refused today", refused[-1], "", refused[-SPARK:], "alerts"),
        Figure("AI cost today", spent[-1], "USD", spent[-SPARK:], "ai"),
        Figure("to be paid", from_nanos(due), visit.house.catalogue.currency, [], "invoices?status=finalized"),
    ]
    charts = {
        "requests": Chart("Requests by day", shown, [Series("requests", calls), Series("refused", refused, "line")]),
        "ai": Chart("AI cost by day", shown, [Series("cost", spent)], "USD"),
    }
    data = {
        "figures": figures,
        "needs": needs,
        "top": top.top if top else (),
        "added_up": from_micros(max(each.made_us for each in days)) if days else None,
        "billed": from_nanos(billed),
    }
    return Page("overview.html", "Overview", data, charts)


def _by_day(days: Sequence[HouseDay], first: date, last: date) -> tuple[list[Number], list[Number], list[Number]]:
    """Calls, AI cost and refused units, of each day."""
    calls, spent, refused = dict[date, int](), dict[date, Decimal](), dict[date, int]()
    for each in days:
        if each.meter == CALLS:
            calls[each.day] = each.quantity
        elif each.meter == AI:
            spent[each.day] = from_nanos(each.cost_nanos)
        if each.refused:
            refused[each.day] = refused.get(each.day, 0) + each.refused
    shown = [*days_between(first, last)]
    return (
        [calls.get(day, 0) for day in shown],
        [spent.get(day, Decimal(0)) for day in shown],
        [refused.get(day, 0) for day in shown],
    )


async def _needs(visit: Visit) -> list[Need]:
    """The house's own troubles first, then money, then tenants."""
    ledger = visit.house.ledger
    alerts, notices, parked, failing, letters = await asyncio.gather(
        ledger.open_alerts(limit=AT_ONCE),
        ledger.notices_page(types=(*sorted(HOUSE), "model.unpriced", *NEAR, "endpoint.disabled"), limit=5 * AT_ONCE),
        ledger.collections(state="parked", limit=AT_ONCE),
        ledger.collections(state="failing", limit=AT_ONCE),
        ledger.count_dead_letters(),
    )
    recent = [each for each in notices if each.made_at > visit.now - LATELY]
    found = [Need("bad", words(each.kind), f"{each.subject}: {each.detail}", "system") for each in alerts]
    if letters:
        found.append(Need("bad", "dead letters", f"{letters:,} lines of the stream could not be folded", "system"))
    found += [_of_house(each) for each in recent if each.type in HOUSE]
    found += [
        Need("bad", "payment waits for you", f"{each.tenant}: {each.note}", "payments?state=parked") for each in parked
    ]
    found += [
        Need("warn", "payment failed", f"{each.tenant} owes {each.amount:,} {each.currency}", "payments?state=failing")
        for each in failing
    ]
    near = list({each.tenant: each for each in reversed(recent) if each.tenant}.values())[::-1]
    found += [
        Need("warn", words(each.type), f"{each.tenant}: {told(each)}", link("tenant", id=each.tenant))
        for each in near[:AT_ONCE]
    ]
    return found


def _of_house(notice: Notice) -> Need:
    return Need("bad", words(notice.type), told(notice), "system")


LINK = Link("", "Overview", overview)
