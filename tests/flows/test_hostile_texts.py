"""Text that a store cannot hold is refused at the door, wherever it comes in, and never stops what comes after."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mm_metering import InvalidEvent, InvalidTenant, Metering, MeteringError, UsageEvent
from mm_metering.errors import InvalidInput
from mm_metering.testing import assert_conserved

NUL, SURROGATE = "a\x00b", "a\ud800b"
Try = Callable[[Metering, str], Awaitable[Any]]


async def _bound_add(metering: Metering, text: str) -> None:
    with metering.bind("org_1") as bound:
        bound.add("api_calls", resource=text)


async def _bound(metering: Metering, text: str) -> None:
    with metering.bind(text):
        pass


def event(**values: Any) -> UsageEvent:
    return UsageEvent(**{"tenant": "org_1", "event_type": "api_call", "resource": "/r"} | values)


DOORS: dict[str, Try] = {
    "tenant of a take": lambda metering, text: metering.enforce_quota(text, "api_calls"),
    "tenant of a look": lambda metering, text: metering.check_limit(text, "api_calls"),
    "tenant of a release": lambda metering, text: metering.release(text, "users"),
    "tenant of a level": lambda metering, text: metering.set_level(text, "users", 1),
    "tenant of a record": lambda metering, text: metering.record_api_call(text, "/r"),
    "tenant that is put": lambda metering, text: metering.put_tenant(text, plan="pro"),
    "tenant that is looked up": lambda metering, text: metering.get_tenant(text),
    "tenant that changes": lambda metering, text: metering.change_plan(text, "pro"),
    "tenant that is paused": lambda metering, text: metering.pause_subscription(text),
    "tenant of a snapshot": lambda metering, text: metering.create_usage_snapshot(text, "2024-01-15"),
    "tenant of a range": lambda metering, text: metering.get_usage(text, "2024-01-15", "2024-01-15"),
    "tenant of an invoice": lambda metering, text: metering.preview_invoice(text),
    "bound tenant": _bound,
    "resource of a take": lambda metering, text: metering.enforce_quota("org_1", "api_calls", resource=text),
    "resource of a look": lambda metering, text: metering.check_limit("org_1", "api_calls", resource=text),
    "resource of a level": lambda metering, text: metering.set_level("org_1", "users", 1, resource=text),
    "resource of a record": lambda metering, text: metering.record_api_call("org_1", text),
    "resource that is added": _bound_add,
    "model": lambda metering, text: metering.record_ai_usage("org_1", text, tokens=1),
    "webhook": lambda metering, text: metering.record_webhook_delivery("org_1", text),
    "event type": lambda metering, text: metering.record(event(event_type=text)),
    "event id": lambda metering, text: metering.record(event(id=text)),
    "id of an AI call": lambda metering, text: metering.record_ai_usage("org_1", "gpt-4", tokens=1, id=text),
    "meter": lambda metering, text: metering.enforce_quota("org_1", text),
    "plan": lambda metering, text: metering.put_tenant("org_1", plan=text),
    "zone": lambda metering, text: metering.put_tenant("org_1", timezone=text),
    "tax": lambda metering, text: metering.put_tenant("org_1", tax_rate=text),
    "period": lambda metering, text: metering.preview_invoice("org_1", period=text),
    "metadata": lambda metering, text: metering.record(event(metadata={"k": text})),
    "key of metadata": lambda metering, text: metering.record(event(metadata={text: 1})),
    "deep in metadata": lambda metering, text: metering.record(event(metadata={"k": [{"x": [1, {"y": text}]}]})),
    "deep key in metadata": lambda metering, text: metering.record(event(metadata={"k": [{text: None}]})),
    "bytes in metadata": lambda metering, text: metering.record(
        event(metadata={"k": text.encode("utf-8", "surrogatepass")})
    ),
}


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "surrogate"])
async def test_every_door_refuses_it_and_the_next_fact_is_billed(metering: Metering, text: str) -> None:
    for door, use in DOORS.items():
        with pytest.raises(MeteringError) as refused:
            await use(metering, text)
        assert isinstance(refused.value, InvalidInput) or "plan" in door, (door, refused.value)
        assert str(refused.value).isprintable(), door
    await metering.enforce_quota("org_1", "api_calls", resource="/after")
    await assert_conserved(metering, told={"org_1": {"api_calls": 1, "users": 0}})


async def test_text_that_looks_like_it_is_text(metering: Metering) -> None:
    """A backslash and its digits are what somebody wrote, and come back so."""
    written = {"k": "\\u0000 \\ud800 \\x00 \\", "\\u0000": ["ü", "😀"], "n": float("nan")}
    await metering.record(event(resource="\\u0000/😀", id="\\x00", metadata=written))
    await assert_conserved(metering, told={"org_1": {"api_calls": 1}})
    (fact,) = await metering.ledger.facts("org_1", after=(0, ""), limit=9)
    assert fact.resource == "\\u0000/😀"
    assert json.loads(fact.metadata or "") == written | {"n": "NaN"}


def test_the_error_says_where_it_is() -> None:
    with pytest.raises(InvalidTenant, match=r"^tenant: holds the control character U\+0000 at position 1$"):
        event(tenant=NUL)
    with pytest.raises(InvalidEvent, match=r"^resource: holds a lone surrogate at position 1; it must be valid UTF-8$"):
        event(resource=SURROGATE)
    with pytest.raises(InvalidEvent, match=r"^metadata: holds a NUL character, which PostgreSQL cannot store$"):
        event(metadata={"k": [NUL]})
