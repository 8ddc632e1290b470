"""Events of the past, or from elsewhere, into the ledger in large batches: each is recorded once, by its own id.

A batch is one transaction of the ledger. Counters that are loaded learn of it a little later (``SETTLE_S``), so that
live tenants are not loaded anew with every batch. Whoever goes on after a kill begins where they had learned of all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeAlias

from mm_metering import failpoints
from mm_metering.backends.bulk import Landed, Stated
from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.books import retired, too_late
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.facts import Fact
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import InvalidInput, Unstorable
from mm_metering.gate import loading
from mm_metering.gate.gate import Gate
from mm_metering.gate.keyring import Keyring
from mm_metering.gate.stated import Stating
from mm_metering.usage.reading import Item, Reader

BATCH: Final = 20_000
"""Events of one transaction: about half a second."""
MAX_BATCH: Final = 100_000
PART: Final = 500
"""Events that are read before others of this event loop have their turn."""
SETTLE_S: Final = 5.0
"""How long loaded counters may not show what is in the ledger."""
MOST_WAITING: Final = 50_000
"""Tenants that wait for it at most."""
NAMED: Final = 20
"""How many of what is refused are named."""

Events: TypeAlias = Iterable[Item] | AsyncIterable[Item]


class Rejection(NamedTuple):
    """An event that was not recorded, by its number among the events (from 1), and why."""

    number: int
    reason: str


class BackfillTally(NamedTuple):
    """What became of events. ``conflicts`` have ids that were used for other payloads, of which the first stays;
    ``rejected`` break a bound. ``reasons`` names the first of both.

    ``read`` events were taken so far, and all of them are done. Loaded counters show the first ``settled`` of them: a
    run that goes on begins there (``start_at``). ``dry_run``: nothing was written.
    """

    read: int = 0
    recorded: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    reasons: tuple[Rejection, ...] = ()
    settled: int = 0
    dry_run: bool = False


class Backfill:
    """One run: ``again`` of its first events were counted by an earlier one, and are in its ``tally``."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        *,
        catalogue: Catalogue,
        stating: Stating,
        keyring: Keyring,
        clock: Clock,
        defaults: Callable[[], TenantDefaults],
        shards: int,
        tally: BackfillTally,
        strict: bool,
        batch: int,
    ) -> None:
        if not 1 <= batch <= MAX_BATCH:
            raise InvalidInput("batch", f"{batch:,} is not from 1 to {MAX_BATCH:,} events")
        self._gate = gate
        self._ledger = ledger
        self._read = Reader(catalogue, stating)
        self._keyring = keyring
        self._clock = clock
        self._defaults = defaults
        self._shards = shards
        self._strict = strict
        self._batch = batch
        self._waiting: dict[str, Fact] = {}
        self._settled_s = 0.0
        self._known = tally.read
        self.tally: BackfillTally = tally._replace(read=tally.settled)

    async def run(self, events: Events, progress: Callable[[BackfillTally], None]) -> BackfillTally:
        """Takes ``events``, of which the first is number ``tally.settled`` + 1. ``progress`` hears of each batch that
        is in the ledger; by then nothing more was taken of the events."""
        self._settled_s, refused = asyncio.get_running_loop().time(), self.tally.rejected + self.tally.conflicts
        async for items in _batches(events, self._batch):
            await self._take(items)
            if self._is_due():
                await self._settle()
            if self.tally.read >= self._known:  # what an earlier run has told is not unsaid
                progress(self.tally)
            if self._strict and self.tally.rejected + self.tally.conflicts > refused:
                break
        await self._settle()
        progress(self.tally)
        return self.tally

    async def _take(self, items: Sequence[Item]) -> None:
        first = self.tally.read
        numbers, stated = await self._stated(items, first)
        landed = await self._land(numbers, stated)
        failpoints.reach("backfill.after_commit")
        self._note(numbers, stated, landed)
        self.tally = self.tally._replace(read=first + len(items))

    async def _stated(self, items: Sequence[Item], first: int) -> tuple[list[int], list[Stated]]:
        """What of the items can be recorded, each with its number."""
        numbers, found = list[int](), list[Stated]()
        for start in range(0, len(items), PART):
            now_us = micros(self._clock.now())
            for number, item in enumerate(items[start : start + PART], first + start + 1):
                try:
                    stated = self._read(item, now_us)
                except InvalidInput as error:
                    self._refuse(number, "rejected", str(error))
                    continue
                if stated is not None:
                    numbers.append(number)
                    found.append(stated if stated.fact.metadata is None else await self._sealed(stated))
            await asyncio.sleep(0)
        return numbers, found

    async def _sealed(self, stated: Stated) -> Stated:
        return stated._replace(fact=await self._keyring.sealed(stated.fact))

    async def _land(self, numbers: list[int], stated: list[Stated]) -> Sequence[Landed]:
        """Those that the ledger cannot hold are rejected, and taken out of both lists."""
        now_us = micros(self._clock.now())
        while stated:
            try:
                return await self._ledger.backfill(
                    stated,
                    shards=self._shards,
                    defaults=self._defaults(),
                    now_us=now_us,
                    writes=not self.tally.dry_run,
                )
            except Unstorable as error:  # it names at least one, so there are fewer each time
                for place in sorted(error.facts, reverse=True):
                    why = f"the ledger cannot hold it: {error.facts[place]}"
                    self._refuse(numbers.pop(place), "rejected", why)
                    del stated[place]
        return ()

    def _note(self, numbers: Iterable[int], stated: Iterable[Stated], landed: Iterable[Landed]) -> None:
        now_us, counted = micros(self._clock.now()), Counter[str]()
        for number, (fact, event_id, _), became in zip(numbers, stated, landed, strict=True):
            landing = became.landing
            if landing in ("recorded", "duplicate"):
                counted[landing] += number > self._known
                if loading.shows(fact, now_us):
                    here = became.occurred_us or fact.occurred_us
                    self._waiting[fact.tenant] = fact if here == fact.occurred_us else fact._replace(occurred_us=here)
            elif landing == "conflict":
                text = f"id {event_id!r} was recorded before with another payload; the first one stays"
                self._refuse(number, "conflicts", text)
            else:
                self._refuse(number, "rejected", _reason(fact, became))
        recorded, duplicates = self.tally.recorded + counted["recorded"], self.tally.duplicates + counted["duplicate"]
        self.tally = self.tally._replace(recorded=recorded, duplicates=duplicates)

    def _refuse(self, number: int, what: Literal["conflicts", "rejected"], reason: str) -> None:
        """What an earlier run has counted is not counted again."""
        if number > self._known:
            reasons = self.tally.reasons
            if len(reasons) < NAMED:
                reasons = (*reasons, Rejection(number, reason))
            rejected, conflicts = self.tally.rejected, self.tally.conflicts
            if what == "rejected":
                rejected += 1
            else:
                conflicts += 1
            self.tally = self.tally._replace(reasons=reasons, rejected=rejected, conflicts=conflicts)

    # -- the counters -------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        waited_s = asyncio.get_running_loop().time() - self._settled_s
        return waited_s >= SETTLE_S or len(self._waiting) >= MOST_WAITING

    async def _settle(self) -> None:
        """Counters that are loaded show all that was recorded, at their next use."""
        if not self.tally.dry_run:
            await self._gate.load_anew(self._waiting.values())
            failpoints.reach("backfill.after_settle")
        self._waiting.clear()
        self._settled_s = asyncio.get_running_loop().time()
        self.tally = self.tally._replace(settled=self.tally.read)


def _reason(fact: Fact, became: Landed) -> str:
    match became.landing:
        case "unknown":
            return f"tenant {fact.tenant!r} is not known; put_tenant makes it"
        case "forgotten":
            return f"tenant {fact.tenant!r} was forgotten: nothing is kept of it any more"
        case "billed":
            return str(too_late(fact.occurred_us, became.period))
    return str(retired(fact.occurred_us))


async def _batches(events: Events, size: int) -> AsyncIterator[list[Item]]:
    if isinstance(events, AsyncIterable):
        batch: list[Item] = []
        async for item in events:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    source: Iterator[Item] = iter(events)
    while taken := list(islice(source, size)):
        yield taken


def left_out(events: Events, count: int) -> Events:
    """Without the first ones."""
    return _left_out(events, count) if isinstance(events, AsyncIterable) else islice(events, count, None)


async def _left_out(events: AsyncIterable[Item], count: int) -> AsyncIterator[Item]:
    number = 0
    async for item in events:
        number += 1
        if number > count:
            yield item
