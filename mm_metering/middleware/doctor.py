"""What the host should mend: noticed while requests are served, or looked for by ``mm-metering doctor``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final, Literal, get_args

from mm_metering.core.findings import Finding
from mm_metering.errors import CatalogueError
from mm_metering.middleware.routes import Resolver
from mm_metering.telemetry.instruments import FINDINGS
from mm_metering.telemetry.measures import Measures

log = logging.getLogger("mm_metering.middleware")

NOTES_AT_MOST: Final = 100

Kind = Literal["misread", "unidentified"]


class Notes:
    """What was noticed in this process: a metric each time, and one line in the log for each text."""

    def __init__(self, measures: Measures | None = None) -> None:
        self._texts: dict[str, Kind] = {}
        measures = measures or Measures()
        self.met = measures.routes.add
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
