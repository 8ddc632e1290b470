"""What a made-up host has in its conftest.py: an app, however it finds its tenants."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from mm_metering import Metering, from_header, metered
from mm_metering.middleware.tenants import Resolver


async def scenarios(request: Request) -> JSONResponse:
    return JSONResponse({})


@metered("export", resource="report_pdf")
async def report(request: Request) -> JSONResponse:
    return JSONResponse({}, status_code=int(request.query_params.get("status", 200)))


async def stream(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def app_of(metering: Metering, tenant: Resolver | None) -> Starlette:
    app = Starlette(
        routes=[
            Route("/v1/scenarios", scenarios),
            Route("/v1/reports", report, methods=["POST"]),
            WebSocketRoute("/v1/stream", stream),
        ]
    )
    metering.install(app, tenant=tenant)
    return app


@pytest.fixture
def metering_app(metering: Metering) -> Starlette:
    return app_of(metering, from_header("x-org-id"))
