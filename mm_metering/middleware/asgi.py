"""The middleware: tenant, route, one take, the app, and what its answer means for what was taken.

Pure ASGI: no task per request and no buffering; the first byte leaves when the app sends it. Websockets pass through
untouched and uncounted for now.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mm_metering.clock import Clock
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import InvalidInput, MeteringError, Refused, StoreUnavailable, UnknownTenant
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.context import Bound, enter, leave
from mm_metering.middleware import responses, tenants
from mm_metering.middleware.responses import Problem
from mm_metering.middleware.routes import Kind, Resolver, RouteMatch, never_metered, routes_of

log = logging.getLogger("mm_metering.middleware")

HeaderStyle: TypeAlias = Literal["standard", "off"]
SEEN: Final = "mm_metering.seen"
"""Scope key: the meters that have looked at this request already, so that none counts it twice."""
WARNINGS_AT_MOST: Final = 100
CAUSES_AT_MOST: Final = 8
SETTLE_S: Final = 10.0


class Meter(Protocol):
    """What the middleware needs of a Metering."""

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def clock(self) -> Clock: ...

    async def startup(self) -> None:
        """Opens what a take needs. May be called again, also at once: it opens once. Raises MeteringError."""
        ...

    async def shutdown(self) -> None:
        """Writes down what is acknowledged and closes. May be called again."""
        ...

    async def take(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        """Counts all wishes or none. Raises UnknownTenant, and StoreUnavailable where an outage denies. If the caller
        is cancelled meanwhile, nothing stays counted."""
        ...

    async def reverse(self, admission: Admission) -> None:
        """Takes back what an admission counted. A second time changes nothing."""
        ...


def install(
    app: Any,
    *,
    metering: Meter,
    tenant: tenants.Resolver,
    exempt: Iterable[str] = (),
    headers: HeaderStyle = "standard",
) -> None:
    """Add the middleware to a Starlette or FastAPI app as the innermost one, whatever the order of calls.

    CORS, authentication and sessions are then always outside: they answer preflights, know the user, and their
    headers are on our refusals.
    """
    if not hasattr(app, "user_middleware"):
        raise MeteringError(f"install: {type(app).__name__} is no Starlette app; wrap it: MeteringMiddleware(app, ...)")
    if app.middleware_stack is not None:
        raise MeteringError("install: the app has served requests already; install before it starts")
    options: dict[str, Any] = {"metering": metering, "tenant": tenant, "exempt": exempt, "headers": headers}
    app.user_middleware.append(Middleware(MeteringMiddleware, **options))


class MeteringMiddleware:
    """Meters every request of an ASGI app: refuses what does not fit, and takes back what must not count (C1-C3)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metering: Meter,
        tenant: tenants.Resolver,
        exempt: Iterable[str] = (),
        headers: HeaderStyle = "standard",
    ) -> None:
        self.app = app
        self.meter = metering
        self.shows_headers = _shows_headers(headers)
        self.reversals = _Reversals(metering)
        self._tenant = tenant
        self._routes = Resolver(app, lambda: metering.catalogue, _paths(exempt))
        self._is_open = False
        self._warned: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_first(scope):
            await self._request(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _Lifespan(self, send, receive).run(scope)
        else:
            await self.app(scope, receive, send)

    def _is_first(self, scope: Scope) -> bool:
        """True once per request and meter, however often the middleware is on an app and on what it mounts."""
        seen: tuple[Meter, ...] = scope.get(SEEN, ())
        if any(each is self.meter for each in seen):
            return False
        scope[SEEN] = (*seen, self.meter)
        return True

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = self._routes.resolve(scope)
        dispatched_before = scope.get("endpoint")
        if match.is_metered:
            admitted = await self._admit(scope, match)
            if isinstance(admitted, Problem):
                await admitted.send(scope, send)
                return
            await _Exchange(self, scope, send, admitted).run(receive)
        elif match.kind is Kind.EXEMPT:
            await _Exchange(self, scope, send, None).run(receive)
        else:
            await self.app(scope, receive, send)
        self._confirm(match, scope.get("endpoint"), dispatched_before)

    async def _admit(self, scope: Scope, match: RouteMatch) -> Bound | Problem | None:
        """Take what the route costs: for whom the request runs, or the answer to give instead.

        A route that costs nothing is open to callers without a tenant, since nobody pays for them.
        """
        tenant = await tenants.resolve(self._tenant, scope)
        if not match.wishes:
            return None if tenant is None else Bound(tenant)
        try:
            if tenant is None:
                raise UnknownTenant
            if not self._is_open:
                await self.open()
            admission = await self.meter.take(tenant, match.wishes)
        except UnknownTenant:
            return responses.tenant_unknown(scope, tenants.challenge_of(self._tenant))
        except StoreUnavailable:
            return responses.unavailable(scope)
        if admission.allowed:
            return Bound(tenant, admission)
        return responses.refused(admission.decisions, scope, now=self.meter.clock.now())

    def _confirm(self, match: RouteMatch, endpoint: object, before: object) -> None:
        """Compare with what was dispatched: a route we misread may go unmetered, so it leaves a line in the log."""
        if endpoint is None or endpoint is before or endpoint is match.endpoint:
            return
        if match.kind not in (Kind.ROUTE, Kind.NOT_FOUND) or never_metered(endpoint) or routes_of(endpoint):
            return  # the last is a mounted app that has no such route
        name = getattr(endpoint, "__qualname__", type(endpoint).__name__)
        if name not in self._warned and len(self._warned) < WARNINGS_AT_MOST:
            self._warned.add(name)
            log.warning("metered as %s %s, but served by %s; please report the app's routes", *match[:2], name)

    def check(self) -> None:
        """CatalogueError if the catalogue and the app's routes do not fit."""
        self._routes.table()

    async def open(self) -> None:
        await self.meter.startup()
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        await self.reversals.settle()
        await self.meter.shutdown()


class _Exchange:
    """One request under way: headers on its answer, and the end of what it took."""

    __slots__ = ("_bound", "_is_started", "_middleware", "_scope", "_send")

    def __init__(self, middleware: MeteringMiddleware, scope: Scope, send: Send, bound: Bound | None) -> None:
        self._middleware = middleware
        self._scope = scope
        self._send = send
        self._bound = bound
        self._is_started = False

    async def run(self, receive: Receive) -> None:
        """Serve the request. What fails before its answer begins is taken back; our errors become answers."""
        token = enter(self._bound) if self._bound else None
        try:
            await self._middleware.app(self._scope, receive, self.send)
            if not self._is_started:
                await self._take_back()
        except (Exception, asyncio.CancelledError) as error:
            if self._is_started:
                raise
            await self._take_back()
            if (problem := self._problem(error)) is None:
                raise
            await problem.send(self._scope, self._send)
        finally:
            if token:
                leave(token)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = await self._begin(message)
        await self._send(message)

    async def _begin(self, message: Message) -> Message:
        status: int = message["status"]
        is_taken_back = status >= 400 and await self._ends_in_error(status)
        added = [] if is_taken_back else self._headers(status)
        self._is_started = True
        return {**message, "headers": [*message.get("headers", ()), *added]} if added else message

    async def _ends_in_error(self, status: int) -> bool:
        """Take back what must not count (C2, C3), before the client can know.

        Starlette answers for an exception while it handles it. A mounted app makes a 500 of ours that way, and hands
        it on only afterwards: it is raised here, so that it gets its own answer. A host's own handler keeps its.
        """
        error = sys.exc_info()[1]
        if status == 500 and isinstance(error, Refused | StoreUnavailable):
            raise error
        if status < 500 and status not in (401, 403) and not _stems_from_refusal(error):
            return False
        await self._take_back()
        return True

    def _headers(self, status: int) -> responses.RawHeaders:
        admission = self._bound.admission if self._bound else None
        if admission is None:
            return []
        if admission.degraded:
            return [responses.DEGRADED]
        if 300 <= status < 400 or not self._middleware.shows_headers:
            return []
        return responses.rate_limit_headers(admission.decisions, self._middleware.meter.clock.now())

    async def _take_back(self) -> None:
        if self._bound:
            await self._middleware.reversals.take_back(self._bound)

    def _problem(self, error: BaseException) -> Problem | None:
        match error:
            case Refused(decision=decision):
                now = self._middleware.meter.clock.now()
                return responses.refused((decision,), self._scope, now=now, message=str(error))
            case StoreUnavailable():
                return responses.unavailable(self._scope)
            case _:
                return None


def _stems_from_refusal(error: BaseException | None) -> bool:
    """Whether the error that is being answered is a refusal, or was raised while one was handled."""
    for _ in range(CAUSES_AT_MOST):
        if error is None or isinstance(error, Refused):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, Refused)


