"""How commands show what they have: tables, sentences, a bar for long work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mm_metering.backends.ledger import Ledger, tenant_pages

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BAR_WIDTH: Final = 50
"""Characters of the longest bar."""
FILE_WIDTH: Final = 160
"""Columns of a table that is not written to a terminal."""


async def count_tenants(ledger: Ledger) -> int:
    """How many there are: what a bar needs to know."""
    return sum([len(page) async for page in tenant_pages(ledger)])


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing into a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def console() -> Console:
    """Takes texts as they are: tenants' names and reasons are no markup."""
    from rich.console import Console

    return Console(
        markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else FILE_WIDTH, soft_wrap=False
    )


def say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def table(*columns: str) -> Table:
    """Columns whose name begins with > hold numbers."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for name in columns:
        is_number = name.startswith(">")
        table.add_column(
            name.removeprefix(">"), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return table
