"""The printed scenarios through the whole chain: recorded, folded, rated, on every pair of stores."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from mm_metering import FrozenClock, Metering, UsageEvent

JANUARY = "2024-01-01T00:00:00Z"


def calls(day: int | datetime, quantity: int, *, meter: str = "api_call", resource: str = "/v1/x") -> UsageEvent:
    moment = day if isinstance(day, datetime) else datetime(2024, 1, day, 12, tzinfo=UTC)
    return UsageEvent(
        tenant="acme",
        event_type=meter,
        resource=resource,
        quantity=quantity,
        occurred_at=moment,
        id=f"{moment}/{meter}",
    )


async def total(metering: Metering, events: list[UsageEvent], *, period: str = "2024-01") -> Decimal:
    """The invoice after these events, recorded in a random order, half of them twice."""
    shuffled = random.Random(7).sample(events, len(events))
    await metering.record_many(shuffled)
    again = await metering.record_many(shuffled[::2])
    assert again == (0, len(shuffled[::2]), 0)
    return (await metering.preview_invoice("acme", period=period)).total


async def test_s01_the_seeds_own_invoice(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-31T23:59:59Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    assert await total(metering, [calls(15, 11_000)]) == Decimal("109.00")


async def test_s02_overage_is_per_day_and_explained_by_one_window(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-31T23:59:59Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    days = [calls(day, 12_345 if day == 10 else 8_000) for day in range(1, 32)]
    assert await total(metering, days) == Decimal("122.45")
    invoice = await metering.preview_invoice("acme", period="2024-01")
    (line,) = [line for line in invoice.lines if line.kind == "overage"]
    assert line.explanation is not None
    (window,) = line.explanation.windows
    assert (window.used, window.allowance, window.overage) == (12_345, 10_000, 2_345)
    usage = await metering.get_usage("acme", "2024-01-01", "2024-01-31")
    assert usage.api_calls == 252_345
    assert sum(day.api_calls for day in usage.days) == 252_345


async def test_s03_the_limit_itself_is_allowed_and_idle_days_do_not_net(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-31T23:59:59Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    assert await total(metering, [calls(3, 10_000)]) == Decimal("99.00")
    assert await total(metering, [calls(4, 10_001)]) == Decimal("99.01")
    assert await total(metering, [calls(5, 15_000), calls(6, 5_000)]) == Decimal("149.01")


async def test_s06_cents_are_rounded_once_per_line(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-31T23:59:59Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    start = datetime(2024, 1, 20, tzinfo=UTC)
    tokens = [calls(start + timedelta(seconds=n), 1, meter="ai_token", resource="gpt-4") for n in range(1_000)]
    assert await total(metering, tokens) == Decimal("99.03")
    more = [calls(start + timedelta(hours=1), 500, meter="ai_token", resource="gpt-4")]
    assert await total(metering, more) == Decimal("99.05")


async def test_s12_overage_accrues_under_the_plan_in_force(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-16T12:00:00Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    await metering.record(calls(clock.now() - timedelta(hours=1), 12_000))
    await metering.change_plan("acme", "enterprise")
    await metering.record(calls(clock.now(), 30_000))
    assert await overage(metering) == Decimal("20.00")
    assert (await metering.check_limit("acme", "api_calls")).used == 42_000


async def test_s12_reversed_a_downgrade_keeps_the_days_count(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-16T12:00:00Z")
    await metering.put_tenant("acme", plan="enterprise", subscribed_at=JANUARY)
    await metering.record(calls(clock.now() - timedelta(hours=1), 50_000))
    await metering.change_plan("acme", "pro")
    await metering.record(calls(clock.now(), 1_000))
    assert await overage(metering) == Decimal("10.00")
    assert (await metering.check_limit("acme", "api_calls")).used == 51_000


async def overage(metering: Metering) -> Decimal:
    invoice = await metering.preview_invoice("acme", period="2024-01")
    return sum((line.amount for line in invoice.lines if line.kind == "overage"), Decimal(0))


async def test_s13_a_day_is_the_tenants_own(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-31T23:59:59Z")
    events = [calls(datetime(2024, 1, 16, hour, tzinfo=UTC), 6_000) for hour in (3, 15)]
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    assert await total(metering, events) == Decimal("119.00")
    await metering.put_tenant("york", plan="pro", subscribed_at="2024-01-01T05:00:00Z", timezone="America/New_York")
    await metering.record_many(event.model_copy(update={"tenant": "york"}) for event in events)
    assert (await metering.preview_invoice("york", period="2024-01")).total == Decimal("99.00")
    days = (await metering.get_usage("york", "2024-01-15", "2024-01-16")).days
    assert [day.api_calls for day in days] == [6_000, 6_000]
