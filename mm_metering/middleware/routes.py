"""Which route a request will meet, told before it is dispatched, and what that route costs.

The table repeats Starlette's own walk: the same patterns, in the same order, through mounts, hosts and FastAPI's
included routers. ``scope["route"]`` would be simpler, but it exists only after dispatch, and it lacks the prefixes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from types import FunctionType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from starlette.datastructures import Headers
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Match, Mount, Route, WebSocketRoute, compile_path
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.schema import suggestion, unknown
from mm_metering.errors import CatalogueError
from mm_metering.gate.admission import Wish
from mm_metering.gate.context import Asking, Mark, marks_of, taken_when_called
from mm_metering.gate.tenants import counted_meters

UNMATCHED: Final = "(unmatched)"
"""The resource of all that an app serves whose routes cannot be read: one bucket, never raw paths (I2)."""
BASE_METER: Final = "api_calls"
BASE_EVENT: Final = "api_call"
WEBSOCKET: Final = "WEBSOCKET"
"""The method of a websocket's handshake, in [routes] too: "WEBSOCKET /chat"."""

_HTTP = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
_METHODS = (*_HTTP, WEBSOCKET)
_DEPTH_AT_MOST = 32
_SHOWN_ROUTES = 20
_PARAMETER = re.compile(r"\{\w+\}")
_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_OURS = "mm_metering."
_DOCS = "fastapi."
"""The modules of endpoints that cost nothing: what we serve ourselves, and FastAPI's docs and openapi.json."""


class Kind(StrEnum):
    """What a request meets. Only routes and mounts are taken."""

    ROUTE = "route"
    MOUNT = "mount"  # an app whose routes cannot be read
    EXEMPT = "exempt"
    PREFLIGHT = "preflight"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"


class RouteMatch(NamedTuple):
    """What a request meets, and the wishes of its one take; none where nothing is to be counted.

    ``joined``: the marks among them that the endpoint's own call would take. ``measured``: what is known only when the
    response was sent, each without its quantity.
    """

    kind: Kind
    template: str = UNMATCHED
    endpoint: object = None
    wishes: tuple[Wish, ...] = ()
    joined: tuple[Mark, ...] = ()
    measured: tuple[Wish, ...] = ()

    @property
    def is_guess(self) -> bool:
        """Whether the app may well have no such route: it cannot be read, and no key of [routes] matches."""
        return self.kind is Kind.MOUNT and self.template == UNMATCHED


METERED: Final = frozenset((Kind.ROUTE, Kind.MOUNT))
NOT_FOUND: Final = RouteMatch(Kind.NOT_FOUND)
EXEMPT: Final = RouteMatch(Kind.EXEMPT)
PREFLIGHT: Final = RouteMatch(Kind.PREFLIGHT)


class Resolver:
    """The routes of an app, read at the first request and again whenever their number changes."""

    def __init__(self, app: ASGIApp, catalogue: Callable[[], Catalogue], exempt: Iterable[str] = ()) -> None:
        self._app = app
        self._catalogue = catalogue
        self._exempt = tuple(exempt)
        self._table: Table | None = None

    def resolve(self, scope: Scope) -> RouteMatch:
        method: str = scope.get("method", WEBSOCKET)
        if method == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            return PREFLIGHT
        return self.table().find(method, route_path(scope["path"], scope.get("root_path", "")), scope)

    def table(self) -> Table:
        """The table as of now. The first one is checked against the catalogue: CatalogueError for what is wrong."""
        if self._table is None:
            table = self._read()
            check(self._catalogue(), table)
            self._table = table
        elif self._table.is_stale():
            self._table = self._read()
        return self._table

    def _read(self) -> Table:
        catalogue = self._catalogue()
        return Table(self._app, Costs(catalogue), frozenset((*catalogue.exempt, *self._exempt)))


def route_path(path: str, root: str) -> str:
    """The part of the path that routes are matched against, by Starlette's rule."""
    if not root or not path.startswith(root):
        return path
    if path == root:
        return ""
    return path[len(root) :] if path[len(root)] == "/" else path


# ---- what a route costs ----


