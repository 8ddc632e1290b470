"""What an answer says about metering: RateLimit headers, and problem bodies for refusals.

RateLimit-Policy and RateLimit are RFC 9651 lists of strings (draft-ietf-httpapi-ratelimit-headers-10); bodies are
RFC 9457 problems with a stable ``code``, of which problem.schema.json tells the members. DESIGN.md section 8 is the
table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from starlette.types import Scope, Send
from uuid_utils import uuid7

from mm_metering.core.decision import Decision, Quantity
from mm_metering.core.periods import micros
from mm_metering.core.refusals import BUSY_RETRY_S, sentence, wait_s
from mm_metering.errors import UrlRefused
from mm_metering.gate.admission import policy_name, readings
from mm_metering.middleware.ratelimit import RawHeaders, rate_limit_headers
from mm_metering.middleware.shapes import PLAIN, Kinds, Style, shaped

PROBLEM_BASE: Final = "https://mm-metering.readthedocs.io/problems/"
"""A problem's ``type`` is this plus its code."""
EXPOSED_HEADERS: Final = (
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "Retry-After",
    "MM-Metering",
    "x-should-retry",
    "WWW-Authenticate",
)
"""For CORSMiddleware(expose_headers=...): what browsers may read of our headers."""
DEGRADED: Final = (b"mm-metering", b"degraded")

CLIENT_WAIT_MAX_S: Final = 60
"""Past this, clients are told not to retry by themselves: some SDKs sleep for as long as Retry-After says."""
UNAVAILABLE_RETRY_S: Final = 5
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)


class Reason(NamedTuple):
    """What a code means in HTTP, and to the clients of AI providers."""

    status: int
    title: str
    kinds: Kinds


_USED_UP = Kinds("insufficient_quota", "rate_limit_error")
_TOO_FAST = Kinds("rate_limit_exceeded", "rate_limit_error")
_UNPAID = Kinds("insufficient_quota", "billing_error")
_FORBIDDEN = Kinds("invalid_request_error", "permission_error")
_NOBODY = Kinds("invalid_request_error", "authentication_error")
_INVALID = Kinds("invalid_request_error", "invalid_request_error")
_OUTAGE = Kinds("server_error", "api_error")

REASONS: Final = {
    "quota-exceeded": Reason(429, "Quota exceeded", _USED_UP),
    "rate-limited": Reason(429, "Too many requests", _TOO_FAST),
    "budget-busy": Reason(429, "Budget busy", _TOO_FAST),
    "budget-exceeded": Reason(402, "Budget exceeded", _UNPAID),
    "payment-required": Reason(402, "Payment required", _UNPAID),
    "feature-not-in-plan": Reason(403, "Not in this plan", _FORBIDDEN),
    "model-not-allowed": Reason(403, "Model not allowed", _FORBIDDEN),
    "model-unpriced": Reason(403, "Model without a price", _FORBIDDEN),
    "tenant-suspended": Reason(403, "Tenant suspended", _FORBIDDEN),
    "tenant-unknown": Reason(401, "Unknown tenant", _NOBODY),
    "url-refused": Reason(422, "URL refused", _INVALID),
    "metering-unavailable": Reason(503, "Usage accounting unavailable", _OUTAGE),
}


