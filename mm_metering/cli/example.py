"""A metered app that is there after installation, for ``mm-metering dev`` and ``demo``."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mm_metering.decorators import metered
from mm_metering.metering import Metering
from mm_metering.middleware.tenants import from_header

HEADER: Final = "x-org-id"


def example_app(metering: Metering) -> Starlette:
    """Two routes of a mortgage marketplace: scenarios, and reports that cost more."""
    app = Starlette(
        routes=[
            Route("/v1/scenarios", scenarios),
            Route("/v1/reports", report, methods=["POST"]),
        ]
    )
    metering.install(app, tenant=from_header(HEADER))
    return app


async def scenarios(_: Request) -> Response:
    return JSONResponse(["base", "stress"])


@metered("export", resource="report_pdf")
async def report(_: Request) -> Response:
    return JSONResponse({"id": "rep_1"}, status_code=201)


for _endpoint in (scenarios, report):  # this package's own endpoints are never metered, and these stand for a host's
    _endpoint.__module__ = "example"
