"""``assert_conserved``: at the end of a host's test, that no usage was lost, doubled or made up on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final

from mm_metering.backends.ledger import tenant_pages
from mm_metering.core.cells import CellSum
from mm_metering.gate.loops import POLL_S
from mm_metering.metering import Metering
from mm_metering.proof import prove_tenant

CONFIRM_S: Final = 10.0
"""How long the journal may take to hear that the ledger has what was acknowledged."""
SHOWN: Final = 20
"""Most differences that one error lists."""


async def assert_conserved(
    metering: Metering, *, tenants: Iterable[str] | None = None, told: Mapping[str, Mapping[str, int]] | None = None
) -> None:
    """Flushes, then holds every tenant's facts, cells and counters against each other; AssertionError lists each
    difference with its numbers.

    tenants  only these; every tenant of the ledger if absent
    told     what your test was told it used: by tenant, then by meter. Sums count over all time, a level as it stands

    Call it while nobody uses the Metering: what is counted meanwhile is a difference. It reads every fact.
    """
    expected = told or {}
    found = await _unconfirmed(metering)
    names = [*dict.fromkeys([*expected, *(tenants or ())])] if tenants is not None else await _every(metering, expected)
    for tenant in names:
        found += await _differences(metering, tenant, expected.get(tenant, {}))
    if found:
        more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise AssertionError("usage is not conserved:\n  " + "\n  ".join(found[:SHOWN]) + more)


async def _unconfirmed(metering: Metering) -> list[str]:
    """Flushes until the journal is empty: it hears now and then how far the ledger is, and of a Redis that has lost
    what stood in its stream."""
    try:
        async with asyncio.timeout(CONFIRM_S):
            await metering.flush()
            while metering.gate.journal_facts:
                await asyncio.sleep(POLL_S)
                await metering.flush()
    except TimeoutError:
        return [f"the journal holds {metering.gate.journal_facts:,} facts that the ledger did not confirm"]
    return []


async def _every(metering: Metering, told: Mapping[str, object]) -> list[str]:
    names = dict.fromkeys(told)
    async for page in tenant_pages(metering.ledger):
        names.update((row.id, None) for row in page)
    return [*names]


async def _differences(metering: Metering, tenant: str, told: Mapping[str, int]) -> list[str]:
    proof = await prove_tenant(metering.ledger, tenant, default_timezone=metering.catalogue.timezone)
    found = [
        f"{tenant}: cell {key.meter} of {key.day} ({key.resource}): "
        f"facts say {_numbers(facts_say)}, it holds {_numbers(holds)}"
        for key, holds, facts_say in proof.wrong
    ]
    if await metering.ledger.tenant(tenant) is not None:
        found += await _drifted(metering, tenant)
    cells = await metering.ledger.cells(tenant, first=date.min, last=date.max) if told else []
    for meter, units in told.items():
        used = sum(total.quantity for key, total, *_ in cells if key.meter == meter and not key.scope)
        if used != units:
            found.append(f"{tenant}: was told {units:,} of {meter}, the ledger holds {used:,}")
    return found


async def _drifted(metering: Metering, tenant: str) -> list[str]:
    """Counters that are loaded and not what the ledger says."""
    found = await metering.reconciler.drift(tenant)
    if found is None:
        return [f"{tenant}: its usage goes on, so its counters cannot be compared"]
    return [
        f"{tenant}: counter {field} stands at {counted:,}, the ledger says {in_ledger:,}"
        for field, counted, in_ledger in sorted(found)
    ]


def _numbers(cell: CellSum) -> str:
    cost = f", {cell.cost_nanos:,} nanos" if cell.cost_nanos else ""
    return f"{cell.quantity:,} in {cell.count:,} facts{cost}"