class Problem(NamedTuple):
    """A refusal, ready to be sent."""

    status: int
    headers: RawHeaders
    body: bytes

    async def send(self, scope: Scope, send: Send) -> None:
        """Answer the request; a HEAD request without the body."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


# ---- problems ----


def problem_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a refusal's body in each of its shapes; a new dict each time."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("problem.schema.json").read_text("utf-8"))
    return schema


def refused(
    decisions: Sequence[Decision], scope: Scope, *, now: datetime, message: str | None = None, style: Style = PLAIN
) -> Problem:
    """What the first decision, a refused one, says, or the error that carried it; with all limits that refused."""
    first = decisions[0]
    code = first.reason or "quota-exceeded"
    if code == "metering-unavailable":
        return unavailable(scope, style=style)
    violated = [each for each in decisions if not each.allowed]
    status = REASONS[code].status
    longest_s = max(_wait_s(each, now) for each in violated) if status == 429 else None
    members: dict[str, Any] = {
        "detail": message or sentence(first, now),
        "violated-policies": [policy_name(each.meter, each.window) for each in violated],
        "limits": [_limit(each, now) for each in violated],
    }
    if first.plan:
        members["plan"] = first.plan
    headers = [] if status == 403 else rate_limit_headers(readings(decisions), micros(now), style.headers)
    if status in (402, 403) or (longest_s or 0) > CLIENT_WAIT_MAX_S:
        headers.append((b"x-should-retry", b"false"))
    return _problem(code, scope, members, headers, style=style, retry_after_s=longest_s)


def tenant_unknown(scope: Scope, challenge: str, *, style: Style = PLAIN) -> Problem:
    """A missing and a wrong key read the same, so that nobody can tell which keys exist."""
    members = {"detail": "tenant: the request names nobody we know; send the credentials you were given"}
    return _problem("tenant-unknown", scope, members, [(b"www-authenticate", challenge.encode())], style=style)


def url_refused(error: UrlRefused, scope: Scope, *, style: Style = PLAIN) -> Problem:
    """A webhook's URL is the tenant's own word."""
    return _problem("url-refused", scope, {"detail": str(error)}, [], style=style)


def unavailable(scope: Scope, *, style: Style = PLAIN) -> Problem:
    members = {
        "detail": "usage: limits cannot be checked right now, so nothing was done and nothing was counted; "
        f"try again in {UNAVAILABLE_RETRY_S} seconds"
    }
    return _problem("metering-unavailable", scope, members, [], style=style, retry_after_s=UNAVAILABLE_RETRY_S)


def _problem(
    code: str,
    scope: Scope,
    members: dict[str, Any],
    headers: RawHeaders,
    *,
    style: Style,
    retry_after_s: int | None = None,
) -> Problem:
    reason = REASONS[code]
    document = {
        "type": PROBLEM_BASE + code,
        "title": reason.title,
        "status": reason.status,
        "detail": members.pop("detail"),
        "instance": quote(scope["path"], errors="replace"),
        "code": code,
        **members,
        "request_id": request_id(scope),
    }
    if retry_after_s is not None:
        document["retry_after"] = retry_after_s
        headers = [(b"retry-after", str(retry_after_s).encode()), *headers]
    content_type, document = shaped(document, style.shape_of(scope["path"]), reason.kinds)
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    sized = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    return Problem(reason.status, [*sized, (b"cache-control", b"no-store"), *headers], body)


def request_id(scope: Scope) -> str:
    """The id that a proxy or another middleware gave the request, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid7())


def _limit(decision: Decision, now: datetime) -> dict[str, Any]:
    entry = {
        "policy": policy_name(decision.meter, decision.window),
        "meter": decision.meter,
        "limit": _json(decision.limit),
        "used": _json(decision.used),
        "remaining": _json(decision.remaining),
        "requested": _json(decision.requested),
        "reserved": _json(decision.reserved or None),
        "scope": decision.scope,
        "fallback_model": decision.fallback_model,
        "window": None if decision.window in (None, "none") else decision.window,
        "resets_at": decision.resets_at and decision.resets_at.isoformat().replace("+00:00", "Z"),
        "retry_after": _wait_s(decision, now) if decision.reason in ("quota-exceeded", "rate-limited") else None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _json(amount: Quantity | None) -> int | str | None:
    """Money as a string: a JSON number is a binary float to most readers."""
    return format(amount, "f") if isinstance(amount, Decimal) else amount


def _wait_s(decision: Decision, now: datetime) -> int:
    """When to come back: what holds a busy budget ends long before the budget resets."""
    return BUSY_RETRY_S if decision.reason == "budget-busy" else wait_s(decision, now)
