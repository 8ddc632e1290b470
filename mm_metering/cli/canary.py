"""``mm-metering doctor --canary``: one event all the way to a mock invoice, through the house as it is.

It is of a tenant that the house keeps for this (``CANARY``), which no run over tenants meets: no month of it is closed,
nothing of it is simulated or told. The event is taken back at the end, so that its counters and cells are as before;
the invoice is a preview, and goes to a provider in this process's memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

from mm_metering.billing.items import items_of_invoice
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.core.facts import Fact
from mm_metering.core.findings import Finding
from mm_metering.core.identity import CANARY
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import local_day, micros, zone
from mm_metering.errors import MeteringError
from mm_metering.gate.admission import Admission
from mm_metering.metering import Metering

T = TypeVar("T")
RESOURCE: Final = "/mm-metering/canary"
WORKER_S: Final = 5.0
"""How long a worker that lives may take to fold it; past that it is folded here."""
LOOK_S: Final = 0.05
MOST_FACTS: Final = 100


class CanaryFailed(MeteringError):
    """It was not seen where it should have come to."""


async def send(metering: Metering) -> AsyncIterator[Finding]:
    """A finding for each step, with the time that it took; the first that fails is the last but for taking it back."""
    taken: list[Fact] = []
    try:
        async for each in _steps(metering, taken):
            yield each
    except MeteringError as error:
        yield Finding("FAIL", f"canary: {error}")
    try:
        for fact in taken:
            await metering.reverse(Admission(CANARY, "", allowed=True, facts=(fact,)))
        await metering.flush()
    except MeteringError as error:
        yield Finding(
            "FAIL", f"canary: it was not taken back, and counts for {CANARY!r}, which is never billed: {error}"
        )


async def _steps(metering: Metering, taken: list[Fact]) -> AsyncIterator[Finding]:
    plan = metering.catalogue.default_plan or next(iter(metering.catalogue.plans))
    if await metering.get_tenant(CANARY) is None:
        await metering.put_tenant(CANARY, plan=plan)
    before, began_us = await _calls(metering), micros(metering.clock.now())
    _, step = await _timed(metering.record_api_call(CANARY, RESOURCE), "recorded, and counted")
    yield step
    folded, step = await _timed(_folded(metering, began_us), "in the ledger")
    taken += folded
    yield step
    if not folded:
        raise CanaryFailed("it was recorded, and is not in the ledger; look at the worker, and at dead letters")
    after, step = await _timed(_calls(metering), "in the day's snapshot")
    yield step
    if after != before + 1:
        raise CanaryFailed(f"the snapshot of today has {after - before:,} calls more, not 1")
    preview, step = await _timed(metering.preview_invoice(CANARY), "in a preview of its invoice")
    yield step
    _, step = await _timed(_billed(metering, preview), "at a mock provider, to the coin")
    yield step


async def _timed(work: Awaitable[T], what: str) -> tuple[T, Finding]:
    began_s = time.perf_counter()
    done = await work
    return done, Finding("ok", f"canary: {what} after {(time.perf_counter() - began_s) * 1000:,.0f} ms")


async def _folded(metering: Metering, began_us: int) -> list[Fact]:
    """Its fact, as the ledger has it: by a worker where one comes to it, else folded here."""
    await metering.gate.settle()
    for _ in range(int(WORKER_S / LOOK_S)):
        if found := await _facts(metering, began_us):
            return found
        if not any(each.alive for each in (await metering.status()).workers):
            break
        await asyncio.sleep(LOOK_S)
    await metering.flush()
    return await _facts(metering, began_us)


async def _facts(metering: Metering, began_us: int) -> list[Fact]:
    found = await metering.ledger.facts(CANARY, after=(began_us - 1, ""), limit=MOST_FACTS)
    return [each for each in found if each.resource == RESOURCE]


async def _calls(metering: Metering) -> int:
    tenant = await metering.get_tenant(CANARY)
    assert tenant is not None
    today = local_day(metering.clock.now(), zone(tenant.timezone))
    return (await metering.create_usage_snapshot(CANARY, today)).api_calls


async def _billed(metering: Metering, preview: Invoice) -> None:
    """What the provider makes of the preview's lines comes to the same."""
    adapter = MockBillingAdapter(clock=metering.clock, currency=metering.catalogue.currency)
    customer = await adapter.create_customer(organization_id=CANARY, email="canary@mm-metering.invalid", name="canary")
    items = items_of_invoice(preview, preview.total)
    if not items:
        return
    made = await adapter.create_invoice(customer.id, items=items)
    if made.total != preview.total:
        raise CanaryFailed(f"the provider's invoice comes to {made.total}, and ours to {preview.total}")
