"""The fact of an event that somebody states, and what tells two payloads under one id apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic_core import to_json

from mm_metering.core.catalogue import Catalogue, Meter
from mm_metering.core.cells import MAX_LEVEL
from mm_metering.core.events import MAX_AHEAD_S, UsageEvent, metadata_json
from mm_metering.core.facts import Count, Fact
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidEvent
from mm_metering.gate.windows import default_cost


class Stating:
    """Makes facts of events as the catalogue has it. ``new_id`` is for those without an id of the caller's."""

    def __init__(self, catalogue: Catalogue, new_id: Callable[[], str]) -> None:
        self._catalogue = catalogue
        self._new_id = new_id

    def fact(self, event: UsageEvent, now_us: int) -> Fact:
        """InvalidEvent for a type that no meter counts, a quantity or an instant out of bounds."""
        meters = self.meters(event.event_type, event.resource)
        level = any(meter.aggregation == "level" for meter in meters)
        if level and event.quantity > MAX_LEVEL:
            raise InvalidEvent("quantity", f"is too large for a level; the most is 2**40 = {MAX_LEVEL:,}")
        if not event.quantity and not level:
            raise InvalidEvent("quantity", "0 is not allowed; the least is 1")
        cost = to_nanos(event.cost) if event.cost is not None else default_cost(meters, event.quantity)
        return Fact(
            id=derived_id(event.id) if event.id is not None else self._new_id(),
            occurred_us=now_us if event.occurred_at is None else not_ahead(event.occurred_at, now_us),
            kind="set" if level else "use",
            tenant=event.tenant,
            event_type=event.event_type,
            resource=event.resource,
            quantity=event.quantity,
            cost_nanos=cost,
            counts=counts_in(meters, event.quantity, cost or 0) if event.success else (),
            success=event.success,
            metadata=None if event.metadata is None else metadata_json(event.metadata),
        )

    def meters(self, event_type: str, resource: str) -> tuple[Meter, ...]:
        """Where such an event counts; InvalidEvent for a type that no meter counts."""
        known = {meter.event for meter in self._catalogue.meters.values() if meter.event}
        if event_type not in known:
            choices = ", ".join(sorted(known))
            raise InvalidEvent("event_type", f"no meter counts {event_type!r}; the catalogue counts {choices}")
        return self._catalogue.meters_of(event_type, resource)


def not_ahead(moment: datetime, now_us: int) -> int:
    """The instant, or InvalidEvent for one that lies more than MAX_AHEAD_S in the future."""
    occurred_us = micros(moment)
    if occurred_us > now_us + MAX_AHEAD_S * 1_000_000:
        ahead_s = (occurred_us - now_us) // 1_000_000
        raise InvalidEvent("occurred_at", f"lies {ahead_s} s in the future; the most is {MAX_AHEAD_S} s")
    return occurred_us


def counts_in(meters: Sequence[Meter], quantity: int, cost_nanos: int) -> tuple[Count, ...]:
    return tuple(Count(meter.name, "", cost_nanos if meter.unit == "money" else quantity) for meter in meters)


def derived_id(event_id: str) -> str:
    """The fact's id of a caller's event id. Ours are hex; the prefix keeps the two apart."""
    return "x" + hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()


def payload_digest(event: UsageEvent) -> bytes:
    """Equal for equal payloads. An instant that was not given is not part of it: a retry may come later."""
    payload = event.model_dump(exclude={"tenant", "id"}, exclude_none=True)
    return hashlib.sha256(to_json(_in_order(payload))).digest()


def _in_order(value: object) -> object:
    if isinstance(value, dict):
        return [[key, _in_order(value[key])] for key in sorted(value)]
    return [_in_order(each) for each in value] if isinstance(value, list | tuple) else value
