"""The processes of a run: app processes under load, workers, a server; and how each of them is killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from mm_metering import Metering
from mm_metering.backends.counters import START, position_key
from mm_metering.errors import StoreUnavailable
from tests.chaos.app import OPEN, PLANS, UNREACHABLE, Part, own_event, run, run_worker
from tests.chaos.servers import Killed
from tests.chaos.truth import RECORD, YES, Truth, TruthFile
from tests.forks import forks

log = logging.getLogger("tests.chaos")

POLL_S: Final = 0.02
GIVE_UP_S: Final = 30.0
CALLERS: Final = 10
PAUSE_S: Final = 0.006

_context: Final = forks()


class Stuck(AssertionError):
    """Something that must happen did not; the message says what."""


@dataclass(slots=True, eq=False)
class Place:
    """Where an app process or a worker runs; when one ends the next is started there."""

    name: str
    failpoint: str = ""
    """What its next processes are armed with: a point, and after how many times at most they are killed there."""
    at_most: int = 1
    started_at: float = 0.0
    starts: int = 0
    deaths: int = 0
    """Ends by a signal."""
    process: ForkServerProcess | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.exitcode is None


@dataclass(slots=True, eq=False)
class House:
    """``ledger`` is a URL; ``server`` is started. Everything is written below ``folder``."""

    folder: Path
    ledger: str
    server: Killed
    dice: random.Random
    apps: int = 3
    workers: int = 2
    losses: list[float] = field(default_factory=list)
    lost_at: float = 0.0
    """When the last loss was over."""
    died_at: float = 0.0
    """When an app process last ended by a signal."""
    checked_at: float = 0.0
    places: list[Place] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    """Processes that ended by themselves."""

    @property
    def truth_folder(self) -> Path:
        return self.folder / "truth"

    @property
    def stores(self) -> Mapping[str, str]:
        return {"counters": self.server.url, "ledger": self.ledger, "journal": str(self.folder / "journal")}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Truth]:
        """The load is on while the block runs; afterwards all have ended in order, and the stores are still there."""
        self.truth_folder.mkdir(parents=True)
        async with self.metering() as metering:  # plans and schema are there before the first process
            for tenant in OPEN:
                await metering.put_tenant(tenant)
        self.places = [Place(f"app-{n}") for n in range(self.apps)] + [
            Place(f"worker-{n}") for n in range(self.workers)
        ]
        keeping = asyncio.create_task(self._keep())
        try:
            yield Truth(self.truth_folder)
            await self._stop(keeping)
        finally:
            keeping.cancel()
            for place in self.places:
                if place.process is not None:
                    place.process.kill()
                    place.process.join()

    def metering(self) -> Metering:
        options: Any = dict(self.stores)
        return Metering(PLANS, **options, worker="off", apply="always")

    # -- processes ----------------------------------------------------------------------------------------------------

    def of(self, kind: str) -> list[Place]:
        return [place for place in self.places if place.name.startswith(kind) and place.runs]

    async def _keep(self) -> None:
        """Starts whatever has ended again."""
        while True:
            for place in self.places:
                if not place.runs:
                    self._bury(place)
                    self._start(place)
            await asyncio.sleep(POLL_S)

    def _bury(self, place: Place) -> None:
        code = place.process.exitcode if place.process is not None else None
        place.process = None
        if code == -signal.SIGKILL:
            place.deaths += 1
            if place.name.startswith("app"):
                self.died_at = time.monotonic()
        elif code not in (0, None, UNREACHABLE, -signal.SIGTERM):  # the last: it had just begun
            self.surprises.append(f"{place.name} ended with {code}: see {self.folder / 'log'}")

    def _start(self, place: Place) -> None:
        place.starts += 1
        log_file = self.folder / "log"
        failpoint = f"{place.failpoint}:{self.dice.randint(1, place.at_most)}" if place.failpoint else ""
        if place.name.startswith("app"):
            number = sum(each.starts for each in self.places)
            part = Part(self.stores, self.truth_folder / place.name, number, CALLERS, PAUSE_S, failpoint, log_file)
            place.process = _context.Process(target=run, args=(part,))
        else:
            place.process = _context.Process(target=run_worker, args=(self.stores, failpoint, log_file))
        place.started_at = time.monotonic()
        place.process.start()

    async def kill(self, place: Place) -> None:
        """kill -9; returns when it is gone."""
        await self._send(place, signal.SIGKILL)
        if place.name.startswith("app"):
            self.died_at = time.monotonic()

    async def end(self, place: Place) -> None:
        """SIGTERM; returns when it is gone."""
        await self._send(place, signal.SIGTERM)

    async def _send(self, place: Place, what: signal.Signals) -> None:
        process = place.process
        if process is not None and process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, what)
            await self.until(lambda: process.exitcode is not None, f"{place.name} ends by {what.name}")

    async def _stop(self, keeping: asyncio.Task[None]) -> None:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        for kind in ("app", "worker"):
            await asyncio.gather(*(self.end(place) for place in self.of(kind)))
        for place in self.places:
            if place.process is not None:
                self._bury(place)

    # -- losses -------------------------------------------------------------------------------------------------------

    async def lose(self) -> None:
        """Loses the server's memory, as the mode has it. What an app process had acknowledged before it was killed must
        be in the ledger by then: both lost together is the exception that is stated."""
        await self.drained()
        self.losses.append(time.monotonic())
        await self.server.lose()
        self.lost_at = time.monotonic()

    async def drained(self) -> None:
        """Waits until the ledger has all that stood in the stream when an app process was last killed."""
        if self.checked_at > self.died_at:
            return
        checked_at = time.monotonic()
        metering = self.metering()
        try:
            for shard in range(metering.counters.shards):
                await self._drained(metering, shard)
        finally:
            await metering.counters.aclose()
            await metering.ledger.aclose()
        self.checked_at = checked_at

    async def _drained(self, metering: Metering, shard: int) -> None:
        target: tuple[int, tuple[int, int]] | None = None
        give_up = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up:
            with contextlib.suppress(StoreUnavailable):
                if target is None:
                    backlog = await metering.counters.read(shard, after=START, limit=1)
                    target = (backlog.generation, position_key(backlog.tail))
                row = await metering.ledger.shard(shard)
                if (row.generation, position_key(row.position)) >= target:
                    return
            await asyncio.sleep(POLL_S)
        raise Stuck(f"the drain is not at {target} within {GIVE_UP_S:.0f} s")

    async def noticed(self, truth: Truth) -> list[Place]:
        """The app processes that may be killed: they know of the last loss, for something that they asked since was
        admitted, or they were started since."""
        found: list[Place] = []

        def are_there() -> bool:
            truth.update()
            last = truth.last_admitted
            found[:] = [
                place
                for place in self.of("app")
                if not self.lost_at or place.started_at > self.lost_at or last.get(place.name, 0.0) > self.lost_at
            ]
            return bool(found)

        await self.until(are_there, "an app process is admitted again after a loss")
        return found

    def are_admitted(self, truth: Truth) -> bool:
        """Whether each app process that runs has had a take admitted."""
        truth.update()
        last = truth.last_admitted
        return all(last.get(place.name, 0.0) > place.started_at for place in self.of("app"))

    @staticmethod
    async def until(condition: Any, what: str) -> None:
        give_up = time.monotonic() + GIVE_UP_S
        while not condition():
            if time.monotonic() > give_up:
                raise Stuck(f"not within {GIVE_UP_S:.0f} s: {what}")
            await asyncio.sleep(POLL_S)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def finish(self, truth: Truth, metering: Metering) -> None:
        """Records again what a killed process was recording, and folds all that is left."""
        truth.update()
        await self._record_again(truth, metering, truth.unfinished(RECORD))
        await metering.flush()
        truth.update()

    async def _record_again(self, truth: Truth, metering: Metering, calls: Iterable[str]) -> None:
        file = TruthFile(self.truth_folder / "at-the-end")
        for call in calls:
            await metering.record(own_event(call, truth.sent[call]))
            file.write(YES, call, truth.sent[call])
