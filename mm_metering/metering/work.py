"""Work: the worker's, and what is run by hand beside the app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from mm_metering.backends.work import DeadLetter
from mm_metering.core.identity import tenant_id
from mm_metering.metering.house import House
from mm_metering.proof import Proof, prove
from mm_metering.worker import dead_letters
from mm_metering.worker.rebuild import Rebuilt, rebuild_all, rebuild_one

CLOSE_MONTH = "close-month"


class Working(House):
    """What folds, mends and proves."""

    async def work(self, *, once: bool = False, stop: asyncio.Event | None = None, bills: bool = True) -> None:
        """What ``mm-metering worker`` runs: folds usage until ``stop`` is set, or ``once`` what is there. ``bills``
        False leaves it to others to close months and to send webhooks: for one that is not the app's own, with its
        currency, grace and tax.

        It applies the schema like ``startup`` but no plans: those are the app's to propose. Closes at the end. Raises
        StoreUnavailable where a store cannot be reached at the start; later it asks again.
        """
        if not bills:
            self._jobs.leave_out(CLOSE_MONTH)
            self._worker.webhooks = None
        try:
            await self.ledger.setup(apply=await self._may_apply())
            await self._drain.each()
            if once:
                await self._work_once()
            else:
                self.gate.start_chores()
                self.monitor.observe()
                await self._worker.run(stop or asyncio.Event())
        finally:
            await self.aclose()

    async def catch_up(self) -> None:
        """Does now all that a worker would: folds usage, runs the jobs that are due, tells alerts, sends webhooks."""
        await self.startup()
        await self._work_once()

    async def _work_once(self) -> None:
        await self.gate.adopt()
        await self._settle()
        await self._drain.fully()
        await self._jobs.once()
        await self._alerts.once()
        if self._worker.webhooks is not None:
            await self._worker.webhooks.drain()
            await self.gate.settle()
            await self._drain.fully()

    async def _expire_holds(self, _period: datetime, _fence: int) -> None:
        await self._drain.fully()
        await self.ai.holding.expire()

    @property
    def folded(self) -> int:
        """How many facts this process has folded into the ledger."""
        return self._drain.done.facts

    async def migrate(self) -> None:
        """Brings the ledger's schema to this release's, whatever ``apply`` says. Closes at the end."""
        try:
            await self.ledger.setup(apply=True)
        finally:
            await self.counters.aclose()
            await self.ledger.aclose()

    async def prove(self, *, tenants: bool = True, progress: Callable[[int], None] = lambda _: None) -> Proof:
        """Compares what every process acknowledged, what each shard has folded and what the cells hold. Unless
        ``tenants`` is False it also folds each tenant's facts anew, and makes each finalized invoice again from what it
        was made of; ``progress`` hears how many of these are done. Everything that can be folded is, before."""
        await self.ledger.setup(apply=False)
        await self.gate.adopt()
        await self._settle()
        await self._drain.fully()
        await self.gate.report()
        proof = await prove(
            self.ledger,
            shards=self.counters.shards,
            default_timezone=self.catalogue.timezone,
            tenants=tenants,
            progress=progress,
        )
        if not tenants:
            return proof
        invoices, wrong = await self._invoices.prove(lambda done: progress(proof.tenants + done))
        return proof._replace(invoices=invoices, wrong_invoices=wrong)

    async def rebuild(self, tenant: str | None = None, *, progress: Callable[[int], None] = lambda _: None) -> Rebuilt:
        """Makes anew what follows from the facts: the cells of a tenant, or of all, and all counters, which each tenant
        loads at its next request. Usage goes on meanwhile."""
        await self.ledger.setup(apply=False)
        await self._drain.fully()
        if tenant is None:
            return await rebuild_all(self.counters, self.ledger, self.act(), progress)
        await self.gate.adopt()
        await self._settle()
        return await rebuild_one(self.ledger, tenant_id(tenant), self.act(), self.gate.unload)

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """What could not be folded, in order. Closes at the end."""
        try:
            await self.ledger.setup(apply=False)
            async for page in dead_letters.every(self.ledger):
                for letter in page:
                    yield letter
        finally:
            await self.aclose()

    async def retry_dead_letters(self) -> tuple[int, int]:
        """Posts those again that are facts to this release; how many, and how many dead letters there are then. Closes
        at the end."""
        try:
            await self.ledger.setup(apply=await self._may_apply())
            tried = await dead_letters.retry(self.ledger, self.gate, self._drain, act=self.act)
            return tried, await self.ledger.count_dead_letters()
        finally:
            await self.aclose()
