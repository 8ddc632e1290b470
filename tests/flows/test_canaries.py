"""Secrets, personal data and card numbers, pushed through every path: where they must not be, they are not found."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
import pytest
import pytest_asyncio
from fastapi import FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mm_metering import (
    FrozenClock,
    Metering,
    MockBillingAdapter,
    Telemetry,
    UsageEvent,
    first_of,
    from_header,
    from_jwt,
)
from mm_metering.backends.counters import START
from mm_metering.billing.documents import Party
from mm_metering.billing.stripe import StripeBillingAdapter
from mm_metering.billing.stripe.calls import Retries
from mm_metering.errors import InvalidInput, MeteringError
from mm_metering.logs import guard_logs, scrubbed
from mm_metering.privacy import KeyUse
from mm_metering.webhooks.signing import new_secret, sign
from tests.card_numbers import EVERY
from tests.flows.conftest import Make, urls
from tests.redis_server import RedisServer
from tests.unit.callers import signed
from tests.webhook_receiver import Receiver, receiving

KEYS: Final = [base64.b64encode(bytes([number]) * 32).decode() for number in (7, 8)]
PERSON: Final = ("ada.canary@example.com", "Ada Canaria Lovelace", "+44 20 7946 0958")
CARD: Final = "4242424242424242"
NOTE: Final = {"mail": PERSON[0], "name": PERSON[1], "phone": PERSON[2]}
REASON: Final = "request 17"


# -- card numbers -----------------------------------------------------------------------------------------------------

Push = Callable[[Metering, str], Coroutine[Any, Any, object]]


async def _credit(metering: Metering, text: str) -> object:
    return await metering.credit_invoice("inv_1", reason=text)


async def _scope(metering: Metering, **names: Any) -> object:
    async with metering.ai.reserve("acme", "gpt-4", input_tokens=1, max_output_tokens=1, **names) as call:
        return call


async def _event(metering: Metering, **changes: Any) -> object:
    fields: dict[str, Any] = {"tenant": "acme", "event_type": "api_call", "resource": "/v1"}
    return await metering.record(UsageEvent(**fields | changes))


async def _customer(metering: Metering, **changes: Any) -> object:
    fields: dict[str, Any] = {"organization_id": "acme", "email": "a@b.example", "name": "A"}
    return await metering.billing.create_customer(**fields | changes)


def _changed_customer(metering: Metering, **changes: Any) -> Coroutine[Any, Any, object]:
    return metering.billing.update_customer("cus_1", **changes)


REFUSED: Final[dict[str, Push]] = {
    "metadata": lambda m, text: _event(m, metadata={"deep": [{"note": text}]}),
    "metadata key": lambda m, text: _event(m, metadata={text: 1}),
    "resource": lambda m, text: _event(m, resource=text),
    "api call": lambda m, text: m.record_api_call("acme", text),
    "model": lambda m, text: m.record_ai_usage("acme", text, tokens=1),
    "webhook id": lambda m, text: m.record_webhook_delivery("acme", text),
    "level": lambda m, text: m.set_level("acme", "storage_mb", 1, resource=text),
    "enforced": lambda m, text: m.enforce_quota("acme", "api_calls", resource=text),
    "feature": lambda m, text: _scope(m, feature=text),
    "user": lambda m, text: _scope(m, user=text),
    "run": lambda m, text: _scope(m, run=text),
    "credit": lambda m, text: m.grant_credit("acme", "1.00", reason=text),
    "credit note": _credit,
    "discount": lambda m, text: m.put_discount("acme", percent="10", name=text),
    "adjustment": lambda m, text: m.adjust_invoice("acme", "1.00", reason=text),
    "webhook data": lambda m, text: m.webhooks.send_event("acme", "billing.invoice_created", {"a": [text]}),
    "webhook url": lambda m, text: m.webhooks.create_endpoint(
        "acme", f"https://hooks.acme-mortgage.com/{text.replace(' ', '-')}"
    ),
    "customer's name": lambda m, text: _customer(m, name=text),
    "customer's mail": lambda m, text: _customer(m, email=text),
    "customer's metadata": lambda m, text: _customer(m, metadata={"note": text}),
    "another name": lambda m, text: _changed_customer(m, name=text),
    "another metadata": lambda m, text: _changed_customer(m, metadata={"note": text}),
    "override": lambda m, text: m.override_plan("acme", {"ai": {"model_allowlist": [text]}}),
    "reason to forget": lambda m, text: m.forget_tenant("acme", reason=text),
}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that was logged at any level, as a handler writes it."""
    caplog.set_level(logging.DEBUG)
    guard_logs()
    return lambda: "\n".join(map(logging.Formatter("%(name)s %(message)s").format, caplog.records))


