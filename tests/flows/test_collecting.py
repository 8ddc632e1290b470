"""From a closed month to money: the billing run, and what follows where it fails, on the mock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, MockBillingAdapter
from mm_metering.billing.adapter import BillingInvoice
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.dunning import Dunning
from mm_metering.core.invoices import Invoice
from mm_metering.errors import InvalidInput, NotFound, ProviderRefused, ProviderUnavailable
from tests.flows.conftest import Make

PAYMENTS = (
    *("payment.succeeded", "payment.failed", "payment.action_required", "invoice.uncollectible"),
    *("subscription.past_due", "subscription.suspended", "subscription.recovered"),
)
Closed = Callable[..., Awaitable[Invoice]]


class House:
    """A tenant on Pro whose January is closed, and its provider."""

    def __init__(self, metering: Metering, adapter: MockBillingAdapter, clock: FrozenClock) -> None:
        self.metering, self.adapter, self.clock = metering, adapter, clock
        self.customer = ""
        self.told: list[Notice] = []
        for type_ in PAYMENTS:
            metering.on(type_)(self.told.append)

    async def signs_up(self, tenant: str = "acme", *, card: str | None = "pm_card_visa") -> None:
        await self.metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        made = await self.metering.billing.create_customer(organization_id=tenant, email="a@b.example", name="Acme")
        self.customer = made.id
        if card:
            await self.has(card)

    async def has(self, card: str) -> None:
        method = await self.metering.billing.create_payment_method(self.customer, payment_method=card)
        await self.metering.billing.set_default_payment_method(self.customer, method.id)

    async def closes(self) -> Invoice:
        await self.metering.record_api_call("acme", "/v1/reports")
        self.clock.set("2024-02-03T00:00:00Z")
        return (await self.metering.close_period("2024-01", tenant="acme"))[0]

    async def collects(self) -> Collection:
        await self.metering.collect()
        return (await self.metering.list_payments())[0]

    async def later(self, **by: int) -> Collection:
        self.clock.advance(timedelta(**by))
        return await self.collects()

    async def hears(self) -> None:
        """The provider's webhooks come in."""
        for body, headers in self.adapter.webhooks():
            await self.metering._take_webhook(body, headers)

    async def status(self, tenant: str = "acme") -> str:
        found = await self.metering.get_tenant(tenant)
        assert found is not None
        return found.status

    async def there(self, each: Collection) -> BillingInvoice:
        assert each.provider_invoice is not None
        found = await self.adapter.get_invoice(each.provider_invoice)
        assert found is not None
        return found

    @property
    def types(self) -> list[str]:
        return [each.type for each in self.told]


@pytest.fixture
async def house(make: Make, clock: FrozenClock) -> House:
    clock.set("2024-01-01T00:00:00Z")
    adapter = MockBillingAdapter(clock=clock)
    return House(await make(billing=adapter, worker="off"), adapter, clock)


async def test_a_closed_month_is_paid_once_on_every_store(
    make: Make, clock: FrozenClock, stores: dict[str, str]
) -> None:
    clock.set("2024-01-01T00:00:00Z")
    adapter = MockBillingAdapter(clock=clock)
    house = House(await make(**stores, billing=adapter, worker="off"), adapter, clock)
    await house.signs_up()
    invoice = await house.closes()
    run = await house.metering.collect()
    assert (run.done, dict(run.became), run.stopped) == (1, {"paid": 1}, "")
    collection = (await house.metering.list_payments(tenant="acme", period="2024-01", state="paid"))[0]
    there = await house.there(collection)
    assert (there.total, there.status) == (invoice.total, "paid")
    paid = await house.metering.get_invoice(invoice.id)
    assert (paid.status, paid.amount_due) == ("paid", Decimal(0))
    assert [(each.type, each.data["amount"]) for each in house.told] == [("payment.succeeded", "99.00")]
    said = {each.action for each in await house.metering.list_audit(tenant="acme")}
    assert said > {"invoice finalized", "collection begun", "collection open -> paid", "invoice paid"}
    assert (await house.metering.collect()).done == 0
    await house.hears()
    await house.metering.collect()
    assert (len(house.told), len(adapter._invoices), adapter._payments[there.id]) == (1, 1, 1)
    assert (await house.metering.prove()).holds


