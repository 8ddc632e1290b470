"""How the house stands now: what is folded, who works, what waits, what failed. No usage and no amounts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, computed_field

from mm_metering.backends.counters import START, Counters, position_key
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.overview import Overview, Queue
from mm_metering.backends.work import Alert, Lease, Run
from mm_metering.core.periods import from_micros
from mm_metering.errors import MeteringError
from mm_metering.gate.journal_file import Directory, Waiting
from mm_metering.worker.leases import LEASE_S, SHARD, WORKER

PING_S: Final = 2.0
"""How long a shard's server may take to say what waits there."""
FORGET_S: Final = 60.0
"""Who has not looked for longer has not seen whether a worker lives."""


FIRST_MS: Final = 1_000_000_000_000
"""No stream has an entry of before 2001."""

LOOK_S: Final = 0.5
"""How long after another look it is looked again whether workers live."""
LOOKS: Final = int(LEASE_S / LOOK_S) + 2
"""Enough of them to tell that one does not."""


class _Value(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)


class WorkerStatus(_Value):
    """``alive``: its lease moves; None where it was not looked at for long enough to tell: ask again within a minute,
    some seconds later."""

    id: str
    shards: tuple[int, ...]
    alive: bool | None


class ShardStatus(_Value):
    """``folded_at``: when the last fact that is in the ledger came to the stream; ``oldest_at``: the first one that is
    not, and ``lag_s`` how old that is, by this host's clock against the server's; None and 0 where counters in memory
    have no such instants. ``trouble``: why its server did not say so."""

    shard: int
    worker: str | None
    folded_at: datetime | None
    oldest_at: datetime | None
    lag_s: float
    trouble: str = ""


class JobStatus(_Value):
    """A job's newest run. ``error`` is that of its last try."""

    job: str
    period_start: datetime
    state: str
    tries: int
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None


class OpenAlert(_Value):
    """Something of the house that somebody must look at."""

    kind: str
    subject: str
    opened_at: datetime
    detail: str


class QueueStatus(_Value):
    """``waiting``: so many, counted up to 100,000; ``oldest_at``: when the first of them was due, or taken; None where
    it is due at once since it was made."""

    waiting: int
    oldest_at: datetime | None


class JournalStatus(_Value):
    """The files on this machine that wait for a process that takes them over; ``place`` None: it keeps none."""

    place: str | None
    files: int
    facts: int


