"""An app as any number of processes serve it: where the stores are is said by the environment.

MM_METERING_COUNTERS is a Redis or Valkey that all of them reach, MM_METERING_LEDGER a database. Beside them runs
``mm-metering worker``, at least two of them, so that one stands by.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mm_metering import Metering, from_header

PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {"api_calls": {"event": "api_call"}},
    "plans": {
        "small": {"price": "0", "quotas": {"api_calls": {"limit": 300, "per": "month"}}},
        "large": {"price": "99.00"},
    },
    "routes": {"exempt": ["/healthz"]},
}


async def quotes(_: Request) -> Response:
    return JSONResponse([6.31, 6.42, 6.28])


async def healthz(_: Request) -> Response:
    return JSONResponse({"ok": True})


metering = Metering.from_env(catalogue=PLANS, worker="off")
app = Starlette(routes=[Route("/v1/quotes", quotes), Route("/healthz", healthz)])
metering.install(app, tenant=from_header("x-org-id"))
