"""Card numbers in texts: found by issuer, length, grouping and check digit, so that few ids and no times are taken for
one.

Nobody has to send us one; who does is refused, or the number is masked, before anything is stored or logged. Letters,
digits and underscores beside a number make it part of an id. Thirteen digits that begin with 4 are the bar code of an
article far more often than a card, and are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mm_metering.errors import InvalidInput

# The first and the last prefix of each range, and the lengths that are issued in it (ISO/IEC 7812-1 and the schemes).
_ISSUED: Final = (
    ("4", "4", (16, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("300", "305", (14, 16)),
    ("3095", "3095", (14, 16)),
    ("36", "36", (14, 16)),
    ("38", "39", (14, 16)),
    ("3528", "3589", (16, 19)),
    ("6011", "6011", (16, 19)),
    ("62", "62", (16, 17, 18, 19)),
    ("644", "659", (16, 19)),
    ("81", "82", (16, 17, 18, 19)),
    ("2200", "2204", (16, 19)),
    ("5018", "5018", (13, 14, 15, 16, 18, 19)),
    ("5020", "5020", (13, 14, 15, 16, 18, 19)),
    ("5038", "5038", (13, 14, 15, 16, 18, 19)),
    ("506", "509", (16, 18, 19)),
    ("5893", "5893", (13, 14, 15, 16, 18, 19)),
    ("606", "608", (16,)),
    ("6304", "6304", (13, 14, 15, 16, 18, 19)),
    ("6362", "6363", (16,)),
    ("6759", "6763", (13, 14, 15, 16, 18, 19)),
    ("9792", "9792", (16,)),
)
_SEPARATOR: Final = "[ \\-.\u00a0\u2009\u202f\u2010\u2011\u2013]"
_RUN: Final = re.compile(rf"[0-9](?:{_SEPARATOR}?[0-9]){{12,}}")
"""Digits with at most one separator between two of them: perhaps several numbers in a row. It begins with a plain set
of characters, by which most texts are passed over at C speed."""
_ID_BEFORE: Final = re.compile(r"\w\Z|[0-9][.,]\Z")
_ID_AFTER: Final = re.compile(r"\w")
_GROUP: Final = re.compile("[0-9]+")
_MOST_GROUPS: Final = 5
_GROUPINGS: Final = frozenset(
    {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13), (4, 4, 4, 2), (4, 4, 4, 3)}
)
"""How the digits of a card are printed in groups."""


def has_card(text: str) -> bool:
    """Whether the text holds what looks like a card number."""
    return _RUN.search(text) is not None and next(_found(text), None) is not None


def masked(text: str) -> str:
    """The text with each card number as its last four digits: ``•••• 4242``."""
    parts, at = list[str](), 0
    for start, end in _found(text):
        last = "".join(_GROUP.findall(text[start:end]))[-4:]
        parts += (text[at:start], f"•••• {last}")
        at = end
    return "".join((*parts, text[at:])) if parts else text


def refuse_card(text: str, field: str, error: type[InvalidInput] = InvalidInput) -> str:
    """The text itself, or an error that does not repeat it."""
    if has_card(text):
        raise error(field, "holds what looks like a card number; leave it out: card numbers are never stored")
    return text


def _found(text: str) -> Iterator[tuple[int, int]]:
    """Where each of them begins and ends, from left to right and without overlaps."""
    for run in _RUN.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            size = _card_of(text, groups[first : first + _MOST_GROUPS])
            if size:
                yield groups[first][0], groups[first + size - 1][1]
            first += size or 1


def _card_of(text: str, groups: list[tuple[int, int]]) -> int:
    """How many of the first groups are a card number; 0 if none is."""
    for size in range(1, len(groups) + 1):
        sizes = tuple(end - start for start, end in groups[:size])
        if size == 1 or sizes in _GROUPINGS:
            digits = "".join(text[start:end] for start, end in groups[:size])
            if _is_issued(digits) and luhn(digits) and _stands_alone(text, groups[0][0], groups[size - 1][1]):
                return size
    return 0


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether it is neither part of an id nor the digits of a fraction."""
    return not (_ID_BEFORE.search(text[max(0, start - 2) : start]) or _ID_AFTER.match(text, end))


def _is_issued(digits: str) -> bool:
    return any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _ISSUED)


_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Whether the last one is Luhn's check digit of the others (ISO/IEC 7812-1, annex B)."""
    numbers = [int(each) for each in reversed(digits)]
    return (sum(numbers[::2]) + sum(_DOUBLED[each] for each in numbers[1::2])) % 10 == 0
