"""The worker closes each month by itself: once, for whom it should, and after downtime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.core.invoices import Invoice

JANUARY = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(JANUARY + timedelta(days=14))


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("sqlite_url"))


def metered(ledger: str, clock: FrozenClock) -> Metering:
    return Metering(ledger=ledger, clock=clock, worker="off")


async def worked(metering: Metering) -> list[tuple[str, str, str]]:
    """What there is after the daily jobs that are due."""
    await metering._jobs.once()
    return [state(each) for each in await metering.list_invoices()]


def state(invoice: Invoice) -> tuple[str, str, str]:
    return (invoice.tenant, invoice.period, invoice.number or invoice.status)


async def test_a_month_is_a_draft_within_the_grace_and_an_invoice_after_it(ledger: str, clock: FrozenClock) -> None:
    async with metered(ledger, clock) as metering:
        await metering.put_tenant("acme", plan="pro")
        await metering.put_tenant("hawaii", plan="pro", timezone="Pacific/Honolulu")
        assert await worked(metering) == []
        clock.set("2024-02-01T00:00:01Z")
        assert await worked(metering) == [("acme", "2024-01", "draft")], "in Hawaii the month is not over"
        clock.set("2024-02-02T00:00:01Z")
        assert await worked(metering) == [("acme", "2024-01", "INV-000001"), ("hawaii", "2024-01", "draft")]
        clock.set("2024-02-03T10:00:01Z")
        final = [("acme", "2024-01", "INV-000001"), ("hawaii", "2024-01", "INV-000002")]
        assert await worked(metering) == final
        assert await worked(metering) == final


async def test_months_that_were_missed_are_closed_in_order(ledger: str, clock: FrozenClock) -> None:
    async with metered(ledger, clock) as metering:
        await metering.put_tenant("acme", plan="pro")
        await worked(metering)
        clock.set("2024-03-04T12:00:00Z")
        assert await worked(metering) == [("acme", "2024-01", "INV-000001"), ("acme", "2024-02", "INV-000002")]


async def test_who_was_billed_elsewhere_before_is_not_billed_for_that_month(ledger: str, clock: FrozenClock) -> None:
    async with metered(ledger, clock) as metering:
        clock.set("2024-02-10T12:00:00Z")
        await metering.put_tenant("idle", plan="pro", subscribed_at="2022-05-01T00:00:00Z")
        await metering.put_tenant("busy", plan="pro", subscribed_at="2022-05-01T00:00:00Z")
        await metering.record_api_call("busy", "/v1/x", occurred_at=JANUARY)
        assert await worked(metering) == [("busy", "2024-01", "INV-000001")]
        await metering.close_period("2024-01")
        clock.set("2024-03-10T12:00:00Z")
        february = [("busy", "2024-02", "INV-000003"), ("idle", "2024-02", "INV-000004")]
        assert (await worked(metering))[2:] == february, "with an invoice before, idle months are billed too"


async def test_a_worker_that_is_not_the_apps_own_leaves_months_to_others(tmp_path: Path, clock: FrozenClock) -> None:
    """It has another currency, grace and tax; and it must not take the job's run from who has the right ones."""
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    async with metered(ledger, clock) as metering:
        await metering.put_tenant("acme", plan="pro")
        clock.set("2024-02-02T00:00:01Z")
        await metered(ledger, clock).work(once=True, bills=False)
        assert await metering.list_invoices() == []
        await metered(ledger, clock).work(once=True)
        assert [state(each) for each in await metering.list_invoices()] == [("acme", "2024-01", "INV-000001")]
