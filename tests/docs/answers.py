"""One true answer for each problem code, as the code makes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from starlette.types import Scope

from mm_metering.core.decision import Decision
from mm_metering.errors import UrlRefused
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules
from mm_metering.middleware.responses import Problem, refused, tenant_unknown, unavailable, url_refused

NOW: Final = datetime(2026, 11, 22, 9, 31, 28, tzinfo=UTC)
MIDNIGHT: Final = datetime(2026, 11, 23, tzinfo=UTC)
DECEMBER: Final = datetime(2026, 12, 1, tzinfo=UTC)
GUARD_CODES: Final = {
    "headers-too-large": (431, "Request header fields too large"),
    "encoded-body": (415, "Unsupported media type"),
}
"""What only our own endpoints say: the codes of endpoint_guard.py that are not among REASONS."""

_DAY: Final[Mapping[str, Any]] = {"window": "day", "window_s": 86_400, "resets_at": MIDNIGHT}
_MONTH: Final[Mapping[str, Any]] = {"window": "month", "window_s": 2_592_000, "resets_at": DECEMBER}
_COST: Final[Mapping[str, Any]] = {"meter": "ai_cost", "requested": Decimal("0.60"), "limit": Decimal("50.00")}
_CALL: Final[Mapping[str, Any]] = {"meter": "api_calls", "requested": 1}
_MODEL: Final[Mapping[str, Any]] = {"meter": "ai_cost", "requested": Decimal("0.60"), "plan": "pro"}
_REFUSED: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "quota-exceeded": (
        "/v1/reports",
        {
            "meter": "reports",
            "requested": 1,
            "limit": 1,
            "used": 1,
            "remaining": 0,
            "plan": "free",
            "retry_after_s": 743_312,
            **_MONTH,
        },
    ),
    "rate-limited": (
        "/v1/search",
        {
            **_CALL,
            "limit": 200,
            "used": 200,
            "remaining": 0,
            "plan": "pro",
            "retry_after_s": 1,
            "window": "second",
            "window_s": 1,
        },
    ),
    "budget-exceeded": (
        "/v1/chat",
        {**_COST, "used": Decimal("49.71"), "remaining": Decimal("0.29"), "plan": "pro", **_DAY},
    ),
    "budget-busy": (
        "/v1/chat",
        {
            **_COST,
            "used": Decimal("31.20"),
            "reserved": Decimal("18.51"),
            "remaining": Decimal("0.29"),
            "plan": "pro",
            **_DAY,
        },
    ),
    "payment-required": ("/v1/scenarios", {**_CALL, "plan": "pro"}),
    "tenant-suspended": ("/v1/scenarios", {**_CALL, "plan": "pro"}),
    "feature-not-in-plan": (
        "/v1/hooks",
        {
            "meter": "webhook_deliveries",
            "requested": 1,
            "limit": 0,
            "remaining": 0,
            "plan": "free",
            **_MONTH,
        },
    ),
    "model-not-allowed": ("/v1/chat", _MODEL),
    "model-unpriced": ("/v1/chat", _MODEL),
}


def answers() -> dict[str, str]:
    """By code: status line, headers and body, as `curl -i` would print them."""
    found = {
        code: _shown(refused([Decision(allowed=False, reason=code, **fields)], _scope(path), now=NOW))
        for code, (path, fields) in _REFUSED.items()
    }
    challenge = 'ApiKey realm="api", header="x-org-id"'
    found["tenant-unknown"] = _shown(tenant_unknown(_scope("/v1/scenarios"), challenge))
    found["url-refused"] = _shown(
        url_refused(UrlRefused("has a host that is not public; use a public domain name"), _scope("/v1/hooks"))
    )
    found["metering-unavailable"] = _shown(unavailable(_scope("/v1/chat")))
    guard = EndpointGuard(EndpointRules(), now_s=lambda: 0.0)
    for code, headers in (
        ("headers-too-large", [(b"x-filler", b"x" * 40_000)]),
        ("encoded-body", [(b"content-encoding", b"gzip")]),
    ):
        answer = guard.refusal({**_scope("/webhooks/stripe"), "headers": headers})
        assert answer is not None, f"{code}: the guard lets it in"
        found[code] = _shown(Problem(answer.status_code, list(answer.raw_headers), bytes(answer.body)))
    return found


def _scope(path: str) -> Scope:
    return {"type": "http", "method": "POST", "path": path, "headers": [(b"x-request-id", b"req_1")], "client": None}


def _shown(problem: Problem) -> str:
    headers = [f"{name.decode()}: {value.decode()}" for name, value in problem.headers if name != b"content-length"]
    body = json.dumps(json.loads(problem.body), indent=2, ensure_ascii=False)
    return "\n".join([f"HTTP/1.1 {problem.status}", *headers, "", body])
