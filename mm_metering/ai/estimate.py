"""How many tokens a text or a request will be, before a provider has counted them: a third of its UTF-8 bytes.

That is right or too much for prose, code and JSON in every script that was measured (docs/benchmarks.md holds none
below 0.69 of the truth), and needs no vocabulary. Images, sound and files are counted apart, a fixed number each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from mm_metering.errors import InvalidInput

BYTES_PER_TOKEN: Final = 3
ALLOWANCES: Final[Mapping[str, int]] = MappingProxyType(
    {"image": 1_600, "audio": 2_000, "file": 5_000, "video": 16_000}
)
"""Tokens for one part that is not text. They move the hold only: what the provider counts is what is charged."""

_KINDS: Final = {"document": "file"}
_TYPED = re.compile(r'"type": "(?:input_)?(image|audio|file|document|video)(?:_url)?"')
_KEYED = re.compile(  # Gemini's parts say a MIME type, Bedrock's a format
    r'"(?:inline_data|inlineData|file_data|fileData)": \{"(?:mime_type|mimeType)": "(image|audio|video|\w+)[/"]'
    r'|"(image|document|audio|video)": \{"format"'
)
_BLOB = re.compile(
    r'"(?:data|url|image_url|file_data|b64_json|bytes|image_bytes|imageBytes|fileUri)": '
    r'"(?:data:[^"]{0,200};base64,)?[A-Za-z0-9+/_=-]{256,}"'
)
_HINTS: Final = ('"data": "', ";base64,", '"file_data": "', '"b64_json": "', '"bytes": "', 'ytes": "')


def tokens_of(size_bytes: int) -> int:
    """A third of the bytes, rounded up."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def input_tokens(prompt: object, *, tools: object = None, tokenizer: Callable[[str], int] | None = None) -> int:
    """What ``prompt`` (a text, messages, or anything like JSON) and the definitions of ``tools`` will count.

    ``tokenizer`` tells the tokens of a text better, where the host has one. InvalidInput for what is nested so deeply
    that no provider would take it.
    """
    if isinstance(prompt, str) and tools is None:
        return _tokens(prompt, tokenizer)
    blobs = _Blobs()
    text = "".join(
        part if isinstance(part, str) else _dumped(part, blobs) for part in (prompt, tools) if part is not None
    )
    if any(hint in text for hint in _HINTS):
        text = _BLOB.sub(blobs, text)
    parts = _parts(text)
    unnamed = max(blobs.count - len(parts), 0)
    allowance = sum(ALLOWANCES[kind] for kind in parts) + unnamed * ALLOWANCES["file"]
    return _tokens(text, tokenizer) + allowance


def _tokens(text: str, tokenizer: Callable[[str], int] | None) -> int:
    return tokens_of(utf8_bytes(text)) if tokenizer is None else tokenizer(text)


def _parts(text: str) -> list[str]:
    """The kinds of the parts that are not text. Quotes inside of a text are escaped, so that none is taken for one."""
    names = [match[1] for match in _TYPED.finditer(text)]
    names += [match[1] or match[2] for match in _KEYED.finditer(text)]
    kinds = (_KINDS.get(name, name) for name in names)
    return [kind if kind in ALLOWANCES else "file" for kind in kinds]


class _Blobs:
    """Counts what is taken out of the text."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, found: re.Match[str]) -> str:
        self.count += 1
        return '""'

    def plain(self, value: object) -> object:
        """For ``json.dumps``: what it cannot write itself."""
        if isinstance(value, bytes | bytearray | memoryview):
            self.count += 1
            return ""
        dump = getattr(value, "model_dump", None)
        if callable(dump):
            return dump()
        if isinstance(value, set | frozenset):
            return list(value)
        if isinstance(value, Mapping):
            return dict(value)
        return getattr(value, "__dict__", None) or str(value)


def _dumped(value: object, blobs: _Blobs) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=blobs.plain, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("input", "is nested in itself or too deeply to be sent; send plain messages") from error
