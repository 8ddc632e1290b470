"""Corrections of usage by hand. What is taken off comes out of cells of the same day and plan, so that none falls below
0: first out of the cell that corrections add to, then out of the largest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Final, Literal, NamedTuple

from pydantic_core import to_json

from mm_metering.backends.bulk import Correction, DayUse
from mm_metering.backends.ledger import ClaimRequest, Ledger
from mm_metering.clock import Clock
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.books import late_us, retired, too_late
from mm_metering.core.catalogue import Catalogue, Meter
from mm_metering.core.cells import Calendar, CellSum, event_meter
from mm_metering.core.events import MAX_QUANTITY, aware
from mm_metering.core.facts import Count, Fact
from mm_metering.core.identity import event_id, resource_name, tenant_id
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import refuse_forgotten
from mm_metering.errors import EventConflict, InvalidEvent
from mm_metering.gate.admission import Wish
from mm_metering.gate.gate import Gate
from mm_metering.gate.stated import not_ahead
from mm_metering.gate.windows import counted_meters, default_cost

MAX_REASON: Final = 500
ADJUSTED: Final = "a"
"""What the ids of corrections' facts begin with."""


class UsageAdjustment(NamedTuple):
    """A correction: ``before`` and ``after`` are the meter's units of that local ``day``, under the plan of then.
    ``late``: the month's invoice is final, so that the next one has the difference. "duplicate": it was made before,
    under the same id; the numbers are not known then."""

    id: str
    outcome: Literal["recorded", "duplicate"]
    tenant: str
    meter: str
    quantity: int
    day: date | None = None
    before: int = 0
    after: int = 0
    late: bool = False


class Asked(NamedTuple):
    """What is asked for, checked. ``own`` is the resource that corrections without one add to."""

    id: str
    tenant: str
    meters: tuple[Meter, ...]
    quantity: int
    resource: str
    own: str
    occurred_us: int
    reason: str

    @property
    def meter(self) -> Meter:
        return self.meters[0]


class Adjusting:
    """Checks, writes, and has the tenant's counters loaded anew."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        *,
        catalogue: Catalogue,
        clock: Clock,
        new_id: Callable[[], str],
        act: Callable[[], Act],
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._catalogue = catalogue
        self._clock = clock
        self._new_id = new_id
        self._act = act

    def ask(
        self,
        tenant: str,
        meter: str,
        quantity: int,
        *,
        resource: str | None,
        occurred_at: datetime | str | None,
        reason: str,
        id: str | None,
    ) -> Asked:
        """InvalidInput for what cannot be a correction, whatever was used."""
        now_us, meters = micros(self._clock.now()), self._meters(meter)
        at_us = now_us if occurred_at is None else not_ahead(aware(occurred_at, "occurred_at"), now_us)
        own = meters[0].resource or meters[0].name
        name = "" if resource is None else resource_name(resource)
        return Asked(
            self._new_id() if id is None else event_id(id),
            tenant_id(tenant),
            meters,
            _quantity(quantity),
            name,
            own,
            at_us,
            _reason(reason),
        )

    def _meters(self, name: str) -> tuple[Meter, ...]:
        meter = self._catalogue.meter(name)
        if meter.aggregation == "level":
            raise InvalidEvent("meter", f"{meter.name} is a level; state it as it is with set_level")
        if meter.unit == "money":
            raise InvalidEvent("meter", f"{meter.name} is money; give it back with credit_invoice or grant_credit")
        return counted_meters(self._catalogue, Wish("", "", 1, meter=meter.name))

    async def adjust(self, asked: Asked, *, has_instant: bool) -> UsageAdjustment:
        """EventConflict where the id was used for something else."""
        made: list[UsageAdjustment] = []
        written: list[Fact] = []

        def decide(day: DayUse) -> Correction:
            written[:], made[:] = _facts(asked, day), ()
            adjustment = self._made(asked, day)
            made.append(adjustment)
            return Correction(tuple(written), (_entry(asked, adjustment, self._act()),))

        digest = _digest(asked, has_instant=has_instant)
        request = ClaimRequest(asked.tenant, asked.id, digest, asked.occurred_us, _fact_id(asked.id))
        shard, now_us = self._gate.shard_of(asked.tenant), micros(self._clock.now())
        await self._gate.refuse_forgotten([asked.tenant])  # it also makes a tenant that is not known yet
        claim = await self._ledger.adjust(request, decide, shard=shard, now_us=now_us)
        if claim.outcome == "conflict":
            raise EventConflict(f"id {asked.id!r} was used before for something else; the first one stays")
        if claim.outcome == "known":
            return UsageAdjustment(asked.id, "duplicate", asked.tenant, asked.meter.name, asked.quantity)
        await self._gate.load_anew(written[:1])
        return made[0]

    def _made(self, asked: Asked, day: DayUse) -> UsageAdjustment:
        refuse_forgotten(day.tenant)
        if day.billed and asked.occurred_us < late_us(micros(self._clock.now())):
            raise too_late(asked.occurred_us, day.period)
        if asked.occurred_us < day.kept_us:
            raise retired(asked.occurred_us)
        local, since = _place(asked, day)
        before = sum(cell.quantity for cell in _cells(day, since, asked.meter.name).values())
        numbers = (asked.quantity, local, before, before + asked.quantity, day.billed)
        return UsageAdjustment(asked.id, "recorded", asked.tenant, asked.meter.name, *numbers)


def _entry(asked: Asked, made: UsageAdjustment, act: Act) -> AuditEntry:
    then, now = {"used": made.before}, {"used": made.after}
    detail = f"{asked.quantity:+,} on {made.day}" + (f", {asked.resource}" if asked.resource else "")
    return act.did(
        "usage adjusted", asked.tenant, asked.meter.name, before=then, after=now, detail=detail, reason=asked.reason
    )


# -- what is written ---------------------------------------------------------------------------------------------------


def _facts(asked: Asked, day: DayUse) -> list[Fact]:
    """One, or one for each resource that something is taken off."""
    if asked.quantity > 0:
        return [_fact(asked, 0, asked.resource or asked.own, asked.quantity, None)]
    parts = _parts(asked, day)
    return [_fact(asked, number, *part) for number, part in enumerate(parts)]


def _fact(asked: Asked, number: int, resource: str, quantity: int, had_nanos: int | None) -> Fact:
    """What it cost the host moves by the catalogue's cost per unit, and no further down than to 0."""
    cost = default_cost(asked.meters, abs(quantity))
    if cost is not None and quantity < 0:
        cost = -min(cost, max(0, had_nanos or 0))
    counts = tuple(Count(meter.name, "", quantity) for meter in asked.meters)
    own = _fact_id(asked.id) + (f".{number}" if number else "")
    kind, event_type = "use", asked.meter.event or ""
    return Fact(own, asked.occurred_us, kind, asked.tenant, event_type, resource, quantity, cost, counts)


