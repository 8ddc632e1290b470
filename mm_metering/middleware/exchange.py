"""One request or websocket under way: headers on its answer, and the end of what it took."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering import failpoints
from mm_metering.errors import Refused, StoreUnavailable, UnknownTenant
from mm_metering.gate.context import Bound, Meter, enter, leave
from mm_metering.middleware.aftermath import Aftermath
from mm_metering.middleware.answers import Answers
from mm_metering.middleware.matches import RouteMatch
from mm_metering.middleware.responses import Problem
from mm_metering.middleware.tenants import Resolver, begin

CAUSES_AT_MOST: Final = 8
POLICY_VIOLATION: Final = 1008
"""The websocket close code of a client that may not go on (RFC 6455, 7.4.1)."""

BODILESS: Final = ("GET", "HEAD")
"""The methods of requests that come without a body."""
STARTS: Final = {
    "http.response.start": 200,
    "websocket.accept": 200,
    "websocket.http.response.start": 403,
    "websocket.close": 403,
}
"""What begins an answer, and its status where the message carries none."""


class Host(Protocol):
    """What an exchange needs of the middleware it belongs to."""

    @property
    def app(self) -> ASGIApp: ...

    @property
    def meter(self) -> Meter: ...

    @property
    def tenant(self) -> Resolver | None: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def later(self) -> Aftermath: ...

    @property
    def is_open(self) -> bool: ...

    async def open(self) -> None: ...


class Exchange:
    """Takes what the route costs, then passes messages on as they come; nothing is buffered."""

    __slots__ = ("_bound", "_bytes", "_host", "_is_started", "_match", "_scope", "_send")

    def __init__(self, host: Host, match: RouteMatch, scope: Scope, send: Send) -> None:
        self._host = host
        self._match = match
        self._scope = scope
        self._send = send
        self._bound: Bound | None = None
        self._bytes = 0
        self._is_started = False

    async def run(self, receive: Receive) -> None:
        """Take what the route costs, then serve it, unless that is refused.

        A route that costs nothing is open to callers without a tenant, since nobody pays for them.
        """
        host, match, admission = self._host, self._match, None
        tenant = begin(host.tenant, self._scope) if host.tenant else ""  # until the app identifies it
        if not (tenant is None or isinstance(tenant, str)):
            tenant = await tenant
        problem = host.answers.unknown(self._scope) if tenant is None and match.wishes else None
        if tenant and match.wishes:
            try:
                if not host.is_open:
                    await host.open()
                failpoints.reach("middleware.before_take")
                admission = await host.meter.take(tenant, match.wishes)
                failpoints.reach("middleware.after_take")
            except UnknownTenant:
                problem = host.answers.unknown(self._scope)
            except StoreUnavailable:
                problem = host.answers.unavailable(self._scope)
            else:
                problem = None if admission.allowed else host.answers.refused(admission, self._scope)
        if problem is not None:
            await refuse(problem, self._scope, receive, self._send)
            return
        if tenant is not None:
            self._bound = Bound(host.meter, tenant, match.template, match.wishes, match.joined, admission=admission)
        await self._serve(receive)

    async def _serve(self, receive: Receive) -> None:
        """What fails before its answer begins is taken back; our errors become answers."""
        bound = self._bound
        token = enter(bound) if bound is not None else None
        try:
            await self._host.app(self._scope, receive, self.send)
            if not self._is_started:
                await self._take_back(None)
        except (Exception, asyncio.CancelledError) as error:
            if not await self._is_answered(error):
                raise
        finally:
            if token is not None:
                leave(token)
            for settle in tuple(bound.unsettled.values()) if bound is not None else ():
                settle()
            if bound is not None and self._is_started and (bound.added or self._bytes or not bound.tenant):
                await self._write_rest(bound)

    # -- its answer ---------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """What the app calls. Not a coroutine of its own: most messages need nothing of it that waits."""
        if self._is_started or message["type"] not in STARTS:
            failpoints.reach("middleware.mid_stream")
            if self._match.measured and self._scope.get("method") != "HEAD":  # whose body no server sends
                self._bytes += _size(message)
            return self._send(message)
        status: int = message.get("status", STARTS[message["type"]])
        bound = self._bound
        if status >= 400 or self._host.later.uncounted(status) or (bound is not None and bound.added):
            return self._begin_after(message, status)
        return self._send(self._begun(message, status))

    async def _begin_after(self, message: Message, status: int) -> None:
        """Begin the answer when what it means for the usage is done."""
        is_changed = False
        if status >= 400 or self._host.later.uncounted(status):
            is_changed = await self._ends_in_error(status)
        if self._bound is not None and self._bound.added:
            await self._host.later.write(self._bound)
        started = self._begun(message, status)
        await self._send(message if is_changed else started)

    def _begun(self, message: Message, status: int) -> Message:
        """The answer's first message with our headers; from here on nothing is taken back."""
        bound = self._bound
        if bound is not None:
            bound.is_final = True
        self._is_started = True
        if message["type"] == "websocket.close":
            return message
        if added := self._host.answers.headers(status, bound):
            return {**message, "headers": [*message.get("headers", ()), *added]}
        return message

    async def _ends_in_error(self, status: int) -> bool:
        """Take back what must not count (C2, C3), before the client can know; whether there was anything.

        Starlette answers for an exception while it handles it. A mounted app makes a 500 of ours that way, and hands
        it on only afterwards: it is raised here, so that it gets its own answer. A host's own handler keeps its.
        """
        error = sys.exc_info()[1]
        if status == 500 and error is not None and self._problem(error):
            raise error
        nothing = status in (401, 403) or self._match.has_no_route(status) or _stems_from_refusal(error)
        return await self._take_back(None if nothing else status)

    async def _take_back(self, status: int | None) -> bool:
        """All of it, or what an answer with this status does not leave counted."""
        return await self._host.later.take_back(self._bound, status) if self._bound else False

    async def _is_answered(self, error: BaseException) -> bool:
        """Whether an error is ours and the client has its answer now; the host's own are taken back and go on."""
        problem = self._problem(error)
        if not self._is_started:
            nothing = isinstance(error, Refused | asyncio.CancelledError)
            await self._take_back(None if nothing else problem.status if problem else 500)
            if problem is not None:
                await answer(problem, self._scope, self._send)
            return problem is not None
        if problem is None or self._scope["type"] != "websocket":
            return False
        await close(problem, self._send)
        return True

    def _problem(self, error: BaseException) -> Problem | None:
        """An unknown tenant is the client's fault while the request has none; later it is the host's own business."""
        if isinstance(error, UnknownTenant) and self._bound and not self._bound.tenant:
            return self._host.answers.unknown(self._scope)
        return self._host.answers.to(error, self._scope)

    async def _write_rest(self, bound: Bound) -> None:
        """What was measured, and added after the answer had begun."""
        for what in self._match.measured if self._bytes else ():
            bound.add_wish(what._replace(quantity=self._bytes))
        await self._host.later.write_quietly(bound)
        if bound.pending and not bound.tenant:
            self._host.answers.notes.note(
                "unidentified", f"{self._match.template} was served without identify(): not metered"
            )


