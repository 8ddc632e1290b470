"""The HTTP side: a thread for each connection."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from mm_metering.testing.fake_llm.anthropic import Messages
from mm_metering.testing.fake_llm.desk import Desk, Fault
from mm_metering.testing.fake_llm.made import Asked, Thing, max_tokens_of
from mm_metering.testing.fake_llm.openai import Chat, Responses
from mm_metering.testing.fake_llm.wire import Event, Format

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {"/v1/chat/completions": Chat(), "/v1/responses": Responses(), "/v1/messages": Messages()}
)
_MESSAGES: Final = MappingProxyType(
    {400: "The request is malformed.", 429: "Rate limit reached.", 500: "The server had an error."}
)
_STATUS: Final = MappingProxyType({"429": 429, "500": 500, "400": 400})
MAX_WAITING: Final = 512
"""Connections that wait to be taken."""


class Cut(Exception):
    """The connection ends here."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_WAITING

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Of one connection. ``desk`` is the server's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    desk: Desk
    keep_alive: bool

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            if self.desk.closing.is_set():
                raise Cut
            self._answer(urlsplit(self.path).path, content)
        except (Cut, ConnectionError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, path: str, content: bytes) -> None:
        wire = FORMATS.get(path)
        if wire is None:
            self._send(404, Chat().error(404, f"Unknown request URL: POST {path}."))
            return
        body = _object(content)
        if body is None:
            self._send(400, wire.error(400, "The body is no JSON object."))
            return
        fault = self.desk.fault(path)
        kind = fault.kind if fault else None
        asked = Asked(path, body.get("model", ""), max_tokens_of(body), bool(body.get("stream")), body, kind)
        self.desk.note(asked)
        wrong = self._wrong(wire, asked)
        if fault is not None and fault.kind not in ("drop", "no-usage"):
            self._fail(wire, asked, fault)
        elif wrong is not None:
            self._send(wrong[0], wire.error(*wrong))
        elif asked.is_stream:
            self._stream(wire, asked, fault)
        else:
            self._reply(wire, asked, fault)

    def _wrong(self, wire: Format, asked: Asked) -> tuple[int, str] | None:
        if self.desk.api_key not in (self.headers.get("authorization", "")[7:], self.headers.get("x-api-key")):
            return 401, "Incorrect API key provided."
        missing = wire.missing(asked.body)
        if missing is not None:
            return 400, f"Missing required parameter: '{missing}'."
        if asked.max_tokens is not None and asked.max_tokens < 1:
            return 400, f"{asked.max_tokens} tokens are too few; ask for at least 1."
        if asked.body.get("n") not in (None, 1):
            return 400, "The fake gives one choice; ask for n=1."
        return None

    def _fail(self, wire: Format, asked: Asked, fault: Fault) -> None:
        if fault.kind in _STATUS:
            status = _STATUS[fault.kind]
            headers = {"Retry-After": f"{fault.wait_s:g}"} if status == 429 else {}
            self._send(status, wire.error(status, _MESSAGES[status]), headers)
        elif fault.kind == "200-error":
            event = wire.error_event(_MESSAGES[500])
            if asked.is_stream:
                self._begin_stream()
                self._event(event)
                self._end_stream()
            else:
                self._send(200, wire.error(500, _MESSAGES[500]))
        else:
            if fault.kind == "timeout":
                self.desk.closing.wait(fault.wait_s)
            raise Cut

    def _reply(self, wire: Format, asked: Asked, fault: Fault | None) -> None:
        script, made = self.desk.begin(asked, has_usage=fault is None or fault.kind != "no-usage")
        self._wait(script.delay_s)
        self.desk.wrote(made.model, made.output - made.unseen)
        self._send(200, wire.reply(made), is_half=fault is not None and fault.kind == "drop")

    def _stream(self, wire: Format, asked: Asked, fault: Fault | None) -> None:
        script, made = self.desk.begin(asked, has_usage=fault is None or fault.kind != "no-usage")
        events = [*wire.events(asked, made)]
        is_dropped = fault is not None and fault.kind == "drop"
        self._begin_stream()
        for event in before_drop(events, fault.after) if fault is not None and is_dropped else events:
            if event.tokens is not None:
                self._wait(script.delay_s)
                self.desk.wrote(made.model, event.tokens)
            self._event(event)
        if is_dropped:
            raise Cut
        self._end_stream()

    def _wait(self, delay_s: float) -> None:
        if delay_s and self.desk.closing.wait(delay_s):
            raise Cut

    def _send(
        self, status: int, body: Thing, headers: Mapping[str, str] = MappingProxyType({}), *, is_half: bool = False
    ) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self._head({"Content-Type": "application/json", "Content-Length": str(len(content)), **headers})
        self.wfile.write(content[: len(content) // 2] if is_half else content)
        if is_half:
            raise Cut

    def _begin_stream(self) -> None:
        self.send_response(200)
        self._head({"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"})

    def _head(self, headers: Mapping[str, str]) -> None:
        for name, value in {**headers, "Request-Id": "req_fake", "X-Request-Id": "req_fake"}.items():
            self.send_header(name, value)
        if not self.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, event: Event) -> None:
        content = event.content
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def _end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")


def before_drop(events: list[Event], after: int) -> list[Event]:
    """What is sent where the connection ends after that many chunks of text, and at the latest after the last."""
    chunks = [at for at, event in enumerate(events) if event.tokens is not None]
    if after < len(chunks):
        return events[: chunks[after]]
    return events[: chunks[-1] + 1 if chunks else 1]


def _object(content: bytes) -> Thing | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def listening(desk: Desk, *, keep_alive: bool = True) -> Server:
    """On a free port of 127.0.0.1."""
    return Server(("127.0.0.1", 0), type("DeskHandler", (Handler,), {"desk": desk, "keep_alive": keep_alive}))
