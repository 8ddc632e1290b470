"""The law of payment providers, on those that there are."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from mm_metering import FrozenClock
from mm_metering.billing.adapter import BillingAdapter, BillingInvoice, looks_like_a_card
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.errors import CardDeclined, InvalidInput
from mm_metering.testing.billing_contract import BillingAdapterContract
from mm_metering.testing.usage_reporter_contract import UsageReporterContract


class TestMock(BillingAdapterContract):
    @pytest.fixture
    def adapter(self) -> BillingAdapter:
        return MockBillingAdapter()


class TestMockThatMultiplies(UsageReporterContract):
    clock = FrozenClock("2024-01-01T00:00:00Z")

    @pytest.fixture
    def adapter(self) -> MockBillingAdapter:
        self.clock.set("2024-01-01T00:00:00Z")
        return MockBillingAdapter(clock=self.clock, billing_mode="report")

    def now(self) -> datetime:
        return self.clock.now()

    async def finish_month(self, adapter: MockBillingAdapter, subscription_id: str) -> BillingInvoice:
        start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
        self.clock.set("2024-02-01T01:00:00Z")
        invoice = adapter.invoice_month(subscription_id, start, end)
        assert invoice.total == Decimal("116.50")
        return invoice


async def test_canned_values_lie_over_what_it_answers() -> None:
    adapter = MockBillingAdapter()
    adapter.set_mock_response("create_customer", {"id": "cus_mock_123", "email": "test@example.com"})
    customer = await adapter.create_customer(organization_id="org_123", email="a@example.com", name="Test Customer")
    assert (customer.id, customer.email, customer.name) == ("cus_mock_123", "test@example.com", "Test Customer")
    assert await adapter.get_customer("cus_mock_123") == customer
    with pytest.raises(InvalidInput, match="is no method of a billing adapter"):
        adapter.set_mock_response("createCustomer", {})


async def test_its_periods_go_on_by_its_clock_and_a_cancellation_takes_effect() -> None:
    clock = FrozenClock("2024-01-20T00:00:00Z")
    adapter = MockBillingAdapter(clock=clock)
    customer = await adapter.create_customer(organization_id="org_1", email="a@example.com", name="A")
    method = await adapter.create_payment_method(customer.id, payment_method="pm_card_visa")
    made = await adapter.create_subscription(customer_id=customer.id, plan_id="pro", payment_method_id=method.id)
    assert made.current_period_end == datetime(2024, 2, 1, tzinfo=UTC)
    clock.set("2024-02-01T00:00:00Z")
    later = await adapter.get_subscription(made.id)
    assert later is not None
    assert (later.status, later.current_period_end) == ("active", datetime(2024, 3, 1, tzinfo=UTC))
    await adapter.cancel_subscription(made.id)
    clock.set("2024-03-01T00:00:00Z")
    ended = await adapter.get_subscription(made.id)
    assert ended is not None
    assert ended.status == "canceled"


async def test_a_card_that_has_expired_is_not_kept() -> None:
    adapter = MockBillingAdapter()
    customer = await adapter.create_customer(organization_id="org_1", email="a@example.com", name="A")
    with pytest.raises(CardDeclined, match="expired_card"):
        await adapter.create_payment_method(customer.id, payment_method="pm_card_chargeDeclinedExpiredCard")


@pytest.mark.parametrize("text", ["4242424242424242", "card 4000-0000-0000-0002 please", "x6011111111111117x"])
def test_card_numbers_are_seen(text: str) -> None:
    assert looks_like_a_card(text)


@pytest.mark.parametrize("text", ["", "4242424242424241", "2024-01-15T12:00:00", "org_123456789", "1234567890123"])
def test_other_numbers_are_none(text: str) -> None:
    assert not looks_like_a_card(text)


async def test_a_name_with_a_card_number_is_refused() -> None:
    with pytest.raises(InvalidInput, match="what looks like a card number"):
        await MockBillingAdapter().create_customer(organization_id="o", email="a@b.example", name="4242424242424242")
