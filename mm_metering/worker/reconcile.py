"""Now and then: are the counters of the tenants whose usage was folded what the ledger says?"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mm_metering.errors import MeteringError
from mm_metering.gate.reconcile import Reconciler
from mm_metering.worker.drain import Drain

log: Final = logging.getLogger("mm_metering.worker")

EVERY_S: Final = 60.0
PACE_S: Final = 0.01
"""Between two tenants: a pass never keeps a core busy."""
MOST: Final = 2_000
"""Most tenants of one pass; the others are looked at in those that follow."""


class Reconciling:
    """Looks at the tenants that ``drain`` folded since the last pass. What drifted is loaded anew and logged.

    ``checked`` and ``drifted`` count tenants, since the start; ``drift`` is by how many units the last pass was off.
    """

    def __init__(self, drain: Drain, reconciler: Reconciler) -> None:
        self._touched = drain.touched()
        self._reconciler = reconciler
        self.checked: int = 0
        self.drifted: int = 0
        self.drift: int = 0

    async def run(self) -> None:
        """A pass each minute, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
            except Exception:
                log.exception("reconcile: a pass met a bug; the next one comes")

    async def once(self) -> None:
        """One pass."""
        off = 0
        for tenant in self._touched.take(MOST):
            try:
                found = await self._reconciler.mend(tenant)
            except MeteringError as error:
                log.info("reconcile: a tenant was left out: %s", error)
                continue
            self.checked += 1
            if found:
                self.drifted += 1
                off += sum(abs(each.counted - each.in_ledger) for each in found)
                log.error("reconcile: counters of %r differed from the ledger and are loaded anew: %s", tenant, found)
            await asyncio.sleep(PACE_S)
        self.drift = off