async def test_no_card_number_is_taken_in_any_text(
    make: Make, clock: FrozenClock, said: Callable[[], str], tmp_path: Path
) -> None:
    billing = MockBillingAdapter(clock=clock)
    metering = await make(ledger=f"sqlite:///{tmp_path}/ledger.db", billing=billing, secret_key=KEYS[0])
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    taken, repeated = list[str](), list[str]()
    for number, card in enumerate(EVERY):
        text = f"card {card[:4]} {card[4:8]} {card[8:12]} {card[12:]}" if number % 2 and len(card) == 16 else card
        for name, push in REFUSED.items() if number < 3 else [[*REFUSED.items()][number % len(REFUSED)]]:
            try:
                await push(metering, text)
                taken.append(f"{name}: {card}")
            except InvalidInput as error:
                repeated += [name] if card[-6:] in str(error) else []
    await metering.flush()
    assert (taken, repeated) == ([], [])
    assert found_in(said(), EVERY) == []
    assert found_in(every_byte(tmp_path), EVERY) == []


async def test_what_others_write_is_masked(
    make: Make, clock: FrozenClock, said: Callable[[], str], tmp_path: Path
) -> None:
    """A receiver's answer, an error of a host's hook, and whatever else is logged."""
    async with receiving() as receiver:
        receiver.answers["/"] = _answer(f"no card {CARD} here")
        metering = await make(
            ledger=f"sqlite:///{tmp_path}/ledger.db",
            secret_key=KEYS[0],
            webhook_rules=receiver.rules,
            worker="off",
        )

        @metering.on("alert.test")
        async def fail(_: object) -> None:
            raise ValueError(f"card {CARD}")

        await metering.put_tenant("acme", plan="pro")
        await metering.webhooks.create_endpoint("acme", receiver.url())
        await metering.webhooks.send_event("acme", "billing.invoice_created", {"n": 1})
        await metering.webhooks.deliver()
        (delivery,) = await metering.webhooks.list_deliveries("acme")
        assert delivery.attempts[-1].excerpt == "no card •••• 4242 here"
        await metering.test_alert("acme")
        await metering.ledger.raise_alert("hook_failed", "n", detail=f"card {CARD}", now_us=1)
        assert [each.detail for each in await metering.ledger.open_alerts()] == ["card •••• 4242"]
        for name in ("mm_metering", "mm_metering.worker", "mm_metering.gate"):
            logging.getLogger(name).warning("%s and %s", CARD, EVERY[6])
        assert "card •••• 4242" in said()
        assert found_in(said(), EVERY) == []
    assert found_in(every_byte(tmp_path), EVERY) == []


def _answer(text: str) -> bytes:
    return f"HTTP/1.1 500 No\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


# -- personal data ----------------------------------------------------------------------------------------------------


@dataclass
class House:
    """A Metering on stores that can be read from outside, byte by byte."""

    metering: Metering
    receiver: Receiver
    redis: RedisServer
    ledger: str
    directory: Path

    async def everything(self) -> bytes:
        """What stands in both stores, and in the journal\'s files."""
        return every_byte(self.directory) + await self._tables() + self._keys()

    async def _tables(self) -> bytes:
        if self.ledger.startswith("sqlite"):
            return b""
        connection = await asyncpg.connect(self.ledger)
        try:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE tablename LIKE 'mm_%'")
            rows = [await connection.fetch(f"SELECT t::text FROM {each['tablename']} AS t") for each in tables]
            return "\n".join(row[0] for found in rows for row in found).encode()
        finally:
            await connection.close()

    def _keys(self) -> bytes:
        assert self.redis.command("CONFIG", "SET", "rdbcompression", "no") == b"+OK\r\n"
        assert self.redis.command("SAVE") == b"+OK\r\n"
        return (self.redis.socket.parent / "dump.rdb").read_bytes()


