"""The HTTP side: keys, idempotency, faults, and the check of all that goes in and out."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args
from urllib.parse import urlsplit

from mm_metering.testing.fake_stripe import customers, invoices, spec, subscriptions
from mm_metering.testing.fake_stripe.params import Params, unflattened
from mm_metering.testing.fake_stripe.state import Account, Refusal, Thing, page

Fault: TypeAlias = Literal["lost", "refused", "500-before", "500-after", "429", "409", "html", "text-error"]
KEY_LIFE_S: Final = 24 * 3600


class Asked(NamedTuple):
    """A request as it came. ``status`` 0: nothing was answered."""

    method: str
    path: str
    params: Params
    key: str | None
    status: int


class Saved(NamedTuple):
    """An answer that is kept under an idempotency key."""

    asked: tuple[str, str, str]
    status: int
    body: Thing
    at: int


def _events(account: Account, params: Params) -> Thing:
    since = int(params.get("created", {}).get("gte", 0))
    missed = params.get("delivery_success") == "false"
    found = [each for each in reversed(account.events) if each["created"] >= since]
    return page([each for each in found if each["pending_webhooks"] or not missed], params, "/v1/events")


def _account(account: Account, _: Params) -> Thing:
    return spec.blank("account") | {"id": "acct_fake"}


ROUTES: Final[tuple[tuple[str, str, Callable[..., Thing]], ...]] = (
    ("GET", "/v1/account", _account),
    ("GET", "/v1/events", _events),
    ("GET", "/v1/events/(evt_[^/]+)", lambda account, id_, _: account.get("event", id_)),
    ("POST", "/v1/customers", customers.create),
    ("GET", "/v1/customers", customers.list_),
    ("GET", "/v1/customers/search", customers.search),
    ("GET", "/v1/customers/([^/]+)/payment_methods", customers.methods),
    ("GET", "/v1/customers/([^/]+)", customers.retrieve),
    ("POST", "/v1/customers/([^/]+)", customers.update),
    ("DELETE", "/v1/customers/([^/]+)", customers.delete),
    ("POST", "/v1/setup_intents", customers.setup),
    ("GET", "/v1/payment_methods/([^/]+)", customers.method),
    ("POST", "/v1/payment_methods/([^/]+)/detach", customers.detach),
    ("POST", "/v1/products", subscriptions.create_product),
    ("POST", "/v1/prices", subscriptions.create_price),
    ("GET", "/v1/prices", subscriptions.prices),
    ("GET", "/v1/prices/([^/]+)", subscriptions.price),
    ("POST", "/v1/subscriptions", subscriptions.create),
    ("GET", "/v1/subscriptions", subscriptions.list_),
    ("GET", "/v1/subscriptions/([^/]+)", subscriptions.retrieve),
    ("POST", "/v1/subscriptions/([^/]+)/resume", subscriptions.resume),
    ("POST", "/v1/subscriptions/([^/]+)/pause", subscriptions.pause),
    ("POST", "/v1/subscriptions/([^/]+)", subscriptions.update),
    ("DELETE", "/v1/subscriptions/([^/]+)", subscriptions.cancel),
    ("POST", "/v1/invoices", invoices.create),
    ("GET", "/v1/invoices", invoices.list_),
    ("POST", "/v1/invoices/create_preview", subscriptions.preview),
    ("GET", "/v1/invoices/([^/]+)/lines", invoices.lines),
    ("POST", "/v1/invoices/([^/]+)/finalize", invoices.finalize),
    ("POST", "/v1/invoices/([^/]+)/pay", invoices.pay),
    ("POST", "/v1/invoices/([^/]+)/void", invoices.void),
    ("POST", "/v1/invoices/([^/]+)/mark_uncollectible", invoices.mark_uncollectible),
    ("GET", "/v1/invoices/([^/]+)", invoices.retrieve),
    ("DELETE", "/v1/invoices/([^/]+)", invoices.delete),
    ("POST", "/v1/invoiceitems", invoices.add_item),
    ("GET", "/v1/invoice_payments", invoices.payments),
    ("GET", "/v1/payment_intents/([^/]+)", invoices.payment_intent),
    ("POST", "/v1/billing/meters", subscriptions.create_meter),
    ("GET", "/v1/billing/meters", subscriptions.meters),
    ("GET", "/v1/billing/meters/([^/]+)/event_summaries", subscriptions.summaries),
    ("POST", "/v1/billing/meter_events", subscriptions.meter_event),
)


class Answer(NamedTuple):
    """``status`` 0: the connection ends without one."""

    status: int
    body: str
    headers: dict[str, str]


class Desk:
    """Answers requests, one at a time."""

    def __init__(self, account: Account, api_key: str) -> None:
        self.account = account
        self.api_key = api_key
        self.asked: list[Asked] = []
        self.problems: list[str] = []
        self.lock: threading.RLock = threading.RLock()
        self._faults: dict[str, tuple[Fault, int]] = {}
        self._saved: dict[str, Saved] = {}
        self._checks = spec.can_check()

    def fail(self, pattern: str, kind: Fault, times: int) -> None:
        if kind not in get_args(Fault):
            raise ValueError(f"{kind!r} is none of {', '.join(get_args(Fault))}")
        if times:
            self._faults[pattern] = (kind, times)
        else:
            self._faults.pop(pattern, None)

    def answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Answer:
        with self.lock:
            parts = urlsplit(target)
            params = unflattened(parts.query) | unflattened(body)
            key = headers.get("idempotency-key")
            said = self._faulty(method, parts.path, params, headers, key)
            self.asked.append(Asked(method, parts.path, params, key, said.status))
            return said

    def _faulty(self, method: str, path: str, params: Params, headers: dict[str, str], key: str | None) -> Answer:
        fault = self._fault(path)
        match fault:
            case "refused":
                return Answer(0, "", {})
            case "500-before":
                return _json(500, {"error": {"type": "api_error", "message": "An unknown error occurred"}})
            case "429":
                reason = {"Stripe-Rate-Limited-Reason": "endpoint-rate"}
                return _json(429, _error("Request rate limit exceeded.", code="rate_limit"), reason)
            case "409":
                error = _error("A request with this key is in progress.", code="idempotency_key_in_use")
                error["error"]["type"] = "idempotency_error"
                return _json(409, error)
            case "html":
                return Answer(502, "<html><body>502 Bad Gateway</body></html>", {"Content-Type": "text/html"})
            case "text-error":
                return _json(500, {"error": "upstream connect error"})
        said = self._executed(method, path, params, headers, key, breaks=fault == "500-after")
        return Answer(0, "", {}) if fault == "lost" else said

    def _fault(self, path: str) -> Fault | None:
        for pattern, (kind, times) in [*self._faults.items()]:
            if re.search(pattern, path):
                self.fail(pattern, kind, times - 1)
                return kind
        return None

    def _executed(
        self, method: str, path: str, params: Params, headers: dict[str, str], key: str | None, *, breaks: bool
    ) -> Answer:
        if headers.get("authorization") != f"Bearer {self.api_key}":
            return _json(401, _error("Invalid API Key provided"))
        now, same = self.account.now, (method, path, json.dumps(params, sort_keys=True))
        saved = self._saved.get(key or "")
        if key and method == "POST" and saved is not None and now - saved.at < KEY_LIFE_S:
            if saved.asked != same:
                error = _error("Keys for idempotent requests can only be used with the same parameters.")
                error["error"]["type"] = "idempotency_error"
                return _json(400, error)
            return _json(saved.status, saved.body, {"Idempotent-Replayed": "true"})
        self._check(spec.wrong_request, method, path, params)
        status, body, extra = self._done(method, path, params)
        if breaks:
            status, body = 500, {"error": {"type": "api_error", "message": "An unknown error occurred"}}
        elif status == 200:
            self._check(spec.wrong_answer, method, path, status, body)
        if key and method == "POST" and status not in (400, 404):
            self._saved[key] = Saved(same, status, json.loads(json.dumps(body)), now)
        return _json(status, body, extra)

    def _done(self, method: str, path: str, params: Params) -> tuple[int, Thing, dict[str, str]]:
        for verb, pattern, handler in ROUTES:
            found = re.fullmatch(pattern, path) if verb == method else None
            if found is not None:
                try:
                    return 200, handler(self.account, *found.groups(), params), {}
                except Refusal as error:
                    return error.status, error.body, error.headers
                except KeyError as error:
                    return 400, _error(f"Missing required param: {error.args[0]}.", code="parameter_missing"), {}
        return 404, _error(f"Unrecognized request URL ({method}: {path})."), {}

    def _check(self, look: Callable[..., Any], *what: Any) -> None:
        if self._checks:
            self.problems += look(*what)


def _error(message: str, **details: str) -> Thing:
    return {"error": {"type": "invalid_request_error", "message": message, **details}}


def _json(status: int, body: Thing, headers: dict[str, str] | None = None) -> Answer:
    return Answer(
        status, json.dumps(body), {"Content-Type": "application/json", "Request-Id": "req_fake", **(headers or {})}
    )


def listening(desk: Desk, *, keep_alive: bool = True) -> ThreadingHTTPServer:
    """On a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two of them wait for each other

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = desk.answer(self.command, self.path, headers, body)
            if not said.status:
                self.close_connection = True
                return
            content = said.body.encode()
            self.send_response(said.status)
            for name, value in {**said.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            if not keep_alive:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
