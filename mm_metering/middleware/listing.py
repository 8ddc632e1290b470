"""An app's routes for people: what each costs, which are not metered, which patterns match nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from mm_metering.core.schema import suggestion
from mm_metering.errors import InvalidInput
from mm_metering.gate.admission import Wish
from mm_metering.middleware.matches import Kind, plain_key
from mm_metering.middleware.routes import Resolver, Table

_MOST_NAMED = 10


class RouteCost(BaseModel):
    """``costs``: units by meter; empty where nothing is counted. ``measured``: meters' events that are known only when
    the response was sent. ``behind``: the route that comes first, where no request reaches this one."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    method: str
    template: str
    kind: Kind
    costs: Mapping[str, int]
    measured: tuple[str, ...] = ()
    behind: str | None = None


class RouteList(BaseModel):
    """``unused``: keys of [routes] and exempt paths that match nothing."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    routes: tuple[RouteCost, ...]
    unused: tuple[str, ...]


class Met(NamedTuple):
    """What a request to a route meets: its template, why it is not metered ("" if it is), and its wishes."""

    route: str
    exempt: str
    wishes: tuple[Wish, ...]


def list_routes(hosts: Iterable[Resolver]) -> RouteList:
    """Of all apps, in the order in which they were installed."""
    tables = [each.unchecked() for each in hosts]
    routes = tuple(route for table in tables for route in _routes(table))
    return RouteList(routes=routes, unused=tuple(dict.fromkeys(_unused(tables))))


def _routes(table: Table) -> Iterator[RouteCost]:
    behind = dict(table.shadowed())
    for (method, template), listed in table.listed.items():
        if method == "HEAD":
            continue
        yield RouteCost(
            method=method,
            template=template,
            kind=listed.match.kind,
            costs=table.costs_of(method, template),
            measured=tuple(each.event_type for each in listed.match.measured),
            behind=behind.get(f"{method} {template}"),
        )


def _unused(tables: list[Table]) -> Iterator[str]:
    """What no app has: a key of [routes] is one app's, and so may be a path."""
    keys = dict.fromkeys(key for table in tables for key in table.keys)
    yield from (key for key in keys if not any(table.has_route(plain_key(key)) for table in tables))
    paths = dict.fromkeys(path for table in tables for path in table.unused_paths())
    yield from (path for path in paths if not any(table.has_path(path) for table in tables))


def met(hosts: Iterable[Resolver], route: str) -> Met:
    """What "POST /v1/reports" meets, a template or a path. InvalidInput where no app has it."""
    method, _, path = route.strip().partition(" ")
    method, path = method.upper(), path.strip()
    if not path.startswith("/"):
        raise InvalidInput("route", f'{route[:80]!r} is not of the form "POST /v1/reports"')
    tables = [each.table() for each in hosts]
    if not tables:
        raise InvalidInput("route", "no app is installed: import the module that calls metering.install(app, ...)")
    for table in tables:
        if (found := _found(table, method, path)) is not None:
            return found
    known = [name for table in tables for name in table.known()]
    hint = suggestion(f"{method} {path}", known) or f"; there are {', '.join(known[:_MOST_NAMED]) or 'none'}"
    raise InvalidInput("route", f"no app has {method} {path}{hint}")


def _found(table: Table, method: str, path: str) -> Met | None:
    listed = table.listed.get((method, plain_key(path)))
    match = listed.match if listed else table.find_path(method, path)
    if match.kind in (Kind.NOT_FOUND, Kind.METHOD_NOT_ALLOWED):
        return None
    also = listed or table.listed.get((method, match.template))
    asked = also.asked if also else ()
    why = "" if match.is_metered else f"it is {match.kind.value}"
    return Met(f"{method} {match.template}", why, (*match.wishes, *asked) if match.is_metered else ())
