"""Usage events as callers write them, checked at the door."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import to_json

from mm_metering.core import identity
from mm_metering.core.cards import refuse_card
from mm_metering.core.money import non_negative
from mm_metering.errors import InvalidEvent

MAX_QUANTITY: Final = 2**53 - 1
MAX_METADATA_BYTES: Final = 4096
MAX_AHEAD_S: Final = 300
"""An event may lie this far in the future, for clocks that differ; further is an error."""

_TYPE = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # escaped in JSON; a backslash before it would be text


class UsageEvent(BaseModel):
    """One thing a tenant used: an immutable fact.

    quantity is an int from 1 to 2**53 - 1 (a ``storage`` event states a level and may be 0); cost is what the
    thing cost you, exact and never a float; occurred_at is an aware datetime, now if absent. An ``id`` of your
    own makes recording idempotent for ever. ``success=False`` keeps the event out of quotas and invoices.
    Raises InvalidEvent, InvalidTenant or InvalidMoney naming the field and the bound.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    tenant: str
    event_type: str
    resource: str
    quantity: int = 1
    cost: Decimal | None = None
    metadata: Mapping[str, Any] | None = Field(default=None, repr=False)
    occurred_at: datetime | None = None
    id: str | None = None
    success: bool = Field(default=True, strict=True)

    @model_validator(mode="wrap")
    @classmethod
    def _say_which_field(cls, data: Any, handler: Any) -> UsageEvent:
        try:
            event: UsageEvent = handler(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "event"
            raise InvalidEvent(field, str(first["msg"])) from None
        return event

    @field_validator("tenant", mode="plain")
    @classmethod
    def _tenant(cls, value: object) -> str:
        return identity.tenant_id(value)

    @field_validator("event_type", mode="plain")
    @classmethod
    def _event_type(cls, value: object) -> str:
        if isinstance(value, str) and _TYPE.fullmatch(value):
            return value
        raise InvalidEvent("event_type", f"{str(value)[:40]!r} is not a name such as api_call (63 of a-z, 0-9, _)")

    @field_validator("resource", mode="plain")
    @classmethod
    def _resource(cls, value: object) -> str:
        return identity.resource_name(value)

    @field_validator("quantity", mode="plain")
    @classmethod
    def _quantity(cls, value: object, info: ValidationInfo) -> int:
        return whole_quantity(value, least=0 if info.data.get("event_type") == "storage" else 1)

    @field_validator("cost", mode="plain")
    @classmethod
    def _cost(cls, value: object) -> Decimal | None:
        return None if value is None else non_negative(value, "cost")

    @field_validator("metadata", mode="plain")
    @classmethod
    def _metadata(cls, value: object) -> Mapping[str, Any] | None:
        if value is not None:
            refuse_card(metadata_json(value), "metadata", InvalidEvent)
        return value  # type: ignore[return-value]

    @field_validator("occurred_at", mode="plain")
    @classmethod
    def _occurred_at(cls, value: object) -> datetime | None:
        return None if value is None else aware(value, "occurred_at")

    @field_validator("id", mode="plain")
    @classmethod
    def _id(cls, value: object) -> str | None:
        return None if value is None else identity.event_id(value)


def whole_quantity(value: object, *, least: int = 1, field: str = "quantity") -> int:
    """An int from ``least`` to 2**53 - 1, the largest whole number that every store compares exactly."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent(field, f"expected an int, got {type(value).__name__} {str(value)[:40]}")
    if value < least:
        raise InvalidEvent(field, f"{max(value, -MAX_QUANTITY)} is not allowed; the least is {least}")
    if value > MAX_QUANTITY:
        raise InvalidEvent(field, f"is too large; the most is 2**53 - 1 = {MAX_QUANTITY:,}")
    return value


def aware(value: object, field: str) -> datetime:
    """An aware datetime (or its ISO text) in UTC, between the years 2000 and 9998."""
    if isinstance(value, str):
        text = value
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidEvent(field, f"{text[:40]!r} is not an ISO 8601 instant") from None
    if not isinstance(value, datetime):
        raise InvalidEvent(field, f"expected an aware datetime, got {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidEvent(field, f"{value.isoformat()} has no time zone; add one, such as tzinfo=UTC")
    if not 2000 <= value.year <= 9998:
        raise InvalidEvent(field, f"the year {value.year} is out of range; 2000 to 9998")
    return value.astimezone(UTC)


def metadata_json(value: object) -> str:
    """The metadata as JSON of at most 4,096 bytes, or InvalidEvent."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidEvent("metadata", f"expected a mapping with text keys, got {type(value).__name__}")
    try:
        text = to_json(dict(value), inf_nan_mode="strings").decode()
    except (ValueError, RecursionError) as error:  # pydantic's serialization errors are ValueErrors
        raise InvalidEvent("metadata", f"cannot be written as JSON: {str(error)[:80]}") from None
    if _NUL.search(text):
        raise InvalidEvent("metadata", "holds a NUL character, which PostgreSQL cannot store")
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise InvalidEvent("metadata", f"is {len(text.encode())} bytes as JSON; the most is {MAX_METADATA_BYTES}")
    return text
