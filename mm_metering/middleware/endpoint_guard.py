"""What stands before each endpoint of our own: how often an address may ask, and what is not even read.

It looks at the head of a request alone, before anything is verified, opened or stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering.errors import InvalidInput
from mm_metering.middleware.responses import PROBLEM_BASE

if TYPE_CHECKING:
    from mm_metering.backends.endpoint_limits import EndpointLimits

ENCODING: Final = b"content-encoding"
SITE_BITS: Final = 64
"""Of an IPv6 address: one caller has all addresses that begin with them."""


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """What our own endpoints (webhooks in, health) take.

    per_minute    requests of one client address, in a sliding window; 0 for no limit. Behind a proxy that is the
                  proxy's, unless the server is told to believe its headers
    headers       how many a request may have
    header_bytes  how many bytes they may have in all
    """

    per_minute: int = 6_000
    headers: int = 100
    header_bytes: int = 32_768

    def __post_init__(self) -> None:
        for name, least in (("per_minute", 0), ("headers", 1), ("header_bytes", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(name, f"{getattr(self, name)} is less than {least}")


class EndpointGuard:
    """Shared by the endpoints of a process; ``now_s`` are seconds of a clock."""

    def __init__(self, rules: EndpointRules, *, now_s: Callable[[], float]) -> None:
        self._rules = rules
        self._now_s = now_s
        self._lock = threading.Lock()
        self._limits: EndpointLimits | None = None

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further: 429, 431 or 415."""
        wait_s = self._wait_s(scope)
        if wait_s is not None:
            detail = f"endpoint: {self._rules.per_minute:,} requests a minute of this address; try again in {wait_s} s"
            return _problem(429, "rate-limited", "Too many requests", detail, {"Retry-After": str(wait_s)})
        headers = scope["headers"]
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._rules.headers or size > self._rules.header_bytes:
            detail = f"headers: {len(headers):,} of {size:,} bytes; at most {self._rules.headers} of "
            detail += f"{self._rules.header_bytes:,} bytes are read"
            return _problem(431, "headers-too-large", "Request header fields too large", detail)
        if any(name == ENCODING and value.strip().lower() not in (b"", b"identity") for name, value in headers):
            return _problem(415, "encoded-body", "Unsupported media type", "content-encoding: send the body as it is")
        return None

    def _wait_s(self, scope: Scope) -> int | None:
        if not self._rules.per_minute:
            return None
        with self._lock:
            if self._limits is None:  # importing the library takes a tenth of a second
                from mm_metering.backends.endpoint_limits import EndpointLimits

                self._limits = EndpointLimits(self._rules.per_minute, now_s=self._now_s)
        return self._limits.wait_s(address_of(scope))


class Guarded:
    """An app of ours behind a guard."""

    def __init__(self, app: ASGIApp, guard: EndpointGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._guard.refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def address_of(scope: Scope) -> str:
    """The client's address, of IPv6 the network; "" where there is none, as on a unix socket."""
    client = scope.get("client")
    text = str(client[0]) if client else ""
    with suppress(ValueError):
        address = ip_address(text)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            return str(ip_network((int(address), SITE_BITS), strict=False))
        return str(getattr(address, "ipv4_mapped", None) or address)
    return text[:64]


def _problem(status: int, code: str, title: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": PROBLEM_BASE + code, "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/problem+json")
