"""Reading an app's routes into a table: Starlette's own, through mounts, hosts and FastAPI's included routers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple
from uuid import UUID

from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Mount, Route, WebSocketRoute, compile_path
from starlette.staticfiles import StaticFiles

from mm_metering.gate.admission import Wish
from mm_metering.gate.context import Asking, Mark
from mm_metering.middleware.entries import Branch, Custom, Entries, Entry, Free, HostBranch, Leaf, Opaque
from mm_metering.middleware.matches import (
    EXEMPT,
    HTTP,
    METHODS,
    UNMATCHED,
    WEBSOCKET,
    Costs,
    Kind,
    RouteMatch,
    handler_of,
    marks_on,
    plain_key,
)

_DEPTH_AT_MOST = 32
_PARAMETER = re.compile(r"\{\w+\}")
_OURS = "mm_metering."
_DOCS = "fastapi."
"""The modules of endpoints that cost nothing: what we serve ourselves, and FastAPI's docs and openapi.json."""


class Listed(NamedTuple):
    """A route as people are told of it: its match, what its dependencies ask for besides, and a path that it serves
    if no earlier route does."""

    match: RouteMatch
    asked: tuple[Wish, ...] = ()
    sample: str = ""


class Reader:
    """Walks an app once. It notes the lists it read, so that a change is seen, and the paths without parameters."""

    def __init__(
        self,
        costs: Costs,
        exempt: frozenset[str],
        methods_of: dict[str, set[str] | None],
        marked: list[tuple[str, Mark]],
    ) -> None:
        self.lists: list[Sequence[object]] = []
        self.listed: dict[tuple[str, str], Listed] = {}
        self.paths: set[str] = set()
        self.is_conditional: bool = False
        self._costs = costs
        self._exempt = exempt
        self._methods_of = methods_of
        self._marked = marked
        self._depth = 0

    def entries(self, app: object, prefix: str, *, exempt: bool) -> Entries | None:
        """The table of an app; None if it is not made of routes, or mounts itself."""
        routes = routes_of(app)
        if routes is None or self._depth >= _DEPTH_AT_MOST:
            return None
        self._depth += 1
        self.lists += _lists(routes)
        found = [self._entry(route, prefix, exempt=exempt) for route in _flat(routes)]
        self._depth -= 1
        return tuple(each for each in found if each is not None)

    def _entry(self, route: Any, prefix: str, *, exempt: bool) -> Entry | None:
        original = getattr(route, "original_route", route)
        if isinstance(original, Route):
            return self._leaf(route, prefix, exempt=exempt)
        if isinstance(original, Mount):
            return self._branch(route, prefix, exempt=exempt)
        if isinstance(original, Host):
            self.is_conditional = True
            children = self.entries(route.app, prefix, exempt=exempt)
            opaque = Free() if exempt else self.opaque(self._known(prefix + "/{path}", None), prefix)
            return HostBranch(route.host_regex, children, opaque)
        if isinstance(original, WebSocketRoute):
            return self._leaf(route, prefix, exempt=exempt)
        self.is_conditional = True
        return Custom(original, self._costs, self._known(prefix + getattr(original, "path", UNMATCHED), None))

    def _leaf(self, route: Any, prefix: str, *, exempt: bool) -> Leaf:
        standard, template, parameters = compile_path(route.path)
        regex = getattr(route, "path_regex", None) or standard
        is_websocket = isinstance(getattr(route, "original_route", route), WebSocketRoute)
        endpoint, methods, is_plain = (
            route.endpoint,
            [WEBSOCKET] if is_websocket else _methods(route),
            regex == standard,
        )
        is_never = never_metered(endpoint)
        template = prefix + template if is_never else self._known(prefix + template, methods)
        literal = route.path.partition("{")[0] if is_plain else ""
        leaf = Leaf(regex, literal, fixed=is_plain and not parameters, is_websocket=is_websocket)
        if leaf.fixed and "{" not in prefix:
            self.paths.add(template)
        is_free = exempt or template in self._exempt or is_never
        asked = _asked(getattr(route, "dependant", None))
        sample = _PARAMETER.sub("x", prefix) + _sample(route.path, parameters) if is_plain else ""
        for method in methods or HTTP:
            leaf.matches[method] = EXEMPT if is_free else self._priced(method, template, endpoint)
            self.listed.setdefault((method, template), Listed(leaf.matches[method], asked, sample))
        if methods is None:
            leaf.otherwise = EXEMPT if is_free else self._priced("", template, endpoint)
        return leaf

    def _priced(self, method: str, template: str, endpoint: object) -> RouteMatch:
        self._marked += [(f"{method} {template}", mark) for mark in marks_on(endpoint, method)]
        return self._costs.match(Kind.ROUTE, method, template, endpoint)

    def opaque(self, template: str, prefix: str) -> Opaque:
        """An app that cannot be read, mounted at this prefix: what [routes] says below it is taken for true."""
        keys = [key for key in self._costs.keys if key.partition(" ")[2].startswith(prefix + "/")]
        for key in keys:
            method, _, known = key.partition(" ")
            self._known(known, [method])
            self.listed[method, known] = Listed(self._costs.match(Kind.ROUTE, method, known))
        self.listed.setdefault(("ANY", template), Listed(self._costs.match(Kind.MOUNT, "ANY", template)))
        return Opaque(self._costs, template, keys)

    def _branch(self, mount: Any, prefix: str, *, exempt: bool) -> Branch:
        below = prefix + compile_path(mount.path + "/{path:path}")[1].removesuffix("/{path}")
        is_free = exempt or below in self._exempt or never_metered(mount.app)
        children = self.entries(mount.app, below, exempt=is_free)
        if children is not None:
            return Branch(mount.path_regex, children, Free())
        opaque = Free() if is_free else self.opaque(self._known(below + "/{path}", None), below)
        return Branch(mount.path_regex, None, opaque)

    def _known(self, template: str, methods: Sequence[str] | None) -> str:
        before = self._methods_of.get(template, set())
        self._methods_of[template] = None if methods is None or before is None else {*before, *methods}
        return template


