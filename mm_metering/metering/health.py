"""Health: how the house stands, and what the host should mend."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mm_metering.core.findings import Examined, Finding
from mm_metering.core.periods import micros
from mm_metering.errors import MeteringError
from mm_metering.metering.house import House
from mm_metering.middleware.doctor import check_apps, check_routes
from mm_metering.worker.checkup import Settings, check_house, check_journal, check_processes, check_settings
from mm_metering.worker.processes import command_lines, version_of
from mm_metering.worker.status import Status, settled
from mm_metering.worker.unpriced import check_models


class Checking(House):
    """What ``mm-metering status`` and ``doctor`` ask."""

    async def status(self) -> Status:
        """How the house stands now: workers, what waits and since when, jobs, dead letters, alerts, invoices. It reads
        little and changes nothing; asked again some seconds later it also knows which workers live. StoreUnavailable
        where the ledger does not answer."""
        if not self._open:
            await self.ledger.setup(apply=False)
        return await self._lookout.look(self.clock.now())

    async def check_up(self) -> list[Finding]:
        """What ``mm-metering doctor`` prints: the apps' routes and middlewares, what was noticed in this process, its
        settings, the stores, which it opens and closes unless they are open, and how the house stands."""
        settings = self._settings
        found = [*check_routes(self._hosts), *self.notes.findings(), *check_apps(self._apps, version_of)]
        found += [*check_processes(self.places, os.environ, command_lines()), *check_settings(settings, os.environ)]
        if not self._hosts:
            found.append(
                Finding("warn", "no app is installed: import the module that calls metering.install(app, ...)")
            )
        found += check_journal(self._journal)
        try:
            async with self._opened():
                found.append(Finding("ok", self.summary))
                found += await self._examine_stores()
                found += check_house(await self._known_status(), settings)
                found += await check_models(self.ledger, self.ai.insight, self.clock.now())
        except MeteringError as error:
            found.append(Finding("FAIL", str(error)))
        return found

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        """Open within the block, and afterwards as it was."""
        if self._open:
            yield
            return
        try:
            await self.startup()
        except MeteringError:
            await self.aclose()
            raise
        try:
            yield
        finally:
            await self.shutdown()

    async def _examine_stores(self) -> list[Finding]:
        now_us, stores = micros(self.clock.now()), (self.counters, self.ledger)
        return [each for store in stores if isinstance(store, Examined) for each in await store.examine(now_us=now_us)]

    async def _known_status(self) -> Status:
        """Whether workers live is looked at where that is not this process's own business."""
        return await (self.status() if self._inline else settled(self.status))

    @property
    def _settings(self) -> Settings:
        provider = self.billing.adapter if self.billing.has_adapter else None
        return Settings(
            self.places,
            worker_inside=self._inline,
            seals=self._seals,
            keeps_anchors=self._audit.keeps_anchors,
            provider=provider,
        )
