"""``python -m tests.bench.looks URL``: how long looking at a ledger takes that ``tests.bench.house`` has filled."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.looks import Place
from mm_metering.backends.sql import open_ledger
from mm_metering.core.periods import micros

ROUNDS: Final = 15
FAR: Final = 20
"""Pages down a list."""

Look = Callable[[], Awaitable[Any]]


async def _facts_far_down(ledger: Ledger, **chosen: Any) -> Look:
    before = None
    for _ in range(FAR):
        before = (await ledger.latest_facts(before=before, **chosen)).ended
    return lambda: ledger.latest_facts(before=before, **chosen)


async def _looks(ledger: Ledger) -> Mapping[str, Look]:
    now_us = micros(datetime.now(UTC))
    today = datetime.now(UTC).date()
    newest = (await ledger.latest_facts(limit=1)).facts[0]
    back = newest.place._replace(stored_us=newest.stored_us - 60_000_000)
    middle = Place(newest.stored_us - 10 * 86_400_000_000, "")
    endpoint = (await ledger.endpoints_page(limit=1))[0]
    return {
        "house_days, 60 days": lambda: ledger.house_days(today - timedelta(60), today),
        "find_tenants": lambda: ledger.find_tenants(now_us=now_us),
        "find_tenants by text": lambda: ledger.find_tenants(text="G-0199", now_us=now_us),
        "find_tenants by text, none": lambda: ledger.find_tenants(text="nobody", now_us=now_us),
        "find_tenants by plan and status": lambda: ledger.find_tenants(plan="pro", status="active", now_us=now_us),
        "find_tenants, plan order, far": lambda: ledger.find_tenants(order="plan", skip=1900, now_us=now_us),
        "find_tenants, -since order": lambda: ledger.find_tenants(order="-since", now_us=now_us),
        "count_tenants": lambda: ledger.count_tenants(now_us),
        "latest_facts": ledger.latest_facts,
        "latest_facts, far": await _facts_far_down(ledger),
        "latest_facts by type": lambda: ledger.latest_facts(event_type="export"),
        "latest_facts by type, none": lambda: ledger.latest_facts(event_type="nothing"),
        "latest_facts by kind, rare": lambda: ledger.latest_facts(kind="set"),
        "latest_facts by text": lambda: ledger.latest_facts(text="quotes"),
        "latest_facts by text, none": lambda: ledger.latest_facts(text="nowhere"),
        "latest_facts of the largest tenant": lambda: ledger.latest_facts(tenant="org-00000"),
        "latest_facts of it, far": await _facts_far_down(ledger, tenant="org-00000"),
        "latest_facts of it, none": lambda: ledger.latest_facts(tenant="org-00000", text="nowhere"),
        "latest_facts of a small tenant": lambda: ledger.latest_facts(tenant="org-01999"),
        "latest_facts, a minute's tail": lambda: ledger.latest_facts(after=back),
        "latest_facts, nothing new": lambda: ledger.latest_facts(after=newest.place),
        "latest_facts, a tenant's tail": lambda: ledger.latest_facts(tenant="org-00000", after=back),
        "audit_page": ledger.audit_page,
        "audit_page in the middle": lambda: ledger.audit_page(before=middle),
        "audit_page by action": lambda: ledger.audit_page(action="credit granted", before=middle),
        "audit_page by action, none": lambda: ledger.audit_page(action="nothing"),
        "audit_page of a tenant": lambda: ledger.audit_page(tenant="org-00007"),
        "notices_page": ledger.notices_page,
        "notices_page in the middle": lambda: ledger.notices_page(before=middle),
        "notices_page by 3 types": lambda: ledger.notices_page(types=("usage.spike", "quota.exceeded", "none")),
        "notices_page of a tenant": lambda: ledger.notices_page(tenant="org-00010", types=("usage.spike",)),
        "hints_page": ledger.hints_page,
        "deliveries_page": ledger.deliveries_page,
        "deliveries_page, pending": lambda: ledger.deliveries_page(state="pending"),
        "deliveries_page, dead": lambda: ledger.deliveries_page(state="dead"),
        "deliveries_page of an endpoint": lambda: ledger.deliveries_page(endpoint=endpoint.id, before=middle),
        "deliveries_page of a tenant, pending": lambda: ledger.deliveries_page(tenant=endpoint.tenant, state="pending"),
        "endpoints_page": ledger.endpoints_page,
        "delivery_stats": lambda: ledger.delivery_stats(since_us=0),
        "invoices_page": ledger.invoices_page,
        "invoices_page, far": lambda: ledger.invoices_page(skip=3900),
        "invoices_page by status": lambda: ledger.invoices_page(status="paid"),
        "invoices_page by status, none": lambda: ledger.invoices_page(status="void"),
        "invoices_page of a tenant": lambda: ledger.invoices_page(tenant="org-00007"),
        "invoice_totals": ledger.invoice_totals,
        "collection_totals": ledger.collection_totals,
        "alert_history": ledger.alert_history,
        "roll_up (a worker's)": lambda: ledger.roll_up(today - timedelta(1), now_us=now_us),
    }


async def measure(url: str) -> None:
    ledger, table = open_ledger(url), Table("what is looked at", "first ms", "median ms", "CPU ms", "most ms")
    try:
        for name, look in (await _looks(ledger)).items():
            times, spent = list[float](), list[float]()
            for _ in range(ROUNDS):
                began, cpu = time.perf_counter(), time.process_time()
                await look()
                times.append((time.perf_counter() - began) * 1e3)
                spent.append((time.process_time() - cpu) * 1e3)
            figures = (times[0], median(times), median(spent), max(times[1:]))
            table.add_row(name, *(f"{each:,.1f}" for each in figures))
    finally:
        await ledger.aclose()
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.looks", description="how long looking at a ledger takes")
    parser.add_argument("url", help="of a ledger that tests.bench.house has filled")
    asyncio.run(measure(parser.parse_args().url))


if __name__ == "__main__":
    main()
