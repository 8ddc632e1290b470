"""Periodic work: each period of each job once, over any number of workers, and after downtime too.

A run is a row of the ledger. Whoever sets it from "not there" or "waiting" to "running" has it, under a fence above
every other; a beat tells the others that its owner lives. If that stands still, the next one takes the run over, and
what the old one still says under its lower fence is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from opentelemetry import trace

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.work import JOB_FAILED, Run
from mm_metering.core.cards import masked
from mm_metering.core.periods import from_micros
from mm_metering.errors import MeteringError
from mm_metering.gate.acting import WORKER, acting
from mm_metering.telemetry import spans
from mm_metering.telemetry.instruments import JOBS
from mm_metering.telemetry.measures import Measures
from mm_metering.worker.still import Still

log: Final = logging.getLogger("mm_metering.worker")

LOOK_S: Final = 1.0
"""How often a job that is due is looked at, and how often the beat of one's own run is raised."""
RUN_LEASE_S: Final = 10.0
"""A run whose beat was seen to stand still for that long is taken over."""
RETRY_S: Final = 5.0
"""How long a failed run rests before its second try; twice as long before each further one."""
MAX_TRIES: Final = 6
"""After that many a run is given up, with an alert."""
HAND_BACK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """``run`` is called once per period with the period's start and the fence, which guards what it writes elsewhere.

    Periods begin at whole multiples of ``every`` since 1970 in UTC; a run is due at its period's start. Of those that
    were missed, the newest ``catch_up`` are run, oldest first; 1 for a job that only the newest concerns. It may be
    called again for a period, under a higher fence, if it failed or its process ended.
    """

    name: str
    every: timedelta
    run: Callable[[datetime, int], Awaitable[None]]
    catch_up: int = 1

    def due(self, now_us: int, known: Mapping[int, Run]) -> list[int]:
        """The starts of the periods that may have to be run, oldest first. ``known``: the newest runs up to now. A job
        that never ran begins with the newest period."""
        every_us = self.every // timedelta(microseconds=1)
        newest = now_us // every_us * every_us
        first = max(newest - (self.catch_up - 1) * every_us, min(known, default=newest))
        starts = range(first + (newest - first) % every_us, newest + 1, every_us)
        return [start for start in starts if start not in known or known[start].state not in ("done", "failed")]


