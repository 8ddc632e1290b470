"""A furnished house that is served: the pages' app on a loop of its own thread, behind all kinds of prefixes."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering import FrozenClock, Metering
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.dashboard.access import Found, Role, Visitor
from mm_metering.gate.deadlines import Timing
from mm_metering.testing import WebhookSink
from mm_metering.testing.furnished import furnish

T = TypeVar("T")
NOW: Final = "2024-03-12T15:00:00Z"
START_S: Final = 150
"""Longest wait for the house, on a machine that does much else."""
TENANT: Final = "acme"
CUTS, TELLS = "/admin/x", "/behind"
PREFIXES: Final = ("/metering", CUTS, TELLS, "/host/deep/er")
"""Mounted in a host's app, behind a proxy that cuts its prefix off, behind one that does not, mounted twice."""
KEY: Final = base64.b64encode(b"a key of tests" + bytes(18)).decode()


def cut(prefix: str, app: ASGIApp) -> ASGIApp:
    """A proxy that forwards what is below its prefix, and says nothing of the prefix."""

    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"]).removeprefix(prefix) or "/"
        await app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)

    return forward


def told(prefix: str, app: ASGIApp) -> ASGIApp:
    """A server that was told its prefix (``uvicorn --root-path``): the path still has it."""

    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": prefix}, receive, send)

    return forward


def team(request: Request) -> Found:
    """Who asks says so in a header."""
    roles = request.headers.get("x-role", "")
    return Visitor("op-7", frozenset(map(Role, roles.split()))) if roles else None


def tenant_of(scope: Scope) -> str | None:
    return next((value.decode() for name, value in scope["headers"] if name == b"x-tenant"), None)


class House:
    """``url`` is where it is served; ``run`` does something on its loop."""

    def __init__(self, ledger: Path, *, hostile: bool) -> None:
        self._ledger = ledger
        self._hostile = hostile
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        assert self._ready.wait(START_S), "the house is not furnished in time"
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            self._error = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self.sink = stack.enter_context(WebhookSink())
            self.clock = FrozenClock(NOW)
            self.metering = Metering(
                clock=self.clock,
                ledger="memory://",
                worker="off",
                journal="off",
                secret_key=KEY,
                billing=MockBillingAdapter(clock=self.clock),
                webhook_rules=self.sink.rules,
                timing=Timing(decision_s=10, load_s=10),
            )
            await stack.enter_async_context(self.metering)
            await furnish(self.metering, hostile=self._hostile, sink=self.sink)
            await self._serve(self._app())

    def _app(self) -> ASGIApp:
        pages = self.metering.dashboard()
        mounted = Starlette(
            routes=[
                Mount("/metering", pages),
                Mount("/host", Starlette(routes=[Mount("/deep/er", pages)])),
                Mount("/team", self.metering.dashboard(auth=team)),
                Mount("/usage", self.metering.portal(tenant=tenant_of)),
            ]
        )
        behind = {CUTS: cut(CUTS, pages), TELLS: told(TELLS, pages)}

        async def all_of_them(scope: Scope, receive: Receive, send: Send) -> None:
            path = str(scope["path"])
            app = next((each for prefix, each in behind.items() if path.startswith(prefix)), mounted)
            await app(scope, receive, send)

        return all_of_them

    async def _serve(self, app: ASGIApp) -> None:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has nothing to wait for
            await asyncio.sleep(0.01)
        self._ready.set()
        await self._stop.wait()
        server.should_exit = True
        await serving

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(START_S)

    async def asked(self, work: Coroutine[Any, Any, T]) -> T:
        """``run`` for a test that is async itself."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)
