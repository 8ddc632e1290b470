"""The law of payment providers, as tests: subclass it and give ``adapter``.

    class TestMine(BillingAdapterContract):
        @pytest.fixture
        def adapter(self): return MyAdapter(...)

The tokens are Stripe's test tokens. Override ``TOKENS`` where a provider has others; without a token nothing is tried.
Override ``organization`` where the account outlives a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import ClassVar

import pytest

from mm_metering.billing.adapter import BillingAdapter, BillingCustomer, BillingInvoice, PaymentMethod
from mm_metering.errors import ActionRequired, BillingError, CardDeclined, InvalidInput, InvalidRequest

ITEMS: tuple[Mapping[str, object], ...] = (
    {"description": "Pro Plan - January 2024", "quantity": 1, "unit_price": "99.00"},
    {"description": "Additional API calls", "quantity": 1000, "unit_price": "0.01"},
)
NUMBERS = ("4242424242424242", "4242 4242 4242 4242", "5555-5555-5555-4444", "378282246310005", "pm_4242424242424242")


class BillingAdapterContract:
    """Each test quotes one law."""

    TOKENS: ClassVar[Mapping[str, str]] = {
        "pays": "pm_card_visa",
        "declined": "pm_card_chargeDeclined",
        "lost": "pm_card_chargeDeclinedLostCard",
        "confirms": "pm_card_authenticationRequired",
    }
    CURRENCY: ClassVar[str] = "USD"

    @pytest.fixture
    def adapter(self) -> BillingAdapter:
        raise NotImplementedError("give the adapter that is to be checked")

    @pytest.fixture
    async def customer(self, adapter: BillingAdapter) -> BillingCustomer:
        organization = self.organization("org_123")
        return await adapter.create_customer(
            organization_id=organization, email="billing@acme.example", name="Acme LLC"
        )

    def organization(self, name: str) -> str:
        return name

    async def method(self, adapter: BillingAdapter, customer: BillingCustomer, kind: str = "pays") -> PaymentMethod:
        return await adapter.create_payment_method(customer.id, payment_method=self.TOKENS[kind])

    async def invoice(self, adapter: BillingAdapter, customer: BillingCustomer) -> BillingInvoice:
        return await adapter.create_invoice(customer.id, items=ITEMS, due_date="2030-02-15")

    # -- customers ----------------------------------------------------------------------------------------------------

    async def test_it_is_a_billing_adapter(self, adapter: BillingAdapter) -> None:
        assert isinstance(adapter, BillingAdapter)

    async def test_an_organization_has_one_customer(self, adapter: BillingAdapter, customer: BillingCustomer) -> None:
        again = await adapter.create_customer(
            organization_id=customer.organization_id, email="other@acme.example", name="Other"
        )
        other = await adapter.create_customer(
            organization_id=self.organization("org_124"), email="b@acme.example", name="Acme Two"
        )
        assert again == customer == await adapter.get_customer(customer.id)
        assert other.id != customer.id
        assert (customer.organization_id, customer.email, customer.name) == (
            self.organization("org_123"),
            "billing@acme.example",
            "Acme LLC",
        )

    async def test_what_is_not_named_stays_when_a_customer_is_updated(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        await adapter.update_customer(customer.id, metadata={"tier": "gold", "since": "2024"})
        changed = await adapter.update_customer(customer.id, name="Acme Inc", metadata={"tier": ""})
        assert (changed.name, changed.email) == ("Acme Inc", customer.email)
        assert (changed.metadata.get("since"), "tier" in changed.metadata) == ("2024", False)
        assert await adapter.get_customer(customer.id) == changed

    async def test_a_deleted_customer_is_gone_and_may_be_deleted_again(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        for _ in range(2):
            await adapter.delete_customer(customer.id)
            assert await adapter.get_customer(customer.id) is None
        with pytest.raises(InvalidRequest):
            await adapter.update_customer(customer.id, name="Acme")

    async def test_unknown_ids_are_none_or_invalid_requests(self, adapter: BillingAdapter) -> None:
        assert await adapter.get_customer("cus_nobody") is None
        assert await adapter.get_subscription("sub_nobody") is None
        assert await adapter.get_invoice("in_nobody") is None
        for call in (
            adapter.get_payment_methods("cus_nobody"),
            adapter.update_subscription("sub_nobody", plan_id="pro"),
            adapter.cancel_subscription("sub_nobody"),
            adapter.create_invoice("cus_nobody", items=ITEMS),
            adapter.void_invoice("in_nobody"),
            adapter.pay_invoice("in_nobody", "pm_nobody"),
        ):
            with pytest.raises(InvalidRequest):
                await call

    # -- ways to pay --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("number", NUMBERS)
    async def test_a_card_number_is_refused_and_never_repeated(
        self, adapter: BillingAdapter, customer: BillingCustomer, number: str
    ) -> None:
        with pytest.raises(InvalidInput) as found:
            await adapter.create_payment_method(customer.id, payment_method=number)
        assert number not in str(found.value)
        assert await adapter.get_payment_methods(customer.id) == []

    async def test_a_token_becomes_a_way_to_pay_that_shows_four_digits(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method = await self.method(adapter, customer)
        assert (method.type, method.brand, method.last4) == ("card", "visa", "4242")
        assert await adapter.get_payment_methods(customer.id) == [method]
        await adapter.set_default_payment_method(customer.id, method.id)
        for _ in range(2):
            await adapter.delete_payment_method(method.id)
            assert await adapter.get_payment_methods(customer.id) == []

    async def test_the_only_way_to_pay_of_an_active_subscription_stays(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method = await self.method(adapter, customer)
        subscription = await adapter.create_subscription(
            customer_id=customer.id, plan_id="pro", payment_method_id=method.id
        )
        with pytest.raises(InvalidRequest):
            await adapter.delete_payment_method(method.id)
        await adapter.cancel_subscription(subscription.id, at_once=True)
        await adapter.delete_payment_method(method.id)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def test_a_subscription_begins_changes_its_plan_and_ends(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method = await self.method(adapter, customer)
        made = await adapter.create_subscription(
            customer_id=customer.id, plan_id="pro_monthly", payment_method_id=method.id
        )
        assert (made.plan_id, made.status, made.cancel_at_period_end) == ("pro", "active", False)
        moved = await adapter.update_subscription(made.id, plan_id="enterprise_monthly")
        assert (moved.id, moved.plan_id) == (made.id, "enterprise")
        assert (await adapter.cancel_subscription(made.id)).cancel_at_period_end
        assert not (await adapter.resume_subscription(made.id)).cancel_at_period_end
        ended = await adapter.cancel_subscription(made.id, at_once=True)
        assert (ended.status, (await adapter.cancel_subscription(made.id)).status) == ("canceled", "canceled")
        for call in (adapter.resume_subscription(made.id), adapter.update_subscription(made.id, plan_id="pro")):
            with pytest.raises(InvalidRequest):
                await call

    async def test_a_subscription_that_is_not_paid_is_incomplete_and_no_error(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method = await self.method(adapter, customer, "declined")
        made = await adapter.create_subscription(customer_id=customer.id, plan_id="pro", payment_method_id=method.id)
        assert made.status == "incomplete"

    async def test_the_same_key_makes_one_thing_and_another_request_under_it_is_refused(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method = await self.method(adapter, customer)
        asked = {"customer_id": customer.id, "plan_id": "pro", "payment_method_id": method.id}
        first = await adapter.create_subscription(**asked, idempotency_key="sub:1")
        assert (await adapter.create_subscription(**asked, idempotency_key="sub:1")).id == first.id
        invoice = await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="inv:1")
        assert (await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="inv:1")).id == invoice.id
        with pytest.raises(InvalidRequest):
            await adapter.create_invoice(customer.id, items=ITEMS[:1], idempotency_key="inv:1")
        assert (await adapter.create_invoice(customer.id, items=ITEMS)).id != invoice.id

    # -- invoices -----------------------------------------------------------------------------------------------------

    async def test_an_invoice_has_exactly_its_items_and_is_paid_once(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        method, invoice = await self.method(adapter, customer), await self.invoice(adapter, customer)
        assert (invoice.status, invoice.total, invoice.currency) == ("open", Decimal("109.00"), self.CURRENCY)
        assert [(each.description, each.quantity) for each in invoice.items] == [
            (each["description"], each["quantity"]) for each in ITEMS
        ]
        assert (await adapter.get_invoice(invoice.id), invoice.due_date) == (invoice, date(2030, 2, 15))
        assert (await adapter.pay_invoice(invoice.id, method.id)).status == "paid"
        assert (await adapter.pay_invoice(invoice.id, method.id)).status == "paid"
        with pytest.raises(InvalidRequest):
            await adapter.void_invoice(invoice.id)

    @pytest.mark.parametrize(
        ("quantity", "unit_price", "total"),
        [(1, "0.005", "0.01"), (333, "0.00003", "0.01"), (1000, "0.00003", "0.03"), (1500, "0.00003", "0.05")],
    )
    async def test_an_item_is_rounded_once(
        self, adapter: BillingAdapter, customer: BillingCustomer, quantity: int, unit_price: str, total: str
    ) -> None:
        item = {"description": "tokens", "quantity": quantity, "unit_price": unit_price}
        assert (await adapter.create_invoice(customer.id, items=[item])).total == Decimal(total)

    async def test_an_item_may_be_negative(self, adapter: BillingAdapter, customer: BillingCustomer) -> None:
        items = [*ITEMS, {"description": "discount", "quantity": 1, "unit_price": "-9.00"}]
        assert (await adapter.create_invoice(customer.id, items=items)).total == Decimal("100.00")

    @pytest.mark.parametrize("wrong", [[], [ITEMS[0]] * 251, [{"description": "x", "quantity": 1, "unit_price": 0.01}]])
    async def test_no_items_too_many_and_floats_are_refused(
        self, adapter: BillingAdapter, customer: BillingCustomer, wrong: list[Mapping[str, object]]
    ) -> None:
        with pytest.raises((InvalidInput, ValueError)):
            await adapter.create_invoice(customer.id, items=wrong)

    async def test_a_declined_card_says_why_and_the_invoice_stays_open(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        invoice = await self.invoice(adapter, customer)
        for kind, is_final in (("declined", False), ("lost", True)):
            if kind not in self.TOKENS:
                continue
            method = await self.method(adapter, customer, kind)
            with pytest.raises(CardDeclined) as found:
                await adapter.pay_invoice(invoice.id, method.id)
            assert found.value.decline_code
            assert found.value.is_final == is_final
        kept = await adapter.get_invoice(invoice.id)
        assert kept is not None
        assert kept.status == "open"

    async def test_a_payment_that_must_be_confirmed_hands_out_a_secret_for_the_browser(
        self, adapter: BillingAdapter, customer: BillingCustomer
    ) -> None:
        invoice, method = await self.invoice(adapter, customer), await self.method(adapter, customer, "confirms")
        with pytest.raises(ActionRequired) as found:
            await adapter.pay_invoice(invoice.id, method.id)
        assert found.value.client_secret
        assert found.value.client_secret not in str(found.value)

    async def test_a_void_invoice_cannot_be_paid(self, adapter: BillingAdapter, customer: BillingCustomer) -> None:
        invoice, method = await self.invoice(adapter, customer), await self.method(adapter, customer)
        assert (await adapter.void_invoice(invoice.id)).status == "void"
        with pytest.raises(BillingError):
            await adapter.pay_invoice(invoice.id, method.id)
