"""Shapes: one description of a value that both reads it and draws itself as JSON Schema.

A shape reads what TOML or Python gave into a checked value, or raises CatalogueError with the place. The catalogue's
layout is a table of shapes, so its reader and the schema that editors use cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from mm_metering.core.money import MAX_MONEY, non_negative
from mm_metering.errors import CatalogueError, InvalidMoney

T = TypeVar("T")
KeyPath: TypeAlias = tuple[str | int, ...]
Given: TypeAlias = dict[str, Any]
"""A table that was read: every value checked by the shape of its key, absent keys left out."""

MAX_COUNT = 2**53 - 1
"""The largest quantity and the largest limit: past it Lua's and JSON's numbers are no longer exact."""
NANO_PLACES = 9
_SHOWN_CHARS = 40
_SHOWN_CHOICES = 12
_COMPARED_NAMES = 1000
_SHOWN_INT = 10**20
_QUOTED_EXPONENT = 15
_IN_WORDS = ((bool, "a boolean"), (type(None), "nothing"), (Mapping, "a table"), (Sequence, "a list"))
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its key path, the file, and how to find the path's line in it."""

    path: KeyPath = ()
    file: str | None = None
    line_of: Callable[[KeyPath], int | None] = field(default=lambda path: None, repr=False)

    def __truediv__(self, key: str | int) -> Place:
        return replace(self, path=(*self.path, key))

    def __str__(self) -> str:
        """The path as one would write it in TOML: plans.pro.quotas.api_calls[1]."""
        return "".join(f"[{key}]" if isinstance(key, int) else f".{_key_text(key)}" for key in self.path)[1:]

    def wrong(self, message: str, *, key: object = None) -> CatalogueError:
        """The error for this value; ``key`` moves only its line, to a key inside this table."""
        where = f"{self}: " if self.path else ""
        return self.error(where + message, key=key)

    def error(self, message: str, *, key: object = None) -> CatalogueError:
        path = (*self.path, key) if isinstance(key, str) else self.path
        return CatalogueError(message, file=self.file, line=self.line_of(path))


ROOT = Place()
"""The whole of a tree that comes from no file."""


@dataclass(frozen=True, slots=True)
class Shape(Generic[T]):
    """``read`` checks and returns a value, ``schema`` is the same rule as JSON Schema."""

    read: Callable[[object, Place], T]
    schema: Mapping[str, Any]


class Field(NamedTuple):
    """One key of a table. ``missing`` is the way out to show where the key is required; empty: it is optional."""

    shape: Shape[Any]
    doc: str
    missing: str = ""


class Keys(NamedTuple):
    """What free keys of a table must look like, as a pattern and in words."""

    pattern: str
    what: str


NAMES = Keys(
    r"[a-z][a-z0-9_]{0,62}",
    "a name of lower-case letters, digits and _ that starts with a letter (at most 63 characters)",
)
METER_NAMES = Keys(".{1,256}", "a meter's name")


def shown(value: object) -> str:
    """A value as error messages show it: short whatever it is, and never a whole table."""
    if isinstance(value, str):
        text = repr(value[: _SHOWN_CHARS + 1])[1:-1]
        return f'"{text}"' if len(value) <= _SHOWN_CHARS else f'"{text[:_SHOWN_CHARS]}…"'
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < _SHOWN_INT else "a number of more than 20 digits"
    if isinstance(value, float):
        return _float_text(value)
    return next((words for kind, words in _IN_WORDS if isinstance(value, kind)), f"a {type(value).__name__}")


def in_words(value: object) -> str:
    """As ``shown``, but an empty list or table is said to be empty."""
    if isinstance(value, Mapping | list | tuple) and not value:
        return "an empty table" if isinstance(value, Mapping) else "an empty list"
    return shown(value)


def suggestion(name: object, known: Iterable[str]) -> str:
    """'; did you mean "api_calls"?' if a known name is close, else an empty text."""
    from difflib import get_close_matches

    close = get_close_matches(name[:64], islice(known, _COMPARED_NAMES), n=1) if isinstance(name, str) else []
    return f'; did you mean "{close[0]}"?' if close else ""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """'unknown meter "api_call"; did you mean "api_calls"?', or the names there are."""
    names = list(known)
    some = ", ".join(names[:_SHOWN_CHOICES]) + (", …" if len(names) > _SHOWN_CHOICES else "")
    return f"unknown {what} {shown(name)}" + (suggestion(name, names) or f"; choose from: {some or 'none is defined'}")


def text(pattern: str = ".{1,256}", what: str = "text of 1 to 256 printable characters") -> Shape[str]:
    compiled = re.compile(pattern)

    def read(value: object, at: Place) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value) or not value.isprintable():
            raise at.wrong(f"{shown(value)} is not {what}")
        return value

    return Shape(read, {"type": "string", "pattern": f"^{pattern}$"})


def choice(*words: str) -> Shape[str]:
    listed = ", ".join(f'"{word}"' for word in words)

    def read(value: object, at: Place) -> str:
        if not isinstance(value, str) or value not in words:
            raise at.wrong(f"{shown(value)} is not one of {listed}{suggestion(value, words)}")
        return str(value)

    return Shape(read, {"enum": list(words)})


def whole(otherwise: str = "", *, least: int = 0) -> Shape[int]:
    """An int from ``least`` to 2**53 - 1; ``otherwise`` ends the message with what else may stand here."""

    def read(value: object, at: Place) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_COUNT:
            raise at.wrong(f"{shown(value)} is not a whole number from {least} to {MAX_COUNT}{otherwise}")
        return value

    return Shape(read, {"type": "integer", "minimum": least, "maximum": MAX_COUNT})