class _Reversals:
    """Reversals under way. They outlive the request's own task, which is cancelled when its client goes away."""

    def __init__(self, meter: Meter) -> None:
        self.failed = 0
        self._meter = meter
        self._running: set[asyncio.Task[None]] = set()

    async def take_back(self, bound: Bound) -> None:
        """Reverse all that was taken; done when this returns, unless it is cancelled. Errors are logged, not raised."""
        taken, bound.taken = bound.taken, []
        if not taken:
            return
        task = asyncio.create_task(self._reverse(taken))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for the reversals of this event loop."""
        loop = asyncio.get_running_loop()
        if running := [task for task in self._running if task.get_loop() is loop]:
            await asyncio.wait(running, timeout=SETTLE_S)

    async def _reverse(self, taken: Sequence[Admission]) -> None:
        for admission in taken:
            try:
                await self._meter.reverse(admission)
            except Exception:
                self.failed += 1
                log.exception("a failed request stays counted: it could not be taken back")


class _Lifespan:
    """The app's lifespan with ours around it: open before it starts, close after it has stopped."""

    def __init__(self, middleware: MeteringMiddleware, send: Send, receive: Receive) -> None:
        self._middleware = middleware
        self._send = send
        self._receive = receive
        self._first: Message | None = None
        self._failure: Exception | None = None
        self._is_closed = False

    async def run(self, scope: Scope) -> None:
        self._first = await self._receive()
        try:
            await self._middleware.open()
        except Exception as error:
            await self._send(_failed("startup", error))
            raise
        try:
            await self._middleware.app(scope, self.receive, self.send)
        finally:
            if not self._is_closed:
                await self._middleware.close()

    async def receive(self) -> Message:
        first, self._first = self._first, None
        return first or await self._receive()

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._check()
            case "lifespan.startup.failed" if self._failure:
                message = _failed("startup", self._failure)
            case "lifespan.shutdown.complete":
                message = await self._close() or message
        await self._send(message)

    def _check(self) -> None:
        """The routes are known only now, since an app may add some while it starts. Raising ends its own lifespan."""
        try:
            self._middleware.check()
        except MeteringError as error:
            self._failure = error
            raise

    async def _close(self) -> Message | None:
        self._is_closed = True
        try:
            await self._middleware.close()
        except MeteringError as error:
            return _failed("shutdown", error)
        return None


def _failed(phase: str, error: Exception) -> Message:
    """The server logs this message: one line, without a traceback."""
    return {"type": f"lifespan.{phase}.failed", "message": f"mm_metering: {' '.join(str(error).split())}"}


def _paths(exempt: Iterable[str]) -> tuple[str, ...]:
    paths = (exempt,) if isinstance(exempt, str) else tuple(exempt)
    for path in paths:
        if not path.startswith("/"):
            raise InvalidInput("exempt", f'{path!r} is not a path; write "/{path}"')
    return paths


def _shows_headers(style: HeaderStyle) -> bool:
    if style not in ("standard", "off"):
        raise InvalidInput("headers", f'{style!r} is not a style; choose "standard" or "off"')
    return style == "standard"
