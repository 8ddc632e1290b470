"""The text of a plans file (TOML) as a Catalogue, with the line of whatever is wrong in it.

tomllib parses and knows no lines; the scanner here finds the line of a key path, and only once there is an error.
It relies on tomllib having accepted the text, and falls back to the nearest enclosing table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.catalogue_layout import read_catalogue
from mm_metering.core.schema import KeyPath, Place
from mm_metering.errors import CatalogueError

MAX_FILE_CHARS = 2_000_000
_MAX_DEPTH = 12
_TOKEN = re.compile(
    r"""
      (?P<skip> [ \t\r]+ | \#[^\n]* )
    | (?P<text> "{3}(?:\\.|(?!"{3})[^\\])*+"{0,5} | '{3}(?:(?!'{3}).)*+'{0,5} | "(?:\\.|[^"\\\n])*+"? | '[^'\n]*+'? )
    | (?P<ends> \n (?: [ \t\r]*+ (?:\#[^\n]*+)? \n )*+ )
    | (?P<mark> [\[\]{}=,.] )
    | (?P<word> [^\s\[\]{}=,.\#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_DEEP_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*"|'[^'\n]*')[ \t]*+\.[ \t]*+){32}""", re.ASCII)
_TOML_ERROR = re.compile(r"(.*) \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)", re.DOTALL)
_ENDS = frozenset((",", "]", "}", "\n", ""))


class WrittenFloat(float):
    """A float that remembers its text, so that an error can quote what the file says."""

    written: str

    def __new__(cls, text: str) -> WrittenFloat:
        number = super().__new__(cls, text)
        number.written = text
        return number


def parse(text: str, file: str) -> Catalogue:
    """The catalogue that the text of ``file`` describes; CatalogueError with file and line otherwise."""
    return read_catalogue(*toml(text, file))


def toml(text: str, file: str) -> tuple[dict[str, object], Place]:
    """The tree of a TOML text, and where it stands; CatalogueError with file and line if it is none."""
    return _toml(text, file), Place(file=file, line_of=lambda path: _nearest(lines_of(text), path))


def lines_of(text: str) -> dict[KeyPath, int]:
    """The 1-based line of every key path in a valid TOML text; list items have their index as a key."""
    scanner = _Scanner(text)
    with suppress(ValueError, RecursionError):  # what was found until then still says where to look
        scanner.document()
    return scanner.lines


def _toml(text: str, file: str) -> dict[str, object]:
    if len(text) > MAX_FILE_CHARS:
        raise CatalogueError(f"{len(text):,} characters; a plans file has at most {MAX_FILE_CHARS:,}", file=file)
    if deep := _DEEP_KEY.search(text):  # tomllib's time and memory grow with the square of a key's parts
        line = text.count("\n", 0, deep.start()) + 1
        raise CatalogueError("a key of more than 32 parts; a plans file needs six", file=file, line=line)
    try:
        return tomllib.loads(text, parse_float=WrittenFloat)
    except RecursionError:
        raise CatalogueError("brackets are nested too deeply; a plans file needs four levels", file=file) from None
    except ValueError as error:
        raise _syntax_error(str(error), text, file) from None


def _syntax_error(message: str, text: str, file: str) -> CatalogueError:
    found = _TOML_ERROR.fullmatch(message)
    if found is None:
        return CatalogueError(f"not valid TOML: {message[:200]}", file=file)
    what, line, column = found.groups()
    last_line = text.count("\n", 0, len(text.rstrip())) + 1
    place = f"column {column}" if column else "the text ends too early"
    return CatalogueError(f"not valid TOML: {what[:200]} ({place})", file=file, line=int(line or last_line))


def _nearest(lines: dict[KeyPath, int], path: KeyPath) -> int:
    return next(lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in lines)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "skip":
            yield "\n" if found.lastgroup == "ends" else found[0], line
        line += found[0].count("\n")


class _Scanner:
    """Walks tables, keys and values, and notes the line where each key path first stands."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {(): 1}
        self._tokens = list(_tokens(text.replace("\r\n", "\n")))
        self._next = 0
        self._last_items: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while (token := self._peek(over_newlines=True)) != "":
            if token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        """[a.b] or [[a.b]]; an item of an array of tables gets its index, and later headers mean the last item."""
        line = self._line()
        self._take()
        is_item = self._peek() == "["
        if is_item:
            self._take()
        path: KeyPath = ()
        keys = self._keys()
        for depth, key in enumerate(keys, start=1):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if is_item and depth == len(keys):
                self._last_items[path] = self._last_items.get(path, -1) + 1
            if path in self._last_items:
                path = (*path, self._last_items[path])
        self.lines[path] = line
        while self._peek() not in ("\n", ""):
            self._take()
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._take()  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        """The parts of a dotted key, without the dots; deeper ones than any rule needs are dropped."""
        keys: list[str] = []
        while (token := self._peek()) not in ("=", "]", "\n", ""):
            if token != "." and len(keys) < _MAX_DEPTH:
                keys.append(_unquoted(token))
            self._take()
        return keys

    def _value(self, path: KeyPath) -> None:
        first = self._peek()
        if first == "[":
            self._items(path)
        elif first == "{":
            self._inline_table(path)
        else:
            while self._peek() not in _ENDS:
                self._take()

    def _items(self, path: KeyPath) -> None:
        self._take()
        index = 0
        while (token := self._peek(over_newlines=True)) not in ("]", ""):
            if token in _ENDS:  # a comma; in broken text any other end, which must not stop us here for ever
                self._take()
                continue
            item = (*path[:_MAX_DEPTH], index)
            self.lines.setdefault(item, self._line())
            self._value(item)
            index += 1
        self._take()

    def _inline_table(self, path: KeyPath) -> None:
        self._take()
        while (token := self._peek(over_newlines=True)) not in ("}", ""):
            if token == ",":
                self._take()
            else:
                self._pair(path[:_MAX_DEPTH])
        self._take()

    def _peek(self, *, over_newlines: bool = False) -> str:
        while over_newlines and self._next < len(self._tokens) and self._tokens[self._next][0] == "\n":
            self._next += 1
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else 1

    def _take(self) -> None:
        self._next += 1


def _unquoted(token: str) -> str:
    if token[0] not in "\"'":
        return token
    return str(tomllib.loads(f"key = {token}")["key"]) if "\\" in token and token[0] == '"' else token[1:-1]
