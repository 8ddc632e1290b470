"""``WebhookSink``: an endpoint on loopback that verifies what it is sent, keeps it, and fails when it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from mm_metering.errors import WebhookRefused
from mm_metering.metering import Metering
from mm_metering.testing.sync import from_sync
from mm_metering.webhooks.endpoints import Endpoint
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.signing import verify

POLL_S: Final = 0.02
MOST_WAITING: Final = 5
"""Most deliveries that one failure lists."""


@dataclass(frozen=True, slots=True)
class SunkEvent:
    """An event that was signed by a secret of this sink. ``id`` is its ``webhook-id``, the same at each attempt."""

    id: str
    type: str
    data: dict[str, Any]
    timestamp: str


class WebhookSink:
    """A context manager: ``with WebhookSink() as sink: Metering(..., webhook_rules=sink.rules)``.

    ``events`` were verified and taken; ``refused`` says why others were not; ``attempts`` counts every request.
    """

    def __init__(self) -> None:
        self.events: list[SunkEvent] = []
        self.refused: list[str] = []
        self.attempts: int = 0
        self._secrets: list[str] = []
        self._failures: list[int] = []
        self._metering: Metering | None = None
        self._tenants: dict[str, None] = {}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def port(self) -> int:
        assert self._server is not None, "use it as a context manager"
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def rules(self) -> Rules:
        """Under which it may be called: ``Metering(webhook_rules=...)``."""
        return Rules(allow_http=True, ports=(self.port,), allow_networks=("127.0.0.0/8",))

    def trust(self, secret: str) -> None:
        """Takes what this secret has signed."""
        self._secrets.append(secret)

    def subscribe(self, metering: Metering, tenant: str, events: Iterable[str] = ("*",)) -> Endpoint:
        """Makes an endpoint of the tenant's that leads here. In an async test: ``await sink.subscribed(...)``."""
        return from_sync(
            metering,
            lambda: self.subscribed(metering, tenant, events),
            instead="await webhook_sink.subscribed(metering, tenant)",
        )

    async def subscribed(self, metering: Metering, tenant: str, events: Iterable[str] = ("*",)) -> Endpoint:
        """The same for async tests."""
        endpoint = await metering.webhooks.create_endpoint(tenant, self.url, events)
        self.trust(endpoint.secret or "")
        self._metering = metering
        self._tenants[tenant] = None
        return endpoint

    def fail_next(self, times: int = 1, *, status: int = 500) -> None:
        """The next requests are answered with that status, and not taken."""
        with self._lock:
            self._failures += [status] * times

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait_for(self, type: str, *, count: int = 1, timeout_s: float = 5.0) -> SunkEvent:
        """The count-th event of a type. What is due is sent meanwhile; AssertionError with what came instead.

        A failed delivery is due again when the clock says so. In an async test: ``await sink.arrived(...)``."""
        if self._metering is None:
            return self._waited(type, count, timeout_s)
        return from_sync(
            self._metering,
            lambda: self.arrived(type, count=count, timeout_s=timeout_s),
            instead="await webhook_sink.arrived(type)",
        )

    def _waited(self, type: str, count: int, timeout_s: float) -> SunkEvent:
        give_up = time.monotonic() + timeout_s
        while (found := self._nth(type, count)) is None and time.monotonic() < give_up:
            time.sleep(POLL_S)
        return found or self._fail(type, count, timeout_s, ())

    async def arrived(self, type: str, *, count: int = 1, timeout_s: float = 5.0) -> SunkEvent:
        """The same for async tests."""
        from asyncio import sleep

        give_up = time.monotonic() + timeout_s
        while (found := self._nth(type, count)) is None and time.monotonic() < give_up:
            if self._metering is not None and not await self._metering.webhooks.deliver():
                await sleep(POLL_S)
        return found or self._fail(type, count, timeout_s, await self._waiting())

    def _nth(self, type: str, count: int) -> SunkEvent | None:
        of_type = [each for each in self.events if each.type == type]
        return of_type[count - 1] if len(of_type) >= count else None

    async def _waiting(self) -> list[str]:
        """Deliveries that are not due yet."""
        if self._metering is None:
            return []
        found = [each for tenant in self._tenants for each in await self._metering.webhooks.list_deliveries(tenant)]
        return [
            f"{each.type} of {each.tenant!r} is tried again at {each.next_at:%Y-%m-%dT%H:%M:%SZ}"
            for each in found
            if each.next_at is not None
        ]

    def _fail(self, type: str, count: int, timeout_s: float, waiting: Iterable[str]) -> SunkEvent:
        came = Counter(each.type for each in self.events)
        listed = ", ".join(f"{n} {name}" for name, n in sorted(came.items())) or "nothing"
        lines = [f"expected {count} {type} within {timeout_s:g} s, and there came {listed}"]
        if self.refused:
            lines.append(f"{len(self.refused)} refused: {self.refused[-1]}")
        if due := [*waiting]:
            lines += [*due[:MOST_WAITING], "move metering_clock to that instant, then wait again"]
        if not self._secrets:
            lines.append("no endpoint leads here yet: webhook_sink.subscribe(metering, tenant)")
        raise AssertionError("\n  ".join(lines))

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _take(self, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer."""
        with self._lock:
            self.attempts += 1
            if self._failures:
                return self._failures.pop(0)
            try:
                name = verify(body, headers, self._secrets, self._now(headers))
            except WebhookRefused as error:
                self.refused.append(str(error))
                return 401
            told = json.loads(body)
            self.events.append(SunkEvent(name, told["type"], told["data"], told["timestamp"]))
            return 204

    def _now(self, headers: dict[str, str]) -> datetime:
        """The instant of the Metering's clock; without one, that of the signature."""
        if self._metering is not None:
            return self._metering.clock.now()
        seconds = headers.get("webhook-timestamp", "")
        return datetime.fromtimestamp(int(seconds) if seconds.isdecimal() else 0, UTC)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, sink: WebhookSink, *rest: Any) -> None:
        self._sink = sink
        super().__init__(*rest)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status = self._sink._take(body, {name.lower(): value for name, value in self.headers.items()})
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""
