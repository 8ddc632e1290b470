"""Events in bulk and corrections, in the order of locks of who folds: shards, tenants, facts, cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Final

from sqlalchemy import Text

from mm_metering.backends.bulk import Correction, DayUse, Landed, Stated
from mm_metering.backends.counters import shard_of
from mm_metering.backends.ledger import Claim, ClaimRequest
from mm_metering.backends.sql import claims, folding, keeping, reports, shards
from mm_metering.backends.sql import tenants as tenancy
from mm_metering.backends.sql.batch import Batch
from mm_metering.backends.sql.cells import of_day
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import invoice
from mm_metering.core.books import BILLED, late_us
from mm_metering.core.cells import LEVEL_KINDS, Calendar, calendar_of
from mm_metering.core.digest import Digest
from mm_metering.core.facts import Fact
from mm_metering.core.periods import period_of
from mm_metering.core.tenancy import TenantDefaults, TenantRow
from mm_metering.errors import UnknownTenant

_MONTH: Final[Columns] = {"tenant": Text(), "period": Text()}
_RECORDED, _CONFLICT = Landed("recorded"), Landed("conflict")
_UNKNOWN, _FORGOTTEN, _RETIRED = Landed("unknown"), Landed("forgotten"), Landed("retired")


async def backfill(
    tx: Transaction, stated: Sequence[Stated], count: int, defaults: TenantDefaults, now_us: int
) -> list[Landed]:
    """``count``: of shards."""
    owners = {each.fact.tenant for each in stated}
    await shards.hold_still(tx, {shard_of(each, count) for each in owners})
    rows = {row.id: row for row in await tenancy.find_all(tx, owners)}
    if defaults.plan and (unknown := owners - rows.keys()):
        await tenancy.make(tx, unknown, defaults, now_us)
        rows |= {row.id: row for row in await tenancy.find_all(tx, unknown)}
    landed = await _refused(tx, stated, rows, now_us)
    open_ = [number for number in range(len(stated)) if number not in landed] if landed else range(len(stated))
    new, again = await _claimed(tx, stated, open_, landed)
    batch = await _write(tx, new.values(), count, defaults, acknowledged_us=now_us)
    await _write(tx, again, count, defaults, acknowledged_us=None)
    if batch is not None and len(batch.new) == len(stated):
        return [_RECORDED] * len(stated)
    came = set(map(id, batch.new.values())) if batch else ()
    for number, fact in new.items():
        landed[number] = _RECORDED if id(fact) in came else Landed("duplicate", occurred_us=fact.occurred_us)
    return [landed[number] for number in range(len(stated))]


async def _claimed(
    tx: Transaction, stated: Sequence[Stated], numbers: Sequence[int], landed: dict[int, Landed]
) -> tuple[dict[int, Fact], list[Fact]]:
    """The facts of ids that are claimed now, by number, and of those that were before and are not here."""
    requests = [_request(stated[number]) for number in numbers]
    if await claims.claim_new(tx, requests):
        return {number: stated[number].fact for number in numbers}, []
    new, again = dict[int, Fact](), list[Fact]()
    for number, claim in zip(numbers, await claims.claim_all(tx, requests), strict=True):
        fact = stated[number].fact
        if claim.outcome == "new":
            new[number] = fact
        elif claim.outcome == "conflict":
            landed[number] = _CONFLICT
        else:
            landed[number] = Landed("duplicate", occurred_us=claim.occurred_us)
            again += () if claim.in_ledger else (fact._replace(occurred_us=claim.occurred_us),)
    return new, again


async def _write(
    tx: Transaction, new: Collection[Fact], count: int, defaults: TenantDefaults, *, acknowledged_us: int | None
) -> Batch | None:
    """In the order of their rows, which are then written side by side."""
    if not new:
        return None
    with tx.storing():
        folded = await folding.fold(tx, sorted(new, key=itemgetter(3, 1, 0)), defaults.timezone)
    for shard, came in sorted(_by_shard(folded.batch, count).items()):
        await shards.hold(tx, shard, came)
        if acknowledged_us is not None:
            await reports.add(tx, shard, came, acknowledged_us)
    return folded.batch


def _by_shard(batch: Batch, count: int) -> Mapping[int, Digest]:
    owners: dict[str, Digest] = {}
    for key, cell in batch.cells.items():
        if cell.facts or cell.digest:
            owners[key.tenant] = owners.get(key.tenant, Digest()).plus(cell.facts, cell.digest)
    found: dict[int, Digest] = {}
    for owner, digest in owners.items():
        shard = shard_of(owner, count)
        found[shard] = found.get(shard, Digest()).plus(*digest)
    return found


async def foresee(tx: Transaction, stated: Sequence[Stated], defaults: TenantDefaults, now_us: int) -> list[Landed]:
    """What would become of them."""
    owners = {each.fact.tenant for each in stated}
    rows = {row.id: row for row in await tenancy.find_all(tx, owners)}
    made = dict.fromkeys(owners - rows.keys()) if defaults.plan else {}
    landed = await _refused(tx, stated, rows | made, now_us)
    open_ = [number for number in range(len(stated)) if number not in landed]
    claimed = await claims.foresee(tx, [_request(stated[number]) for number in open_])
    for number, claim in zip(open_, claimed, strict=True):
        is_new = claim.outcome == "new" and not claim.in_ledger
        already = _CONFLICT if claim.outcome == "conflict" else Landed("duplicate", occurred_us=claim.occurred_us)
        landed[number] = _RECORDED if is_new else already
    return [landed[number] for number in range(len(stated))]


def _request(stated: Stated) -> ClaimRequest:
    fact, event_id, digest = stated
    return _new_request((fact[3], event_id, digest, fact[1], fact[0]))


_new_request: Final = partial(tuple.__new__, ClaimRequest)


# -- what may not be recorded ------------------------------------------------------------------------------------------


async def _refused(
    tx: Transaction, stated: Sequence[Stated], rows: Mapping[str, TenantRow | None], now_us: int
) -> dict[int, Landed]:
    """By number. A row that is None is yet to be made."""
    kept_us, oldest_us, late = await keeping.since_us(tx), late_us(now_us), list[int]()
    all_known = rows.keys() >= {each.fact.tenant for each in stated}
    gone = {owner for owner, row in rows.items() if row is not None and row.forgotten_us}
    found: dict[int, Landed] = {}
    if not gone and all_known and min(each.fact.occurred_us for each in stated) >= oldest_us:
        return found  # nearly always
    for number, (fact, _, _) in enumerate(stated):
        if fact.tenant not in rows:
            found[number] = _UNKNOWN
        elif fact.tenant in gone:
            found[number] = _FORGOTTEN
        elif fact.occurred_us < kept_us and fact.kind not in LEVEL_KINDS:
            found[number] = _RETIRED
        elif fact.occurred_us < oldest_us:
            late.append(number)
    return found | await _billed(tx, {number: stated[number].fact for number in late}, rows)


async def _billed(tx: Transaction, late: Mapping[int, Fact], rows: Mapping[str, TenantRow | None]) -> dict[int, Landed]:
    if not late:
        return {}
    months = {number: _month(fact, rows) for number, fact in late.items()}
    stand = await _final(tx, months.values())
    landed = {month: Landed("billed", month[1]) for month in stand}
    return {number: landed[month] for number, month in months.items() if month in stand}


def _month(fact: Fact, rows: Mapping[str, TenantRow | None]) -> tuple[str, str]:
    """One without a row has no invoices."""
    row = rows[fact.tenant]
    if row is None:
        return fact.tenant, ""
    return row.id, period_of(_calendar(row).day(fact.occurred_us), row.anchor_day)


def _calendar(row: TenantRow) -> Calendar:
    return calendar_of(row.timezone, row.segments)


async def _final(tx: Transaction, months: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of (tenant, period) whose invoice was sent and stands."""
    where = (invoice.c.status.in_(sorted(BILLED)),)
    rows = await tx.matching((invoice.c.tenant, invoice.c.period), _MONTH, set(months), where=where)
    return {(row.tenant, row.period) for row in rows}


# -- corrections -------------------------------------------------------------------------------------------------------


async def adjust(
    tx: Transaction, request: ClaimRequest, decide: Callable[[DayUse], Correction], shard: int, now_us: int
) -> Claim:
    await shards.hold_still(tx, {shard})
    await tenancy.calendars(tx, [request.tenant], "UTC")
    row = await tenancy.find(tx, request.tenant)
    if row is None:
        raise UnknownTenant(f"tenant {request.tenant!r} is not known; put_tenant makes it")
    (claim,) = await claims.claim_all(tx, [request])
    if claim.outcome == "new":
        day = _calendar(row).day(request.occurred_us)
        period = period_of(day, row.anchor_day)
        billed = bool(await _final(tx, [(row.id, period)]))
        kept_us = await keeping.hold_still(tx)
        correction = decide(DayUse(row, await of_day(tx, row.id, day), period, billed, kept_us))
        folded = await folding.fold(tx, correction.facts, row.timezone)
        await shards.hold(tx, shard, folded.digest)
        await reports.add(tx, shard, folded.digest, now_us)
        tx.note(correction.audit)
    return claim
