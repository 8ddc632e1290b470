"""The lines of a route table: each says whether a path is its own, as the framework would."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import Scope

from mm_metering.middleware.matches import EXEMPT, METHODS, NOT_FOUND, WEBSOCKET, Costs, Kind, RouteMatch


class Request(NamedTuple):
    """What patterns are matched against. ``root`` is the part of the path that mounts have taken off already."""

    method: str
    path: str
    root: str
    scope: Scope | None

    def below(self, taken: str) -> Request:
        return self._replace(root=self.root + taken)


class Entry(Protocol):
    """One line of the table. ``is_final``: what it finds ends the walk, even a 405."""

    is_final: bool

    def find(self, request: Request, path: str) -> RouteMatch | None: ...


Entries: TypeAlias = tuple[Entry, ...]


def walk(entries: Iterable[Entry], request: Request) -> RouteMatch:
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


def route_path(path: str, root: str) -> str:
    """The part of the path that routes are matched against, by Starlette's rule."""
    if not root or not path.startswith(root):
        return path
    if path == root:
        return ""
    return path[len(root) :] if path[len(root)] == "/" else path


class Leaf:
    """A route. ``fixed``: it serves one path only, the template itself. Requests and websockets do not see each
    other's routes."""

    is_final = False

    def __init__(self, regex: re.Pattern[str], literal: str, *, fixed: bool, is_websocket: bool) -> None:
        self.fixed = fixed
        self._is_websocket = is_websocket
        self.matches: dict[str, RouteMatch] = {}
        self.otherwise: RouteMatch = RouteMatch(Kind.METHOD_NOT_ALLOWED)
        self._match = regex.match
        self._literal = literal

    def find(self, request: Request, path: str) -> RouteMatch | None:
        if (request.method == WEBSOCKET) is not self._is_websocket:
            return None
        if path.startswith(self._literal) and self._match(path):
            return self.matches.get(request.method, self.otherwise)
        return None


class Branch:
    """A mount. Its children see what is left of the path; without children its app is one bucket."""

    is_final = True

    def __init__(self, regex: re.Pattern[str], children: Entries | None, opaque: Entry) -> None:
        self._match = regex.match
        self._children = children
        self._opaque = opaque

    def find(self, request: Request, path: str) -> RouteMatch | None:
        found = self._match(path)
        if found is None:
            return None
        if self._children is None:
            return self._opaque.find(request, path)
        rest = "/" + found["path"]
        return walk(self._children, request.below(path[: -len(rest)]))


class HostBranch(Branch):
    """A host. It depends on a header, so nothing under it can be looked up by its path alone."""

    def find(self, request: Request, path: str) -> RouteMatch | None:
        if request.scope is None or not self._match(_host(request.scope)):
            return None
        return self._opaque.find(request, path) if self._children is None else walk(self._children, request)


class Custom:
    """A route of a class we do not know: it is asked itself."""

    is_final = False

    def __init__(self, route: BaseRoute, costs: Costs, template: str) -> None:
        self._route = route
        self._costs = costs
        self._template = template

    def find(self, request: Request, path: str) -> RouteMatch | None:
        if request.scope is None:
            return None
        scope = {**request.scope, "root_path": request.scope.get("root_path", "") + request.root}
        match, child = self._route.matches(scope)
        if match is Match.NONE:
            return None
        if match is Match.PARTIAL:
            return RouteMatch(Kind.METHOD_NOT_ALLOWED)
        return self._costs.match(Kind.ROUTE, request.method, self._template, child.get("endpoint"))


class Opaque:
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

    def find(self, request: Request, path: str) -> RouteMatch | None:
        template = next((known for known, regex in self._of(request.method) if regex.match(request.path)), None)
        key = (request.method if request.method in METHODS else "", template or self._template)
        if key not in self._found:
            self._found[key] = self._costs.match(Kind.ROUTE if template else Kind.MOUNT, *key)
        return self._found[key]

    def _of(self, method: str) -> Iterator[tuple[str, re.Pattern[str]]]:
        wanted = (method, "GET") if method == "HEAD" else (method,)
        return ((template, regex) for each, template, regex in self._known if each in wanted)


class Free:
    """An exempt mount."""

    is_final = True

    def find(self, request: Request, path: str) -> RouteMatch | None:
        return EXEMPT


def _host(scope: Scope) -> str:
    """The host as Starlette matches it: lower case, without the port; IPv6 addresses in brackets."""
    host = Headers(scope=scope).get("host", "").lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
