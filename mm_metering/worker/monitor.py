"""What a worker says about itself: whether it is well, and its numbers. Never a tenant."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from mm_metering.backends.counters import START, Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.errors import MeteringError
from mm_metering.gate.journal_file import Waiting
from mm_metering.telemetry.exposition import exposition
from mm_metering.telemetry.instruments import (
    COUNTERS_DRIFT,
    DEAD_LETTERS,
    DEAD_MADE,
    FOLD_BACKLOG,
    FOLD_BATCHES,
    FOLD_FACTS,
    FOLD_LAG,
    FOLD_SIZE,
    HEARTBEAT,
    JOURNAL_LEFT_FACTS,
    JOURNAL_LEFT_FILES,
    LEASES,
    SHADOW_BLOCKS,
    Instrument,
)
from mm_metering.telemetry.measures import Measures
from mm_metering.worker.drain import Drain, Folded
from mm_metering.worker.runner import Worker

HEARTBEAT_S: Final = 10.0
"""A worker that has not come round to its leases for longer is not well."""
PING_S: Final = 2.0


class Monitor:
    """``files`` counts what others left behind, None without files; ``shadowed`` the limits of a shadow plan that were
    found to refuse, by meter."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        drain: Drain,
        worker: Worker,
        *,
        files: Callable[[], Waiting] | None,
        shadowed: Callable[[], Mapping[str, int]] = dict,
        measures: Measures | None = None,
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._done: Folded = drain.done
        self._worker = worker
        self._files = files
        self._shadowed = shadowed
        self._left = Waiting(0, 0)
        self._letters: int | None = None
        self._loop: AbstractEventLoop | None = None
        self._measures = measures or Measures()
        self._answer(self._measures)

    # -- health -------------------------------------------------------------------------------------------------------

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the worker comes round and both stores answer; with it, what people want to know."""
        shard = min(self._worker.leases.held, default=0)
        counters, ledger = await asyncio.gather(
            _trouble(self._counters.read(shard, after=START, limit=1)), _trouble(self._ledger.shard(shard))
        )
        age_s = self._heartbeat_age_s()
        comes_round = age_s is not None and age_s <= HEARTBEAT_S
        is_well = comes_round and not counters and not ledger
        return is_well, {
            "status": "ok" if is_well else "failing",
            "heartbeat_age_s": None if age_s is None else round(age_s, 3),
            "counters": counters or "ok",
            "ledger": ledger or "ok",
            "shards": sorted(self._worker.leases.held),
            "failing_shards": sorted(self._worker.failing),
            "lag_s": {shard: round(lag, 3) for shard, lag in self.lags()},
        }

    def _now_s(self) -> float:
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop.time()

    def _heartbeat_age_s(self) -> float | None:
        beat_s = self._worker.beat_s
        return None if beat_s is None else self._now_s() - beat_s

    def lags(self) -> Iterator[tuple[str, float]]:
        """How old the oldest entry that is not folded may be, at most: by the server's time up to the newest entry, and
        from when that was read by this process's own. No two clocks are compared."""
        for shard in sorted(self._worker.leases.held):
            if (seen := self._done.shards.get(shard)) is not None:
                yield str(shard), seen.behind_s + self._now_s() - seen.at_s

    async def left_behind(self) -> Waiting:
        """What others left in journal files on this machine, now."""
        if self._files is not None:
            self._left = await asyncio.to_thread(self._files)
        return self._left

    @property
    def drift(self) -> int:
        """By how many units counters differed from the ledger, when they were compared last."""
        return self._worker.reconciling.drift

    def _backlogs(self) -> Iterator[tuple[str, float]]:
        for shard in sorted(self._worker.leases.held):
            if (seen := self._done.shards.get(shard)) is not None:
                yield str(shard), seen.entries

    # -- numbers ------------------------------------------------------------------------------------------------------

    def _answer(self, measures: Measures) -> None:
        """For what is known where it is done."""
        done, worker = self._done, self._worker

        def one(value: Callable[[], float | None]) -> Callable[[], Iterable[tuple[str, float]]]:
            return lambda: () if (now := value()) is None else (("", now),)

        values: dict[Instrument, Callable[[], float | None]] = {
            FOLD_FACTS: lambda: done.facts,
            FOLD_BATCHES: lambda: done.batches,
            FOLD_SIZE: lambda: done.last_batch,
            DEAD_MADE: lambda: done.dead,
            HEARTBEAT: self._heartbeat_age_s,
            LEASES: lambda: len(worker.leases.held),
            JOURNAL_LEFT_FACTS: lambda: self._left.facts,
            JOURNAL_LEFT_FILES: lambda: self._left.files,
            DEAD_LETTERS: lambda: self._letters,
            COUNTERS_DRIFT: lambda: self.drift,
        }
        for instrument, value in values.items():
            measures.answer(instrument, one(value))
        measures.answer(FOLD_LAG, self.lags)
        measures.answer(FOLD_BACKLOG, self._backlogs)
        measures.answer(SHADOW_BLOCKS, lambda: sorted(self._shadowed().items()))

    async def count_dead_letters(self) -> None:
        """Asks the ledger; where it does not answer, nobody knows."""
        self._letters = None
        with suppress(MeteringError, TimeoutError):
            async with asyncio.timeout(PING_S):
                self._letters = await self._ledger.count_dead_letters()

    async def exposition(self) -> str:
        """All numbers of this process in Prometheus's text format."""
        await self.left_behind()
        await self.count_dead_letters()
        return exposition(self._measures)

    def observe(self) -> None:
        """Shows them to OpenTelemetry, for whoever has set its SDK up. What only the ledger or the disk can tell is as
        of a minute ago, in a process that works."""
        self._now_s()
        self._measures.show()


async def _trouble(answer: Awaitable[object]) -> str:
    """Why there is no answer; "" if there is one."""
    try:
        async with asyncio.timeout(PING_S):
            await answer
    except TimeoutError:
        return f"no answer within {PING_S:.0f} s"
    except MeteringError as error:
        return " ".join(str(error).split())
    return ""
