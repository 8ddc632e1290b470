"""Whether a tenant's counters are what the ledger says, while usage goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from mm_metering.backends.bulk import SETTLING_S
from mm_metering.backends.counters import Backlog, Counters
from mm_metering.backends.ledger import Ledger, ShardRow
from mm_metering.core.facts import decode
from mm_metering.gate.gate import Gate

TRIES: Final = 8
"""How often a tenant is looked at whose usage goes on meanwhile."""
MOST_ENTRIES: Final = 256


class Drift(NamedTuple):
    """A counter that is not what the facts come to."""

    field: str
    counted: int
    in_ledger: int


class Reconciler:
    """``drain`` folds a shard's backlog into the ledger."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        gate: Gate,
        drain: Callable[[int], Awaitable[object]],
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self._now_us = now_us
        self._counters = counters
        self._ledger = ledger
        self._gate = gate
        self._drain = drain

    async def drift(self, tenant: str) -> list[Drift] | None:
        """The tenant's counters that differ from ledger, backlog and open holds; none if it is not loaded. None where
        its usage did not rest for a moment, so that nothing can be said."""
        shard = self._gate.shard_of(tenant)
        for _ in range(TRIES):
            await self._drain(shard)
            row, wanted = await self._gate.expected(tenant)
            before = await self._counters.read(shard, after=row.position, limit=MOST_ENTRIES)
            have = await self._counters.counters(shard, tenant)
            after = await self._counters.read(shard, after=before.tail, limit=1)
            stood_still = (before.generation, before.tail) == (after.generation, after.tail)
            if stood_still and await self._all_folded(shard, tenant, row, before):
                return _differences(wanted, have) if have else []
        return None

    async def _is_settling(self, shard: int) -> bool:
        if self._now_us is None:
            return False
        direct = (each for each in await self._ledger.acknowledged() if not each.process and each.shard == shard)
        last_us = max((each.reported_us for each in direct), default=0)
        return self._now_us() - last_us < SETTLING_S * 1_000_000

    async def _all_folded(self, shard: int, tenant: str, row: ShardRow, backlog: Backlog) -> bool:
        """Whether the ledger had all of the tenant's facts: none is in the backlog, and no other drain trimmed one."""
        if backlog.generation != row.generation or len(backlog.entries) == MOST_ENTRIES:
            return False
        if any(_is_of(tenant, line) for entry in backlog.entries for line in entry.lines):
            return False
        return await self._ledger.shard(shard) == row

    async def mend(self, tenant: str) -> list[Drift]:
        """Has counters that differ loaded anew from the ledger; what was wrong with them. Nothing is, yet, while usage
        is written to the ledger directly (``Bulk``)."""
        found = await self.drift(tenant) or []
        if found and await self._is_settling(self._gate.shard_of(tenant)):
            return []
        if found:
            await self._gate.unload(tenant)
        return found


def _is_of(tenant: str, line: bytes) -> bool:
    try:
        return decode(line).tenant == tenant
    except (ValueError, TypeError, IndexError):
        return False


def _differences(wanted: Mapping[str, int], have: Mapping[str, int]) -> list[Drift]:
    """In the windows that are open now, with what is held there: those that are past stay in Redis for some days. When
    a level changed last is no count."""
    fields = [field for field in wanted if not field.endswith("!")]
    found = [Drift(each, have.get(each, 0), wanted.get(each, 0)) for field in fields for each in (field, f"{field}~")]
    return [each for each in dict.fromkeys(found) if each.counted != each.in_ledger]
