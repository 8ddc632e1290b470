"""Files of usage: events as lines of JSON or as CSV, read from any line on, and written."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, TypeAlias, get_args

from pydantic_core import from_json

from mm_metering.errors import InvalidEvent, InvalidInput
from mm_metering.usage.export import COLUMNS
from mm_metering.usage.reading import Item

Format: TypeAlias = Literal["ndjson", "csv"]
MAX_LINE_BYTES: Final = 65_536
"""An event has 4,096 bytes of metadata at most."""
_CSV: Final = frozenset({*COLUMNS, "model"})
_JSON_COLUMNS: Final = ("metadata", "counts")


def format_of(name: str, given: str) -> Format:
    """By the file's name where none is given."""
    wanted = given or ("csv" if Path(name).suffix.lower() == ".csv" else "ndjson")
    for each in get_args(Format):
        if wanted == each:
            return each  # type: ignore[no-any-return]
    raise InvalidInput("format", f"{wanted[:40]!r} is neither ndjson nor csv")


class Source:
    """The items of a file, one for each of its lines, or rows of CSV: None where there is no event in it.

    ``offset`` is how many bytes were read, all of them of whole items, and ``line`` how many items: another one goes on
    there. ``stop`` ends it at the next item.
    """

    def __init__(self, file: BinaryIO, form: Format, *, offset: int = 0, line: int = 0) -> None:
        self._file = file
        self._form: Format = form
        self._begun = line > 0
        self.offset: int = offset
        self.line: int = line
        self.stop = False

    def __iter__(self) -> Iterator[Item]:
        columns = self._columns() if self._form == "csv" else ()
        if self._form == "csv" and not self._begun:
            yield None
        self._file.seek(self.offset)
        yield from self._rows(columns) if self._form == "csv" else self._lines()

    def _lines(self) -> Iterator[Item]:
        while not self.stop and (line := self._next()):
            self.line += 1
            yield _parsed(line)

    def _next(self) -> bytes:
        """b"" at the end. The rest of a line that is too long is passed by."""
        line = self._file.readline(MAX_LINE_BYTES)
        self.offset += len(line)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._file.readline(MAX_LINE_BYTES)
                self.offset += len(rest)
        return line

    # -- CSV ----------------------------------------------------------------------------------------------------------

    def _columns(self) -> tuple[str, ...]:
        self._file.seek(0)
        head = self._file.readline(MAX_LINE_BYTES)
        if not self._begun:
            self.offset, self.line = len(head), 1
        names = next(csv.reader([_text(head.removeprefix(b"\xef\xbb\xbf"))]), [])
        columns = tuple(name.strip() for name in names)
        if unknown := [name for name in columns if name not in _CSV]:
            raise InvalidInput("format", f"the header has {unknown[0][:40]!r}; columns are {', '.join(sorted(_CSV))}")
        if not {"tenant", "event_type", "id"} <= set(columns) or len(set(columns)) < len(columns):
            raise InvalidInput(
                "format", "the first line must name the columns, each once: at least tenant, event_type, id"
            )
        return columns

    def _rows(self, columns: tuple[str, ...]) -> Iterator[Item]:
        reader = csv.reader(map(_text, iter(self._next, b"")), strict=True)
        while not self.stop:
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, InvalidEvent) as error:
                reader = csv.reader(map(_text, iter(self._next, b"")), strict=True)
                item: Item = error if isinstance(error, InvalidEvent) else InvalidEvent("line", str(error))
            else:
                item = _row(columns, row) if row else None
            self.line += 1
            yield item


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidEvent("line", f"is not UTF-8 at byte {error.start}") from None


def _parsed(line: bytes) -> Item:
    if len(line) >= MAX_LINE_BYTES:
        return InvalidEvent("line", f"is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        found = from_json(line)
    except ValueError as error:
        return InvalidEvent("line", f"is not JSON: {str(error)[:100]}") if line.strip() else None
    if type(found) is not dict:
        return InvalidEvent("line", f"is not a JSON object but {type(found).__name__}")
    if type(found.get("cost")) in (float, int):
        found["cost"] = _exact_cost(line)
    return found


def _exact_cost(line: bytes) -> object:
    """As it is written: no amount is ever a float."""
    return json.loads(line, parse_float=Decimal)["cost"]


def _row(columns: tuple[str, ...], row: list[str]) -> Item:
    if len(row) != len(columns):
        return InvalidEvent("line", f"has {len(row)} fields, and the header {len(columns)}")
    found: dict[str, object] = {}
    for name, text in zip(columns, row, strict=True):
        if text:
            try:
                found[name] = _TYPES[name](text) if name in _TYPES else text
            except (ValueError, RecursionError):
                return InvalidEvent(name, f"{text[:40]!r} cannot be read")
    return found


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _whole(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise ValueError(text)
    return int(text)


_DIGITS: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)


_TYPES: Final[Mapping[str, Callable[[str], object]]] = {
    "quantity": _whole,
    "success": _truth,
    **dict.fromkeys(_JSON_COLUMNS, json.loads),
}


class Sink:
    """Writes exported lines."""

    def __init__(self, file: IO[str], form: Format) -> None:
        self._file = file
        self._form = form
        self._rows = csv.writer(file, lineterminator="\n")
        if form == "csv":
            self._rows.writerow(COLUMNS)

    def write(self, line: Mapping[str, Any]) -> None:
        if self._form == "csv":
            self._rows.writerow([_cell(name, line.get(name)) for name in COLUMNS])
        else:
            self._file.write(_dump(line) + "\n")


_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _cell(name: str, value: object) -> object:
    if value is None:
        return ""
    return _dump(value) if name in _JSON_COLUMNS or isinstance(value, bool) else value
