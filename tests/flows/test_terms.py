"""What one tenant has otherwise than its plan, levels that charge, documents, and what is refused; on every ledger."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mm_metering import CatalogueError, FrozenClock, InvalidEvent, Metering, Party, QuotaExceeded, catalogues
from mm_metering.core.invoices import Invoice
from tests.flows.conftest import Make

JANUARY_IS_FINAL = "2024-02-02T00:00:00Z"


@pytest_asyncio.fixture
async def metering(make: Make, ledger: str, clock: FrozenClock) -> Metering:
    clock.set("2024-01-10T00:00:00Z")
    metering = await make(ledger=ledger, worker="off")
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    return metering


async def lines(metering: Metering, *kinds: str) -> list[tuple[str, str]]:
    invoice = await metering.preview_invoice("acme", period="2024-01")
    return [(line.description, str(line.amount)) for line in invoice.lines if line.kind in kinds]


# -- what one tenant has otherwise -------------------------------------------------------------------------------------


async def test_an_override_limits_and_bills_from_its_instant_on(metering: Metering, clock: FrozenClock) -> None:
    await metering.record_api_call("acme", "/v1/x")
    changes = {"price": "79.00", "quotas": {"api_calls": {"limit": 2, "per": "day"}}}
    tenant = await metering.override_plan("acme", changes, at="2024-01-16T12:00:00Z")
    assert (tenant.plan, (await metering.check_limit("acme", "api_calls")).limit) == ("pro", 10_000)
    clock.set("2024-01-16T12:00:00Z")
    decision = await metering.enforce_quota("acme", "api_calls", 2)
    assert (decision.limit, decision.plan) == (2, "pro")
    with pytest.raises(QuotaExceeded, match="2 of 2"):
        await metering.enforce_quota("acme", "api_calls")
    fees = await lines(metering, "base", "proration")
    assert [amount for _, amount in fees] == ["99.00", "-49.50", "39.50"]


async def test_an_override_outlives_what_puts_the_tenant_on_its_plan_again(metering: Metering) -> None:
    await metering.override_plan("acme", {"price": "79.00"}, at="2024-01-01T00:00:00Z")
    await metering.put_tenant("acme", plan="pro", tax_rate="0.10")
    assert [amount for _, amount in await lines(metering, "base")] == ["79.00"]
    await metering.override_plan("acme", {"quotas": {"reports": None}}, at="2024-01-01T00:00:00Z")
    assert [amount for _, amount in await lines(metering, "base")] == ["79.00"], "what was overridden before stays"
    await metering.change_plan("acme", "pro", at="2024-01-01T00:00:00Z")
    assert [amount for _, amount in await lines(metering, "base")] == ["99.00"]


async def test_an_override_is_another_tenants_business_alone(metering: Metering) -> None:
    await metering.put_tenant("acme~", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await metering.override_plan("acme", {"price": "1.00"}, at="2024-01-01T00:00:00Z")
    await metering.override_plan("acme~", {"price": "2.00"}, at="2024-01-01T00:00:00Z")
    totals = [(await metering.preview_invoice(name, period="2024-01")).total for name in ("acme", "acme~")]
    assert totals == [Decimal("1.00"), Decimal("2.00")]
    assert [(await metering.put_tenant(name)).plan for name in ("acme", "acme~")] == ["pro", "pro"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"price": 79.5}, "is a float and not exact"),
        ({"quotas": {"api_cals": {"limit": 1, "per": "day"}}}, 'did you mean "api_calls"'),
        ({"quotas": {"api_calls": {"limit": 1}}}, "per is missing"),
        ({"prise": "1.00"}, "unknown key"),
    ],
)
async def test_an_override_that_no_plan_may_have_changes_nothing(metering: Metering, changes: Any, said: str) -> None:
    with pytest.raises(CatalogueError, match=said):
        await metering.override_plan("acme", changes)
    assert [amount for _, amount in await lines(metering, "base")] == ["99.00"]


# -- levels ------------------------------------------------------------------------------------------------------------


async def test_a_level_that_charges_is_billed_by_its_mean_also_where_it_only_stands(
    make: Make, ledger: str, clock: FrozenClock
) -> None:
    tree = catalogues.seed.to_dict()
    tree["plans"]["pro"]["quotas"]["storage_mb"] = {"limit": 1_000, "then": "charge", "unit_price": "0.02"}
    metering = await make(catalogue=tree, ledger=ledger, worker="off")
    clock.set("2024-01-16T12:00:00Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await metering.set_level("acme", "storage_mb", 3_000, resource="disk")
    clock.set("2024-03-02T00:00:00Z")
    (january,) = await metering.close_period("2024-01")
    (february,) = await metering.close_period("2024-02")
    assert [_level(each) for each in (january, february)] == [("500", "10.00"), ("2000", "40.00")]
    for each in (january, february):
        assert await metering.rerun_invoice(each.id) == each


def _level(invoice: Invoice) -> tuple[str, str]:
    (line,) = [line for line in invoice.lines if line.meter == "storage_mb"]
    return (f"{line.quantity.normalize():f}" if isinstance(line.quantity, Decimal) else "", str(line.amount))


# -- what is refused, or held ------------------------------------------------------------------------------------------


async def test_usage_of_a_final_month_is_refused_after_35_days(metering: Metering, clock: FrozenClock) -> None:
    clock.set(JANUARY_IS_FINAL)
    await metering.close_period("2024-01")
    old = datetime.fromisoformat("2024-01-10T12:00:00Z")
    clock.set("2024-02-14T11:59:00Z")
    await metering.record_api_call("acme", "/v1/x", occurred_at=old)
    clock.set("2024-02-14T12:00:01Z")
    with pytest.raises(InvalidEvent, match="2024-01-10 is more than 35 days ago, and the invoice of 2024-01 is final"):
        await metering.record_api_call("acme", "/v1/x", occurred_at=old)
    await metering.record_api_call("other", "/v1/x", occurred_at=old)
    assert (await metering.get_usage("acme", "2024-01-10", "2024-01-10")).api_calls == 1


async def test_credit_in_another_currency_is_never_left_out_silently(
    make: Make, tmp_path: Path, clock: FrozenClock
) -> None:
    ledger = f"sqlite:///{tmp_path}/ledger.db"  # it outlives a Metering
    clock.set("2024-01-10T00:00:00Z")
    dollars = await make(ledger=ledger, worker="off", apply="always")
    await dollars.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await dollars.grant_credit("acme", "5.00")
    euros = await make(catalogue=catalogues.seed.to_dict() | {"currency": "EUR"}, ledger=ledger, worker="off")
    clock.set(JANUARY_IS_FINAL)
    (held,) = await euros.close_period("2024-01")
    assert (held.status, held.total) == ("draft", Decimal("99.00"))
    assert held.held == (
        "the tenant has 5.00 USD of credit, and it is in EUR; finalize_invoice sends it on without that"
    )
    assert (await euros.finalize_invoice(held.id)).number == "INV-000001"


async def test_a_plan_that_left_the_catalogue_is_billed_to_who_is_on_it(
    make: Make, tmp_path: Path, clock: FrozenClock
) -> None:
    ledger = f"sqlite:///{tmp_path}/ledger.db"  # it outlives a Metering
    clock.set("2024-01-10T12:00:00Z")
    before = await make(ledger=ledger, worker="off", apply="always")
    await before.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    await before.record_api_call("acme", "/v1/x")
    tree = catalogues.seed.to_dict()
    del tree["plans"]["pro"]
    after = await make(catalogue=tree, ledger=ledger, worker="off", apply="always")
    assert (await after.enforce_quota("acme", "api_calls")).limit == 10_000
    clock.set(JANUARY_IS_FINAL)
    (invoice,) = await after.close_period("2024-01")
    assert (invoice.total, invoice.lines[0].description) == (Decimal("99.00"), "pro, 2024-01")
    with pytest.raises(CatalogueError, match='unknown plan "pro"'):
        await after.put_tenant("other", plan="pro")


# -- documents ---------------------------------------------------------------------------------------------------------


async def test_an_invoice_is_a_document_in_the_tenants_zone(metering: Metering, clock: FrozenClock) -> None:
    await metering.put_tenant("acme", timezone="America/New_York")
    clock.set("2024-02-02T05:00:00Z")
    (invoice,) = await metering.close_period("2024-01")
    page = (await metering.invoice_document(invoice.id, seller=Party("MortgageMatch"))).decode()
    assert "INV-000001" in page
    assert "MortgageMatch" in page
    assert "America/New_York" in page
    assert (await metering.invoice_document(invoice.id, "pdf")).startswith(b"%PDF-")
    assert Invoice.model_validate_json(await metering.invoice_document(invoice.id, "json")) == invoice
    assert len((await metering.invoice_document(invoice.id, "csv")).splitlines()) == 1 + len(invoice.lines)
