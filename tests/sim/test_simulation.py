"""The protocol under every kind of failure: nothing acknowledged is lost, nothing counts twice, nothing drifts.

``MM_SIM_SEEDS`` sets the seeds per mix (a few in CI; ``./dev sim`` runs 24,000). A failing seed repeats exactly.
Each rule that is taken out of the real code must be caught: a simulation that cannot fail proves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mm_metering.backends import memory
from mm_metering.backends.counters import START, Reply
from mm_metering.backends.memory import MemoryCounters, Session, Shard, _Step
from mm_metering.backends.memory_ledger import Books, MemoryLedger
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import MeteringError
from mm_metering.gate import deadlines, flight, gate, generations, journal, journal_file
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.flight import Flight
from mm_metering.gate.generations import certify
from mm_metering.gate.journal import Journal
from mm_metering.gate.journal_file import JournalFile
from mm_metering.worker.drain import Drain
from tests.sim.loop import run
from tests.sim.world import Faults, World

SEEDS = int(os.environ.get("MM_SIM_SEEDS", "25"))
FIRST = int(os.environ.get("MM_SIM_FIRST", "0"))
TRIED = 400
LOSSES = ("empty", "rollback", "flush", "failover")
MIXES = {
    "calm": Faults(plan_changes=True),
    "network": Faults(lost=0.05, late=0.03),
    "restarts": Faults(lost=0.03, late=0.02, events=("restart", "hang")),
    "losses": Faults(lost=0.03, late=0.02, events=(*LOSSES, "hang", "restart")),
    "clean losses": Faults(events=(*LOSSES, "restart")),
    "ledger": Faults(lost=0.03, ledger=0.05, events=("restart", "empty", "hang")),
    "plans": Faults(lost=0.03, events=LOSSES, plan_changes=True),
    "split": Faults(lost=0.03, late=0.02, events=("split",)),
    "crashes": Faults(lost=0.03, late=0.02, events=(*LOSSES, "restart", "crash")),
    "outages": Faults(lost=0.03, late=0.03, events=("hang", "hang", "restart", "empty", "crash")),
    "overflow": Faults(lost=0.03, late=0.03, events=("hang", "hang", "restart", "empty", "crash")),
    "everything": Faults(0.03, 0.02, 0.03, (*LOSSES, "restart", "hang", "split", "crash"), plan_changes=True),
}
EXACT_ADMISSION = ("network", "clean losses")
"""Where every live process can replay before a new generation opens, so that not one unit too many gets in."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def simulate(seed: int, mix: str) -> list[str]:
    with TemporaryDirectory() as files, pytest.MonkeyPatch.context() as patch:
        if mix == "overflow":  # memory takes a few facts, a file some more
            patch.setattr(journal, "IN_MEMORY", 8)
            patch.setattr(journal, "MAX_FILE_BYTES", 1_000)
        return _simulate(World(seed, MIXES[mix], Path(files)), mix)


def _simulate(world: World, mix: str) -> list[str]:

    async def main() -> list[str]:
        await world.live(seconds=2.5)
        over = await world.over_admitted() if mix in EXACT_ADMISSION else []
        return over + await world.verdict()

    try:
        found: list[str] = run(world.seed, main())
    except (AssertionError, RuntimeError, MeteringError, ExceptionGroup) as error:
        return [f"it stuck, or a check inside it failed: {error!r}"]
    assert len(world.deeds) > 10
    return found


@pytest.mark.timeout(0)
@pytest.mark.parametrize("mix", MIXES)
def test_nothing_is_lost_nothing_counts_twice_nothing_drifts(mix: str) -> None:
    failures = {seed: found for seed in range(FIRST, FIRST + SEEDS) if (found := simulate(seed, mix))}
    assert not failures


def test_a_shard_that_the_ledger_has_left_behind_is_certified_by_the_drain() -> None:
    """Two masters, and the one with the older generation stays: nobody misses there, so only the drain can tell."""

    async def main() -> tuple[int, int]:
        counters, ledger = MemoryCounters(), MemoryLedger()
        await certify(counters, ledger, 0, seen=0)
        drain = Drain(counters, ledger, lambda: TenantDefaults("", 0, "UTC"))
        await ledger.certify(0, seen=1)
        assert await ledger.fold(0, generation=2, before=START, after="9-0", facts=(), defaults=drain._defaults())
        for _ in range(100):
            await drain(0)
            await asyncio.sleep(0.05)
        return counters.data[0].generation, (await ledger.shard(0)).generation

    assert run(0, main()) == (3, 3)


@pytest.mark.parametrize("also_cancelled", [False, True])
def test_a_deadline_does_not_swallow_somebody_elses_cancel(*, also_cancelled: bool) -> None:
    async def main() -> tuple[bool, bool]:
        made: list[deadlines.Deadline] = []

        async def waiting() -> tuple[bool, bool]:
            made.append(deadlines.Deadline(asyncio.get_running_loop(), 60))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                made[0].cancel()
            return made[0].is_over, made[0].is_cancelled_besides()

        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        made[0]._end(0)
        if also_cancelled:
            task.cancel()
        return await task

    assert run(0, main()) == (True, also_cancelled)


