"""Invoices over their life: closed, numbered, paid by credit, taken back, issued again; on every ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from mm_metering import (
    FrozenClock,
    Metering,
    NotFound,
    PeriodNotOver,
    StoreUnavailable,
    UnknownTenant,
    UsageEvent,
    WrongState,
    catalogues,
)
from mm_metering.core.invoices import Invoice, InvoiceLine, Tax
from mm_metering.core.lifecycles import INVOICE
from mm_metering.errors import InvalidInput, InvalidMoney, MeteringError
from mm_metering.gate.admission import Wish
from tests.flows.conftest import Make

JANUARY_IS_OVER = "2024-02-01T00:00:00Z"
JANUARY_IS_FINAL = "2024-02-02T00:00:00Z"
FEBRUARY_IS_FINAL = "2024-03-02T00:00:00Z"
MARCH_IS_FINAL = "2024-04-02T00:00:00Z"
APRIL_IS_FINAL = "2024-05-02T00:00:00Z"
NOTHING = Decimal("0.00")


@pytest_asyncio.fixture
async def metering(make: Make, ledger: str) -> Metering:
    """The shipped plans on each ledger."""
    return await make(ledger=ledger)


async def pro(metering: Metering, *tenants: str, since: str = "2024-01-01T00:00:00Z", **options: Any) -> None:
    for tenant in tenants or ("acme",):
        await metering.put_tenant(tenant, plan="pro", subscribed_at=since, **options)


async def used(metering: Metering, day: str, quantity: int, *, tenant: str = "acme", meter: str = "api_call") -> None:
    resource = {"api_call": "/v1/x", "ai_token": "gpt-4", "export": "report_pdf"}[meter]
    """At noon of a day, or at an instant; by then it is that instant."""
    moment = datetime.fromisoformat(day if "T" in day else f"{day}T12:00:00Z")
    assert isinstance(metering.clock, FrozenClock)
    metering.clock.set(max(moment, metering.clock.now()))
    event = UsageEvent(
        tenant=tenant, event_type=meter, resource=resource, quantity=quantity, occurred_at=moment, id=None
    )
    await metering.record(event)


async def closed(metering: Metering, period: str = "2024-01", *, tenant: str = "acme") -> Invoice:
    (invoice,) = await metering.close_period(period, tenant=tenant)
    return invoice


async def finalized(metering: Metering, period: str = "2024-01", *, tenant: str = "acme") -> Invoice:
    invoice = await closed(metering, period, tenant=tenant)
    assert invoice.status == "finalized"
    return invoice


async def remaining(metering: Metering, tenant: str = "acme") -> list[str]:
    return [str(grant.remaining) for grant in await metering.list_credits(tenant)]


def amounts(invoice: Invoice, kind: str) -> list[str]:
    return [str(line.amount) for line in invoice.lines if line.kind == kind]


def overage(invoice: Invoice) -> InvoiceLine:
    (line,) = [line for line in invoice.lines if line.kind == "overage"]
    return line


async def outcomes(*work: Awaitable[Any]) -> tuple[list[Any], list[BaseException]]:
    """What came of all of them at once: values and errors."""
    done = await asyncio.gather(*work, return_exceptions=True)
    errors = [each for each in done if isinstance(each, BaseException)]
    return [each for each in done if not isinstance(each, BaseException)], errors


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_a_draft_grows_until_the_grace_is_over_and_never_after(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_OVER)
    first = await closed(metering)
    assert (first.number, first.total, first.amount_due) == (None, Decimal("99.00"), NOTHING)
    await used(metering, "2024-01-31", 10_500)
    grown = await closed(metering)
    assert (grown.id, grown.total) == (first.id, Decimal("104.00"))
    clock.set(JANUARY_IS_FINAL)
    last = await closed(metering)
    assert (last.id, last.status, last.number, last.amount_due) == (first.id, "finalized", "INV-000001", last.total)
    await used(metering, "2024-01-31", 10_500)
    again = await closed(metering)
    assert again.model_dump_json() == last.model_dump_json()
    assert await metering.get_invoice(last.id) == last
    assert await metering.list_invoices(tenant="acme") == [last]


async def test_an_invoice_is_named_by_its_number_too(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    assert await metering.get_invoice("INV-000001") == invoice
    with pytest.raises(NotFound):
        await metering.get_invoice("INV-000001", tenant="others")
    assert b"INV-000001" in await metering.invoice_document("INV-000001")
    note = await metering.credit_invoice("INV-000001", amount="1.00", reason="a mistake")
    assert note.invoice == invoice.id
    assert (await metering.mark_invoice("INV-000001", "paid")).id == invoice.id


async def test_the_same_month_closed_twice_at_once_is_one_invoice(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, "a", "b", "c")
    clock.set(JANUARY_IS_FINAL)
    twice = await asyncio.gather(*(metering.close_period("2024-01") for _ in range(4)))
    assert all(each == twice[0] for each in twice)
    assert [each.number for each in twice[0]] == ["INV-000001", "INV-000002", "INV-000003"]
    assert await metering.list_invoices() == twice[0]


async def test_numbers_have_no_gaps_whatever_is_closed_and_voided_at_once(
    metering: Metering, clock: FrozenClock
) -> None:
    tenants = [f"t{n}" for n in range(5)]
    await pro(metering, *tenants)
    clock.set(JANUARY_IS_FINAL)

    async def churn(tenant: str) -> None:
        for _ in range(2):
            await metering.void_invoice((await closed(metering, tenant=tenant)).id)
        await closed(metering, tenant=tenant)

    done, errors = await outcomes(
        *(churn(tenant) for tenant in tenants * 3), *(metering.close_period("2024-01") for _ in range(5))
    )
    assert done
    assert all(isinstance(error, WrongState) for error in errors), errors
    await metering.close_period("2024-01")
    invoices = await metering.list_invoices()
    numbers = sorted(str(each.number) for each in invoices)
    assert len(numbers) > 2 * len(tenants)
    assert numbers == [f"INV-{n:06}" for n in range(1, len(numbers) + 1)]
    for tenant in tenants:
        theirs = [each for each in invoices if each.tenant == tenant]
        assert [each.issue for each in theirs] == list(range(1, len(theirs) + 1))
        assert [each.status for each in theirs[:-1]] == ["void"] * (len(theirs) - 1)
        assert theirs[-1].status == "finalized"


async def test_of_several_finalizations_or_voids_at_once_one_wins(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_OVER)
    draft = await closed(metering)
    (won,), lost = await outcomes(*(metering.finalize_invoice(draft.id) for _ in range(4)))
    assert (won.status, won.number) == ("finalized", "INV-000001")
    assert [(type(error), error.state) for error in lost] == [(WrongState, "finalized")] * 3  # type: ignore[attr-defined]
    (won,), lost = await outcomes(*(metering.void_invoice(draft.id) for _ in range(4)))
    assert won.status == "void"
    assert [(type(error), error.state) for error in lost] == [(WrongState, "void")] * 3  # type: ignore[attr-defined]


async def test_a_month_is_not_closed_before_its_end_in_the_tenants_zone(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, "york", timezone="America/New_York")
    clock.set("2024-02-01T04:59:59Z")
    with pytest.raises(PeriodNotOver, match="2024-01 ends at 2024-02-01T05:00:00Z for 'york'"):
        await metering.close_period("2024-01")
    await pro(metering, "tokyo", timezone="Asia/Tokyo")
    await pro(metering, "acme", timezone="UTC")
    left_out: list[str] = []
    done: list[int] = []
    drafts = await metering.close_period("2024-01", not_over=left_out.append, progress=done.append)
    assert [each.tenant for each in drafts] == ["acme", "tokyo"]
    assert (left_out, done) == (["york"], [3])
    with pytest.raises(PeriodNotOver):
        await metering.close_period("2024-01", tenant="york")
    clock.set("2024-02-01T15:00:00Z")
    assert [each.status for each in await metering.close_period("2024-01")] == ["draft", "finalized", "draft"]
    clock.set("2024-02-02T04:59:59Z")
    statuses = {each.tenant: each.status for each in await metering.close_period("2024-01")}
    assert statuses == {"acme": "finalized", "tokyo": "finalized", "york": "draft"}
    clock.set("2024-02-02T05:00:00Z")
    york = await finalized(metering, tenant="york")
    assert york.usage_until == datetime.fromisoformat("2024-02-01T05:00:00Z")


async def test_who_signed_up_later_has_no_invoice(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory, "acme", since="2024-02-01T00:00:00Z")
    clock.set(JANUARY_IS_FINAL)
    assert await memory.close_period("2024-01") == []
    assert await memory.close_period("2024-01", tenant="acme") == []


@pytest.mark.parametrize(("period", "lines"), [("1970-01", 0), ("9998-12", 1)])
async def test_the_first_and_the_last_month_can_be_previewed(memory: Metering, period: str, lines: int) -> None:
    await pro(memory, since="2000-01-01T00:00:00Z")
    assert len((await memory.preview_invoice("acme", period=period)).lines) == lines


# -- the lifecycle -----------------------------------------------------------------------------------------------------

STATES: dict[str, Sequence[str]] = {
    "draft": (),
    "finalized": ("finalize",),
    "uncollectible": ("finalize", "give up"),
    "paid": ("finalize", "pay"),
    "void": ("finalize", "void"),
}
"""How to come to each state."""


async def test_every_transition_of_the_table_and_no_other(metering: Metering, clock: FrozenClock) -> None:
    events: dict[str, Callable[[str], Awaitable[Invoice]]] = {
        "finalize": metering.finalize_invoice,
        "void": metering.void_invoice,
        "pay": lambda name: metering.mark_invoice(name, "paid"),
        "give up": lambda name: metering.mark_invoice(name, "uncollectible"),
    }
    assert STATES.keys() == INVOICE.moves.keys()
    assert events.keys() == {event for moves in INVOICE.moves.values() for event in moves}
    tries = [(state, event) for state in STATES for event in events]
    await pro(metering, *(f"{state}/{event}" for state, event in tries))
    clock.set(JANUARY_IS_OVER)
    drafts = {each.tenant: each.id for each in await metering.close_period("2024-01")}
    for state, event in tries:
        name = drafts[f"{state}/{event}"]
        for step in STATES[state]:
            await events[step](name)
        before = await metering.get_invoice(name)
        assert before.status == state
        after = INVOICE.moves[state].get(event)
        if after is None:
            with pytest.raises(WrongState, match=f"is {state}: {event} is not possible") as refused:
                await events[event](name)
            assert refused.value.state == state
            assert await metering.get_invoice(name) == before
        else:
            assert (await events[event](name)).status == after
            assert (await metering.get_invoice(name)).status == after
    told = {each.type for each in await metering.ledger.notices() if each.tenant == "finalized/pay"}
    assert told == {"billing.invoice_created", "invoice.finalized", "payment.succeeded"}


# -- void and issue again ----------------------------------------------------------------------------------------------


async def test_a_void_gives_credit_and_adjustments_back_to_the_next_issue(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering)
    await used(metering, "2024-01-10", 12_000)
    await metering.grant_credit("acme", "15.00", applies_to="all")
    await metering.adjust_invoice("acme", "-1.00", reason="goodwill")
    clock.set(JANUARY_IS_FINAL)
    first = await finalized(metering)
    assert (first.total, first.credits_applied) == (Decimal("103.00"), Decimal("15.00"))
    assert await remaining(metering) == ["0.00"]
    await metering.void_invoice(first.id)
    assert await remaining(metering) == ["15.00"]
    preview = await metering.preview_invoice("acme", period="2024-01")
    second = await finalized(metering)
    assert (second.number, second.issue, second.total) == ("INV-000002", 2, first.total)
    assert preview.lines == second.lines
    assert not {line.id for line in first.lines} & {line.id for line in second.lines}
    assert await remaining(metering) == ["0.00"]
    assert (await metering.get_invoice(first.id)).status == "void"
    assert await closed(metering) == second


async def test_what_is_paid_or_credited_is_not_voided(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory, "paid", "credited")
    clock.set(JANUARY_IS_FINAL)
    credited, paid = await memory.close_period("2024-01")
    await memory.mark_invoice(paid.id, "paid")
    await memory.credit_invoice(credited.id, amount="1.00", reason="late")
    with pytest.raises(WrongState, match="is paid: void is not possible"):
        await memory.void_invoice(paid.id)
    with pytest.raises(WrongState, match=r"has credit notes of 1\.00; it stays"):
        await memory.void_invoice(credited.id)


async def test_what_was_carried_over_and_taken_keeps_its_invoice(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory)
    await memory.adjust_invoice("acme", "-100.00", reason="an outage")
    clock.set(JANUARY_IS_FINAL)
    january = await finalized(memory)
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(memory, "2024-02")
    assert (january.carried_over, february.total) == (Decimal("1.00"), Decimal("98.00"))
    with pytest.raises(WrongState, match=r"carried 1\.00 over, and later ones have taken of that"):
        await memory.void_invoice(january.id)
    await memory.void_invoice(february.id)
    assert (await memory.void_invoice(january.id)).status == "void"
    assert await remaining(memory) == ["0.00"]
    assert (await finalized(memory)).carried_over == Decimal("1.00")


# -- late usage --------------------------------------------------------------------------------------------------------


async def test_late_usage_joins_the_next_invoice_once(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    await used(metering, "2024-01-31", 10_000)
    clock.set(JANUARY_IS_FINAL)
    january = await finalized(metering)
    await used(metering, "2024-01-31T23:59:50Z", 500)
    assert (await metering.preview_invoice("acme", period="2024-02")).total == Decimal("104.00")
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    (late,) = [line for line in february.lines if line.kind == "late_usage"]
    assert late.description == "late usage 2024-01-31, 500 api_calls, 0.01 each"
    assert (late.amount, late.period, february.total) == (Decimal("5.00"), "2024-01", Decimal("104.00"))
    why = await metering.explain(late.id)
    assert (why.billed_before, why.windows[0].used, why.windows[0].overage) == (Decimal("0.00"), 10_500, 500)
    assert [fact.quantity for fact in await metering.line_facts(late.id)] == [10_000, 500]
    assert await closed(metering) == january
    await used(metering, "2024-01-31T23:59:55Z", 7)
    clock.set(MARCH_IS_FINAL)
    march = await finalized(metering, "2024-03")
    assert amounts(march, "late_usage") == ["0.07"]
    clock.set(APRIL_IS_FINAL)
    assert amounts(await finalized(metering, "2024-04"), "late_usage") == []


async def test_what_is_taken_back_late_lowers_the_next_invoice(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set("2024-01-31T12:00:00Z")
    taken = await metering.take("acme", [Wish("api_call", "/v1/x", 10_000)])
    more = await metering.take("acme", [Wish("api_call", "/v1/x", 700)])
    assert taken.allowed
    assert more.allowed
    clock.set(JANUARY_IS_FINAL)
    assert (await finalized(metering)).total == Decimal("106.00")
    await metering.reverse(more)
    await metering.change_plan("acme", "free", at="2024-02-01T00:00:00Z")
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    assert amounts(february, "late_usage") == ["-7.00"]
    assert (february.total, february.carried_over) == (Decimal("0.00"), Decimal("7.00"))
    assert await remaining(metering) == ["7.00"]


async def test_late_usage_is_billed_once_though_its_month_is_issued_again(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering)
    await used(metering, "2024-01-31", 10_000)
    clock.set(JANUARY_IS_FINAL)
    january = await finalized(metering)
    await used(metering, "2024-01-31", 500)
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    assert amounts(february, "late_usage") == ["5.00"]
    await metering.void_invoice(january.id)
    await used(metering, "2024-01-31", 30)
    again = await finalized(metering)
    assert amounts(again, "overage") == ["5.30"]
    assert amounts(again, "late_usage") == ["-5.00"]
    assert again.total == Decimal("99.30")
    clock.set(MARCH_IS_FINAL)
    assert amounts(await finalized(metering, "2024-03"), "late_usage") == []


async def test_an_invoice_with_late_usage_is_issued_again_with_what_no_other_has(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering)
    await used(metering, "2024-01-31", 10_000)
    clock.set(JANUARY_IS_FINAL)
    await finalized(metering)
    await used(metering, "2024-01-31", 500)
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    await used(metering, "2024-01-31", 30)
    clock.set(MARCH_IS_FINAL)
    assert amounts(await finalized(metering, "2024-03"), "late_usage") == ["0.30"]
    await metering.void_invoice(february.id)
    again = await finalized(metering, "2024-02")
    assert amounts(again, "late_usage") == ["5.00"]
    assert again.total == february.total


async def test_a_plan_changed_after_the_month_was_invoiced_is_prorated_later(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering)
    await used(metering, "2024-01-20", 11_000)
    clock.set(JANUARY_IS_FINAL)
    assert (await finalized(metering)).total == Decimal("109.00")
    await metering.change_plan("acme", "enterprise", at="2024-01-16T00:00:00Z")
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    (fee,) = [line for line in february.lines if line.kind == "proration"]
    assert (fee.amount, fee.period) == (Decimal("206.45"), "2024-01")
    assert fee.description == "changes of plan in 2024-01, after its invoice"
    assert amounts(february, "late_usage") == ["-10.00"]
    assert february.total == Decimal("695.45")


# -- credit ------------------------------------------------------------------------------------------------------------


async def test_credit_is_taken_by_priority_then_expiry_then_age(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    for reason, priority, expires_at in [
        ("last", 1, "2024-02-10T00:00:00Z"),
        ("third", 0, None),
        ("second", 0, "2024-04-01T00:00:00Z"),
        ("fourth", 0, None),
        ("first", 0, "2024-03-01T00:00:00Z"),
    ]:
        await metering.grant_credit(
            "acme", "30.00", priority=priority, expires_at=expires_at, applies_to="all", reason=reason
        )
        clock.advance(timedelta(seconds=1))
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    lines = [(line.description, str(line.amount)) for line in invoice.lines if line.kind == "credit"]
    assert lines == [
        ("credit, first", "-30.00"),
        ("credit, second", "-30.00"),
        ("credit, third", "-30.00"),
        ("credit, fourth", "-9.00"),
    ]
    assert (invoice.credits_applied, invoice.total) == (Decimal("99.00"), Decimal("0.00"))
    assert await remaining(metering) == ["30.00", "0.00", "0.00", "21.00", "0.00"]


async def test_credit_for_usage_pays_usage_alone(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory, tax_rate="0.19")
    await used(memory, "2024-01-10", 11_000)
    await memory.grant_credit("acme", "50.00")
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(memory)
    assert (invoice.subtotal, invoice.tax) == (Decimal("109.00"), Decimal("20.71"))
    assert (invoice.credits_applied, invoice.total) == (Decimal("10.00"), Decimal("119.71"))
    assert await remaining(memory) == ["40.00"]


async def test_credit_for_all_pays_fees_and_tax_too(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory, tax_rate="0.19")
    await memory.grant_credit("acme", "500", kind="paid", applies_to="all")
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(memory)
    assert (invoice.credits_applied, invoice.total) == (Decimal("117.81"), Decimal("0.00"))
    assert await remaining(memory) == ["382.19"]


@pytest.mark.parametrize(
    ("expires_at", "left"), [("2024-01-31T23:59:59Z", "30.00"), (JANUARY_IS_OVER, "0.00"), (None, "0.00")]
)
async def test_credit_that_expires_within_the_month_is_not_taken(
    memory: Metering, clock: FrozenClock, expires_at: str | None, left: str
) -> None:
    await pro(memory)
    await memory.grant_credit("acme", "30.00", applies_to="all", expires_at=expires_at)
    clock.set(JANUARY_IS_FINAL)
    await finalized(memory)
    assert await remaining(memory) == [left]


async def test_credit_is_spent_once_by_two_months_at_once(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    await metering.grant_credit("acme", "120.00", applies_to="all")
    clock.set(FEBRUARY_IS_FINAL)
    january, february = await asyncio.gather(finalized(metering, "2024-01"), finalized(metering, "2024-02"))
    assert january.credits_applied + february.credits_applied == Decimal("120.00")
    assert january.total + february.total == Decimal("78.00")
    assert await remaining(metering) == ["0.00"]


# -- discounts ---------------------------------------------------------------------------------------------------------


async def test_percentages_come_first_and_then_amounts(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    await used(metering, "2024-01-10", 12_000)
    await metering.put_discount("acme", amount="5.00", name="a fixed amount")
    await metering.put_discount("acme", percent="10", name="launch")
    await metering.put_discount("acme", percent="50", applies_to="metered", name="half the usage")
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    lines = [(line.description, str(line.amount)) for line in invoice.lines if line.kind == "discount"]
    assert lines == [
        ("launch, 10 % of 119.00", "-11.90"),
        ("half the usage, 50 % of 18.00", "-9.00"),
        ("a fixed amount", "-5.00"),
    ]
    assert invoice.total == Decimal("93.10")


async def test_a_discount_takes_no_more_than_is_there(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory, tax_rate="0.19")
    await used(memory, "2024-01-10", 10_100)
    await memory.put_discount("acme", amount="5.00", applies_to="metered")
    await memory.put_discount("acme", percent="100", applies_to="base")
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(memory)
    assert sorted(amounts(invoice, "discount")) == ["-1.00", "-99.00"]
    assert (invoice.tax, invoice.total) == (Decimal("0.00"), Decimal("0.00"))


async def test_a_discount_is_given_in_each_month_that_it_touches(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    cut = await metering.put_discount("acme", percent="10", starts_at="2024-01-31T23:59:59Z")
    await metering.put_discount("acme", percent="1", starts_at=JANUARY_IS_OVER, ends_at="2024-02-01T00:00:01Z")
    totals = []
    for moment, period in (
        (JANUARY_IS_FINAL, "2024-01"),
        (FEBRUARY_IS_FINAL, "2024-02"),
        (MARCH_IS_FINAL, "2024-03"),
        (APRIL_IS_FINAL, "2024-04"),
    ):
        clock.set(moment)
        if period == "2024-03":
            await metering.end_discount("acme", cut.id, at="2024-04-01T00:00:00Z")
        totals.append(str((await finalized(metering, period)).total))
    assert totals == ["89.10", "88.21", "89.10", "99.00"]
    with pytest.raises(NotFound, match="has no discount 'di_0'"):
        await metering.end_discount("acme", "di_0")


# -- adjustments -------------------------------------------------------------------------------------------------------


async def test_more_in_the_tenants_favour_than_is_due_is_credit_for_the_next(
    metering: Metering, clock: FrozenClock
) -> None:
    await pro(metering)
    await metering.adjust_invoice("acme", "-150.00", reason="two days without service")
    await metering.adjust_invoice("acme", "20.00", reason="set-up by hand")
    clock.set(JANUARY_IS_FINAL)
    january = await finalized(metering)
    assert amounts(january, "adjustment") == ["-150.00", "20.00"]
    assert (january.subtotal, january.total, january.carried_over) == (Decimal("-31.00"), NOTHING, Decimal("31.00"))
    assert amounts(january, "carried_over") == ["31.00"]
    (grant,) = await metering.list_credits("acme")
    assert (grant.source, grant.applies_to, grant.remaining) == (january.id, "all", Decimal("31.00"))
    clock.set(FEBRUARY_IS_FINAL)
    february = await finalized(metering, "2024-02")
    assert (amounts(february, "adjustment"), february.total) == ([], Decimal("68.00"))
    assert await remaining(metering) == ["0.00"]


# -- credit notes ------------------------------------------------------------------------------------------------------


async def test_credit_notes_take_back_units_amounts_lines_and_the_rest(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, tax_rate="0.19")
    await used(metering, "2024-01-10", 12_345)
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    assert (invoice.subtotal, invoice.tax, invoice.total) == (Decimal("122.45"), Decimal("23.27"), Decimal("145.72"))
    line = overage(invoice)
    wanted: list[dict[str, Any]] = [
        {"line_id": line.id, "quantity": 345},
        {"line_id": line.id, "amount": "10.00"},
        {"line_id": line.id},
        {"amount": "50.00"},
        {},
    ]
    notes = [await metering.credit_invoice(invoice.id, reason="wrong", **each) for each in wanted]
    assert [str(note.amount) for note in notes] == ["3.45", "10.00", "10.00", "50.00", "49.00"]
    assert [note.number for note in notes] == [f"CN-{n:06}" for n in range(1, 6)]
    assert all(note.total == note.amount + note.tax for note in notes)
    assert sum(note.tax for note in notes) == invoice.tax
    assert {note.to_credit for note in notes} == {0}
    after = await metering.get_invoice(invoice.id)
    assert (after.credited, after.amount_due) == (invoice.total, NOTHING)
    assert await metering.ledger.credit_notes(invoice.id) == notes
    with pytest.raises(InvalidInput, match=r"0\.00 is not above 0 and up to 0\.00, which is left to credit"):
        await metering.credit_invoice(invoice.id, reason="more")


async def test_what_was_paid_becomes_credit(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering, tax_rate="0.19")
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    await metering.mark_invoice(invoice.id, "paid")
    note = await metering.credit_invoice(invoice.id, amount="33.00", reason="a day without service")
    assert (note.total, note.to_credit) == (Decimal("39.27"), Decimal("39.27"))
    (grant,) = await metering.list_credits("acme")
    assert (grant.remaining, grant.kind, grant.applies_to, grant.source) == (note.total, "paid", "all", note.id)
    clock.set(FEBRUARY_IS_FINAL)
    assert (await finalized(metering, "2024-02")).total == Decimal("78.54")


async def test_more_than_is_left_is_refused_also_at_once(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    done, errors = await outcomes(
        *(metering.credit_invoice(invoice.id, amount="40.00", reason="twice") for _ in range(5))
    )
    assert sorted(note.number for note in done) == ["CN-000001", "CN-000002"]
    assert [type(error) for error in errors] == [InvalidInput] * 3
    assert (await metering.get_invoice(invoice.id)).amount_due == Decimal("19.00")


async def test_only_what_was_sent_is_credited(memory: Metering, clock: FrozenClock) -> None:
    await pro(memory)
    clock.set(JANUARY_IS_OVER)
    draft = await closed(memory)
    with pytest.raises(WrongState, match="is draft; only what was sent is credited"):
        await memory.credit_invoice(draft.id, reason="early")
    await memory.finalize_invoice(draft.id)
    with pytest.raises(InvalidInput, match="quantity: goes with line_id"):
        await memory.credit_invoice(draft.id, quantity=1, reason="of what")
    with pytest.raises(InvalidInput, match="quantity: 2 is not from 1 to the line's 1"):
        await memory.credit_invoice(draft.id, line_id=draft.lines[0].id, quantity=2, reason="too many")
    await memory.void_invoice(draft.id)
    with pytest.raises(WrongState, match="is void; only what was sent is credited"):
        await memory.credit_invoice(draft.id, reason="late")


# -- tax ---------------------------------------------------------------------------------------------------------------


def vat(draft: Invoice) -> list[Tax]:
    return [Tax(name="VAT", amount=draft.subtotal * Decimal("0.2")), Tax(name="city", amount=Decimal("1.005"))]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_tax_service_says_the_taxes(make: Make, clock: FrozenClock, *, is_async: bool) -> None:
    async def slow(draft: Invoice) -> list[Tax]:
        await asyncio.sleep(0)
        return vat(draft)

    metering = await make(tax=slow if is_async else vat)
    await pro(metering, tax_rate="0.19")
    clock.set(JANUARY_IS_FINAL)
    preview = await metering.preview_invoice("acme", period="2024-01")
    invoice = await finalized(metering)
    assert [(line.description, str(line.amount)) for line in invoice.lines[1:]] == [("VAT", "19.80"), ("city", "1.01")]
    assert (invoice.tax, invoice.total, invoice.lines) == (Decimal("20.81"), Decimal("119.81"), preview.lines)


async def test_taxes_are_asked_for_again_if_the_draft_has_changed(make: Make, clock: FrozenClock) -> None:
    asked: list[Decimal] = []

    async def tax(draft: Invoice) -> list[Tax]:
        asked.append(draft.subtotal)
        if len(asked) == 1:
            await used(app, "2024-01-31", 11_000)
            await app.flush()
        return vat(draft)[:1]

    app = await make(tax=tax, worker="off")
    await pro(app)
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(app)
    assert asked == [Decimal("99.00"), Decimal("109.00")]
    assert (invoice.tax, invoice.total) == (Decimal("21.80"), Decimal("130.80"))
    assert await closed(app) == invoice
    assert len(asked) == 2


async def test_usage_that_never_rests_leaves_the_month_as_it_is(make: Make, clock: FrozenClock) -> None:
    async def tax(draft: Invoice) -> list[Tax]:
        await used(app, "2024-01-31", 11_000)
        await app.flush()
        return []

    app = await make(tax=tax)
    await pro(app)
    clock.set(JANUARY_IS_FINAL)
    with pytest.raises(StoreUnavailable, match="changed while its taxes were asked for, 5 times; try again"):
        await app.close_period("2024-01")
    assert await app.list_invoices() == []


# -- a review first ----------------------------------------------------------------------------------------------------


async def test_an_invoice_far_above_the_usual_waits_for_a_review(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_FINAL)
    await finalized(metering)
    await used(metering, "2024-02-01", 208_100)
    clock.set(FEBRUARY_IS_FINAL)
    held = await closed(metering, "2024-02")
    assert (held.status, held.number, held.total) == ("draft", None, Decimal("2080.00"))
    assert held.held == "its total of 2080.00 is more than 20 times the usual 99.00; finalize_invoice sends it on"
    assert await metering.list_invoices(status="draft") == [held]
    sent = await metering.finalize_invoice(held.id)
    assert (sent.number, sent.held, sent.total) == ("INV-000002", None, held.total)
    assert await closed(metering, "2024-02") == sent


@pytest.mark.parametrize(("calls", "total"), [(208_000, "2079.00"), (100_100, "1000.00")])
async def test_what_is_usual_or_small_is_not_held(memory: Metering, clock: FrozenClock, calls: int, total: str) -> None:
    """Up to 20 times 99.00 and the first invoice's fee; never up to 1,000."""
    await pro(memory, since="2024-01-01T00:00:00Z")
    await memory.adjust_invoice("acme", "5.00" if total == "2079.00" else "-98.00", reason="what is usual")
    clock.set(JANUARY_IS_FINAL)
    await finalized(memory)
    await used(memory, "2024-02-01", calls)
    clock.set(FEBRUARY_IS_FINAL)
    assert str((await finalized(memory, "2024-02")).total) == total


