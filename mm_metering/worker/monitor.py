"""What a worker says about itself: whether it is well, and its numbers. Never a tenant."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple

from opentelemetry import metrics as otel

from mm_metering.backends.counters import START, Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.errors import MeteringError
from mm_metering.gate.journal_file import Waiting
from mm_metering.worker.drain import Drain, Folded
from mm_metering.worker.runner import Worker

HEARTBEAT_S: Final = 10.0
"""A worker that has not come round to its leases for longer is not well."""
PING_S: Final = 2.0


class Metric(NamedTuple):
    """``read`` answers (label, value) pairs: a shard, or what ``label`` names; "" for what has none."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[], Iterable[tuple[str, float]]]
    label: str = "shard"


class Monitor:
    """``unconfirmed`` counts the facts of this process's journal, ``files`` what others left behind, None without
    files; ``shadowed`` the
    limits of a shadow plan that were found to refuse, by meter."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        drain: Drain,
        worker: Worker,
        *,
        unconfirmed: Callable[[], int],
        files: Callable[[], Waiting] | None,
        shadowed: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._done: Folded = drain.done
        self._worker = worker
        self._unconfirmed = unconfirmed
        self._files = files
        self._shadowed = shadowed
        self._left = Waiting(0, 0)
        self._letters: int | None = None
        self._loop: AbstractEventLoop | None = None
        self.metrics: Final = self._metrics()

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

    def _metrics(self) -> tuple[Metric, ...]:
        done = self._done

        def one(value: Callable[[], float | None]) -> Callable[[], Iterable[tuple[str, float]]]:
            return lambda: () if (now := value()) is None else (("", now),)

        return (
            Metric("mm_lag_seconds", "gauge", "Age of the oldest entry not folded yet, at most.", self.lags),
            Metric("mm_backlog_entries", "gauge", "Entries being folded; at 256 more may wait.", self._backlogs),
            Metric("mm_facts_folded", "counter", "Facts folded by this process.", one(lambda: done.facts)),
            Metric("mm_batches_folded", "counter", "Transactions that folded them.", one(lambda: done.batches)),
            Metric("mm_batch_facts", "gauge", "Facts of the last transaction.", one(lambda: done.last_batch)),
            Metric("mm_dead_letters_made", "counter", "Lines that could not be folded.", one(lambda: done.dead)),
            Metric("mm_heartbeat_age_seconds", "gauge", "Since it came round last.", one(self._heartbeat_age_s)),
            Metric("mm_leases", "gauge", "Shards that this worker holds.", one(lambda: len(self._worker.leases.held))),
            Metric("mm_journal_facts", "gauge", "Facts of this process that the ledger has not confirmed.",
                   one(self._unconfirmed)),
            Metric("mm_journal_left_facts", "gauge", "Facts in journal files on this machine that wait for a process.",
                   one(lambda: self._left.facts)),
            Metric("mm_journal_left_files", "gauge", "Those files.", one(lambda: self._left.files)),
            Metric("mm_dead_letters", "gauge", "Dead letters in the ledger; absent while it does not answer.",
                   one(lambda: self._letters)),
            Metric("mm_counter_drift", "gauge", "By how much counters differed from the ledger, when reconciled last.",
                   one(lambda: self.drift)),
            Metric("mm_shadow_blocks", "counter", "Tenants' limits that the shadow plan was found to refuse by.",
                   lambda: sorted(self._shadowed().items()), "meter"),
        )  # fmt: skip

    async def exposition(self) -> str:
        """All of them in Prometheus's text format."""
        await self.left_behind()
        self._letters = None
        with suppress(MeteringError, TimeoutError):
            async with asyncio.timeout(PING_S):
                self._letters = await self._ledger.count_dead_letters()
        return "\n".join(line for metric in self.metrics for line in _lines(metric)) + "\n"

    def observe(self) -> None:
        """The same numbers as OpenTelemetry instruments, for whoever has set its SDK up; what only the ledger or the
        disk can tell is as of the last scrape. Once per process."""
        self._now_s()
        meter = otel.get_meter("mm_metering")
        for metric in self.metrics:
            make = meter.create_observable_gauge if metric.kind == "gauge" else meter.create_observable_counter
            make(metric.name, callbacks=[_callback(metric)], description=metric.help)


def _callback(metric: Metric) -> Callable[[otel.CallbackOptions], Iterable[otel.Observation]]:
    return lambda _: [otel.Observation(value, {metric.label: each} if each else {}) for each, value in metric.read()]


def _lines(metric: Metric) -> Iterator[str]:
    """Nothing for a metric that has no value now."""
    name, values = f"{metric.name}_total" if metric.kind == "counter" else metric.name, [*metric.read()]
    if values:
        yield f"# HELP {name} {metric.help}"
        yield f"# TYPE {name} {metric.kind}"
    for each, value in values:
        yield f'{name}{{{metric.label}="{each}"}} {value:.6g}' if each else f"{name} {value:.15g}"


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
