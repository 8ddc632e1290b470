"""An app with a route for every kind of request; test_servers.py runs it under each server.

Tenants are those whose id begins with ``t-``. ``GET /seen/{tenant}`` is exempt: what is counted, and what has happened.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering import EXPOSED_HEADERS, FrozenClock, Metering, from_header, message_quota, metered
from mm_metering.decorators.quota import MeteredSocket
from mm_metering.gate.deadlines import Timing

NOW: Final = "2024-01-15T12:00:00Z"
CALLS_A_DAY: Final = 5
WORDS_A_DAY: Final = 2
PAGE_ROWS: Final = 3
ORIGIN: Final = "https://shop.example"
ETAG: Final = '"v1"'
WAIT_S: Final = 10.0
POLL_S: Final = 0.005
POLLS_AT_MOST: Final = 2_000

PLANS: Final[dict[str, Any]] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {
        "api_calls": {"event": "api_call"},
        "rows": {"event": "row"},
        "words": {"event": "word"},
        "egress": {"event": "egress"},
    },
    "plans": {
        "small": {
            "price": "0",
            "quotas": {
                "api_calls": {"limit": CALLS_A_DAY, "per": "day"},
                "rows": {"limit": 1_000, "per": "day"},
                "words": {"limit": WORDS_A_DAY, "per": "day"},
                "egress": {"limit": 10_000_000, "per": "day"},
            },
        }
    },
    "routes": {"GET /page": {"rows": PAGE_ROWS}},
}


@dataclass
class Seen:
    """What the app saw of a tenant's requests. ``read_bytes`` is what it was given of their bodies, ``sent`` the types
    of its own messages."""

    begun: int = 0
    ended: int = 0
    handled: int = 0
    read_bytes: int = 0
    sent: set[str] = field(default_factory=set)


SEEN: Final[defaultdict[str, Seen]] = defaultdict(Seen)
GO: Final[defaultdict[str, asyncio.Event]] = defaultdict(asyncio.Event)


class Watched:
    """Around everything: when requests begin and end, how much of their bodies the app asks for, and what it sends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        seen = SEEN[dict(scope["headers"]).get(b"x-org-id", b"").decode()]

        async def read() -> Message:
            message = await receive()
            seen.read_bytes += len(message.get("body", b""))
            return message

        async def write(message: Message) -> None:
            seen.sent.add(message["type"])
            await send(message)

        seen.begun += 1
        try:
            await self.app(scope, read, write)
        finally:
            seen.ended += 1


def tenant_of(request: Request) -> str:
    return request.headers.get("x-org-id", "")


async def handled(request: Request) -> None:
    SEEN[tenant_of(request)].handled += 1


metering = Metering(
    PLANS, counters="memory://", clock=FrozenClock(NOW), timing=Timing(decision_s=WAIT_S, load_s=WAIT_S)
)
logging.basicConfig(level=logging.WARNING)  # what we warn of is in the server's output
host = FastAPI()


# ---- exempt ---------------------------------------------------------------------------------------------------------


