"""What the parts share: the console, the rounds, and the figures by name that the goals and ``--json`` read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


class Outages(logging.Handler):
    """Counts the decisions that went by the outage policy: their readings would not be ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@dataclass
class Report:
    """``servers`` has the paths by name, the one that is used where one is enough first."""

    console: Console
    rounds: int
    servers: dict[str, Path]
    figures: dict[str, float] = field(default_factory=dict)
    outages: Outages = field(default_factory=Outages)

    @property
    def server(self) -> Path:
        return next(iter(self.servers.values()))

    def table(self, title: str, headings: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> None:
        """Prints it now. The first column is text; a number gets one decimal below 1,000."""
        shown = Table(title=title, title_justify="left")
        for index, heading in enumerate(headings):
            shown.add_column(heading, justify="right" if index else "left")
        for row in rows:
            shown.add_row(*map(_cell, row))
        self.console.print(shown)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"
