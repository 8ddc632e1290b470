"""Periodic work: once per period over any number of workers, and after downtime."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from mm_metering import FrozenClock
from mm_metering.backends.ledger import KEEP_MONTHS, Ledger
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.backends.sql import open_ledger
from mm_metering.backends.work import JOB_FAILED, Run
from mm_metering.clock import micros_of
from mm_metering.core.periods import micros, month_start_us
from mm_metering.errors import ProviderUnavailable, StoreUnavailable
from mm_metering.testing.ledger_contract import Books, use
from mm_metering.worker import jobs
from mm_metering.worker.jobs import Job, Jobs
from mm_metering.worker.upkeep import KEEP_RUNS, upkeep
from tests.sim.loop import run as simulated

HOUR = timedelta(hours=1)
NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


def hours(*numbers: int) -> list[datetime]:
    return [NOON + number * HOUR for number in numbers]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + timedelta(minutes=7))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest_asyncio.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    ledger = open_ledger(ledger_url)
    await ledger.setup(apply=True)
    yield ledger
    await ledger.aclose()


class Log:
    """What was run. ``work`` is what a run does then."""

    def __init__(self, work: Callable[[datetime, int], Awaitable[None]] | None = None) -> None:
        self.runs: list[tuple[datetime, int]] = []
        self._work = work

    @property
    def periods(self) -> list[datetime]:
        return [period for period, _ in self.runs]

    async def __call__(self, period: datetime, fence: int) -> None:
        self.runs.append((period, fence))
        if self._work:
            await self._work(period, fence)


def worker(ledger: Ledger, clock: FrozenClock, job: Job, name: str = "w") -> Jobs:
    return Jobs(ledger, [job], worker=name, now_us=micros_of(clock))


async def test_a_period_is_run_once_by_many_workers_at_once(ledger: Ledger, clock: FrozenClock) -> None:
    log = Log()
    workers = [worker(ledger, clock, Job("j", HOUR, log), f"w{n}") for n in range(6)]
    for _ in range(3):
        await asyncio.gather(*(each.once() for each in workers))
        clock.advance(HOUR)
    assert log.runs == [(period, 1) for period in hours(0, 1, 2)]
    assert [run.state for run in await ledger.runs("j", until_us=micros(NOON + 9 * HOUR), limit=9)] == ["done"] * 3


@pytest.mark.parametrize(("catch_up", "missed"), [(1, (7,)), (3, (5, 6, 7)), (24, range(1, 8))])
async def test_what_was_missed_is_caught_up_oldest_first_within_the_jobs_bound(
    ledger: Ledger, clock: FrozenClock, catch_up: int, missed: tuple[int, ...]
) -> None:
    log = Log()
    job = Job("j", HOUR, log, catch_up=catch_up)
    await worker(ledger, clock, job).once()
    assert log.periods == hours(0), "a job that never ran has missed nothing"
    clock.advance(7 * HOUR)
    await asyncio.gather(*(worker(ledger, clock, job, f"w{n}").once() for n in range(3)))
    assert log.periods == hours(0, *missed)


async def test_a_clock_that_steps_back_or_runs_ahead_repeats_nothing(ledger: Ledger, clock: FrozenClock) -> None:
    log = Log()
    ahead = FrozenClock(clock.now() + HOUR)
    job = Job("j", HOUR, log)
    await worker(ledger, ahead, job, "ahead").once()
    await worker(ledger, clock, job).once()
    clock.advance(HOUR)
    await worker(ledger, clock, job).once()
    clock.advance(-HOUR)
    await worker(ledger, clock, job).once()
    assert log.periods == hours(1, 0)


async def test_old_runs_are_forgotten_by_a_job(ledger: Ledger, clock: FrozenClock) -> None:
    mine = worker(ledger, clock, Job("j", HOUR, Log()))
    keeper = Jobs(ledger, upkeep(ledger), worker="w", now_us=micros_of(clock))
    for step in (HOUR, KEEP_RUNS + HOUR, HOUR):
        await mine.once()
        clock.advance(step)
    await keeper.once()
    left = await ledger.runs("j", until_us=2**62, limit=9)
    assert [run.period_us for run in left] == [micros(NOON + KEEP_RUNS + 2 * HOUR)]


async def test_facts_are_retired_by_a_job(ledger: Ledger, clock: FrozenClock) -> None:
    keeper = Jobs(ledger, upkeep(ledger), worker="w", now_us=micros_of(clock))
    day = micros(clock.now().replace(hour=0, minute=0))
    kept_us = month_start_us(day, -KEEP_MONTHS)
    await Books(ledger).fold(use("over", "2021-11-30 23:59"), use("kept", "2021-12-01 00:00"))
    await keeper.once()
    assert [fact.id for fact in await ledger.facts("acme", after=(0, ""), limit=9)] == ["kept"]
    assert await ledger.kept_us() == kept_us
    assert await ledger.make_room(day) == (), "another job made it"


# -- on virtual time, where a lease takes no waiting -------------------------------------------------------------------


def test_a_killed_owners_run_is_taken_over_and_its_late_finish_does_not_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        ledger, clock, thaw = MemoryLedger(), FrozenClock(NOON), asyncio.Event()

        async def stands_still(_: datetime, fence: int) -> None:
            if fence == 1:
                await thaw.wait()

        log = Log(stands_still)
        job = Job("j", HOUR, log)
        with monkeypatch.context() as patch:  # it stands still: no beat, no end
            patch.setattr(jobs, "LOOK_S", 1e6)
            frozen = asyncio.create_task(worker(ledger, clock, job, "frozen").once())
            await asyncio.sleep(0.1)
        other = asyncio.create_task(worker(ledger, clock, job, "other").run())
        await asyncio.sleep(jobs.RUN_LEASE_S - 1)
        assert log.runs == [(NOON, 1)]
        await asyncio.sleep(4)
        assert log.runs == [(NOON, 1), (NOON, 2)]
        thaw.set()
        await frozen
        other.cancel()
        (run,) = await ledger.runs("j", until_us=2**62, limit=9)
        assert (run.state, run.fence, run.owner) == ("done", 2, "other")

    simulated(1, main())
    assert "done under an old fence" in caplog.text


def test_a_live_owners_run_is_left_to_it_and_its_own_end_is_noticed() -> None:
    async def main() -> None:
        ledger, clock = MemoryLedger(), FrozenClock(NOON)
        log = Log(lambda *_: asyncio.sleep(20 * jobs.RUN_LEASE_S))
        runs = [asyncio.create_task(worker(ledger, clock, Job("j", HOUR, log), f"w{n}").run()) for n in range(3)]
        await asyncio.sleep(30 * jobs.RUN_LEASE_S)
        assert log.runs == [(NOON, 1)]
        for each in runs:
            each.cancel()

    simulated(2, main())


def test_a_worker_that_stops_hands_its_run_back() -> None:
    async def main() -> None:
        ledger, clock = MemoryLedger(), FrozenClock(NOON)
        log = Log(lambda *_: asyncio.sleep(1e6))
        stopping = asyncio.create_task(worker(ledger, clock, Job("j", HOUR, log), "stopping").run())
        await asyncio.sleep(2.5)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        (run,) = await ledger.runs("j", until_us=2**62, limit=9)
        assert (run.state, run.tries) == ("waiting", 0)
        await worker(ledger, clock, Job("j", HOUR, (later := Log())), "next").once()
        assert later.runs == [(NOON, 2)]

    simulated(3, main())


def test_a_job_that_fails_is_tried_again_ever_later_then_given_up_with_an_alert(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        ledger, clock, loop = MemoryLedger(), FrozenClock(NOON), asyncio.get_running_loop()
        tries = list[float]()

        async def fails(period: datetime, _fence: int) -> None:
            tries.append(loop.time())
            if period == NOON:
                raise ZeroDivisionError("no\0 go")

        running = asyncio.create_task(worker(ledger, clock, Job("j", HOUR, fails)).run())
        await asyncio.sleep(1000)
        waits = [round(later - sooner, -1) for sooner, later in itertools.pairwise(tries)]
        assert len(tries) == jobs.MAX_TRIES
        assert waits == sorted(waits)
        (alert,) = await ledger.open_alerts()
        assert (alert.kind, alert.subject) == (JOB_FAILED, "j")
        assert "ZeroDivisionError: no\\x00 go" in alert.detail
        clock.advance(HOUR)
        await asyncio.sleep(10)
        assert await ledger.open_alerts() == [], "the next period went well"
        running.cancel()
        assert [run.state for run in await ledger.runs("j", until_us=2**62, limit=9)] == ["done", "failed"]

    simulated(4, main())
    assert "job j of 2024-01-15 12:00:00+00:00 failed (try 6 of 6): ZeroDivisionError: no\\x00 go" in caplog.text
    assert "Traceback" in caplog.text


def test_what_is_an_error_of_ours_is_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ledger, clock = MemoryLedger(), FrozenClock(NOON)

        async def fails(*_: object) -> None:
            raise ProviderUnavailable("the payment provider cannot be reached", outcome_unknown=False)

        running = asyncio.create_task(worker(ledger, clock, Job("j", HOUR, fails)).run())
        await asyncio.sleep(1)
        running.cancel()

    simulated(4, main())
    assert "(try 1 of 6): ProviderUnavailable: the payment provider cannot be reached" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_worker_without_the_ledger_gives_its_run_up_before_another_may_have_it() -> None:
    class Away(MemoryLedger):
        is_away = False

        async def put_run(self, run: Run, *, instead_of: Run) -> bool:
            if self.is_away:
                raise StoreUnavailable("away")
            return await super().put_run(run, instead_of=instead_of)

    async def main() -> None:
        ledger, clock, ended = Away(), FrozenClock(NOON), list[float]()
        loop = asyncio.get_running_loop()

        async def endless(*_: object) -> None:
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append(loop.time())

        running = asyncio.create_task(worker(ledger, clock, Job("j", HOUR, endless)).run())
        await asyncio.sleep(5)
        ledger.is_away, began = True, loop.time()
        await asyncio.sleep(60)
        assert 0 < ended[0] - began < jobs.RUN_LEASE_S
        running.cancel()

    simulated(5, main())
