"""A server that stops, dies or is emptied under steady load: how soon every caller is answered, and what is billed.

``MM_OUTAGE_CYCLES`` sets how many outages one run meets, and ``MM_OUTAGE_SEED`` which (``./dev nightly``); without
them there is one of each kind.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.backends.ledger import Snapshot
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.deadlines import Timing
from tests.e2e.callers import (
    DEGRADED,
    METERS,
    NO,
    PLANS,
    UNAVAILABLE,
    YES,
    Answer,
    Caller,
    FairClock,
    billed,
    differences,
)
from tests.e2e.servers import Connection, Reply, serving, until_it_serves
from tests.redis_server import RedisServer

CALLERS: Final = 32
EVERY_S: Final = 0.05
DEADLINE_S: Final = Timing().decision_s
LATE_S: Final = 0.01
OPEN_BREAKER_S: Final = 0.001
RETURN_S: Final = 1.0
ATTEMPTS: Final = 3
"""A machine that gives the server or the ledger no time is not what is measured: one of so many must be in time."""
GIVE_UP_S: Final = 20.0
CYCLES: Final = int(os.environ.get("MM_OUTAGE_CYCLES", "0"))
SEED: Final = int(os.environ.get("MM_OUTAGE_SEED", "0"))
ONE_OF_EACH: Final = (("stop", 2.0), ("kill", 0.3), ("flush", 0.0), ("stop", 0.02))
OUTAGES: Final = (*ONE_OF_EACH, ("stop", 0.2), ("stop", 4.0), ("kill", 0.0), ("kill", 3.0))


def chosen() -> list[tuple[str, float]]:
    return random.Random(SEED).choices(OUTAGES, k=CYCLES) if CYCLES else list(ONE_OF_EACH)


@dataclass
class Outage:
    """When the server did not answer, by the fair clock, and what callers were told from then until all was exact."""

    kind: str
    began_s: float
    returned_s: float
    answers: list[Answer] = field(default_factory=list)

    @property
    def meanwhile(self) -> list[Answer]:
        """Answers that were asked for while the server did not answer, or just before."""
        return [each for each in self.answers if each.began_s < self.returned_s != self.began_s]

    @property
    def slowest_s(self) -> float:
        return max((each.took_s for each in self.meanwhile), default=0.0)

    @property
    def open_breaker(self) -> list[Answer]:
        return [each for each in self.meanwhile if each.was_down]

    @property
    def exact_after_s(self) -> float:
        """How long after its return the last answer came that the counters had not given, or that took longer than
        the deadline."""
        inexact = [
            each.ended_s
            for each in self.answers
            if each.ended_s > self.returned_s and (each.told in (DEGRADED, UNAVAILABLE) or each.took_s > DEADLINE_S)
        ]
        return max(inexact, default=self.returned_s) - self.returned_s

    @property
    def is_in_time(self) -> bool:
        cpu_s = sorted(each.cpu_s for each in self.open_breaker) or [0.0]
        return (
            self.slowest_s <= DEADLINE_S + LATE_S
            and self.exact_after_s <= RETURN_S
            and cpu_s[len(cpu_s) * 99 // 100] <= OPEN_BREAKER_S
        )

    def row(self) -> str:
        told = Counter(each.told for each in self.answers)
        cpu_us = sorted(each.cpu_s * 1e6 for each in self.open_breaker) or [0.0]
        return (
            f"{self.kind:6} {self.returned_s - self.began_s:6.2f} s  slowest {self.slowest_s * 1e3:6.1f} ms  "
            f"open breaker {len(self.open_breaker):6} x {cpu_us[len(cpu_us) // 2]:4.0f} us  "
            f"exact after {self.exact_after_s:5.2f} s  {dict(told)}"
        )


@pytest.fixture
def quiet() -> Iterator[None]:
    """Hundreds of expected warnings cost more than what is measured."""
    logging.disable(logging.WARNING)
    gc.freeze()
    yield
    gc.unfreeze()
    logging.disable(logging.NOTSET)


class Steady:
    """Callers under way on one Metering, and the outages they meet."""

    def __init__(self, server: RedisServer, metering: Metering, clock: FairClock) -> None:
        self.server = server
        self.clock = clock
        self.callers = [Caller(metering, f"caller-{n}", clock, self.is_down) for n in range(CALLERS)]
        self.differences: list[str] = []
        self._lane: Lane = metering.gate._lane("any")

    def is_down(self) -> bool:
        return self._lane.down

    async def meet(self, kind: str, seconds: float) -> Outage:
        """One outage, until every caller is told exact numbers again."""
        began_s = self.clock.now()
        if kind == "stop":
            with self.server.stopped():
                await asyncio.sleep(seconds)
        elif kind == "kill":
            await asyncio.to_thread(self.server.kill)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.server.start)
        else:
            await asyncio.to_thread(self.server.flush)
        returned_s = self.clock.now()
        began_s = returned_s if kind == "flush" else began_s  # an emptied server answers all the time
        await self._until_exact(returned_s)
        answers = [each for caller in self.callers for each in caller.answers if each.ended_s > began_s]
        for caller in self.callers:
            caller.answers.clear()
        return Outage(kind, began_s, returned_s, answers)

    async def meet_in_time(self, kind: str, seconds: float) -> list[Outage]:
        """Outages of a kind until one is in time, or that was tried often enough."""
        met: list[Outage] = []
        while len(met) < ATTEMPTS and not (met and met[-1].is_in_time):
            met.append(await self.meet(kind, seconds))
        return met

    async def _until_exact(self, since_s: float) -> None:
        """Until the last answers of every caller come from the counters, some time after ``since_s``."""
        async with asyncio.timeout(GIVE_UP_S):
            while not all(self._is_exact(caller, since_s) for caller in self.callers):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(EVERY_S)

    @staticmethod
    def _is_exact(caller: Caller, since_s: float) -> bool:
        last = caller.answers[-10:]
        return len(last) == 10 and all(each.began_s > since_s and each.told in (YES, NO) for each in last)


@asynccontextmanager
async def steady_load(server: RedisServer, ledger: str) -> AsyncIterator[Steady]:
    """Afterwards ``differences`` says where the ledger is not what the callers were told."""
    clock = FrozenClock("2024-01-15T12:00:00Z")  # no window ends meanwhile
    async with Metering(PLANS, counters=server.url, ledger=ledger, worker="inline", clock=clock) as metering:
        with FairClock.ticking() as fair:
            steady = Steady(server, metering, fair)
            for caller in steady.callers[::8]:
                await metering.put_tenant(caller.tenant, plan="few")
            tasks = [asyncio.create_task(caller.call(every_s=EVERY_S)) for caller in steady.callers]
            await steady._until_exact(fair.now())
            yield steady
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        await metering.flush()
        steady.differences = await differences(steady.callers)


@pytest.mark.timeout(100 + 20 * CYCLES)
@pytest.mark.usefixtures("quiet")
async def test_callers_are_answered_in_time_and_billed_what_they_were_told(
    own_server: RedisServer, tmp_path: Path
) -> None:
    async with steady_load(own_server, f"sqlite:///{tmp_path}/ledger.db") as steady:
        tried = [await steady.meet_in_time(kind, seconds) for kind, seconds in chosen()]
    outages = [outage for outages in tried for outage in outages]
    print("", *(outage.row() for outage in outages), sep="\n")
    assert not steady.differences
    assert {YES, NO} <= {each.told for outage in outages for each in outage.answers}
    for outage in outages:
        told = {(each.told, each.meter) for each in outage.answers}
        assert told <= {(DEGRADED, "soft"), (UNAVAILABLE, "strict"), *product((YES, NO), METERS)}
        assert not [each for each in outage.open_breaker if each.waited], outage.row()
    for attempts in tried:
        assert attempts[-1].is_in_time, [outage.row() for outage in attempts]


# -- the same over HTTP ------------------------------------------------------------------------------------------------


class Browser:
    """Asks one path on a connection of its own, again and again, until it is told to stop."""

    def __init__(self, path: str, tenant: str) -> None:
        self.path = path
        self.tenant = tenant
        self.answers: list[tuple[float, float, str]] = []
        self.is_over = False

    @property
    def told_yes(self) -> int:
        return sum(told in (YES, DEGRADED) for _, _, told in self.answers)

    async def browse(self, port: int, clock: FairClock) -> None:
        async with Connection.open(port) as connection:
            while not self.is_over:
                began_s = clock.now()
                reply = await connection.get(self.path, self.tenant)
                self.answers.append((began_s, clock.now() - began_s, self._told(reply)))
                await asyncio.sleep(EVERY_S)

    @staticmethod
    def _told(reply: Reply) -> str:
        degraded = reply.headers.get("mm-metering") == "degraded"
        return {200: DEGRADED if degraded else YES, 503: UNAVAILABLE}.get(reply.status, str(reply.status))


@pytest.mark.usefixtures("quiet")
async def test_http_answers_come_in_time_and_every_200_is_billed(own_server: RedisServer, tmp_path: Path) -> None:
    """Beside them an unmetered route shows how fast the server's process answers at all."""
    stores = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    browsers = [Browser(path, f"{path[1:]}-{n}") for n in range(8) for path in ("/soft", "/strict")]
    plain = Browser("/free", "nobody")
    with serving("tests.e2e.metered_app:app", stores, processes=1) as (port,), FairClock.ticking() as clock:
        await until_it_serves(port)
        tasks = [asyncio.create_task(browser.browse(port, clock)) for browser in (*browsers, plain)]
        await _until_served(browsers, clock.now())
        with own_server.stopped():
            stopped_s = clock.now()
            await asyncio.sleep(1.0)
            returned_s = clock.now()
        await _until_served(browsers, returned_s)
        for browser in (*browsers, plain):
            browser.is_over = True
        await asyncio.gather(*tasks)
    meanwhile = [each for browser in browsers for each in browser.answers if stopped_s < each[0] < returned_s]
    slowest_plain_s = max(took_s for began_s, took_s, _ in plain.answers if stopped_s - 0.1 < began_s < returned_s)
    assert max(took_s for _, took_s, _ in meanwhile) <= DEADLINE_S + LATE_S + slowest_plain_s
    assert {told for _, _, told in meanwhile} == {DEGRADED, UNAVAILABLE}
    for path, otherwise in (("/soft", DEGRADED), ("/strict", UNAVAILABLE)):
        assert {told for each in browsers if each.path == path for _, _, told in each.answers} == {YES, otherwise}
    async with Metering(PLANS, **stores, worker="off") as metering:  # type: ignore[arg-type]
        await metering.flush()
        for browser in browsers:
            assert (await billed(metering, browser.tenant))[browser.path[1:]] == browser.told_yes


