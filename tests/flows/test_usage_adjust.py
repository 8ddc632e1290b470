"""Corrections by hand: what they move, what they may take off, and that they are made once and can be undone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.core.usage import UsageSnapshot
from mm_metering.errors import EventConflict, InvalidInput, QuotaExceeded, UnknownTenant, WrongState
from mm_metering.proof import Verdict
from tests.flows.conftest import Make

BY_RESOURCE: Mapping[str, Any] = {
    "currency": "USD",
    "default_plan": "p",
    "meters": {
        "calls": {"event": "api_call", "cost": "0.002"},
        "reports": {"event": "export", "resource": "report_*"},
        "exports": {"event": "export"},
        "spend": {"event": "ai_call", "unit": "money"},
        "users": {"aggregation": "level"},
    },
    "plans": {
        "p": {"price": "0", "quotas": {"calls": {"limit": 100, "per": "day"}, "reports": {"limit": 5, "per": "day"}}},
        "q": {"price": "0", "quotas": {"calls": {"limit": 900, "per": "day"}}},
    },
}


@pytest.fixture
async def house(stores: dict[str, str], make: Make) -> Metering:
    return await make(catalogue=BY_RESOURCE, **stores)


async def used(metering: Metering, day: str = "2024-01-15") -> UsageSnapshot:
    return await metering.create_usage_snapshot("acme", day)


async def resources(metering: Metering) -> dict[str, int]:
    found = await metering.get_usage_by_resource("acme", "2024-01-15", "2024-01-15")
    return {each.resource: int(each.quantity) for each in found if each.meter == "calls"}


async def is_proved(metering: Metering) -> bool:
    proof = await metering.prove()
    return proof.holds and {each.verdict for each in proof.shards} == {Verdict.EQUAL}


async def test_a_correction_moves_ledger_and_counters_and_its_opposite_undoes_it(house: Metering) -> None:
    await house.enforce_quota("acme", "calls", 100)
    with pytest.raises(QuotaExceeded):
        await house.enforce_quota("acme", "calls")
    made = await house.adjust_usage("acme", "calls", -30, reason="incident 4711")
    assert (made.before, made.after, made.late, made.outcome) == (100, 70, False, "recorded")
    assert str(made.day) == "2024-01-15"
    assert await house.check_limit("acme", "calls", 30)
    assert not await house.check_limit("acme", "calls", 31)
    today = await used(house)
    assert (today.api_calls, today.meters["calls"], str(today.total_cost)) == (70, 70, "0.14")
    made = await house.adjust_usage("acme", "calls", 30, reason="incident 4711 was none")
    assert (made.before, made.after) == (70, 100)
    today = await used(house)
    assert (today.api_calls, str(today.total_cost)) == (100, "0.20")
    with pytest.raises(QuotaExceeded):
        await house.enforce_quota("acme", "calls")
    assert await house.reconciler.drift("acme") == []
    assert await is_proved(house)


async def test_a_correction_is_made_once_by_its_id(house: Metering, clock: FrozenClock) -> None:
    await house.enforce_quota("acme", "calls", 50)
    first = await house.adjust_usage("acme", "calls", -5, reason="a typo", id="ticket-9")
    clock.advance(timedelta(hours=1))
    again = await house.adjust_usage("acme", "calls", -5, reason="a typo", id="ticket-9")
    assert (first.outcome, again.outcome, first.id, again.id) == ("recorded", "duplicate", "ticket-9", "ticket-9")
    for other in (-6, 5):
        with pytest.raises(EventConflict):
            await house.adjust_usage("acme", "calls", other, reason="a typo", id="ticket-9")
    with pytest.raises(EventConflict):
        await house.record_api_call("acme", "/v1", id="ticket-9")
    assert (await used(house)).api_calls == 45
    entries = [each for each in await house.list_audit(tenant="acme") if each.action == "usage adjusted"]
    assert [(each.subject, each.before, each.after, each.reason) for each in entries] == [
        ("calls", '{"used": 50}', '{"used": 45}', "a typo")
    ]


async def test_what_is_taken_off_comes_out_of_the_largest_and_no_cell_falls_below_0(house: Metering) -> None:
    for resource, number in (("/a", 10), ("/b", 30), ("/c", 20)):
        await house.record_api_call("acme", resource)
        await house.adjust_usage("acme", "calls", number - 1, resource=resource, reason="moved")
    await house.adjust_usage("acme", "calls", 5, reason="added")
    assert await resources(house) == {"/a": 10, "/b": 30, "/c": 20, "calls": 5}
    await house.adjust_usage("acme", "calls", -42, reason="taken off")
    assert await resources(house) == {"/a": 10, "/b": 0, "/c": 13, "calls": 0}
    await house.adjust_usage("acme", "calls", -13, resource="/c", reason="taken off")
    with pytest.raises(InvalidInput) as caught:
        await house.adjust_usage("acme", "calls", -11, resource="/a", reason="too much")
    assert "11 calls cannot be taken off 2024-01-15: 10 of /a were used then under p" in str(caught.value)
    with pytest.raises(InvalidInput, match="11 calls cannot be taken off 2024-01-15: 10 were used"):
        await house.adjust_usage("acme", "calls", -11, reason="too much")
    with pytest.raises(InvalidInput, match="1 calls cannot be taken off 2024-01-14: 0 were used"):
        await house.adjust_usage("acme", "calls", -1, occurred_at="2024-01-14T12:00:00Z", reason="another day")
    assert await resources(house) == {"/a": 10, "/b": 0, "/c": 0, "calls": 0}
    assert await is_proved(house)


async def test_a_patterned_meter_takes_along_what_else_counts_its_events(house: Metering) -> None:
    for _ in range(3):
        await house.enforce_quota("acme", "reports")
    await house.adjust_usage("acme", "reports", -2, reason="twice by mistake")
    today = await used(house)
    assert (today.meters["reports"], today.meters["exports"], today.exports) == (1, 1, 1)
    await house.adjust_usage("acme", "reports", 4, reason="of paper")
    with pytest.raises(QuotaExceeded):
        await house.enforce_quota("acme", "reports")


async def test_a_correction_belongs_to_its_instant_and_the_plan_of_then(house: Metering, clock: FrozenClock) -> None:
    await house.put_tenant("acme", plan="p", timezone="America/New_York")
    await house.enforce_quota("acme", "calls", 40)
    clock.advance(timedelta(hours=3))
    await house.change_plan("acme", "q", at="now")
    await house.enforce_quota("acme", "calls", 7)
    with pytest.raises(InvalidInput, match="7 were used then under q"):
        await house.adjust_usage("acme", "calls", -8, reason="of now")
    at = datetime(2024, 1, 15, 12, tzinfo=UTC)
    made = await house.adjust_usage("acme", "calls", -8, occurred_at=at, reason="of before")
    assert (made.before, made.after) == (40, 32)
    assert (await used(house)).api_calls == 39
    assert await house.check_limit("acme", "calls", 861)
    assert not await house.check_limit("acme", "calls", 862)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meter": "callz"}, "callz"),
        ({"quantity": 0}, "quantity: 0 is none"),
        ({"quantity": 2**53}, "quantity: 9,007,199,254,740,992 is none"),
        ({"quantity": 1.5}, "quantity: expected an int, got float 1.5"),
        ({"meter": "users"}, "users is a level; state it as it is with set_level"),
        ({"meter": "spend"}, "spend is money; give it back with credit_invoice or grant_credit"),
        ({"occurred_at": "2024-01-15T12:06:00Z"}, "lies 360 s in the future"),
        ({"occurred_at": "yesterday"}, "is not an ISO 8601 instant"),
        ({"reason": " "}, "reason: is not 1 to 500"),
        ({"reason": "x" * 501}, "reason: is not 1 to 500"),
        ({"resource": ""}, "resource: "),
        ({"tenant": ""}, "tenant: "),
    ],
)
async def test_what_is_no_correction_is_refused(make: Make, changes: dict[str, Any], words: str) -> None:
    house = await make(catalogue=BY_RESOURCE)
    asked: dict[str, Any] = {"tenant": "acme", "meter": "calls", "quantity": 1, "reason": "why"}
    asked |= changes
    with pytest.raises(InvalidInput) as caught:
        await house.adjust_usage(asked.pop("tenant"), asked.pop("meter"), asked.pop("quantity"), **asked)
    assert words in str(caught.value)
    assert await house.list_audit(tenant="acme") == []


async def test_only_a_tenant_that_is_there_is_corrected(make: Make, ledger: str) -> None:
    house = await make(catalogue={**BY_RESOURCE, "default_plan": None}, ledger=ledger)
    with pytest.raises(UnknownTenant):
        await house.adjust_usage("acme", "calls", 1, reason="why")
    await house.put_tenant("acme", plan="p")
    await house.forget_tenant("acme", reason="request 17")
    with pytest.raises(WrongState):
        await house.adjust_usage("acme", "calls", 1, reason="why")


async def test_a_month_that_was_invoiced_is_corrected_on_the_next_invoice_for_35_days(
    make: Make, clock: FrozenClock, ledger: str
) -> None:
    metering = await make(ledger=ledger)
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await metering.enforce_quota("acme", "api_calls", 10_250)
    clock.set("2024-02-03T00:00:00Z")
    (invoice,) = await metering.close_period("2024-01", tenant="acme")
    asked: dict[str, Any] = {"occurred_at": "2024-01-15T12:00:00Z", "reason": "incident 4711"}
    made = await metering.adjust_usage("acme", "api_calls", -200, **asked)
    assert (made.before, made.after, made.late) == (10_250, 10_050, True)
    preview = await metering.preview_invoice("acme", period="2024-02")
    (late,) = [line for line in preview.lines if line.kind == "late_usage"]
    assert (late.period, late.quantity, str(late.amount)) == ("2024-01", -200, "-2.00")
    assert await metering.get_invoice(invoice.id) == invoice
    clock.set("2024-02-20T00:00:00Z")
    with pytest.raises(InvalidInput, match="2024-01-15 is more than 35 days ago, and the invoice of 2024-01 is final"):
        await metering.adjust_usage("acme", "api_calls", -1, **asked)
    assert (await used(metering)).api_calls == 10_050


async def test_facts_that_were_retired_cannot_be_corrected(make: Make, clock: FrozenClock, ledger: str) -> None:
    metering = await make(catalogue=BY_RESOURCE, ledger=ledger)
    await metering.enforce_quota("acme", "calls", 10)
    await metering.flush()
    clock.advance(timedelta(days=40))
    now_us = int(clock.now().timestamp() * 1e6)
    while (await metering.ledger.retire(now_us, keep_months=0)).more:
        pass
    with pytest.raises(InvalidInput, match="the facts of 2024-01-15 were retired"):
        await metering.adjust_usage("acme", "calls", -1, occurred_at="2024-01-15T12:00:00Z", reason="late")
