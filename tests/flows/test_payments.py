"""``metering.billing``: the payment provider behind a Metering, on the mock; our timeline changes first."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mm_metering import CardDeclined, FrozenClock, InvalidRequest, Metering, MockBillingAdapter, UsageEvent
from mm_metering.errors import CatalogueError, InvalidInput
from tests.flows.conftest import Make


async def make_one(make: Make, clock: FrozenClock, stores: dict[str, str]) -> tuple[Metering, MockBillingAdapter]:
    adapter = MockBillingAdapter(clock=clock)
    return await make(**stores, billing=adapter), adapter


async def test_from_a_customer_to_a_paid_invoice(make: Make, clock: FrozenClock, stores: dict[str, str]) -> None:
    metering, _ = await make_one(make, clock, stores)
    billing = metering.billing
    customer = await billing.create_customer(
        organization_id="org_123", email="billing@acme-mortgage.example", name="Acme Mortgage LLC"
    )
    method = await billing.create_payment_method(customer.id, payment_method="pm_card_visa")
    await billing.set_default_payment_method(customer.id, method.id)
    subscription = await billing.create_subscription(
        customer_id=customer.id, plan_id="pro_monthly", payment_method_id=method.id
    )
    tenant = await metering.get_tenant("org_123")
    assert tenant is not None
    assert (tenant.plan, subscription.plan_id, subscription.status) == ("pro", "pro", "active")
    assert (await billing.update_subscription(subscription.id, plan_id="enterprise_monthly")).plan_id == "enterprise"
    assert (await metering.check_limit("org_123", "api_calls")).limit == 100_000
    assert (await billing.cancel_subscription(subscription.id)).cancel_at_period_end
    planned = await metering.get_tenant("org_123")
    assert planned is not None
    assert [each.status for each in planned.planned] == ["canceled"]
    assert not (await billing.resume_subscription(subscription.id)).cancel_at_period_end
    invoice = await billing.create_invoice(
        customer_id=customer.id,
        items=[
            {"description": "Pro Plan - January 2024", "quantity": 1, "unit_price": "99.00"},
            {"description": "Additional API Calls (1,000)", "quantity": 1000, "unit_price": "0.01"},
        ],
        due_date="2024-02-15",
    )
    assert (await billing.pay_invoice(invoice.id, method.id)).status == "paid"
    await billing.cancel_subscription(subscription.id, at_once=True)
    assert (await metering.check_limit("org_123", "api_calls")).reason == "payment-required"


async def test_an_organizations_id_does_for_its_customers(
    make: Make, clock: FrozenClock, stores: dict[str, str]
) -> None:
    metering, adapter = await make_one(make, clock, stores)
    made = await metering.billing.create_customer(organization_id="org_1", email="a@b.example", name="A")
    again = await metering.billing.create_customer(organization_id="org_1", email="c@d.example", name="B")
    assert made == again == await metering.billing.get_customer("org_1") == await adapter.get_customer(made.id)
    await metering.billing.create_payment_method("org_1", payment_method="pm_card_visa")
    assert len(await metering.billing.get_payment_methods("org_1")) == 1
    await metering.billing.delete_customer("org_1")
    assert await metering.billing.get_customer("org_1") is None
    other = await metering.billing.create_customer(organization_id="org_1", email="a@b.example", name="A")
    assert other.id != made.id


async def test_a_subscription_is_not_made_twice_and_a_downgrade_waits(memory: Metering, clock: FrozenClock) -> None:
    memory.billing._adapter = MockBillingAdapter(clock=clock)
    customer = await memory.billing.create_customer(organization_id="org_1", email="a@b.example", name="A")
    method = await memory.billing.create_payment_method(customer.id, payment_method="pm_card_visa")
    asked = {"customer_id": customer.id, "plan_id": "enterprise", "payment_method_id": method.id}
    first, second = [await memory.billing.create_subscription(**asked) for _ in range(2)]
    assert first.id == second.id
    await memory.billing.update_subscription(first.id, plan_id="pro")
    tenant = await memory.get_tenant("org_1")
    assert tenant is not None
    assert (tenant.plan, [each.plan for each in tenant.planned]) == ("enterprise", ["pro"])


async def test_what_goes_wrong_is_said_and_changes_nothing_here(memory: Metering, clock: FrozenClock) -> None:
    with pytest.raises(InvalidInput, match="there is no payment provider"):
        await memory.billing.get_customer("org_1")
    memory.billing._adapter = MockBillingAdapter(clock=clock)
    await memory.put_tenant("org_1", plan="free")
    with pytest.raises(InvalidRequest, match="no customer of an organization 'cus_nobody'"):
        await memory.billing.create_subscription(customer_id="cus_nobody", plan_id="pro")
    customer = await memory.billing.create_customer(organization_id="org_1", email="a@b.example", name="A")
    with pytest.raises(CatalogueError, match="prop"):
        await memory.billing.create_subscription(customer_id=customer.id, plan_id="prop")
    with pytest.raises(InvalidRequest, match="no subscription"):
        await memory.billing.cancel_subscription("sub_nobody")
    method = await memory.billing.create_payment_method(customer.id, payment_method="pm_card_chargeDeclined")
    invoice = await memory.billing.create_invoice("org_1", items=[{"description": "x", "unit_price": "1.00"}])
    with pytest.raises(CardDeclined, match="generic_decline"):
        await memory.billing.pay_invoice(invoice.id, method.id)
    tenant = await memory.get_tenant("org_1")
    assert tenant is not None
    assert (tenant.plan, tenant.status) == ("free", "active")


async def test_usage_goes_to_the_metering(memory: Metering) -> None:
    await memory.put_tenant("org_1", plan="pro")
    event = {"event_type": "api_call", "resource": "/v1/x", "quantity": 3}
    assert await memory.billing.record_usage("org_1", event) == "recorded"
    moved = UsageEvent(tenant="other", event_type="api_call", resource="/v1/x")
    assert await memory.billing.record_usage("org_1", moved) == "recorded"
    assert (await memory.billing.get_usage("org_1", "2024-01-15", "2024-01-15")).api_calls == 4
    assert (await memory.billing.create_usage_snapshot("org_1", "2024-01-15")).api_calls == 4


async def test_the_summary_has_the_plan_the_spend_and_each_quota(metering: Metering, clock: FrozenClock) -> None:
    await metering.put_tenant("org_1", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await metering.record(UsageEvent(tenant="org_1", event_type="api_call", resource="/v1/x", quantity=11_000))
    await metering.set_level("org_1", "users", 4)
    found = await metering.get_billing_summary("org_1")
    assert (found.current_plan, found.monthly_spend) == ("pro", Decimal("109.00"))
    assert found.usage_breakdown["api_calls"] == (11_000, 10_000, 1_000, Decimal("10.00"))
    assert found.usage_breakdown["users"] == (4, 10, 0, Decimal(0))
    assert found.upcoming_invoice == await metering.preview_invoice("org_1")
