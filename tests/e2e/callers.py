"""Callers that know what each answer must say, and a clock that does not count what the machine took away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple

from mm_metering import Metering
from mm_metering.core.periods import local_day, zone
from mm_metering.errors import QuotaExceeded, StoreUnavailable

FEW: Final = 20
THOUSAND: Final = 1_000
BURST: Final = 5
MANY: Final = 10_000_000
METERS: Final = ("soft", "strict")


def limited(limit: int) -> dict[str, Any]:
    """A plan with this limit a month on both meters."""
    return {"price": "0", "quotas": {meter: {"limit": limit, "per": "month"} for meter in METERS}}


def bursts(per: str, *, day: int = MANY) -> dict[str, Any]:
    """A plan with a burst rate beside quotas."""
    limits = [{"limit": BURST, "per": per}, {"limit": day, "per": "day"}, {"limit": MANY, "per": "month"}]
    return {"price": "0", "quotas": {"bursts": limits}}


PLANS: Final[dict[str, Any]] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "large",
    "meters": {"soft": {"event": "soft"}, "strict": {"event": "strict", "on_outage": "deny"}, "bursts": {"event": "b"}},
    "plans": {
        "large": limited(MANY),
        "thousand": limited(THOUSAND),
        "few": limited(FEW),
        "second": bursts("second"),
        "minute": bursts("minute"),
    },
    "routes": {"GET /soft": {"soft": 1}, "GET /strict": {"strict": 1}, "GET /burst": {"bursts": 1}},
}
TICK_S: Final = 0.002
LATE_S: Final = 0.002
"""How late a tick may come on a machine that has nothing else to do."""
YES, DEGRADED, NO, UNAVAILABLE = "yes", "degraded", "no", "unavailable"


class FairClock:
    """Seconds of the loop's clock, without those in which it was to run and did not: another process had the core.

    What this thread computes counts, and so does every wait that it asked for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._taken_s = 0.0
        self._tick = (self._loop.time(), time.thread_time())

    def now(self) -> float:
        return self._loop.time() - self._taken_s - self._pending_s()

    def _pending_s(self) -> float:
        began, cpu = self._tick
        late_s = self._loop.time() - began - (time.thread_time() - cpu) - TICK_S
        return late_s if late_s > LATE_S else 0.0

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._taken_s += self._pending_s()
            self._tick = (self._loop.time(), time.thread_time())

    @classmethod
    @contextmanager
    def ticking(cls) -> Iterator[FairClock]:
        clock = cls()
        task = asyncio.create_task(clock._run())
        try:
            yield clock
        finally:
            task.cancel()


class Answer(NamedTuple):
    """What one take came to. ``waited``: the event loop turned meanwhile. ``was_down``: the breaker was open before
    and after it."""

    told: str
    meter: str
    began_s: float
    took_s: float
    cpu_s: float
    waited: bool
    was_down: bool

    @property
    def ended_s(self) -> float:
        return self.began_s + self.took_s


class Caller:
    """Takes one unit at a time for a tenant of its own: it knows what every answer must say.

    A count that is wrong, or the reply to another's take, is an entry of ``wrong``.
    """

    def __init__(self, metering: Metering, tenant: str, clock: FairClock, is_down: Callable[[], bool]) -> None:
        self.metering = metering
        self.tenant = tenant
        self.told = Counter[str]()
        self.wrong: list[str] = []
        self.answers: list[Answer] = []
        self._clock = clock
        self._is_down = is_down

    async def call(self, *, every_s: float) -> None:
        """Takes of both meters in turn, until it is cancelled."""
        while True:
            for meter in METERS:
                await self.take(meter)
            await asyncio.sleep(every_s)

    async def take(self, meter: str) -> Answer:
        loop, turned, was_down = asyncio.get_running_loop(), list[None](), self._is_down()
        turn = loop.call_soon(turned.append, None)
        began_s, cpu_s = self._clock.now(), time.thread_time()
        told = await self._told(meter)
        cpu_s = time.thread_time() - cpu_s
        turn.cancel()
        took_s = self._clock.now() - began_s
        answer = Answer(told, meter, began_s, took_s, cpu_s, bool(turned), was_down and self._is_down())
        self.answers.append(answer)
        return answer

    async def _told(self, meter: str) -> str:
        try:
            decision = await self.metering.enforce_quota(self.tenant, meter)
        except StoreUnavailable:
            return UNAVAILABLE
        except QuotaExceeded as refused:
            self._expect(meter, refused.decision.used, self.told[meter])
            return NO
        self.told[meter] += 1
        if decision.degraded:
            return DEGRADED
        self._expect(meter, decision.used, self.told[meter])
        return YES

    def _expect(self, meter: str, used: object, told: int) -> None:
        if used != told:
            self.wrong.append(f"{self.tenant}: {used} used of {meter}, but it was told yes {told} times")


async def billed(metering: Metering, tenant: str) -> dict[str, int]:
    """What the ledger holds of a tenant, by meter."""
    today = local_day(metering.clock.now(), zone("UTC"))
    found = Counter[str]()
    for cell in await metering.ledger.cells(tenant, first=today - timedelta(days=1), last=today):
        found[cell.key.meter] += cell.total.quantity
    return {meter: found[meter] for meter in (*METERS, "bursts")}


async def differences(callers: Sequence[Caller]) -> list[str]:
    """Where the ledger is not what the callers were told; empty is what it should be. Everything must be folded."""
    found = [problem for caller in callers for problem in caller.wrong]
    for caller in callers:
        told = {meter: caller.told[meter] for meter in (*METERS, "bursts")}
        if (ledger := await billed(caller.metering, caller.tenant)) != told:
            found.append(f"{caller.tenant}: told {told}, billed {ledger}")
    return found