async def _until_served(browsers: Sequence[Browser], since_s: float) -> None:
    """Until the last answers of each come from the counters, some time after ``since_s``."""
    async with asyncio.timeout(GIVE_UP_S):
        while not all(_is_served(browser, since_s) for browser in browsers):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(EVERY_S)


def _is_served(browser: Browser, since_s: float) -> bool:
    last = browser.answers[-5:]
    return len(last) == 5 and all(began_s > since_s and told == YES for began_s, _, told in last)


# -- tenants that are being loaded -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
async def test_a_take_that_waits_for_its_tenant_is_answered_when_the_server_stops(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else asks the counters meanwhile, so the load itself must notice."""
    stores: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db", "worker": "off"}
    async with Metering(PLANS, **stores) as metering, Metering(PLANS, **stores) as other:
        with ExitStack() as outage:
            clock = outage.enter_context(FairClock.ticking())
            caller = Caller(metering, "acme", clock, lambda: False)
            await caller.take("soft")
            await other.put_tenant("acme", timezone="Europe/Berlin")
            snapshots, stopped_s = metering.ledger.snapshots, list[float]()

            async def stops_the_server(*args: Any, **options: Any) -> Mapping[str, Snapshot]:
                if not stopped_s:
                    outage.enter_context(own_server.stopped())
                    stopped_s.append(clock.now())
                return await snapshots(*args, **options)

            monkeypatch.setattr(metering.ledger, "snapshots", stops_the_server)
            answers = await asyncio.gather(caller.take("soft"), caller.take("strict"))
            outage.close()
            assert [answer.told for answer in answers] == [DEGRADED, UNAVAILABLE]
            assert max(answer.ended_s for answer in answers) - stopped_s[0] <= DEADLINE_S + LATE_S
            await metering.flush()
            assert not await differences([caller])
