"""Minimum commitments and add-ons from the first request to the invoice, on every ledger."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mm_metering import CatalogueError, FrozenClock, Metering, QuotaExceeded, UsageEvent
from mm_metering.core.catalogue_file import parse
from mm_metering.core.invoices import Invoice
from mm_metering.errors import InvalidInput, MeteringError, UnknownTenant
from tests.flows.conftest import Make

JANUARY = "2024-01-01T00:00:00Z"
NOON = "2024-01-16T12:00:00Z"
JANUARY_IS_FINAL = "2024-02-02T00:00:00Z"
FEBRUARY_IS_FINAL = "2024-03-02T00:00:00Z"

CALLS = {"limit": 100, "per": "day", "then": "charge", "unit_price": "0.50"}
CATALOGUE: dict[str, Any] = {
    "currency": "USD",
    "meters": {
        "api_calls": {"event": "api_call"},
        "reports": {"event": "export"},
        "users": {"aggregation": "level"},
    },
    "plans": {
        "free": {"price": "0.00", "quotas": {"api_calls": {"limit": 10, "per": "day"}}},
        "pro": {
            "price": "99.00",
            "minimum": "310.00",
            "quotas": {"api_calls": CALLS, "reports": {"limit": 5, "per": "month"}, "users": {"limit": 2}},
        },
        "team": {
            "price": "200.00",
            "quotas": {"api_calls": CALLS | {"limit": 1_000}, "users": {"limit": "unlimited"}},
        },
    },
    "addons": {
        "calls": {"price": "20.00", "plans": ["pro", "team"], "quotas": {"api_calls": 50}},
        "seats": {"price": "31.00", "quotas": {"users": 3}},
        "reports": {"price": "5.00", "quotas": {"reports": {"month": 10}}},
        "help": {"price": "9.30"},
    },
}


@pytest_asyncio.fixture
async def metering(make: Make, ledger: str, clock: FrozenClock) -> Metering:
    clock.set(JANUARY)
    found = await make(catalogue=CATALOGUE, ledger=ledger)
    await found.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    return found


async def memory_of(make: Make, clock: FrozenClock, **changes: Any) -> Metering:
    clock.set(JANUARY)
    found = await make(catalogue=CATALOGUE | changes)
    await found.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    return found


def fees(invoice: Invoice) -> list[tuple[str, str]]:
    return [
        (line.description, str(line.amount)) for line in invoice.lines if line.kind in ("base", "proration", "addon")
    ]


def amounts(invoice: Invoice, kind: str) -> list[str]:
    return [str(line.amount) for line in invoice.lines if line.kind == kind]


# -- both on an invoice ------------------------------------------------------------------------------------------------


async def test_an_invoice_with_add_ons_and_a_minimum_is_what_its_preview_was(
    metering: Metering, clock: FrozenClock
) -> None:
    tenant = await metering.set_addon("acme", "calls", quantity=2)
    assert (tenant.plan, tenant.addons) == ("pro", {"calls": 2})
    for day in (5, 25):
        clock.set(f"2024-01-{day:02}T09:00:00Z")
        await metering.enforce_quota("acme", "api_calls", 210)
        if day == 5:
            clock.set(NOON)
            await metering.set_addon("acme", "calls", quantity=1, at="now")
    preview = await metering.preview_invoice("acme")
    assert fees(preview) == [
        ("pro, 2024-01", "99.00"),
        ("calls x 2, 2024-01", "40.00"),
        ("calls x 2, unused, 2024-01 from 2024-01-16 12:00:00", "-20.00"),
        ("calls x 1, 2024-01 from 2024-01-16 12:00:00", "10.00"),
    ]
    # 210 - 200 = 10 calls past the limit on 5 January, 210 - 150 = 60 on the 25th, at 0.50
    assert amounts(preview, "overage") == ["35.00"]
    (topped_up,) = [line for line in preview.lines if line.kind == "commitment"]
    assert topped_up.description == "minimum 310.00, less 164.00 used"
    assert preview.total == Decimal("310.00")
    clock.set(JANUARY_IS_FINAL)
    (invoice,) = await metering.close_period("2024-01")
    assert (invoice.lines, invoice.total) == (preview.lines, preview.total)
    assert await metering.rerun_invoice(invoice.id) == invoice


async def test_late_usage_under_the_minimum_comes_to_nothing_once(metering: Metering, clock: FrozenClock) -> None:
    clock.set(JANUARY_IS_FINAL)
    (january,) = await metering.close_period("2024-01")
    assert amounts(january, "commitment") == ["211.00"]
    clock.set("2024-02-03T00:00:00Z")
    await used(metering, 110, at="2024-01-31T12:00:00Z")
    clock.set(FEBRUARY_IS_FINAL)
    (february,) = await metering.close_period("2024-02")
    assert (amounts(february, "late_usage"), amounts(february, "commitment")) == (["5.00"], ["211.00", "-5.00"])
    assert february.total == Decimal("310.00")
    await metering.void_invoice(january.id)
    (again,) = await metering.close_period("2024-01")
    assert (again.total, again.issue) == (Decimal("310.00"), 2)
    assert (amounts(again, "overage"), amounts(again, "late_usage")) == (["5.00"], ["-5.00"])
    assert amounts(again, "commitment") == ["206.00", "5.00"]


async def used(metering: Metering, calls: int, *, at: str) -> None:
    moment = datetime.fromisoformat(at)
    await metering.record(
        UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=calls, occurred_at=moment)
    )


PAGE = (Path(__file__).parents[2] / "docs" / "billing.md").read_text().partition("## Minimums and add-ons")[2]


async def test_the_example_of_the_page(make: Make, clock: FrozenClock) -> None:
    written, shown = re.findall(r"```(?:toml|text)\n(.*?)```", PAGE, re.DOTALL)[:2]
    clock.set(JANUARY)
    metering = await make(catalogue=parse(written, "plans.toml"))
    await metering.put_tenant("acme", plan="pro")
    await metering.set_addon("acme", "extra_calls", quantity=2)
    clock.set("2024-01-16T10:00:00Z")
    await used(metering, 32_150, at="2024-01-10T12:00:00Z")
    clock.set(NOON)
    await metering.set_addon("acme", "extra_calls", quantity=1, at="now")
    clock.set("2024-01-20T12:00:00Z")
    await used(metering, 17_000, at="2024-01-20T12:00:00Z")
    invoice = await metering.preview_invoice("acme")
    rows = [*((line.description, line.amount) for line in invoice.lines), ("total", invoice.total)]
    assert "".join(f"{what:58}{amount:>6}\n" for what, amount in rows) == shown


# -- in force ----------------------------------------------------------------------------------------------------------


async def test_limits_of_every_kind_are_raised_at_the_next_request(metering: Metering) -> None:
    await metering.enforce_quota("acme", "reports", 5)
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("acme", "reports")
    await metering.set_addon("acme", "reports", quantity=1)
    decision = await metering.enforce_quota("acme", "reports", 10)
    assert (decision.limit, decision.used, decision.plan) == (15, 15, "pro")
    await metering.set_addon("acme", "seats", quantity=2)
    assert (await metering.enforce_quota("acme", "users", 8)).limit == 8
    await metering.set_addon("acme", "seats", quantity=0, at="now")
    assert ((await metering.check_limit("acme", "users")).limit, (await metering.get_tenant("acme"))) == (
        2,
        await metering.put_tenant("acme"),
    )
    assert (await metering.put_tenant("acme")).addons == {"reports": 1}


async def test_without_its_last_add_on_a_tenant_is_on_the_catalogues_version_again(metering: Metering) -> None:
    await metering.set_addon("acme", "help", quantity=1)
    await metering.set_addon("acme", "help", quantity=0, at="now")
    row = await metering.ledger.tenant("acme")
    assert row is not None
    assert [(each.plan, each.version) for each in row.segments] == [("pro", 1)]


async def test_an_override_and_add_ons_stay_with_each_other(metering: Metering) -> None:
    await metering.set_addon("acme", "calls", quantity=2)
    await metering.override_plan("acme", {"price": "79.00", "quotas": {"api_calls": CALLS | {"limit": 500}}})
    assert (await metering.check_limit("acme", "api_calls")).limit == 600
    tenant = await metering.set_addon("acme", "calls", quantity=3)
    assert ((await metering.check_limit("acme", "api_calls")).limit, tenant.addons) == (650, {"calls": 3})
    await metering.set_addon("acme", "calls", quantity=0, at="now")
    assert (await metering.check_limit("acme", "api_calls")).limit == 500
    assert fees(await metering.preview_invoice("acme")) == [("pro, 2024-01", "79.00")]


# -- with another plan -------------------------------------------------------------------------------------------------


async def test_fewer_of_an_add_on_hold_from_the_periods_end_on(metering: Metering, clock: FrozenClock) -> None:
    await metering.set_addon("acme", "calls", quantity=2)
    tenant = await metering.set_addon("acme", "calls", quantity=1)
    assert (tenant.addons, [f"{each.at:%m-%d}" for each in tenant.planned]) == ({"calls": 2}, ["02-01"])
    clock.set("2024-02-01T00:00:00Z")
    after = await metering.get_tenant("acme")
    assert after is not None
    assert after.addons == {"calls": 1}


@pytest.mark.parametrize("by", ["change_plan", "put_tenant"])
async def test_add_ons_go_along_to_a_plan_that_may_have_them(metering: Metering, clock: FrozenClock, by: str) -> None:
    for name in ("calls", "reports", "seats"):
        await metering.set_addon("acme", name, quantity=2)
    clock.set(NOON)
    preview = await metering.preview_change("acme", plan="team")
    moved = await (
        metering.change_plan("acme", "team") if by == "change_plan" else metering.put_tenant("acme", plan="team")
    )
    assert moved.addons == {"calls": 2, "seats": 2}, "team has no limit of reports to raise"
    assert (await metering.check_limit("acme", "api_calls")).limit == 1_100
    assert (await metering.check_limit("acme", "users")).limit is None
    invoice = await metering.preview_invoice("acme")
    assert fees(invoice)[4:] == [
        ("pro, unused, 2024-01 from 2024-01-16 12:00:00", "-49.50"),
        ("team, 2024-01 from 2024-01-16 12:00:00", "100.00"),
        ("reports x 2, unused, 2024-01 from 2024-01-16 12:00:00", "-5.00"),
    ]
    assert (preview.after.lines, preview.after.total) == (invoice.lines, invoice.total)
    assert (await metering.change_plan("acme", "free", at="now")).addons == {}
    assert (await metering.check_limit("acme", "api_calls")).limit == 10


async def test_what_goes_along_does_so_on_the_terms_of_now(make: Make, tmp_path: Path, clock: FrozenClock) -> None:
    clock.set(JANUARY)
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    async with Metering(CATALOGUE, ledger=ledger, clock=clock) as before:
        await before.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
        await before.set_addon("acme", "calls", quantity=2)
        await before.set_addon("acme", "help", quantity=1)
    addons = {"calls": {"price": "25.00", "quotas": {"api_calls": 70}}}
    after = await make(catalogue=CATALOGUE | {"addons": addons}, ledger=ledger)
    assert (await after.check_limit("acme", "api_calls")).limit == 200, "what was sold stays"
    assert amounts(await after.preview_invoice("acme"), "addon") == ["40.00", "9.30"]
    tenant = await after.set_addon("acme", "help", quantity=0, at="now")
    assert tenant.addons == {"calls": 2}, "also what is no longer sold can be given back"
    await after.change_plan("acme", "team")
    assert (await after.check_limit("acme", "api_calls")).limit == 1_140
    assert amounts(await after.preview_invoice("acme"), "addon") == ["50.00"]


async def test_what_is_planned_stays_and_has_the_add_on_where_it_may(metering: Metering, clock: FrozenClock) -> None:
    await metering.change_plan("acme", "team", at="2024-01-21T00:00:00Z")
    await metering.cancel_subscription("acme", at="2024-01-26T00:00:00Z")
    tenant = await metering.set_addon("acme", "seats", quantity=1, at="2024-01-11T00:00:00Z")
    assert tenant.addons == {}
    assert [(f"{each.at:%d}", each.plan, each.status) for each in tenant.planned] == [
        ("11", "pro", "active"),
        ("21", "team", "active"),
        ("26", "team", "canceled"),
    ]
    assert amounts(await metering.preview_invoice("acme"), "addon") == ["21.00", "-6.00"]
    tenant = await metering.set_addon("acme", "reports", quantity=1, at="2024-01-11T00:00:00Z")
    assert len(tenant.planned) == 3, "team may not have it, and is still planned"
    clock.set("2024-01-21T00:00:00Z")
    known = await metering.get_tenant("acme")
    assert known is not None
    assert (known.plan, known.addons) == ("team", {"seats": 1})


async def test_no_fee_is_due_in_a_trial_and_limits_are_raised_in_it(make: Make, clock: FrozenClock) -> None:
    metering = await memory_of(make, clock)
    await metering.put_tenant("new", plan="pro", trial_days=15)
    await metering.set_addon("new", "seats", quantity=1)
    assert (await metering.enforce_quota("new", "users", 5)).limit == 5
    invoice = await metering.preview_invoice("new")
    assert amounts(invoice, "addon") == ["16.00"]
    assert (amounts(invoice, "commitment"), invoice.total) == (["92.90"], Decimal("160.00"))


# -- what is refused ---------------------------------------------------------------------------------------------------

MOST = 2**53 - 1


WRONG: list[tuple[str, Any, str, str]] = [
    ("call", 1, "pro", 'unknown add-on "call"; did you mean "calls"?'),
    ("gone", 0, "pro", 'unknown add-on "gone"; choose from: calls, seats, reports, help'),
    ("calls", 1, "free", "addon: calls is for pro, team, and not for free"),
    ("seats", 1, "free", "addon: free has no limit of users, so seats would raise nothing"),
    ("reports", 1, "team", "addon: team has no limit of reports per month, so reports would raise nothing"),
    ("calls", -1, "pro", "quantity: -1 is not allowed; the least is 0"),
    ("calls", True, "pro", "quantity: expected an int, got bool True"),
    ("calls", "2", "pro", "quantity: expected an int, got str 2"),
    ("calls", 450_001, "pro", "quantity: 450,001 x calls cost 9,000,020.00 a month; the largest amount is 9,000,000"),
    ("calls", 10**30, "pro", f"quantity: is too large; the most is 2**53 - 1 = {MOST:,}"),
]


async def test_what_cannot_be_sold_is_told_with_the_way_out_and_changes_nothing(make: Make, clock: FrozenClock) -> None:
    metering = await memory_of(make, clock)
    for plan in ("pro", "free", "team"):
        await metering.put_tenant(plan, plan=plan)
    before, versions = await metering.ledger.tenants(after=""), await metering.ledger.plan_versions()
    for addon, quantity, plan, said in WRONG:
        with pytest.raises(MeteringError) as caught:
            await metering.set_addon(plan, addon, quantity=quantity)
        assert str(caught.value) == said
    assert await metering.ledger.tenants(after="") == before
    assert await metering.ledger.plan_versions() == versions


async def test_nobody_and_no_time_before_the_sign_up_has_add_ons(make: Make, clock: FrozenClock) -> None:
    metering = await memory_of(make, clock)
    with pytest.raises(UnknownTenant, match="'nobody' is not known; put_tenant makes it"):
        await metering.set_addon("nobody", "calls", quantity=1)
    versions = await metering.ledger.plan_versions()
    with pytest.raises(InvalidInput, match="lies before the tenant's sign-up"):
        await metering.set_addon("acme", "calls", quantity=1, at="2023-12-31T23:59:59Z")
    assert await metering.ledger.plan_versions() == versions


async def test_a_limit_cannot_be_raised_past_what_stores_count(make: Make, clock: FrozenClock) -> None:
    free = {"calls": {"price": "0.00", "quotas": {"api_calls": 2**52}}}
    metering = await memory_of(make, clock, addons=free)
    await metering.set_addon("acme", "calls", quantity=1)
    assert amounts(await metering.preview_invoice("acme"), "addon") == []
    with pytest.raises(InvalidInput, match=f"2 x calls raise api_calls past {MOST:,}, the largest limit; take fewer"):
        await metering.set_addon("acme", "calls", quantity=2)
    with pytest.raises(CatalogueError):
        metering.catalogue.addon("nothing")