@pytest.fixture(params=["redis+sqlite sealed", "redis+sqlite clear", "redis+postgres sealed"])
def options(request: pytest.FixtureRequest) -> dict[str, str]:
    """Two stores, and perhaps a key."""
    request.param, how = request.param.split()
    return urls(request) | ({"secret_key": KEYS[0]} if how == "sealed" else {})


@pytest_asyncio.fixture
async def house(
    options: dict[str, str], redis_server: RedisServer, clock: FrozenClock, make: Make, tmp_path: Path
) -> AsyncIterator[House]:
    billing = MockBillingAdapter(clock=clock)
    async with receiving() as receiver:
        metering = await make(**options, worker="off", webhook_rules=receiver.rules, billing=billing)
        yield House(metering, receiver, redis_server, options["ledger"], tmp_path)


async def test_nothing_personal_is_left_of_a_forgotten_tenant(
    house: House, clock: FrozenClock, said: Callable[[], str]
) -> None:
    metering, is_sealed = house.metering, bool(house.metering._sealed._vault.key_ids)
    for tenant in ("acme", "beta"):
        await metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await _used(metering, "acme", NOTE, PERSON[0])
    await _used(metering, "beta", {"mail": "beta@example.com"}, "b-1")
    secret = await _told(house) if is_sealed else None
    await metering.flush()
    clock.set("2024-02-03T00:00:00Z")
    (closed,) = await metering.close_period("2024-01", tenant="acme")
    before = await house.everything()
    stands = {each for each in PERSON if each.encode() in before}
    assert stands == ({PERSON[0]} if is_sealed else {*PERSON})  # an event's id is looked up, and so stays as it is
    assert await _is_noise(metering) is is_sealed
    assert b"beta@example.com" in before or is_sealed

    done = await metering.forget_tenant("acme", reason=REASON)
    assert (done.facts, done.event_ids) == (0 if is_sealed else 2, 1)
    left, log = await house.everything(), said()
    assert found_in(left, (*PERSON, *([secret] if secret else []))) == []
    assert found_in(log, PERSON) == []
    assert b"beta@example.com" in left or is_sealed
    assert b"acme" in left
    await _is_gone_but_its_books(metering, closed.id)


async def _used(metering: Metering, tenant: str, note: dict[str, str], event_id: str) -> None:
    await metering.record_api_call(tenant, "/v1/reports", metadata=note, id=event_id)
    await metering.set_level(tenant, "users", 3)
    await metering.record(UsageEvent(tenant=tenant, event_type="storage", resource="disk", quantity=5, metadata=note))
    await metering.billing.create_customer(organization_id=tenant, email=PERSON[0], name=PERSON[1], metadata=note)


async def _told(house: House) -> str:
    """To an endpoint whose URL holds a secret, and that answers with what it was sent."""
    house.receiver.answers["/hook/canary-in-the-path"] = _answer(" ".join(PERSON))
    hooks = house.metering.webhooks
    await hooks.create_endpoint("acme", house.receiver.url("/hook/canary-in-the-path"))
    await hooks.send_event("acme", "billing.invoice_created", NOTE)
    await hooks.deliver()
    (delivery,) = await hooks.list_deliveries("acme")
    assert PERSON[0] in delivery.attempts[0].excerpt
    assert PERSON[1].encode() in house.receiver.got[-1].body
    return "canary-in-the-path"


async def _is_gone_but_its_books(metering: Metering, invoice_id: str) -> None:
    assert (await metering.prove()).holds
    assert (await metering.get_invoice(invoice_id)).tenant == "acme"
    assert (await metering.rerun_invoice(invoice_id)) == await metering.get_invoice(invoice_id)
    assert (await metering.get_usage("acme", "2024-01-01", "2024-01-31")).api_calls == 1
    assert (await metering.check_limit("acme", "api_calls")).reason == "payment-required"
    row = await metering.ledger.tenant("acme")
    assert row is not None
    assert row.forgotten_us
    entries = [each for each in await metering.list_audit(tenant="acme") if each.action == "tenant forgotten"]
    assert [(each.subject, each.reason) for each in entries] == [("acme", REASON)]
    for again in (
        metering.record_api_call("acme", "/v1", metadata=NOTE),
        metering.put_tenant("acme", plan="pro"),
        metering.webhooks.create_endpoint("acme", "https://hooks.acme-mortgage.com/"),
        metering.webhooks.send_event("acme", "billing.invoice_created", NOTE),
        metering.billing.create_customer(organization_id="acme", email=PERSON[0], name=PERSON[1]),
    ):
        with pytest.raises(MeteringError, match="was forgotten"):
            await again
    kinds = [each["kind"] async for each in metering.export_tenant("acme")]
    assert {"tenant", "usage", "fact", "invoice", "audit"} <= {*kinds}
    assert not {"endpoint", "delivery"} & {*kinds}
    assert "acme" not in await _sealed_tenants(metering)
    assert await metering.billing.get_customer("acme") is None


