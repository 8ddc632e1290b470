"""Two processes whose clocks are a minute apart, and clocks that step: what lies in which window, and that is all."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from mm_metering import FrozenClock, InvalidEvent, Metering, UsageEvent
from mm_metering.core.periods import micros
from mm_metering.testing import assert_conserved
from tests.e2e.callers import BURST, FEW
from tests.e2e.told import NO, NOW, YES, Open, Told

MINUTE = timedelta(minutes=1)
DAY = date(2024, 1, 15)


async def units(metering: Metering, tenant: str, meter: str = "soft") -> dict[date, int]:
    """What is billed, by day."""
    found = Counter[date]()
    for cell in await metering.ledger.cells(tenant, first=date.min, last=date.max):
        if cell.key.meter == meter:
            found[cell.key.day] += cell.total.quantity
    return dict(found)


async def test_clocks_a_minute_apart_part_usage_by_their_own_midnight(opened: Open) -> None:
    """For that minute both days are open, and each process counts in its own: no more than a minute's usage lies in the
    neighbouring window, none of it is lost, none counts twice."""
    slow = FrozenClock("2024-01-15T23:59:30Z")
    fast = FrozenClock(slow.now() + MINUTE)
    behind, ahead = Told(await opened(clock=slow)), Told(await opened(clock=fast))
    await behind.take_all(["org_1"] * 3)
    await ahead.take_all(["org_1"] * 5)
    await behind.take_all(["org_1"] * 2)
    slow.advance(MINUTE)
    fast.advance(MINUTE)
    await behind.take_all(["org_1"] * 7)
    await ahead.take_all(["org_1"] * 4)
    for told in (behind, ahead):
        await told.metering.flush()
        await assert_conserved(told.metering, told={"org_1": {"soft": 21}})
    assert await units(ahead.metering, "org_1") == {DAY: 5, DAY + timedelta(days=1): 16}


async def test_a_limit_is_one_for_both_clocks(opened: Open) -> None:
    """A month that one of them is still in, and the other no longer: each month has its own limit."""
    slow = FrozenClock("2024-01-31T23:59:30Z")
    behind, ahead = Told(await opened(clock=slow)), Told(await opened(clock=FrozenClock(slow.now() + MINUTE)))
    await behind.metering.put_tenant("few", plan="few")
    for told in (behind, ahead):
        assert await told.take_all(["few"] * (FEW + 5)) == {YES: FEW, NO: 5}
    slow.advance(MINUTE)
    assert await behind.take("few") == NO
    for told in (behind, ahead):
        await assert_conserved(told.metering, told={"few": {"soft": 2 * FEW}})


async def test_a_burst_window_is_the_faster_clocks(opened: Open) -> None:
    """The one that is behind counts in it too, so that both together never get more than one of them."""
    slow = FrozenClock(NOW)
    behind, ahead = await opened(clock=slow), await opened(clock=FrozenClock(slow.now() + MINUTE))
    await behind.put_tenant("org_1", plan="minute")
    taken = Counter[str]()
    for metering in (ahead, behind) * 2:
        taken += await Told(metering).take_all(["org_1"] * 3, "bursts")
    assert taken == {YES: BURST, NO: 12 - BURST}


async def test_a_clock_that_steps_back_over_midnight(opened: Open) -> None:
    """It counts in yesterday's window again, which is still there, and then in today's as if nothing was."""
    clock = FrozenClock("2024-01-15T23:59:40Z")
    told = Told(await opened(clock=clock))
    await told.take_all(["org_1"] * 3)
    clock.advance(MINUTE)
    await told.take_all(["org_1"] * 5)
    clock.advance(-MINUTE)
    await told.take_all(["org_1"] * 2)
    await told.assert_billed()
    clock.advance(MINUTE)
    await told.take_all(["org_1"])
    await told.assert_billed()
    assert await units(told.metering, "org_1") == {DAY: 5, DAY + timedelta(days=1): 6}


async def test_a_clock_that_steps_back_over_a_change_of_plan_stays_in_the_new_plan(opened: Open) -> None:
    """What was admitted under a plan is billed under it, whatever a clock says."""
    clock = FrozenClock(NOW)
    told = Told(await opened(clock=clock))
    await told.metering.put_tenant("org_1", plan="few", subscribed_at="2024-01-01T00:00:00Z")
    await told.take_all(["org_1"] * 2)
    clock.advance(timedelta(seconds=1))
    await told.metering.change_plan("org_1", "large")
    changed_us = micros(clock.now())
    clock.advance(-MINUTE)
    assert await told.take_all(["org_1"] * (FEW + 5)) == {YES: FEW + 5}
    await told.assert_billed()
    cells = await told.metering.ledger.cells("org_1", first=DAY, last=DAY)
    by_plan = {cell.key.since_us: cell.total.quantity for cell in cells if cell.key.meter == "soft"}
    assert by_plan[changed_us] == FEW + 5
    assert sum(by_plan.values()) == FEW + 7


async def test_a_level_is_what_the_latest_clock_said_until_the_others_have_passed_it(
    own_server: Any, tmp_path: Path
) -> None:
    """A statement of a clock that is a minute behind is kept, and changes nothing for at most that minute; counters and
    ledger agree on it."""
    slow = FrozenClock(NOW)
    stores: dict[str, Any] = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db", "worker": "off"}
    async with (
        Metering(clock=slow, **stores) as behind,
        Metering(clock=FrozenClock(slow.now() + MINUTE), **stores) as ahead,
    ):
        await behind.put_tenant("org_1", plan="pro", timezone="UTC")
        await ahead.set_level("org_1", "users", 3)
        await behind.set_level("org_1", "users", 1)
        await assert_conserved(behind, told={"org_1": {"users": 3}})
        slow.advance(MINUTE + timedelta(microseconds=1))
        await behind.set_level("org_1", "users", 1)
        await assert_conserved(behind, told={"org_1": {"users": 1}})
        await assert_conserved(ahead, told={"org_1": {"users": 1}})


async def test_an_event_of_a_clock_too_far_ahead_is_refused(opened: Open) -> None:
    metering = await opened()
    fine, far = (metering.clock.now() + timedelta(seconds=each) for each in (300, 301))
    await metering.record(UsageEvent(tenant="org_1", event_type="soft", resource="/r", occurred_at=fine))
    with pytest.raises(InvalidEvent, match="occurred_at: lies 301 s in the future; the most is 300 s"):
        await metering.record(UsageEvent(tenant="org_1", event_type="soft", resource="/r", occurred_at=far))
    await assert_conserved(metering, told={"org_1": {"soft": 1}})
