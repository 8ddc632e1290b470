"""``mm-metering demo``: a month of three customers and their invoices, in a few seconds and offline."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx2

from mm_metering.cli.example import HEADER, example_app
from mm_metering.cli.host import PROGRAM
from mm_metering.cli.options import Json, Quiet
from mm_metering.cli.show import bar, console, emit, say, table
from mm_metering.clock import FrozenClock
from mm_metering.core.invoices import Invoice
from mm_metering.core.money import plain
from mm_metering.metering import Metering

if TYPE_CHECKING:
    from rich.console import Console

MONTH: Final = "2024-01"
FIRST, AFTERWARDS = "2024-01-01T09:00:00Z", "2024-02-03T00:00:00Z"
DAYS: Final = 3
AT_ONCE: Final = 20


class Customer(NamedTuple):
    """``scenarios`` and ``reports`` are requests a day."""

    id: str
    plan: str
    scenarios: int
    reports: int


CUSTOMERS: Final = (
    Customer("kitchen-table", "free", scenarios=120, reports=1),
    Customer("acme-mortgage", "pro", scenarios=150, reports=14),
    Customer("big-bank", "enterprise", scenarios=150, reports=20),
)


class Shown(NamedTuple):
    """``answers``: by customer and status, how many there were; ``refusal``: what the last one was told."""

    answers: Mapping[str, Mapping[int, int]]
    refusal: str
    invoices: list[Invoice]


def demo(*, json: Json = False, quiet: Quiet = False) -> None:
    """Three customers on three plans use a metered app for some days of January under a test clock: requests over the
    app's own middleware, refusals, and the invoices of the month. All in memory; nothing is left behind."""
    shown = asyncio.run(_lived())
    if json:
        emit(shown)
    else:
        _show(console(), shown)


async def _lived() -> Shown:
    clock, answers = FrozenClock(FIRST), {each.id: Counter[int]() for each in CUSTOMERS}
    refusal = ""
    async with Metering(clock=clock) as metering:
        for each in CUSTOMERS:
            await metering.put_tenant(each.id, plan=each.plan, subscribed_at="2024-01-01T00:00:00Z")
        transport = httpx2.ASGITransport(app=example_app(metering))
        total = DAYS * sum(each.scenarios + each.reports for each in CUSTOMERS)
        with bar("requests", total) as progress:
            async with httpx2.AsyncClient(transport=transport, base_url="http://demo") as client:
                for day in range(DAYS):
                    refusal = await _day(client, clock, day, answers) or refusal
                    progress(sum(sum(each.values()) for each in answers.values()))
        clock.set(AFTERWARDS)
        return Shown(answers, refusal, await metering.close_period(MONTH))


async def _day(client: httpx2.AsyncClient, clock: FrozenClock, day: int, answers: Mapping[str, Counter[int]]) -> str:
    """A few requests a second, as bursts are limited too. What the last one that was refused was told."""
    refusals: list[str] = []
    start = datetime.fromisoformat(FIRST).replace(day=1 + 7 * day)
    calls = [each for each in CUSTOMERS for _ in range(each.scenarios)]
    calls = sorted(calls, key=lambda each: each.id)
    reports = [each for each in CUSTOMERS for _ in range(each.reports)]
    for number, wave in enumerate(_waves(calls)):
        clock.set(start.replace(minute=number % 60, hour=9 + number // 60))
        asks = (_ask(client, "GET", "/v1/scenarios", each, answers) for each in wave)
        refusals += [told for told in await asyncio.gather(*asks) if told]
    for number, each in enumerate(reports):
        clock.set(start.replace(hour=15, minute=number % 60, second=number // 60))
        await _ask(client, "POST", "/v1/reports", each, answers)
    return refusals[-1] if refusals else ""


def _waves(calls: list[Customer]) -> list[list[Customer]]:
    """Of each customer at most AT_ONCE at an instant, all customers beside each other."""
    by_customer = [[each for each in calls if each is customer] for customer in CUSTOMERS]
    longest = max(map(len, by_customer))
    return [[each for theirs in by_customer for each in theirs[at : at + AT_ONCE]] for at in range(0, longest, AT_ONCE)]


async def _ask(
    client: httpx2.AsyncClient, method: str, path: str, each: Customer, answers: Mapping[str, Counter[int]]
) -> str:
    answer = await client.request(method, path, headers={HEADER: each.id})
    answers[each.id][answer.status_code] += 1
    return str(answer.json()["detail"]) if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS else ""


def _show(screen: Console, shown: Shown) -> None:
    rows = table(
        "customer", "plan", ">requests", ">allowed", ">refused (429)", f">{MONTH}, USD", "of which past the plan"
    )
    for each, invoice in zip(CUSTOMERS, sorted(shown.invoices, key=_order), strict=True):
        counts = shown.answers[each.id]
        allowed, refused = counts[200] + counts[201], counts[429]
        past = ", ".join(f"{line.description} {plain(line.amount)}" for line in invoice.lines if line.kind == "overage")
        numbers = (sum(counts.values()), allowed, refused)
        rows.add_row(each.id, each.plan, *(f"{number:,}" for number in numbers), plain(invoice.total), past)
    screen.print(rows)
    say(screen, f"a refusal says: {shown.refusal}")
    say(screen, f"next: {PROGRAM} init writes an app of your own; {PROGRAM} dev runs it with a test clock and fakes")


def _order(invoice: Invoice) -> int:
    return [each.id for each in CUSTOMERS].index(invoice.tenant)