class Costs:
    """C2: one api_call, merged with the route's entry under [routes], plus the marks of its endpoint."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._routes = {plain_key(key): entry for key, entry in catalogue.routes.items()}

    @property
    def keys(self) -> Iterable[str]:
        """The keys of [routes], as templates are written."""
        return self._routes.keys()

    def by_meter(self, wishes: Iterable[Wish]) -> dict[str, int]:
        """What wishes come to in each meter, as the decision counts them."""
        total: dict[str, int] = {}
        for wish in wishes:
            for meter in counted_meters(self._catalogue, wish):
                total[meter.name] = total.get(meter.name, 0) + wish.quantity
        return total

    def __call__(self, method: str, template: str, marks: Iterable[Mark] = ()) -> tuple[Wish, ...]:
        costs = {BASE_METER: 1, **self._entry(method, template)}
        base = costs.pop(BASE_METER)
        wishes = [Wish(BASE_EVENT, template, base)] if base else []
        wishes += [Wish("", template, quantity, meter=meter) for meter, quantity in costs.items() if quantity]
        fixed = [each for each in marks if isinstance(each.quantity, int)]
        wishes += [Wish(each.event_type, each.resource or template, int(each.quantity)) for each in fixed]
        return tuple(wishes)

    def match(self, kind: Kind, method: str, template: str, endpoint: object = None) -> RouteMatch:
        """All that is known of a request to this endpoint beforehand."""
        marks = _marks(endpoint, method)
        handler = _handler(endpoint, method) if isinstance(endpoint, type) else endpoint
        measured = tuple(
            Wish(each.event_type, each.resource or template, 0) for each in marks if not isinstance(each.quantity, int)
        )
        wishes = self(method, template, marks)
        joined = tuple(each for each in taken_when_called(handler) if any(each is known for known in marks))
        return RouteMatch(kind, template, endpoint, wishes, joined, measured)

    def _entry(self, method: str, template: str) -> Mapping[str, int]:
        found = self._routes.get(f"{method} {template}")
        if found is None and method == "HEAD":
            found = self._routes.get(f"GET {template}")
        return found or {}


def plain_key(key: str) -> str:
    """A key of [routes] as templates are written: "GET /orders/{id:int}" is "GET /orders/{id}"."""
    return _CONVERTER.sub(r"{\1}", key)


def check(catalogue: Catalogue, table: Table) -> None:
    """CatalogueError for a [routes] key that no route has, and for a mark that counts in no meter."""
    for key in catalogue.routes:
        if not table.has_route(plain_key(key)):
            known = table.known()
            listed = ", ".join(known[:_SHOWN_ROUTES]) + (", …" if len(known) > _SHOWN_ROUTES else "") or "none"
            raise CatalogueError(f'[routes] "{key}" matches no route{suggestion(key, known)}; known routes: {listed}')
    events = {meter.event for meter in catalogue.meters.values() if meter.event}
    for place, mark in table.marked:
        if not catalogue.meters_of(mark.event_type, mark.resource):
            hint = suggestion(mark.event_type, events) or f"; its meters count {', '.join(sorted(events))}"
            raise CatalogueError(f'@metered("{mark.event_type}") on {place} counts in no meter of the catalogue{hint}')
    for (method, template), route in table.listed.items():
        for wish in route.asked:
            if wish.meter not in catalogue.meters:
                hint = unknown("meter", wish.meter, catalogue.meters)
                raise CatalogueError(f"Depends(quota(...)) on {method} {template}: {hint}")


# ---- the table ----


class _Request(NamedTuple):
    """What patterns are matched against. ``root`` is the part of the path that mounts have taken off already."""

    method: str
    path: str
    root: str
    scope: Scope | None

    def below(self, taken: str) -> _Request:
        return self._replace(root=self.root + taken)


class _Entry(Protocol):
    """One line of the table. ``is_final``: what it finds ends the walk, even a 405."""

    is_final: bool

    def find(self, request: _Request, path: str) -> RouteMatch | None: ...


_Entries: TypeAlias = tuple[_Entry, ...]


class Table:
    """All routes of an app in the order of dispatch. Paths without parameters are looked up, others matched."""

    def __init__(self, app: ASGIApp, costs: Costs, exempt: frozenset[str]) -> None:
        self.marked: list[tuple[str, Mark]] = []
        self._exempt = exempt
        self._methods_of: dict[str, set[str] | None] = {}
        self._costs = costs
        reader = _Reader(costs, exempt, self._methods_of, self.marked)
        entries = reader.entries(app, "", exempt=False)
        self._entries: _Entries = (reader.opaque(UNMATCHED, ""),) if entries is None else entries
        self.listed = reader.listed
        self._is_conditional = reader.is_conditional
        self._lists = reader.lists
        self._lengths = [len(each) for each in self._lists]
        paths = set() if reader.is_conditional else {*reader.paths, *exempt}
        self._fixed = {path: self._all_methods(path) for path in paths}
        self._varying = tuple(each for each in self._entries if not (paths and isinstance(each, _Leaf) and each.fixed))

    def is_stale(self) -> bool:
        return [*map(len, self._lists)] != self._lengths

    def has_route(self, key: str) -> bool:
        method, _, template = key.partition(" ")
        methods = self._methods_of.get(template, set())
        return methods is None or method in methods or (method == "HEAD" and "GET" in methods)

    def known(self) -> list[str]:
        """ "METHOD /template" of every route, in order; HEAD is not told apart from GET."""
        return [
            f"{method} {template}"
            for template, methods in self._methods_of.items()
            for method in (sorted(methods - {"HEAD"} or methods) if methods is not None else ["ANY"])
        ]

    def costs_of(self, method: str, template: str) -> dict[str, int]:
        """What a request to this route uses of each meter, with the quotas its dependencies ask for; {} for nothing."""
        listed = self.listed.get((method.upper(), template))
        return {} if listed is None else self._costs.by_meter((*listed.match.wishes, *listed.asked))

    def lines(self) -> Iterator[str]:
        """What each route costs, for people to read; the exempt ones last."""
        exempt = []
        for (method, template), listed in self.listed.items():
            costs = self.costs_of(method, template)
            if listed.match.kind is Kind.EXEMPT:
                exempt.append(template)
            elif method != "HEAD":
                shown = " ".join(f"{meter}={n}" for meter, n in costs.items()) or "nothing"
                yield f"metered  {method:9} {template}   {shown}"
        if paths := sorted({*exempt, *self._exempt}):
            yield f"exempt   {' '.join(paths[:_SHOWN_ROUTES])}{' …' if len(paths) > _SHOWN_ROUTES else ''}"

    def shadowed(self) -> Iterator[tuple[str, str]]:
        """Each route that no request reaches, with the one that comes before it. Hosts and routes that are asked
        themselves are not looked at: what they serve is told by more than the path."""
        for (method, template), listed in self.listed.items() if not self._is_conditional else ():
            if method == "HEAD" or not listed.sample:
                continue
            found = _walk(self._entries, _Request(method, listed.sample, "", None))
            if found != listed.match:
                yield f"{method} {template}", f"{method} {found.template}"

    def find(self, method: str, path: str, scope: Scope) -> RouteMatch:
        fixed = self._fixed.get(path)
        found = fixed.get(method) if fixed is not None else None
        return self._search(method, path, scope, known=fixed is not None) if found is None else found

    def _all_methods(self, path: str) -> dict[str, RouteMatch]:
        if path in self._exempt:
            return dict.fromkeys(_METHODS, EXEMPT)
        anything = _Request("", path, "", None)
        either = (anything, anything._replace(method=WEBSOCKET))
        there = [each for each in self._entries if any(each.find(request, path) for request in either)]
        return {method: _walk(there, anything._replace(method=method)) for method in _METHODS}

    def _search(self, method: str, path: str, scope: Scope, *, known: bool) -> RouteMatch:
        if path in self._exempt:
            return EXEMPT
        # "$" in a pattern also matches before a final newline, so /x%0A is served by the route /x
        entries = self._entries if known or path.endswith("\n") else self._varying
        return _walk(entries, _Request(method, path, "", scope))


def _walk(entries: Iterable[_Entry], request: _Request) -> RouteMatch:
    partial_match = None
    path = route_path(request.path, request.root)
    for entry in entries:
        found = entry.find(request, path)
        if found is None:
            continue
        if entry.is_final or found.kind is not Kind.METHOD_NOT_ALLOWED:
            return found
        partial_match = partial_match or found
    return partial_match or NOT_FOUND


class _Leaf:
    """A route. ``fixed``: it serves one path only, the template itself. Requests and websockets do not see each
    other's routes."""

    is_final = False

    def __init__(self, regex: re.Pattern[str], literal: str, *, fixed: bool, is_websocket: bool) -> None:
        self.fixed = fixed
        self._is_websocket = is_websocket
        self.matches: dict[str, RouteMatch] = {}
        self.otherwise = RouteMatch(Kind.METHOD_NOT_ALLOWED)
        self._match = regex.match
        self._literal = literal

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        if (request.method == WEBSOCKET) is not self._is_websocket:
            return None
        if path.startswith(self._literal) and self._match(path):
            return self.matches.get(request.method, self.otherwise)
        return None