async def answer(problem: Problem, scope: Scope, send: Send) -> None:
    """The problem instead of the app's answer. A websocket is denied before it is accepted: with the same response
    where the server can, else with a close code, which clients see as 403."""
    if scope["type"] == "http":
        await problem.send(scope, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        start = {"type": "websocket.http.response.start", "status": problem.status, "headers": list(problem.headers)}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": problem.body})
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request that the app does not see. It does not wait for the body, and nobody keeps that.

    A server that holds a few parts of a body back for the app (hypercorn) does not end the answer before they are
    taken: with a large upload it would wait for ever. So what has come is thrown away while the answer ends.
    """
    if scope["type"] != "http" or scope["method"] in BODILESS:
        await answer(problem, scope, send)
        return

    async def send_and_discard(message: Message) -> None:
        if message["type"] != "http.response.body":  # before the answer has begun, reading would invite the body
            await send(message)
            return
        discarding = asyncio.create_task(_discard(receive))
        try:
            await send(message)
        finally:
            discarding.cancel()

    await answer(problem, scope, send_and_discard)


async def _discard(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


async def close(problem: Problem, send: Send) -> None:
    """End an accepted websocket: the problem as a JSON message, then the close code."""
    await send({"type": "websocket.send", "text": problem.body.decode()})
    await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": json.loads(problem.body)["code"]})


def _size(message: Message) -> int:
    match message["type"]:
        case "http.response.body":
            return len(message.get("body", b""))
        case "http.response.pathsend":
            return Path(message["path"]).stat().st_size
        case "websocket.send":
            return len(message.get("bytes") or (message.get("text") or "").encode())
        case _:
            return 0


def _stems_from_refusal(error: BaseException | None) -> bool:
    """Whether the error that is being answered is a refusal, or was raised while one was handled."""
    for _ in range(CAUSES_AT_MOST):
        if error is None or isinstance(error, Refused):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, Refused)