# -- rules taken out, each of which must be caught -------------------------------------------------------------------


def no_fence(patch: pytest.MonkeyPatch) -> None:
    """G2: data of another server life is served."""
    real = memory.apply

    def apply(data: Shard, batch: Any, *, boot: str, time_ms: float) -> Any:
        return real(data, batch, boot=data.boot, time_ms=time_ms)

    patch.setattr(memory, "apply", apply)


def no_generation(patch: pytest.MonkeyPatch) -> None:
    """G3: a batch of an older generation runs."""
    real = memory.apply

    def apply(data: Shard, batch: Any, *, boot: str, time_ms: float) -> Any:
        if data.generation and batch.generation and data.boot == boot:
            batch = batch._replace(generation=data.generation)
        return real(data, batch, boot=boot, time_ms=time_ms)

    patch.setattr(memory, "apply", apply)


def no_session(patch: pytest.MonkeyPatch) -> None:
    """G4: a lost reply asked for again runs again."""
    patch.setattr(memory, "Session", lambda seq, reply: Session(-1, reply))


def stale_runs(patch: pytest.MonkeyPatch) -> None:
    """G4: a batch that arrives late, past its number, runs."""
    real = memory.apply

    def apply(data: Shard, batch: Any, *, boot: str, time_ms: float) -> Any:
        session = data.sessions.get(batch.process)
        if session and batch.seq < session.seq:
            del data.sessions[batch.process]
        return real(data, batch, boot=boot, time_ms=time_ms)

    patch.setattr(memory, "apply", apply)


def no_barrier(patch: pytest.MonkeyPatch) -> None:
    """G5: a tenant is loaded from a ledger that is behind."""
    patch.setattr(_Step, "barrier", lambda self, tenant: START)


def old_tags(patch: pytest.MonkeyPatch) -> None:
    """G5: counters of an older generation, rolled back with the server, look loaded."""

    def loaded(self: _Step, tenant: str, tag: str) -> Any:
        found = self.data.tenants.get(tenant)
        return found if found and tag and found.tag == tag else None

    patch.setattr(_Step, "loaded", loaded)


def no_grace(patch: pytest.MonkeyPatch) -> None:
    """G2: a new generation opens before the journals are replayed."""
    patch.setattr(generations, "GRACE_MS", 0)


def replay_counts_nothing(patch: pytest.MonkeyPatch) -> None:
    """G6: what is appended uncounted leaves the tenant loaded."""
    patch.setattr(_Step, "unload", lambda self, tenant: None)


def no_replay(patch: pytest.MonkeyPatch) -> None:
    """G7: a new generation forgets the journal."""

    def restart(self: Journal) -> None:
        self.facts -= sum(len(entry.items) for entry in self._acked)
        self._acked.clear()

    patch.setattr(Journal, "restart", restart)


def early_forget(patch: pytest.MonkeyPatch) -> None:
    """G7: the journal forgets what is acknowledged but not drained."""
    patch.setattr(Journal, "acked", lambda self, generation, position, items: None)


def no_void(patch: pytest.MonkeyPatch) -> None:
    """G7: an unknown fate that was answered no is not taken back."""
    patch.setattr(flight, "voids", lambda items: [])


def same_id(patch: pytest.MonkeyPatch) -> None:
    """G7: what is voided is taken again under the same id."""
    real = gate.Gate.take

    async def take(self: Any, tenant: str, wishes: Any, **options: Any) -> Any:
        fresh, kept = self._new_id, self._new_id()
        self._new_id = lambda: kept
        try:
            return await real(self, tenant, wishes, **options)
        finally:
            self._new_id = fresh

    patch.setattr(gate.Gate, "take", take)


def no_tombstone(patch: pytest.MonkeyPatch) -> None:
    """G8: a void that overtakes its target is forgotten."""
    real = MemoryLedger._void

    def void(self: MemoryLedger, books: Books, fact: Any, *rest: Any) -> None:
        if fact.target in books.facts:
            real(self, books, fact, *rest)

    patch.setattr(MemoryLedger, "_void", void)


def counts_twice(patch: pytest.MonkeyPatch) -> None:
    """G8: a fact that is there already is folded again."""
    real = MemoryLedger._fold_tenant

    def fold(self: MemoryLedger, books: Books, facts: Any) -> None:
        kept = dict(books.facts)
        books.facts.clear()
        real(self, books, facts)
        books.facts = kept | books.facts

    patch.setattr(MemoryLedger, "_fold_tenant", fold)


