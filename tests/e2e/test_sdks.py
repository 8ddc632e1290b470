"""The AI providers' own clients in front of a metered app: they stop where waiting is long or money is short.

Nobody but the clients waits: the app's clock stands still, and a retry moves it by the second that it was told to wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import anthropic
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from examples.mortgagematch.stage import bound
from mm_metering import FrozenClock, Metering, from_header

Ask: TypeAlias = Callable[[str, str], object]
"""Sends one message to an app (its URL) for a tenant."""

PATHS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
KINDS: dict[str, dict[str, int]] = {
    "long": {"api_calls": 4},
    "money": {"tokens": 2},
    "short": {"bursts": 1},
}
pytestmark = pytest.mark.timeout(30)  # a client that should have stopped sleeps until noon
CATALOGUE: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {"api_calls": {"event": "api_call"}, "tokens": {"event": "token"}, "bursts": {"event": "burst"}},
    "plans": {
        "small": {
            "price": "0",
            "quotas": {
                "api_calls": {"limit": 3, "per": "day"},
                "tokens": {"limit": 0, "per": "month", "then": {"charge_up_to": "1.00"}, "unit_price": "1"},
                "bursts": {"limit": 1, "per": "second"},
            },
        }
    },
    "routes": {f"POST /{kind}{path}": {"api_calls": 0} | cost for kind, cost in KINDS.items() for path in PATHS},
}
REPLIES: dict[str, dict[str, Any]] = {
    "openai": {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": []},
    "anthropic": {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}


class Attempts:
    """Counts requests by tenant; the clock moves as far as a client that tries again has waited."""

    def __init__(self, app: ASGIApp, clock: FrozenClock) -> None:
        self.app, self.clock, self.by_tenant = app, clock, Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self.by_tenant[headers["x-org-id"]] += 1
            if headers.get("x-stainless-retry-count", "0") != "0":
                self.clock.advance(timedelta(seconds=1))
        await self.app(scope, receive, send)


def app_under(clock: FrozenClock) -> FastAPI:
    app = FastAPI()
    metering = Metering(CATALOGUE, clock=clock)
    shapes: Any = {f"/{kind}{path}": shape for kind in KINDS for path, shape in PATHS.items()}
    metering.install(app, tenant=from_header("x-org-id"), error_shapes=shapes)
    for kind in KINDS:
        for path, shape in PATHS.items():
            app.add_api_route(f"/{kind}{path}", lambda reply=REPLIES[shape]: reply, methods=["POST"])
    return app


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[str, Counter[str]]]:
    """The URL of the app under uvicorn, in a thread of its own, and how often each tenant has asked."""
    clock = FrozenClock("2024-01-15T12:00:00Z")
    attempts = Attempts(app_under(clock), clock)
    server = uvicorn.Server(uvicorn.Config(attempts, log_level="warning", ws="none", lifespan="on"))
    with bound(0) as listening:
        listening.listen()  # so that who comes before the server waits for it
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        yield "http://{}:{}".format(*listening.getsockname()), attempts.by_tenant
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


OPENAI: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
ANTHROPIC: dict[str, Any] = {**OPENAI, "max_tokens": 1}


def options(url: str, tenant: str) -> dict[str, Any]:
    return {"base_url": url, "api_key": "none", "default_headers": {"x-org-id": tenant}}


def openai_sync(url: str, tenant: str) -> object:
    with openai.OpenAI(**options(f"{url}/v1", tenant)) as client:
        return client.chat.completions.create(**OPENAI)


def openai_async(url: str, tenant: str) -> object:
    async def ask() -> object:
        async with openai.AsyncOpenAI(**options(f"{url}/v1", tenant)) as client:
            return await client.chat.completions.create(**OPENAI)

    return asyncio.run(ask())


def anthropic_sync(url: str, tenant: str) -> object:
    with anthropic.Anthropic(**options(url, tenant)) as client:
        return client.messages.create(**ANTHROPIC)


def anthropic_async(url: str, tenant: str) -> object:
    async def ask() -> object:
        async with anthropic.AsyncAnthropic(**options(url, tenant)) as client:
            return await client.messages.create(**ANTHROPIC)

    return asyncio.run(ask())


ASK: dict[str, Ask] = {each.__name__: each for each in (openai_sync, openai_async, anthropic_sync, anthropic_async)}


def refusal_of(ask: Ask, url: str, tenant: str) -> openai.APIStatusError | anthropic.APIStatusError:
    try:
        ask(url, tenant)
    except (openai.APIStatusError, anthropic.APIStatusError) as refusal:
        return refusal
    raise AssertionError("the client was not refused")


@pytest.mark.parametrize("client", ASK)
@pytest.mark.parametrize(
    ("kind", "status", "detail"),
    [
        ("long", 429, "api_calls: 0 of 3 used today, and this needs 4; resets in 12 hours"),
        ("money", 402, "tokens: 0.00 of 1.00 used this month, and this needs 2.00; raise the budget"),
    ],
    ids=["long-wait", "no-money"],
)
def test_a_client_stops_at_one_attempt_and_says_why(
    host: tuple[str, Counter[str]], client: str, kind: str, status: int, detail: str
) -> None:
    url, attempts = host
    tenant = f"{kind}-{client}"
    refusal = refusal_of(ASK[client], f"{url}/{kind}", tenant)
    assert refusal.status_code == status
    assert detail in str(refusal)
    assert attempts[tenant] == 1


def test_the_clients_know_the_kind_of_a_refusal(host: tuple[str, Counter[str]]) -> None:
    url, _ = host
    with pytest.raises(openai.RateLimitError) as by_openai:
        openai_sync(f"{url}/long", "kind")
    assert (by_openai.value.type, by_openai.value.code) == ("insufficient_quota", "quota-exceeded")
    with pytest.raises(anthropic.RateLimitError) as by_anthropic:
        anthropic_sync(f"{url}/long", "kind")
    assert by_anthropic.value.type == "rate_limit_error"


@pytest.mark.parametrize("client", ASK)
def test_a_client_tries_again_after_a_short_wait(host: tuple[str, Counter[str]], client: str) -> None:
    url, attempts = host
    for _ in range(2):
        ASK[client](f"{url}/short", f"short-{client}")
    assert attempts[f"short-{client}"] == 3
