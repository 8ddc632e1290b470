"""Usual events, read fast: what most lines of a file are. ``UsageEvent`` and ``Stating`` say the same, a test shows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import sha256
from typing import Final, NamedTuple

from pydantic_core import to_json

from mm_metering.backends.bulk import Stated
from mm_metering.core.catalogue import Meter
from mm_metering.core.events import MAX_AHEAD_S, MAX_QUANTITY, UsageEvent
from mm_metering.core.facts import MOST, Count, Fact
from mm_metering.core.identity import MAX_ID_BYTES, tenant_id
from mm_metering.core.money import non_negative, to_nanos
from mm_metering.core.periods import EPOCH, micros
from mm_metering.errors import InvalidInput
from mm_metering.gate.stated import Stating, derived_id
from mm_metering.gate.windows import default_cost

MOST_KNOWN: Final = 10_000
"""Tenants, and kinds of events, that are remembered as sound."""
AHEAD_US: Final = MAX_AHEAD_S * 1_000_000
_FIRST_US: Final = micros(datetime(2000, 1, 1, tzinfo=UTC))
_LAST_US: Final = micros(datetime(9998, 1, 1, tzinfo=UTC))


class Kind(NamedTuple):
    """What events of one type and resource have in common. ``head`` and ``tail`` are parts of their digest's text."""

    meters: tuple[Meter, ...]
    names: tuple[str, ...]
    is_plain: bool
    has_cost: bool
    head: str
    tail: str


NOT_PLAIN: Final = Kind((), (), is_plain=False, has_cost=False, head="", tail="")
_REST: Final = (True, None, None)
"""What such facts end with."""
_new_fact: Final = partial(tuple.__new__, Fact)
_new_stated: Final = partial(tuple.__new__, Stated)


class Plain:
    """Reads the fields of an event that has none but the usual ones, and is of a sum."""

    def __init__(self, stating: Stating) -> None:
        self._stating = stating
        self._tenants: set[str] = set()
        self._kinds: dict[tuple[str, str], Kind] = {}

    def __call__(self, row: Mapping[str, object], now_us: int) -> Stated | None:
        """None for all that is not plainly right: whoever asks looks at it closely then."""
        try:
            tenant, event_id, event_type, resource = row["tenant"], row["id"], row["event_type"], row["resource"]
            instant = _instant(row["occurred_at"])
        except KeyError:
            return None
        if type(tenant) is not str or type(event_type) is not str or type(resource) is not str:
            return None
        quantity, cost = row.get("quantity", 1), row.get("cost")
        kind = self._kinds.get((event_type, resource)) or self._new_kind(event_type, resource)
        if instant is None or not kind.is_plain or len(row) != 5 + ("quantity" in row) + ("cost" in row):
            return None
        if type(quantity) is not int or not 0 < quantity <= MAX_QUANTITY:
            return None
        if type(event_id) is not str or not (0 < len(event_id) <= MAX_ID_BYTES and event_id.isascii()):
            return None
        if not event_id.isprintable() or not (tenant in self._tenants or self._is_tenant(tenant)):
            return None
        nanos, said = _NO_COST if cost is None else _cost(cost)
        if cost is None and kind.has_cost:
            nanos = default_cost(kind.meters, quantity)
        occurred_us, text = instant
        if occurred_us > now_us + AHEAD_US or (nanos is not None and not 0 <= nanos <= MOST):
            return None
        counts = _counts(kind.names, quantity)
        fact = Fact(derived_id(event_id), occurred_us, "use", tenant, event_type, resource, quantity, nanos, counts)
        payload = f'[{said}{kind.head}{text}Z"],["quantity",{quantity}{kind.tail}'
        return _new_stated((fact, event_id, sha256(payload.encode()).digest()))

    def _is_tenant(self, tenant: str) -> bool:
        try:
            name = tenant_id(tenant)
        except InvalidInput:
            return False
        if len(self._tenants) >= MOST_KNOWN:
            self._tenants.clear()
        self._tenants.add(name)
        return True

    def _new_kind(self, event_type: str, resource: str) -> Kind:
        if len(self._kinds) >= MOST_KNOWN:
            self._kinds.clear()
        kind = self._kinds[event_type, resource] = self._kind(event_type, resource)
        return kind

    def _kind(self, event_type: str, resource: str) -> Kind:
        try:
            UsageEvent(tenant="t", event_type=event_type, resource=resource)
            meters = self._stating.meters(event_type, resource)
        except InvalidInput:
            return NOT_PLAIN
        return Kind(
            meters,
            tuple(meter.name for meter in meters),
            is_plain=all(meter.aggregation == "sum" and meter.unit != "money" for meter in meters),
            has_cost=any(meter.cost is not None for meter in meters),
            head=f'["event_type","{event_type}"],["occurred_at","',
            tail=f'],["resource",{to_json(resource).decode()}],["success",true]]',
        )


@lru_cache(maxsize=4096)
def _counts(names: tuple[str, ...], quantity: int) -> tuple[Count, ...]:
    return tuple(Count(name, "", quantity) for name in names)


_NO_COST: Final[tuple[int | None, str]] = (None, "")
_NO_PRICE: Final[tuple[int | None, str]] = (-1, "")


def _cost(cost: object) -> tuple[int | None, str]:
    """In nano-units, and as the digest has it; -1 for what is none."""
    return _cost_of(cost) if type(cost) is str else _NO_PRICE


@lru_cache(maxsize=4096)
def _cost_of(text: str) -> tuple[int | None, str]:
    try:
        cost = non_negative(text, "cost")
    except InvalidInput:
        return _NO_PRICE
    return to_nanos(cost), f'["cost",{to_json(cost).decode()}],'


def _instant(when: object) -> tuple[int, str] | None:
    """In microseconds since 1970, and as text in UTC without its zone."""
    if type(when) is not str:
        return None
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        return None
    if moment.tzinfo is not UTC:
        if moment.tzinfo is None or moment.year in (1, 9999):
            return None
        moment = moment.astimezone(UTC)
    since = moment - EPOCH
    us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return (us, moment.isoformat()[:-6]) if _FIRST_US <= us < _LAST_US else None
