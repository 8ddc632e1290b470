"""From the stream into the ledger: facts, cells and position in one transaction, then the stream is trimmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mm_metering import failpoints
from mm_metering.backends.counters import START, Backlog, Counters, Entry, position_key
from mm_metering.backends.ledger import Ledger, ShardRow
from mm_metering.backends.work import DeadLetter
from mm_metering.clock import SystemClock, micros_of
from mm_metering.core.facts import Fact, decode
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import StoreUnavailable, Unstorable
from mm_metering.gate.generations import certify
from mm_metering.worker.touched import Touched

log: Final = logging.getLogger("mm_metering.worker")

ENTRIES: Final = 256
"""Stream entries per transaction: about a thousand facts under load."""
BEHIND_S: Final = 1.0
"""How long a shard may stay at an older generation: while two masters answer, each side would certify the other out."""
SYSTEM_US: Final = micros_of(SystemClock())
STEPS: Final = 100_000
"""Most transactions of one ``fully``."""


@dataclass(slots=True)
class Seen:
    """What a drain knows of a shard. ``at_s`` is when it last read it, by its event loop's clock; ``behind_s`` how much
    older than the newest entry the oldest one was that was not folded then, by the server's; ``entries`` how many it
    was folding, at most ENTRIES."""

    at_s: float
    behind_s: float = 0.0
    entries: int = 0


@dataclass(slots=True)
class Folded:
    """What a drain has done so far."""

    facts: int = 0
    batches: int = 0
    last_batch: int = 0
    dead: int = 0
    shards: dict[int, Seen] = field(default_factory=dict)


class Drain:
    """Safe in any number of processes at once."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        defaults: Callable[[], TenantDefaults],
        *,
        now_us: Callable[[], int] = SYSTEM_US,
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._defaults = defaults
        self._now_us = now_us
        self._trimmed: dict[int, tuple[int, str]] = {}
        self._behind: dict[int, tuple[int, float]] = {}
        self._watchers: list[Touched] = []
        self.done: Folded = Folded()

    def touched(self) -> Touched:
        """The tenants whose facts will be folded here, for one who looks at them."""
        watcher = Touched()
        self._watchers.append(watcher)
        return watcher

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
            if not backlog.generation:
                self.done.shards[shard] = Seen(asyncio.get_running_loop().time())
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
        seen = self.done.shards[shard] = Seen(asyncio.get_running_loop().time(), entries=len(backlog.entries))
        seen.behind_s = _between_s(backlog.entries[0].position, backlog.tail) if backlog.entries else 0.0
        whole = len(backlog.entries) < ENTRIES
        after = backlog.tail if whole else backlog.entries[-1].position
        ahead = position_key(after) > position_key(row.position)
        if not ahead and not fresh:
            after = row.position  # nothing new, or a server that fell behind and is not certified yet
        elif not await self._write(shard, row, after, backlog.entries):
            return True
        seen.behind_s, seen.entries = _between_s(after, backlog.tail), 0
        await self._trim(shard, row.generation, after)
        return not whole

    async def _write(self, shard: int, row: ShardRow, after: str, entries: tuple[Entry, ...]) -> bool:
        """Folds the entries; False if another drain was first. Lines that cannot be folded are kept as dead letters,
        and hinder no others."""
        facts, places, dead = self._read(shard, row.generation, entries)
        failpoints.reach("drain.after_read")
        move: Any = {"generation": row.generation, "before": row.position, "after": after}
        while True:
            try:
                won = await self._ledger.fold(shard, **move, facts=facts, defaults=self._defaults(), dead=dead)
            except Unstorable as error:  # it names at least one, so there are fewer each time
                dead += [places[number]._replace(reason=_plain(why)) for number, why in error.facts.items()]
                kept = [number for number in range(len(facts)) if number not in error.facts]
                facts, places = [facts[number] for number in kept], [places[number] for number in kept]
                continue
            if won:
                failpoints.reach("drain.after_commit")
                self._count(facts, dead)
                for each in self._watchers:
                    each.add(facts)
            return won

    def _read(
        self, shard: int, generation: int, entries: tuple[Entry, ...]
    ) -> tuple[list[Fact], list[DeadLetter], list[DeadLetter]]:
        """The facts, what each would be as a dead letter, and the lines that are none."""
        facts, places, dead, now_us = list[Fact](), list[DeadLetter](), list[DeadLetter](), self._now_us()
        for position, lines in entries:
            for number, line in enumerate(lines):
                letter = DeadLetter(shard, generation, position, number, line, "", now_us)
                try:
                    facts.append(decode(line))
                    places.append(letter)
                except ValueError as error:
                    dead.append(letter._replace(reason=_plain(str(error))))
        return facts, places, dead

    def _count(self, facts: list[Fact], dead: list[DeadLetter]) -> None:
        self.done.facts += len(facts)
        self.done.batches += 1
        self.done.last_batch = len(facts)
        self.done.dead += len(dead)
        for shard, _, position, number, _, reason, _ in dead:
            log.error(
                "shard %d: line %d of entry %s is now a dead letter: %s; look at `mm-metering dead-letters`",
                shard,
                number,
                position,
                reason,
            )

    async def _trim(self, shard: int, generation: int, position: str) -> None:
        if self._trimmed.get(shard) != (generation, position):
            await self._counters.trim(shard, generation=generation, position=position)
            self._trimmed[shard] = (generation, position)
            failpoints.reach("drain.after_trim")

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


def _between_s(position: str, later: str) -> float:
    """The server's time from one entry to another."""
    return max(0, position_key(later)[0] - position_key(position)[0]) / 1000


def _plain(reason: str) -> str:
    """As ASCII that every ledger can hold: what is wrong with a line may be in its reason too."""
    return reason.encode("unicode_escape").decode()[:300]