# -- bad input ---------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[Metering, str], Awaitable[Any]], type[MeteringError], str]] = {
    "a float of credit": (lambda m, _: m.grant_credit("acme", 0.1), InvalidMoney, "is a float"),  # type: ignore[arg-type]
    "no credit": (lambda m, _: m.grant_credit("acme", "0.00"), InvalidMoney, "is not more than 0"),
    "half a cent": (lambda m, _: m.grant_credit("acme", "0.005"), InvalidMoney, "not a whole number of 0.01 USD"),
    "NaN": (lambda m, _: m.adjust_invoice("acme", Decimal("NaN"), reason="x"), InvalidMoney, "not a plain decimal"),
    "too much": (lambda m, _: m.adjust_invoice("acme", "9000000.01", reason="x"), InvalidMoney, "9,000,000"),
    "a kind": (lambda m, _: m.grant_credit("acme", "1", kind="gift"), InvalidInput, "not one of promo, paid"),  # type: ignore[arg-type]
    "a scope": (lambda m, _: m.grant_credit("acme", "1", applies_to="base"), InvalidInput, "metered, all"),  # type: ignore[arg-type]
    "a priority": (lambda m, _: m.grant_credit("acme", "1", priority=-1), InvalidInput, "priority"),
    "expired credit": (
        lambda m, _: m.grant_credit("acme", "1", expires_at="2024-02-02T00:00:00Z"),
        InvalidInput,
        "over",
    ),
    "a naive expiry": (lambda m, _: m.grant_credit("acme", "1", expires_at="2025-01-01"), InvalidInput, "expires_at"),
    "nobody's credit": (lambda m, _: m.grant_credit("nobody", "1"), UnknownTenant, "tenant 'nobody' is not known"),
    "nobody's adjustment": (lambda m, _: m.adjust_invoice("nobody", "1", reason="x"), UnknownTenant, "put_tenant"),
    "nobody's discount": (lambda m, _: m.put_discount("nobody", percent="1"), UnknownTenant, "put_tenant"),
    "nobody's preview": (lambda m, _: m.preview_invoice("nobody"), UnknownTenant, "put_tenant"),
    "nobody's month": (lambda m, _: m.close_period("2024-01", tenant="nobody"), UnknownTenant, "put_tenant"),
    "a bell": (lambda m, i: m.credit_invoice(i, amount="1", reason="a\a"), InvalidInput, "printable"),
    "no reason": (lambda m, _: m.adjust_invoice("acme", "1", reason=" "), InvalidInput, "reason"),
    "a novel": (lambda m, _: m.adjust_invoice("acme", "1", reason="x" * 501), InvalidInput, "1 to 500"),
    "nothing": (lambda m, _: m.adjust_invoice("acme", "0", reason="x"), InvalidMoney, "is 0"),
    "two kinds of discount": (
        lambda m, _: m.put_discount("acme", percent="1", amount="1"),
        InvalidInput,
        "give one of",
    ),
    "no discount": (lambda m, _: m.put_discount("acme"), InvalidInput, "give one of"),
    "101 %": (lambda m, _: m.put_discount("acme", percent="101"), InvalidMoney, "up to 100"),
    "a float discount": (lambda m, _: m.put_discount("acme", percent=0.5), InvalidMoney, "is a float"),  # type: ignore[arg-type]
    "a discount backwards": (
        lambda m, _: m.put_discount("acme", percent="1", starts_at=JANUARY_IS_FINAL, ends_at=JANUARY_IS_OVER),
        InvalidInput,
        "is not after",
    ),
    "a day": (lambda m, _: m.close_period("2024-01-01"), InvalidInput, "is not a calendar month"),
    "month 13": (lambda m, _: m.preview_invoice("acme", period="2024-13"), InvalidInput, "is not a calendar month"),
    "a list of month 0": (lambda m, _: m.list_invoices(period="2024-00"), InvalidInput, "is not a calendar month"),
    "a list of a status": (lambda m, _: m.list_invoices(status="sent"), InvalidInput, "draft, finalized"),  # type: ignore[arg-type]
    "a mark": (lambda m, i: m.mark_invoice(i, "void"), InvalidInput, "not one of paid, uncollectible"),  # type: ignore[arg-type]
    "an invoice": (lambda m, _: m.get_invoice("inv_0"), NotFound, "there is no invoice 'inv_0'"),
    "a void": (lambda m, _: m.void_invoice("inv_0"), NotFound, "list_invoices"),
    "an id of no text": (lambda m, _: m.finalize_invoice(7), InvalidInput, "is not an id"),  # type: ignore[arg-type]
    "a NUL": (lambda m, _: m.explain("line\0"), InvalidInput, "is not an id"),
    "a line": (lambda m, _: m.line_facts("line_0"), NotFound, "no invoice that was closed has a line"),
    "another's line": (lambda m, i: m.credit_invoice(i, line_id="line_0", reason="x"), NotFound, "has no line"),
    "a float of units": (
        lambda m, i: m.credit_invoice(i, line_id="line_0", quantity=1.0, reason="x"),  # type: ignore[arg-type]
        InvalidInput,
        "quantity",
    ),
    "a negative note": (lambda m, i: m.credit_invoice(i, amount="-1", reason="x"), InvalidInput, "is not above 0"),
}