def money(places: int = 24) -> Shape[Decimal]:
    """An exact amount from 0 to 9,000,000: a decimal string, an int or a Decimal."""

    def read(value: object, at: Place) -> Decimal:
        if isinstance(value, float):
            raise at.wrong(f'{shown(value)} is a float and not exact; write it as a string, "{_quotable(value)}"')
        if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
            raise at.wrong(f'expected money such as "0.01", got {shown(value)}')
        if isinstance(value, int) and value > MAX_MONEY:
            raise at.wrong(f"{shown(value)} is out of range; the largest amount is {MAX_MONEY:,}")
        if isinstance(value, int) and value < 0:
            raise at.wrong(f"{shown(value)} is negative; the least is 0")
        try:
            amount = non_negative(value, str(at))
        except InvalidMoney as error:
            raise at.error(str(error)) from None
        if places_of(amount) > places:
            raise at.wrong(f"{money_text(amount)} has {places_of(amount)} decimal places; this amount takes {places}")
        return amount

    quoted = {"type": "string", "pattern": r"^[0-9]{1,16}(\.[0-9]{1,24})?$"}
    return Shape(read, {"anyOf": [quoted, {"type": "integer", "minimum": 0, "maximum": MAX_MONEY}]})


def listing(item: Shape[T], *, least: str = "") -> Shape[tuple[T, ...]]:
    """A list without doubles; ``least`` is what to say about an empty one, if it needs an item."""

    def read(value: object, at: Place) -> tuple[T, ...]:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise at.wrong(f"expected a list, got {shown(value)}")
        if least and not value:
            raise at.wrong(f"the list is empty; {least}")
        items = [item.read(each, at / index) for index, each in enumerate(value)]
        seen: set[T] = set()
        for index, each in enumerate(items):
            if each in seen:
                raise (at / index).wrong(f"{shown(each)} is listed twice; keep one")
            seen.add(each)
        return tuple(items)

    return Shape(read, {"type": "array", "items": item.schema, "uniqueItems": True, "minItems": 1 if least else 0})


def table(
    fields: Mapping[str, Field], *, keys: Keys | None = None, rest: Shape[Any] | None = None, least: str = ""
) -> Shape[Given]:
    """A table of known ``fields`` and, with ``keys`` and ``rest``, of free keys that share one shape."""
    pattern = re.compile(keys.pattern) if keys else None

    def key_shape(key: object, at: Place) -> Shape[Any]:
        if isinstance(key, str) and key in fields:
            return fields[key].shape
        if keys is None or pattern is None or rest is None:
            raise at.wrong(unknown("key", key, fields), key=key)
        if not isinstance(key, str) or not pattern.fullmatch(key) or not key.isprintable():
            raise at.wrong(f"{shown(key)} is not {keys.what}", key=key)
        return rest

    def read(value: object, at: Place) -> Given:
        if not isinstance(value, Mapping):
            raise at.wrong(f"expected a table, got {shown(value)}")
        shapes = {key: key_shape(key, at) for key in value}
        given = {key: shape.read(value[key], at / key) for key, shape in shapes.items() if not _absent(key, value)}
        for key, entry in fields.items():
            if entry.missing and key not in given:
                raise at.wrong(f"{key} is missing; {entry.missing}")
        if least and not given:
            raise at.wrong(f"the table is empty; {least}")
        return given

    def _absent(key: str, value: Mapping[str, object]) -> bool:
        return key in fields and value[key] is None  # the Python form of a key that is left out

    schema: dict[str, object] = {
        "type": "object",
        "properties": {key: {**entry.shape.schema, "description": entry.doc} for key, entry in fields.items()},
        "required": [key for key, entry in fields.items() if entry.missing],
        "additionalProperties": False,
        "minProperties": 1 if least else 0,
    }
    if keys and rest:
        schema["patternProperties"] = {f"^{keys.pattern}$": rest.schema}
    return Shape(read, schema)


def either(table_shape: Shape[Any], other: Shape[Any]) -> Shape[Any]:
    """A table of one shape, or a plain value of another."""

    def read(value: object, at: Place) -> Any:
        return (table_shape if isinstance(value, Mapping) else other).read(value, at)

    return Shape(read, {"anyOf": [table_shape.schema, other.schema]})


def places_of(amount: Decimal) -> int:
    """How many decimal places the amount needs; trailing zeros do not count."""
    return len(format(amount, "f").partition(".")[2].rstrip("0"))


def money_text(amount: Decimal) -> str:
    """The amount's one canonical text: no exponent, at least two places, no zeros past them."""
    integral, _, places = format(amount.copy_abs(), "f").partition(".")
    return f"{integral}.{places.rstrip('0').ljust(2, '0')}"


def _key_text(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def _float_text(value: float) -> str:
    """As the file wrote it where the reader kept that, else as Python does."""
    written = getattr(value, "written", None)
    return written if isinstance(written, str) and len(written) <= _SHOWN_CHARS else repr(float(value))


def _quotable(value: float) -> str:
    """The float as a plain decimal number; a stock example for NaN, infinities and the far ends."""
    number = Decimal(_float_text(value))
    return format(number, "f") if number.is_finite() and abs(number.adjusted()) <= _QUOTED_EXPONENT else "0.01"
