"""``python -m tests.bench.house URL [--facts N] [--tenants T] [--days D]``: a ledger as a house of some size leaves it.

Calls and exports are written by the database (``bulk``); everything else goes through the ledger's own methods. Facts
are said to be stored two seconds after each. Some tenants use much more than others. The months that are over are
closed, and most of their invoices paid; events have gone to endpoints, a few of which fail. ``python -m
tests.bench.looks URL`` says how long looking at it takes, ``python -m tests.bench.pages URL`` how long the pages do.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from unittest.mock import patch

from rich.console import Console

from mm_metering import FrozenClock, Metering
from mm_metering.backends.accounts import Wanted
from mm_metering.backends.collecting import Hint
from mm_metering.backends.counters import START
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.sql import facts as sql_facts
from mm_metering.backends.sql.rows import fact_row
from mm_metering.core import collecting
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import Account, Entries
from mm_metering.core.cells import CellKey
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Attempt, EndpointRow, Result, Sealed
from mm_metering.core.dunning import Dunning
from mm_metering.core.facts import Count, Fact, void
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import days_between, later_period, micros, period_of
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from tests.bench import bulk

AT_ONCE: Final = 20_000
FOLDED: Final = 40
"""One of so many facts is no call and no export."""
SHARD: Final = 1_000
DEFAULTS: Final = TenantDefaults(plan="free", version=1, timezone="UTC")
PLANS: Final = ("free", "free", "free", "pro", "pro", "enterprise")
MODELS: Final = ("gpt-4", "gpt-4o-mini", "claude-sonnet")
SECOND_US: Final = 1_000_000
PAGE: Final = 500

TOLD: Final = Console(stderr=True)


def tenant_name(number: int) -> str:
    return f"org-{number:05}"


def _pages(number: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, number)) for first in range(0, number, size))


# -- usage ------------------------------------------------------------------------------------------------------------


def shares(tenants: int, facts: int, *, start_us: int, end_us: int, since_us: Sequence[int]) -> list[bulk.Share]:
    """The first tenants have the most: of 2,000 the first one 2 %."""
    weights = [(number + 1) ** -0.6 for number in range(tenants)]
    numbers = [int(facts * weight / sum(weights)) + 1 for weight in weights]
    return [
        bulk.Share(tenant_name(each), each, since_us[each], number, start_us, (end_us - start_us) // number)
        for each, number in enumerate(numbers)
    ]


class Rest:
    """What is folded beside calls and exports: AI calls, levels, and facts that are taken back, in order."""

    def __init__(self, tenants: int, *, start_us: int, end_us: int, number: int) -> None:
        self._chance = random.Random(tenants)
        self._names = [tenant_name(each) for each in range(tenants)]
        self._start_us, self._step_us, self._number = start_us, (end_us - start_us) / number, number

    def batches(self) -> Iterator[list[Fact]]:
        for numbers in _pages(self._number, AT_ONCE):
            facts = list[Fact]()
            for number in numbers:
                at_us = self._start_us + int((number + self._chance.random()) * self._step_us)
                facts += self._one(number % 20, self._chance.choice(self._names), at_us)
            yield facts

    def _one(self, kind: int, tenant: str, at_us: int) -> Sequence[Fact]:
        name = _uuid7(at_us, self._chance)
        if kind == 0:
            call = Fact(name, at_us, "use", tenant, "api_call", "/v1/rates", 1, None, (Count("api_calls", "", 1),))
            return call, void(call)
        if kind <= 2:
            megabytes = self._chance.randrange(10_000)
            counts = (Count("storage_mb", "", megabytes),)
            return (Fact(name, at_us, "set", tenant, "storage", "disk", megabytes, None, counts),)
        return self._ai_call(name, tenant, at_us)[: 1 if self._chance.random() < 0.001 else 3]

    def _ai_call(self, name: str, tenant: str, at_us: int) -> Sequence[Fact]:
        model, tokens = self._chance.choice(MODELS), self._chance.randrange(100, 4_000)
        cost_nanos = tokens * 30_000
        counts = (Count("ai_requests", "", 1), Count("ai_cost", "", cost_nanos))
        hold = Fact(name, at_us, "hold", tenant, "ai_call", model, 1, None, counts)
        close = hold._replace(id=f"{name}.close", kind="close", target=name, cost_nanos=cost_nanos)
        used = (Count("ai_tokens", "", tokens),)
        return hold, close, Fact(f"{name}.tokens", at_us, "use", tenant, "ai_token", model, tokens, None, used)


def _uuid7(at_us: int, chance: random.Random) -> str:
    text = f"{at_us // 1000:012x}7{chance.getrandbits(76):019x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _row(fact: Fact, *, is_voided: bool, is_open: bool, stored_us: int) -> tuple[Any, ...]:
    at_us = min(stored_us, fact.occurred_us + 2 * SECOND_US)
    return fact_row(fact, is_voided=is_voided, is_open=is_open, stored_us=at_us)


async def fold(ledger: Ledger, rest: Rest) -> int:
    """How many facts that were."""
    generation, _ = await ledger.certify(SHARD, seen=0)
    position, folded = START, 0
    for batch, facts in enumerate(rest.batches(), 1):
        after = f"{batch}-0"
        with patch.object(sql_facts, "fact_row", _row):
            move: dict[str, Any] = {"generation": generation, "before": position, "after": after}
            assert await ledger.fold(SHARD, facts=facts, defaults=DEFAULTS, **move)
        position, folded = after, folded + len(facts)
    return folded


# -- everything else --------------------------------------------------------------------------------------------------


class House:
    def __init__(self, metering: Metering, tenants: int, start: datetime, now: datetime) -> None:
        self._ledger, self._metering = metering.ledger, metering
        self._names = [tenant_name(each) for each in range(tenants)]
        self._start, self._now = start, now
        self._chance = random.Random(7)

    def _instant(self) -> datetime:
        return self._start + (self._now - self._start) * self._chance.random()

    async def sign_up(self) -> None:
        versions = dict(sorted(await self._ledger.plan_versions()))
        for number, name in enumerate(self._names):
            plan = PLANS[number % len(PLANS)]
            since_us = self.since_us(number)
            new = NewTenant(name, plan, versions[plan], subscribed_us=since_us)
            await self._ledger.put_tenant(new, defaults=DEFAULTS, now_us=since_us)

    def since_us(self, number: int) -> int:
        return micros(self._start - timedelta(days=number % 300))

    async def refuse(self) -> None:
        refused = {
            CellKey(name, day, self.since_us(number), "api_calls", "", ""): 1 + number % 90
            for number, name in enumerate(self._names)
            if number % 7 == 0
            for day in days_between(self._start.date(), self._now.date())
        }
        await self._ledger.report("bench", acknowledged={}, refused=refused, now_us=micros(self._now))

    async def close_months(self) -> None:
        """Closes those that are over, and has most of their invoices paid."""
        period, running = period_of(self._start.date()), period_of(self._now.date())
        while period < running:
            invoices = await self._metering.close_period(period)
            TOLD.print(f"{len(invoices):,} invoices of {period}")
            for each in invoices:
                await self._collect(each)
            period = later_period(period, 1)

    async def _collect(self, invoice: Invoice) -> None:
        draw, at = self._chance.random(), self._instant()
        begun = collecting.issued(collecting.begin(invoice, at), f"in_{invoice.id}", at).collection
        tried = collecting.attempting(begun, at).collection
        declined = collecting.declined(tried, "card_declined", at, Dunning())
        moved = collecting.paid(tried, at) if draw < 0.9 else declined if draw < 0.97 else collecting.parked(tried, "?")
        paid = invoice.model_copy(update={"status": "paid", "settled_at": at})

        def decide(_: Account) -> Entries:
            is_paid = moved.collection.state == "paid" and invoice.status == "finalized"
            return Entries(
                invoices=(paid,) if is_paid else (), collections=(moved.collection,), notices=tuple(moved.notices)
            )

        if invoice.status == "finalized":
            await self._ledger.book([invoice.tenant], Wanted(), decide)

    async def tell(self, number: int) -> None:
        """Notices of the last 40 days, and their deliveries to the endpoints of every tenth tenant."""
        owners = self._names[::10]
        for each in owners:
            row = EndpointRow(
                id=f"ep_{each}",
                tenant=each,
                url=f"https://{each}.example/hooks",
                events=("*",),
                created_at=self._start,
                secrets=(Sealed(text="v1:a:b"),),
            )
            await self._ledger.put_endpoint(row, instead_of=None)
        begin = max(self._start, self._now - timedelta(days=40))
        types = ("quota.warning", "quota.exceeded", "overage.started", "budget.warning", "usage.spike")
        for page in _pages(number, PAGE):
            notices = [
                Notice(
                    f"note_{each:08}",
                    owners[each % len(owners)] if each % 2 else self._names[each % len(self._names)],
                    types[each % len(types)],
                    {"meter": "api_calls", "threshold": 80, "window": "day"},
                    begin + (self._now - begin) * (each / number),
                )
                for each in page
            ]
            await self._ledger.add_notices(notices)
        while await self._ledger.fan_out(micros(self._now)):
            pass
        await self._deliver()
        TOLD.print(f"{number:,} notices")

    async def _deliver(self) -> None:
        while True:
            until_us = micros(self._now) + 60 * SECOND_US
            chosen: dict[str, Any] = {"busy": (), "per_endpoint": PAGE, "limit": PAGE, "until_us": until_us}
            claimed = await self._ledger.claim_deliveries(micros(self._now), **chosen)
            if not claimed:
                return
            results = []
            for each in claimed:
                at, is_well = each.delivery.occurred_at + timedelta(seconds=1), self._chance.random() < 0.95
                attempt = Attempt(at=at, status=200 if is_well else 500, took_ms=80)
                wait = None if is_well else self._now - at + timedelta(hours=1)
                results.append(Result(each.delivery.id, each.delivery.claim, at, attempt, wait))
            await self._ledger.settle_deliveries(results)

    async def note(self, number: int) -> None:
        """Entries of the audit log, hints of the provider, alerts."""
        actions = ("tenant changed", "plan changed", "invoice voided", "credit granted", "alerts muted")
        for page in _pages(number, PAGE):
            entries = [
                AuditEntry(
                    f"audit_{each:08}",
                    self._chance.choice(self._names) if each % 9 else "",
                    self._start + (self._now - self._start) * (each / number),
                    ("host", "worker", "cli:ann")[each % 3],
                    actions[each % len(actions)],
                    f"inv_{each}",
                    after='{"status": "void"}',
                    reason="ticket 12",
                )
                for each in page
            ]
            await self._ledger.add_audit(entries)
        for each in range(number // 20):
            at_us = micros(self._instant())
            hint = Hint(f"evt_{each:06}", "invoice.paid", "invoice", f"in_{each}", at_us, at_us + SECOND_US, None)
            await self._ledger.put_hint(hint)
        for each in range(number // 50):
            at_us, subject = micros(self._instant()), f"subject-{each}"
            await self._ledger.raise_alert("hook_failed", subject, detail="no answer", now_us=at_us)
            if each % 10:
                await self._ledger.close_alert("hook_failed", subject, now_us=at_us + 3600 * SECOND_US)
        TOLD.print(f"{number:,} entries of the audit log")

    async def add_up(self) -> None:
        began = time.monotonic()
        days = [*days_between(self._start.date(), self._now.date() + timedelta(days=1))]
        for day in days:
            await self._ledger.roll_up(day, now_us=micros(self._now))
        TOLD.print(f"{len(days)} days added up in {time.monotonic() - began:.1f} s")


async def fill(url: str, *, facts: int, tenants: int, days: int, now: datetime) -> None:
    start = datetime.combine(now.date() - timedelta(days=days), datetime.min.time(), UTC)
    async with Metering(ledger=url, counters="memory://", clock=FrozenClock(now), worker="off") as metering:
        for month in range(days // 28 + 1):  # so that PostgreSQL has a table for each
            await metering.ledger.make_room(micros(start + timedelta(days=28 * month)))
        house = House(metering, tenants, start, now)
        await house.sign_up()
        TOLD.print(f"{tenants:,} tenants")
        bounds, began = {"start_us": micros(start), "end_us": micros(now)}, time.monotonic()
        since_us = [house.since_us(number) for number in range(tenants)]
        await bulk.fill(url, shares(tenants, facts, since_us=since_us, **bounds))
        TOLD.print(f"{facts:,} calls and exports in {time.monotonic() - began:.0f} s")
        folded = await fold(metering.ledger, Rest(tenants, number=max(facts // FOLDED // 3, 20), **bounds))
        await house.refuse()
        await house.close_months()
        await house.tell(max(facts // 200, 100))
        await house.note(max(facts // 500, 100))
        await house.add_up()
        TOLD.print(f"{facts + folded:,} facts in {url}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.house", description="fills a new ledger")
    parser.add_argument("url", help="sqlite:///FILE or postgresql://…")
    parser.add_argument("--facts", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--days", type=int, default=60)
    asked = parser.parse_args()
    now = datetime.now(UTC).replace(microsecond=0)
    asyncio.run(fill(asked.url, facts=asked.facts, tenants=asked.tenants, days=asked.days, now=now))


if __name__ == "__main__":
    main()