async def test_what_makes_no_sense_is_refused_and_changes_nothing(metering: Metering, clock: FrozenClock) -> None:
    await pro(metering)
    clock.set(JANUARY_IS_FINAL)
    invoice = await finalized(metering)
    for name, (ask, kind, text) in BAD.items():
        with pytest.raises(kind) as refused:
            await ask(metering, invoice.id)
        assert text in str(refused.value), (name, str(refused.value))
    assert await metering.list_invoices() == [invoice]
    assert await metering.list_credits("acme") == []
    clock.set(FEBRUARY_IS_FINAL)
    assert (await finalized(metering, "2024-02")).total == Decimal("99.00")


async def test_a_currency_without_cents_takes_whole_amounts(make: Make, clock: FrozenClock) -> None:
    metering = await make(catalogue=catalogues.seed.to_dict() | {"currency": "JPY"})
    await pro(metering)
    with pytest.raises(InvalidMoney, match=r"1\.50 is not a whole number of 1 JPY"):
        await metering.grant_credit("acme", "1.50")
    await metering.grant_credit("acme", "9", applies_to="all")
    clock.set(JANUARY_IS_FINAL)
    assert str((await finalized(metering)).total) == "90"


# -- explained ---------------------------------------------------------------------------------------------------------


async def test_facts_come_page_by_page_and_once_though_two_plans_share_a_day(
    metering: Metering, clock: FrozenClock
) -> None:
    clock.set("2024-01-16T09:00:00Z")
    await pro(metering)
    await used(metering, "2024-01-16T08:00:00Z", 12_000)
    await metering.change_plan("acme", "enterprise", at="2024-01-16T10:00:00Z")
    await metering.change_plan("acme", "pro", at="2024-01-16T11:00:00Z")
    clock.set("2024-01-16T12:00:00Z")
    await used(metering, "2024-01-16T11:00:00Z", 3)
    await used(metering, "2024-01-16T11:00:00Z", 4)
    clock.set(JANUARY_IS_FINAL)
    line = overage(await finalized(metering))
    assert [window.overage for window in (await metering.explain(line.id)).windows] == [2_000, 7]
    pages, after = [], None
    while page := await metering.line_facts(line.id, after=after, limit=2):
        pages.append(page)
        after = (page[-1].occurred_at, page[-1].id)
    assert [len(page) for page in pages] == [2, 1]
    assert sorted(fact.quantity for page in pages for fact in page) == [3, 4, 12_000]
