"""Reading replies that nobody promised anything about: SDK objects, dicts, and whatever a gateway made of them.

Nothing here raises.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from mm_metering.ai.estimate import utf8_bytes
from mm_metering.ai.usage import MAX_TOKENS

MAX_NODES: Final = 100_000
"""So many objects of a reply are looked at for text, and no more."""
MAX_WORD: Final = 200

_SCALARS = (str, bytes, int, float, list, tuple)
_TEXTS = frozenset(
    {
        *("text", "content", "thinking", "reasoning", "reasoning_content", "refusal", "arguments", "partial_json"),
        *("transcript", "code", "delta", "input", "output", "outputText", "completion", "generation", "response"),
    }
)
"""Under these names a model's own words are."""
_INNER = frozenset(
    {
        *("choices", "delta", "message", "content", "candidates", "parts", "output", "outputs", "results", "audio"),
        *("tool_calls", "function", "function_call", "functionCall", "toolUse", "tool_use", "thinking", "summary"),
        *("reasoningContent", "reasoningText", "contentBlockDelta", "content_block", "executableCode"),
        *("executable_code", "codeExecutionResult", "code_execution_result"),
    }
)
"""And under these is more that holds some."""
_OBJECTS = frozenset({"args", "input", "arguments"})


def get(thing: object, name: str) -> object:
    """The value of that key, field or attribute; None if there is none."""
    kind = type(thing)
    if kind is dict:
        return thing.get(name)  # type: ignore[attr-defined]
    if thing is None or kind in _SCALARS:
        return None
    try:
        if hasattr(kind, "__pydantic_fields__"):  # asking it for what it has not would cost microseconds
            return _field(thing, name)
        if isinstance(thing, Mapping):
            return thing.get(name)
        return None if isinstance(thing, _SCALARS) else getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a foreign object's attribute may raise anything
        return None


def _field(model: object, name: str) -> object:
    own = vars(model)
    if name in own:
        return own[name]
    extra = getattr(model, "__pydantic_extra__", None)
    return extra.get(name) if extra else None


def first(thing: object, *names: str) -> object:
    """The first of these that is there."""
    if thing is None:
        return None
    for name in names:
        value = get(thing, name)
        if value is not None:
            return value
    return None


def items(value: object) -> list[object]:
    """A list's entries; nothing for anything else."""
    return list(value[:MAX_NODES]) if isinstance(value, list | tuple) else []


def is_object(value: object) -> bool:
    """Whether it could have fields."""
    return value is not None and not isinstance(value, _SCALARS)


def word(value: object) -> str | None:
    """A name such as a model's: printable text of at most 200 characters, or an enum's value."""
    value = value.value if isinstance(value, Enum) else value
    if not isinstance(value, str) or len(value) > MAX_WORD:
        return None
    text = value.strip()
    return text if text and text.isprintable() else None


def whole(value: object) -> tuple[int | None, bool]:
    """A count, and whether it was written as one.

    Digits in a text are read, and a fraction is rounded up, but both are marked. Anything that is negative, too large,
    or no number is None.
    """
    match value:
        case bool():
            return None, False
        case int():
            return (value, True) if 0 <= value <= MAX_TOKENS else (None, False)
        case float():
            return (math.ceil(value), value.is_integer()) if 0 <= value <= MAX_TOKENS else (None, False)
        case str() if value.isascii() and value.isdigit() and len(value) <= 9:
            return int(value), False
        case _:
            return None, value is None


class Counts:
    """Reads counts out of a usage block, and remembers whether one of them was none."""

    def __init__(self) -> None:
        self.is_broken: bool = False

    def of(self, block: object, *names: str) -> int | None:
        """The first of these that is there; None if none is, or if it is no count."""
        value = first(block, *names)
        count, is_clean = whole(value)
        self.is_broken |= not is_clean
        return count

    def part(self, block: object, *names: str) -> int:
        """As ``of``, with 0 for nothing."""
        return self.of(block, *names) or 0


def text_bytes(reply: object) -> int:
    """The UTF-8 bytes that a model wrote in a reply or a chunk: text, reasoning, refusals, arguments of tools."""
    total, waiting = 0, deque([reply])
    for _ in range(MAX_NODES):
        if not waiting:
            break
        node = waiting.popleft()
        if isinstance(node, str):
            total += utf8_bytes(node)
        elif isinstance(node, list | tuple):
            waiting += node[:MAX_NODES]
        else:
            for key, value in _fields(node):
                if isinstance(value, str):
                    total += utf8_bytes(value) if key in _TEXTS else 0
                elif key in _OBJECTS and isinstance(value, Mapping):
                    total += _json_bytes(value)
                elif key in _INNER:
                    waiting.append(value)
    return total


def _fields(node: object) -> Iterable[tuple[object, object]]:
    """Keys and values of a mapping or an object; those beside a pydantic model's own too."""
    try:
        if isinstance(node, Mapping):
            return list(node.items())
        own = getattr(node, "__dict__", None)
        extra = getattr(node, "__pydantic_extra__", None)
        return [*(own.items() if isinstance(own, dict) else ()), *(extra.items() if isinstance(extra, dict) else ())]
    except Exception:  # noqa: BLE001 - a foreign object's attribute may raise anything
        return ()


def _json_bytes(value: Mapping[object, object]) -> int:
    try:
        return utf8_bytes(json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)) if value else 0
    except Exception:  # noqa: BLE001 - a foreign object's text may raise anything
        return 0
