"""From the stream into the ledger: facts, cells and position in one transaction, then the stream is trimmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from mm_metering.backends.counters import START, Backlog, Counters, Entry, position_key
from mm_metering.backends.ledger import Ledger, ShardRow
from mm_metering.core.facts import Fact, decode
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.generations import certify

log = logging.getLogger("mm_metering.worker")

ENTRIES: Final = 256
"""Stream entries per transaction: about a thousand facts under load."""
BEHIND_S: Final = 1.0
"""How long a shard may stay at an older generation: while two masters answer, each side would certify the other out."""
MOST_TOUCHED: Final = 100_000
"""Most tenants that are remembered to be looked at."""
STEPS: Final = 100_000
"""Most transactions of one ``fully``."""


class Drain:
    """Safe in any number of processes at once."""

    def __init__(self, counters: Counters, ledger: Ledger, defaults: Callable[[], TenantDefaults]) -> None:
        self._counters = counters
        self._ledger = ledger
        self._defaults = defaults
        self._trimmed: dict[int, tuple[int, str]] = {}
        self._behind: dict[int, tuple[int, float]] = {}
        self._touched: dict[str, None] = {}
        self.folded = 0
        self.unreadable = 0

    async def __call__(self, shard: int) -> bool:
        """Folds one batch; True if there may be more."""
        row = await self._ledger.shard(shard)
        backlog = await self._counters.read(shard, after=row.position, limit=ENTRIES)
        if backlog.generation > row.generation:
            row = ShardRow(backlog.generation, START, row.next_generation)
            backlog = await self._counters.read(shard, after=START, limit=ENTRIES)
            fresh = True
        else:
            fresh = False
        if backlog.generation != row.generation or backlog.generation == 0:
            await self._meet(shard, backlog.generation, row.generation)
            return False
        if position_key(backlog.drained) > position_key(row.position) and await self._is_restored(shard, backlog):
            return True
        return await self._fold(shard, row, backlog, fresh=fresh)

    async def _meet(self, shard: int, found: int, known: int) -> None:
        """A shard that stays at an older life than the ledger has seen, as after two masters, is certified anew (G2):
        no process needs to miss there, and what they acknowledge would never be folded."""
        now_s = asyncio.get_running_loop().time()
        if not 0 < found < known:  # it changed hands just now, or is empty: then its next user certifies it
            self._behind.pop(shard, None)
        elif self._behind.setdefault(shard, (found, now_s))[0] != found:
            self._behind[shard] = (found, now_s)
        elif now_s - self._behind[shard][1] > BEHIND_S:
            log.warning("shard %d is at generation %d, the ledger at %d: certified anew", shard, found, known)
            await certify(self._counters, self._ledger, shard, seen=found)

    async def _is_restored(self, shard: int, backlog: Backlog) -> bool:
        """Whether the ledger has less than it has confirmed: it is an older one, put back. Facts that were trimmed
        since are in no store of ours. A new generation makes the counters follow what it has, and every process
        replays what the ledger had not confirmed."""
        row = await self._ledger.shard(shard)  # another drain may have folded and trimmed since it was read
        stands = row.position if row.generation == backlog.generation else START
        if row.generation > backlog.generation or position_key(stands) >= position_key(backlog.drained):
            return False
        log.error(
            "shard %d: the ledger stands at %s in generation %d, but had confirmed %s in generation %d: it is an older "
            "one, put back. Usage between the two is not in it: restore a newer one, or record that usage again. "
            "The counters now follow this ledger",
            shard,
            row.position,
            row.generation,
            backlog.drained,
            backlog.generation,
        )
        await certify(self._counters, self._ledger, shard, seen=backlog.generation)
        return True

    async def _fold(self, shard: int, row: ShardRow, backlog: Backlog, *, fresh: bool) -> bool:
        whole = len(backlog.entries) < ENTRIES
        after = backlog.tail if whole else backlog.entries[-1].position
        ahead = position_key(after) > position_key(row.position)
        if not ahead and not fresh:
            after = row.position  # nothing new, or a server that fell behind and is not certified yet
        else:
            facts = self._facts(backlog.entries)
            won = await self._ledger.fold(
                shard,
                generation=row.generation,
                before=row.position,
                after=after,
                facts=facts,
                defaults=self._defaults(),
            )
            if not won:
                return True
            self.folded += len(facts)
            self._touch(facts)
        await self._trim(shard, row.generation, after)
        return not whole

    def _touch(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            if len(self._touched) < MOST_TOUCHED:
                self._touched[fact.tenant] = None

    def take_touched(self, most: int) -> list[str]:
        """Tenants whose facts were folded since they were asked for the last time, the longest ago first."""
        taken = [*islice(self._touched, most)]
        for tenant in taken:
            del self._touched[tenant]
        return taken

    async def _trim(self, shard: int, generation: int, position: str) -> None:
        if self._trimmed.get(shard) != (generation, position):
            await self._counters.trim(shard, generation=generation, position=position)
            self._trimmed[shard] = (generation, position)

    def _facts(self, entries: Iterable[Entry]) -> list[Fact]:
        facts = []
        for entry in entries:
            for line in entry.lines:
                try:
                    facts.append(decode(line))
                except (ValueError, TypeError, IndexError) as error:
                    self.unreadable += 1
                    log.error("entry %s holds a line that is no fact and is left out: %s", entry.position, error)
        return facts

    async def each(self) -> None:
        """Folds one batch of every shard; StoreUnavailable where none could be asked."""
        outcomes = await asyncio.gather(*map(self, range(self._counters.shards)), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for failure in failures:
            if len(failures) == len(outcomes) or not isinstance(failure, StoreUnavailable):
                raise failure

    async def fully(self, shard: int | None = None) -> None:
        """Folds everything that stood in the streams, or in this shard's, when it was called. What hinders one shard is
        raised when the others are done."""
        shards = range(self._counters.shards) if shard is None else (shard,)
        outcomes = await asyncio.gather(*map(self._fully, shards), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _fully(self, shard: int) -> None:
        for _ in range(STEPS):
            if not await self(shard):
                break
