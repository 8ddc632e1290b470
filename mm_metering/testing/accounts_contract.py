"""The law of ``Accounts`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import pytest

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger
from mm_metering.core.books import INVOICE_NUMBERS, NOTE_NUMBERS, Account, Entries
from mm_metering.core.invoices import Adjustment, CreditGrant, CreditNote, Discount, Invoice, InvoiceLine
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.errors import InvalidInput

FREE: Final = TenantDefaults(plan="free", version=1, timezone="UTC")
THEN: Final = datetime(2024, 2, 2, 12, 0, 0, 123456, tzinfo=UTC)
ALL: Final = Wanted(periods=("2023-12", "2024-01", "2024-02"), usage=("2024-01", "2024-02"))
NO_SUCH_PRICE: Final = Decimal("0.000000000000123456789012")


def a_line(name: str, amount: str = "10.00", **changes: Any) -> InvoiceLine:
    line = InvoiceLine(
        id=name,
        kind="overage",
        meter="api_calls",
        description="é #\N{SNOWMAN}",
        quantity=Decimal("1000.5"),
        unit_price=NO_SUCH_PRICE,
        amount=Decimal(amount),
        resource="/v1/x",
    )
    return line.model_copy(update=changes)


def an_invoice(name: str = "inv_1", *, tenant: str = "acme", period: str = "2024-01", **changes: Any) -> Invoice:
    invoice = Invoice(
        id=name,
        number=None,
        tenant=tenant,
        period=period,
        status="draft",
        currency="USD",
        lines=(a_line(f"{name}.1"), a_line(f"{name}.2", "-0.01", kind="tax", meter=None)),
        subtotal=Decimal("10.00"),
        tax=Decimal("-0.01"),
        credits_applied=Decimal("0.00"),
        total=Decimal("9.99"),
        usage_until=THEN,
        stored_until=THEN,
    )
    return invoice.model_copy(update=changes)


def a_grant(name: str, remaining: str = "5.00", *, tenant: str = "acme") -> CreditGrant:
    return CreditGrant(
        id=name,
        tenant=tenant,
        currency="USD",
        kind="promo",
        amount=Decimal("5.00"),
        remaining=Decimal(remaining),
        priority=0,
        applies_to="all",
        granted_at=THEN,
    )


def a_note(name: str, number: str, *, invoice: str = "inv_1") -> CreditNote:
    return CreditNote(
        id=name,
        number=number,
        invoice=invoice,
        tenant="acme",
        currency="USD",
        line=None,
        quantity=None,
        amount=Decimal("1.00"),
        tax=Decimal("0.19"),
        total=Decimal("1.19"),
        to_credit=Decimal("0.00"),
        reason="goodwill",
        created_at=THEN,
    )


def an_adjustment(name: str, invoice: str | None = None) -> Adjustment:
    amount = Decimal("-1.50")
    return Adjustment(
        id=name, tenant="acme", currency="USD", amount=amount, reason="sorry", created_at=THEN, invoice=invoice
    )


def a_discount(name: str) -> Discount:
    return Discount(
        id=name, tenant="acme", name="x", percent=Decimal(10), amount=None, applies_to="all", starts_at=THEN
    )


async def open_accounts(ledger: Ledger, *tenants: str) -> None:
    for tenant in tenants or ("acme", "beta"):
        await ledger.put_tenant(NewTenant(tenant), defaults=FREE, now_us=1)


async def book(ledger: Ledger, *decide: Entries | Callable[[Account], Entries], tenant: str = "acme") -> None:
    for each in decide:
        await ledger.book([tenant], ALL, each if callable(each) else lambda _, each=each: each)  # type: ignore[misc]


async def seen(ledger: Ledger, tenant: str = "acme") -> Account:
    account = await ledger.account(tenant, ALL)
    assert account is not None
    return account


class AccountsContract:
    """Each test quotes one law."""

    async def test_a_tenant_that_is_not_known_has_no_account_and_nothing_is_decided(self, ledger: Ledger) -> None:
        assert await ledger.account("acme", ALL) is None

        def decide(account: Account) -> Entries:
            raise AssertionError(account)

        await ledger.book(["acme"], ALL, decide)

    async def test_what_is_booked_is_read_back_as_it_was(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        entries = Entries(
            invoices=(an_invoice(), an_invoice("inv_2", period="2024-02", number="INV-000001", status="paid")),
            grants=(a_grant("cg_2"), a_grant("cg_1")),
            notes=(a_note("cn_1", "CN-000001"),),
            discounts=(a_discount("di_2"), a_discount("di_1")),
            adjustments=(an_adjustment("ad_2"), an_adjustment("ad_1", "inv_1")),
            inputs={"inv_1": b"\0packed"},
        )
        await book(ledger, entries)
        account = await seen(ledger)
        assert (account.tenant.id, account.cells) == ("acme", [])
        assert account.invoices == [*entries.invoices]
        assert account.grants == [*entries.grants], "in order of creation"
        assert account.notes == [*entries.notes]
        assert account.discounts == [*entries.discounts]
        assert account.adjustments == [*entries.adjustments]
        assert await ledger.invoice("inv_2") == entries.invoices[1]
        assert await ledger.invoice_of_line("inv_2.2") == entries.invoices[1]
        assert await ledger.invoice_numbered("INV-000001") == entries.invoices[1]
        assert await ledger.invoice_numbered("INV-000002") is None
        assert await ledger.invoice_inputs("inv_1") == b"\0packed"
        assert (await ledger.credit_notes("inv_1"), await ledger.credit_notes("inv_2")) == ([*entries.notes], [])
        assert await ledger.grants("acme") == [*entries.grants]
        assert await ledger.grants("beta") == []

    async def test_of_what_is_not_there_nothing_is_found(self, ledger: Ledger) -> None:
        assert await ledger.invoice("inv_1") is None
        assert await ledger.invoice_of_line("inv_1.1") is None
        assert await ledger.invoice_inputs("inv_1") is None
        assert (await ledger.invoices(), await ledger.credit_notes("inv_1"), await ledger.grants("acme")) == (
            [],
            [],
            [],
        )

    async def test_an_account_holds_the_periods_that_are_wanted_and_what_belongs_to_them(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        old = an_invoice("inv_0", period="2023-11")
        notes = (a_note("cn_0", "CN-000001", invoice="inv_0"), a_note("cn_1", "CN-000002"))
        adjustments = (an_adjustment("ad_0", "inv_0"), an_adjustment("ad_1", "inv_1"), an_adjustment("ad_2"))
        await book(ledger, Entries(invoices=(old, an_invoice()), notes=notes, adjustments=adjustments))
        account = await seen(ledger)
        assert [each.id for each in account.invoices] == ["inv_1"]
        assert [each.id for each in account.notes] == ["cn_1"]
        assert [each.id for each in account.adjustments] == ["ad_1", "ad_2"]
        assert account.levels_before == {}

    async def test_a_value_is_written_in_place_of_the_one_with_its_id(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        await book(
            ledger, Entries(invoices=(an_invoice(),), inputs={"inv_1": b"1"}, grants=(a_grant("b"), a_grant("a")))
        )
        changed = an_invoice(status="finalized", number="INV-000007", lines=(a_line("inv_1.3"),))
        await book(ledger, Entries(invoices=(changed,), grants=(a_grant("b", "1.00"),)))
        assert await ledger.invoice("inv_1") == changed
        assert await ledger.invoice_of_line("inv_1.1") is None
        assert await ledger.invoice_of_line("inv_1.3") == changed
        assert await ledger.invoice_inputs("inv_1") == b"1", "what it was made of stays"
        assert [(each.id, each.remaining) for each in await ledger.grants("acme")] == [
            ("b", Decimal("1.00")),
            ("a", Decimal("5.00")),
        ]

    async def test_an_error_of_a_decision_leaves_everything_as_it_was(self, ledger: Ledger) -> None:
        await open_accounts(ledger)

        def decide(account: Account) -> Entries:
            if account.tenant.id == "beta":
                raise LookupError
            return Entries(invoices=(an_invoice(),), numbered=(INVOICE_NUMBERS,))

        with pytest.raises(LookupError):
            await ledger.book(["acme", "beta"], ALL, decide)
        assert await ledger.invoices() == []
        assert (await seen(ledger)).next_numbers == {INVOICE_NUMBERS: 1, NOTE_NUMBERS: 1}

    async def test_tenants_are_decided_in_order_and_numbers_go_on_within_a_transaction(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        asked: list[tuple[str, int]] = []

        def decide(account: Account) -> Entries:
            asked.append((account.tenant.id, account.next_numbers[INVOICE_NUMBERS]))
            return Entries(numbered=(INVOICE_NUMBERS, INVOICE_NUMBERS))

        await ledger.book(["beta", "nobody", "acme", "beta"], ALL, decide)
        assert asked == [("acme", 1), ("beta", 3)]
        assert (await seen(ledger)).next_numbers == {INVOICE_NUMBERS: 5, NOTE_NUMBERS: 1}

    async def test_numbers_have_no_gaps_however_many_book_at_once(self, ledger: Ledger) -> None:
        names = [f"t{number}" for number in range(12)]
        await open_accounts(ledger, *names)

        def decide(account: Account) -> Entries:
            number, name = account.next_numbers[INVOICE_NUMBERS], account.tenant.id
            invoice = an_invoice(f"inv_{name}", tenant=name, number=f"INV-{number:06}")
            return Entries(invoices=(invoice,), numbered=(INVOICE_NUMBERS,))

        await asyncio.gather(*(ledger.book([name], ALL, decide) for name in names))
        numbers = sorted(each.number or "" for each in await ledger.invoices())
        assert numbers == [f"INV-{number:06}" for number in range(1, 13)]

    async def test_two_who_book_for_one_tenant_see_each_others_entries(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        await book(ledger, Entries(grants=(a_grant("cg_1", "5.00"),)))

        def take_a_unit(account: Account) -> Entries:
            (grant,) = account.grants
            return Entries(grants=(grant.model_copy(update={"remaining": grant.remaining - 1}),))

        await asyncio.gather(*(book(ledger, take_a_unit) for _ in range(5)))
        assert [each.remaining for each in await ledger.grants("acme")] == [Decimal("0.00")]

    async def test_invoices_come_by_period_tenant_and_issue_in_pages(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        keys = [("2024-01", "acme", 1), ("2024-01", "acme", 2), ("2024-01", "beta", 1), ("2024-02", "acme", 1)]
        for number, (period, tenant, issue) in enumerate(reversed(keys)):
            state = "void" if issue == 1 else "paid"
            invoice = an_invoice(f"inv_{number}", tenant=tenant, period=period, issue=issue, status=state)
            await book(ledger, Entries(invoices=(invoice,)), tenant=tenant)

        async def found(**options: Any) -> list[tuple[str, str, int]]:
            return [(each.period, each.tenant, each.issue) for each in await ledger.invoices(**options)]

        assert await found() == keys
        assert await found(limit=2) == keys[:2]
        assert await found(after=keys[1]) == keys[2:]
        assert await found(tenant="acme", period="2024-01") == keys[:2]
        assert await found(status="void") == [keys[0], *keys[2:]]

    async def test_amounts_beyond_64_bits_of_nano_units_are_kept(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        huge = an_invoice(total=Decimal("99999999999999.99"), lines=(a_line("l", "-99999999999999.99"),))
        await book(ledger, Entries(invoices=(huge,)))
        assert await ledger.invoice("inv_1") == huge

    async def test_a_tenant_has_one_payer_who_pays_for_nobody_else(self, ledger: Ledger) -> None:
        assert (await ledger.payer("acme"), await ledger.paid_for("cus_1")) == (None, None)
        assert [await ledger.link_payer("acme", each) for each in ("cus_1", "cus_1", "cus_2")] == ["cus_1"] * 3
        with pytest.raises(InvalidInput, match="pays for another organization already"):
            await ledger.link_payer("beta", "cus_1")
        assert (await ledger.payer("beta"), await ledger.paid_for("cus_1")) == (None, "acme")
        await ledger.unlink_payer("acme")
        assert await ledger.link_payer("beta", "cus_1") == "cus_1"
        assert (await ledger.payer("acme"), await ledger.paid_for("cus_1")) == (None, "beta")
