"""``/healthz`` and ``/metrics`` of a worker, for probes and scrapers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mm_metering.errors import InvalidInput, MissingExtra
from mm_metering.worker.monitor import Monitor

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def health_app(monitor: Monitor) -> Starlette:
    """200 from ``/healthz`` while all is well, else 503, with a JSON body that says what; ``/metrics`` for
    Prometheus."""

    async def healthz(_: Request) -> Response:
        is_well, body = await monitor.health()
        return JSONResponse(body, status_code=200 if is_well else 503)

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(await monitor.exposition(), media_type=TEXT_FORMAT)

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])


def listen(place: str, *, field: str = "health") -> socket.socket:
    """A socket at "PORT" of this machine alone, or at "HOST:PORT"; InvalidInput where that is not possible."""
    host, _, port = place.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port[:6]) < 65_536):
        raise InvalidInput(field, f"{place[:80]!r} is neither PORT nor HOST:PORT, such as 0.0.0.0:8080")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidInput(field, f"{place[:80]} cannot be listened at: {error.strerror or error}") from error


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, at: socket.socket) -> AsyncIterator[None]:
    """Serves the app while the block runs; who still asks at its end gets no answer."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("server", "a health endpoint") from error

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]  # they are the worker's
            yield

    server = Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[at]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        at.close()
