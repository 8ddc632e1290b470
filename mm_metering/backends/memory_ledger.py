"""The ledger in this process: the specification, for tests and first steps. Nothing survives the process."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from mm_metering.backends.counters import START
from mm_metering.backends.ledger import (
    FIRST_HOLD,
    KEEP_MONTHS,
    Acknowledged,
    Claim,
    ClaimRequest,
    HoldKey,
    Retired,
    ShardRow,
    Snapshot,
    UsageRow,
    Used,
    hold_key,
)
from mm_metering.backends.memory_accounts import MemoryAccounts
from mm_metering.backends.memory_bulk import MemoryBulk
from mm_metering.backends.memory_looks import MemoryLooks
from mm_metering.backends.memory_privacy import MemoryPrivacy
from mm_metering.backends.memory_reports import MemoryReports
from mm_metering.backends.memory_webhooks import MemoryWebhooks
from mm_metering.backends.memory_work import MemoryWork
from mm_metering.backends.overview import MOST_ALERTS, PERIODS, Overview, Queue
from mm_metering.backends.work import DeadLetter
from mm_metering.core import cells as folding
from mm_metering.core.audit import Act
from mm_metering.core.audited import cells_rebuilt, plans_stored, subscription_changed, tenant_put
from mm_metering.core.books import timeline_news
from mm_metering.core.cells import LEVEL_KINDS, NO_LEVEL, Calendar, Cell, CellKey, CellSum, LevelEnd
from mm_metering.core.digest import Digest, hash_of, total
from mm_metering.core.facts import Fact, encode, flaw
from mm_metering.core.periods import FIRST_US, days_us, micros, month_start_us
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow, changed_tenant, forgotten, with_change
from mm_metering.core.timeline import Change
from mm_metering.errors import UnknownTenant, Unstorable


@dataclass(slots=True)
class Books:
    """One tenant's part of the ledger."""

    row: TenantRow | None = None
    timezone: str = "UTC"
    facts: dict[str, Fact] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    cells: dict[CellKey, CellSum] = field(default_factory=dict)
    revisions: dict[CellKey, int] = field(default_factory=dict)
    refused: dict[CellKey, int] = field(default_factory=dict)
    digest: Digest = field(default_factory=Digest)
    levels: dict[tuple[str, str], LevelEnd] = field(default_factory=dict)

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.row.timezone, self.row.segments) if self.row else Calendar(self.timezone, ())

    def counted(self) -> Iterable[Fact]:
        return (fact for fact in self.facts.values() if fact.id not in self.voided)

    def open_holds(self) -> tuple[Fact, ...]:
        """Holds without a counted close: one that was voided leaves its hold open."""
        closed = {fact.target for fact in self.counted() if fact.kind == "close"}
        return tuple(fact for fact in self.counted() if fact.kind == "hold" and fact.id not in closed)

    def hold(self, fact: Fact, sign: int) -> None:
        if folding.moves_a_cell(fact):
            self.digest = self.digest.plus(sign, sign * hash_of(encode(fact)))

    def shown(self) -> Iterable[tuple[CellKey, CellSum]]:
        """The cells with facts, or refusals. One that lost them all is kept for its revision alone."""
        return ((key, cell) for key, cell in self.cells.items() if cell.count or self.refused.get(key))

    def snapshot(self, shard: ShardRow, since: date) -> Snapshot:
        if self.row is None:
            return Snapshot(shard, None, (), {}, ())
        usage: dict[tuple[date, int, str, str], int] = {}
        for key, cell in self.shown():
            if key.day >= since:
                group = (key.day, key.since_us, key.meter, key.scope)
                usage[group] = usage.get(group, 0) + cell.quantity
        rows = tuple(UsageRow(*group, quantity) for group, quantity in sorted(usage.items()))
        return Snapshot(shard, self.row, rows, dict(self.levels), self.open_holds())

    def put_cells(self, fresh: dict[CellKey, CellSum], instead_of: Iterable[CellKey]) -> int:
        for key in instead_of:
            fresh.setdefault(key, CellSum())
        changed = [key for key, cell in fresh.items() if self.cells.get(key, CellSum()) != cell]
        for key in changed:
            self.cells[key] = fresh[key]
            self.revisions[key] = self.revisions.get(key, 0) + 1
        return len(changed)


