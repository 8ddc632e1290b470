"""Websockets: a handshake is a request; messages are metered where the handler asks for it."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from mm_metering import FrozenClock, Metering, from_header, message_quota, metered, quota
from mm_metering.decorators.quota import MeteredSocket

PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {"api_calls": {"event": "api_call"}, "words": {"event": "word"}, "exports": {"event": "export"}},
    "plans": {
        "small": {
            "price": "0",
            "quotas": {
                "api_calls": {"limit": 3, "per": "day"},
                "words": {"limit": 2, "per": "day"},
                "exports": {"limit": 1, "per": "day"},
            },
        }
    },
    "routes": {"WEBSOCKET /free": {"api_calls": 0}},
}
ACME = {"x-org-id": "acme"}


class Host:
    """An app with websockets of every kind, and what its tenant has used."""

    def __init__(self) -> None:
        self.metering = Metering(PLANS, clock=FrozenClock("2024-01-15T12:00:00Z"))
        self.app = FastAPI()
        self.app.add_api_websocket_route("/echo/{room}", self.echo)
        self.app.add_api_websocket_route("/free", self.free)
        self.app.add_api_websocket_route("/words", self.words)
        self.app.add_api_websocket_route("/rude", self.rude)
        self.app.add_api_websocket_route("/export", metered("export")(self.free))
        self.app.add_api_websocket_route("/dependency", self.free, dependencies=[Depends(quota("words", 3))])
        self.metering.install(self.app, tenant=from_header("x-org-id"))

    async def echo(self, socket: WebSocket, room: str) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(f"{room}: {text}")

    async def free(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    async def words(self, socket: WebSocket, said: Annotated[MeteredSocket, Depends(message_quota("words"))]) -> None:
        await socket.accept()
        async for text in said.iter_text():
            await socket.send_text(text.upper())

    async def rude(self, socket: WebSocket) -> None:
        await socket.close(4000)

    async def used(self, meter: str) -> int:
        return int((await self.metering.check_limit("acme", meter)).used)


@pytest.fixture
def host() -> Host:
    return Host()


def count(client: TestClient, host: Host, meter: str = "api_calls") -> int:
    assert client.portal is not None
    return client.portal.call(host.used, meter)


def test_a_handshake_counts_once_under_its_template(host: Host) -> None:
    with TestClient(host.app) as client:
        with client.websocket_connect("/echo/a", headers=ACME) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "a: hello"
            assert b"ratelimit" in dict(vars(socket)["extra_headers"])
        assert count(client, host) == 1
        with client.websocket_connect("/free", headers=ACME), client.websocket_connect("/free"):
            pass
        assert count(client, host) == 1


@pytest.mark.parametrize("path", ["/echo/a", "/dependency"])
def test_a_refused_handshake_is_a_real_429_before_it_is_accepted(host: Host, path: str) -> None:
    with TestClient(host.app) as client:
        for _ in range(3 if path == "/echo/a" else 0):
            with client.websocket_connect("/echo/a", headers=ACME):
                pass
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(path, headers=ACME):
            pass
        assert denied.value.status_code == 429
        assert denied.value.json()["code"] == "quota-exceeded"
        assert "retry-after" in denied.value.headers
        assert count(client, host) == (3 if path == "/echo/a" else 0)


def test_nobody_is_denied_with_401(host: Host) -> None:
    with (
        TestClient(host.app) as client,
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/echo/a"),
    ):
        pass
    assert denied.value.status_code == 401


def test_a_socket_that_the_app_turns_away_is_taken_back(host: Host) -> None:
    with TestClient(host.app) as client:
        with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/rude", headers=ACME):
            pass
        assert closed.value.code == 4000
        assert count(client, host) == 0
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/nowhere", headers=ACME):
            pass
        assert count(client, host) == 0


def test_messages_are_metered_one_by_one_until_the_limit_closes_the_socket(host: Host) -> None:
    with TestClient(host.app) as client:
        with client.websocket_connect("/words", headers=ACME) as socket:
            for text in ("a", "b"):
                socket.send_text(text)
                assert socket.receive_text() == text.upper()
            socket.send_text("c")
            assert socket.receive_json()["code"] == "quota-exceeded"
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (1008, "quota-exceeded")
        assert (count(client, host, "words"), count(client, host)) == (2, 1)


def test_a_mark_on_a_websocket_joins_the_handshake(host: Host) -> None:
    with TestClient(host.app) as client:
        with client.websocket_connect("/export", headers=ACME):
            pass
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/export", headers=ACME):
            pass
        assert (count(client, host, "exports"), count(client, host)) == (1, 1)


async def test_a_server_without_denial_responses_closes_instead(host: Host) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    about = {"headers": [], "query_string": b"", "scheme": "ws", "server": ("test", 80), "subprotocols": []}
    await host.app({"type": "websocket", "path": "/echo/a", "root_path": "", **about}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