async def _is_noise(metering: Metering) -> bool:
    """Whether what callers wrote cannot be read in the ledger."""
    facts = await metering.ledger.facts("acme", after=(0, ""), limit=10)
    return not [each for each in facts if PERSON[0] in (each.metadata or "")]


async def _sealed_tenants(metering: Metering) -> set[str]:
    return {each.tenant for each in await metering.ledger.tenant_keys()}


async def test_an_export_has_all_and_no_secret(make: Make, clock: FrozenClock, tmp_path: Path) -> None:
    metering = await make(
        ledger=f"sqlite:///{tmp_path}/a.db", secret_key=KEYS[0], billing=MockBillingAdapter(clock=clock)
    )
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await _used(metering, "acme", NOTE, "e-1")
    secret = (await metering.webhooks.create_endpoint("acme", "https://hooks.acme-mortgage.com/hook")).secret
    await metering.webhooks.send_event("acme", "billing.invoice_created", NOTE)
    await metering.grant_credit("acme", "5.00", reason="welcome")
    await metering.adjust_invoice("acme", "-1.00", reason="sorry")
    await metering.put_discount("acme", percent="10")
    things = [each async for each in metering.export_tenant("acme")]
    text = "\n".join(json.dumps(each, default=str, ensure_ascii=False) for each in things)
    kinds = "tenant customer usage fact credit discount adjustment endpoint delivery notice audit"
    assert {each["kind"] for each in things} == {*kinds.split()}
    notes = [each["metadata"] for each in things if each["kind"] == "fact" and each["metadata"]]
    assert list(map(json.loads, notes)) == [NOTE, NOTE]
    assert str(secret) not in text
    assert "mm1:" not in text
    assert "v2:" not in text


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_are_rotated_while_apps_go_on_and_what_is_missing_is_named(
    make: Make, clock: FrozenClock, ledger: str
) -> None:
    rules = Receiver(443).rules
    old = await make(ledger=ledger, secret_key=KEYS[0], webhook_rules=rules, worker="off")
    for tenant in ("acme", "beta"):
        await old.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        await old.record_api_call(tenant, "/v1", metadata=NOTE)
        made = await old.webhooks.create_endpoint(tenant, "https://127.0.0.1/")
        await old.webhooks.rotate_secret(made.id)
        await old.flush()
    if ledger == "memory://":
        ledger = old.ledger  # type: ignore[assignment]
    both = await make(ledger=ledger, secret_key=f"{KEYS[1]},{KEYS[0]}", webhook_rules=rules, worker="off")
    newest, oldest = both._sealed._vault.key_ids
    assert await both.list_keys() == [KeyUse(newest, 0, True, True), KeyUse(oldest, 6, True, False)]  # noqa: FBT003
    seen = list[int]()
    ended = await _ended_halfway(both, seen)
    endpoint = (await old.webhooks.list_endpoints("beta"))[0]
    racing = (both.rotate_keys(), both.rotate_keys(), old.webhooks.rotate_secret(endpoint.id))
    first, second, _ = await asyncio.gather(*racing)
    assert (await both.rotate_keys(progress=seen.append)).missing == {}
    assert ended + first.values + second.values >= 5
    assert [each.values for each in await both.list_keys()] == [6, 0]
    assert (await both.rotate_keys()).values == 0
    alone = await make(ledger=ledger, secret_key=KEYS[1], webhook_rules=rules, worker="off")
    notes = [each["metadata"] async for each in alone.export_tenant("beta") if each["kind"] == "fact"]
    assert list(map(json.loads, notes)) == [NOTE]
    for row in await alone.ledger.every_endpoint():
        assert len(alone.webhooks.dispatcher._secrets(row, clock.now())) == 2
    gone = await make(ledger=ledger, secret_key=KEYS[0], webhook_rules=rules, worker="off")
    assert [each for each in await gone.list_keys() if not each.is_here] == [KeyUse(newest, 6, False, False)]  # noqa: FBT003
    assert (await gone.rotate_keys()).missing == {newest: 6}


