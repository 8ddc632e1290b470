"""Webhooks of the payment provider: taken at the door only if they are its own, followed in any order."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from mm_metering import EndpointRules, FrozenClock, Metering, MockBillingAdapter, from_header
from mm_metering.billing.signatures import sign
from mm_metering.billing.stripe import StripeBillingAdapter
from mm_metering.errors import InvalidInput, StoreUnavailable, WebhookRefused
from mm_metering.worker.payments import payment_jobs
from tests.flows.conftest import Make
from tests.flows.test_collecting import House

SECRETS = ("whsec_old", "whsec_new")
KEY = "sk_test_51NotARealKeyAtAll"
EVENT: Mapping[str, Any] = {
    "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
    "object": "event",
    "api_version": "2026-10-28.endive",
    "created": 1704067200,
    "livemode": False,
    "type": "invoice.paid",
    "data": {"object": {"id": "in_1", "object": "invoice", "status": "paid"}},
}
THIN: Mapping[str, Any] = {
    "id": "evt_thin",
    "object": "v2.core.event",
    "created": "2024-01-01T00:00:00.000Z",
    "livemode": False,
    "type": "v1.billing.meter.error_report_triggered",
    "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
}


async def post(app: ASGIApp, body: bytes, headers: Mapping[str, str | bytes], chunk: int = 65_536) -> tuple[int, Any]:
    """The status and the JSON that comes back."""
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    sent: list[Any] = []

    async def receive() -> Any:
        part = chunks.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.encode(), v if isinstance(v, bytes) else v.encode("latin-1")) for k, v in headers.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/webhooks/stripe",
        "raw_path": b"/webhooks/stripe",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": raw,
        "server": ("test", 80),
        "client": ("test", 1),
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


@pytest.fixture
async def metering(make: Make, clock: FrozenClock) -> Metering:
    clock.set("2024-01-01T00:00:00Z")
    rules = EndpointRules(per_minute=0)  # the clock stands still
    billing = StripeBillingAdapter(api_key=KEY, webhook_secret=SECRETS)
    return await make(billing=billing, worker="off", endpoint_rules=rules)


@pytest.fixture
def app(metering: Metering) -> Starlette:
    """Metered like any host's: the endpoint needs no tenant, and costs nothing."""
    app = Starlette()
    app.add_route("/webhooks/stripe", metering.stripe_webhook, methods=["POST"])
    metering.install(app, tenant=from_header("x-org-id"))
    return app


def signed(event: object, clock: FrozenClock, secret: str = "whsec_new") -> tuple[bytes, dict[str, str]]:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return body, {"stripe-signature": sign(body, secret, clock.now())}


async def stored(metering: Metering) -> list[tuple[str, str, str, str]]:
    due = await metering.ledger.hints_due(2**60, limit=100)
    return [(each.id, each.type, each.about, each.object_id) for each in due]


async def test_an_event_is_stored_once_and_answered_whichever_secret_signed_it(
    metering: Metering, app: Starlette, clock: FrozenClock
) -> None:
    for secret in SECRETS:
        assert await post(app, *signed(EVENT, clock, secret)) == (200, {"received": True})
    assert await post(app, *signed(THIN, clock)) == (200, {"received": True})
    assert sorted(await stored(metering)) == [
        (EVENT["id"], "invoice.paid", "invoice", "in_1"),
        ("evt_thin", "v1.billing.meter.error_report_triggered", "other", "mtr_1"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "text",
        {**EVENT, "livemode": True},
        {**EVENT, "account": "acct_other"},
        {**EVENT, "object": "invoice"},
        {**EVENT, "id": "x" * 300},
        {**EVENT, "id": None},
        {**EVENT, "type": 5},
        {**EVENT, "created": "yesterday"},
        {**EVENT, "created": 1e300},
        {**THIN, "created": 5},
        {**THIN, "livemode": True},
        b"\xff\xfe",
        b"{",
        b"",
        b"[" * 100_000,
        json.dumps(EVENT).encode()[:-1] + b', "livemode": false}',
        json.dumps({**EVENT, "data": float("nan")}).encode(),
    ],
)
async def test_what_is_signed_and_still_not_for_us_is_refused(
    metering: Metering, app: Starlette, clock: FrozenClock, wrong: object
) -> None:
    status, said = await post(app, *signed(wrong, clock))
    assert (status, said) == (400, {"error": "this is no webhook that is taken here"})
    assert await stored(metering) == []


