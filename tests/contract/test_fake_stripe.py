"""The fake Stripe itself: what it keeps, how it fails, and that what it says is what Stripe's own document says."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import Any

import httpx
import pytest
import stripe

from mm_metering import FrozenClock
from mm_metering.testing import fake_stripe
from mm_metering.testing.fake_stripe import FakeStripe, spec
from mm_metering.testing.fake_stripe.params import unflattened

NOW = "2026-11-01T00:00:00Z"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOW)


@pytest.fixture
def fake(clock: FrozenClock) -> Iterator[FakeStripe]:
    with FakeStripe(clock=clock) as fake:
        yield fake


def ask(fake: FakeStripe, method: str, path: str, key: str | None = None, **params: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {fake.api_key}"} | ({"Idempotency-Key": key} if key else {})
    with httpx.Client(base_url=fake.url, headers=headers) as client:
        sent: Any = {"params": params} if method == "GET" else {"data": params}
        return client.request(method, f"/v1/{path}", **sent)


def customer(fake: FakeStripe, card: str = "pm_card_visa") -> str:
    made: str = ask(fake, "POST", "customers", name="Acme").json()["id"]
    setup = {"customer": made, "payment_method": card, "confirm": "true"}
    method = ask(fake, "POST", "setup_intents", **setup).json()["payment_method"]
    ask(fake, "POST", f"customers/{made}", **{"invoice_settings[default_payment_method]": method})
    return made


def invoice(fake: FakeStripe, customer_id: str, cents: str = "500") -> str:
    made: str = ask(fake, "POST", "invoices", customer=customer_id, currency="usd").json()["id"]
    ask(fake, "POST", "invoiceitems", customer=customer_id, invoice=made, unit_amount_decimal=cents, quantity="1")
    return made


# -- the official document --------------------------------------------------------------------------------------------


def test_the_document_is_the_one_that_its_notice_names() -> None:
    folder = files(fake_stripe)
    digest = hashlib.sha256(folder.joinpath(spec.FILE).read_bytes()).hexdigest()
    notice = folder.joinpath("openapi.NOTICE").read_text()
    assert digest in notice
    assert spec.document()["info"]["version"] in notice
    assert "MIT License" in notice


def test_a_request_that_stripe_does_not_know_is_a_problem(clock: FrozenClock) -> None:
    with pytest.raises(AssertionError, match="'colour' was unexpected"), FakeStripe(clock=clock) as fake:
        ask(fake, "POST", "customers", colour="red")
    with pytest.raises(AssertionError, match="off_session"), FakeStripe(clock=clock) as fake:
        ask(fake, "POST", "invoices/in_1/pay", off_session="perhaps")
    with pytest.raises(AssertionError, match="there is no such call"), FakeStripe(clock=clock) as fake:
        ask(fake, "POST", "usage_records")


def test_an_answer_that_stripe_would_not_give_is_a_problem(clock: FrozenClock) -> None:
    with pytest.raises(AssertionError, match="email: 5 is not of type 'string'"):  # noqa: PT012, SIM117
        with FakeStripe(clock=clock) as fake:
            fake.account.get("customer", customer(fake))["email"] = 5
            ask(fake, "GET", "customers")


def test_an_error_of_the_test_is_not_hidden_by_a_problem(clock: FrozenClock) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117
        with FakeStripe(clock=clock) as fake:
            ask(fake, "POST", "customers", colour="red")
            raise ZeroDivisionError


def test_forms_are_nested_as_stripe_nests_them() -> None:
    assert unflattened("a=1&b[c]=2&d[0][e]=3&d[1][e]=4&f[]=5&f[]=6&g=&h[x][y][z]=%C3%A9") == {
        "a": "1",
        "b": {"c": "2"},
        "d": [{"e": "3"}, {"e": "4"}],
        "f": ["5", "6"],
        "g": "",
        "h": {"x": {"y": {"z": "é"}}},
    }


# -- idempotency and faults -------------------------------------------------------------------------------------------


def test_the_same_key_answers_the_same_for_a_day(fake: FakeStripe, clock: FrozenClock) -> None:
    first = ask(fake, "POST", "customers", "k", name="A")
    again = ask(fake, "POST", "customers", "k", name="A")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (first.json(), "true")
    other = ask(fake, "POST", "customers", "k", name="B")
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    clock.advance(timedelta(hours=24))
    assert ask(fake, "POST", "customers", "k", name="B").json()["id"] != first.json()["id"]


def test_a_decline_and_a_failure_are_kept_under_the_key_and_a_bad_request_is_not(fake: FakeStripe) -> None:
    owner = customer(fake, "pm_card_chargeDeclined")
    made = invoice(fake, owner)
    declined = [ask(fake, "POST", f"invoices/{made}/pay", "p").json() for _ in range(2)]
    assert declined[0] == declined[1]
    assert ask(fake, "GET", f"invoices/{made}").json()["attempt_count"] == 1
    assert ask(fake, "POST", f"invoices/{made}/pay", "q").status_code == 402
    assert ask(fake, "GET", f"invoices/{made}").json()["attempt_count"] == 2
    fake.fail("/customers", "500-after")
    assert [ask(fake, "POST", "customers", "s", name="A").status_code for _ in range(2)] == [500, 500]
    assert ask(fake, "POST", "customers", "t", name="A").status_code == 200
    assert ask(fake, "POST", "invoices", "u", customer="cus_nobody").status_code == 404
    assert ask(fake, "POST", "invoices", "u", customer=owner).status_code == 200


@pytest.mark.parametrize("kind", ["refused", "500-before", "429", "409", "html", "text-error"])
def test_what_goes_wrong_before_it_was_done_was_not_done(fake: FakeStripe, kind: fake_stripe.Fault) -> None:
    fake.fail("/customers$", kind)
    try:
        assert ask(fake, "POST", "customers", "k", name="A").status_code >= 400
    except httpx.HTTPError:
        assert kind == "refused"
    assert ask(fake, "GET", "customers").json()["data"] == []
    assert ask(fake, "POST", "customers", "k", name="A").status_code == 200


def test_an_answer_that_is_lost_was_done(fake: FakeStripe) -> None:
    fake.fail("/customers$", "lost")
    with pytest.raises(httpx.HTTPError):
        ask(fake, "POST", "customers", "k", name="A")
    assert len(ask(fake, "GET", "customers").json()["data"]) == 1
    assert ask(fake, "POST", "customers", "k", name="A").headers["Idempotent-Replayed"] == "true"
    with pytest.raises(ValueError, match="'late' is none of"):
        fake.fail("x", "late")  # type: ignore[arg-type]


def test_a_wrong_key_is_refused(fake: FakeStripe) -> None:
    assert httpx.get(f"{fake.url}/v1/customers", headers={"Authorization": "Bearer sk_test_other"}).status_code == 401


# -- invoices, subscriptions, meters ----------------------------------------------------------------------------------


def test_loose_items_are_swept_by_an_invoice_that_asks_for_them_alone(fake: FakeStripe) -> None:
    owner = customer(fake)
    ask(fake, "POST", "invoiceitems", customer=owner, amount="700", currency="usd")
    assert ask(fake, "GET", f"invoices/{invoice(fake, owner)}").json()["total"] == 500
    swept = ask(fake, "POST", "invoices", customer=owner, pending_invoice_items_behavior="include").json()["id"]
    assert ask(fake, "GET", f"invoices/{swept}").json()["total"] == 700


def test_what_stripe_refuses_is_refused(fake: FakeStripe) -> None:
    owner = customer(fake)
    made = invoice(fake, owner)
    for path in (f"invoices/{made}/void", "subscriptions/sub_1/resume", "invoices/in_1/finalize"):
        assert ask(fake, "POST", path).status_code in (400, 404)
    assert ask(fake, "POST", f"invoices/{made}/pay").json()["status"] == "paid"
    assert ask(fake, "POST", f"invoices/{made}/pay").status_code == 400
    assert ask(fake, "DELETE", f"invoices/{made}").status_code == 400
    assert ask(fake, "POST", "invoices", customer=owner, due_date="1800000000").status_code == 400
    assert "similar object exists in live mode" in ask(fake, "GET", "customers/cus_live_1").text


def test_without_its_items_id_a_new_price_is_added_and_both_are_billed(fake: FakeStripe) -> None:
    owner = customer(fake)
    product = ask(fake, "POST", "products", name="Pro").json()["id"]
    terms = {"product": product, "currency": "usd", "recurring[interval]": "month"}
    two = [ask(fake, "POST", "prices", unit_amount=each, **terms).json()["id"] for each in ("100", "200")]
    made = ask(fake, "POST", "subscriptions", customer=owner, **{"items[0][price]": two[0]}).json()
    changed = ask(fake, "POST", f"subscriptions/{made['id']}", **{"items[0][price]": two[1]}).json()
    assert [each["price"]["id"] for each in changed["items"]["data"]] == two


def test_a_metered_price_bills_what_its_meter_counted_once(fake: FakeStripe, clock: FrozenClock) -> None:
    owner = customer(fake)
    meter = {"display_name": "Calls", "event_name": "calls", "default_aggregation[formula]": "sum"}
    counted = ask(fake, "POST", "billing/meters", **meter).json()["id"]
    product = ask(fake, "POST", "products", name="Pro").json()["id"]
    terms = {"product": product, "currency": "usd", "recurring[interval]": "month"}
    metered = {"unit_amount_decimal": "0.003", "recurring[usage_type]": "metered", "recurring[meter]": counted}
    flat = ask(fake, "POST", "prices", unit_amount="9900", **terms).json()["id"]
    each = ask(fake, "POST", "prices", **terms, **metered).json()["id"]
    ask(fake, "POST", "subscriptions", customer=owner, **{"items[0][price]": flat, "items[1][price]": each})
    event = {"event_name": "calls", "payload[stripe_customer_id]": owner, "payload[value]": "333", "identifier": "e1"}
    assert ask(fake, "POST", "billing/meter_events", **event).status_code == 200
    again = ask(fake, "POST", "billing/meter_events", **event)
    assert (again.status_code, again.headers["Stripe-Should-Retry"]) == (400, "false")
    assert "already exists with identifier e1" in again.text
    late = {**event, "identifier": "e2", "timestamp": str(int(clock.now().timestamp()) - 36 * 86_400)}
    assert ask(fake, "POST", "billing/meter_events", **late).status_code == 400
    clock.advance(timedelta(days=30))
    assert [(bill["total"], bill["status"]) for bill in fake.roll()] == [(9901, "paid")]
    assert fake.roll() == []


# -- webhooks ---------------------------------------------------------------------------------------------------------


def test_webhooks_are_signed_as_the_sdk_checks_and_come_in_any_order(fake: FakeStripe, clock: FrozenClock) -> None:
    ask(fake, "POST", f"invoices/{invoice(fake, customer(fake))}/pay")
    told = fake.deliveries(chance=random.Random(3), duplicates=0.5)
    tolerance = 10**9  # the SDK reads the machine's clock
    seen = [
        stripe.Webhook.construct_event(body, headers["stripe-signature"], fake.webhook_secret, tolerance)
        for body, headers in told
    ]
    ids = [each.id for each in seen]
    assert set(ids) == {each["id"] for each in fake.events()}
    assert len(ids) > len(set(ids))
    assert ids != sorted(ids)
    assert [each["type"] for each in fake.events()] == [
        "customer.created",
        "payment_method.attached",
        "setup_intent.succeeded",
        "customer.updated",
        "invoice.created",
        "invoice.finalized",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.paid",
    ]