async def _ended_halfway(metering: Metering, seen: list[int]) -> int:
    def stop(done: int) -> None:
        seen.append(done)
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await metering.rotate_keys(progress=stop)
    return seen[-1]


# -- secrets ----------------------------------------------------------------------------------------------------------


async def test_no_secret_is_in_a_repr_an_error_a_log_a_span_or_a_metric(
    clock: FrozenClock, said: Callable[[], str], tmp_path: Path
) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing, metrics = TracerProvider(), MeterProvider(metric_readers=[reader])
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    hidden, texts = new_secret(), list[str]()
    secrets = {
        "password": "canary-password", "option": "canary-option", "stripe": "sk_test_canaryCANARYcanary",
        "key": KEYS[0], "signing": hidden, "path": "canary-of-the-url", "bytes": KEYS[1][:20],
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving())
        there: dict[str, Any] = {"webhook_secret": hidden, "base_url": "http://127.0.0.1:9", "retries": Retries(1)}
        metering = Metering(
            ledger=f"sqlite:///{tmp_path}/a.db",
            clock=clock,
            secret_key=KEYS[0],
            webhook_rules=receiver.rules,
            worker="off",
            billing=StripeBillingAdapter(api_key=secrets["stripe"], **there),
            telemetry=Telemetry(
                meter_provider=metrics, tracer_provider=tracing, tenant_label="top:50", span_tenant=True
            ),
        )
        await stack.enter_async_context(metering)
        await metering.put_tenant("acme", plan="pro")
        endpoint = await metering.webhooks.create_endpoint("acme", receiver.url(f"/{secrets['path']}"), secret=hidden)
        receiver.answers[f"/{secrets['path']}"] = 500
        await metering.webhooks.send_event("acme", "billing.invoice_created", {"n": 1})
        await metering.webhooks.deliver()
        row = (await metering.ledger.endpoints("acme"))[0]
        (delivery,) = await metering.webhooks.list_deliveries("acme")
        await metering.test_alert("acme")
        parts = (metering, metering.billing, metering.billing.adapter, metering.webhooks, metering._sealed._vault)
        texts += [repr(each) for each in (*parts, endpoint, row, row.secrets, delivery, *vars(metering).values())]
        texts += [
            str(await metering.monitor.health()),
            await metering.monitor.exposition(),
            str(reader.get_metrics_data()),
        ]
        texts += [each.text for each in await metering.check_up()] + [str(await metering.list_audit())]
        texts += [each.to_json() for each in spans.get_finished_spans()]
        texts += [await _said_of(metering.billing.create_customer(organization_id="x", email="a@b.example", name="A"))]
        texts += await _errors(secrets)
    texts += [said(), repr(sign("msg_1", clock.now(), b"{}", [hidden]))[:0]]
    metrics.shutdown()
    assert found_in("\n".join(texts), secrets.values()) == []
    assert spans.get_finished_spans()


async def _errors(secrets: dict[str, str]) -> list[str]:
    """What is said of stores that do not answer, of URLs that are wrong, and of keys that are none."""
    password, option = secrets["password"], secrets["option"]
    stores = (
        {"counters": f"redis://user:{password}@127.0.0.1:1/0?password={option}"},
        {"counters": f"rediss://user:{password}@127.0.0.1:1/0"},
        {"counters": f"redis+cluster://user:{password}@127.0.0.1:1,127.0.0.1:2"},
        {"counters": f"redis://user:{password}?x@127.0.0.1:1/0"},
        {"counters": f"redis://user:{password}@127.0.0.1:x/0"},
        {"counters": f"redis://user:{password}@127.0.0.1:1/0?unknown={option}"},
        {"counters": f"other://user:{password}@h"},
        {"counters": password},
        {"ledger": f"postgresql://user:{password}@127.0.0.1:1/db?passfile={option}"},
        {"ledger": f"postgresql://user:{password}@127.0.0.1:x/db"},
        {"ledger": f"mysql://user:{password}@h/db"},
        {"ledger": password},
        {"secret_key": secrets["bytes"]},
    )
    said = list[str]()
    for each in stores:
        said += await _tried(each)
    for wrong in (f"{secrets['stripe']} ", password):
        said.append(await _said_of(_adapter(wrong)))
    return said