async def test_ten_thousand_requests_that_are_not_stripes_are_all_refused(
    metering: Metering, app: Starlette, clock: FrozenClock
) -> None:
    chance, answers = random.Random(7), set()
    good, headers = signed(EVENT, clock)
    for number in range(10_000):
        body, header = bytearray(good), headers["stripe-signature"]
        match number % 8:
            case 0:  # a bit
                body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            case 1:  # a part
                body = body[: chance.randrange(len(body))]
            case 2:  # bytes from nowhere
                body = bytearray(chance.randbytes(chance.randrange(400)))
            case 3:  # a digit of the signature
                place = len(header) - 1 - chance.randrange(64)
                header = header[:place] + ("0" if header[place] != "0" else "1") + header[place + 1 :]
            case 4:  # replayed later, or from the future
                off = timedelta(seconds=chance.choice((-1, 1)) * chance.randrange(301, 10**6))
                header = sign(good, "whsec_new", clock.now() + off)
            case 5:  # another secret
                header = sign(good, f"whsec_{chance.random()}", clock.now())
            case 6:  # a header from nowhere
                header = chance.randbytes(chance.randrange(80)).hex()
            case _:  # written anew, which is not the same bytes
                body = bytearray(json.dumps(json.loads(good), indent=chance.randrange(1, 4)).encode())
        answers.add((await post(app, bytes(body), {"stripe-signature": header}))[0])
    assert answers == {400}
    assert await stored(metering) == []


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    metering: Metering, app: Starlette, clock: FrozenClock
) -> None:
    body, headers = signed({**EVENT, "padding": "x" * 10_000_000}, clock)
    assert (await post(app, body, headers))[0] == 400
    assert await stored(metering) == []


async def test_an_address_that_asks_too_often_waits_and_what_is_encoded_is_not_read(
    make: Make, clock: FrozenClock
) -> None:
    clock.set("2024-01-01T00:00:00Z")
    billing = StripeBillingAdapter(api_key=KEY, webhook_secret=SECRETS)
    metering = await make(billing=billing, worker="off", endpoint_rules=EndpointRules(per_minute=4))
    app = Starlette()
    app.add_route("/webhooks/stripe", metering.stripe_webhook, methods=["POST"])
    body, headers = signed(EVENT, clock)
    encoded = {**headers, "content-encoding": "gzip"}
    assert (await post(app, body, encoded))[0] == 415
    assert (await post(app, body, {**headers, "x": "y" * 40_000}))[0] == 431
    assert [(await post(app, b"{}", {}))[0] for _ in range(3)] == [400, 400, 429]
    assert await stored(metering) == []
    status, said = await post(app, body, headers)
    assert (status, said["code"], said["detail"]) == (
        429,
        "rate-limited",
        "endpoint: 4 requests a minute of this address; try again in 60 s",
    )
    clock.advance(timedelta(minutes=2))
    assert (await post(app, *signed(EVENT, clock)))[0] == 200


async def test_where_nothing_can_be_stored_it_is_to_be_sent_again(
    metering: Metering, app: Starlette, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: object) -> bool:
        raise StoreUnavailable("down")

    monkeypatch.setattr(metering.ledger, "put_hint", fails)
    assert (await post(app, *signed(EVENT, clock)))[0] == 503


async def test_without_a_secret_or_a_provider_nothing_is_taken(make: Make, clock: FrozenClock) -> None:
    for billing in (None, StripeBillingAdapter(api_key=KEY)):
        metering = await make(billing=billing, worker="off")
        app = Starlette()
        app.add_route("/webhooks/stripe", metering.stripe_webhook, methods=["POST"])
        assert (await post(app, *signed(EVENT, clock)))[0] == 400
    with pytest.raises(InvalidInput, match="webhook_secret"):
        StripeBillingAdapter(api_key=KEY, webhook_secret="whsec_ with a space")


