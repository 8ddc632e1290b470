"""How far a long command is, on stderr."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mm_metering.backends.ledger import Ledger

PAGE: Final = 1000
"""Tenants counted at a time."""


async def count_tenants(ledger: Ledger) -> int:
    """How many there are: what a bar needs to know."""
    count, after = 0, ""
    while page := await ledger.tenants(after=after, limit=PAGE):
        count, after = count + len(page), page[-1].id
    return count


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing into a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