async def _tried(options: dict[str, str]) -> list[str]:
    try:
        metering = Metering(**options, journal="off", worker="off")  # type: ignore[arg-type]
    except MeteringError as error:
        return [_whole(error)]
    said = [repr(metering), metering.summary, str(metering.places), repr(metering.counters), repr(metering.ledger)]
    said.append(await _said_of(metering.counters.read(0, after=START, limit=1)))
    said += [await _said_of(metering.ledger.setup(apply=False)), str(await metering.monitor.health())]
    await metering.aclose()
    return said


async def _adapter(api_key: str) -> object:
    return StripeBillingAdapter(api_key=api_key)


async def _said_of(work: Coroutine[Any, Any, object]) -> str:
    try:
        return repr(await work)
    except MeteringError as error:
        return _whole(error)


def _whole(error: BaseException) -> str:
    """With its causes, as a traceback shows them, but for the lines of source."""
    said = "".join(traceback.format_exception(error))
    return "\n".join(line for line in said.splitlines() if not line.startswith("    "))


async def test_no_key_of_a_caller_is_logged_or_shown(memory: Metering, said: Callable[[], str]) -> None:
    app, keys = FastAPI(), {"canary-right-key": "acme"}
    resolvers = (from_header("x-api-key", keys.get), from_jwt("org", key="canary-of-32-bytes-for-tokens-0123"))
    memory.install(app, tenant=first_of(*resolvers))

    @app.get("/items")
    def items() -> str:
        raise ValueError("a bug")

    texts = [repr(resolvers), repr(memory)]
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app.example") as caller:
        for name, value in (
            ("x-api-key", "canary-right-key"),
            ("x-api-key", "canary-wrong-key"),
            ("authorization", "Bearer canary.wrong.token"),
            ("authorization", f"Bearer {signed('canary-another-secret-0123456789')}"),
        ):
            answer = await caller.get("/items?token=canary-in-a-query", headers={name: value})
            texts += [answer.text, str(answer.headers)]
    await memory.flush()
    texts += [each.text for each in memory.notes.findings()]
    texts.append(str(await memory.ledger.facts("acme", after=(0, ""), limit=9)))
    texts += [line for line in said().splitlines() if not line.startswith("httpx2")]  # the caller's own
    assert "canary" not in "\n".join(texts)


def test_reprs_name_nobody() -> None:
    from mm_metering.billing.adapter import BillingCustomer

    shown = (
        BillingCustomer(id="cus_1", organization_id="acme", email=PERSON[0], name=PERSON[1], metadata=NOTE),
        Party(PERSON[1], (PERSON[2],), email=PERSON[0]),
        UsageEvent(tenant="acme", event_type="api_call", resource="/v1", metadata=NOTE),
    )
    assert found_in(repr(shown), PERSON) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://user:pa55@h:1/0 failed", "redis://***@h:1/0 failed"),
        ("key sk_live_abcdefgh1234 is wrong", "key sk_live_*** is wrong"),
        ("secret whsec_AAAAAAAAAAAA+/=", "secret whsec_***"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ("nothing to hide in ev_1234567890123", "nothing to hide in ev_1234567890123"),
    ],
)
def test_a_logged_secret_is_hidden(text: str, clean: str) -> None:
    assert scrubbed(text) == clean


def test_every_logger_of_ours_has_the_net_under_it() -> None:
    guard_logs()
    own = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "mm_metering"]
    bare = [name for name in own if len(logging.getLogger(name).filters) != 1]
    assert (len(own) > 5, bare) == (True, [])


# -- looking ----------------------------------------------------------------------------------------------------------


def found_in(text: bytes | str, canaries: Iterable[str]) -> list[str]:
    whole = text.encode() if isinstance(text, str) else text
    return [each for each in canaries if each.encode() in whole]


def every_byte(directory: Path) -> bytes:
    """Of the SQLite file, its log, and the journal\'s files."""
    files = [Path(place) / name for place, _, names in os.walk(directory) for name in names]
    return b"".join(each.read_bytes() for each in files if each.is_file())
