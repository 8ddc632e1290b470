"""Which route a request will meet, told before it is dispatched, and what that route costs.

The table repeats Starlette's own walk: the same patterns, in the same order, through mounts, hosts and FastAPI's
included routers. ``scope["route"]`` would be simpler, but it exists only after dispatch, and it lacks the prefixes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from starlette.types import ASGIApp, Scope

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.schema import suggestion, unknown
from mm_metering.errors import CatalogueError
from mm_metering.gate.context import Mark
from mm_metering.middleware.entries import Entries, Leaf, Request, route_path, walk
from mm_metering.middleware.matches import (
    EXEMPT,
    METHODS,
    PREFLIGHT,
    UNMATCHED,
    WEBSOCKET,
    Costs,
    Kind,
    RouteMatch,
    plain_key,
)
from mm_metering.middleware.reading import Listed, Reader

log: Final = logging.getLogger("mm_metering.middleware")

_SHOWN_ROUTES = 20


class Resolver:
    """The routes of an app, read at the first request and again whenever their number changes. ``met`` is told each
    template."""

    def __init__(
        self,
        app: ASGIApp,
        catalogue: Callable[[], Catalogue],
        exempt: Iterable[str] = (),
        met: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._app = app
        self._met = met
        self._catalogue = catalogue
        self._exempt = tuple(exempt)
        self._table: Table | None = None

    def resolve(self, scope: Scope) -> RouteMatch:
        table = self._table
        if table is None or table.is_stale():
            table = self.table()
        method, path, root = scope.get("method", WEBSOCKET), scope["path"], scope.get("root_path")
        if method == "OPTIONS" and any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            return PREFLIGHT
        if not root:
            return table.find(method, path, scope)
        below = route_path(path, root)
        return table.find_beside(method, path, root, scope) if below == path else table.find(method, below, scope)

    def table(self) -> Table:
        """The table as of now. The first one is checked against the catalogue: CatalogueError for what is wrong."""
        if self._table is None:
            table = self._read()
            check(self._catalogue(), table)
            for path in set(self._exempt).intersection(table.unused_paths()):
                log.warning("exempt %s matches no route and no mount; `mm-metering routes` lists what there is", path)
            self._table = table
        elif self._table.is_stale():
            self._table = self._read()
        return self._table

    def unchecked(self) -> Table:
        """The table as of now, whatever is wrong with it."""
        return self._read()

    def _read(self) -> Table:
        catalogue = self._catalogue()
        return Table(self._app, Costs(catalogue, self._met), frozenset((*catalogue.exempt, *self._exempt)))


class Table:
    """All routes of an app in the order of dispatch. Paths without parameters are looked up, others matched."""

    def __init__(self, app: ASGIApp, costs: Costs, exempt: frozenset[str]) -> None:
        self.marked: list[tuple[str, Mark]] = []
        self._exempt = exempt
        self._methods_of: dict[str, set[str] | None] = {}
        self._costs = costs
        reader = Reader(costs, exempt, self._methods_of, self.marked)
        entries = reader.entries(app, "", exempt=False)
        self._entries: Entries = (reader.opaque(UNMATCHED, ""),) if entries is None else entries
        self.listed: dict[tuple[str, str], Listed] = reader.listed
        self._is_conditional = reader.is_conditional
        self._sizes = [(each, len(each)) for each in reader.lists]
        paths = set() if reader.is_conditional else {*reader.paths, *exempt}
        self._fixed = {path: self._all_methods(path) for path in paths}
        self._varying = tuple(each for each in self._entries if not (paths and isinstance(each, Leaf) and each.fixed))

    @property
    def keys(self) -> Iterable[str]:
        """The keys of [routes]."""
        return self._costs.keys

    @property
    def exempt(self) -> Iterable[str]:
        """What is not metered: paths, templates, mounts."""
        return sorted(self._exempt)

    def unused_paths(self) -> Iterator[str]:
        """What is exempt and not there."""
        return (path for path in self.exempt if not self.has_path(path))

    def unread(self) -> Iterator[str]:
        """Mounts whose routes cannot be read, and that are metered."""
        return (template for (_, template), each in self.listed.items() if each.match.kind is Kind.MOUNT)

    def has_path(self, path: str) -> bool:
        """Whether a route or a mount is there, by its template or as a path."""
        if path in self._methods_of or any(template == path for _, template in self.listed):
            return True
        return any(each.find(request, request.path) for each in self._entries for request in _asks(path))

    def find_path(self, method: str, path: str) -> RouteMatch:
        """What a request to a path meets, as far as that can be told without one."""
        return self._search(method, path, {"type": "http", "method": method, "path": path, "headers": []}, known=True)

    def is_stale(self) -> bool:
        for routes, size in self._sizes:  # noqa: SIM110 - once per request, and any() costs three times as much
            if len(routes) != size:
                return True
        return False

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
            found = walk(self._entries, Request(method, listed.sample, "", None))
            if found != listed.match:
                yield f"{method} {template}", f"{method} {found.template}"

    def find(self, method: str, path: str, scope: Scope) -> RouteMatch:
        fixed = self._fixed.get(path)
        if fixed is not None and method in fixed:
            return fixed[method]
        return self._search(method, path, scope, known=fixed is not None)

    def find_beside(self, method: str, path: str, root: str, scope: Scope) -> RouteMatch:
        """Where the path does not begin with the root: Starlette's mounts add to the root what they take off the path,
        and then find it nowhere in it."""
        if path in self._exempt:
            return EXEMPT
        return walk(self._entries, Request(method, path, root, {**scope, "root_path": ""}))

    def _all_methods(self, path: str) -> dict[str, RouteMatch]:
        if path in self._exempt:
            return dict.fromkeys(METHODS, EXEMPT)
        anything = Request("", path, "", None)
        either = (anything, anything._replace(method=WEBSOCKET))
        there = [each for each in self._entries if any(each.find(request, path) for request in either)]
        return {method: walk(there, anything._replace(method=method)) for method in METHODS}

    def _search(self, method: str, path: str, scope: Scope, *, known: bool) -> RouteMatch:
        if path in self._exempt:
            return EXEMPT
        # "$" in a pattern also matches before a final newline, so /x%0A is served by the route /x
        entries = self._entries if known or path.endswith("\n") else self._varying
        return walk(entries, Request(method, path, "", scope))


def _asks(path: str) -> Iterator[Request]:
    """Of a mount only what is below it is found."""
    for each in (path, path + "/"):
        for method in ("", WEBSOCKET):
            yield Request(method, each, "", None)


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
