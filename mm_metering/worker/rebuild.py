"""Making anew what follows from the facts: cells in the ledger, counters in Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from mm_metering.backends.counters import START, Counters
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.core.audit import Act
from mm_metering.core.audited import HOUSE
from mm_metering.gate.generations import certify


class Rebuilt(NamedTuple):
    """How many tenants were folded anew, and how many of their cells were wrong."""

    tenants: int
    cells: int


async def rebuild_all(counters: Counters, ledger: Ledger, act: Act, progress: Callable[[int], None]) -> Rebuilt:
    """Folds every tenant's cells anew and gives each shard a new generation: its tenants load at their next takes."""
    tenants = cells = 0
    async for page in tenant_pages(ledger):
        for row in page:
            cells += await ledger.rebuild_cells(row.id, act=act)
            tenants += 1
            progress(tenants)
    for shard in range(counters.shards):
        seen = (await counters.read(shard, after=START, limit=1)).generation
        await certify(counters, ledger, shard, seen=seen)
    await ledger.add_audit([act.did("rebuilt", HOUSE, "", after={"tenants": tenants, "cells": cells})])
    return Rebuilt(tenants, cells)


async def rebuild_one(ledger: Ledger, tenant: str, act: Act, unload: Callable[[str], Awaitable[None]]) -> Rebuilt:
    """The same for one tenant; nobody else's counters are touched."""
    cells = await ledger.rebuild_cells(tenant, act=act)
    await unload(tenant)
    await ledger.add_audit([act.did("rebuilt", tenant, tenant, after={"cells": cells})])
    return Rebuilt(1, cells)
