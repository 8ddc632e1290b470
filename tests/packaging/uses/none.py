"""Without extras: limits in memory over ASGI; each thing that needs an extra names it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

import mm_metering
from mm_metering import Metering, QuotaExceeded, StripeBillingAdapter, UsageEvent, from_header, from_jwt, metered
from mm_metering.errors import MissingExtra


@metered("export", resource="report_pdf")
async def report(_: Request) -> Response:
    return PlainTextResponse("done")


async def status(app: Starlette, tenant: str) -> int:
    said: list[Message] = []
    scope = {"type": "http", "method": "POST", "path": "/reports", "raw_path": b"/reports", "query_string": b""}
    scope |= {"headers": [(b"x-org-id", tenant.encode())], "http_version": "1.1", "root_path": ""}

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    return int(said[0]["status"])


async def limits() -> None:
    metering = Metering(worker="off")
    app = Starlette(routes=[Route("/reports", report, methods=["POST"])])
    metering.install(app, tenant=from_header("x-org-id"))
    assert [await status(app, "acme") for _ in range(2)] == [200, 429]
    await metering.record(UsageEvent(tenant="acme", event_type="export", resource="report_pdf", quantity=3))
    with suppress(QuotaExceeded):
        await metering.enforce_quota("acme", "reports")
        raise AssertionError("a second report was let through")
    assert (await metering.prove()).holds
    await metering.aclose()


async def started(metering: Metering) -> None:
    async with metering:
        pass


def needs(extra: str, work: Callable[[], Any]) -> None:
    said = ""
    try:
        work()
    except MissingExtra as error:
        said = str(error)
    assert said.endswith(f'pip install "mm-metering[{extra}]"'), (extra, said)


def command_line() -> None:
    from mm_metering.cli import _run

    _run()


for name in mm_metering.__all__:
    getattr(mm_metering, name)
asyncio.run(limits())
needs("ledger", lambda: asyncio.run(started(Metering(ledger="sqlite:///usage.db"))))
needs("postgres", lambda: asyncio.run(started(Metering(ledger="postgresql://nobody@localhost/none"))))
needs("server", lambda: Metering().dashboard())
needs("server", command_line)
needs("server", lambda: Metering(secret_key="A" * 43 + "="))
needs("jwt", lambda: from_jwt("org.id", "s" * 32))
needs("stripe", lambda: StripeBillingAdapter(api_key="sk_test_1"))