@host.get("/seen/{tenant}")
async def seen(tenant: str) -> dict[str, Any]:
    """What the app saw, then what the counters and the ledger say: all of it, if no request is under way."""
    happened = asdict(SEEN[tenant])
    counted = {meter: int((await metering.check_limit(tenant, meter)).used) for meter in PLANS["meters"]}
    usage = await metering.get_usage(tenant, NOW[:10], NOW[:10])
    facts = await metering.ledger.facts(tenant, after=(0, ""), limit=100)
    return {
        **happened,
        "counted": counted,
        "folded": {meter: usage.api_calls if meter == "api_calls" else usage.meters[meter] for meter in counted},
        "resources": {fact.resource for fact in facts},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@host.post("/spend/{tenant}")
async def spend(tenant: str) -> None:
    """Leave this tenant nothing of today's calls."""
    await metering.enforce_quota(tenant, "api_calls", CALLS_A_DAY)


@host.post("/go/{tenant}")
async def go(tenant: str) -> None:
    """Let a handler of this tenant that waits go on."""
    GO[tenant].set()


@host.get("/open")
async def open_to_all() -> str:
    return "open"


# ---- answers --------------------------------------------------------------------------------------------------------


@host.get("/sync", dependencies=[Depends(handled)])
def sync() -> str:
    return "sync"


@host.get("/async", dependencies=[Depends(handled)])
async def plain() -> str:
    return "async"


@host.api_route("/page", methods=["GET", "HEAD"])
async def page() -> str:
    return "page"


@host.options("/options")
async def options() -> Response:
    return Response(headers={"allow": "OPTIONS"})


@host.get("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"line\n"

    return StreamingResponse(lines())


@host.get("/breaks")
async def breaks() -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        yield b"line\n"
        raise RuntimeError("on purpose, in the middle of a stream")

    return StreamingResponse(lines())


@host.get("/events")
async def events(request: Request) -> StreamingResponse:
    """The last event is made only when somebody says go."""

    async def lines() -> AsyncIterator[str]:
        yield "data: first\n\n"
        async with asyncio.timeout(WAIT_S):
            await GO[tenant_of(request)].wait()
        yield "data: last\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@host.api_route("/file", methods=["GET", "HEAD"])
@metered("egress", quantity="response_bytes")
async def file() -> FileResponse:
    return FileResponse(Path(os.environ["EDGE_FILE"]))


@host.api_route("/bytes", methods=["GET", "HEAD"])
@metered("egress", quantity="response_bytes")
async def some_bytes() -> Response:
    return Response(b"x" * 1_000)


class WithTrailers(Response):
    """Ends with a checksum where the server can send one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        can = "http.response.trailers" in scope.get("extensions", {})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"x-sum")], "trailers": can})
        await send({"type": "http.response.body", "body": b"summed"})
        if can:
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"6")], "more_trailers": False})


@host.get("/trailers")
async def trailers() -> Response:
    return WithTrailers()


@host.get("/conditional")
async def conditional(request: Request) -> Response:
    fresh = request.headers.get("if-none-match") == ETAG
    return Response(status_code=304 if fresh else 200, headers={"etag": ETAG})


@host.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/async")


@host.get("/raises/{status}")
async def raises(status: int) -> None:
    raise HTTPException(status)


@host.get("/returns/{status}")
async def returns(status: int) -> Response:
    return Response(status_code=status)


@host.get("/fails")
async def fails() -> None:
    raise RuntimeError("on purpose")


async def before(request: Request) -> AsyncIterator[None]:
    if request:
        raise RuntimeError("on purpose, before the yield")
    yield


async def after() -> AsyncIterator[None]:
    yield
    raise RuntimeError("on purpose, after the yield")


host.add_api_route("/fails/before", plain, dependencies=[Depends(before)])
host.add_api_route("/fails/after", plain, dependencies=[Depends(after)])
host.add_api_route("/fails/after-function", plain, dependencies=[Depends(after, scope="function")])


@host.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    def in_thread() -> None:
        metering.current().add("rows", 2)

    async def on_loop() -> None:
        metering.current().add("rows", 5)

    tasks.add_task(in_thread)
    tasks.add_task(on_loop)
    return "later"


# ---- bodies, and clients that leave ---------------------------------------------------------------------------------


@host.post("/upload", dependencies=[Depends(handled)])
async def upload(request: Request) -> int:
    return sum([len(chunk) async for chunk in request.stream()])


@host.post("/parsed")
async def parsed(body: dict[str, int]) -> int:
    return len(body)


async def until_gone(request: Request) -> None:
    SEEN[tenant_of(request)].handled += 1
    for _ in range(POLLS_AT_MOST):
        if await request.is_disconnected():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError("the server does not say that the client is gone")


@host.get("/gone/finishes")
async def finishes(request: Request) -> str:
    await until_gone(request)
    return "nobody reads this"


@host.get("/gone/stops")
async def stops(request: Request) -> None:
    await until_gone(request)
    raise RuntimeError("on purpose: nobody waits for this")


@host.get("/endless")
async def endless() -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for _ in range(POLLS_AT_MOST):
            yield b"x" * 1_000
            await asyncio.sleep(POLL_S)

    return StreamingResponse(lines())


# ---- websockets -----------------------------------------------------------------------------------------------------


@host.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


@host.websocket("/words")
async def words(socket: WebSocket, said: Annotated[MeteredSocket, Depends(message_quota("words"))]) -> None:
    await socket.accept()
    async for text in said.iter_text():
        await socket.send_text(text.upper())


@host.websocket("/turned-away")
async def turned_away(socket: WebSocket) -> None:
    await socket.close(4000)


@host.websocket("/denied")
async def denied(socket: WebSocket) -> None:
    await socket.send_denial_response(Response(status_code=401))


@host.websocket("/fails")
async def fails_at_once(socket: WebSocket) -> None:
    raise RuntimeError("on purpose, before the handshake")


@host.websocket("/fails/accepted")
async def fails_later(socket: WebSocket) -> None:
    await socket.accept()
    raise RuntimeError("on purpose, after the handshake")


# ---- the whole ------------------------------------------------------------------------------------------------------


def allow_browsers() -> None:
    options: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": EXPOSED_HEADERS}
    host.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], **options)


def known(tenant: str) -> str | None:
    return tenant if tenant.startswith("t-") else None


CORS_FIRST: Final = os.environ.get("EDGE_CORS") == "before"
if CORS_FIRST:
    allow_browsers()
metering.install(
    host, tenant=from_header("x-org-id", known), exempt=["/seen/{tenant}", "/spend/{tenant}", "/go/{tenant}", "/open"]
)
if not CORS_FIRST:
    allow_browsers()
app = Watched(host)
