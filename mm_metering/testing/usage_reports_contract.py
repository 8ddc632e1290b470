"""The law of ``UsageReports`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mm_metering.backends.ledger import Ledger
from mm_metering.core.periods import micros
from mm_metering.core.reporting import Intent

THEN: Final = datetime(2024, 1, 15, 12, 0, 0, tzinfo=UTC)


def an_intent(number: int = 1, **changes: Any) -> Intent:
    intent = Intent(
        tenant="acme",
        period="2024-01",
        meter="api_calls",
        number=number,
        customer="cus_1",
        quantity=-5,
        total=2**40,
        identifier=f"mm_{number}",
        instant=THEN,
        made_at=THEN + timedelta(microseconds=7),
    )
    return replace(intent, **changes)


async def tell(ledger: Ledger, *intents: Intent) -> list[Intent]:
    """Written and marked as sent; they are returned as they are then."""
    for each in intents:
        assert await ledger.add_report(each)
        assert await ledger.move_report(replace(each, state="sent"))
    return [replace(each, state="sent") for each in intents]


class UsageReportsContract:
    """Each test quotes one law."""

    async def test_usage_is_reported_since_the_first_call(self, ledger: Ledger) -> None:
        assert [await ledger.reports_since(now_us=each) for each in (7, 8, 1)] == [7, 7, 7]
        assert await ledger.open_reports("unsent") == []
        assert await ledger.last_reports("acme", ["", "2024-01"]) == []

    async def test_an_intent_is_read_back_as_it_was(self, ledger: Ledger) -> None:
        assert await ledger.add_report(an_intent())
        assert await ledger.last_reports("acme", ["2024-01"]) == [an_intent()]
        assert await ledger.open_reports("unsent") == [an_intent()]
        assert await ledger.open_reports("parked") == []

    async def test_of_two_with_one_number_the_first_stays(self, ledger: Ledger) -> None:
        made = await asyncio.gather(*(ledger.add_report(an_intent(identifier=f"mm_{each}")) for each in "abcd"))
        assert sorted(made) == [False, False, False, True]
        (kept,) = await ledger.open_reports("unsent")
        assert kept.identifier == f"mm_{'abcd'[made.index(True)]}"

    async def test_the_next_waits_until_the_one_before_is_sent(self, ledger: Ledger) -> None:
        await ledger.add_report(an_intent())
        assert not await ledger.add_report(an_intent(2))
        await ledger.move_report(an_intent(state="parked"))
        assert not await ledger.add_report(an_intent(2))
        await ledger.move_report(an_intent(state="sent"))
        assert await ledger.add_report(an_intent(2))
        assert await ledger.last_reports("acme", ["2024-01"]) == [an_intent(2)]

    async def test_what_is_sent_stays_so_and_numbers_never_change(self, ledger: Ledger) -> None:
        assert not await ledger.move_report(an_intent(state="sent")), "it is not there"
        await ledger.add_report(an_intent())
        later = THEN + timedelta(days=40)
        assert await ledger.move_report(an_intent(instant=later, quantity=9, total=9))
        assert await ledger.open_reports("unsent") == [an_intent(instant=later)]
        assert await ledger.move_report(an_intent(instant=later, customer="cus_2"))
        assert await ledger.open_reports("unsent") == [an_intent(instant=later, customer="cus_2")]
        assert await ledger.move_report(an_intent(state="parked"))
        assert await ledger.open_reports("parked") == [an_intent(state="parked")]
        assert await ledger.move_report(an_intent(state="sent"))
        assert not await ledger.move_report(an_intent(state="unsent"))
        assert await ledger.last_reports("acme", ["2024-01"]) == [an_intent(state="sent")]

    async def test_the_last_of_each_month_and_meter(self, ledger: Ledger) -> None:
        other = an_intent(period="2023-12", meter="reports")
        await tell(ledger, an_intent(1), an_intent(2), other, an_intent(1, tenant="beta"), an_intent(3))
        found = await ledger.last_reports("acme", ["2024-01", "2023-12"])
        assert [(each.period, each.meter, each.number) for each in found] == [
            ("2023-12", "reports", 1),
            ("2024-01", "api_calls", 3),
        ]
        assert await ledger.last_reports("acme", ["2023-11"]) == []
        assert await ledger.last_reports("nobody", ["2024-01"]) == []

    async def test_open_ones_come_in_pages(self, ledger: Ledger) -> None:
        keys = [("acme", "2024-01", "a"), ("acme", "2024-01", "b"), ("acme", "2024-02", "a"), ("beta", "2024-01", "a")]
        for tenant, period, meter in reversed(keys):
            await ledger.add_report(an_intent(tenant=tenant, period=period, meter=meter))
        first = await ledger.open_reports("unsent", limit=3)
        rest = await ledger.open_reports("unsent", after=keys[2], limit=3)
        assert [(each.tenant, each.period, each.meter) for each in (*first, *rest)] == keys

    async def test_what_a_customer_was_told_of_in_some_minutes(self, ledger: Ledger) -> None:
        minute = timedelta(minutes=1)
        late = an_intent(1, period="2023-12", instant=THEN + minute)
        await tell(ledger, an_intent(1), late, an_intent(1, tenant="beta", customer="cus_2"))
        await ledger.add_report(an_intent(2, instant=THEN + 2 * minute))

        async def told(first: datetime, end: datetime, customer: str = "cus_1", meter: str = "api_calls") -> list[Any]:
            found = await ledger.reports(customer, meter, start_us=micros(first), end_us=micros(end))
            return [(each.period, each.number) for each in found]

        assert await told(THEN, THEN + 2 * minute) == [("2023-12", 1), ("2024-01", 1)]
        assert await told(THEN + minute, THEN + 3 * minute) == [("2023-12", 1), ("2024-01", 2)]
        assert await told(THEN - minute, THEN) == []
        assert await told(THEN, THEN + minute, meter="other") == []
        assert await told(THEN, THEN + minute, customer="cus_2") == [("2024-01", 1)]
