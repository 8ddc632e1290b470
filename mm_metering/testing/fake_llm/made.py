"""What was asked, what is to be answered, and how many tokens that is.

A token is a word with the blanks after it. What is read is all text of the request: instructions and messages, without
roles, tools or pictures, and never less than 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

Thing: TypeAlias = dict[str, Any]

_TOKEN: Final = re.compile(r"\S+\s*|\s+")
_READ: Final = ("system", "instructions", "messages", "input")
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NO_TIER: Final = frozenset({None, "auto", "standard_only"})


def tokens_in(text: str) -> list[str]:
    """Its words, each with the blanks after it: put together they are the text."""
    return _TOKEN.findall(text)


class Asked(NamedTuple):
    """A request as it came. ``fault``: how it was made to go wrong."""

    path: str
    model: str
    max_tokens: int | None
    is_stream: bool
    body: Thing
    fault: str | None = None

    @property
    def texts(self) -> list[str]:
        """All that is there to read, in its order."""
        return [text for name in _READ for text in _texts(self.body.get(name))]


def max_tokens_of(body: Thing) -> int | None:
    """The least of the limits that the request has, by whatever name."""
    return min((body[name] for name in _LIMITS if body.get(name) is not None), default=None)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    if isinstance(value, dict):
        return [text for name in ("content", "text") for text in _texts(value.get(name))]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What to answer. None: by the rule."""

    text: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    model: str | None = None
    service_tier: str | None = None
    chunks: int = 8
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.output_tokens is not None and self.reasoning_tokens > self.output_tokens:
            raise ValueError(f"reasoning_tokens {self.reasoning_tokens} is more than the output {self.output_tokens}")
        if self.input_tokens is not None and self.cached_tokens > self.input_tokens:
            raise ValueError(f"cached_tokens {self.cached_tokens} is more than the input {self.input_tokens}")
        if self.chunks < 1:
            raise ValueError(f"chunks is {self.chunks}; a text comes in at least 1")


class Piece(NamedTuple):
    """A chunk of a text, and the tokens that it carries."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An answer: ``input`` has ``cached`` in it, ``output`` has ``reasoning``. ``has_usage``: whether it says so.

    ``unseen``: tokens that are in no piece; they are produced before the first.
    """

    id: str
    created: int
    model: str
    tier: str | None
    input: int
    cached: int
    output: int
    reasoning: int
    is_cut: bool
    pieces: tuple[Piece, ...]
    has_usage: bool = True

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def unseen(self) -> int:
        return self.output - sum(piece.tokens for piece in self.pieces)


def made_of(asked: Asked, script: Script, *, id_: str, created: int, has_usage: bool) -> Made:
    """The answer, cut off where the request's limit is reached."""
    read = script.input_tokens
    if read is None:
        read = max(sum(len(tokens_in(text)) for text in asked.texts), 1)
    words, wanted = _words(asked, script)
    output = wanted if asked.max_tokens is None else min(wanted, asked.max_tokens)
    reasoning = min(script.reasoning_tokens, output)
    shown = output - reasoning
    if output < wanted:
        whole = wanted - script.reasoning_tokens
        words = words[: len(words) * shown // whole] if whole else []
    tier = asked.body.get("service_tier")
    return Made(
        id=id_,
        created=created,
        model=script.model or asked.model,
        tier=script.service_tier or (None if tier in _NO_TIER else tier),
        input=read,
        cached=min(script.cached_tokens, read),
        output=output,
        reasoning=reasoning,
        is_cut=output < wanted,
        pieces=_pieces(words, shown, script.chunks),
        has_usage=has_usage,
    )


def _words(asked: Asked, script: Script) -> tuple[list[str], int]:
    """The words of the whole text, and the tokens that it and the reasoning are said to be."""
    if script.text is not None or script.output_tokens is None:
        text = script.text if script.text is not None else (asked.texts or [""])[-1]
        words = tokens_in(text)
        said = len(words) + script.reasoning_tokens
        return words, said if script.output_tokens is None else script.output_tokens
    return ["word "] * (script.output_tokens - script.reasoning_tokens), script.output_tokens


def _pieces(words: list[str], tokens: int, chunks: int) -> tuple[Piece, ...]:
    """As equal as they can be."""
    count = min(chunks, len(words))
    return tuple(
        Piece(
            "".join(words[len(words) * at // count : len(words) * (at + 1) // count]),
            tokens * (at + 1) // count - tokens * at // count,
        )
        for at in range(count)
    )
