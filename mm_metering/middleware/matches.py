"""What a request meets, told before it is dispatched, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from mm_metering.core.catalogue import Catalogue
from mm_metering.gate.admission import Wish
from mm_metering.gate.context import Mark, marks_of, taken_when_called
from mm_metering.gate.windows import counted_meters

UNMATCHED: Final = "(unmatched)"
"""The resource of all that an app serves whose routes cannot be read: one bucket, never raw paths (I2)."""
BASE_METER: Final = "api_calls"
BASE_EVENT: Final = "api_call"
WEBSOCKET: Final = "WEBSOCKET"
"""The method of a websocket's handshake, in [routes] too: "WEBSOCKET /chat"."""
HTTP = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
METHODS = (*HTTP, WEBSOCKET)
_CONVERTER = re.compile(r"\{(\w+):\w+\}")


class Kind(StrEnum):
    """What a request meets. Only routes and mounts are metered."""

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
    is_metered: bool = False

    def has_no_route(self, status: int) -> bool:
        """Whether an app that cannot be read said by this status that it has no such route or method. Its 404 is its
        own answer where a key of [routes] matched."""
        return self.endpoint is None and (status == 405 or (status == 404 and self.template == UNMATCHED))


NOT_FOUND: Final = RouteMatch(Kind.NOT_FOUND)
EXEMPT: Final = RouteMatch(Kind.EXEMPT)
PREFLIGHT: Final = RouteMatch(Kind.PREFLIGHT)


class Costs:
    """C2: one api_call, merged with the route's entry under [routes], plus the marks of its endpoint. ``met`` is told
    each template."""

    def __init__(self, catalogue: Catalogue, met: Callable[[str], object] = lambda _: None) -> None:
        self._met = met
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
        self._met(template)
        marks = marks_on(endpoint, method)
        handler = handler_of(endpoint, method) if isinstance(endpoint, type) else endpoint
        measured = tuple(
            Wish(each.event_type, each.resource or template, 0) for each in marks if not isinstance(each.quantity, int)
        )
        wishes = self(method, template, marks)
        joined = tuple(each for each in taken_when_called(handler) if any(each is known for known in marks))
        return RouteMatch(kind, template, endpoint, wishes, joined, measured, kind in (Kind.ROUTE, Kind.MOUNT))

    def _entry(self, method: str, template: str) -> Mapping[str, int]:
        found = self._routes.get(f"{method} {template}")
        if found is None and method == "HEAD":
            found = self._routes.get(f"GET {template}")
        return found or {}


def plain_key(key: str) -> str:
    """A key of [routes] as templates are written: "GET /orders/{id:int}" is "GET /orders/{id}"."""
    return _CONVERTER.sub(r"{\1}", key)


def handler_of(endpoint: type, method: str) -> Any:
    found = getattr(endpoint, method.lower(), None)
    return getattr(endpoint, "get", None) if found is None and method == "HEAD" else found


def marks_on(endpoint: Any, method: str) -> tuple[Mark, ...]:
    if isinstance(endpoint, type) and method:
        return (*marks_of(endpoint), *marks_of(handler_of(endpoint, method)))
    return marks_of(endpoint)
