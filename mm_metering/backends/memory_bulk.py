"""Events in bulk and corrections, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from mm_metering.backends.bulk import Correction, DayUse, Landed, Stated
from mm_metering.backends.counters import shard_of
from mm_metering.backends.ledger import Claim, ClaimRequest
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import is_billed, late_us
from mm_metering.core.cells import LEVEL_KINDS, Calendar, Cell
from mm_metering.core.facts import Fact
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import period_of
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow
from mm_metering.errors import UnknownTenant


class MemoryBulk:
    """A part of a ledger with a lock, which folds."""

    _lock: threading.RLock
    _claims: dict[tuple[str, str], ClaimRequest]
    _invoices: dict[str, Invoice]
    _kept_us: int
    _note: Callable[[Iterable[AuditEntry]], None]

    def _row_of(self, tenant: str) -> TenantRow | None:
        raise NotImplementedError

    def _put(self, new: NewTenant, defaults: TenantDefaults, now_us: int) -> TenantRow:
        raise NotImplementedError

    def _claim(self, request: ClaimRequest) -> Claim:
        raise NotImplementedError

    def _has(self, fact: Fact) -> bool:
        raise NotImplementedError

    def _cells_on(self, tenant: str, occurred_us: int) -> Sequence[Cell]:
        """The tenant's cells of that instant's local day."""
        raise NotImplementedError

    def _refuse_flawed(self, facts: Sequence[Fact]) -> None:
        """Unstorable."""
        raise NotImplementedError

    def _fold_into(self, shard: int, facts: Sequence[Fact], timezone: str, *, acknowledged_us: int | None) -> None:
        raise NotImplementedError

    async def backfill(
        self,
        stated: Sequence[Stated],
        *,
        shards: int,
        defaults: TenantDefaults,
        now_us: int,
        writes: bool = True,
    ) -> list[Landed]:
        with self._lock:
            if writes:
                self._refuse_flawed([each.fact for each in stated])
                return [self._land(each, shards, defaults, now_us, writes=True) for each in stated]
            known, self._claims = self._claims, dict(self._claims)
            try:
                return [self._land(each, shards, defaults, now_us, writes=False) for each in stated]
            finally:
                self._claims = known

    def _land(self, each: Stated, shards: int, defaults: TenantDefaults, now_us: int, *, writes: bool) -> Landed:
        fact, row = each.fact, self._row_of(each.fact.tenant)
        if row is None and defaults.plan and writes:
            row = self._put(NewTenant(fact.tenant), defaults, now_us)
        refused = self._refusal(fact, row, defaults, now_us)
        if refused is not None:
            return refused
        claim = self._claim(ClaimRequest(fact.tenant, each.event_id, each.digest, fact.occurred_us, fact.id))
        if claim.outcome == "conflict":
            return Landed("conflict")
        is_new = claim.outcome == "new" and not self._has(fact)
        fact = fact._replace(occurred_us=claim.occurred_us)
        if writes:
            told_us = now_us if is_new else None
            self._fold_into(shard_of(fact.tenant, shards), [fact], defaults.timezone, acknowledged_us=told_us)
        return Landed("recorded") if is_new else Landed("duplicate", occurred_us=fact.occurred_us)

    def _refusal(self, fact: Fact, row: TenantRow | None, defaults: TenantDefaults, now_us: int) -> Landed | None:
        if row is None and not defaults.plan:
            return Landed("unknown")
        if row is not None and row.forgotten_us:
            return Landed("forgotten")
        if fact.occurred_us < self._kept_us and fact.kind not in LEVEL_KINDS:
            return Landed("retired")
        if row is not None and fact.occurred_us < late_us(now_us):
            period = _period(row, fact.occurred_us)
            return Landed("billed", period) if self._is_final(row.id, period) else None
        return None

    def _is_final(self, tenant: str, period: str) -> bool:
        theirs = (each for each in self._invoices.values() if (each.tenant, each.period) == (tenant, period))
        return any(map(is_billed, theirs))

    async def adjust(
        self, request: ClaimRequest, decide: Callable[[DayUse], Correction], *, shard: int, now_us: int
    ) -> Claim:
        with self._lock:
            row = self._row_of(request.tenant)
            if row is None:
                raise UnknownTenant(f"tenant {request.tenant!r} is not known; put_tenant makes it")
            claim = self._claim(request)
            if claim.outcome != "new":
                return claim
            try:
                period = _period(row, request.occurred_us)
                cells = self._cells_on(row.id, request.occurred_us)
                correction = decide(DayUse(row, cells, period, self._is_final(row.id, period), self._kept_us))
            except BaseException:
                del self._claims[request.tenant, request.event_id]
                raise
            self._fold_into(shard, correction.facts, row.timezone, acknowledged_us=now_us)
            self._note(correction.audit)
            return claim


def _period(row: TenantRow, occurred_us: int) -> str:
    return period_of(Calendar(row.timezone, row.segments).day(occurred_us), row.anchor_day)