async def test_an_account_of_connect_is_taken_where_it_is_named(make: Make, clock: FrozenClock) -> None:
    adapter = StripeBillingAdapter(api_key=KEY, webhook_secret="whsec_new", account="acct_1")
    body, headers = signed({**EVENT, "account": "acct_1"}, clock)
    assert adapter.read_webhook(body, headers, clock.now()).object_id == "in_1"
    body, headers = signed({**EVENT, "account": "acct_2"}, clock)
    with pytest.raises(WebhookRefused, match="another account"):
        adapter.read_webhook(body, headers, clock.now())


# -- followed ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def house(make: Make, clock: FrozenClock) -> House:
    clock.set("2024-01-01T00:00:00Z")
    adapter = MockBillingAdapter(clock=clock)
    return House(await make(billing=adapter, worker="off"), adapter, clock)


async def a_life(house: House) -> list[tuple[bytes, dict[str, str]]]:
    """A payment that fails, a new card, a payment that works: all that the provider tells of it."""
    await house.signs_up(card="pm_card_chargeDeclinedInsufficientFunds")
    await house.closes()
    await house.metering.collect()
    told = house.adapter.webhooks()
    await house.has("pm_card_visa")
    house.adapter.finish_payment((await house.metering.list_payments())[0].provider_invoice or "")
    return [*told, *house.adapter.webhooks()]


async def ended(house: House) -> object:
    payments = await house.metering.list_payments()
    invoice = await house.metering.get_invoice(payments[0].invoice)
    return [(each.state, each.standing) for each in payments], invoice.status, await house.status(), sorted(house.types)


async def test_five_hundred_orders_with_duplicates_come_to_the_same(make: Make, clock: FrozenClock) -> None:
    chance, ends = random.Random(11), set()
    for _ in range(500):
        clock.set("2024-01-01T00:00:00Z")
        adapter = MockBillingAdapter(clock=clock)
        async with Metering(billing=adapter, worker="off", clock=clock) as metering:
            house = House(metering, adapter, clock)
            told = await a_life(house)
            deliveries = [*told, *chance.choices(told, k=len(told) // 2)]
            chance.shuffle(deliveries)
            for number, (body, headers) in enumerate(deliveries):
                await metering._take_webhook(body, headers)
                if chance.random() < 0.3 or number == len(deliveries) - 1:
                    await metering.collect()
            ends.add(json.dumps(await ended(house), default=str))
    assert len(ends) == 1, ends
    assert '"paid"' in ends.pop()


async def test_what_was_never_delivered_is_asked_for(house: House) -> None:
    await a_life(house)
    assert house.metering._collector is not None
    jobs = payment_jobs(house.metering._collector, house.metering._inbox, house.metering._hooks, house.metering.ledger)
    back_fill = next(job for job in jobs if job.name == "back-fill")
    await back_fill.run(house.clock.now(), 1)
    await house.metering.collect()
    assert ((await house.metering.list_payments())[0].state, await house.status()) == ("paid", "active")


async def test_a_hint_that_cannot_be_followed_waits_and_is_at_last_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_life(house)
    house.adapter._happened.append({"id": "evt_x", "type": "invoice.paid", "object": "in_x", "created": 1704067200})
    await house.hears()

    async def silent(*_: object) -> None:
        from mm_metering.errors import ProviderUnavailable

        raise ProviderUnavailable("no answer", outcome_unknown=False)

    monkeypatch.setattr(house.adapter, "look", silent)
    for _ in range(30):
        await house.metering.collect()
        house.clock.advance(timedelta(hours=6))
    kinds = [each.kind for each in await house.metering.ledger.open_alerts()]
    assert kinds.count("hint_failed") == 1


async def test_a_customer_that_was_deleted_there_pays_for_nobody(house: House) -> None:
    await house.signs_up()
    await house.adapter.delete_customer(house.customer)
    await house.hears()
    await house.metering.collect()
    assert await house.metering.ledger.payer("acme") is None
