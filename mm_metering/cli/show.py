"""How commands show what they have: tables, sentences, JSON, and how far long work is."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.core.refusals import span

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BAR_WIDTH: Final = 50
"""Characters of the longest bar."""
FILE_WIDTH: Final = 160
"""Columns of a table that is not written to a terminal."""
LINE_EVERY_S: Final = 10.0
"""How often long work says how far it is where no terminal shows it."""
LEAST_S: Final = 0.5
"""Before that nothing is known of how fast it goes."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


# -- long work ---------------------------------------------------------------------------------------------------------


def be_quiet(wanted: bool) -> bool:  # noqa: FBT001 - typer calls it with the option's value
    """Whether this command says how far it is."""
    _quiet.set(wanted)
    return wanted


async def count_tenants(ledger: Ledger) -> int:
    """How many there are: what a bar needs to know."""
    return sum([len(page) async for page in tenant_pages(ledger)])


class Pace:
    """How fast long work goes, and when it will be done. ``total`` None: nobody knows how much there is."""

    def __init__(self, total: int | None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._now_s = now_s
        self._began_s = now_s()
        self._said_s = self._began_s

    def words(self, done: int) -> str:
        """ "310/s, 23 seconds left"; "" while that is not known."""
        elapsed_s = self._now_s() - self._began_s
        if elapsed_s < LEAST_S or not done:
            return ""
        rate = done / elapsed_s
        pace = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        if self._total is None or done >= self._total:
            return pace
        return f"{pace}, {span(max(1, round((self._total - done) / rate)))} left"

    def line(self, what: str, done: int) -> str | None:
        """What to say now, where a line is due."""
        if self._now_s() - self._said_s < LINE_EVERY_S:
            return None
        self._said_s = self._now_s()
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{what}: {done:,}{of}, {self.words(done)}"


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """On stderr: a bar with rate and time left on a terminal, else a line every LINE_EVERY_S. It is told how much is
    done."""
    pace = Pace(total)
    if _quiet.get():
        yield lambda _: None
    elif sys.stderr.isatty():
        with _drawn(what, total, pace) as moved:
            yield moved
    else:
        yield lambda done: _write(pace.line(what, done))


@contextmanager
def _drawn(what: str, total: int | None, pace: Pace) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    name, speed = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[pace]}"))
    columns = (name, BarColumn(), MofNCompleteColumn(), speed)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, pace="")
        yield lambda done: progress.update(task, completed=done, pace=pace.words(done))


def _write(line: str | None) -> None:
    if line is not None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


# -- JSON --------------------------------------------------------------------------------------------------------------


def emit(value: object) -> None:
    """A value as JSON: amounts as exact strings, instants in UTC, stretches of time in seconds."""
    print(json.dumps(jsonable(value), indent=2, ensure_ascii=False), flush=True)  # noqa: T201


def jsonable(value: object) -> object:
    """A value as JSON knows it."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case Decimal() | date() | timedelta():
            return _text(value)
        case _:
            return _parts(value)


def _text(value: Decimal | date | timedelta) -> str | float:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        value = value.astimezone(UTC)
    return value.isoformat().replace("+00:00", "Z")


def _parts(value: object) -> object:
    if isinstance(value, BaseModel):  # by hand: pydantic makes lists of named tuples
        value = {name: getattr(value, name) for name in _fields(type(value))}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif dataclasses.is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    elif isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, Mapping):
        return {str(name): jsonable(each) for name, each in value.items()}
    return [jsonable(each) for each in value] if isinstance(value, Iterable) else str(value)


def _fields(model: type[BaseModel]) -> Iterable[str]:
    return (*model.model_fields, *model.model_computed_fields)


# -- for people --------------------------------------------------------------------------------------------------------


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