def _parts(asked: Asked, day: DayUse) -> list[tuple[str, int, int]]:
    """By resource: how much is taken off, below 0, and what its units cost."""
    local, since = _place(asked, day)
    moved = [each.name for each in asked.meters] + ([event_meter(asked.meter.event)] if asked.meter.event else [])
    cells = [_cells(day, since, name) for name in moved]
    room = {name: min(each.get(name, _NOTHING).quantity for each in cells) for name in cells[0]}
    if asked.resource:
        room = {asked.resource: room.get(asked.resource, 0)}
    left, parts = -asked.quantity, list[tuple[str, int, int]]()
    for name in sorted(room, key=lambda name: (name != asked.own, -room[name], name)):
        taken = min(left, max(0, room[name]))
        if taken:
            parts.append((name, -taken, cells[-1].get(name, _NOTHING).cost_nanos))
            left -= taken
    if left:
        used = -asked.quantity - left
        of = f" of {asked.resource}" if asked.resource else ""
        raise InvalidEvent(
            "quantity",
            f"{-asked.quantity:,} {asked.meter.name} cannot be taken off {local}: {used:,}{of} were used then under "
            f"{day.tenant.segment_at(asked.occurred_us).plan}; name another instant with occurred_at, or take off less",
        )
    return parts


_NOTHING: Final = CellSum()


def _cells(day: DayUse, since: int, meter: str) -> Mapping[str, CellSum]:
    """Of a meter, by resource."""
    theirs = (cell for cell in day.cells if (cell.key.since_us, cell.key.meter, cell.key.scope) == (since, meter, ""))
    return {cell.key.resource: cell.total for cell in theirs}


def _place(asked: Asked, day: DayUse) -> tuple[date, int]:
    return Calendar(day.tenant.timezone, day.tenant.segments).place(asked.occurred_us)


def _fact_id(name: str) -> str:
    return ADJUSTED + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _digest(asked: Asked, *, has_instant: bool) -> bytes:
    """An instant that was not given is not part of it: a retry may come later."""
    at = asked.occurred_us if has_instant else None
    return hashlib.sha256(to_json(["adjusted", asked.meter.name, asked.quantity, asked.resource, at])).digest()


def _quantity(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidEvent("quantity", f"expected an int, got {type(value).__name__} {str(value)[:40]}")
    if not value or abs(value) > MAX_QUANTITY:
        raise InvalidEvent("quantity", f"{value:,} is none; it is from -(2**53 - 1) to 2**53 - 1, and not 0")
    return value


def _reason(text: object) -> str:
    if not isinstance(text, str) or not 0 < len(text.strip()) <= MAX_REASON or not text.isprintable():
        raise InvalidEvent("reason", f"is not 1 to {MAX_REASON} printable characters; the audit log keeps it")
    return text.strip()
