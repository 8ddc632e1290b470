import mm_metering.billing.stripe
from mm_metering import catalogues
from mm_metering.testing.fake_stripe import FakeStripe

fake = stack.enter_context(FakeStripe(clock=clock))
real = mm_metering.billing.stripe.StripeBillingAdapter
there = lambda **_: real(api_key=fake.api_key, webhook_secret=fake.webhook_secret, base_url=fake.url)
mm_metering.billing.stripe.StripeBillingAdapter = there
stack.callback(setattr, mm_metering.billing.stripe, "StripeBillingAdapter", real)
catalogue = catalogues.seed


async def your_billing(adapter):
    customer = await adapter.create_customer(organization_id="acme", email="billing@acme.example", name="Acme LLC")
    items = [{"description": "API calls", "quantity": 1000, "unit_price": "0.01"}]
    return (await adapter.create_invoice(customer.id, items=items, idempotency_key="2024-01")).id