class Jobs:
    """Runs them, one period of each job at a time."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: Sequence[Job],
        *,
        worker: str,
        now_us: Callable[[], int],
        measures: Measures | None = None,
    ) -> None:
        measures = measures or Measures()
        self._spans = measures.spans
        self._ended = measures.tally(JOBS)
        self._ledger = ledger
        for job in jobs:
            self._ended.add(job.name, "failed", n=0)
        self._jobs = jobs
        self._worker = worker
        self._now_us = now_us

    def leave_out(self, name: str) -> None:
        """Leaves a job to other workers."""
        self._jobs = [job for job in self._jobs if job.name != name]

    async def run(self) -> None:
        """Until it is cancelled; a run that this cuts short is handed back."""
        async with asyncio.TaskGroup() as group:
            for job in self._jobs:
                group.create_task(self._run_job(job))

    async def once(self) -> None:
        """Runs what is due and nobody else is at."""
        for job in self._jobs:
            still: Still[int, tuple[int, int]] = Still(gap_s=RUN_LEASE_S)
            while await self._next(job, still):
                pass

    async def _run_job(self, job: Job) -> None:
        still: Still[int, tuple[int, int]] = Still(gap_s=RUN_LEASE_S / 2)
        while True:
            try:
                if await self._next(job, still):
                    continue
            except MeteringError as error:
                log.warning("job %s waits: %s", job.name, error)
            except Exception:
                log.exception("job %s: the worker met a bug and goes on", job.name)
            await asyncio.sleep(LOOK_S)

    async def _next(self, job: Job, still: Still[int, tuple[int, int]]) -> bool:
        """Carries the oldest run out that is due and free; False if there is none."""
        now_us, now_s = self._now_us(), asyncio.get_running_loop().time()
        known = {run.period_us: run for run in await self._ledger.runs(job.name, until_us=now_us, limit=job.catch_up)}
        still.look({period: (run.fence, run.beat) for period, run in known.items()}, now_s)
        for period_us in job.due(now_us, known):
            seen = known.get(period_us) or Run(job.name, period_us)
            if still.for_s(period_us) >= _rest_s(seen) and (run := await self._claim(seen)):
                await self._carry_out(job, run)
                return True
        return False

    async def _claim(self, seen: Run) -> _Claimed | None:
        """None if another was first."""
        claimed = _Claimed(self._ledger, seen)
        changes = {
            "fence": seen.fence + 1,
            "owner": self._worker,
            "tries": seen.tries + 1,
            "started_us": self._now_us(),
        }
        return claimed if await claimed.put(state="running", finished_us=None, error=None, **changes) else None

    async def _carry_out(self, job: Job, claimed: _Claimed) -> None:
        period = from_micros(claimed.run.period_us)
        span = self._spans.start(f"job {job.name}", {"mm_metering.job": job.name})
        with acting(WORKER), trace.use_span(span):
            work = asyncio.ensure_future(job.run(period, claimed.run.fence))
        work.add_done_callback(lambda done: spans.end(span, None if done.cancelled() else done.exception()))
        try:
            is_mine = await _beat_until_done(work, claimed)
        except asyncio.CancelledError:
            await _end(work)
            with suppress(MeteringError, TimeoutError):
                async with asyncio.timeout(HAND_BACK_S):
                    await claimed.put(state="waiting", tries=claimed.run.tries - 1)
            raise
        if not is_mine:
            await _end(work)
            self._ended.add(job.name, "lost")
            log.warning("job %s of %s: another worker has taken it over", job.name, period)
        elif error := work.exception():
            self._ended.add(job.name, "failed")
            await self._fail(claimed, error)
        elif await claimed.put(state="done", finished_us=self._now_us()):
            self._ended.add(job.name, "done")
            await self._ledger.close_alert(JOB_FAILED, job.name, now_us=self._now_us())
        else:
            self._ended.add(job.name, "lost")
            log.warning("job %s of %s: done under an old fence, which does not count", job.name, period)

    async def _fail(self, claimed: _Claimed, error: BaseException) -> None:
        run, now_us = claimed.run, self._now_us()
        what, text = f"{run.job} of {from_micros(run.period_us)}", f"{type(error).__name__}: {error}"
        text = masked(text).encode("unicode_escape").decode()[:500]
        traced = None if isinstance(error, MeteringError) else error
        log.error("job %s failed (try %d of %d): %s", what, run.tries, MAX_TRIES, text, exc_info=traced)
        if run.tries < MAX_TRIES:
            await claimed.put(state="waiting", error=text)
        else:
            await self._ledger.raise_alert(JOB_FAILED, run.job, detail=f"{what}: {text}", now_us=now_us)
            await claimed.put(state="failed", error=text, finished_us=now_us)


class _Claimed:
    """A run that this worker has, as it stands in the ledger."""

    def __init__(self, ledger: Ledger, run: Run) -> None:
        self._ledger = ledger
        self.run = run

    async def put(self, **changes: Any) -> bool:
        """Changes it and raises its beat; False if another has it by now."""
        run = self.run._replace(**changes)
        if not await self._ledger.put_run(run, instead_of=self.run):
            return False
        self.run = run._replace(beat=self.run.beat + 1)
        return True


async def _beat_until_done(work: asyncio.Future[None], claimed: _Claimed) -> bool:
    """False if another has the run, or may have it by now."""
    loop = asyncio.get_running_loop()
    renewed_s = loop.time()
    while not (await asyncio.wait((work,), timeout=LOOK_S))[0]:
        try:
            if not await claimed.put():
                return False
            renewed_s = loop.time()
        except MeteringError:  # the others see the beat stand still, and so does this one, sooner
            if loop.time() - renewed_s > RUN_LEASE_S / 2:
                return False
    return True


async def _end(work: asyncio.Future[None]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def _rest_s(seen: Run) -> float:
    """How long it must have stood still before it may be claimed."""
    if seen.state == "running":
        return RUN_LEASE_S
    return RETRY_S * 2.0 ** (seen.tries - 1) if seen.tries else 0.0
