"""What the parts share: the console, the rounds, and the figures by name that the goals and ``--json`` read."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from rich.box import MARKDOWN
from rich.console import Console
from rich.status import Status
from rich.table import Table

T = TypeVar("T")

TRIES: Final = 3


class Outages(logging.Handler):
    """Notes every warning of the gate: while the counters do not answer in time the outage policy decides, for nothing.

    On a busy machine that happens to a server that stands still for 50 ms."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


@dataclass
class Report:
    """``servers`` has the paths by name, the one that is used where one is enough first. ``repeated`` counts the
    readings that were dropped, ``unclean`` those that were not although the outage policy decided in them. With
    ``failures`` the run ends with exit code 1: what must not be worse than something else, and is."""

    console: Console
    status: Status
    rounds: int
    rows: int
    servers: dict[str, Path]
    figures: dict[str, float] = field(default_factory=dict)
    outages: Outages = field(default_factory=Outages)
    failures: list[str] = field(default_factory=list)
    repeated: int = 0
    unclean: int = 0

    @property
    def server(self) -> Path:
        return next(iter(self.servers.values()))

    def each_round(self, what: str) -> Iterator[int]:
        """The rounds, shown while they run."""
        for number in range(self.rounds):
            self.status.update(f"{what}: round {number + 1} of {self.rounds}")
            yield number

    async def clean(self, read: Callable[[], Awaitable[T]]) -> T:
        """A reading in which the counters decided everything."""
        for tries_left in reversed(range(TRIES)):
            before = self.outages.count
            reading = await read()
            if self.is_kept(clean=self.outages.count == before, tries_left=tries_left):
                return reading
            await read()  # what an outage wrote uncounted has its tenants loaded anew
        raise AssertionError("the last try is kept")

    def is_kept(self, *, clean: bool, tries_left: int) -> bool:
        """Whether to keep a reading, and counts those that are dropped, or kept although they are not clean."""
        self.repeated += not clean and tries_left > 0
        self.unclean += not clean and tries_left == 0
        return clean or tries_left == 0

    def table(self, title: str, headings: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> None:
        """Prints it now, as docs/benchmarks.md has it. A number gets one decimal below 1,000."""
        shown = Table(box=MARKDOWN)
        for index, heading in enumerate(headings):
            shown.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            shown.add_row(*map(_cell, row))
        self.console.print(f"{title}:", shown, sep="\n")


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"
