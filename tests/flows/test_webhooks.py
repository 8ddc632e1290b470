"""Webhooks that go out: from what happened to a receiver over HTTP and TLS, and what follows where that fails."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from standardwebhooks.webhooks import WebhookVerificationError

from mm_metering import FrozenClock, Metering, MockBillingAdapter, SystemClock
from mm_metering.core.deliveries import SCHEDULE, Delivery
from mm_metering.errors import (
    EventConflict,
    FeatureNotInPlan,
    InvalidInput,
    NotFound,
    UrlRefused,
    WrongState,
)
from mm_metering.webhooks import sender
from mm_metering.webhooks.dispatcher import UNSENDABLE
from mm_metering.webhooks.endpoints import Endpoint
from mm_metering.webhooks.guard import Rules
from tests.flows.conftest import Make
from tests.tls_proxy import Authority
from tests.webhook_receiver import Receiver, receiving

KEY = base64.b64encode(bytes(range(32))).decode()
TYPE = "billing.invoice_created"


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


class House:
    """A tenant on Pro with one endpoint at the receiver, under a clock that stands still."""

    def __init__(self, metering: Metering, clock: FrozenClock, endpoint: Endpoint) -> None:
        self.metering, self.hooks, self.clock, self.endpoint = metering, metering.webhooks, clock, endpoint

    async def sends(self, data: dict[str, Any] | None = None, type_: str = TYPE) -> Delivery:
        await self.hooks.send_event("acme", type_, data or {"n": 1})
        await self.hooks.deliver()
        return (await self.hooks.list_deliveries("acme"))[0]

    async def later(self, **by: float) -> Delivery:
        self.clock.advance(timedelta(**by))
        await self.hooks.deliver()
        return (await self.hooks.list_deliveries("acme"))[0]

    async def state(self, endpoint: Endpoint) -> list[str]:
        return [each.state for each in await self.hooks.list_deliveries("acme", endpoint=endpoint.id)]

    async def used(self) -> int:
        day = f"{self.clock.now():%Y-%m-%d}"
        return (await self.metering.create_usage_snapshot("acme", day)).webhook_deliveries


async def a_house(make: Make, clock: FrozenClock, receiver: Receiver, **options: Any) -> House:
    metering = await make(webhook_rules=receiver.rules, worker="off", **options)
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    clock.set(datetime.now().astimezone())  # the receiver verifies by its own
    return House(metering, clock, await metering.webhooks.create_endpoint("acme", receiver.url()))


@pytest_asyncio.fixture
async def house(make: Make, clock: FrozenClock, receiver: Receiver) -> House:
    return await a_house(make, clock, receiver)


async def test_an_event_is_received_once_and_metered_once_on_every_store(
    make: Make, clock: FrozenClock, receiver: Receiver, stores: dict[str, str]
) -> None:
    house = await a_house(make, clock, receiver, **stores, secret_key=KEY)
    receiver.answers["/"] = lambda number: 500 if number == 1 else 204
    sent = await house.hooks.send_event("acme", TYPE, {"invoice": "inv_1", "é": [1.5, None]})
    await house.hooks.deliver()
    assert receiver.ids() == [sent.id]
    assert await house.used() == 0
    delivery = await house.later(seconds=6)
    assert receiver.ids() == [sent.id] * 2
    assert receiver.verify(house.endpoint.secret or "") == [{"invoice": "inv_1", "é": [1.5, None]}] * 2
    assert (delivery.event, delivery.state, delivery.next_at) == (sent.id, "delivered", None)
    assert [each.status for each in delivery.attempts] == [500, 204]
    assert await house.used() == 1
    await house.hooks.resend(delivery.id, tenant="acme")
    await house.hooks.deliver()
    assert receiver.ids() == [sent.id] * 3
    assert (await house.used(), await house.hooks.deliver()) == (1, 0)
    assert receiver.got[0].body == receiver.got[2].body


async def test_what_the_house_tells_comes_from_the_change_itself_and_is_never_metered(
    make: Make, clock: FrozenClock, receiver: Receiver
) -> None:
    metering = await make(webhook_rules=receiver.rules, worker="off", billing=MockBillingAdapter(clock=clock))
    clock.set("2024-01-01T00:00:00Z")
    await metering.put_tenant("acme", plan="pro")
    made = await metering.billing.create_customer(organization_id="acme", email="a@b.example", name="Acme")
    await metering.billing.create_payment_method(made.id, payment_method="pm_card_visa")
    await metering.webhooks.create_endpoint("acme", receiver.url())
    await metering.change_plan("acme", "enterprise")
    clock.set("2024-02-03T00:00:00Z")
    await metering.close_period("2024-01")
    await metering.collect()
    await metering.webhooks.deliver()
    bodies = {each["type"]: each for each in (json.loads(each.body) for each in receiver.got)}
    assert set(bodies) == {"subscription.updated", "billing.invoice_created", "invoice.finalized", "invoice.paid"}
    for name, body in bodies.items():
        jsonschema.validate(body, metering.webhooks.event_types[name].schema)
    assert bodies["subscription.updated"]["data"]["plan"] == "enterprise"
    assert len({each["data"]["invoice"] for name, each in bodies.items() if "invoice" in name}) == 1
    assert (await metering.create_usage_snapshot("acme", "2024-02-03")).webhook_deliveries == 0


async def test_attempts_follow_the_schedule_until_the_delivery_is_dead_and_is_recovered(
    house: House, receiver: Receiver
) -> None:
    receiver.answers["/"] = 500
    began, delivery = house.clock.now(), await house.sends()
    for number, wait in enumerate(SCHEDULE[1:], start=1):
        assert (delivery.state, delivery.tries) == ("pending", number)
        assert delivery.next_at is not None
        assert abs((delivery.next_at - house.clock.now()) / wait - 1) <= 0.1
        house.clock.set(delivery.next_at - timedelta(microseconds=1))
        assert await house.hooks.deliver() == 0
        delivery = await house.later(microseconds=1)
    assert (delivery.state, delivery.tries, delivery.next_at) == ("dead", 10, None)
    assert set(receiver.ids()) == {delivery.event}
    assert len(receiver.ids()) == 10
    ill = await house.hooks.get_endpoint(house.endpoint.id)
    assert (ill.enabled, ill.failing_since) == (True, began)
    receiver.answers["/"] = 200
    assert await house.hooks.recover(house.endpoint.id, began) == 1
    assert (await house.later()).state == "delivered"
    assert (await house.hooks.get_endpoint(house.endpoint.id)).failing_since is None
    assert await house.hooks.recover(house.endpoint.id, began) == 0
    assert await house.hooks.replay(house.endpoint.id, began, began + timedelta(seconds=1)) == 1
    assert await house.hooks.replay(house.endpoint.id, began - timedelta(hours=1), began) == 0
    await house.hooks.deliver()
    assert len(receiver.ids()) == 12


async def test_an_endpoint_that_asks_for_less_is_left_alone_for_as_long(house: House, receiver: Receiver) -> None:
    receiver.answers["/"] = lambda number: (
        b"HTTP/1.1 429 Slow\r\nretry-after: 7200\r\ncontent-length: 0\r\n\r\n" if number == 1 else 200
    )
    await house.sends()
    await house.sends({"n": 2})
    await house.later(seconds=7199)
    assert len(receiver.got) == 1
    await house.later(seconds=1)
    assert {each.state for each in await house.hooks.list_deliveries("acme")} == {"delivered"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (302, "redirect"),
        (b"HTTP/1.1 302 No\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "redirect"),
        (b"not http at all\r\n\r\n", "protocol"),
        (404, "status"),
    ],
)
async def test_what_is_no_success_is_said_and_tried_again(
    house: House, receiver: Receiver, answer: int | bytes, error: str
) -> None:
    receiver.answers["/"] = answer
    delivery = await house.sends()
    assert (delivery.state, delivery.tries) == ("pending", 1)
    assert delivery.attempts[0].error.partition(":")[0] == error
    assert receiver.ids("/elsewhere") == []


async def test_410_disables_at_once_and_others_hear_of_it(house: House, receiver: Receiver) -> None:
    other = await house.hooks.create_endpoint("acme", receiver.url("/ops"), ["endpoint.*", TYPE])
    receiver.answers["/"] = 410
    await house.sends()
    assert await house.state(house.endpoint) == ["dead"]
    gone = await house.hooks.get_endpoint(house.endpoint.id)
    assert (gone.enabled, gone.why_disabled) == (False, "gone")
    said = [each for each in await house.metering.list_audit() if each.action == "endpoint disabled"]
    assert [(each.actor, each.subject) for each in said] == [("worker", gone.id)]
    await house.hooks.deliver()
    data = receiver.verify(other.secret or "", path="/ops")[-1]
    assert (data["endpoint"], data["reason"]) == (gone.id, "gone")
    with pytest.raises(WrongState, match="gone"):
        await house.hooks.recover(gone.id, "2024-01-01T00:00:00Z")
    await house.sends({"n": 2})
    assert (await house.state(gone), await house.state(other)) == (["dead"], ["delivered"] * 3)
    receiver.answers["/"] = 200
    await house.hooks.update_endpoint(gone.id, enabled=True)
    assert await house.hooks.recover(gone.id, "2024-01-01T00:00:00Z") == 2
    await house.hooks.deliver()
    assert sorted(each["n"] for each in receiver.verify(house.endpoint.secret or "")) == [1, 1, 2]


async def test_a_day_of_failures_warns_and_five_disable(house: House, receiver: Receiver) -> None:
    told = list[str]()
    house.metering.on("*")(lambda notice: told.append(notice.type))
    receiver.answers["/"] = 503
    await house.sends()
    for _ in range(12):
        house.clock.advance(timedelta(hours=11))
        await house.sends()
    await house.metering._hooks.run()
    assert told == ["endpoint.failing", "endpoint.disabled"]
    off = await house.hooks.get_endpoint(house.endpoint.id)
    assert (off.enabled, off.why_disabled) == (False, "failing")
    assert {each.state for each in await house.hooks.list_deliveries("acme")} == {"dead"}


async def test_both_secrets_sign_while_one_takes_the_place_of_the_other(house: House, receiver: Receiver) -> None:
    old = house.endpoint.secret or ""
    new = (await house.hooks.rotate_secret(house.endpoint.id)).secret or ""
    await house.sends()
    assert receiver.verify(old) == receiver.verify(new) == [{"n": 1}]
    newest = await house.hooks.rotate_secret(house.endpoint.id, keep=timedelta(0))
    receiver.got.clear()
    await house.sends({"n": 2})
    assert receiver.verify(newest.secret or "") == [{"n": 2}]
    for ended in (old, new):
        with pytest.raises(WebhookVerificationError):
            receiver.verify(ended)
    assert (await house.hooks.list_endpoints("acme"))[0].secret is None
    assert new not in repr(await house.hooks.rotate_secret(house.endpoint.id, secret=new))
    assert [each.action for each in await house.metering.list_audit()][:2] == ["endpoint secret rotated"] * 2


async def test_filters_and_tenants_keep_events_apart(house: House, receiver: Receiver) -> None:
    await house.metering.put_tenant("beta", plan="enterprise")
    await house.hooks.create_endpoint("beta", receiver.url("/beta"))
    await house.hooks.update_endpoint(house.endpoint.id, events=["quota.*", "usage.spike"])
    for type_ in ("quota.warning", "usage.spike", "budget.warning"):
        await house.hooks.send_event("acme", type_, {})
    await house.hooks.deliver()
    assert sorted(each.type for each in await house.hooks.list_deliveries("acme")) == ["quota.warning", "usage.spike"]
    assert receiver.ids("/beta") == []
    assert await house.used() == 0  # they are the house's own types
    theirs: dict[str, Any] = {"tenant": "beta"}
    delivery = (await house.hooks.list_deliveries("acme"))[0]
    for attempt in (
        house.hooks.get_endpoint(house.endpoint.id, **theirs),
        house.hooks.update_endpoint(house.endpoint.id, enabled=False, **theirs),
        house.hooks.disable_endpoint(house.endpoint.id, **theirs),
        house.hooks.rotate_secret(house.endpoint.id, **theirs),
        house.hooks.test_endpoint(house.endpoint.id, **theirs),
        house.hooks.recover(house.endpoint.id, "2024-01-01T00:00:00Z", **theirs),
        house.hooks.replay(house.endpoint.id, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", **theirs),
        house.hooks.resend(delivery.id, **theirs),
        house.hooks.get_delivery(delivery.id, **theirs),
        house.hooks.get_endpoint("nothing"),
    ):
        with pytest.raises(NotFound):
            await attempt


async def test_one_id_is_one_event(house: House, receiver: Receiver) -> None:
    first = await house.hooks.send_event("acme", TYPE, {"n": 1}, id="mine")
    house.clock.advance(timedelta(hours=1))
    assert await house.hooks.send_event("acme", TYPE, {"n": 1}, id="mine") == first
    with pytest.raises(EventConflict):
        await house.hooks.send_event("acme", TYPE, {"n": 2}, id="mine")
    await house.hooks.deliver()
    assert receiver.ids() == [first.id]


async def test_a_test_is_sent_also_to_an_endpoint_that_is_disabled_and_is_not_kept(
    house: House, receiver: Receiver
) -> None:
    await house.hooks.disable_endpoint(house.endpoint.id)
    attempt = await house.hooks.test_endpoint(house.endpoint.id)
    assert (attempt.succeeded, attempt.status, attempt.excerpt) == (True, 200, "ok")
    assert receiver.verify(house.endpoint.secret or "") == [{"endpoint": house.endpoint.id}]
    assert (await house.hooks.list_deliveries("acme"), await house.used()) == ([], 0)


async def test_what_is_wrong_is_refused_before_anything_is_kept(house: House, caplog: pytest.LogCaptureFixture) -> None:
    hooks, url = house.hooks, house.endpoint.url
    await house.metering.put_tenant("small", plan="free")
    for each in (url, "ftp://acme.example/"):  # the plan first: who has no webhooks needs no better URL
        with pytest.raises(FeatureNotInPlan):
            await hooks.create_endpoint("small", each)
    for refused in ("https://10.0.0.1/", "ftp://acme.example/", "https://user:pw@acme.example/"):
        with pytest.raises(UrlRefused):
            await hooks.create_endpoint("acme", refused)
    for events in ([], ["invoce.paid"], "invoice.paid", ["*"] * 101, [1]):
        with pytest.raises(InvalidInput, match="events"):
            await hooks.create_endpoint("acme", url, events)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r'did you mean "invoice\.paid"'):
        await hooks.send_event("acme", "invoce.paid", {})
    for secret in ("whsec_short", "hunter2" * 5, "whsec_" + "é" * 40):
        with pytest.raises(InvalidInput, match="whsec_ and the base64") as wrong:
            await hooks.create_endpoint("acme", url, secret=secret)
        assert secret not in str(wrong.value)
    circle: dict[str, Any] = {}
    circle["it"] = circle
    for data in (None, [1], {"x": float("nan")}, {"x": b"1"}, {"x": "\ud800"}, {"x": "y" * 20_001}, circle):
        with pytest.raises(InvalidInput, match="data"):
            await hooks.send_event("acme", TYPE, data)  # type: ignore[arg-type]
    assert len(await hooks.list_endpoints("acme")) == 1
    assert await hooks.deliver() == 0
    assert caplog.text == ""


async def test_a_host_s_own_type_is_added_first(house: House, receiver: Receiver) -> None:
    with pytest.raises(InvalidInput, match="no event type"):
        await house.sends(type_="report.finished")
    house.hooks.add_event_type("report.finished", "A report can be fetched.", {"url": {"type": "string"}}, version=2)
    await house.sends({"url": "x"}, "report.finished")
    assert b'{"type":"report.finished","version":2,"timestamp":"' in receiver.got[0].body
    assert await house.used() == 1
    with pytest.raises(InvalidInput, match="the house's own"):
        house.hooks.add_event_type("invoice.paid", "")


async def test_secrets_are_kept_encrypted_and_a_missing_key_costs_the_endpoint_nothing(
    make: Make, clock: FrozenClock, receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"sqlite:///{tmp_path}/ledger.db"
    with pytest.raises(InvalidInput, match="openssl rand -base64 32"):
        await a_house(make, clock, receiver, ledger=place)
    house = await a_house(make, clock, receiver, ledger=place, secret_key=KEY)
    secret = house.endpoint.secret or ""
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())  # noqa: ASYNC240
    assert secret.encode() not in stored
    assert base64.b64decode(secret.removeprefix("whsec_")) not in stored
    await house.hooks.send_event("acme", TYPE, {"n": 1})
    without = await make(ledger=place, webhook_rules=receiver.rules, worker="off")
    await without.webhooks.deliver()
    (waits,) = await without.webhooks.list_deliveries("acme")
    assert (waits.state, waits.tries, waits.attempts, receiver.got) == ("pending", 0, (), [])
    assert [each.subject for each in await without.ledger.open_alerts() if each.kind == UNSENDABLE] == [waits.endpoint]
    assert (await without.webhooks.get_endpoint(waits.endpoint)).failing_since is None
    assert "cannot be sent to" in caplog.text
    assert secret not in caplog.text
    newer = base64.b64encode(bytes(32)).decode()
    both = await make(ledger=place, webhook_rules=receiver.rules, worker="off", secret_key=f"{newer},{KEY}")
    clock.advance(timedelta(minutes=1))
    await both.webhooks.deliver()
    assert receiver.verify(secret) == [{"n": 1}]
    assert UNSENDABLE not in {each.kind for each in await both.ledger.open_alerts()}


async def test_over_tls_a_certificate_must_be_one_that_is_trusted(
    make: Make, clock: FrozenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "stranger")
    monkeypatch.setattr(sender, "_system_tls", lambda: ssl.create_default_context(cafile=str(authority.file)))
    for signer, error in ((authority, ""), (stranger, "certificate")):
        certificate = signer.sign(f"server-{error}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        async with receiving(context) as receiver:
            house = await a_house(make, clock, receiver)
            delivery = await house.sends()
            assert [each.error.partition(":")[0] for each in delivery.attempts] == [error]
            assert len(receiver.got) == (not error)


async def test_a_worker_sends_them_and_meters_them(
    make: Make, clock: FrozenClock, receiver: Receiver, shared_stores: dict[str, str]
) -> None:
    house = await a_house(make, clock, receiver, **shared_stores, secret_key=KEY)
    for number in range(3):
        await house.hooks.send_event("acme", TYPE, {"n": number})
    for bills, received in ((False, 0), (True, 3)):
        settings: dict[str, Any] = {**shared_stores, "webhook_rules": receiver.rules, "secret_key": KEY, "clock": clock}
        await Metering(**settings, worker="off").work(once=True, bills=bills)
        assert len(receiver.got) == received
    assert await house.used() == 3


async def test_a_url_that_turns_private_is_not_called_any_more(
    make: Make, clock: FrozenClock, receiver: Receiver, tmp_path: Path
) -> None:
    stores = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "secret_key": KEY}
    house = await a_house(make, clock, receiver, **stores)
    await house.hooks.send_event("acme", TYPE, {"n": 1})
    strict = await make(**stores, worker="off", webhook_rules=Rules(allow_http=True, ports=(receiver.port,)))
    await strict.webhooks.deliver()
    (delivery,) = await strict.webhooks.list_deliveries("acme")
    assert delivery.attempts[0].error.startswith("url: ")
    assert (delivery.state, receiver.got) == ("pending", [])


async def test_receivers_that_hang_delay_others_by_less_than_a_second(make: Make, receiver: Receiver) -> None:
    metering = await make(webhook_rules=receiver.rules, worker="inline", clock=SystemClock())
    await metering.put_tenant("acme", plan="pro")
    for number in range(10):
        receiver.answers[f"/hung/{number}"] = None
        await metering.webhooks.create_endpoint("acme", receiver.url(f"/hung/{number}"))
    await metering.webhooks.create_endpoint("acme", receiver.url())
    loop, worst = asyncio.get_running_loop(), 0.0
    for number in range(20):
        began = loop.time()
        sent = await metering.webhooks.send_event("acme", TYPE, {"n": number})
        while sent.id not in receiver.ids():  # noqa: ASYNC110 - the receiver tells nobody
            await asyncio.sleep(0.005)
        worst = max(worst, loop.time() - began)
    assert worst < 1


async def test_who_is_told_to_end_hands_back_what_it_was_at(house: House, receiver: Receiver) -> None:
    receiver.answers["/"] = lambda number: None if number == 1 else 200
    await house.hooks.send_event("acme", TYPE, {"n": 1})
    working = asyncio.create_task(house.hooks.dispatcher.run())
    while not receiver.got:  # noqa: ASYNC110 - the receiver tells nobody
        await asyncio.sleep(0.005)
    assert await house.hooks.deliver() == 0
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    delivery = await house.later()
    assert (delivery.state, delivery.tries, len(receiver.got)) == ("delivered", 0, 2)


async def test_no_secret_and_no_url_s_path_is_logged(
    house: House, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await house.hooks.update_endpoint(house.endpoint.id, url=receiver.url("/T0K3N?key=S3CR3T"))
    receiver.answers["/T0K3N?key=S3CR3T"] = 500
    await house.sends()
    assert "mm_metering.webhooks" in {each.name for each in caplog.records}
    for secret in (house.endpoint.secret or "", "T0K3N", "S3CR3T"):
        assert secret not in caplog.text


async def test_an_alert_of_a_quota_is_received_by_those_who_want_it(house: House, receiver: Receiver) -> None:
    await house.hooks.update_endpoint(house.endpoint.id, events=["quota.*", "overage.started"])
    await house.metering.enforce_quota("acme", "reports", 51)
    told = await house.metering.check_alerts("acme")
    await house.hooks.deliver()
    bodies = [json.loads(each.body) for each in receiver.got]
    assert sorted(each["type"] for each in bodies) == ["overage.started", "quota.warning"]
    assert {each["data"]["threshold"]: each["data"] for each in bodies} == {
        each.data["threshold"]: each.data for each in told
    }
    for body in bodies:
        jsonschema.validate(body, house.hooks.event_types[body["type"]].schema)
    assert await house.used() == 0
