"""The middleware: tenant, route, one take, the app, and what its answer means for what was taken.

Pure ASGI: no task per request and no buffering; the first byte leaves when the app sends it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mm_metering.errors import InvalidInput, MeteringError
from mm_metering.gate.context import Meter
from mm_metering.middleware import openapi, tenants
from mm_metering.middleware.aftermath import Aftermath
from mm_metering.middleware.answers import Answers
from mm_metering.middleware.callers import Callers
from mm_metering.middleware.doctor import Notes
from mm_metering.middleware.exchange import Exchange, answer
from mm_metering.middleware.lifespan import Lifespan
from mm_metering.middleware.matches import Kind, RouteMatch
from mm_metering.middleware.reading import never_metered, routes_of
from mm_metering.middleware.routes import Resolver
from mm_metering.middleware.shapes import HeaderStyle, Shape, Style

log: Final = logging.getLogger("mm_metering.middleware")

SEEN: Final = "mm_metering.seen"
"""Scope key: the meters that have looked at this request already, so that none counts it twice."""


class Metered(Meter, Protocol):
    """What the middleware needs of a Metering."""

    @property
    def summary(self) -> str:
        """One line for the startup log: the stores, the plans."""
        ...

    @property
    def notes(self) -> Notes:
        """Where to say what the host should mend."""
        ...

    @property
    def callers(self) -> Callers:
        """Its middlewares, for a test that says who calls."""
        ...

    async def startup(self) -> None:
        """Opens what a take needs. May be called again, also at once: it opens once. Raises MeteringError."""
        ...

    async def shutdown(self) -> None:
        """Writes down what is acknowledged and closes. May be called again."""
        ...


def install(
    app: Any,
    *,
    metering: Metered,
    tenant: tenants.Resolver | None,
    exempt: Iterable[str] = (),
    headers: HeaderStyle = "standard",
    error_shapes: Mapping[str, Shape] | None = None,
) -> Resolver:
    """Add the middleware to a Starlette or FastAPI app as the innermost one, whatever the order of calls.

    CORS, authentication and sessions are then always outside: they answer preflights, know the user, and their
    headers are on our refusals. A FastAPI app's OpenAPI says what each operation costs and which refusals it gives.
    Answers with the app's routes, for a check-up.
    """
    if not hasattr(app, "user_middleware"):
        raise MeteringError(f"install: {type(app).__name__} is no Starlette app; wrap it: MeteringMiddleware(app, ...)")
    if app.middleware_stack is not None:
        raise MeteringError("install: the app has served requests already; install before it starts")
    options: dict[str, Any] = {
        "metering": metering,
        "tenant": tenant,
        "exempt": exempt,
        "headers": headers,
        "error_shapes": error_shapes,
    }
    style = Style(headers, error_shapes or {})
    app.user_middleware.append(Middleware(MeteringMiddleware, **options))
    routes = Resolver(app.router, lambda: metering.catalogue, _paths(exempt), metering.notes.met)
    if hasattr(app, "openapi"):
        _document(app, routes, style)
    return routes


def _document(app: Any, routes: Resolver, style: Style) -> None:
    """Let the app's own ``openapi()`` say what operations cost."""
    plain = app.openapi

    def openapi_with_costs() -> dict[str, Any]:
        schema: dict[str, Any] = openapi.document(plain(), routes.table().costs_of, style=style)
        return schema

    app.openapi = openapi_with_costs


class MeteringMiddleware:
    """Meters every request of an ASGI app: refuses what does not fit, and takes back what must not count (C1-C3).

    tenant        who calls: a resolver such as ``from_header("x-org-id")``; None where a dependency says it later by
                  ``metering.identify(tenant)``, which then decides
    exempt        paths, route templates or mounts that are not metered
    headers       "standard" (RateLimit fields), "legacy" (X-RateLimit-*), "both" or "off"
    error_shapes  path prefix → "openai" or "anthropic", whose clients then understand a refusal
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metering: Metered,
        tenant: tenants.Resolver | None,
        exempt: Iterable[str] = (),
        headers: HeaderStyle = "standard",
        error_shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        self.app = app
        self.meter = metering
        self.answers: Answers = Answers(
            metering, metering.notes, Style(headers, error_shapes or {}), tenants.challenge_of(tenant)
        )
        self.later: Aftermath = Aftermath(metering)
        self.routes: Resolver = Resolver(app, lambda: metering.catalogue, _paths(exempt), metering.notes.met)
        self.tenant = tenant
        metering.callers.join(self)
        self._alone = (metering,)
        self.is_open: bool = False
        self._free = frozenset((*metering.catalogue.exempt, *_paths(exempt)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Lifespan(self, send, receive).run(scope)
        elif scope["path"] in self._free:
            scope[SEEN] = (*scope.get(SEEN, ()), self.meter)
            try:
                await self.app(scope, receive, send)
            except MeteringError as error:
                await self._answer(error, scope, send)
        elif self._is_first(scope):
            before, match = scope.get("endpoint"), self.routes.resolve(scope)
            if match.is_metered:
                await Exchange(self, match, scope, send).run(receive)
            else:
                await self._pass(scope, receive, send)
            endpoint = scope.get("endpoint")
            if endpoint is not match.endpoint and endpoint is not before:
                self._confirm(match, endpoint)
        else:
            await self.app(scope, receive, send)

    def _is_first(self, scope: Scope) -> bool:
        """True once per request and meter, however often the middleware is on an app and on what it mounts."""
        seen: tuple[Meter, ...] | None = scope.get(SEEN)
        if seen is None:
            scope[SEEN] = self._alone
            return True
        if any(each is self.meter for each in seen):
            return False
        scope[SEEN] = (*seen, self.meter)
        return True

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except MeteringError as error:
            await self._answer(error, scope, send)

    async def _answer(self, error: MeteringError, scope: Scope, send: Send) -> None:
        """Where nothing is metered the app may still ask for limits itself, and a refusal of those gets its answer; one
        that comes after the first byte finds the server refusing a second answer."""
        problem = self.answers.to(error, scope)
        if problem is None:
            raise error
        await answer(problem, scope, send)

    def _confirm(self, match: RouteMatch, endpoint: object) -> None:
        """Something else was dispatched: a route we misread may go unmetered, so it leaves a line in the log."""
        if endpoint is None or match.kind not in (Kind.ROUTE, Kind.NOT_FOUND):
            return
        if never_metered(endpoint) or routes_of(endpoint):  # the second is a mounted app that has no such route
            return
        name = getattr(endpoint, "__qualname__", type(endpoint).__name__)
        self.answers.notes.note(
            "misread", f"metered as {match.template}, but served by {name}; please report the app's routes"
        )

    def check(self) -> None:
        """CatalogueError if the catalogue and the app's routes do not fit. Logs what each route costs."""
        table = self.routes.table()
        log.info("%s\n%s", self.meter.summary, "\n".join(f"  {line}" for line in table.lines()))

    async def open(self) -> None:
        await self.meter.startup()
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False
        await self.later.settle()
        await self.meter.shutdown()


def _paths(exempt: Iterable[str]) -> tuple[str, ...]:
    paths = (exempt,) if isinstance(exempt, str) else tuple(exempt)
    for path in paths:
        if not path.startswith("/"):
            raise InvalidInput("exempt", f'{path!r} is not a path; write "/{path}"')
    return paths