async def test_a_failed_payment_is_tried_on_the_days_of_the_table_then_the_tenant_is_refused(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    invoice = await house.closes()
    first = await house.collects()
    assert (first.state, first.standing, await house.status()) == ("failing", "past_due", "past_due")
    assert house.types == ["payment.failed", "subscription.past_due"]
    assert house.told[0].data == {
        "invoice": invoice.id,
        "period": "2024-01",
        "attempt": 1,
        "decline_code": "insufficient_funds",
        "next_attempt_at": "2024-02-04T00:00:00Z",
        "suspends_at": "2024-02-17T00:00:00Z",
    }
    tried = [len((await house.later(days=1)).attempts) for _ in range(13)]
    assert tried == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5]
    assert (await house.metering.check_limit("acme", "api_calls")).allowed
    assert (await house.later(days=1)).suspended
    assert (await house.status(), house.types[-1]) == ("unpaid", "subscription.suspended")
    assert (await house.metering.check_limit("acme", "api_calls")).reason == "payment-required"
    assert (await house.later(days=46)).state == "uncollectible"
    assert ((await house.metering.get_invoice(invoice.id)).status, await house.status()) == ("uncollectible", "unpaid")
    assert house.types.count("payment.failed") == 5
    # and it is paid after all, at the provider
    house.adapter.finish_payment((await house.metering.list_payments())[0].provider_invoice or "")
    await house.hears()
    assert (await house.collects()).state == "paid"
    assert ((await house.metering.get_invoice(invoice.id)).status, await house.status()) == ("paid", "active")
    assert house.types[-2:] == ["payment.succeeded", "subscription.recovered"]
    assert (await house.metering.check_limit("acme", "api_calls")).allowed


