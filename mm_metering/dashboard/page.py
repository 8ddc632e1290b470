"""What a page is made from, and what it is: a template's name and values, charts, and rows for a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from starlette.datastructures import FormData, QueryParams

from mm_metering.backends.looks import Place
from mm_metering.core.periods import micros
from mm_metering.dashboard.access import Role, Visitor
from mm_metering.dashboard.charts import Chart
from mm_metering.errors import InvalidInput

if TYPE_CHECKING:
    from mm_metering.metering import Metering

PAGE: Final = 50
"""Rows of one page of a list."""
MAX_PAGE: Final = 500
MAX_TEXT: Final = 256


@dataclass(frozen=True, slots=True)
class Rows:
    """A list as a file has it."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Page:
    """``template`` gets ``data``, the page's ``charts`` and what every page has. ``files``: by the name that ``?csv=``
    asks for; a chart is one by its own. ``value``: what a portal's ``.json`` answers."""

    template: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, Chart] = field(default_factory=dict)
    files: Mapping[str, Rows] = field(default_factory=dict)
    value: object = None


@dataclass(frozen=True, slots=True)
class Document:
    """An answer that is no page: an invoice as a PDF."""

    content: bytes
    media_type: str
    name: str


@dataclass(frozen=True, slots=True)
class Done:
    """What a POST did, in a sentence, and the page that shows it: relative, such as "tenant?id=acme"."""

    said: str
    see: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at the house. ``tenant``: whose portal it is; "" in the dashboard."""

    house: Metering
    visitor: Visitor
    query: QueryParams
    now: datetime
    form: FormData = field(default_factory=FormData)
    tenant: str = ""

    @property
    def now_us(self) -> int:
        return micros(self.now)

    def text(self, name: str, default: str = "") -> str:
        """A part of the query, shortened to what anything may have."""
        return self.query.get(name, default)[:MAX_TEXT].strip()

    def number(self, name: str, default: int = 0, *, most: int = MAX_PAGE) -> int:
        """A whole number from 0; what is none is the default."""
        given = self.query.get(name, "")
        return min(int(given[:12]), most) if given.isascii() and given.isdigit() else default

    def place(self, name: str = "before") -> Place | None:
        """Where a page of a newest-first list begins: "microseconds.id"."""
        at, dot, key = self.query.get(name, "").partition(".")
        return Place(int(at[:18]), key[:MAX_TEXT]) if dot and at.isascii() and at.isdigit() else None

    def given(self, name: str, *, most: int = 4_000) -> str:
        """A field of a form; "" if it is empty."""
        value = self.form.get(name, "")
        text = value.strip() if isinstance(value, str) else ""
        if len(text) > most:
            raise InvalidInput(name, f"has {len(text):,} characters, and at most {most:,} are taken")
        return text

    def needs(self, name: str) -> str:
        """A field that must be filled in; InvalidInput."""
        if not (text := self.given(name)):
            raise InvalidInput(name, "is empty; fill it in")
        return text


def place_text(at: datetime | int, key: str) -> str:
    """What ``Visit.place`` reads."""
    return f"{at if isinstance(at, int) else micros(at)}.{key}"


Show: TypeAlias = Callable[[Visit], Awaitable[Page | Document]]
Do: TypeAlias = Callable[[Visit], Awaitable[Done | Page]]
"""A Page is shown as the answer itself, and never again: a new secret."""


@dataclass(frozen=True, slots=True)
class Link:
    """A page of the menu, under its path."""

    path: str
    name: str
    show: Show
    also: Mapping[str, Show] = field(default_factory=dict)
    """Pages that belong to it and are reached from it."""
    actions: Mapping[str, tuple[Role, Do]] = field(default_factory=dict)
    """POST paths, and the role that each needs."""
