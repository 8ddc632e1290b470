"""What is sent: an event's body, the same bytes in every attempt and at every endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mm_metering.core.cards import refuse_card
from mm_metering.core.collecting import Notice
from mm_metering.core.event_types import EVENT_TYPES, EventType, told
from mm_metering.core.strict_json import check_depth
from mm_metering.errors import InvalidInput

MAX_DATA_BYTES: Final = 20_000


def body_of(notice: Notice, known: Mapping[str, EventType] = EVENT_TYPES) -> bytes:
    """``{"type", "version", "timestamp", "data"}``; the timestamp is when it happened."""
    name, data = told(notice.type, notice.data)
    version = known[name].version if name in known else 1
    happened = f"{notice.made_at:%Y-%m-%dT%H:%M:%S.%fZ}"
    return _json({"type": name, "version": version, "timestamp": happened, "data": data}).encode()


def checked_data(data: object) -> Mapping[str, Any]:
    """A host's data, as it will be read; InvalidInput for what is no JSON or too large."""
    if not isinstance(data, Mapping):
        raise InvalidInput("data", f"expected a mapping, got {type(data).__name__}")
    try:
        check_depth(dict(data))
        text = _json(dict(data))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:  # also a lone surrogate
        way = "write amounts and instants as text"
        raise InvalidInput("data", f"cannot be written as JSON ({type(error).__name__}); {way}") from None
    if size > MAX_DATA_BYTES:
        raise InvalidInput("data", f"is {size:,} bytes as JSON; the most is {MAX_DATA_BYTES:,}: send an id to look up")
    found: Mapping[str, Any] = json.loads(refuse_card(text, "data"))
    return found


def is_metered(notice: Notice) -> bool:
    """Whether a delivery of it is usage of the tenant: what the host sends is, what the house tells never."""
    name, _ = told(notice.type, notice.data)
    return notice.source == "host" and (name not in EVENT_TYPES or EVENT_TYPES[name].of_host)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
