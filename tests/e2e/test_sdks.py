"""The AI providers' own clients in front of a metered app: they stop where waiting is long or money is short."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request

from mm_metering import Metering, from_header

PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {
        "api_calls": {"event": "api_call"},
        "tokens": {"event": "token"},
        "bursts": {"event": "burst"},
    },
    "plans": {
        "small": {
            "price": "0",
            "quotas": {
                "api_calls": {"limit": 3, "per": "month"},
                "tokens": {"limit": 0, "per": "month", "then": {"charge_up_to": "1.00"}, "unit_price": "1"},
                "bursts": [{"limit": 1, "per": "second"}, {"limit": 100, "per": "day"}],
            },
        }
    },
    "routes": {
        "POST /long/v1/chat/completions": {"api_calls": 5},
        "POST /long/v1/messages": {"api_calls": 5},
        "POST /money/v1/chat/completions": {"api_calls": 0, "tokens": 2},
        "POST /money/v1/messages": {"api_calls": 0, "tokens": 2},
        "POST /short/v1/chat/completions": {"api_calls": 0, "bursts": 1},
        "POST /short/v1/messages": {"api_calls": 0, "bursts": 1},
    },
}
SHAPES: Any = {f"/{kind}/v1/chat": "openai" for kind in ("long", "money", "short")} | {
    f"/{kind}/v1/messages": "anthropic" for kind in ("long", "money", "short")
}


class Host:
    """The app under a real server, in a thread of its own, and how often each path was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        metering = Metering(PLANS)
        app = FastAPI()
        for kind in ("long", "money", "short"):
            app.add_api_route(f"/{kind}/v1/chat/completions", self.completion, methods=["POST"])
            app.add_api_route(f"/{kind}/v1/messages", self.message, methods=["POST"])
        metering.install(app, tenant=from_header("x-org-id"), error_shapes=SHAPES)
        app.add_middleware(Counting, asked=self.asked)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self.thread.start()
        give_up = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < give_up
            time.sleep(0.01)

    @property
    def url(self) -> str:
        host, port = self.server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def completion(self, request: Request) -> dict[str, Any]:
        return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}

    async def message(self, request: Request) -> dict[str, Any]:
        about: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
        }
        return {**about, "usage": {"input_tokens": 1, "output_tokens": 1}}

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


class Counting:
    def __init__(self, app: Any, asked: dict[str, int]) -> None:
        self.app, self.asked = app, asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.asked[scope["path"]] = self.asked.get(scope["path"], 0) + 1
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def openai_client(host: Host, kind: str, tenant: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{host.url}/{kind}/v1", api_key="none", default_headers={"x-org-id": tenant})


def anthropic_client(host: Host, kind: str, tenant: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"{host.url}/{kind}", api_key="none", default_headers={"x-org-id": tenant})


def complete(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])


def say(client: anthropic.Anthropic) -> Any:
    return client.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hello"}])


@pytest.mark.parametrize(
    ("kind", "status", "words"), [("long", 429, "api_calls: 0 of 3 used this month"), ("money", 402, "tokens: ")]
)
def test_openai_stops_at_one_attempt_and_shows_why(host: Host, kind: str, status: int, words: str) -> None:
    with openai_client(host, kind, f"openai-{kind}") as client, pytest.raises(openai.APIStatusError) as refusal:
        complete(client)
    assert refusal.value.status_code == status
    assert words in refusal.value.message
    assert host.asked[f"/{kind}/v1/chat/completions"] == 1


@pytest.mark.parametrize(
    ("kind", "status", "words"), [("long", 429, "api_calls: 0 of 3 used this month"), ("money", 402, "tokens: ")]
)
def test_anthropic_stops_at_one_attempt_and_shows_why(host: Host, kind: str, status: int, words: str) -> None:
    with (
        anthropic_client(host, kind, f"anthropic-{kind}") as client,
        pytest.raises(anthropic.APIStatusError) as refusal,
    ):
        say(client)
    assert refusal.value.status_code == status
    assert words in str(refusal.value.body)
    assert host.asked[f"/{kind}/v1/messages"] == 1


def test_a_short_wait_is_waited_for_by_both(host: Host) -> None:
    with openai_client(host, "short", "both") as one, anthropic_client(host, "short", "both") as other:
        for _ in range(2):
            complete(one)
            say(other)
    assert host.asked["/short/v1/chat/completions"] + host.asked["/short/v1/messages"] > 4
