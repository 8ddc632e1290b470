"""The ledger is away for ten minutes, on virtual time: what goes on, what grows, and how it comes back."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from mm_metering import FrozenClock, Metering, QuotaExceeded, StoreUnavailable
from mm_metering.backends.counters import Entry
from mm_metering.backends.memory import MemoryCounters
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.testing import assert_conserved
from tests.e2e.callers import FEW, PLANS
from tests.sim.loop import run

AWAY_S: Final = 600
EVERY_S: Final = 0.25
TENANTS: Final = tuple(f"org_{n}" for n in range(8))


class Away:
    """A ledger that fails while ``is_away``."""

    def __init__(self) -> None:
        self.real = MemoryLedger()
        self.is_away = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.real, name)
        if not inspect.iscoroutinefunction(method):
            return method  # type: ignore[no-any-return]

        async def call(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.001)
            if self.is_away:
                raise StoreUnavailable("the ledger is away")
            return await method(*args, **options)

        return call


class Story:
    """Eight tenants that are known, one of them with few units left, and every tenth second one that is new."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock = FrozenClock("2024-01-15T12:00:00Z")
        self.counters = MemoryCounters(time_ms=lambda: loop.time() * 1000)
        self.ledger = Away()
        stores: dict[str, Any] = {"counters": self.counters, "ledger": self.ledger, "journal": "off"}
        self.metering = Metering(PLANS, **stores, clock=self.clock, worker="inline")
        self.told = Counter[tuple[str, str]]()
        self.units: dict[str, Counter[str]] = {}

    async def take(self, tenant: str, meter: str, kind: str) -> None:
        try:
            decision = await self.metering.enforce_quota(tenant, meter)
        except StoreUnavailable:
            self.told[kind, "unavailable"] += 1
        except QuotaExceeded:
            self.told[kind, "no"] += 1
        else:
            self.units.setdefault(tenant, Counter())[meter] += 1
            self.told[kind, "degraded" if decision.degraded else "yes"] += 1

    async def pass_time(self, seconds: int) -> None:
        for n in range(int(seconds / EVERY_S)):
            await asyncio.gather(*(self.take(tenant, "strict", "known") for tenant in TENANTS))
            await self.take("few", "strict", "few")
            if n % 40 == 0:
                name = f"new_{seconds}_{n}"
                await asyncio.gather(self.take(name, "soft", "new"), self.take(name, "strict", "new strict"))
            await asyncio.sleep(EVERY_S)
            self.clock.advance(timedelta(seconds=EVERY_S))


def test_a_ledger_that_is_away_for_ten_minutes_costs_no_decision_and_no_unit() -> None:
    async def story() -> None:
        world = Story()
        async with world.metering as metering:
            await metering.put_tenant("few", plan="few")
            await world.pass_time(1)
            world.told.clear()
            world.ledger.is_away = True
            await world.pass_time(AWAY_S)
            asked = int(AWAY_S / EVERY_S)
            assert world.told == {
                ("known", "yes"): asked * len(TENANTS),
                ("few", "yes"): FEW - 4,
                ("few", "no"): asked - (FEW - 4),
                ("new", "degraded"): asked // 40,
                ("new strict", "unavailable"): asked // 40,
            }
            waiting = sum(len(entry.lines) for entry in stream_of(world))
            assert waiting == metering.gate.journal_facts == asked * len(TENANTS) + FEW - 4 + asked // 40
            world.ledger.is_away = False
            before_s = asyncio.get_running_loop().time()
            await assert_conserved(metering, told=world.units)
            assert asyncio.get_running_loop().time() - before_s < 5
            assert not stream_of(world)

    run(1, story())


def stream_of(world: Story) -> list[Entry]:
    return [entry for shard in world.counters.data for entry in shard.stream]
