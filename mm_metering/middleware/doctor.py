"""What the host should mend: noticed while requests are served, or looked for by ``mm-metering doctor``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, get_args

from starlette.middleware.base import BaseHTTPMiddleware

from mm_metering.core.findings import Finding
from mm_metering.errors import CatalogueError
from mm_metering.middleware.responses import EXPOSED_HEADERS
from mm_metering.middleware.routes import Resolver
from mm_metering.telemetry.instruments import FINDINGS
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.middleware")

NOTES_AT_MOST: Final = 100
MISREAD: Final = frozenset({"0.137.0", "0.137.1"})
"""FastAPIs whose routers cannot be walked."""

Kind = Literal["misread", "unidentified"]


class Notes:
    """What was noticed in this process: a metric each time, and one line in the log for each text."""

    def __init__(self, measures: Measures | None = None) -> None:
        self._texts: dict[str, Kind] = {}
        measures = measures or Measures()
        self.met: Callable[[str], None] = measures.routes.add
        """A template that requests meet: metrics may tell usage by it."""
        self._noticed = measures.tally(FINDINGS)
        self._noticed.begin(*get_args(Kind))

    def note(self, kind: Kind, text: str) -> None:
        self._noticed.add(kind)
        if text not in self._texts and len(self._texts) < NOTES_AT_MOST:
            self._texts[text] = kind
            log.warning("%s: %s", kind, text)

    def findings(self) -> Iterator[Finding]:
        return (Finding("FAIL", f"{kind}: {text}") for text, kind in self._texts.items())


def check_routes(hosts: Iterable[Resolver]) -> Iterator[Finding]:
    """Whether the catalogue fits the apps' routes, and whether a request can reach each of them."""
    for routes in hosts:
        try:
            table = routes.table()
        except CatalogueError as error:
            yield Finding("FAIL", str(error))
            continue
        yield Finding("ok", f"{len(table.known())} routes read, and the catalogue fits them")
        for route, earlier in table.shadowed():
            yield Finding("warn", f"{route} is never reached: {earlier} comes first")
        for template in table.unread():
            way = "say below it in [routes] what there is, or exempt it"
            yield Finding("warn", f"{template}: its routes cannot be read, so all of them are metered as one; {way}")
        for path in table.unused_paths():
            yield Finding("warn", f"exempt {path} matches no route and no mount")


def check_apps(apps: Iterable[Any], versions: Callable[[str], str | None]) -> Iterator[Finding]:
    """What stands around the meter: what browsers cannot read, what does not see what is bound. A middleware that is
    wrapped around the app from outside is not seen."""
    if (fastapi := versions("fastapi")) in MISREAD:
        yield Finding("FAIL", f"FastAPI {fastapi} does not say its included routes: take 0.137.2 or newer")
    for app in apps:
        for each in app.user_middleware:
            yield from _around(each)


def _around(each: Any) -> Iterator[Finding]:
    name = getattr(each.cls, "__name__", str(each.cls))
    if name == "CORSMiddleware":
        yield from _cors(each.kwargs.get("expose_headers", ()))
    elif isinstance(each.cls, type) and issubclass(each.cls, BaseHTTPMiddleware):
        shown = getattr(each.kwargs.get("dispatch"), "__name__", name)
        why = "what is bound below it, as metering.current(), is not seen in it"
        yield Finding("warn", f"BaseHTTPMiddleware {shown!r} is outside the meter: {why}; write it as plain ASGI")


def _cors(exposed: Iterable[str]) -> Iterator[Finding]:
    known = {name.lower() for name in exposed}
    missing = [name for name in EXPOSED_HEADERS if name.lower() not in known]
    if missing and "*" not in known:
        way = "CORSMiddleware(..., expose_headers=mm_metering.EXPOSED_HEADERS)"
        yield Finding("warn", f"browsers cannot read {', '.join(missing)}: {way}")