class MemoryLedger(MemoryWork, MemoryBulk, MemoryAccounts, MemoryReports, MemoryWebhooks, MemoryPrivacy, MemoryLooks):
    """``memory://``. One lock makes each method a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self._shards: dict[int, ShardRow] = {}
        self._books: dict[str, Books] = {}
        self._claims: dict[tuple[str, str], ClaimRequest] = {}
        self._plans: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._folded: dict[int, Digest] = {}
        self._acknowledged: dict[tuple[str, int], Acknowledged] = {}
        self._kept_us = FIRST_US
        self._stored_us = 0

    async def setup(self, *, apply: bool) -> None:
        pass

    async def may_apply(self) -> bool:
        return True

    # -- shards and facts ---------------------------------------------------------------------------------------------

    async def certify(self, shard: int, *, seen: int) -> tuple[int, bool]:
        with self._lock:
            row = self._row(shard)
            generation = max(row.next_generation, seen) + 1
            self._shards[shard] = row._replace(next_generation=generation)
            return generation, row.next_generation == 0

    async def shard(self, shard: int) -> ShardRow:
        with self._lock:
            return self._row(shard)

    def _row(self, shard: int) -> ShardRow:
        return self._shards.get(shard, ShardRow(0, START, 0))

    async def fold(
        self,
        shard: int,
        *,
        generation: int,
        before: str,
        after: str,
        facts: Sequence[Fact],
        defaults: TenantDefaults,
        dead: Sequence[DeadLetter] = (),
    ) -> bool:
        with self._lock:
            row = self._row(shard)
            if generation > row.generation:
                row = ShardRow(generation, START, max(row.next_generation, generation))
            if generation != row.generation or row.position != before:
                return False
            self._refuse_flawed(facts)
            self._shards[shard] = row._replace(position=after)
            self._bury(dead)
            self._fold_into(shard, facts, defaults.timezone, acknowledged_us=None)
            return True

    def _refuse_flawed(self, facts: Sequence[Fact]) -> None:
        if flawed := {number: why for number, fact in enumerate(facts) if (why := flaw(fact))}:
            raise Unstorable(flawed)

    def _fold_into(self, shard: int, facts: Sequence[Fact], timezone: str, *, acknowledged_us: int | None) -> None:
        by_tenant: dict[str, list[Fact]] = {}
        for fact in facts:
            by_tenant.setdefault(fact.tenant, []).append(fact)
        for tenant, theirs in by_tenant.items():
            books = self._books.setdefault(tenant, Books(timezone=timezone))
            stood = books.digest
            self._fold_tenant(books, theirs)
            came = books.digest.plus(-stood.facts, -stood.hashes)
            self._folded[shard] = self._folded.get(shard, Digest()).plus(*came)
            if acknowledged_us is not None:
                self._acknowledge(shard, came, acknowledged_us)
        self._say_when_stored(facts)

    def _acknowledge(self, shard: int, came: Digest, now_us: int = 0) -> None:
        """As nobody's process."""
        _, _, stood, reported_us = self._acknowledged.get(("", shard), Acknowledged("", shard, Digest(), 0))
        self._acknowledged["", shard] = Acknowledged("", shard, stood.plus(*came), max(reported_us, now_us))

    def _say_when_stored(self, facts: Sequence[Fact]) -> None:
        """Each a microsecond after the one before it, as in SQL, and later than all before them."""
        first_us = max(self._stored_us + 1, time.time_ns() // 1000)
        self._stored_us = first_us + len(facts)
        for stored_us, fact in enumerate(facts, first_us):
            books = self._books[fact.tenant]
            if fact.id in books.facts:
                books.stored.setdefault(fact.id, stored_us)

    def _fold_tenant(self, books: Books, facts: Sequence[Fact]) -> None:
        calendar, changes, levels = books.calendar, dict[CellKey, CellSum](), set[tuple[str, str]]()
        for fact in facts:
            if fact.kind == "void":
                self._void(books, fact, calendar, changes, levels)
            elif fact.id not in books.facts and fact.id not in books.voided:
                books.facts[fact.id] = fact
                if fact.occurred_us < self._kept_us and fact.kind not in LEVEL_KINDS:
                    books.voided.add(fact.id)
                    continue
                books.hold(fact, 1)
                self._count(fact, calendar, changes, levels)
        self._merge(books, changes)
        for key in levels:
            self._fold_level(books, key, calendar)

    @staticmethod
    def _count(
        fact: Fact,
        calendar: Calendar,
        changes: dict[CellKey, CellSum],
        levels: set[tuple[str, str]],
        sign: int = 1,
    ) -> None:
        if fact.kind in LEVEL_KINDS:
            levels.update((meter, fact.resource) for meter in folding.level_meters(fact))
        elif fact.kind != "hold":
            folding.add(changes, fact, calendar, sign)

    def _void(
        self,
        books: Books,
        fact: Fact,
        calendar: Calendar,
        changes: dict[CellKey, CellSum],
        levels: set[tuple[str, str]],
    ) -> None:
        target = fact.target or ""
        if target in books.voided:
            return
        books.voided.add(target)
        if target in books.facts:
            books.hold(books.facts[target], -1)
            self._count(books.facts[target], calendar, changes, levels, sign=-1)

    @staticmethod
    def _merge(books: Books, changes: Mapping[CellKey, CellSum]) -> None:
        for key, change in changes.items():
            if change == CellSum():
                continue
            books.cells.setdefault(key, CellSum()).add(change)
            books.revisions[key] = books.revisions.get(key, 0) + 1

    def _fold_level(self, books: Books, level: tuple[str, str], calendar: Calendar) -> int:
        meter, resource = level
        theirs = [
            fact
            for fact in books.counted()
            if fact.kind in LEVEL_KINDS and fact.resource == resource and meter in folding.level_meters(fact)
        ]
        fresh: dict[CellKey, CellSum] = {}
        end = folding.fold_level(fresh, meter, theirs, calendar)
        if end == NO_LEVEL:
            books.levels.pop(level, None)
        else:
            books.levels[level] = end
        return books.put_cells(fresh, [key for key in books.cells if (key.meter, key.resource) == level])

    def _refold(self, books: Books, then: Calendar) -> None:
        """Takes each of a tenant's facts out of its cells and adds it where it belongs now, after a change of its zone
        or timeline."""
        calendar, changes, levels = books.calendar, dict[CellKey, CellSum](), set[tuple[str, str]]()
        for fact in books.counted():
            self._count(fact, then, changes, levels, sign=-1)
            self._count(fact, calendar, changes, levels)
        self._merge(books, changes)
        for level in levels:
            self._fold_level(books, level, calendar)

    def _rebuild(self, books: Books) -> int:
        """Folds the days of which all facts are here anew: how many cells changed."""
        calendar, fresh, levels = books.calendar, dict[CellKey, CellSum](), set[tuple[str, str]]()
        whole = calendar.first_whole_day(self._kept_us)
        for fact in books.counted():
            if fact.kind in LEVEL_KINDS or calendar.day(fact.occurred_us) >= whole:
                self._count(fact, calendar, fresh, levels)
        others = [key for key in books.cells if key.day >= whole and (key.meter, key.resource) not in levels]
        return books.put_cells(fresh, others) + sum(self._fold_level(books, level, calendar) for level in levels)

    async def snapshots(
        self, shard: int, tenants: Sequence[str], *, since: date, defaults: TenantDefaults, now_us: int
    ) -> Mapping[str, Snapshot]:
        with self._lock:
            for tenant in tenants if defaults.plan else ():
                if self._books.get(tenant, Books()).row is None:
                    self._put(NewTenant(tenant), defaults, now_us)
            row = self._row(shard)
            return {tenant: self._books.get(tenant, Books()).snapshot(row, since) for tenant in tenants}

    # -- what proves that nothing was lost ----------------------------------------------------------------------------

    async def report(
        self, process: str, *, acknowledged: Mapping[int, Digest], refused: Mapping[CellKey, int], now_us: int
    ) -> None:
        with self._lock:
            for shard, digest in acknowledged.items():
                self._acknowledged[process, shard] = Acknowledged(process, shard, digest, now_us)
            for key, number in refused.items():
                books = self._books.setdefault(key.tenant, Books())
                books.refused[key] = books.refused.get(key, 0) + number
                books.cells.setdefault(key, CellSum())
                books.revisions.setdefault(key, 0)

    async def acknowledged(self) -> list[Acknowledged]:
        with self._lock:
            return [report for _, report in sorted(self._acknowledged.items())]

    async def merge_reports(self, *, before_us: int) -> int:
        with self._lock:
            old = [key for key, each in self._acknowledged.items() if key[0] and each.reported_us < before_us]
            for process, shard in old:
                gone = self._acknowledged.pop((process, shard))
                merged = self._acknowledged.get(("", shard), Acknowledged("", shard, Digest(), before_us))
                self._acknowledged["", shard] = merged._replace(digest=merged.digest.plus(*gone.digest))
            return len({process for process, _ in old})

    async def folded(self) -> Mapping[int, Digest]:
        with self._lock:
            return dict(self._folded)

    async def cell_digests(self, *, after: str = "", limit: int = 1000) -> list[tuple[str, Digest]]:
        with self._lock:
            tenants = sorted(tenant for tenant, books in self._books.items() if tenant > after and books.cells)
            return [
                (tenant, total(Digest(cell.facts, cell.digest) for cell in self._books[tenant].cells.values()))
                for tenant in tenants[:limit]
            ]

    async def rebuild_cells(self, tenant: str, *, act: Act | None = None) -> int:
        with self._lock:
            books = self._books.get(tenant, Books())
            changed = self._rebuild(books) if books.row else 0
            self._note(cells_rebuilt(tenant, changed, act))
            return changed

    # -- events with a caller's id ------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claim]:
        with self._lock:
            return [self._claim(request) for request in requests]

    def _claim(self, request: ClaimRequest) -> Claim:
        known = self._claims.get((request.tenant, request.event_id))
        if known is None:
            self._claims[request.tenant, request.event_id] = request
            return Claim("new", request.occurred_us, in_ledger=False)
        if known.digest != request.digest:
            return Claim("conflict", known.occurred_us, in_ledger=True)
        books = self._books.get(request.tenant)
        return Claim("known", known.occurred_us, in_ledger=bool(books and known.fact_id in books.facts))

    def _has(self, fact: Fact) -> bool:
        books = self._books.get(fact.tenant, Books())
        return fact.id in books.facts or fact.id in books.voided

    def _cells_on(self, tenant: str, occurred_us: int) -> Sequence[Cell]:
        day = self._books[tenant].calendar.day(occurred_us)
        return self._cells_of(tenant, day, day)

    # -- plans and tenants --------------------------------------------------------------------------------------------

    async def put_plans(
        self, definitions: Mapping[str, Mapping[str, Any]], *, now_us: int, act: Act | None = None
    ) -> Mapping[str, int]:
        with self._lock:
            before = {plan: (version, each) for (plan, version), each in sorted(self._plans.items(), key=_by_version)}
            newest: dict[str, int] = {}
            for name, definition in definitions.items():
                version = max((v for plan, v in self._plans if plan == name), default=0)
                if version == 0 or _canonical(self._plans[name, version]) != _canonical(definition):
                    version += 1
                    self._plans[name, version] = definition
                newest[name] = version
            stored = {name: (version, definitions[name]) for name, version in newest.items()}
            self._note(plans_stored(before, stored, act))
            return newest

    async def plan_versions(self) -> Mapping[tuple[str, int], Mapping[str, Any]]:
        with self._lock:
            return dict(self._plans)

    async def tenant(self, tenant: str) -> TenantRow | None:
        with self._lock:
            return self._row_of(tenant)

    def _row_of(self, tenant: str) -> TenantRow | None:
        return self._books.get(tenant, Books()).row

    async def tenants(self, *, after: str = "", limit: int = 1000) -> list[TenantRow]:
        with self._lock:
            rows = [books.row for books in self._books.values() if books.row and books.row.id > after]
            return sorted(rows, key=lambda row: row.id)[:limit]

    async def put_tenant(
        self, new: NewTenant, *, defaults: TenantDefaults, now_us: int, act: Act | None = None
    ) -> TenantRow:
        with self._lock:
            before = self._row_of(new.id)
            after = self._put(new, defaults, now_us)
            self._note(tenant_put(before, after, act))
            self._write_collecting(timeline_news(before, after, now_us, now_us))
            return after

    def _put(self, new: NewTenant, defaults: TenantDefaults, now_us: int) -> TenantRow:
        books = self._books.setdefault(new.id, Books(timezone=defaults.timezone))
        before, then = books.row, books.calendar
        after = changed_tenant(before, new, defaults, now_us)
        books.row = after
        if before is None or (before.timezone, before.segments) != (after.timezone, after.segments):
            self._refold(books, then)
        return after

    async def change_subscription(
        self, tenant: str, change: Change, *, now_us: int | None = None, act: Act | None = None
    ) -> TenantRow:
        with self._lock:
            before = self._row_of(tenant)
            after = self._change(tenant, change)
            if now_us is not None:
                self._write_collecting(timeline_news(before, after, change.at_us, now_us))
            if before is not None:
                self._note(subscription_changed(before, after, change, act))
            return after

    def _change(self, tenant: str, change: Change) -> TenantRow:
        books = self._books.get(tenant)
        if books is None or books.row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        then, before, books.row = books.calendar, books.row, with_change(books.row, change)
        if books.row != before:
            self._refold(books, then)
        return books.row

    # -- privacy ------------------------------------------------------------------------------------------------------

    def _set_forgotten(self, tenant: str, now_us: int) -> TenantRow:
        books = self._books.get(tenant)
        if books is None or books.row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known: there is nothing to forget")
        then, books.row = books.calendar, forgotten(books.row, now_us)
        self._refold(books, then)
        return books.row

    def _blank(self, tenant: str, shard: int, wanted: Callable[[Fact], bool]) -> int:
        books = self._books[tenant]
        stood, found = books.digest, [fact for fact in books.facts.values() if wanted(fact)]
        for fact in found:
            books.facts[fact.id] = blank = fact._replace(metadata=None)
            if fact.id not in books.voided:
                books.hold(fact, -1)
                books.hold(blank, 1)
        if not found:
            return 0
        self._rebuild(books)
        moved = books.digest.plus(-stood.facts, -stood.hashes)
        self._folded[shard] = self._folded.get(shard, Digest()).plus(*moved)
        self._acknowledge(shard, moved)
        return len(found)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def cells(self, tenant: str, *, first: date, last: date) -> list[Cell]:
        with self._lock:
            return self._cells_of(tenant, first, last)

    def _cells_of(self, tenant: str, first: date, last: date) -> list[Cell]:
        books = self._books.get(tenant, Books())
        shown = sorted((item for item in books.shown() if first <= item[0].day <= last), key=lambda item: item[0])
        return [Cell(key, replace(cell), books.revisions[key], books.refused.get(key, 0)) for key, cell in shown]

    async def meters_used(self, tenants: Sequence[str]) -> Mapping[str, int]:
        with self._lock:
            theirs = (self._books.get(tenant, Books()).cells.items() for tenant in set(tenants))
            used = ({key.meter for key, cell in cells if cell.count and not key.scope} for cells in theirs)
            return Counter(meter for meters in used for meter in meters if not meter.startswith("*"))

    async def used(self, tenant: str, *, first: date, last: date, timezone: str) -> Used:
        with self._lock:
            books = self._books.get(tenant, Books())
            start, end = days_us(first, last, books.row.timezone if books.row else timezone)
            moves = [fact for fact in books.counted() if fact.kind in LEVEL_KINDS and start <= fact.occurred_us < end]
            moves.sort(key=lambda fact: (fact.occurred_us, fact.id))
            return Used(books.row, self._day_sums(tenant, first, last), self._levels_of(tenant, first), moves)

    def _day_sums(self, tenant: str, first: date, last: date) -> list[Cell]:
        sums: dict[CellKey, Cell] = {}
        for key, each, revision, refused in self._cells_of(tenant, first, last):
            if not key.scope:
                whole = key._replace(since_us=0, resource="")
                stood = sums.get(whole, Cell(whole, CellSum(), 0, 0))
                stood.total.add(each)
                sums[whole] = stood._replace(revision=stood.revision + revision, refused=stood.refused + refused)
        return [sums[key] for key in sorted(sums)]

    def _levels_of(self, tenant: str, before: date) -> dict[tuple[str, str], int]:
        books = self._books.get(tenant, Books())
        values = dict.fromkeys(books.levels, 0)
        for key, cell in books.cells.items():
            level = (key.meter, key.resource)
            if level in books.levels and key.day < before:
                values[level] = values.get(level, 0) + cell.quantity
        return values

    async def facts(self, tenant: str, *, after: tuple[int, str], limit: int) -> list[Fact]:
        with self._lock:
            theirs = self._books.get(tenant, Books()).counted()
            page = [fact for fact in theirs if (fact.occurred_us, fact.id) > after]
            return sorted(page, key=lambda fact: (fact.occurred_us, fact.id))[:limit]

    async def spent(self, tenant: str, event_type: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        with self._lock:
            theirs = [each for each in self._books.get(tenant, Books()).counted() if each.event_type == event_type]
            return [
                sum(each.cost_nanos or 0 for each in theirs if start_us <= each.occurred_us < end_us)
                for start_us, end_us in spans
            ]

    async def overdue_holds(self, before_us: int, *, after: HoldKey = FIRST_HOLD, limit: int) -> list[Fact]:
        with self._lock:
            found = (hold for books in self._books.values() for hold in books.open_holds())
            overdue = [hold for hold in found if hold.occurred_us < before_us and hold_key(hold) > after]
            return sorted(overdue, key=hold_key)[:limit]

    # -- keeping ------------------------------------------------------------------------------------------------------

    async def make_room(self, now_us: int) -> tuple[str, ...]:
        return ()

    async def retire(self, now_us: int, *, keep_months: int = KEEP_MONTHS) -> Retired:
        with self._lock:
            end_us = max(self._kept_us, month_start_us(now_us, -keep_months))
            gone = sum(_take_out(books, end_us) for books in self._books.values())
            if gone:
                self._kept_us = end_us
            return Retired(gone, (), more=False)

    async def kept_us(self) -> int:
        with self._lock:
            return self._kept_us

    # -- the house ----------------------------------------------------------------------------------------------------

    async def overview(self) -> Overview:
        with self._lock:
            holds = [hold.occurred_us for books in self._books.values() for hold in books.open_holds()]
            return Overview(
                leases=tuple(sorted(self._leases.values())),
                positions={number: row[:2] for number, row in sorted(self._shards.items())},
                runs=tuple({job: run for (job, _), run in sorted(self._runs.items())}.values()),
                dead_letters=len(self._letters),
                alerts=tuple(self._alerts[key] for key in sorted(self._alerts))[:MOST_ALERTS],
                invoices=self._invoices_by_status(),
                deliveries=_queue(micros(each.next_at) for each in self._deliveries.values() if each.next_at),
                notices=_queue(each.next_us for each in self._outbox.values()),
                hints=_queue(each.next_us for each in self._hints.values()),
                holds=_queue(holds),
                endpoints_off=sum(each.was_switched_off for each in self._endpoints.values()),
            )

    def _invoices_by_status(self) -> dict[str, dict[str, int]]:
        newest = sorted({each.period for each in self._invoices.values()}, reverse=True)[:PERIODS]
        counted = Counter((each.period, each.status) for each in self._invoices.values())
        return {
            period: {status: count for (of, status), count in sorted(counted.items()) if of == period}
            for period in newest
        }

    async def aclose(self) -> None:
        pass


def _queue(due_us: Iterable[int | None]) -> Queue:
    waiting = sorted(each for each in due_us if each is not None)
    return Queue(len(waiting), waiting[0] if waiting else None)


def _take_out(books: Books, end_us: int) -> int:
    over = [fact.id for fact in books.facts.values() if fact.occurred_us < end_us and fact.kind not in LEVEL_KINDS]
    for fact_id in over:
        del books.facts[fact_id], books.stored[fact_id]
    return len(over)


def _by_version(item: tuple[tuple[str, int], object]) -> tuple[str, int]:
    return item[0]


def _canonical(definition: Mapping[str, Any]) -> str:
    return json.dumps(definition, sort_keys=True)
