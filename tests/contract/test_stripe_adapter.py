"""What the Stripe adapter makes of a Stripe that keeps what it is told: steps, keys, and what was left half done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mm_metering import FrozenClock, catalogues
from mm_metering.billing.adapter import BillingAdapter, BillingCustomer, BillingInvoice, PaymentMethod, Subscription
from mm_metering.billing.stripe import PlanPrice, Retries, StripeBillingAdapter
from mm_metering.errors import InvalidInput, InvalidRequest, ProviderUnavailable
from mm_metering.testing.billing_contract import BillingAdapterContract
from mm_metering.testing.fake_stripe import FakeStripe
from mm_metering.testing.usage_reporter_contract import UsageReporterContract

ITEMS = [
    {"description": "Pro", "quantity": 1, "unit_price": "99.00"},
    {"description": "API calls", "quantity": 1000, "unit_price": "0.01"},
]


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe() as fake:
        yield fake


LIVE_KEY = os.environ.get("STRIPE_TEST_KEY", "")
assert not LIVE_KEY or "_test_" in LIVE_KEY, "STRIPE_TEST_KEY is a live key; this file makes customers and invoices"
LIVE_TOKENS = {
    "pays": "pm_card_visa",
    "declined": "pm_card_chargeCustomerFail",
    "confirms": "pm_card_authenticationRequired",
}
"""Those that can be kept, and decline when they are charged: Stripe has none for a card that was lost."""
RUN = uuid4().hex[:8]

Make = Callable[..., StripeBillingAdapter]


@pytest.fixture
async def make(fake: FakeStripe) -> AsyncIterator[Make]:
    made: list[StripeBillingAdapter] = []

    def make(**options: Any) -> StripeBillingAdapter:
        usual: dict[str, Any] = {"api_key": fake.api_key, "base_url": fake.url, "calls_per_s": 1000}
        retries = Retries() if LIVE_KEY else Retries(first_s=0, most_s=0)
        adapter = StripeBillingAdapter(**usual | options, retries=retries)
        made.append(adapter)
        return adapter

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture
def adapter(make: Make) -> StripeBillingAdapter:
    return make()


@pytest.fixture
def a_day_later(make: Make) -> StripeBillingAdapter:
    """An adapter whose keys Stripe has forgotten."""
    later = make()
    write = later._calls.write
    later._calls.write = lambda ask, key=None: write(ask, key and f"later:{key}")  # type: ignore[method-assign]
    return later


@pytest.fixture(params=["adapter", "a_day_later"])
def second(request: pytest.FixtureRequest, adapter: StripeBillingAdapter, a_day_later: StripeBillingAdapter) -> Any:
    return adapter if request.param == "adapter" else a_day_later


@pytest.fixture
async def customer(adapter: StripeBillingAdapter) -> BillingCustomer:
    return await adapter.create_customer(organization_id="org_1", email="a@example.com", name="Acme")


@pytest.fixture
async def method(adapter: StripeBillingAdapter, customer: BillingCustomer) -> PaymentMethod:
    return await adapter.create_payment_method(customer.id, payment_method="pm_card_visa")


@pytest.fixture
async def subscription(adapter: StripeBillingAdapter, customer: BillingCustomer) -> Subscription:
    await adapter.push_plans(catalogues.seed)
    return await adapter.create_subscription(customer_id=customer.id, plan_id="pro")


def raw(fake: FakeStripe, method: str, path: str, **params: str) -> Any:
    """Asks without the adapter, as the dashboard or another program would."""
    return raw_at(fake.api_key, fake.url, method, path, **params)


def raw_at(api_key: str, url: str, method: str, path: str, **params: str) -> Any:
    key = {"Authorization": f"Bearer {api_key}"}
    with httpx.Client(base_url=url, headers=key) as client:
        sent = {"params": params} if method == "GET" else {"data": params}
        return client.request(method, f"/v1/{path}", **sent).raise_for_status().json()  # type: ignore[arg-type]


def price(fake: FakeStripe, unit_amount: str = "0", **named: str) -> str:
    """Of a month; its id."""
    product = raw(fake, "POST", "products", name="Gold")["id"]
    terms = {"product": product, "currency": "usd", "unit_amount": unit_amount, "recurring[interval]": "month"}
    made: str = raw(fake, "POST", "prices", **terms, **named)["id"]
    return made


def invoices(fake: FakeStripe, customer: BillingCustomer) -> list[Any]:
    found: list[Any] = raw(fake, "GET", "invoices", customer=customer.id, limit="100")["data"]
    return found


class TestStripe(BillingAdapterContract):
    """On the fake; with ``STRIPE_TEST_KEY=sk_test_…`` on Stripe itself, in that account's sandbox. Plans' prices are
    above zero, so that a first payment may fail."""

    TOKENS = BillingAdapterContract.TOKENS if not LIVE_KEY else LIVE_TOKENS

    def organization(self, name: str) -> str:
        return f"{name}_{RUN}"

    @pytest.fixture
    def adapter(self, fake: FakeStripe, make: Make) -> BillingAdapter:
        api_key, url = (LIVE_KEY, "https://api.stripe.com") if LIVE_KEY else (fake.api_key, fake.url)
        for plan in ("pro", "enterprise"):
            terms = {
                "product_data[name]": plan,
                "currency": "usd",
                "recurring[interval]": "month",
                "unit_amount": "9900",
            }
            named = {"lookup_key": f"mm_contract_{plan}_{RUN}", "transfer_lookup_key": "true"}
            raw_at(api_key, url, "POST", "prices", **(terms | named))
        prices = {plan: f"mm_contract_{plan}_{RUN}" for plan in ("pro", "enterprise")}
        return make(api_key=api_key, base_url=url, calls_per_s=10 if LIVE_KEY else 1000, prices=prices)


class TestStripeThatMultiplies(UsageReporterContract):
    """On the fake, which can be made to finish a month."""

    clock = FrozenClock("2024-01-01T00:00:00Z")

    @pytest.fixture
    def fake(self) -> Iterator[FakeStripe]:
        self.clock.set("2024-01-01T00:00:00Z")
        with FakeStripe(clock=self.clock) as fake:
            yield fake

    @pytest.fixture
    def adapter(self, fake: FakeStripe, make: Make) -> StripeBillingAdapter:
        self.stands_in = fake
        return make(billing_mode="report")

    def now(self) -> datetime:
        return self.clock.now()

    async def finish_month(self, adapter: StripeBillingAdapter, subscription_id: str) -> BillingInvoice | None:
        """Usage of the month that is over, and the price of the next."""
        self.clock.set("2024-02-01T01:00:00Z")
        made = self.stands_in.roll()
        invoice = await adapter.get_invoice(made[0]["id"])
        assert invoice is not None
        assert invoice.total == Decimal("116.50")
        return invoice


# -- customers --------------------------------------------------------------------------------------------------------


async def test_an_organization_whose_customer_was_deleted_gets_one_new_one(
    adapter: StripeBillingAdapter, customer: BillingCustomer
) -> None:
    asked: dict[str, Any] = {"organization_id": "org_1", "email": "b@example.com", "name": "Acme"}
    for _ in range(2):
        await adapter.delete_customer(customer.id)
        new = await adapter.create_customer(**asked)
        assert new.id != customer.id
        assert await adapter.create_customer(**asked) == new
        customer = new


async def test_a_customer_is_found_when_stripe_has_forgotten_the_key(
    a_day_later: StripeBillingAdapter, customer: BillingCustomer
) -> None:
    again = await a_day_later.create_customer(organization_id="org_1", email="other@example.com", name="Other")
    assert again == customer


async def test_a_customer_that_was_left_half_made_is_finished(adapter: StripeBillingAdapter, fake: FakeStripe) -> None:
    asked: dict[str, Any] = {
        "organization_id": "it's {org}:é",
        "email": "a@example.com",
        "name": "Acme",
        "metadata": {"tier": "gold"},
    }
    fake.fail("/v1/customers/cus_", "500-before", times=8)
    with pytest.raises(ProviderUnavailable):
        await adapter.create_customer(**asked)
    fake.fail("/v1/customers/cus_", "500-before", times=0)
    made = await adapter.create_customer(**asked)
    assert (made.email, made.metadata, made.organization_id) == ("a@example.com", {"tier": "gold"}, "it's {org}:é")
    assert len(raw(fake, "GET", "customers")["data"]) == 1


async def test_the_first_way_to_pay_is_the_default(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer, method: PaymentMethod
) -> None:
    await adapter.create_payment_method(customer.id, payment_method="pm_card_mastercard")
    kept = raw(fake, "GET", f"customers/{customer.id}")["invoice_settings"]
    assert kept["default_payment_method"] == method.id


# -- invoices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["/v1/invoices$", "/v1/invoiceitems", "/finalize"])
async def test_an_answer_that_is_lost_at_any_step_makes_one_invoice_with_its_items(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer, step: str
) -> None:
    fake.fail(step, "lost", times=1)
    made = await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert (made.status, made.total, len(made.items)) == ("open", Decimal("109.00"), 2)
    assert [each["id"] for each in invoices(fake, customer)] == [made.id]


@pytest.mark.parametrize("step", ["/v1/invoiceitems", "/finalize"])
async def test_an_invoice_that_was_left_half_made_is_finished_with_the_same_key(
    adapter: StripeBillingAdapter, second: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer, step: str
) -> None:
    fake.fail(step, "500-before", times=4)
    with pytest.raises(ProviderUnavailable):
        await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert [each["status"] for each in invoices(fake, customer)] == ["draft"]
    made = await second.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert (made.status, made.total, [each.description for each in made.items]) == (
        "open",
        Decimal("109.00"),
        ["Pro", "API calls"],
    )
    assert len(invoices(fake, customer)) == 1


async def test_two_at_once_with_one_key_make_one_invoice(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer
) -> None:
    asked = (adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k") for _ in range(3))
    made = await asyncio.gather(*asked)
    assert {each.total for each in made} == {Decimal("109.00")}
    assert {each.id for each in made} == {each["id"] for each in invoices(fake, customer)} == {made[0].id}
    assert await adapter.get_invoice(made[0].id) == made[0]


async def test_an_invoice_that_cannot_be_read_back_may_have_been_made(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer
) -> None:
    fake.fail("/lines", "500-before", times=4)
    with pytest.raises(ProviderUnavailable) as found:
        await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert found.value.outcome_unknown
    made = await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert [(each["id"], each["status"]) for each in invoices(fake, customer)] == [(made.id, "open")]


async def test_what_was_made_under_a_key_is_found_when_stripe_has_forgotten_it(
    adapter: StripeBillingAdapter,
    a_day_later: StripeBillingAdapter,
    customer: BillingCustomer,
    subscription: Subscription,
) -> None:
    made = await adapter.create_invoice(customer.id, items=ITEMS, idempotency_key="k")
    assert await a_day_later.create_invoice(customer.id, items=ITEMS, idempotency_key="k") == made
    with pytest.raises(InvalidRequest, match="'k' was used before"):
        await a_day_later.create_invoice(customer.id, items=ITEMS[:1], idempotency_key="k")
    asked: dict[str, Any] = {"customer_id": customer.id, "plan_id": "enterprise", "idempotency_key": "s"}
    other = await adapter.create_subscription(**asked)
    assert (await a_day_later.create_subscription(**asked)).id == other.id != subscription.id
    with pytest.raises(InvalidRequest, match="'s' was used before"):
        await a_day_later.create_subscription(**asked | {"plan_id": "pro"})


async def test_a_total_that_is_not_ours_is_not_invoiced(
    make: Make, fake: FakeStripe, customer: BillingCustomer
) -> None:
    """Half a krona is one whole krona by ISO 4217, and 50 aurar at Stripe."""
    with pytest.raises(InvalidRequest, match=r"1 ISK by our rules and 0\.50 by Stripe's; nothing was invoiced"):
        await make(currency="ISK").create_invoice(customer.id, items=[{"description": "x", "unit_price": "0.5"}])
    assert invoices(fake, customer) == []


async def test_an_invoice_takes_in_nothing_else(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer
) -> None:
    raw(fake, "POST", "invoiceitems", customer=customer.id, amount="500", currency="usd", description="loose")
    made = await adapter.create_invoice(customer.id, items=ITEMS)
    assert made.total == Decimal("109.00")


async def test_a_long_invoice_is_read_to_its_end(adapter: StripeBillingAdapter, customer: BillingCustomer) -> None:
    items = [{"description": f"line {place}", "quantity": -place, "unit_price": "-0.01"} for place in range(1, 105)]
    made = await adapter.create_invoice(customer.id, items=items)
    assert [each.description for each in made.items] == [each["description"] for each in items]
    assert made.total == Decimal("54.60")


async def test_a_payment_whose_answer_is_lost_is_taken_once(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer, method: PaymentMethod
) -> None:
    made = await adapter.create_invoice(customer.id, items=ITEMS)
    fake.fail("/pay$", "lost", times=1)
    assert (await adapter.pay_invoice(made.id, method.id)).status == "paid"


async def test_the_void_of_a_draft_deletes_it(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer
) -> None:
    draft = raw(fake, "POST", "invoices", customer=customer.id, currency="usd")["id"]
    assert (await adapter.void_invoice(draft)).status == "void"
    assert await adapter.get_invoice(draft) is None


# -- subscriptions and plans ------------------------------------------------------------------------------------------


async def test_a_plan_without_a_price_names_the_way_out_and_pushing_makes_it(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer
) -> None:
    with pytest.raises(InvalidRequest, match="'mm_pro' at Stripe; mm-metering plans push makes it"):
        await adapter.create_subscription(customer_id=customer.id, plan_id="pro_monthly")
    planned = await adapter.push_plans(catalogues.seed, dry_run=True)
    assert PlanPrice("pro", "mm_pro", "missing") in planned
    assert {each.state for each in await adapter.push_plans(catalogues.seed, dry_run=True)} == {"missing"}
    made = await adapter.push_plans(catalogues.seed)
    assert [(each.plan, each.state) for each in made] == [(each.plan, "made") for each in planned]
    assert [each._replace(state="made") for each in await adapter.push_plans(catalogues.seed)] == list(made)
    assert (await adapter.create_subscription(customer_id=customer.id, plan_id="pro")).status == "active"


async def test_prices_may_be_called_otherwise(make: Make, fake: FakeStripe, customer: BillingCustomer) -> None:
    price(fake, lookup_key="ours_basic")
    adapter = make(prices={"pro": price(fake), "basic_monthly": "ours_basic"})
    made = await adapter.create_subscription(customer_id=customer.id, plan_id="pro")
    assert made.plan_id == "pro"
    assert (await adapter.update_subscription(made.id, plan_id="basic")).plan_id == "basic"
    assert "pro" not in {each.plan for each in await adapter.push_plans(catalogues.seed)}


async def test_a_new_plan_replaces_the_item_and_adds_none(
    adapter: StripeBillingAdapter, fake: FakeStripe, subscription: Subscription
) -> None:
    await adapter.update_subscription(subscription.id, plan_id="enterprise")
    kept = raw(fake, "GET", f"subscriptions/{subscription.id}")
    assert [each["price"]["lookup_key"] for each in kept["items"]["data"]] == ["mm_enterprise"]


async def test_resuming_ends_whatever_holds_a_subscription_back(
    adapter: StripeBillingAdapter, fake: FakeStripe, subscription: Subscription
) -> None:
    path = f"subscriptions/{subscription.id}"
    raw(fake, "POST", path, **{"pause_collection[behavior]": "void", "cancel_at_period_end": "true"})
    resumed = await adapter.resume_subscription(subscription.id)
    kept = raw(fake, "GET", path)
    assert (resumed.cancel_at_period_end, kept["pause_collection"], kept["status"]) == (False, None, "active")
    assert await adapter.resume_subscription(subscription.id) == resumed


async def test_a_subscription_that_is_paused_there_goes_on(
    adapter: StripeBillingAdapter, fake: FakeStripe, subscription: Subscription
) -> None:
    raw(fake, "POST", f"subscriptions/{subscription.id}/pause")
    paused = await adapter.get_subscription(subscription.id)
    assert paused is not None
    assert (paused.status, (await adapter.resume_subscription(subscription.id)).status) == ("paused", "active")


async def test_a_catalogue_of_many_plans_is_pushed_whole(adapter: StripeBillingAdapter) -> None:
    many = catalogues.load({"currency": "USD", "plans": {f"p{number}": {"price": "1.00"} for number in range(12)}})
    assert {each.state for each in await adapter.push_plans(many)} == {"made"}
    assert [each.state for each in await adapter.push_plans(many)] == ["there"] * 12


async def test_a_bad_name_of_a_price_is_refused(make: Make) -> None:
    with pytest.raises(InvalidInput, match="prices"):
        make(prices={"pro": "\n"})


@pytest.mark.parametrize(
    ("unit_price", "sent"), [("99", "9900"), ("0.5", "50"), ("10.00", "1000"), ("0.000000001", "0.0000001")]
)
async def test_a_price_is_sent_without_an_exponent(
    adapter: StripeBillingAdapter, fake: FakeStripe, customer: BillingCustomer, unit_price: str, sent: str
) -> None:
    """The SDK sends ``str`` of a Decimal, which may be "9.9E+3"."""
    await adapter.create_invoice(customer.id, items=[{"description": "x", "quantity": 10**7, "unit_price": unit_price}])
    asked = [each.params["unit_amount_decimal"] for each in fake.requests if each.path == "/v1/invoiceitems"]
    assert asked == [sent]
