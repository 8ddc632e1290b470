"""An app process under load: takes with limits, requests through the middleware, events under the caller's own ids.

It ends by SIGTERM, with the shutdown of the product, or by whatever kills it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from mm_metering import Metering, UsageEvent, failpoints, from_header
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.admission import Wish
from tests.chaos.truth import (
    DEGRADED,
    NO,
    RECORD,
    REVERSED,
    SENT,
    TAKE,
    UNAVAILABLE,
    WEB,
    YES,
    Truth,
    TruthFile,
    call_name,
)

UNREACHABLE: Final = 3
LIMIT: Final = 400
"""Units a month of ``strict``, which nobody may have more of in an outage either."""
MANY: Final = 10_000_000
PHASE_S: Final = 3.0
"""After that long the callers go on with new tenants, whose limit is not reached yet."""
LIMITED: Final = 4
"""How many of them there are at once."""
OPEN: Final = tuple(f"open-{n}" for n in range(4))
"""Tenants that never reach their limit."""

_plan: Final = {
    "price": "0",
    "quotas": {"strict": {"limit": LIMIT, "per": "month"}, "soft": {"limit": MANY, "per": "month"}},
}
PLANS: Final[dict[str, Any]] = {
    "currency": "USD",
    "default_plan": "one",
    "meters": {"soft": {"event": "soft"}, "strict": {"event": "strict", "on_outage": "deny"}},
    "plans": {"one": _plan, "two": _plan},
    "routes": {"GET /soft": {"soft": 1}, "GET /fails": {"soft": 1}},
}

call_in_hand: ContextVar[str] = ContextVar("call_in_hand", default="")


@dataclass(frozen=True, slots=True)
class Part:
    """Which process this is, and what it is to do."""

    stores: Mapping[str, str]
    truth: Path
    number: int
    callers: int
    pause_s: float
    failpoint: str = ""
    log: Path | None = None


def run(part: Part) -> None:
    """The process: until SIGTERM."""
    begin(part.failpoint, part.log)
    with unless_unreachable():
        asyncio.run(_Load(part).run())


def run_worker(stores: Mapping[str, str], failpoint: str, log: Path) -> None:
    """``mm-metering worker``, in a process that was forked."""
    from mm_metering.cli import worker

    begin(failpoint, log)
    os.environ.update({f"MM_METERING_{name.upper()}": value for name, value in stores.items()})
    with unless_unreachable():
        worker.run_worker(Metering.from_env(), once=False)


@contextmanager
def unless_unreachable() -> Iterator[None]:
    """The exit code of a process that could not reach a store when it started: its supervisor tries again."""
    try:
        yield
    except StoreUnavailable as error:
        logging.getLogger("tests.chaos").warning("not started: %s", error)
        sys.exit(UNREACHABLE)


def begin(failpoint: str, log: Path | None) -> None:
    """What the environment does for a process that is not forked."""
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    if failpoint:
        failpoints.reach = failpoints.armed(failpoint)


class _Load:
    def __init__(self, part: Part) -> None:
        self._part = part
        self._truth = TruthFile(part.truth)
        self._random = random.Random(part.number)
        self._metering = Metering(PLANS, **part.stores, worker="off")  # type: ignore[arg-type]
        self._metering.gate._new_id = _id_of_call
        self._http = Starlette(routes=[Route("/soft", _soft), Route("/fails", _fails)])
        self._metering.install(self._http, tenant=from_header("x-org-id"))
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        async with self._metering:
            unfinished = self._unfinished()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._record_again(unfinished))
                for caller in range(self._part.callers):
                    group.create_task(self._call(caller))

    def _unfinished(self) -> Mapping[str, str]:
        """What a process before this one was recording when it died, with its tenants."""
        truth = Truth(self._part.truth.parent)
        truth.read(self._part.truth)
        return {call: truth.sent[call] for call in truth.unfinished(RECORD)}

    async def _record_again(self, unfinished: Mapping[str, str]) -> None:
        """Under the same ids."""
        for call, tenant in unfinished.items():
            await self._record(call, tenant)

    async def _call(self, caller: int) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            await self._one(caller, number)
            await asyncio.sleep(self._random.uniform(0, 2 * self._part.pause_s))

    async def _one(self, caller: int, number: int) -> None:
        dice, phase = self._random.random(), int(time.monotonic() / PHASE_S)
        limited, unlimited = f"limited-{phase}-{number % LIMITED}", OPEN[number % len(OPEN)]
        if dice < 0.75:
            tenant = limited if dice < 0.6 else unlimited
            await self._take(call_name(TAKE, self._part.number, caller, number), tenant, strict=dice < 0.6)
        elif dice < 0.95:
            path = "/fails" if dice < 0.78 else "/soft"
            await self._ask(call_name(WEB, self._part.number, caller, number), unlimited, path)
        elif dice < 0.996:
            call = call_name(RECORD, self._part.number, caller, number)
            self._truth.write(SENT, call, unlimited)
            await self._record(call, unlimited)
        else:
            with suppress(StoreUnavailable):
                await self._metering.change_plan(unlimited, self._random.choice(("one", "two")))

    async def _take(self, call: str, tenant: str, *, strict: bool) -> None:
        self._truth.write(SENT, call, tenant)
        call_in_hand.set(call)
        wish = Wish("strict" if strict else "soft", "work")
        try:
            admission = await self._metering.take(tenant, (wish,))
        except StoreUnavailable:
            told = UNAVAILABLE
        else:
            told = NO if not admission.allowed else DEGRADED if admission.degraded else YES
        self._truth.write(told, call, tenant)

    async def _ask(self, call: str, tenant: str, path: str) -> None:
        """A request, whose body comes in two parts."""
        self._truth.write(SENT, call, tenant)
        call_in_hand.set(call)
        status = 0
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},  # the response need not listen for a disconnect
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 80),
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"x-org-id", tenant.encode())],
        }

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._http(scope, _nothing, send)
        told = {200: YES, 429: NO, 500: REVERSED, 503: UNAVAILABLE}[status]
        self._truth.write(told, call, tenant)

    async def _record(self, call: str, tenant: str) -> None:
        """Again until it is acknowledged, as a caller with an id of his own may."""
        while True:
            with suppress(StoreUnavailable):
                await self._metering.record(own_event(call, tenant))
                break
            await asyncio.sleep(self._part.pause_s)
        self._truth.write(YES, call, tenant)


def own_event(call: str, tenant: str) -> UsageEvent:
    """The same payload whenever it is recorded again."""
    return UsageEvent(tenant=tenant, event_type="soft", resource="own", id=call)


def _id_of_call() -> str:
    """Unique, and begins with the call that it is made for."""
    return call_in_hand.get() + uuid.uuid4().hex


async def _soft(_: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        yield "half"
        await asyncio.sleep(0)
        yield "rest"

    return StreamingResponse(parts())


async def _fails(_: Request) -> Response:
    return Response(status_code=500)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
