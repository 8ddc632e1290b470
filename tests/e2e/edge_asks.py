"""Ways to ask a server; each asserts what only its own kind of request can tell."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from socket import MSG_PEEK
from typing import Final, TypeAlias

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from mm_metering import EXPOSED_HEADERS
from tests.e2e.edge_app import ORIGIN, WORDS_A_DAY
from tests.e2e.edge_server import HOST, TIMEOUT_S, UNHEARD, Answer, Running, answer_of, headers_of

Ask: TypeAlias = Callable[[Running, str], Answer]

ASK_FOR_ANY_BODY: Final = ("hypercorn",)
"""Servers that answer ``Expect: 100-continue`` themselves, before the app."""
CLOSE_ON_UNREAD_BODIES: Final = ("hypercorn", "granian")
"""Servers that close a connection when its request was answered before all of it had come."""
UPLOAD_BYTES: Final = 50_000_000
UPLOAD_GROWTH_MB: Final = 20


# ---- plain requests -------------------------------------------------------------------------------------------------


def send(method: str, path: str, body: bytes | tuple[bytes, ...] | None = None, **headers: str) -> Ask:
    """One request of the tenant."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda server, tenant: server.ask(method, path, tenant, headers=named, body=body)


get = partial(send, "GET")


def nobody(path: str, tenant: str | None = None) -> Ask:
    """A request without a tenant, or of one that is not known; it gets no counters by asking."""

    def asked(server: Running, _: str) -> Answer:
        answer = server.ask("GET", path, tenant)
        assert tenant is None or not any(server.seen(tenant)["counted"].values())
        return answer

    return asked


def expect(ask: Ask, body: bytes) -> Ask:
    """The same, and this must be the body."""

    def asked(server: Running, tenant: str) -> Answer:
        answer = ask(server, tenant)
        assert answer.body == body
        return answer

    return asked


def file(server: Running, tenant: str) -> Answer:
    """granian sends a file by its path."""
    answer = server.ask("GET", "/file", tenant)
    assert len(answer.body) == 70_000
    assert ("http.response.pathsend" in server.settled(tenant)["sent"]) is (server.name == "granian")
    return answer


def events(server: Running, tenant: str) -> Answer:
    """The last event is made after the first one has arrived."""
    with server.connection() as connection:
        connection.request("GET", "/events", headers={"x-org-id": tenant})
        response = connection.getresponse()
        assert (response.readline(), response.readline()) == (b"data: first\n", b"\n")
        server.ask("POST", f"/go/{tenant}")
        answer = answer_of(response)
    assert answer.body == b"data: last\n\n"
    return answer


def http2(path: str, trailers: Mapping[str, str]) -> Ask:
    def asked(server: Running, tenant: str) -> Answer:
        answer = server.ask_http2(path, tenant)
        assert answer.trailers == trailers
        return answer

    return asked


def from_browser(ask: Ask) -> Ask:
    """A page of another origin may read the answer; of a GET our headers too."""

    def asked(server: Running, tenant: str) -> Answer:
        answer = ask(server, tenant)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        if answer.status != 200:
            assert answer.headers["access-control-expose-headers"] == ", ".join(EXPOSED_HEADERS)
        return answer

    return asked


def stay_connected(method: str) -> Ask:
    """The connection goes on after a refusal: with another, and with an exempt request."""

    def asked(server: Running, tenant: str) -> Answer:
        with server.connection() as connection:
            answers = []
            for path in ("/file", "/file", "/open"):
                connection.request(method if path == "/file" else "GET", path, headers={"x-org-id": tenant})
                answers.append(answer_of(connection.getresponse()))
        assert [each.status for each in answers] == [429, 429, 200]
        assert (answers[0].body == b"") is (method == "HEAD")
        return answers[0]

    return asked


# ---- bodies, and clients that leave ---------------------------------------------------------------------------------


