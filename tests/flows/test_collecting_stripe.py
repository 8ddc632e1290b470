"""As on the mock, through the Stripe adapter and over the wire: sent, paid, declined, confirmed, reconciled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, StripeBillingAdapter, UsageEvent
from mm_metering.billing.stripe import Retries
from mm_metering.core.collecting import Collection
from mm_metering.testing.fake_stripe import FakeStripe
from tests.flows.conftest import Make


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-01T00:00:00Z")


@pytest.fixture
def fake(clock: FrozenClock) -> Iterator[FakeStripe]:
    with FakeStripe(clock=clock) as fake:
        yield fake


def adapter_of(fake: FakeStripe, **options: Any) -> StripeBillingAdapter:
    given: dict[str, Any] = {"api_key": fake.api_key, "webhook_secret": fake.webhook_secret, "base_url": fake.url}
    return StripeBillingAdapter(**given | options, retries=Retries(first_s=0, most_s=0), calls_per_s=1000)


@pytest.fixture
async def adapter(fake: FakeStripe) -> AsyncIterator[StripeBillingAdapter]:
    adapter = adapter_of(fake)
    yield adapter
    await adapter.aclose()


@pytest.fixture
async def metering(make: Make, adapter: StripeBillingAdapter) -> Metering:
    return await make(billing=adapter, worker="off")


async def closed(metering: Metering, clock: FrozenClock, card: str) -> None:
    """A tenant whose January is closed."""
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
    await metering.billing.create_payment_method("acme", payment_method=card)
    await metering.record_api_call("acme", "/v1/reports")
    clock.set("2024-02-03T00:00:00Z")
    await metering.close_period("2024-01")


async def hears(metering: Metering, fake: FakeStripe) -> None:
    for body, headers in fake.deliveries():
        await metering._take_webhook(body, headers)


async def collected(metering: Metering) -> Collection:
    await metering.collect()
    return (await metering.list_payments())[0]


async def status(metering: Metering) -> str:
    found = await metering.get_tenant("acme")
    assert found is not None
    return found.status


async def test_a_closed_month_is_paid_and_the_books_are_the_same(
    metering: Metering, fake: FakeStripe, clock: FrozenClock
) -> None:
    await closed(metering, clock, "pm_card_visa")
    assert (await collected(metering)).state == "paid"
    await hears(metering, fake)
    assert (await collected(metering)).state == "paid"
    found = await metering.reconcile_payments("2024-01")
    assert (found.invoices, found.drift) == (1, ())
    assert len(fake.account.kept["invoice"]) == 1


@pytest.mark.parametrize("step", ["/invoices$", "/invoiceitems$", "/finalize$", "/pay$", "/lines$"])
@pytest.mark.parametrize("kind", ["lost", "500-before"])
async def test_whatever_step_fails_it_is_paid_once_later(
    metering: Metering, fake: FakeStripe, clock: FrozenClock, step: str, kind: Any
) -> None:
    await closed(metering, clock, "pm_card_visa")
    fake.fail(step, kind, times=4)  # as often as the adapter asks
    for _ in range(4):
        await metering.collect()
        clock.advance(timedelta(hours=30))
    assert (await collected(metering)).state == "paid"
    assert [each["status"] for each in fake.account.kept["invoice"].values()] == ["paid"]


async def test_a_declined_payment_is_tried_again_and_recovers_with_a_new_card(
    metering: Metering, fake: FakeStripe, clock: FrozenClock
) -> None:
    await closed(metering, clock, "pm_card_chargeDeclinedInsufficientFunds")
    failed = await collected(metering)
    assert (failed.state, failed.attempts[0].code, await status(metering)) == (
        "failing",
        "insufficient_funds",
        "past_due",
    )
    await hears(metering, fake)
    assert len((await collected(metering)).attempts) == 1, "its customer is delinquent now, which is no new card"
    clock.advance(timedelta(days=14))
    assert ((await collected(metering)).suspended, await status(metering)) == (True, "unpaid")
    assert (await metering.check_limit("acme", "api_calls")).reason == "payment-required"
    method = await metering.billing.create_payment_method("acme", payment_method="pm_card_visa")
    await metering.billing.set_default_payment_method("acme", method.id)
    await hears(metering, fake)
    assert ((await collected(metering)).state, await status(metering)) == ("paid", "active")


async def test_a_payment_that_is_confirmed_in_the_browser_is_heard_of(
    metering: Metering, fake: FakeStripe, clock: FrozenClock
) -> None:
    await closed(metering, clock, "pm_card_authenticationRequired")
    waits = await collected(metering)
    assert waits.state == "confirming"
    fake.authenticate(waits.provider_invoice or "")
    await hears(metering, fake)
    assert (await collected(metering)).state == "paid"


@pytest.mark.parametrize("outcome", ["works", "fails"])
async def test_a_bank_that_takes_its_time_is_heard_of(
    metering: Metering, fake: FakeStripe, clock: FrozenClock, outcome: str
) -> None:
    await closed(metering, clock, "pm_card_pending")
    waits = await collected(metering)
    assert waits.is_pending
    works = outcome == "works"
    (fake.authenticate if works else fake.decline)(waits.provider_invoice or "")
    await hears(metering, fake)
    after = await collected(metering)
    assert (after.state, after.attempts[0].code) == (("paid", "") if works else ("failing", "insufficient_funds"))


@pytest.mark.parametrize("minutes", [0, 6])
async def test_what_was_not_delivered_is_asked_for(
    metering: Metering, fake: FakeStripe, clock: FrozenClock, minutes: int
) -> None:
    """What is so young that it may be on its way is followed, but not told as missed."""
    await closed(metering, clock, "pm_card_authenticationRequired")
    waits = await collected(metering)
    fake.authenticate(waits.provider_invoice or "")
    clock.advance(timedelta(minutes=minutes))
    assert metering._inbox is not None
    missed = await metering._inbox.back_fill(clock.now() - timedelta(days=3))
    assert (missed > 0) == (minutes > 5)
    assert ((await collected(metering)).state, await status(metering)) == ("paid", "active")


async def test_a_payments_event_names_no_invoice_and_its_invoice_is_found(
    metering: Metering, adapter: StripeBillingAdapter, fake: FakeStripe, clock: FrozenClock
) -> None:
    await closed(metering, clock, "pm_card_visa")
    paid = await collected(metering)
    succeeded = next(each for each in fake.events() if each["type"] == "payment_intent.succeeded")
    hint = adapter.read_webhook(*fake.delivery(succeeded), clock.now())
    seen = await adapter.look(hint.about, hint.object_id)
    assert seen.invoice is not None
    assert (hint.about, seen.invoice.id) == ("payment", paid.provider_invoice)
    assert (await adapter.look("payment", "pi_unknown")).invoice is None
    assert (await adapter.look("customer", "cus_unknown")).is_gone
    assert await adapter.look("other", "x") == await adapter.look("invoice", "in_unknown")


async def test_a_revoked_key_stops_the_run_in_one_sentence_and_changes_nothing(
    make: Make, fake: FakeStripe, clock: FrozenClock, metering: Metering
) -> None:
    await closed(metering, clock, "pm_card_visa")
    before = await metering.list_payments()
    fake._desk.api_key = "sk_test_another"
    run = await metering.collect()
    assert (run.stopped, run.became.total()) == (
        "Stripe does not take the api_key: it is wrong, revoked or expired",
        0,
    )
    assert [each.state for each in await metering.list_payments()] == ["open"]
    assert before == []
    fake._desk.api_key = fake.api_key
    assert (await collected(metering)).state == "paid"


async def test_a_customer_that_was_deleted_is_parked_in_one_sentence(
    metering: Metering, adapter: StripeBillingAdapter, fake: FakeStripe, clock: FrozenClock
) -> None:
    await closed(metering, clock, "pm_card_visa")
    customer = await metering.ledger.payer("acme")
    assert customer is not None
    await adapter.delete_customer(customer)
    parked = await collected(metering)
    assert parked.state == "parked"
    assert "No such customer" in parked.note


async def test_from_the_environment(monkeypatch: pytest.MonkeyPatch, fake: FakeStripe) -> None:
    for name, value in (("API_KEY", fake.api_key), ("WEBHOOK_SECRET", "whsec_1"), ("BASE_URL", fake.url)):
        monkeypatch.setenv(f"MM_METERING_STRIPE_{name}", value)
    async with Metering.from_env(worker="off") as metering:
        made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
        assert made.id in fake.account.kept["customer"]
        assert isinstance(metering.billing.adapter, StripeBillingAdapter)
        await metering.billing.adapter.aclose()


async def test_one_tenant_is_billed_the_same_in_both_modes(make: Make, fake: FakeStripe, clock: FrozenClock) -> None:
    adapter = adapter_of(fake, billing_mode="report")
    metering = await make(billing=adapter, billing_mode="report", worker="off")
    await adapter.push_plans(metering.catalogue)
    made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
    method = await metering.billing.create_payment_method("acme", payment_method="pm_card_visa")
    await metering.billing.create_subscription(customer_id=made.id, plan_id="pro", payment_method_id=method.id)
    for day, quantity in ((5, 12_000), (9, 9_000), (20, 10_777)):
        clock.set(f"2024-01-{day:02}T12:00:00Z")
        event = UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=quantity)
        await metering.record(event)
        await metering.report_usage()
    clock.set("2024-02-01T01:00:00Z")
    await metering.report_usage()
    first, second = fake.account.kept["invoice"].values(), fake.roll()
    theirs = next(iter(first))["total"] + sum(
        line["amount"] for line in second[0]["lines"]["data"] if line["description"] != "mm_pro"
    )
    ours = await metering.preview_invoice("acme", period="2024-01")
    assert (ours.subtotal, theirs) == (Decimal("126.77"), 12_677)
    await hears(metering, fake)
    await metering.collect()
    assert await metering.list_payments() == [], "the provider makes its own invoices"
    await adapter.aclose()


async def test_where_the_provider_bills_its_subscription_decides_whether_a_tenant_is_served(
    make: Make, fake: FakeStripe, clock: FrozenClock
) -> None:
    adapter = adapter_of(fake, billing_mode="report")
    metering = await make(billing=adapter, billing_mode="report", worker="off")
    await adapter.push_plans(metering.catalogue)
    made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
    method = await metering.billing.create_payment_method("acme", payment_method="pm_card_visa")
    there = await metering.billing.create_subscription(customer_id=made.id, plan_id="pro", payment_method_id=method.id)
    for their_status, ours in (("past_due", "past_due"), ("unpaid", "unpaid"), ("active", "active")):
        clock.advance(timedelta(seconds=1))
        fake.account.kept["subscription"][there.id]["status"] = their_status
        fake.account.tell("customer.subscription.updated", fake.account.get("subscription", there.id))
        await hears(metering, fake)
        await metering.collect()
        assert await status(metering) == ours
    assert [each.type for each in await metering.ledger.notices()] == [
        "subscription.recovered",
        "subscription.suspended",
        "subscription.past_due",
    ]
    await adapter.aclose()
