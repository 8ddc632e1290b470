"""What may name a tenant, an event or a resource: any text that every store can hold, injectively."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Final

from mm_metering.core.cards import refuse_card
from mm_metering.errors import InvalidEvent, InvalidInput, InvalidTenant

CANARY: Final = "mm-metering:canary"
"""The tenant of the check-up's own event. No run over tenants meets it."""
MAX_ID_BYTES: Final = 256
MAX_RESOURCE_BYTES: Final = 512


def tenant_id(value: object) -> str:
    """The id itself, or InvalidTenant: 1 to 256 UTF-8 bytes, no control characters, no lone surrogates."""
    return _text(value, "tenant", MAX_ID_BYTES, InvalidTenant)


def event_id(value: object) -> str:
    """A caller's event id: the same bounds as a tenant id."""
    return _text(value, "id", MAX_ID_BYTES, InvalidEvent)


def resource_name(value: object) -> str:
    """What was used: a route template, a model, an export type; 1 to 512 UTF-8 bytes without control characters, and no
    card number."""
    return refuse_card(_text(value, "resource", MAX_RESOURCE_BYTES, InvalidEvent), "resource", InvalidEvent)


def derived_id(prefix: str, *parts: object) -> str:
    """Equal for equal parts, on every machine and in every run: "inv_" and 24 hex digits."""
    return f"{prefix}_{sha256(json.dumps(parts).encode()).hexdigest()[:24]}"


def _text(value: object, field: str, most_bytes: int, error: type[InvalidInput]) -> str:
    if not isinstance(value, str):
        raise error(field, f"expected text, got {type(value).__name__}")
    if value.isascii() and value.isprintable() and 0 < len(value) <= most_bytes:  # the common case, at C speed
        return value
    try:
        size = len(value.encode())
    except UnicodeEncodeError as problem:
        raise error(field, f"holds a lone surrogate at position {problem.start}; it must be valid UTF-8") from None
    if not 1 <= size <= most_bytes:
        raise error(field, f"is {size} bytes long; it must have 1 to {most_bytes} UTF-8 bytes")
    for position, character in enumerate(value):
        if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0:
            raise error(field, f"holds the control character U+{ord(character):04X} at position {position}")
    return value