def upload(server: Running, tenant: str, *, is_asking: bool) -> Answer:
    """The head of a 50 MB upload. Its body follows the answer, as far as the server lets it, unless the client asks
    first whether to send it. The app reads nothing of it, and nobody keeps it."""
    before_mb = server.seen(tenant)["peak_mb"]
    with server.connection() as connection:
        _begin_upload(connection, tenant, **({"expect": "100-continue"} if is_asking else {}))
        if is_asking:
            invited = connection.sock.recv(12, MSG_PEEK)
            assert (invited == b"HTTP/1.1 100") is (server.name in ASK_FOR_ANY_BODY)
        answer = answer_of(connection.getresponse())
        if not is_asking:
            assert _is_taken(connection) is (server.name not in CLOSE_ON_UNREAD_BODIES)
    seen = server.settled(tenant)
    assert (seen["handled"], seen["read_bytes"]) == (0, 0)
    assert seen["peak_mb"] - before_mb < UPLOAD_GROWTH_MB
    return answer


def _begin_upload(connection: http.client.HTTPConnection, tenant: str, **headers: str) -> None:
    connection.putrequest("POST", "/upload")
    for name, value in {"x-org-id": tenant, "content-length": str(UPLOAD_BYTES), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()


def _is_taken(connection: http.client.HTTPConnection) -> bool:
    """Whether the server takes the body that follows its answer, or closes the connection."""
    part = b"x" * 100_000
    try:
        for _ in range(UPLOAD_BYTES // len(part)):
            connection.send(part)
    except (ConnectionError, http.client.NotConnected):
        return False
    return True


def leave_upload(path: str) -> Ask:
    """Close the connection when half of the body is sent."""

    def asked(server: Running, tenant: str) -> Answer:
        with server.connection() as connection:
            headers = {"x-org-id": tenant, "content-length": "1000", "content-type": "application/json"}
            connection.request("POST", path, body=iter([b"[" * 500]), headers=headers)
            server.begun(tenant)
        return Answer(UNHEARD)

    return asked


def leave(path: str, *, after_bytes: int = 0) -> Ask:
    """Close the connection, once the handler runs or when so many bytes of its answer are here."""

    def asked(server: Running, tenant: str) -> Answer:
        with server.connection() as connection:
            connection.request("GET", path, headers={"x-org-id": tenant})
            if not after_bytes:
                server.handled(tenant)
                return Answer(UNHEARD)
            with connection.getresponse() as response:
                assert len(response.read(after_bytes)) == after_bytes
                return Answer(response.status, headers_of(response))

    return asked


def break_off(server: Running, tenant: str) -> Answer:
    """A stream that the app breaks off after its first line."""
    with server.connection() as connection:
        connection.request("GET", "/breaks", headers={"x-org-id": tenant})
        response = connection.getresponse()
        assert response.readline() == b"line\n"
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        return Answer(response.status, headers_of(response))


# ---- websockets -----------------------------------------------------------------------------------------------------


def talk(path: str, say: Callable[[ClientConnection], None] = lambda _: None, tenant: str | None = "") -> Ask:
    """A handshake, and what is said if it is accepted."""

    def asked(server: Running, own: str) -> Answer:
        who = own if tenant == "" else tenant
        headers = {} if who is None else {"x-org-id": who}
        url = f"ws://{HOST}:{server.port}{path}"
        try:
            with connect(url, additional_headers=headers, proxy=None, open_timeout=TIMEOUT_S) as socket:
                say(socket)
                accepted = socket.response
                assert accepted is not None
                return Answer(accepted.status_code, _lower(accepted.headers.raw_items()))
        except InvalidStatus as denied:
            response = denied.response
            return Answer(response.status_code, _lower(response.headers.raw_items()), bytes(response.body or b""))

    return asked


def hang_up(server: Running, tenant: str) -> Answer:
    """A websocket whose client goes without a word."""
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    with server.connection() as connection:
        headers = {**upgrade, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "x-org-id": tenant}
        connection.request("GET", "/echo", headers=headers)
        with connection.getresponse() as response:
            return Answer(response.status, headers_of(response))


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def chat(socket: ClientConnection) -> None:
    for text in ("a", "b", "c"):
        socket.send(text)
        assert socket.recv(TIMEOUT_S) == text


def speak_past_the_limit(socket: ClientConnection) -> None:
    for text in ("a",) * WORDS_A_DAY:
        socket.send(text)
        assert socket.recv(TIMEOUT_S) == text.upper()
    socket.send("one too many")
    assert '"code":"quota-exceeded"' in str(socket.recv(TIMEOUT_S))
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT_S)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "quota-exceeded")