class _Branch:
    """A mount. Its children see what is left of the path; without children its app is one bucket."""

    is_final = True

    def __init__(self, regex: re.Pattern[str], children: _Entries | None, opaque: _Entry) -> None:
        self._match = regex.match
        self._children = children
        self._opaque = opaque

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        found = self._match(path)
        if found is None:
            return None
        if self._children is None:
            return self._opaque.find(request, path)
        rest = "/" + found["path"]
        return _walk(self._children, request.below(path[: -len(rest)]))


class _HostBranch:
    """A host. It depends on a header, so nothing under it can be looked up by its path alone."""

    is_final = True

    def __init__(self, regex: re.Pattern[str], children: _Entries | None, opaque: _Entry) -> None:
        self._match = regex.match
        self._children = children
        self._opaque = opaque

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        if request.scope is None or not self._match(_host(request.scope)):
            return None
        return self._opaque.find(request, path) if self._children is None else _walk(self._children, request)


class _Custom:
    """A route of a class we do not know: it is asked itself."""

    is_final = False

    def __init__(self, route: BaseRoute, costs: Costs, template: str) -> None:
        self._route = route
        self._costs = costs
        self._template = template

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        if request.scope is None:
            return None
        scope = {**request.scope, "root_path": request.scope.get("root_path", "") + request.root}
        match, child = self._route.matches(scope)
        if match is Match.NONE:
            return None
        if match is Match.PARTIAL:
            return RouteMatch(Kind.METHOD_NOT_ALLOWED)
        return self._costs.match(Kind.ROUTE, request.method, self._template, child.get("endpoint"))


