"""What a line of usage says: an event as callers write it, or a fact as an export has it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, TypeAlias

from pydantic_core import to_json

from mm_metering.backends.bulk import Stated
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.events import MAX_QUANTITY, UsageEvent, aware, metadata_json
from mm_metering.core.facts import Count, Fact, flaw
from mm_metering.core.identity import event_id, resource_name, tenant_id
from mm_metering.core.money import exact, to_nanos
from mm_metering.errors import InvalidEvent, InvalidInput
from mm_metering.gate.stated import Stating, counts_in, not_ahead, payload_digest
from mm_metering.usage.plain import Plain

Item: TypeAlias = UsageEvent | Mapping[str, object] | InvalidInput | None
"""An event, its fields, why it could not be read, or nothing: a line without an event."""
EXPORTED: Final = ("use", "set", "add")
"""Kinds of facts that an export has."""
MAX_COUNTS: Final = 64
_FACT: Final = frozenset(
    {"tenant", "kind", "id", "event_type", "resource", "quantity", "occurred_at", "cost", "counts"}
    | {"success", "metadata"}
)


class Reader:
    """Makes items facts with the claims of their ids."""

    def __init__(self, catalogue: Catalogue, stating: Stating) -> None:
        self._catalogue = catalogue
        self._stating = stating
        self._plain = Plain(stating)

    def __call__(self, item: Item, now_us: int) -> Stated | None:
        """None where there is nothing. InvalidInput names the field and the bound."""
        if type(item) is dict and (found := self._plain(item, now_us)) is not None:
            return found
        match item:
            case None:
                return None
            case UsageEvent():
                return self._event(item, now_us)
            case Mapping():
                if item.get("kind") is not None:
                    return self._exported(item, now_us)
                return self._event(UsageEvent.model_validate(event_fields(item)), now_us)
            case InvalidInput():
                raise item
        raise InvalidEvent("event", f"expected a UsageEvent or its fields, got {type(item).__name__}")

    def _event(self, event: UsageEvent, now_us: int) -> Stated:
        if event.id is None:
            raise InvalidEvent("id", "is missing; each event needs its own, so that it is recorded once")
        fact = _sound(self._stating.fact(event, now_us))
        return Stated(fact, event.id, payload_digest(event))

    def _exported(self, row: Mapping[str, object], now_us: int) -> Stated:
        """A fact keeps its id: read into the ledger that it came from, it is a duplicate."""
        if unknown := sorted(row.keys() - _FACT):
            raise InvalidEvent(unknown[0], "is no field of an exported fact")
        if row["kind"] not in EXPORTED:
            raise InvalidEvent("kind", f"{str(row['kind'])[:40]!r} is none of {', '.join(EXPORTED)}")
        quantity, cost, success = row.get("quantity", 1), row.get("cost"), row.get("success", True)
        if type(quantity) is not int or abs(quantity) > MAX_QUANTITY:
            raise InvalidEvent("quantity", f"{str(quantity)[:40]} is not a whole number within 2**53")
        if type(success) is not bool:
            raise InvalidEvent("success", "is neither true nor false")
        metadata = row.get("metadata")
        event_type, resource = str(row.get("event_type") or ""), resource_name(row.get("resource"))
        nanos = None if cost is None else to_nanos(exact(cost, "cost"))
        fact = Fact(
            id=event_id(row.get("id")),
            occurred_us=not_ahead(aware(row.get("occurred_at"), "occurred_at"), now_us),
            kind=str(row["kind"]),
            tenant=tenant_id(row.get("tenant")),
            event_type=event_type,
            resource=resource,
            quantity=quantity,
            cost_nanos=nanos,
            counts=self._counts(row.get("counts"), event_type, resource, quantity, nanos or 0),
            success=success,
            metadata=None if metadata is None else metadata_json(metadata),
        )
        return Stated(_sound(fact), fact.id, sha256(to_json([*fact])).digest())

    def _counts(self, given: object, event_type: str, resource: str, quantity: int, nanos: int) -> tuple[Count, ...]:
        if given is None:
            return counts_in(self._stating.meters(event_type, resource), quantity, nanos)
        if not isinstance(given, list | tuple) or len(given) > MAX_COUNTS:
            raise InvalidEvent("counts", f"is not a list of at most {MAX_COUNTS} of [meter, scope, amount]")
        counts = tuple(map(_count, given))
        for count in counts:
            self._catalogue.meter(count.meter)
        return counts


def event_fields(row: Mapping[str, object]) -> dict[str, object]:
    """Of an event: ``model`` is the resource of an AI event, and a field that is null is not there."""
    fields = {name: value for name, value in row.items() if value is not None}
    model = fields.pop("model", None)
    if model is not None and fields.setdefault("resource", model) != model:
        raise InvalidEvent("model", f"{str(model)[:60]!r} is not the resource; one of the two is enough")
    return fields


def _count(given: object) -> Count:
    match given:
        case [str() as meter, str() as scope, int() as amount] if type(amount) is int:
            return Count(meter, scope, amount)
    raise InvalidEvent("counts", f"{str(given)[:60]} is not [meter, scope, amount]")


def _sound(fact: Fact) -> Fact:
    if why := flaw(fact):
        raise InvalidEvent("event", why)
    return fact
