"""Facts that callers state: recorded events, corrections of levels. Never refused for a quota (C4).

A caller's event id is claimed in the ledger for ever before its fact is posted, so that a retry after a week, or after
a crash between the two steps, is still one fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from mm_metering import failpoints
from mm_metering.backends.ledger import Claim, ClaimRequest, Ledger
from mm_metering.clock import Clock
from mm_metering.core.books import is_billed, late_us, too_late
from mm_metering.core.catalogue import Catalogue, Meter
from mm_metering.core.cells import MAX_LEVEL
from mm_metering.core.events import UsageEvent, aware, whole_quantity
from mm_metering.core.facts import Count, Fact
from mm_metering.core.identity import resource_name, tenant_id
from mm_metering.core.periods import from_micros, local_day, micros, period_of, zone
from mm_metering.errors import EventConflict, InvalidEvent
from mm_metering.gate.gate import Gate
from mm_metering.gate.keyring import Keyring
from mm_metering.gate.stated import Stating, not_ahead, payload_digest

Outcome = Literal["recorded", "duplicate"]


class Tally(NamedTuple):
    """What became of many events."""

    recorded: int
    duplicates: int
    conflicts: int


class Recorder:
    """Turns events into facts and posts them through the gate."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        *,
        catalogue: Catalogue,
        clock: Clock,
        new_id: Callable[[], str],
        keyring: Keyring,
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._keyring = keyring
        self._catalogue = catalogue
        self._clock = clock
        self._new_id = new_id
        self.stating: Stating = Stating(catalogue, new_id)

    async def record(self, event: UsageEvent) -> Outcome:
        """Records one event; EventConflict if its id was used for another payload. The first one stays."""
        return await self.record_together([event])

    async def record_together(self, events: Sequence[UsageEvent]) -> Outcome:
        """Records events that are one thing to the caller, such as an AI call and its tokens."""
        tally = await self.record_many(events)
        if tally.conflicts:
            name = events[0].id
            raise EventConflict(f"event id {name!r} was recorded before with another payload; the first one stays")
        return "duplicate" if tally.duplicates == len(events) else "recorded"

    async def record_many(self, events: Iterable[UsageEvent]) -> Tally:
        """Records events in order. All are checked before any is recorded; conflicts are counted, not raised."""
        now_us = micros(self._clock.now())
        facts = [(event, self.stating.fact(event, now_us)) for event in events]
        await self._gate.refuse_forgotten(dict.fromkeys(fact.tenant for _, fact in facts))
        facts = [(event, await self._keyring.sealed(fact)) for event, fact in facts]
        await self._refuse_too_late([fact for _, fact in facts], now_us)
        claims = await self._claims([(event, fact) for event, fact in facts if event.id is not None])
        if claims:
            failpoints.reach("claim.after")
        tally = {"new": 0, "known": 0, "conflict": 0}
        for event, fact in facts:
            claim = claims.pop(0) if event.id is not None else Claim("new", fact.occurred_us, in_ledger=False)
            tally[claim.outcome] += 1
            await self._settle(fact._replace(occurred_us=claim.occurred_us), claim)
        return Tally(tally["new"], tally["known"], tally["conflict"])

    async def _refuse_too_late(self, facts: Sequence[Fact], now_us: int) -> None:
        """No invoice looks into a finalized month that long after it, so that such usage would be billed nowhere."""
        oldest_us = late_us(now_us)
        for tenant, occurred_us in dict.fromkeys((f.tenant, f.occurred_us) for f in facts if f.occurred_us < oldest_us):
            row = await self._ledger.tenant(tenant)
            day = local_day(from_micros(occurred_us), zone(row.timezone if row else self._catalogue.timezone))
            period = period_of(day, row.anchor_day if row else 1)
            if any(is_billed(each) for each in await self._ledger.invoices(tenant=tenant, period=period)):
                raise too_late(occurred_us, period)

    async def _settle(self, fact: Fact, claim: Claim) -> None:
        match claim.outcome:
            case "new" if fact.kind == "set":
                await self._gate.level(fact.tenant, fact)
            case "new":
                await self._gate.post(fact.tenant, [fact])
            case "known" if not claim.in_ledger:  # perhaps it was never posted: the ledger takes it once
                await self._gate.append(fact.tenant, [fact])

    async def _claims(self, named: Sequence[tuple[UsageEvent, Fact]]) -> list[Claim]:
        requests = [
            ClaimRequest(fact.tenant, event.id or "", payload_digest(event), fact.occurred_us, fact.id)
            for event, fact in named
        ]
        return await self._ledger.claim(requests) if requests else []

    # -- levels -------------------------------------------------------------------------------------------------------

    async def set_level(
        self, tenant: str, meter: str, value: int, *, resource: str | None = None, occurred_at: datetime | None = None
    ) -> None:
        """States a level as it is; a statement older than the last one is kept, but changes nothing now."""
        level = whole_quantity(value, least=0, field="value")
        if level > MAX_LEVEL:
            raise InvalidEvent("value", f"is too large for a level; the most is 2**40 = {MAX_LEVEL:,}")
        fact = self._level_fact(tenant, self._level(meter), resource=resource, occurred_at=occurred_at)
        await self._write(fact, "set", level)

    async def release(self, tenant: str, meter: str, quantity: int = 1) -> None:
        """Takes off a level; it never falls below 0."""
        taken = whole_quantity(quantity)
        await self._write(self._level_fact(tenant, self._level(meter)), "add", -taken)

    def _level(self, meter: str) -> Meter:
        named = self._catalogue.meter(meter)
        if named.aggregation != "level":
            raise InvalidEvent("meter", f"{meter} is a sum, not a level; record what was used instead")
        return named

    def _level_fact(
        self, tenant: str, meter: Meter, *, resource: str | None = None, occurred_at: datetime | None = None
    ) -> Fact:
        now_us = micros(self._clock.now())
        at_us = now_us if occurred_at is None else not_ahead(aware(occurred_at, "occurred_at"), now_us)
        name = resource_name(resource) if resource is not None else meter.resource or meter.name
        counts = (Count(meter.name, "", 0),)
        return Fact(self._new_id(), at_us, "set", tenant_id(tenant), meter.event or "", name, 0, None, counts)

    async def _write(self, fact: Fact, kind: str, quantity: int) -> None:
        counts = tuple(count._replace(amount=quantity) for count in fact.counts)
        await self._gate.level(fact.tenant, fact._replace(kind=kind, quantity=quantity, counts=counts))
