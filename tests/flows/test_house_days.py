"""The house by day is added up by a worker: what runs each minute, what came late each day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
import pytest_asyncio

from mm_metering import FrozenClock, UsageEvent
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.looks import MAX_DAYS
from mm_metering.backends.sql import open_ledger
from mm_metering.clock import micros_of
from mm_metering.core.facts import void
from mm_metering.core.tenancy import NewTenant
from mm_metering.testing.ledger_contract import FREE, Books, use
from mm_metering.worker.house_days import HouseDays
from mm_metering.worker.jobs import Jobs
from tests.flows.conftest import Make

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TODAY = date(2024, 1, 15)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(datetime(2024, 1, 15, 12, tzinfo=UTC))


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest_asyncio.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    ledger = open_ledger(ledger_url)
    await ledger.setup(apply=True)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def jobs(ledger: Ledger, clock: FrozenClock) -> Jobs:
    house = HouseDays(ledger, now_us=micros_of(clock))
    return Jobs(ledger, [*house.jobs()], worker="w", now_us=micros_of(clock))


async def sums(ledger: Ledger, first: date = TODAY - 90 * DAY) -> dict[str, int]:
    days = await ledger.house_days(first, TODAY + 9 * DAY)
    return {f"{each.day:%m-%d}": each.quantity for each in days if each.meter == "api_calls"}


async def test_the_days_that_run_somewhere_are_added_up_each_minute(
    ledger: Ledger, jobs: Jobs, clock: FrozenClock
) -> None:
    books = Books(ledger)
    for tenant, zone in (("acme", "UTC"), ("kiribati", "Pacific/Kiritimati"), ("samoa", "Pacific/Pago_Pago")):
        await ledger.put_tenant(NewTenant(tenant, timezone=zone, subscribed_us=0), defaults=FREE, now_us=0)
        await books.fold(use(tenant, "2024-01-15 10:30", tenant=tenant))
    await jobs.once()
    assert await sums(ledger) == {"01-14": 1, "01-15": 1, "01-16": 1}
    await books.fold(use("more", "2024-01-15 12:00", 5))
    await jobs.once()
    assert (await sums(ledger))["01-15"] == 1
    clock.advance(MINUTE)
    await jobs.once()
    assert (await sums(ledger))["01-15"] == 6


async def test_nothing_is_added_up_while_nothing_is_used(ledger: Ledger, jobs: Jobs, clock: FrozenClock) -> None:
    await Books(ledger).fold(use("a", "2024-01-15 10:30"))
    await jobs.once()
    first = await ledger.house_days(TODAY, TODAY)
    clock.advance(MINUTE)
    await jobs.once()
    assert await ledger.house_days(TODAY, TODAY) == first
    await Books(ledger, shard=1).fold(use("b", "2024-01-15 10:30", tenant="beta"))
    await jobs.once()
    clock.advance(MINUTE)
    await jobs.once()
    assert (await sums(ledger)) == {"01-15": 2}


async def test_late_usage_is_added_up_once_a_day(ledger: Ledger, jobs: Jobs, clock: FrozenClock) -> None:
    books = Books(ledger)
    await books.fold(use("a", "2023-12-20 12:00"), use("b", "2023-12-01 12:00"))
    await jobs.once()
    assert await sums(ledger) == {"12-20": 1, "12-01": 1}
    await books.fold(use("c", "2023-12-20 12:00"), use("d", "2023-12-01 12:00"))
    clock.advance(MINUTE)
    await jobs.once()
    assert await sums(ledger) == {"12-20": 1, "12-01": 1}
    clock.advance(DAY)
    await jobs.once()
    assert await sums(ledger) == {"12-20": 2, "12-01": 1}


async def test_a_day_that_lost_all_its_usage_has_no_sum_any_more(
    ledger: Ledger, jobs: Jobs, clock: FrozenClock
) -> None:
    books, lost = Books(ledger), use("a", "2023-12-20 12:00")
    await books.fold(lost, use("b", "2024-01-02 12:00"))
    await jobs.once()
    await books.fold(void(lost))
    clock.advance(DAY)
    await jobs.once()
    assert await sums(ledger) == {"01-02": 1}


async def test_what_is_too_old_to_be_shown_is_left_out(ledger: Ledger, jobs: Jobs) -> None:
    last = TODAY - (MAX_DAYS - 1) * DAY
    await Books(ledger).fold(*(use(f"{each}", f"{each} 12:00") for each in (last, last - DAY)))
    await jobs.once()
    assert {each.day for each in await ledger.house_days(last - DAY, last)} == {last}


async def test_catching_up_adds_up_what_was_folded(make: Make) -> None:
    metering = await make(worker="off")
    await metering.record(UsageEvent(tenant="acme", event_type="api_call", resource="/v1", quantity=3))
    await metering.catch_up()
    today = metering.clock.now().date()
    assert {each.meter: each.quantity for each in await metering.ledger.house_days(today, today)}["api_calls"] == 3
