"""Usage: what is recorded, corrected, added up and exported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any, TypedDict, Unpack

from mm_metering.core.events import UsageEvent, whole_quantity
from mm_metering.core.money import Amount
from mm_metering.core.usage import ResourceUse, UsageRange, UsageSnapshot
from mm_metering.gate.recorder import Outcome, Tally
from mm_metering.metering.house import House
from mm_metering.usage.adjusting import UsageAdjustment
from mm_metering.usage.backfill import BATCH, Backfill, BackfillTally, Events, left_out

WEBHOOK_DELIVERY = "webhook_delivery"


class Details(TypedDict, total=False):
    """What every record_* method takes beside what was used."""

    success: bool
    cost: Amount | None
    id: str | None
    occurred_at: datetime | None
    metadata: Mapping[str, Any] | None


class Recording(House):
    """Facts, in and out."""

    async def record(self, event: UsageEvent) -> Outcome:
        """Records a fact: never refused for a quota. "duplicate" if its id was recorded before with the same payload;
        EventConflict for another."""
        await self.startup()
        return await self._recorder.record(event)

    async def record_many(self, events: Iterable[UsageEvent]) -> Tally:
        """Records many; all are checked first. Answers (recorded, duplicates, conflicts)."""
        await self.startup()
        return await self._recorder.record_many(events)

    async def record_api_call(self, tenant: str, resource: str, **details: Unpack[Details]) -> Outcome:
        """Records one API call on a route; details are success, cost, id, occurred_at and metadata."""
        return await self.record(UsageEvent(tenant=tenant, event_type="api_call", resource=resource, **details))

    async def record_ai_usage(self, tenant: str, model: str, *, tokens: int, **details: Unpack[Details]) -> Outcome:
        """Records one AI call and its tokens, under the ids ``id`` and ``id:ai_token``; the cost is the call's."""
        tokens = whole_quantity(tokens, least=0, field="tokens")
        events = [UsageEvent(tenant=tenant, event_type="ai_call", resource=model, **details)]
        if tokens:
            own = None if events[0].id is None else f"{events[0].id}:ai_token"
            changed = {"event_type": "ai_token", "quantity": tokens, "cost": None, "id": own}
            events.append(UsageEvent(**events[0].model_dump() | changed))
        await self.startup()
        return await self._recorder.record_together(events)

    async def record_webhook_delivery(self, tenant: str, webhook_id: str, **details: Unpack[Details]) -> Outcome:
        """Records one event delivered to a tenant's webhook endpoint."""
        event = UsageEvent(tenant=tenant, event_type=WEBHOOK_DELIVERY, resource=webhook_id, **details)
        return await self.record(event)

    async def adjust_usage(
        self,
        tenant: str,
        meter: str,
        quantity: int,
        *,
        resource: str | None = None,
        occurred_at: datetime | str | None = None,
        reason: str,
        id: str | None = None,
    ) -> UsageAdjustment:
        """Corrects what was used: takes units of a meter off (-50), or adds some, at an instant, by default now. The
        opposite undoes it. With an ``id`` it is made once, however often it is asked for. ``reason`` stands in the
        audit log.

        What is taken off was used on that instant's local day, of ``resource`` or of any, largest first: InvalidEvent
        says how much was. It is late usage where the month's invoice is final, and refused as late where recording
        would be. Levels are stated by ``set_level``, and money is given back by credit.
        """
        asked = self._adjusting.ask(
            tenant, meter, quantity, resource=resource, occurred_at=occurred_at, reason=reason, id=id
        )
        await self._flush_of(tenant)
        return await self._adjusting.adjust(asked, has_instant=occurred_at is not None)

    async def backfill(
        self,
        events: Events,
        *,
        dry_run: bool = False,
        start_at: int = 0,
        tally: BackfillTally | None = None,
        strict: bool = False,
        batch: int = BATCH,
        progress: Callable[[BackfillTally], None] = lambda _: None,
    ) -> BackfillTally:
        """Records events of the past or from elsewhere in large batches, straight into the ledger, at a few times the
        speed of ``record_many``. Each needs an id of its own: what is recorded already counts as a duplicate, so that a
        run that was ended is simply run again. An event that cannot be recorded is rejected and hinders no other,
        unless ``strict``; an item may also be the InvalidInput that reading it has raised, or None.

        ``start_at``: how many events are left out, which an earlier run had ``settled``. Whoever gives them from there
        on himself names that run's ``tally`` instead, and goes on counting. ``progress`` hears of each ``batch`` that
        is in the ledger: one transaction, which holds others up as long as it lasts. Usage goes on meanwhile; limits
        know of what was recorded within some seconds. ``dry_run`` writes nothing.
        """
        await self.startup()
        if tally is None:
            tally = BackfillTally(read=start_at, settled=start_at)
            events = left_out(events, start_at)
        backfill = Backfill(
            self.gate,
            self.ledger,
            catalogue=self.catalogue,
            stating=self._recorder.stating,
            keyring=self._keyring,
            clock=self.clock,
            defaults=self._defaults,
            shards=self.counters.shards,
            tally=tally._replace(dry_run=dry_run),
            strict=strict,
            batch=batch,
        )
        try:
            return await backfill.run(events, progress)
        finally:
            await self._note_backfill(backfill.tally)

    async def _note_backfill(self, tally: BackfillTally) -> None:
        if not tally.dry_run:
            counts = {name: getattr(tally, name) for name in ("recorded", "duplicates", "conflicts", "rejected")}
            await self.ledger.add_audit([self.act().did("usage backfilled", "", "usage", after=counts)])

    # -- what was used

    async def create_usage_snapshot(self, tenant: str, day: date | str) -> UsageSnapshot:
        """One day of a tenant in its zone, with all that was acknowledged before the call."""
        await self._flush_of(tenant)
        return await self._analytics.snapshot(tenant, day)

    async def get_usage(self, tenant: str, start: date | str, end: date | str) -> UsageRange:
        """The days from start to end, both included: totals, and ``.days``."""
        await self._flush_of(tenant)
        return await self._analytics.usage(tenant, start, end)

    async def get_usage_by_resource(self, tenant: str, start: date | str, end: date | str) -> list[ResourceUse]:
        """The days from start to end, both included, by meter and resource; without levels."""
        await self._flush_of(tenant)
        return await self._analytics.by_resource(tenant, start, end)

    async def export_usage(
        self, tenant: str | None = None, *, start: date | str | None = None, end: date | str | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """All facts that count of a tenant or of all, of the local days from start to end, both included: by tenant, in
        order of their instants. ``backfill`` reads each as it is, into this ledger as a duplicate."""
        await (self.flush() if tenant is None else self._flush_of(tenant))
        async for line in self._export.lines(tenant, start, end):
            yield line