class _Opaque:
    """An app whose routes cannot be read. The keys of [routes] are the templates that are known of it; all else is
    one bucket."""

    is_final = True

    def __init__(self, costs: Costs, template: str, keys: Iterable[str]) -> None:
        self._known = [
            (method, path, compile_path(path)[0]) for method, _, path in (key.partition(" ") for key in keys)
        ]
        self._costs = costs
        self._template = template
        self._found: dict[tuple[str, str], RouteMatch] = {}

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        template = next((known for known, regex in self._of(request.method) if regex.match(request.path)), None)
        key = (request.method if request.method in _METHODS else "", template or self._template)
        if key not in self._found:
            self._found[key] = self._costs.match(Kind.ROUTE if template else Kind.MOUNT, *key)
        return self._found[key]

    def _of(self, method: str) -> Iterator[tuple[str, re.Pattern[str]]]:
        wanted = (method, "GET") if method == "HEAD" else (method,)
        return ((template, regex) for each, template, regex in self._known if each in wanted)


class _Free:
    """An exempt mount."""

    is_final = True

    def find(self, request: _Request, path: str) -> RouteMatch | None:
        return EXEMPT


# ---- reading an app's routes ----


class _Listed(NamedTuple):
    """A route as people are told of it: its match, what its dependencies ask for besides, and a path that it serves
    if no earlier route does."""

    match: RouteMatch
    asked: tuple[Wish, ...] = ()
    sample: str = ""


