"""Each parser that reads what others wrote, as a function of its bytes: it answers, or refuses by an error of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from starlette.types import Scope

from mm_metering.ai.replies import usage_of
from mm_metering.ai.streams import StreamUsage
from mm_metering.billing import signatures
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.billing.stripe import StripeBillingAdapter
from mm_metering.clock import FrozenClock
from mm_metering.core import catalogue_file, facts, strict_json
from mm_metering.core.events import UsageEvent, aware
from mm_metering.core.identity import tenant_id
from mm_metering.core.money import exact
from mm_metering.core.periods import parse_day, parse_period
from mm_metering.core.scenario_file import read_scenario
from mm_metering.errors import CatalogueError, InvalidInput, UnknownTenant, WebhookRefused
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules
from mm_metering.middleware.responses import request_id
from mm_metering.middleware.tenants import from_header, settled
from mm_metering.middleware.tokens import from_jwt
from mm_metering.webhooks import signing
from mm_metering.webhooks.answers import Heard
from mm_metering.webhooks.guard import Rules, check_url
from mm_metering.webhooks.messages import checked_data

NOW: Final = datetime(2024, 1, 1, tzinfo=UTC)
LARGE: Final = 65_536
SECRET: Final = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
_STRIPE: Final = StripeBillingAdapter(api_key="sk_test_51NotARealKey", webhook_secret=SECRET)
_MOCK: Final = MockBillingAdapter(clock=FrozenClock(NOW.isoformat()))
_GUARD: Final = EndpointGuard(EndpointRules(per_minute=0), now_s=lambda: 0.0)
_RESOLVERS: Final = (
    from_header("x-org-id"),
    from_header("x-key", {"a key": "acme"}.get),
    from_jwt("org.id", "s" * 32),
)


class Parser(NamedTuple):
    """``refuses``: the errors that it may raise."""

    read: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]


def text(raw: bytes) -> str:
    """What a library made a str of may hold anything, lone surrogates too."""
    return raw.decode("utf-8", "surrogateescape")


async def _asked(raw: bytes) -> None:
    """The values of headers as servers hand them on: bytes without the ends of lines."""
    value = raw.replace(b"\r", b"").replace(b"\n", b"")
    names = (b"x-org-id", b"x-key", b"authorization", b"x-request-id", b"content-encoding")
    for name in names:
        scope: Scope = {"type": "http", "path": "/", "headers": [(name, b"Bearer " + value), (name, value)]}
        for each in ({**scope, "headers": [pair]} for pair in scope["headers"]):
            request_id(each)
            _GUARD.refusal({**each, "client": (text(value), 1)})
            for resolver in _RESOLVERS:
                try:
                    tenant_id(await settled(resolver(each)) or "nobody")
                except (UnknownTenant, InvalidInput):
                    continue


def _plans(raw: bytes) -> None:
    catalogue_file.parse(text(raw), "plans.toml")


def _scenario(raw: bytes) -> None:
    read_scenario(*catalogue_file.toml(text(raw), "scenario.toml"))


def _stripe(raw: bytes) -> None:
    """Signed: an attacker's is refused before it is read."""
    _STRIPE.read_webhook(raw, {"stripe-signature": signatures.sign(raw, SECRET, NOW)}, NOW)


def _mock(raw: bytes) -> None:
    _MOCK.read_webhook(raw, {"stripe-signature": signatures.sign(raw, _MOCK.webhook_secret, NOW)}, NOW)


def _stripe_signature(raw: bytes) -> None:
    _STRIPE.read_webhook(b"{}", {"stripe-signature": raw.decode("latin-1")}, NOW)


def _signature(raw: bytes) -> None:
    good = signing.sign("msg_1", NOW, b"{}", [SECRET])
    for name in good:
        try:
            signing.verify(b"{}", {**good, name: raw.decode("latin-1")}, [SECRET], NOW)
        except WebhookRefused:
            continue


def _event(raw: bytes) -> None:
    found = strict_json.loads(raw)
    UsageEvent.model_validate(found)
    UsageEvent.model_validate({"tenant": "acme", "event_type": "api_call", "resource": "/", "metadata": found})


def _data(raw: bytes) -> None:
    checked_data(strict_json.loads(raw))


def _instant(raw: bytes) -> None:
    for read in (lambda given: aware(given, "at"), lambda given: parse_day(given, "day"), parse_period):
        try:
            read(text(raw))
        except InvalidInput:
            continue


def _answer(raw: bytes) -> None:
    """What a receiver says, in the headers that are read."""
    for name in (b"retry-after", b"date", b"content-encoding"):
        headers = {b"retry-after": b"Mon, 01 Jan 2024 00:00:00 GMT", name: raw}
        Heard(429, headers, bytearray(raw)).answer("status", took_ms=1)


def _reply(raw: bytes) -> None:
    """What a gateway makes of a provider's reply is anything that is JSON; of one so large only its text is counted."""
    found = strict_json.loads(raw[:LARGE])
    usage_of(found, model="gpt-4")
    stream = StreamUsage(model="gpt-4")
    for each in found[:1_000] if isinstance(found, list) else [found]:
        stream.add(each)
    stream.usage()


PARSERS: Final[Mapping[str, Parser]] = {
    "headers": Parser(lambda raw: asyncio.run(_asked(raw)), ()),
    "plans": Parser(_plans, (CatalogueError,)),
    "scenario": Parser(_scenario, (CatalogueError,)),
    "stripe_body": Parser(_stripe, (WebhookRefused,)),
    "mock_body": Parser(_mock, (WebhookRefused,)),
    "stripe_signature": Parser(_stripe_signature, (WebhookRefused,)),
    "signature": Parser(_signature, ()),
    "secret": Parser(lambda raw: signing.checked_secret(text(raw)), (InvalidInput,)),
    "json": Parser(strict_json.loads, (ValueError,)),
    "event": Parser(_event, (InvalidInput, ValueError)),
    "fact": Parser(facts.decode, (ValueError,)),
    "data": Parser(_data, (InvalidInput, ValueError)),
    "url": Parser(lambda raw: check_url(text(raw), Rules()), (InvalidInput,)),
    "instant": Parser(_instant, ()),
    "money": Parser(lambda raw: exact(text(raw), "amount"), (InvalidInput,)),
    "answer": Parser(_answer, ()),
    "reply": Parser(_reply, (ValueError,)),
}