class Status(_Value):
    """All of it as of one instant, but for what the shards' servers said a moment later.

    closed_at   when the newest run of the job that closes months ended; None while it runs
    alerts      the first 100 that are open
    invoices    by month, of the newest two: how many there are by status
    deliveries  webhooks that will be tried, notices hooks that are still to be called, provider_webhooks what the
                payment provider said and was not followed yet, holds what AI calls hold and have not closed
    endpoints_off
                webhook endpoints that the house has switched off: gone, or failing for days
    """

    as_of: datetime
    counters: str
    ledger: str
    workers: tuple[WorkerStatus, ...]
    shards: tuple[ShardStatus, ...]
    journal: JournalStatus
    jobs: tuple[JobStatus, ...]
    closed_at: datetime | None
    dead_letters: int
    alerts: tuple[OpenAlert, ...]
    invoices: Mapping[str, Mapping[str, int]]
    deliveries: QueueStatus
    notices: QueueStatus
    provider_webhooks: QueueStatus
    holds: QueueStatus
    endpoints_off: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def lag_s(self) -> float:
        """Of the shard that is furthest behind."""
        return max((each.lag_s for each in self.shards), default=0.0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def troubles(self) -> tuple[str, ...]:
        """What somebody must look at, a sentence each."""
        return tuple(_troubles(self))


def _troubles(status: Status) -> Iterator[str]:
    yield from (f"shard {each.shard}: {each.trouble}" for each in status.shards if each.trouble)
    if not status.workers and status.lag_s:
        yield "no worker has a lease, and usage waits: run `mm-metering worker`"
    yield from (f"worker {each.id} stands still" for each in status.workers if each.alive is False)
    yield from (f"job {each.job} failed: {each.error}" for each in status.jobs if each.state == "failed")
    if status.dead_letters:
        yield f"dead letters: {status.dead_letters:,}: look at `mm-metering dead-letters`"
    if status.journal.files:
        yield f"journal: {status.journal.facts:,} facts in {status.journal.files:,} files wait for a process"


class Watch:
    """Whether workers live, for one who looks more than once: no clock of theirs is read."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._looked_s = float("-inf")
        self._seen: dict[str, tuple[int, float, bool]] = {}

    def look(self, leases: Sequence[Lease]) -> Mapping[str, bool | None]:
        """By worker: whether its own lease moves; None where that is not known yet."""
        now_s = self._now_s()
        before = self._seen if now_s - self._looked_s <= FORGET_S else {}
        self._looked_s = now_s
        theirs = {each.owner: each.beat for each in leases if each.name.startswith(WORKER)}
        self._seen = {owner: _moved(beat, before.get(owner), now_s) for owner, beat in theirs.items()}
        return {owner: _lives(moved, now_s - at_s) for owner, (_, at_s, moved) in self._seen.items()}


def _moved(beat: int, before: tuple[int, float, bool] | None, now_s: float) -> tuple[int, float, bool]:
    """The beat, since when it is that, and whether it was seen to move."""
    if before is None:
        return beat, now_s, False
    return before if before[0] == beat else (beat, now_s, True)


def _lives(moved: bool, still_s: float) -> bool | None:  # noqa: FBT001 - what _moved says
    if still_s >= LEASE_S:
        return False
    return True if moved else None


async def settled(look: Callable[[], Awaitable[Status]]) -> Status:
    """The status once it is known of each worker whether it lives: after a second where they do."""
    found = await look()
    for _ in range(LOOKS):
        if all(each.alive is not None for each in found.workers):
            break
        await asyncio.sleep(LOOK_S)
        found = await look()
    return found


class Lookout:
    """Looks at the house. It changes nothing, and may be asked by several at once."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        *,
        places: tuple[str, str],
        journal: Directory | None,
        close_job: str,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._places = places
        self._journal = journal
        self._close_job = close_job
        self._watch = Watch(now_s=now_s)

    async def look(self, now: datetime) -> Status:
        """StoreUnavailable where the ledger does not answer; what the counters do not say is said of each shard."""
        seen = await self._ledger.overview()
        shards = await asyncio.gather(*(self._shard(each, seen, now) for each in range(self._counters.shards)))
        runs = {run.job: run for run in seen.runs}
        counters, ledger = self._places
        return Status(
            as_of=now,
            counters=counters,
            ledger=ledger,
            workers=tuple(_workers(seen, self._watch.look(seen.leases))),
            shards=tuple(shards),
            journal=await self._left(),
            jobs=tuple(map(_job, seen.runs)),
            closed_at=_at(runs[self._close_job].finished_us) if self._close_job in runs else None,
            dead_letters=seen.dead_letters,
            alerts=tuple(map(_alert, seen.alerts)),
            invoices=seen.invoices,
            deliveries=_queue(seen.deliveries),
            notices=_queue(seen.notices),
            provider_webhooks=_queue(seen.hints),
            holds=_queue(seen.holds),
            endpoints_off=seen.endpoints_off,
        )

    async def _shard(self, shard: int, seen: Overview, now: datetime) -> ShardStatus:
        worker = next((each.owner for each in seen.leases if each.name == f"{SHARD}{shard}"), None)
        generation, position = seen.positions.get(shard, (0, START))
        oldest_at, trouble = None, ""
        try:
            async with asyncio.timeout(PING_S):
                oldest_at = await self._oldest(shard, generation, position)
        except TimeoutError:
            trouble = f"its server gave no answer within {PING_S:.0f} s"
        except MeteringError as error:
            trouble = " ".join(str(error).split())
        lag_s = 0.0 if oldest_at is None else max(0.0, (now - oldest_at).total_seconds())
        folded_at = _instant(position)
        return ShardStatus(
            shard=shard, worker=worker, folded_at=folded_at, oldest_at=oldest_at, lag_s=lag_s, trouble=trouble
        )

    async def _oldest(self, shard: int, generation: int, position: str) -> datetime | None:
        """When the first entry that is not folded came. A stream of a later life is folded from its start."""
        backlog = await self._counters.read(shard, after=position, limit=1)
        if backlog.generation > generation and position != START:
            backlog = await self._counters.read(shard, after=START, limit=1)
        return _instant(backlog.entries[0].position) if backlog.entries else None

    async def _left(self) -> JournalStatus:
        if self._journal is None:
            return JournalStatus(place=None, files=0, facts=0)
        waiting: Waiting = await asyncio.to_thread(self._journal.count)
        return JournalStatus(place=str(self._journal.path), files=waiting.files, facts=waiting.facts)


def _workers(seen: Overview, alive: Mapping[str, bool | None]) -> Iterator[WorkerStatus]:
    for owner, lives in alive.items():
        theirs = (each.name for each in seen.leases if each.owner == owner and each.name.startswith(SHARD))
        yield WorkerStatus(
            id=owner, shards=tuple(sorted(int(name.removeprefix(SHARD)) for name in theirs)), alive=lives
        )


def _job(run: Run) -> JobStatus:
    return JobStatus(
        job=run.job,
        period_start=from_micros(run.period_us),
        state=run.state,
        tries=run.tries,
        started_at=_at(run.started_us),
        finished_at=_at(run.finished_us),
        error=run.error,
    )


def _alert(alert: Alert) -> OpenAlert:
    return OpenAlert(
        kind=alert.kind, subject=alert.subject, opened_at=from_micros(alert.opened_us), detail=alert.detail
    )


def _queue(queue: Queue) -> QueueStatus:
    return QueueStatus(waiting=queue.waiting, oldest_at=_at(queue.oldest_us or None))


def _at(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else from_micros(moment_us)


def _instant(position: str) -> datetime | None:
    """When a stream's entry was made, by its server's clock. None where entries are counted, as in memory."""
    made_ms = position_key(position)[0]
    return from_micros(made_ms * 1_000) if made_ms >= FIRST_MS else None
