"""The billing run under crashes, lost answers and long pauses: each month is billed once, and none is missing.

``MM_TENANT_MONTHS`` says how many tenant-months (600 if absent; ``./dev nightly`` runs 10,000).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from mm_metering import FrozenClock, Metering, MockBillingAdapter
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.billing.adapter import BillingInvoice
from mm_metering.errors import ProviderRateLimited, ProviderUnavailable

T = TypeVar("T")
MONTHS = int(os.environ.get("MM_TENANT_MONTHS", "600"))
TENANTS = 50
PERIODS = ("2024-01", "2024-02", "2024-03")
CARDS = (
    *("pm_card_visa",) * 6,
    "pm_card_chargeDeclinedInsufficientFunds",
    "pm_card_chargeDeclinedLostCard",
    "pm_card_authenticationRequired",
    "pm_card_pending",
)
FAULTY = frozenset({"create_invoice", "pay_invoice", "get_invoice", "void_invoice", "look"})


class Crash(BaseException):
    """The process is gone."""


class Flaky:
    """A provider that fails before or after it did what was asked, or takes the process with it."""

    def __init__(self, inner: MockBillingAdapter, chance: random.Random, rate: float) -> None:
        self.inner, self.chance, self.rate = inner, chance, rate
        self.taken: Counter[str] = Counter()
        """By invoice: how often money was taken."""
        self.quiet = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._failing(name, found) if name in FAULTY else found

    def _failing(self, name: str, call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def asked(*args: Any, **named: Any) -> T:
            self._fail()
            await asyncio.sleep(0)
            before = self.inner._invoices.get(args[0]) if name == "pay_invoice" else None
            try:
                answer = await call(*args, **named)
            except Exception:
                self._fail()
                raise
            if isinstance(before, BillingInvoice) and before.status == "open" and self._is_paid(before.id):
                self.taken[before.id] += 1
            self._fail()
            return answer

        return asked

    def _is_paid(self, invoice_id: str) -> bool:
        return self.inner._invoices[invoice_id].status == "paid"

    def _fail(self) -> None:
        if self.quiet or self.chance.random() > self.rate:
            return
        match self.chance.randrange(4):
            case 0:
                raise Crash
            case 1:
                raise ProviderRateLimited(0.0)
            case _:
                raise ProviderUnavailable("no answer", outcome_unknown=True)


class FlakyLedger(MemoryLedger):
    """It may take the process with it before or after a booking."""

    def __init__(self, chance: random.Random, rate: float) -> None:
        super().__init__()
        self.chance, self.rate, self.quiet = chance, rate, False

    async def book(self, *args: Any, **named: Any) -> None:
        self._fail()
        await super().book(*args, **named)
        self._fail()

    def _fail(self) -> None:
        if not self.quiet and self.chance.random() < self.rate:
            raise Crash


class World:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = FrozenClock("2024-01-01T00:00:00Z")
        rate = self.chance.choice((0.02, 0.1, 0.25))
        self.mock = MockBillingAdapter(clock=self.clock)
        self.provider = Flaky(self.mock, self.chance, rate)
        self.ledger = FlakyLedger(self.chance, rate / 4)
        self.crashes = 0

    async def lives(self, work: Callable[[Metering], Awaitable[object]]) -> None:
        """Work of one process, which may not come to its end."""
        metering = Metering(ledger=self.ledger, billing=self.provider, clock=self.clock, worker="off")
        try:
            await metering.startup()
            await work(metering)
            await metering.shutdown()
        except Crash:
            self.crashes += 1
            await metering.aclose()

    async def begins(self) -> None:
        async def sign_up(metering: Metering) -> None:
            for number in range(TENANTS):
                tenant = f"t{number}"
                await metering.put_tenant(tenant, plan="pro")
                made = await metering.billing.create_customer(organization_id=tenant, email="a@b.example", name="A")
                card = self.chance.choice(CARDS)
                await metering.billing.create_payment_method(made.id, payment_method=card)

        self.provider.quiet = self.ledger.quiet = True
        await self.lives(sign_up)
        self.provider.quiet = self.ledger.quiet = False

    async def month(self, period: str) -> None:
        """Closed and collected by processes that come and go, two of them at once at times; some customers find
        another card, or confirm."""

        async def close(metering: Metering) -> None:
            await metering.close_period(period)

        year, number = map(int, period.split("-"))
        self.clock.set(f"{year}-{number + 1:02}-02T01:00:00Z")
        for _ in range(8):
            await self.lives(close)
        for _ in range(12):
            twins = [self.lives(lambda metering: metering.collect()) for _ in range(self.chance.choice((1, 1, 2)))]
            await asyncio.gather(*twins)
            await self.something_happens()
            self.clock.advance(timedelta(hours=self.chance.choice((0, 1, 6, 30))))

    async def something_happens(self) -> None:
        for invoice in [each for each in self.mock._invoices.values() if each.status == "open"]:
            match self.chance.randrange(12):
                case 0:
                    await self.mock.create_payment_method(invoice.customer_id, payment_method="pm_card_visa")
                    newest = [*self.mock._methods][-1]
                    await self.mock.set_default_payment_method(invoice.customer_id, newest)
                case 1 if invoice.id in self.mock._pending:
                    self.mock.finish_payment(invoice.id)
                    self.provider.taken[invoice.id] += 1
        told = self.mock.webhooks()
        self.chance.shuffle(told)

        async def hear(metering: Metering) -> None:
            for body, headers in told:
                await metering._take_webhook(body, headers)

        if self.chance.random() < 0.9:  # else they are lost
            await self.lives(hear)

    async def ends(self) -> None:
        """The faults are over, and everybody has a card that pays."""
        self.provider.quiet = self.ledger.quiet = True
        for customer in [*self.mock._customers]:
            method = await self.mock.create_payment_method(customer, payment_method="pm_card_visa")
            await self.mock.set_default_payment_method(customer, method.id)
        for invoice in [*self.mock._pending]:
            self.mock.finish_payment(invoice)
            self.provider.taken[invoice] += 1

        async def settle(metering: Metering) -> None:
            assert metering._inbox is not None
            for period in PERIODS:
                await metering.close_period(period)
            for _ in range(4):
                for each in await metering.list_payments(state="uncollectible"):  # and paid there after all
                    if each.provider_invoice and self.mock._invoices[each.provider_invoice].status == "open":
                        self.mock.finish_payment(each.provider_invoice)
                        self.provider.taken[each.provider_invoice] += 1
                await metering._inbox.back_fill(self.clock.now() - timedelta(days=200))
                for each in await metering.list_payments():
                    if each.state in ("failing", "confirming", "parked"):
                        await metering.retry_payment(each.invoice)
                await metering.collect()
                self.clock.advance(timedelta(hours=7))

        await self.lives(settle)
        await self.lives(self.judge)

    async def judge(self, metering: Metering) -> None:
        invoices = [each for period in PERIODS for each in await metering.list_invoices(period=period)]
        payments = {each.invoice: each for each in await metering.list_payments()}
        assert len(invoices) == TENANTS * len(PERIODS)
        assert {each.status for each in invoices} == {"paid"}, Counter(each.status for each in invoices)
        standing = [each for each in self.mock._invoices.values() if each.status != "void"]
        assert len(standing) == len(invoices), "one at the provider for each of ours"
        for each in invoices:
            payment = payments[each.id]
            assert payment.provider_invoice is not None
            there = self.mock._invoices[payment.provider_invoice]
            assert all(each.outcome for each in payment.attempts), "each attempt is finished before the next"
            assert self.mock._payments[there.id] <= len(payment.attempts), "a bank is asked once for each attempt"
            assert (there.total, there.status, self.provider.taken[there.id]) == (each.total, "paid", 1), each.id
        taken = sum(
            (self.mock._invoices[each].total * times for each, times in self.provider.taken.items()), Decimal(0)
        )
        assert taken == sum(each.total for each in invoices)
        statuses = Counter([(await metering.get_tenant(f"t{n}")).status for n in range(TENANTS)])  # type: ignore[union-attr]
        assert statuses == {"active": TENANTS}
        notices = Counter(
            each.data["invoice"] for each in await self.ledger.notices(limit=10**6) if each.type == "payment.succeeded"
        )
        assert notices == Counter(each.id for each in invoices)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(max(1, MONTHS // (TENANTS * len(PERIODS)))))
async def test_every_month_is_billed_once_whatever_fails(seed: int) -> None:
    world = World(seed)
    await world.begins()
    for period in PERIODS:
        await world.month(period)
    await world.ends()
    assert world.crashes, "a run without a crash proves little"
