"""An app's OpenAPI document with what each operation costs, and the refusals it can give.

``x-metering`` holds what one request uses: {meter: units}. A valid OpenAPI 3.1 document stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, Final, NamedTuple, TypeAlias

from mm_metering.middleware.responses import CLIENT_WAIT_MAX_S, problem_schema
from mm_metering.middleware.shapes import PLAIN, HeaderStyle, Style

Json: TypeAlias = dict[str, Any]
CostOf: TypeAlias = Callable[[str, str], Mapping[str, int] | None]

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
COST: Final = "x-metering"


class _Refusal(NamedTuple):
    name: str
    description: str
    headers: tuple[str, ...]
    tells_limits: bool = False


_REFUSALS: Final = {
    "402": _Refusal(
        "BudgetExceeded", "A budget is used up, or a bill is unpaid.", ("x-should-retry",), tells_limits=True
    ),
    "403": _Refusal("FeatureNotInPlan", "The plan does not include this.", ("x-should-retry",)),
    "429": _Refusal(
        "QuotaExceeded", "A quota or a rate is used up.", ("Retry-After", "x-should-retry"), tells_limits=True
    ),
    "503": _Refusal("MeteringUnavailable", "Limits cannot be checked; nothing was done.", ("Retry-After",)),
}
_STANDARD: Final = ("RateLimit-Policy", "RateLimit")
_LEGACY: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_LIMITS: Final[Mapping[HeaderStyle, tuple[str, ...]]] = {
    "standard": _STANDARD,
    "legacy": _LEGACY,
    "both": _STANDARD + _LEGACY,
    "off": (),
}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_HEADERS: Final[Mapping[str, Json]] = {
    "RateLimit-Policy": {
        "description": "The limits of this operation as an RFC 9651 list: q units in a window of w seconds.",
        "schema": {"type": "string"},
        "example": '"api_calls-day";q=10000;w=86400',
    },
    "RateLimit": {
        "description": "What is left of them: r units for the next t seconds.",
        "schema": {"type": "string"},
        "example": '"api_calls-day";r=9993;t=52112',
    },
    "X-RateLimit-Limit": {"description": "The units of the limit that is nearest.", "schema": _NUMBER},
    "X-RateLimit-Remaining": {"description": "What is left of it.", "schema": _NUMBER},
    "X-RateLimit-Reset": {"description": "When it starts anew, in Unix seconds.", "schema": _NUMBER},
    "Retry-After": {
        "description": "Seconds until the request can succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-should-retry": {
        "description": f"Present where waiting takes over {CLIENT_WAIT_MAX_S} seconds or does not help.",
        "schema": {"type": "string", "enum": ["false"]},
    },
    "MM-Metering": {
        "description": "Present where the request was served without its limits being checked.",
        "schema": {"type": "string", "enum": ["degraded"]},
    },
}


def document(schema: Json, cost_of: CostOf, *, style: Style = PLAIN) -> Json:
    """The document with what its operations cost. ``cost_of`` takes a method in capitals and a path template.

    What the host has documented stays as it is, and a second call changes nothing. ``schema`` is never changed, also
    not by later changes to the answer.
    """
    told = deepcopy(schema)
    costs = {at: cost for at in _operations(told) if (cost := cost_of(at[1].upper(), at[0]))}
    if not costs:
        return told
    components = _Components(told.get("components", {}))
    refusals = _refusals(components, style)
    limits = _headers(components, (*_LIMITS[style.headers], "MM-Metering"))
    for (path, method), cost in costs.items():
        told["paths"][path][method] = _operation(told["paths"][path][method], cost, refusals, limits)
    return {**told, "components": components.all}


def _operations(schema: Json) -> Iterator[tuple[str, str]]:
    """The path template and method of each. Between the paths the host may have ``x-`` entries of any form."""
    for path, item in schema.get("paths", {}).items():
        if path.startswith("/"):
            yield from ((path, method) for method in METHODS if method in item)


class _Components:
    """The host's components, and ours next to them."""

    def __init__(self, theirs: Json) -> None:
        self.all = dict(theirs)

    def add(self, kind: str, name: str, content: Json) -> str:
        """Where the component is: under ``name_2`` and so on if the host's own has the name."""
        there: Json = self.all.get(kind, {})
        names = (name, *(f"{name}_{number}" for number in range(2, len(there) + 3)))
        free = next(each for each in names if there.get(each, content) == content)
        self.all[kind] = {**there, free: deepcopy(content)}
        return f"#/components/{kind}/{free}"


def _refusals(components: _Components, style: Style) -> Mapping[str, str]:
    """Status → where its response is."""
    return {
        status: components.add("responses", refusal.name, _refusal(refusal, components, style))
        for status, refusal in _REFUSALS.items()
    }


def _refusal(refusal: _Refusal, components: _Components, style: Style) -> Json:
    """The body's schema goes without its ``$id``, which would change what the references in it mean."""
    body = {key: value for key, value in problem_schema().items() if key not in ("$schema", "$id")}
    schema = components.add("schemas", "MeteringProblem", body)
    limits = _LIMITS[style.headers] if refusal.tells_limits else ()
    return {
        "description": refusal.description,
        "headers": _refs(_headers(components, (*refusal.headers, *limits))),
        "content": {each: {"schema": {"$ref": schema}} for each in style.content_types()},
    }


def _headers(components: _Components, names: Iterable[str]) -> Mapping[str, str]:
    """Name → where the header is."""
    return {name: components.add("headers", name, _HEADERS[name]) for name in names}


def _refs(places: Mapping[str, str]) -> Json:
    return {name: {"$ref": place} for name, place in places.items()}


def _operation(
    operation: Json, cost: Mapping[str, int], refusals: Mapping[str, str], limits: Mapping[str, str]
) -> Json:
    documented = {status: _response(status, each, limits) for status, each in operation.get("responses", {}).items()}
    return {**operation, "responses": {**_refs(refusals), **documented}, COST: dict(cost)}


def _response(status: str, response: Json, limits: Mapping[str, str]) -> Json:
    """A success also names the headers that tell the limits. References and the host's own headers stay."""
    if not status.startswith("2") or "$ref" in response:
        return response
    theirs: Json = response.get("headers", {})
    known = {name.lower() for name in theirs}
    ours = _refs({name: place for name, place in limits.items() if name.lower() not in known})
    return {**response, "headers": {**theirs, **ours}}