def routes_of(app: object) -> Sequence[BaseRoute] | None:
    """The routes of an app, also below middlewares that keep what they wrap in ``app``."""
    for node in _wrapped(app):
        routes = getattr(node, "routes", None)
        if isinstance(routes, Sequence) and all(isinstance(each, BaseRoute) for each in routes):
            return routes
    return None


def never_metered(endpoint: object) -> bool:
    """Docs, openapi.json, static files, and our own endpoints."""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    *_, innermost = _wrapped(endpoint)
    module = getattr(innermost, "__module__", None) or ""
    if isinstance(innermost, FunctionType) and module.startswith(_DOCS):
        return True
    return module.startswith(_OURS) or isinstance(innermost, StaticFiles)


def _wrapped(app: object) -> Iterator[object]:
    """The app and what it wraps, down to what has routes or wraps nothing."""
    yield app
    for _ in range(_DEPTH_AT_MOST):
        app = None if hasattr(app, "routes") else getattr(app, "app", None)
        if app is None:
            return
        yield app


def _flat(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    """The routes with those of included routers in their place: FastAPI's RouteContexts since 0.137, routes before.

    Until 0.149 the context of a route that is not FastAPI's own stands for it in part only; the whole one is beside.
    """
    flatten = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    for each in routes if flatten is None else flatten(routes):
        yield getattr(each, "starlette_route", None) or each


def _lists(routes: Sequence[Any], depth: int = 0) -> Iterator[Sequence[object]]:
    """The list and those of included routers, which FastAPI reads anew for each request."""
    yield routes
    for route in routes if depth < _DEPTH_AT_MOST else ():
        included = getattr(getattr(route, "original_router", None), "routes", None)
        if isinstance(included, Sequence):
            yield from _lists(included, depth + 1)


def _methods(route: Any) -> list[str] | None:
    """The methods of a route; None for any. Class-based endpoints say theirs by the names of their handlers."""
    if route.methods is not None:
        return sorted(route.methods)
    endpoint = route.endpoint
    if not (isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)):
        return None
    return [method for method in METHODS if handler_of(endpoint, method) is not None]


def _sample(path: str, parameters: Mapping[str, Any]) -> str:
    """A path that a route of this pattern serves."""
    samples = {"IntegerConvertor": "1", "FloatConvertor": "1.5", "UUIDConvertor": str(UUID(int=0))}
    values = {name: samples.get(type(each).__name__, "x") for name, each in parameters.items()}
    return _PARAMETER.sub(lambda found: values.get(found[0][1:-1], "x"), plain_key(path))


def _asked(dependant: Any, depth: int = 0) -> tuple[Wish, ...]:
    """What the dependencies of a FastAPI route ask for: ``Depends(quota(...))``, at any depth."""
    if dependant is None or depth >= _DEPTH_AT_MOST:
        return ()
    own = dependant.call.asks if isinstance(dependant.call, Asking) else ()
    below = (wish for each in dependant.dependencies for wish in _asked(each, depth + 1))
    return (*own, *below)
