"""The proof that nothing was lost and nothing counts twice: what processes acknowledged, what shards folded and what
the cells hold are the same facts, as equal digests. Invoices, which follow from cells, are made anew elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import date
from enum import Enum
from typing import Final, NamedTuple

from mm_metering.backends.counters import shard_of
from mm_metering.backends.ledger import Ledger
from mm_metering.core.cells import Calendar, CellKey, CellSum, LevelEnd, fold_all
from mm_metering.core.digest import Digest, total

PAGE: Final = 1_000
TRIES: Final = 5
"""What differs is read again: somebody may have folded meanwhile."""


class Verdict(Enum):
    EQUAL = "equal"
    AHEAD = "ahead"
    """The ledger has facts that no process has reported: callers that went away while they waited, and the last seconds
    of processes that were killed. None is lost, none counts twice."""
    BEHIND = "BEHIND"
    """Acknowledged facts are not in the ledger: they are on their way, or lost."""
    DIFFERS = "DIFFERS"
    """As many facts, but not the same ones; or the cells are not what was folded."""


class ShardProof(NamedTuple):
    shard: int
    acknowledged: Digest
    folded: Digest
    cells: Digest

    @property
    def verdict(self) -> Verdict:
        if self.cells != self.folded:
            return Verdict.DIFFERS
        if self.acknowledged == self.folded:
            return Verdict.EQUAL
        more = self.folded.facts - self.acknowledged.facts
        return Verdict.AHEAD if more > 0 else Verdict.BEHIND if more < 0 else Verdict.DIFFERS


class WrongCell(NamedTuple):
    key: CellKey
    holds: CellSum
    facts_say: CellSum


class TenantProof(NamedTuple):
    """``facts`` is what the tenant's facts come to when they are folded anew, and ``wrong`` the cells that are not
    that."""

    tenant: str
    cells: Digest
    facts: Digest
    wrong: tuple[WrongCell, ...]

    @property
    def verdict(self) -> Verdict:
        return Verdict.EQUAL if self.cells == self.facts and not self.wrong else Verdict.DIFFERS


class Proof(NamedTuple):
    """``tenants`` counts those whose facts were folded anew, ``differ`` has those that came to something else. The same
    of ``invoices``, which are made anew from what they were made of; ``wrong_invoices`` has their ids."""

    shards: tuple[ShardProof, ...]
    tenants: int
    differ: tuple[TenantProof, ...]
    invoices: int = 0
    wrong_invoices: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether everything acknowledged is in the ledger once, in the cells as it must be, and each invoice is what
        it was made as."""
        return (
            not self.differ
            and not self.wrong_invoices
            and all(each.verdict in (Verdict.EQUAL, Verdict.AHEAD) for each in self.shards)
        )


async def prove(
    ledger: Ledger,
    *,
    shards: int,
    default_timezone: str,
    tenants: bool,
    progress: Callable[[int], None],
) -> Proof:
    """Compares every shard, then every tenant unless told not to; ``progress`` hears how many are done."""
    by_shard, count, differ = await prove_shards(ledger, shards), 0, list[TenantProof]()
    if tenants:
        async for tenant, _ in each_tenant(ledger):
            proof = await prove_tenant(ledger, tenant, default_timezone=default_timezone)
            if proof.verdict is not Verdict.EQUAL:
                differ.append(proof)
            count += 1
            progress(count)
    return Proof(tuple(by_shard), count, tuple(differ))


async def prove_shards(ledger: Ledger, shards: int) -> list[ShardProof]:
    """One per shard."""
    proofs = await _read_shards(ledger, shards)
    for _ in range(TRIES):
        if all(each.verdict is Verdict.EQUAL for each in proofs):
            break
        proofs = await _read_shards(ledger, shards)
    return proofs


async def _read_shards(ledger: Ledger, shards: int) -> list[ShardProof]:
    acknowledged, folded = await ledger.acknowledged(), await ledger.folded()
    cells = await _cells_by_shard(ledger, shards)
    told = {shard: total(each.digest for each in acknowledged if each.shard == shard) for shard in range(shards)}
    return [
        ShardProof(shard, told[shard], folded.get(shard, Digest()), cells.get(shard, Digest()))
        for shard in range(shards)
    ]


async def _cells_by_shard(ledger: Ledger, shards: int) -> Mapping[int, Digest]:
    sums: dict[int, Digest] = {}
    async for tenant, digest in each_tenant(ledger):
        shard = shard_of(tenant, shards)
        sums[shard] = sums.get(shard, Digest()).plus(*digest)
    return sums


async def each_tenant(ledger: Ledger) -> AsyncIterator[tuple[str, Digest]]:
    """Each tenant with cells, and what they hold."""
    after = ""
    while page := await ledger.cell_digests(after=after, limit=PAGE):
        for tenant, digest in page:
            yield tenant, digest
        after = page[-1][0]


async def prove_tenant(ledger: Ledger, tenant: str, *, default_timezone: str) -> TenantProof:
    """Folds the tenant's facts anew and compares the days of which none were retired."""
    proof = await _read_tenant(ledger, tenant, default_timezone)
    for _ in range(TRIES):
        if proof.verdict is Verdict.EQUAL:
            break
        proof = await _read_tenant(ledger, tenant, default_timezone)
    return proof


async def _read_tenant(ledger: Ledger, tenant: str, default_timezone: str) -> TenantProof:
    row = await ledger.tenant(tenant)
    calendar = Calendar(row.timezone, row.segments) if row else Calendar(default_timezone, ())
    first = calendar.first_whole_day(await ledger.kept_us())
    stored, fresh = await _stored(ledger, tenant, first), await _folded_anew(ledger, tenant, calendar, first)
    both = [
        WrongCell(key, stored.get(key, CellSum()), fresh.get(key, CellSum()))
        for key in sorted(fresh.keys() | stored.keys())
    ]
    wrong = tuple(each for each in both if each.holds != each.facts_say)
    return TenantProof(tenant, _digest(stored), _digest(fresh), wrong)


async def _stored(ledger: Ledger, tenant: str, first: date) -> dict[CellKey, CellSum]:
    return {cell.key: cell.total for cell in await ledger.cells(tenant, first=first, last=date.max)}


async def _folded_anew(ledger: Ledger, tenant: str, calendar: Calendar, first: date) -> dict[CellKey, CellSum]:
    fresh: dict[CellKey, CellSum] = {}
    ends: dict[tuple[str, str], LevelEnd] = {}
    after = (-(2**62), "")
    while page := await ledger.facts(tenant, after=after, limit=PAGE):
        fold_all(fresh, page, calendar, ends)
        after = (page[-1].occurred_us, page[-1].id)
    return {key: cell for key, cell in fresh.items() if key.day >= first}


def _digest(cells: Mapping[CellKey, CellSum]) -> Digest:
    return total(Digest(cell.facts, cell.digest) for cell in cells.values())
