"""What people look at is found by an index that has its order, whatever the planner knows about the rows."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import Any

import pytest_asyncio
from sqlalchemy import event

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.looks import FactPlace, Place
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.books import Entries
from mm_metering.testing.accounts_contract import an_invoice, book, open_accounts
from mm_metering.testing.ledger_contract import Books, at, use

DAY, AT = date(2024, 1, 15), Place(1, "x")
FACT = FactPlace(1, "acme", 1, "x")

ALL_SEGMENTS = {"mm_subscription", "mm_tenant_pkey", "mm_subscription_pkey"}
"""What is in force follows from a tenant's segments: all of them are read, but no other table."""

Look = Callable[[Ledger], Awaitable[Any]]

LOOKS: dict[str, tuple[Look, set[str]]] = {
    "roll_up": (lambda ledger: ledger.roll_up(DAY, now_us=1), {"mm_usage_cell_day", "mm_house_day_pkey"}),
    "first_day": (lambda ledger: ledger.first_day(), {"mm_usage_cell_day"}),
    "house_days": (lambda ledger: ledger.house_days(DAY, DAY), {"mm_house_day_pkey"}),
    "find_tenants": (
        lambda ledger: ledger.find_tenants(now_us=1, text="a"),
        {"mm_tenant_pkey", "mm_subscription_pkey"},
    ),
    "find_tenants by plan": (
        lambda ledger: ledger.find_tenants(now_us=1, plan="pro", order="plan"),
        ALL_SEGMENTS,
    ),
    "find_tenants in order": (
        lambda ledger: ledger.find_tenants(now_us=1, order="-since"),
        {"mm_tenant_pkey", "mm_subscription_pkey", "mm_tenant_since"},
    ),
    "count_tenants": (lambda ledger: ledger.count_tenants(1), ALL_SEGMENTS),
    "latest_facts": (lambda ledger: ledger.latest_facts(before=FACT), {"mm_usage_fact_stored"}),
    "latest_facts by text": (lambda ledger: ledger.latest_facts(text="a", after=FACT), {"mm_usage_fact_stored"}),
    "a tenant's facts": (lambda ledger: ledger.latest_facts(tenant="acme", before=FACT), {"mm_usage_fact_pkey"}),
    "a tenant's tail": (lambda ledger: ledger.latest_facts(tenant="acme", after=FACT), {"mm_usage_fact_stored"}),
    "audit_page": (lambda ledger: ledger.audit_page(before=AT), {"mm_audit_log_at"}),
    "audit_page by action": (lambda ledger: ledger.audit_page(action="a", before=AT), {"mm_audit_log_action"}),
    "audit_page of a tenant": (lambda ledger: ledger.audit_page(tenant="a", before=AT), {"mm_audit_log_tenant"}),
    "notices_page": (lambda ledger: ledger.notices_page(before=AT), {"mm_outbox_made"}),
    "notices_page by type": (lambda ledger: ledger.notices_page(types=["a", "b"], before=AT), {"mm_outbox_type"}),
    "notices_page of a tenant": (
        lambda ledger: ledger.notices_page(tenant="a", types=["a", "b"], before=AT),
        {"mm_outbox_tenant"},
    ),
    "hints_page": (lambda ledger: ledger.hints_page(before=AT), {"mm_webhook_inbox_stored"}),
    "deliveries_page": (lambda ledger: ledger.deliveries_page(before=AT), {"mm_webhook_delivery_made"}),
    "deliveries_page by state": (
        lambda ledger: ledger.deliveries_page(state="dead", before=AT),
        {"mm_webhook_delivery_state"},
    ),
    "deliveries_page of a tenant": (
        lambda ledger: ledger.deliveries_page(tenant="a", before=AT),
        {"mm_webhook_delivery_tenant"},
    ),
    "deliveries_page of a tenant by state": (
        lambda ledger: ledger.deliveries_page(tenant="a", state="dead", before=AT),
        {"mm_webhook_delivery_tenant_state"},
    ),
    "deliveries_page of an endpoint": (
        lambda ledger: ledger.deliveries_page(endpoint="a", before=AT),
        {"mm_webhook_delivery_endpoint_state"},
    ),
    "endpoints_page": (lambda ledger: ledger.endpoints_page(after="a"), {"mm_webhook_endpoint_pkey"}),
    "endpoints_page of a tenant": (
        lambda ledger: ledger.endpoints_page(tenant="a", after="a"),
        {"mm_webhook_endpoint_tenant"},
    ),
    "delivery_stats": (lambda ledger: ledger.delivery_stats(since_us=1), {"mm_webhook_delivery_counts"}),
    "invoices_page": (lambda ledger: ledger.invoices_page(), {"mm_invoice_period"}),
    "invoices_page by status": (lambda ledger: ledger.invoices_page(status="void"), {"mm_invoice_status"}),
    "invoices_page of a month": (lambda ledger: ledger.invoices_page(period="2024-01"), {"mm_invoice_period"}),
    "invoices_page of a tenant": (lambda ledger: ledger.invoices_page(tenant="a"), {"mm_invoice_tenant"}),
    "invoice_totals": (lambda ledger: ledger.invoice_totals(), {"mm_invoice_total"}),
    "collection_totals": (lambda ledger: ledger.collection_totals(), {"mm_collection_state"}),
    "alert_history": (lambda ledger: ledger.alert_history(), {"mm_alert_history"}),
}


