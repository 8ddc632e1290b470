"""Subscriptions: what each state means for a request and for the bill, and changes of plan at any instant."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.core.lifecycles import SUBSCRIPTION
from mm_metering.core.money import plain
from mm_metering.errors import (
    CatalogueError,
    FeatureNotInPlan,
    InvalidInput,
    PeriodNotOver,
    QuotaExceeded,
    Refused,
    UnknownTenant,
    WrongState,
)
from tests.flows.conftest import Make

JANUARY = "2024-01-01T00:00:00Z"
NOON = "2024-01-16T12:00:00Z"


async def pro(metering: Metering, clock: FrozenClock, at: str = JANUARY, **options: Any) -> None:
    clock.set(at)
    await metering.put_tenant("acme", plan="pro", **options)


def fees(invoice: Any) -> list[str]:
    return [plain(line.amount) for line in invoice.lines if line.kind in ("base", "proration")]


async def fees_of(metering: Metering, period: str = "2024-01") -> list[str]:
    return fees(await metering.preview_invoice("acme", period=period))


# -- what a state means for a request ----------------------------------------------------------------------------------

SERVED = {"trial": None, "active": None, "past_due": None}
REFUSED = {"unpaid": "payment-required", "paused": "tenant-suspended", "canceled": "payment-required"}


async def into(metering: Metering, state: str) -> None:
    match state:
        case "paused":
            await metering.pause_subscription("acme")
        case "canceled":
            await metering.cancel_subscription("acme")
        case "past_due" | "unpaid":
            await metering.set_payment_state("acme", state)


@pytest.mark.parametrize("state", SUBSCRIPTION.moves)
async def test_a_state_is_in_force_at_the_next_request_of_every_process(
    shared_stores: dict[str, str], make: Make, state: str
) -> None:
    first, second = await make(**shared_stores), await make(**shared_stores)
    await first.put_tenant("acme", plan="pro", trial_days=14 if state == "trial" else 0)
    await second.enforce_quota("acme", "api_calls", 10)
    await into(first, state)
    tenant = await second.get_tenant("acme")
    assert tenant is not None
    assert tenant.status == state
    decision = await second.check_limit("acme", "api_calls")
    assert decision.reason == (SERVED | REFUSED)[state]
    if state in REFUSED:
        with pytest.raises(Refused):
            await second.enforce_quota("acme", "api_calls")
    else:
        assert (await second.enforce_quota("acme", "api_calls")).used == 11
    assert (await second.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == (10 if state in REFUSED else 11)


async def test_who_pays_or_subscribes_again_is_served_again(metering: Metering) -> None:
    await metering.put_tenant("acme", plan="pro")
    await metering.enforce_quota("acme", "api_calls", 7)
    for state in ("unpaid", "past_due", "unpaid"):
        if state == "past_due":
            assert (await metering.set_payment_state("acme", "paid")).status == "active"
        await metering.set_payment_state("acme", state)
    assert (await metering.set_payment_state("acme", "paid")).status == "active"
    assert (await metering.check_limit("acme", "api_calls")).used == 7
    await metering.cancel_subscription("acme")
    with pytest.raises(WrongState, match="acme is canceled: resume is not possible; it allows change plan, cancel"):
        await metering.resume_subscription("acme")
    assert (await metering.put_tenant("acme", plan="pro")).status == "canceled"
    assert (await metering.change_plan("acme", "pro")).status == "active"
    assert (await metering.check_limit("acme", "api_calls")).used == 7


async def test_a_planned_state_begins_at_its_instant_by_itself(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, NOON)
    planned = await metering.cancel_subscription("acme", at="period_end")
    assert [(f"{each.at:%m-%d %H:%M}", each.plan, each.status) for each in planned.planned] == [
        ("02-01 00:00", "pro", "canceled")
    ]
    await metering.pause_subscription("acme", at="2024-01-20T00:00:00Z")
    await metering.enforce_quota("acme", "api_calls")
    seen = []
    for moment in ("2024-01-19T23:59:59Z", "2024-01-20T00:00:00Z", "2024-01-31T23:59:59Z", "2024-02-01T00:00:00Z"):
        clock.set(moment)
        seen.append((await metering.check_limit("acme", "api_calls")).reason)
    assert seen == [None, "tenant-suspended", "tenant-suspended", "payment-required"]


async def test_a_planned_cancellation_can_be_undone(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, NOON)
    await metering.cancel_subscription("acme", at="period_end")
    assert (await metering.resume_subscription("acme")).planned == ()
    clock.set("2024-02-01T00:00:00Z")
    assert await metering.check_limit("acme", "api_calls")


# -- trials ------------------------------------------------------------------------------------------------------------


async def test_a_trial_is_free_and_blocks_where_the_plan_charges(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, trial_days=14)
    await metering.enforce_quota("acme", "api_calls", 10_000)
    with pytest.raises(QuotaExceeded, match="10,000 of 10,000 used today"):
        await metering.enforce_quota("acme", "api_calls")
    with pytest.raises(FeatureNotInPlan):
        await metering.enforce_quota("acme", "ai_tokens", resource="gpt-4")  # is paid by use
    await metering.record(UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=500))
    assert (await metering.preview_invoice("acme")).total == Decimal("54.29")  # 99 x 17/31, from the 15th on
    clock.set("2024-01-15T00:00:00Z")
    tenant = await metering.get_tenant("acme")
    assert tenant is not None
    assert (tenant.status, tenant.trial_ends_at) == ("active", datetime(2024, 1, 15, tzinfo=UTC))
    assert (await metering.enforce_quota("acme", "api_calls", 10_001)).overage == 1
    assert (await metering.preview_invoice("acme")).total == Decimal("54.30")


async def test_a_trial_that_ends_at_noon_counts_the_whole_day(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, NOON, trial_days=1)
    clock.set("2024-01-17T11:00:00Z")
    await metering.record(UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=12_000))
    clock.set("2024-01-17T13:00:00Z")
    await metering.enforce_quota("acme", "api_calls", 100)
    invoice = await metering.preview_invoice("acme")
    assert [plain(line.amount) for line in invoice.lines if line.kind == "overage"] == ["1.00"]
    assert [line.description for line in invoice.lines][:2] == [
        "pro, trial, 2024-01 from 2024-01-16 12:00:00",
        "pro, 2024-01 from 2024-01-17 12:00:00",
    ]


async def test_a_trial_that_ends_while_paused_goes_on_as_paid(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, trial_days=10)
    clock.set("2024-01-06T00:00:00Z")
    await metering.pause_subscription("acme")
    clock.set("2024-01-16T00:00:00Z")
    assert (await metering.resume_subscription("acme")).status == "active"
    assert await fees_of(metering) == ["0.00", "51.10"]


# -- fees --------------------------------------------------------------------------------------------------------------

FEES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "paused for a third of the month": (
        [("pause", "2024-01-11T00:00:00Z"), ("resume", "2024-01-21T00:00:00Z")],
        ["99.00", "-67.06", "35.13"],
    ),
    "canceled at noon": ([("cancel", NOON)], ["99.00", "-49.50"]),
    "canceled at the period's end": ([("cancel", "2024-02-01T00:00:00Z")], ["99.00"]),
    "paused from the start": ([("pause", JANUARY)], []),
    "paused and resumed at one instant": ([("pause", NOON), ("resume", NOON)], ["99.00"]),
    "canceled, and back at the same instant": ([("cancel", NOON), ("pro", NOON)], ["99.00"]),
    "upgraded, S10": ([("enterprise", "2024-01-16T00:00:00Z")], ["99.00", "-51.10", "257.55"]),
    "upgraded at noon, S10": ([("enterprise", NOON)], ["99.00", "-49.50", "249.50"]),
    "two flips on one day": (
        [("enterprise", "2024-01-16T06:00:00Z"), ("pro", "2024-01-16T18:00:00Z")],
        ["99.00", "-50.30", "253.52", "-245.48", "48.70"],
    ),
    "upgraded and paused": ([("enterprise", NOON), ("pause", NOON)], ["99.00", "-49.50"]),
    "at the month's first instant": ([("enterprise", JANUARY)], ["499.00"]),
    "at the month's last microsecond": ([("free", "2024-01-31T23:59:59.999999Z")], ["99.00", "0.00"]),
}


@pytest.mark.parametrize("case", FEES)
async def test_fees_by_the_second(memory: Metering, clock: FrozenClock, case: str) -> None:
    await pro(memory, clock)
    await fees_follow(memory, case)


@pytest.mark.parametrize("case", FEES)
async def test_fees_by_the_second_of_changes_that_lie_back(metering: Metering, clock: FrozenClock, case: str) -> None:
    await pro(metering, clock)
    clock.set("2024-02-01T12:00:00Z")
    await fees_follow(metering, case)


async def fees_follow(metering: Metering, case: str) -> None:
    changes, expected = FEES[case]
    for what, at in changes:
        if what in ("pause", "resume", "cancel"):
            await getattr(metering, f"{what}_subscription")("acme", at=at)
        else:
            await metering.change_plan("acme", what, at=at)
    found = await fees_of(metering)
    assert [each for each in found if each != "0.00"] == [each for each in expected if each != "0.00"]


async def test_s10_by_the_day_the_new_plan_has_the_whole_day(make: Make, clock: FrozenClock) -> None:
    metering = await make(catalogue=plans(proration="day"))
    await pro(metering, clock)
    clock.set("2024-01-16T12:00:00Z")
    preview = await metering.preview_change("acme", plan="enterprise")
    assert preview.difference == Decimal("206.45")
    await metering.change_plan("acme", "enterprise")
    assert await fees_of(metering) == ["99.00", "-51.10", "257.55"]
    await metering.change_plan("acme", "pro", at="2024-01-16T18:00:00Z")
    assert await fees_of(metering) == ["99.00"]  # of a day with two flips the last plan has it all
    clock.set("2024-02-05T00:00:00Z")
    [invoice] = await metering.close_period("2024-01", tenant="acme")
    assert (await metering.rerun_invoice(invoice.id)) == invoice


def plans(**changes: str) -> dict[str, Any]:
    calls = {"limit": 10_000, "per": "day", "then": "charge", "unit_price": "0.01"}
    return {
        "meters": {"api_calls": {"event": "api_call"}, "seats": {"aggregation": "level"}},
        "plans": {
            "free": {"price": "0.00", "quotas": {"api_calls": {"limit": 100, "per": "day"}}},
            "pro": {"price": "99.00", "quotas": {"api_calls": calls}},
            "enterprise": {
                "price": "499.00",
                "quotas": {
                    "api_calls": calls | {"limit": 100_000},
                    "seats": {"limit": 3, "then": "charge", "unit_price": "10.00"},
                },
            },
        },
        "changes": changes,
    }


async def test_upgrades_hold_now_and_downgrades_at_the_periods_end(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, timezone="America/New_York")
    clock.set(NOON)
    assert (await metering.change_plan("acme", "enterprise")).plan == "enterprise"
    lower = await metering.change_plan("acme", "free")
    assert (lower.plan, [(each.plan, each.at) for each in lower.planned]) == (
        "enterprise",
        [("free", datetime(2024, 2, 1, 5, tzinfo=UTC))],
    )
    clock.set("2024-02-01T04:59:59.999999Z")
    assert (await metering.check_limit("acme", "api_calls")).plan == "enterprise"
    clock.set("2024-02-01T05:00:00Z")
    assert (await metering.check_limit("acme", "api_calls")).plan == "free"


@pytest.mark.parametrize(("changes", "is_later"), [({"downgrade": "now"}, False), ({"upgrade": "period_end"}, True)])
async def test_the_catalogue_says_when_a_change_holds(
    make: Make, clock: FrozenClock, changes: dict[str, str], *, is_later: bool
) -> None:
    metering = await make(catalogue=plans(**changes))
    await pro(metering, clock)
    after = await metering.change_plan("acme", "enterprise" if is_later else "free")
    assert (after.plan == "pro") == is_later == bool(after.planned)


async def test_who_pays_nothing_is_downgraded_at_once(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, trial_days=14)
    assert (await metering.change_plan("acme", "free")).plan == "free"


# -- months without service --------------------------------------------------------------------------------------------


async def test_a_month_without_service_is_not_invoiced_and_the_next_one_with_it_is(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering, clock)
    await metering.pause_subscription("acme", at="2024-02-01T00:00:00Z")
    await metering.resume_subscription("acme", at="2024-04-16T00:00:00Z")
    invoiced = {}
    for month in range(1, 6):
        clock.set(f"2024-{month + 1:02}-03T00:00:00Z")
        period = f"2024-{month:02}"
        invoiced[period] = [plain(each.total) for each in await metering.close_period(period)]
    assert invoiced == {
        "2024-01": ["99.00"],
        "2024-02": [],
        "2024-03": [],
        "2024-04": ["49.50"],
        "2024-05": ["99.00"],
    }


async def test_late_usage_of_the_month_before_is_billed_in_a_month_without_service(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering, clock)
    await metering.cancel_subscription("acme", at="period_end")
    clock.set("2024-02-03T00:00:00Z")
    await metering.close_period("2024-01")
    late = datetime(2024, 1, 31, 23, tzinfo=UTC)
    await metering.record(
        UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=10_500, occurred_at=late)
    )
    clock.set("2024-03-03T00:00:00Z")
    [invoice] = await metering.close_period("2024-02")
    assert [(line.kind, plain(line.amount)) for line in invoice.lines] == [("late_usage", "5.00")]
    clock.set("2024-04-03T00:00:00Z")
    assert await metering.close_period("2024-03") == []


# -- previews ----------------------------------------------------------------------------------------------------------


async def test_the_preview_of_a_change_is_what_it_does_to_the_cent(make: Make, clock: FrozenClock) -> None:
    """40 random tenants with usage, levels and changes, each previewed and then done; a third lie back."""
    rng = random.Random(7)
    metering = await make(catalogue=plans())
    for number in range(40):
        name, zone = f"t{number}", rng.choice(("UTC", "America/New_York", "Asia/Tokyo"))
        clock.set("2024-01-01T12:00:00Z")
        await metering.put_tenant(name, plan=rng.choice(("free", "pro", "enterprise")), timezone=zone)
        for day in sorted(rng.sample(range(2, 20), 6)):
            clock.set(f"2024-01-{day:02}T{rng.randrange(24):02}:{rng.randrange(60):02}:00Z")
            await metering.record(
                UsageEvent(tenant=name, event_type="api_call", resource="/x", quantity=rng.randrange(1, 30_000))
            )
            await metering.set_level(name, "seats", rng.randrange(9))
            if rng.random() < 0.3:
                await metering.change_plan(name, rng.choice(("pro", "enterprise")), at="now")
        clock.set("2024-01-20T07:00:00Z")
        shift = timedelta(seconds=rng.randrange(-17 * 86_400, 17 * 86_400) if rng.random() < 0.6 else 0)
        at = clock.now() + shift
        wanted: dict[str, Any] = rng.choice(
            [{"plan": "free"}, {"plan": "pro"}, {"plan": "enterprise"}, {"event": "pause"}, {"event": "cancel"}]
        )
        preview = await metering.preview_change(name, at=at, **wanted)
        running = f"{max(at, clock.now()).astimezone(UTC):%Y-%m}" if zone == "UTC" else preview.after.period
        assert preview.before == await metering.preview_invoice(name, period=running)
        if "plan" in wanted:
            await metering.change_plan(name, wanted["plan"], at=at)
        else:
            await getattr(metering, f"{wanted['event']}_subscription")(name, at=at)
        assert await metering.preview_invoice(name, period=running) == preview.after, (number, wanted, at)


async def test_a_preview_says_what_is_new_and_changes_nothing(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock)
    clock.set(NOON)
    preview = await metering.preview_change("acme", plan="enterprise")
    assert (preview.at, preview.plan, preview.status) == (clock.now(), "enterprise", "active")
    assert ([plain(line.amount) for line in preview.lines], preview.difference) == (["-49.50", "249.50"], Decimal(200))
    later = await metering.preview_change("acme", plan="free")
    assert (later.before.period, fees(later.before), fees(later.after)) == ("2024-02", ["99.00"], ["0.00"])
    assert (await metering.preview_change("acme", event="cancel")).difference == Decimal("-49.50")
    tenant = await metering.get_tenant("acme")
    assert tenant is not None
    assert (tenant.plan, tenant.planned) == ("pro", ())
    with pytest.raises(InvalidInput, match="or event must be named"):
        await metering.preview_change("acme")
    with pytest.raises(WrongState, match="explode is not possible"):
        await metering.preview_change("acme", event="explode")  # type: ignore[arg-type]


# -- months that begin on another day ----------------------------------------------------------------------------------


async def test_an_anniversary_is_the_month_of_quotas_fees_and_invoices_alike(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering, clock, "2024-01-20T15:00:00Z", anchor="anniversary")
    tenant = await metering.get_tenant("acme")
    assert tenant is not None
    assert tenant.anchor_day == 20
    for day in ("2024-01-25", "2024-02-10", "2024-02-20"):
        clock.set(f"{day}T12:00:00Z")
        await metering.record(UsageEvent(tenant="acme", event_type="export", resource="report_pdf", quantity=30))
    decision = await metering.check_limit("acme", "reports")
    assert (decision.used, decision.resets_at) == (30, datetime(2024, 3, 20, tzinfo=UTC))
    with pytest.raises(PeriodNotOver, match="2024-02 ends at 2024-03-20T00:00:00Z"):
        await metering.close_period("2024-02", tenant="acme")
    [invoice] = await metering.close_period("2024-01", tenant="acme")
    # 30 days 9 hours of 31 days, and 60 reports where 50 are free
    assert [(line.kind, plain(line.amount)) for line in invoice.lines] == [("base", "97.00"), ("overage", "50.00")]
    assert invoice.lines[0].description == "pro, 2024-01-20 to 2024-02-19 from 2024-01-20 15:00:00"
    assert await fees_of(metering, "2024-02") == ["99.00"]
    await metering.change_plan("acme", "free")
    after = await metering.get_tenant("acme")
    assert after is not None
    assert [each.at for each in after.planned] == [datetime(2024, 3, 20, tzinfo=UTC)]


async def test_the_worker_finalizes_months_that_end_within_this_one(metering: Metering, clock: FrozenClock) -> None:
    """The month of 31 January ends on 29 February; its grace is over on 1 March."""
    await pro(metering, clock, "2024-01-31T00:00:00Z", anchor=31)
    for now in ("2024-02-29T06:00:00Z", "2024-03-01T06:00:00Z"):
        clock.set(now)
        await metering.flush()
        await metering._invoices.close_last_month(clock.now())
    assert [(each.period, each.status, plain(each.total)) for each in await metering.list_invoices()] == [
        ("2024-01", "finalized", "99.00")
    ]


async def test_an_anchor_can_be_changed_in_the_first_month_only(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock, "2024-01-20T00:00:00Z")
    await metering.enforce_quota("acme", "reports", 30)
    assert (await metering.put_tenant("acme", anchor=25)).anchor_day == 25
    decision = await metering.check_limit("acme", "reports")
    assert (decision.used, decision.resets_at) == (30, datetime(2024, 1, 25, tzinfo=UTC))
    clock.set("2024-01-25T00:00:00Z")
    assert (await metering.check_limit("acme", "reports")).used == 0
    assert (await metering.put_tenant("acme", anchor=25)).anchor_day == 25
    with pytest.raises(InvalidInput, match="can be changed until 2024-01-25T00:00:00Z"):
        await metering.put_tenant("acme", anchor="calendar")
    for wrong in (0, 32, "monthly", True):
        with pytest.raises(InvalidInput, match="is not calendar, anniversary or a day from 1 to 31"):
            await metering.put_tenant("acme", anchor=wrong)  # type: ignore[arg-type]


# -- zones -------------------------------------------------------------------------------------------------------------


async def test_another_zone_keeps_the_day_and_what_is_counted_in_it(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, clock)
    clock.set(NOON)
    await metering.enforce_quota("acme", "api_calls", 9_000)
    tenant = await metering.put_tenant("acme", timezone="America/New_York")
    assert tenant.timezone == "America/New_York"
    decision = await metering.check_limit("acme", "api_calls")
    assert (decision.used, decision.resets_at) == (9_000, datetime(2024, 1, 17, 2, tzinfo=UTC))  # 26 hours
    clock.set("2024-01-17T01:59:59Z")
    assert (await metering.enforce_quota("acme", "api_calls", 1_001)).overage == 1
    clock.set("2024-01-17T02:00:00Z")
    assert (await metering.enforce_quota("acme", "api_calls")).used == 1
    usage = await metering.get_usage("acme", date(2024, 1, 16), date(2024, 1, 17))
    assert [day.api_calls for day in usage.days] == [10_001, 1]
    invoice = await metering.preview_invoice("acme")
    assert [plain(line.amount) for line in invoice.lines if line.kind == "overage"] == ["0.01"]


# -- all of it together ------------------------------------------------------------------------------------------------


async def test_a_life_of_changes_comes_to_the_same_everywhere_and_is_proved(
    metering: Metering, clock: FrozenClock
) -> None:
    """Plans there and back, now, ahead and back in time, pauses, zones, trials and anchors, beside usage and levels."""
    rng = random.Random(3)
    clock.set(JANUARY)
    for tenant in "abc":
        await metering.put_tenant(tenant, plan="pro", trial_days=3, anchor=rng.choice([1, 20, 31]))
    for hour in range(0, 24 * 60, 7):
        clock.set(datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour))
        tenant, chance = rng.choice("abc"), rng.random()
        await metering.record(
            UsageEvent(tenant=tenant, event_type="api_call", resource="/x", quantity=rng.randrange(1, 5000))
        )
        await metering.set_level(tenant, "users", rng.randrange(9))
        if chance < 0.05:
            await metering.put_tenant(tenant, timezone=rng.choice(["UTC", "Asia/Tokyo", "America/Los_Angeles"]))
        elif chance < 0.1:
            shift = timedelta(hours=rng.choice([0, 50, -30 if hour > 48 else 0]))
            await metering.change_plan(tenant, rng.choice(["pro", "enterprise", "free"]), at=clock.now() + shift)
        elif chance < 0.13:
            await metering.pause_subscription(tenant)
        elif chance < 0.2:
            await metering.resume_subscription(tenant)
    clock.set("2024-04-10T00:00:00Z")
    totals = [plain(each.total) for period in ("2024-01", "2024-02") for each in await metering.close_period(period)]
    proof = await metering.prove()
    assert (proof.differ, proof.wrong_invoices) == ((), ())
    assert [await metering.ledger.rebuild_cells(tenant) for tenant in "abc"] == [0, 0, 0]
    assert totals == LIFE


LIFE = ["85.32", "289.84", "4.98", "3.59", "0.00", "0.00"]
"""What it comes to in each ledger."""


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda m: m.change_plan("acme", "prop"), CatalogueError, "prop"),
        (
            lambda m: m.change_plan("acme", "free", at="2023-12-31T00:00:00Z"),
            InvalidInput,
            "before the tenant's sign-up",
        ),
        (lambda m: m.change_plan("acme", "free", at="someday"), InvalidInput, "at"),
        (lambda m: m.change_plan("acme", "free", at=datetime.fromisoformat("2024-02-01")), InvalidInput, "at"),
        (
            lambda m: m.pause_subscription("acme", at="2023-12-31T00:00:00Z"),
            InvalidInput,
            "before the tenant's sign-up",
        ),
        (lambda m: m.cancel_subscription("nobody"), UnknownTenant, "put_tenant makes it"),
        (lambda m: m.put_tenant("acme", trial_days=-1), InvalidInput, "trial_days: '-1'|-1 is not a whole number"),
        (lambda m: m.put_tenant("acme", trial_days=1.5), InvalidInput, "1.5"),
        (lambda m: m.put_tenant("acme", timezone="UTC@5>Asia/Tokyo"), InvalidInput, "is not an IANA time zone"),
        (lambda m: m.set_payment_state("acme", "broke"), InvalidInput, "is not one of paid, past_due, unpaid"),
    ],
)
async def test_bad_input_changes_nothing(
    memory: Metering, clock: FrozenClock, ask: Any, error: type[Exception], says: str
) -> None:
    await pro(memory, clock)
    before = await memory.ledger.tenant("acme")
    with pytest.raises(error, match=says):
        await ask(memory)
    assert await memory.ledger.tenant("acme") == before