class _Reader:
    """Walks an app once. It notes the lists it read, so that a change is seen, and the paths without parameters."""

    def __init__(
        self,
        costs: Costs,
        exempt: frozenset[str],
        methods_of: dict[str, set[str] | None],
        marked: list[tuple[str, Mark]],
    ) -> None:
        self.lists: list[Sequence[object]] = []
        self.listed: dict[tuple[str, str], _Listed] = {}
        self.paths: set[str] = set()
        self.is_conditional = False
        self._costs = costs
        self._exempt = exempt
        self._methods_of = methods_of
        self._marked = marked
        self._depth = 0

    def entries(self, app: object, prefix: str, *, exempt: bool) -> _Entries | None:
        """The table of an app; None if it is not made of routes, or mounts itself."""
        routes = routes_of(app)
        if routes is None or self._depth >= _DEPTH_AT_MOST:
            return None
        self._depth += 1
        self.lists += _lists(routes)
        found = [self._entry(route, prefix, exempt=exempt) for route in _flat(routes)]
        self._depth -= 1
        return tuple(each for each in found if each is not None)

    def _entry(self, route: Any, prefix: str, *, exempt: bool) -> _Entry | None:
        original = getattr(route, "original_route", route)
        if isinstance(original, Route):
            return self._leaf(route, prefix, exempt=exempt)
        if isinstance(original, Mount):
            return self._branch(route, prefix, exempt=exempt)
        if isinstance(original, Host):
            self.is_conditional = True
            children = self.entries(route.app, prefix, exempt=exempt)
            opaque = _Free() if exempt else self.opaque(self._known(prefix + "/{path}", None), prefix)
            return _HostBranch(route.host_regex, children, opaque)
        if isinstance(original, WebSocketRoute):
            return self._leaf(route, prefix, exempt=exempt)
        self.is_conditional = True
        return _Custom(original, self._costs, self._known(prefix + getattr(original, "path", UNMATCHED), None))

    def _leaf(self, route: Any, prefix: str, *, exempt: bool) -> _Leaf:
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
        leaf = _Leaf(regex, literal, fixed=is_plain and not parameters, is_websocket=is_websocket)
        if leaf.fixed and "{" not in prefix:
            self.paths.add(template)
        is_free = exempt or template in self._exempt or is_never
        asked = _asked(getattr(route, "dependant", None))
        sample = _PARAMETER.sub("x", prefix) + _sample(route.path, parameters) if is_plain else ""
        for method in methods or _HTTP:
            leaf.matches[method] = EXEMPT if is_free else self._priced(method, template, endpoint)
            self.listed.setdefault((method, template), _Listed(leaf.matches[method], asked, sample))
        if methods is None:
            leaf.otherwise = EXEMPT if is_free else self._priced("", template, endpoint)
        return leaf

    def _priced(self, method: str, template: str, endpoint: object) -> RouteMatch:
        self._marked += [(f"{method} {template}", mark) for mark in _marks(endpoint, method)]
        return self._costs.match(Kind.ROUTE, method, template, endpoint)

    def opaque(self, template: str, prefix: str) -> _Opaque:
        """An app that cannot be read, mounted at this prefix: what [routes] says below it is taken for true."""
        keys = [key for key in self._costs.keys if key.partition(" ")[2].startswith(prefix + "/")]
        for key in keys:
            method, _, known = key.partition(" ")
            self._known(known, [method])
            self.listed[method, known] = _Listed(self._costs.match(Kind.ROUTE, method, known))
        self.listed.setdefault(("ANY", template), _Listed(self._costs.match(Kind.MOUNT, "ANY", template)))
        return _Opaque(self._costs, template, keys)

    def _branch(self, mount: Any, prefix: str, *, exempt: bool) -> _Branch:
        below = prefix + compile_path(mount.path + "/{path:path}")[1].removesuffix("/{path}")
        is_free = exempt or below in self._exempt or never_metered(mount.app)
        children = self.entries(mount.app, below, exempt=is_free)
        if children is not None:
            return _Branch(mount.path_regex, children, _Free())
        opaque = _Free() if is_free else self.opaque(self._known(below + "/{path}", None), below)
        return _Branch(mount.path_regex, None, opaque)

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
    return [method for method in _METHODS if _handler(endpoint, method) is not None]


def _handler(endpoint: type, method: str) -> Any:
    found = getattr(endpoint, method.lower(), None)
    return getattr(endpoint, "get", None) if found is None and method == "HEAD" else found


def _marks(endpoint: Any, method: str) -> tuple[Mark, ...]:
    if isinstance(endpoint, type) and method:
        return (*marks_of(endpoint), *marks_of(_handler(endpoint, method)))
    return marks_of(endpoint)


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


def _host(scope: Scope) -> str:
    """The host as Starlette matches it: lower case, without the port; IPv6 addresses in brackets."""
    host = Headers(scope=scope).get("host", "").lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