IN_ORDER = {name for name in LOOKS if name.startswith(("latest", "a tenant", "audit", "notices", "hints", "deliver"))}
"""An index has them in their order, but perhaps for those of one instant."""


async def plans(ledger: SqlLedger, look: Look, explain: str) -> list[str]:
    """The lines of how each statement that reads is carried out."""
    seen: dict[str, Any] = {}
    settings: list[Any] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "set_config" in statement:
            settings.append((statement, parameters))
        elif statement.startswith("SELECT") and " mm_" in statement:
            seen[statement] = parameters

    engine = ledger._store._engine().sync_engine
    event.listen(engine, "before_cursor_execute", note)
    await look(ledger)
    event.remove(engine, "before_cursor_execute", note)

    async def ask(tx: Transaction) -> list[str]:
        for setting in settings:
            await tx.connection.exec_driver_sql(*setting)
        asked = [await tx.connection.exec_driver_sql(f"{explain} {each}", seen[each]) for each in seen]
        return [str(row[-1]) for rows in asked for row in rows]

    return await ledger._store.write(ask)


async def furnished(url: str) -> SqlLedger:
    """With a tenant and an invoice: pages of none are not asked for."""
    ledger = SqlLedger(url)
    await ledger.make_room(at("2024-01-15 12:00"))
    await open_accounts(ledger, "acme")
    await book(ledger, Entries(invoices=(an_invoice(),)))
    await Books(ledger).fold(use("a", "2024-01-15 12:00"))
    return ledger


@pytest_asyncio.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[SqlLedger]:
    ledger = await furnished(sqlite_url)
    yield ledger
    await ledger.aclose()


@pytest_asyncio.fixture
async def postgres(postgres_url: str) -> AsyncIterator[SqlLedger]:
    ledger = await furnished(postgres_url)
    yield ledger
    await ledger.aclose()


def used_indexes(lines: list[str]) -> set[str]:
    """Of SQLite's plan. A table that is read without one is named itself."""
    found = set[str]()
    for line in lines:
        if match := re.match(r"(?:SEARCH|SCAN) (mm_\w+)(?: USING (?:COVERING )?(INDEX (\w+)|PRIMARY KEY))?", line):
            table, how, name = match.groups()
            automatic = re.fullmatch(r"sqlite_autoindex_(mm_\w+)_1", name or "")
            found.add(f"{automatic[1]}_pkey" if automatic else name or (f"{table}_pkey" if how else table))
    return found


async def test_sqlite_finds_each_by_its_index(sqlite: SqlLedger) -> None:
    found = {name: used_indexes(await plans(sqlite, look, "EXPLAIN QUERY PLAN")) for name, (look, _) in LOOKS.items()}
    assert found == {name: indexes for name, (_, indexes) in LOOKS.items()}


async def test_sqlite_sorts_no_more_than_a_page_of_a_list(sqlite: SqlLedger) -> None:
    for name in sorted(IN_ORDER):
        lines = await plans(sqlite, LOOKS[name][0], "EXPLAIN QUERY PLAN")
        assert not [line for line in lines if "TEMP B-TREE FOR ORDER BY" in line], name


async def test_postgres_reads_no_table_and_sorts_no_list(postgres: SqlLedger) -> None:
    for name, (look, _) in LOOKS.items():
        lines = await plans(postgres, look, "EXPLAIN")
        assert lines, name
        assert not [line for line in lines if "Seq Scan" in line], name
        if name in IN_ORDER:
            assert not [line for line in lines if re.search(r"Bitmap|(?<!Incremental )Sort  ", line)], name
