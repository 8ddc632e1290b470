"""JSON from outside, read in one way only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Objects and arrays inside one another."""


def loads(text: str | bytes) -> Any:
    """The value. ValueError for what readers differ in, or fall over: a name twice in an object, NaN and infinite
    numbers, more than 64 levels, and what is no JSON or no UTF-8."""
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        value = json.loads(plain, object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"has more than {MAX_DEPTH} levels") from None
    check_depth(value)
    return value


def check_depth(value: object) -> None:
    """ValueError for one with more than 64 levels."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [each for outer in level for each in _parts(outer) if isinstance(each, dict | list | tuple)]
        if not level:
            return
    raise ValueError(f"has more than {MAX_DEPTH} levels")


def _parts(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return tuple(value.values())
    return value if isinstance(value, list | tuple) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("has a name twice in one object")
    return found


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number
