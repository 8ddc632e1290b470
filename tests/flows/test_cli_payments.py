"""``mm-metering payments`` and ``reconcile``, as somebody types them: what they print, and their exit codes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import ModuleType
from typing import TypeVar

import pytest

from mm_metering import FrozenClock, Metering, MockBillingAdapter
from mm_metering.billing.adapter import BillingInvoice
from tests.flows.conftest import Shell

T = TypeVar("T")
APP = ("--app", "house_of_payments:metering")


class Town(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own; the provider is always the same."""

    def __init__(self, ledger: str) -> None:
        super().__init__("house_of_payments")
        self.clock = FrozenClock("2024-01-01T00:00:00Z")
        self.adapter = MockBillingAdapter(clock=self.clock)
        self.ledger = ledger

    @property
    def metering(self) -> Metering:
        return Metering(ledger=self.ledger, billing=self.adapter, clock=self.clock, worker="off")

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())

    def there(self) -> BillingInvoice:
        return next(each for each in self.adapter._invoices.values() if each.status != "void")

    def change(self, **changes: object) -> None:
        """Behind our back."""
        there = self.there()
        self.adapter._invoices[there.id] = there.model_copy(update=changes)


@pytest.fixture
def town(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Town:
    """A tenant whose January is closed."""
    town = Town(sqlite_url)
    monkeypatch.setitem(sys.modules, "house_of_payments", town)

    async def closes(metering: Metering) -> None:
        await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
        await metering.billing.create_payment_method(made.id, payment_method="pm_card_chargeDeclinedLostCard")
        town.clock.set("2024-02-03T00:00:00Z")
        await metering.close_period("2024-01")

    town.do(closes)
    return town


def test_from_sent_to_paid(town: Town, shell: Shell) -> None:
    assert shell("payments", "list", *APP)[1].rstrip().endswith("payments: 0")
    code, said, _ = shell("payments", "run", *APP)
    assert (code, said.split("\n")[:2]) == (0, ["invoices: 1", "  failing: 1"])
    code, said, _ = shell("payments", "list", "--state", "failing", *APP)
    assert code == 0
    assert all(each in said for each in ("2024-01", "acme", "failing", "99.00 USD", "2024-02-17", "declined lost_card"))
    assert shell("payments", "list", "--state", "paid", *APP)[1].rstrip().endswith("payments: 0")

    async def mends(metering: Metering) -> str:
        method = await metering.billing.create_payment_method("acme", payment_method="pm_card_visa")
        await metering.billing.set_default_payment_method("acme", method.id)
        return (await metering.list_payments())[0].invoice

    invoice = town.do(mends)
    assert shell("payments", "retry", invoice, *APP)[0] == 0
    assert shell("payments", "run", *APP)[1].split("\n")[1] == "  paid: 1"
    code, said, _ = shell("reconcile", "--provider", "mock", "--period", "2024-01", *APP)
    assert (code, said) == (0, "2024-01: invoices compared: 1, differences: 0\n")
    assert shell("payments", "retry", "inv_nothing", *APP)[0] == 1


def reconcile(shell: Shell, *options: str) -> tuple[int, str]:
    code, said, _ = shell("reconcile", "--provider", "mock", "--period", "2024-01", *options, *APP)
    return code, said


def test_what_was_not_sent_is_drift_that_apply_sends(town: Town, shell: Shell) -> None:
    code, said = reconcile(shell)
    assert (code, "not sent" in said, "is sent" in said) == (1, True, True)
    assert not town.adapter._invoices
    code, said = reconcile(shell, "--apply")
    assert (code, "followed the provider for: 1" in said) == (1, True)
    assert reconcile(shell) == (0, "2024-01: invoices compared: 1, differences: 0\n")


def test_a_payment_that_was_not_heard_of_is_drift_that_apply_follows(town: Town, shell: Shell) -> None:
    shell("payments", "run", *APP)
    town.adapter.finish_payment(town.there().id)
    before = shell("payments", "list", *APP)
    code, said = reconcile(shell)
    assert (code, "status" in said, "payment follows" in said) == (1, True, True)
    assert shell("payments", "list", *APP) == before, "it changes nothing"
    assert reconcile(shell, "--apply")[0] == 1
    assert reconcile(shell)[0] == 0
    assert town.do(lambda metering: metering.get_tenant("acme")).status == "active"  # type: ignore[union-attr]


def test_changed_lines_totals_and_currencies_are_drift_that_somebody_must_look_at(town: Town, shell: Shell) -> None:
    shell("payments", "run", *APP)
    items = town.there().items
    town.change(items=(items[0].model_copy(update={"unit_price": Decimal("98.00")}),), total=Decimal("98.00"))
    code, said = reconcile(shell, "--apply")
    assert (code, "line 1" in said, "total" in said, "look there" in said) == (1, True, True, True)
    assert "98.00" in reconcile(shell)[1], "amounts are never changed"
    town.change(items=(*items, *items), total=Decimal("99.00"), currency="EUR")
    code, said = reconcile(shell)
    assert (code, "line 2" in said, "currency" in said, "total " in said) == (1, True, True, False)


def test_an_invoice_that_is_missing_or_there_twice_is_drift(town: Town, shell: Shell) -> None:
    shell("payments", "run", *APP)
    there = town.there()
    town.adapter._invoices["in_again"] = there.model_copy(update={"id": "in_again"})
    code, said = reconcile(shell)
    assert (code, "asked for twice" in said, "in_again" in said) == (1, True, True)
    town.adapter._invoices.clear()
    code, said = reconcile(shell)
    assert (code, "missing" in said) == (1, True)


def test_what_is_asked_wrongly_is_one_line(town: Town, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, error = shell("reconcile", "--provider", "stripe", "--period", "2024-01", *APP)
    assert (code, error.count("\n")) == (2, 1)
    assert "which is 'mock'" in error
    assert shell("reconcile", "--provider", "mock", "--period", "January", *APP)[0] == 2
    monkeypatch.setattr(town, "adapter", None)
    code, _, error = shell("payments", "run", *APP)
    assert (code, "billing" in error) == (2, True)