def trims_blindly(patch: pytest.MonkeyPatch) -> None:
    """G9: a trim that belongs to another generation runs."""
    real = MemoryCounters.trim

    async def trim(self: MemoryCounters, shard: int, *, generation: int, position: str) -> None:
        await real(self, shard, generation=self.data[shard].generation, position=position)

    patch.setattr(MemoryCounters, "trim", trim)


def cancelled_stays(patch: pytest.MonkeyPatch) -> None:
    """A caller that went away stays billed for what it never got."""
    real = Lane._finish

    def finish(self: Lane, flight: Flight, reply: Reply) -> None:
        for waiter in flight.waiters:
            if waiter.future.cancelled():
                waiter.future = self._task.get_loop().create_future()  # type: ignore[union-attr]
        real(self, flight, reply)

    patch.setattr(Lane, "_finish", finish)


def file_goes_early(patch: pytest.MonkeyPatch) -> None:
    """G7: a file that was adopted is removed before the ledger has what it held."""
    real = Journal.adopt

    def adopt(self: Journal, file: JournalFile, *facts: Any) -> None:
        real(self, file, *facts)
        file.discard()

    patch.setattr(Journal, "adopt", adopt)


def file_goes_with_the_reply(patch: pytest.MonkeyPatch) -> None:
    """G7: a process removes its own file when its facts stand in the stream, before the ledger has them."""
    real = Journal.acked

    def acked(self: Journal, generation: int, position: str, items: Any) -> None:
        real(self, generation, position, items)
        if not self._pending:
            while self._files:
                self._files.pop().discard()
            self._own = None

    patch.setattr(Journal, "acked", acked)


def told_first(patch: pytest.MonkeyPatch) -> None:
    """G7: a caller is told before it is written what that stands on."""
    real = JournalFile.append

    def append(self: JournalFile, records: Any) -> None:
        def write(lines: list[Any]) -> None:
            if self._descriptor >= 0:
                real(self, lines)

        asyncio.get_running_loop().call_later(0.03, write, [*records])

    patch.setattr(JournalFile, "append", append)


def nothing_noted(patch: pytest.MonkeyPatch) -> None:
    """G7: what was told of a batch in flight is not written."""
    patch.setattr(Journal, "note", lambda self, items: None)


def nothing_saved(patch: pytest.MonkeyPatch) -> None:
    """G7: what stands in the stream alone is not written when the counters fail."""
    patch.setattr(Journal, "save", lambda self, replaying=(): None)


def nothing_left(patch: pytest.MonkeyPatch) -> None:
    """G7: a process that ends leaves what is unconfirmed to nobody."""
    patch.setattr(Journal, "close", lambda self, owed: [file.release() for file in self._files])


def torn_line_taken(patch: pytest.MonkeyPatch) -> None:
    """G7: a line that was cut off is taken as it is."""
    patch.setattr(journal_file, "crc32", lambda text: 0)


def session_goes_on(patch: pytest.MonkeyPatch) -> None:
    """G4: a batch of a process that has ended arrives after its facts were replayed, and counts them again."""

    async def end_session(self: Lane, process: str) -> bool:
        return True

    patch.setattr(Lane, "end_session", end_session)


def overflow_ends_its_own_session(patch: pytest.MonkeyPatch) -> None:
    """G7: a file of what did not fit into memory names the session of a process that goes on."""
    real = Journal._spills

    def spills(self: Journal, record: Any) -> bool:
        create: Any = self._create
        self._create = lambda _: create(self._process)
        try:
            return real(self, record)
        finally:
            self._create = create

    patch.setattr(Journal, "_spills", spills)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, int]] = {
    no_fence: ("losses", 0),
    no_generation: ("losses", 2),
    no_session: ("network", 0),
    stale_runs: ("network", 0),
    no_barrier: ("losses", 6),
    old_tags: ("clean losses", 50),
    no_grace: ("clean losses", 50),
    replay_counts_nothing: ("network", 0),
    no_replay: ("losses", 0),
    early_forget: ("losses", 2),
    no_void: ("losses", 0),
    same_id: ("losses", 0),
    no_tombstone: ("losses", 3),
    counts_twice: ("losses", 0),
    trims_blindly: ("losses", 20),
    cancelled_stays: ("network", 0),
    file_goes_early: ("outages", 60),
    file_goes_with_the_reply: ("outages", 40),
    told_first: ("outages", 0),
    nothing_noted: ("outages", 0),
    nothing_saved: ("outages", 10),
    nothing_left: ("crashes", 80),
    torn_line_taken: ("outages", 0),
    session_goes_on: ("outages", 50),
    overflow_ends_its_own_session: ("overflow", 0),
}
"""Where each is looked for: a mix, and a seed near one that caught it, so that the search is short."""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_that_is_taken_out_is_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    mix, first = MUTANTS[mutant]
    if not any(simulate(seed, mix) for seed in range(first, first + TRIED)):
        pytest.fail(f"{mutant.__doc__} went unnoticed in {TRIED} runs")