async def test_a_new_way_to_pay_is_tried_at_once(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    await house.closes()
    assert (await house.collects()).state == "failing"
    await house.has("pm_card_visa")
    await house.hears()
    assert ((await house.collects()).state, await house.status()) == ("paid", "active")


async def test_a_card_that_was_lost_is_not_tried_again_but_the_days_count(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedLostCard")
    await house.closes()
    failed = await house.collects()
    assert (failed.due_at, failed.next_at) == (None, datetime.fromisoformat("2024-02-17T00:00:00Z"))
    assert len((await house.later(days=13)).attempts) == 1
    assert ((await house.later(days=1)).suspended, await house.status()) == (True, "unpaid")


@pytest.mark.parametrize("card", ["pm_card_chargeDeclinedLostCard", "pm_card_chargeDeclinedInsufficientFunds"])
async def test_the_same_card_is_not_asked_again_because_its_customer_changed(house: House, card: str) -> None:
    await house.signs_up(card=card)
    await house.closes()
    assert (await house.collects()).state == "failing"
    for _ in range(3):
        house.adapter._tell("customer.updated", house.customer)
        await house.hears()
        assert len((await house.collects()).attempts) == 1


async def test_a_payment_to_be_confirmed_waits_for_the_customer(house: House) -> None:
    await house.signs_up(card="pm_card_authenticationRequired")
    await house.closes()
    waits = await house.collects()
    assert (waits.state, waits.due_at, house.types[0]) == ("confirming", None, "payment.action_required")
    assert len((await house.later(days=3)).attempts) == 1
    house.adapter.finish_payment(waits.provider_invoice or "")
    await house.hears()
    assert ((await house.collects()).state, await house.status()) == ("paid", "active")


@pytest.mark.parametrize("decline", ["", "insufficient_funds"])
async def test_a_bank_that_takes_its_time_is_waited_for(house: House, decline: str) -> None:
    await house.signs_up(card="pm_card_pending")
    await house.closes()
    waits = await house.collects()
    assert (waits.state, waits.is_pending, await house.status()) == ("open", True, "active")
    assert (await house.later(days=2)).attempts == waits.attempts
    house.adapter.finish_payment(waits.provider_invoice or "", decline_code=decline)
    await house.hears()
    after = await house.collects()
    assert after.state == ("failing" if decline else "paid")
    assert [each.code for each in after.attempts] == [decline]


async def test_without_a_way_to_pay_the_days_count_until_there_is_one(house: House) -> None:
    await house.signs_up(card=None)
    await house.closes()
    failed = await house.collects()
    assert (failed.state, failed.attempts[0].code) == ("failing", "no_payment_method")
    await house.has("pm_card_visa")
    await house.hears()
    assert (await house.collects()).state == "paid"


async def test_a_void_invoice_is_not_asked_for_any_more(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    invoice = await house.closes()
    failed = await house.collects()
    await house.metering.void_invoice(invoice.id)
    after = await house.collects()
    assert (after.state, (await house.there(failed)).status, await house.status()) == ("void", "void", "active")
    again = (await house.metering.close_period("2024-01", tenant="acme"))[0]
    await house.has("pm_card_visa")
    await house.collects()
    assert (await house.metering.get_invoice(again.id)).status == "paid"


async def test_what_was_paid_elsewhere_is_not_asked_for_any_more(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    invoice = await house.closes()
    failed = await house.collects()
    await house.metering.mark_invoice(invoice.id, "paid")
    after = await house.collects()
    assert (after.state, (await house.there(failed)).status, await house.status()) == ("void", "void", "active")


async def test_a_credit_note_lowers_what_is_asked_for(house: House) -> None:
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    invoice = await house.closes()
    first = await house.collects()
    await house.metering.credit_invoice(invoice.id, amount="9.00", reason="sorry")
    second = await house.collects()
    assert ((await house.there(first)).status, (await house.there(second)).total) == ("void", Decimal("90.00"))
    await house.metering.credit_invoice(invoice.id, reason="all of it")
    third = await house.collects()
    assert (third.state, (await house.there(second)).status) == ("paid", "void")
    assert (await house.metering.get_invoice(invoice.id)).status == "paid"


async def test_what_the_provider_will_never_take_is_parked_until_somebody_mends_it(house: House) -> None:
    await house.signs_up()
    invoice = await house.closes()
    await house.adapter.delete_customer(house.customer)
    parked = await house.collects()
    assert (parked.state, await house.status()) == ("parked", "active")
    assert "there is no customer" in parked.note
    alerts = await house.metering.ledger.open_alerts()
    assert [(each.kind, each.subject) for each in alerts] == [("collection_parked", invoice.id)]
    assert (await house.later(days=5)).state == "parked"
    await house.metering.billing.delete_customer("acme")
    await house.signs_up()
    await house.metering.retry_payment(invoice.id)
    assert (await house.collects()).state == "paid"
    assert await house.metering.ledger.open_alerts() == []
    with pytest.raises(NotFound):
        await house.metering.retry_payment("inv_nothing")


async def test_a_wrong_key_stops_the_run_and_parks_nobody(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.signs_up()
    await house.closes()

    async def refuse(*_: Any, **__: Any) -> None:
        raise ProviderRefused("the key is revoked")

    with monkeypatch.context() as patch:
        patch.setattr(house.adapter, "create_invoice", refuse)
        run = await house.metering.collect()
        assert (run.stopped, dict(run.became)) == ("the key is revoked", {})
        assert [each.kind for each in await house.metering.ledger.open_alerts()] == ["provider_refused"]
        assert (await house.metering.list_payments())[0].state == "open"
    assert (await house.collects()).state == "paid"
    assert await house.metering.ledger.open_alerts() == []


async def test_a_provider_that_does_not_answer_is_asked_ever_less_often_with_the_same_key(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.signs_up()
    await house.closes()
    keys: list[str] = []

    async def silent(*_: Any, idempotency_key: str, **__: Any) -> None:
        keys.append(idempotency_key)
        raise ProviderUnavailable("no answer", outcome_unknown=True)

    with monkeypatch.context() as patch:
        patch.setattr(house.adapter, "create_invoice", silent)
        rests = []
        for _ in range(9):
            before = house.clock.now()
            waits = await house.collects()
            assert waits.due_at is not None
            rests.append((waits.due_at - before) // timedelta(minutes=1))
            house.clock.set(waits.due_at)
        assert rests == [5, 10, 20, 40, 80, 160, 320, 360, 360]
    assert len(set(keys)) == 1
    assert (await house.collects()).tries == 0


async def test_a_hook_that_fails_is_called_again_and_at_last_left_with_an_alert(house: House) -> None:
    await house.signs_up()
    await house.closes()
    called: list[str] = []

    @house.metering.on("payment.succeeded")
    async def send(notice: Notice) -> None:
        called.append(notice.tenant)
        raise RuntimeError("mail is down")

    await house.metering.collect()
    for _ in range(20):
        house.clock.advance(timedelta(hours=1))
        await house.metering.collect()
    assert called == ["acme"] * 8
    assert [each.kind for each in await house.metering.ledger.open_alerts()] == ["hook_failed"]
    with pytest.raises(InvalidInput, match=r"did you mean 'payment.succeeded'|payment\.succeeded"):
        house.metering.on("payment.suceeded")


@pytest.mark.parametrize(
    "wrong", [{"retries": (3, 1)}, {"retries": (0, 1)}, {"suspends": -1}, {"suspends": 20, "gives_up": 10}]
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="dunning"):
        Dunning(**wrong)


async def test_without_a_provider_there_is_nothing_to_collect(memory: Metering) -> None:
    with pytest.raises(InvalidInput, match="billing: is not set"):
        await memory.collect()


def test_a_provider_in_another_currency_than_the_plans_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"bills in EUR and the plans are in USD.*currency=\"USD\""):
        Metering(billing=MockBillingAdapter(currency="EUR"))
