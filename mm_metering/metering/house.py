"""The house: its parts, how it opens and closes, and what every subject needs of it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final, Literal, Self, TypeVar

import uuid_utils

from mm_metering import failpoints
from mm_metering.ai.budgets import Ai
from mm_metering.analytics import Analytics
from mm_metering.audit import AuditLog
from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.billing.collection import Collector
from mm_metering.billing.hooks import Hooks
from mm_metering.billing.inbox import Inbox
from mm_metering.billing.invoices import Invoices
from mm_metering.billing.payments import Payments
from mm_metering.billing.shadow import ShadowPlans
from mm_metering.billing.subscriptions import Subscriptions
from mm_metering.billing.usage_reporting import UsageReporting
from mm_metering.billing.whatif import WhatIf
from mm_metering.clock import Clock
from mm_metering.core.audit import Act
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.identity import tenant_id
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import MeteringError, StoreUnavailable
from mm_metering.gate.acting import act_now, acting
from mm_metering.gate.gate import Gate
from mm_metering.gate.journal_file import Directory
from mm_metering.gate.keyring import Keyring
from mm_metering.gate.loops import POLL_S
from mm_metering.gate.plans import PlanBook
from mm_metering.gate.portal import Portal
from mm_metering.gate.reconcile import Reconciler
from mm_metering.gate.recorder import Recorder
from mm_metering.logs import guard_logs
from mm_metering.middleware.callers import Callers
from mm_metering.middleware.doctor import Notes
from mm_metering.middleware.endpoint_guard import EndpointGuard
from mm_metering.middleware.routes import Resolver as HostRoutes
from mm_metering.privacy import SealedValues, TenantData
from mm_metering.telemetry.measures import Measures
from mm_metering.usage.adjusting import Adjusting
from mm_metering.usage.export import Export
from mm_metering.webhooks.endpoints import Webhooks
from mm_metering.worker.alerts import Alerts
from mm_metering.worker.checkup import check_processes
from mm_metering.worker.drain import Drain
from mm_metering.worker.jobs import Jobs
from mm_metering.worker.monitor import Monitor
from mm_metering.worker.processes import command_lines
from mm_metering.worker.runner import Worker
from mm_metering.worker.status import Lookout

log: Final = logging.getLogger("mm_metering")

T = TypeVar("T")
SETTLE_S = 10.0
"""Longest wait until what was acknowledged stands in the stream."""
SETTLE_WITH_JOURNAL_S = 2.0
"""The same at a shutdown that can leave it in a file."""


class House:
    """The parts, which ``Metering`` builds, and their life together. Each subject is a class on top of it."""

    # -- what the host has given
    catalogue: Catalogue
    clock: Clock
    grace: timedelta
    places: tuple[str, str]
    """Counters and ledger, for people to read."""
    _apply: Literal["auto", "always", "never"]
    _inline: bool
    """Whether the worker runs in this process."""
    _seals: bool
    """Whether there is a secret key."""

    # -- stores, and what decides
    counters: Counters
    ledger: Ledger
    plans: PlanBook
    gate: Gate
    _journal: Directory | None
    _drain: Drain
    _keyring: Keyring

    # -- the host's app
    notes: Notes
    callers: Callers
    endpoint_guard: EndpointGuard
    _hosts: list[HostRoutes]
    _apps: list[Any]

    # -- parts
    ai: Ai
    billing: Payments
    webhooks: Webhooks
    _recorder: Recorder
    _adjusting: Adjusting
    _export: Export
    _analytics: Analytics
    _subscriptions: Subscriptions
    _invoices: Invoices
    _what_if: WhatIf
    _shadow: ShadowPlans | None
    _collector: Collector | None
    _inbox: Inbox | None
    _reporting: UsageReporting | None
    _hooks: Hooks
    _alerts: Alerts
    _audit: AuditLog
    _sealed: SealedValues
    _tenant_data: TenantData

    # -- what works, and what looks at it
    reconciler: Reconciler
    monitor: Monitor
    _worker: Worker
    _jobs: Jobs
    _lookout: Lookout
    _measures: Measures

    # -- this life
    _open: bool
    _opening: asyncio.Task[None] | None
    _lock: threading.Lock
    _portal: Portal
    _soon: set[asyncio.Task[None]]
    """What goes on where its caller is cancelled."""
    _versions: dict[str, int]
    """Of each plan that was applied or found."""

    # -- it opens and closes

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shutdown()

    async def startup(self) -> None:
        """Opens the ledger and every shard, applies plans, starts the inline worker. A second call does nothing; one
        from another event loop meanwhile waits for the first, and opens it itself if that one failed or its loop ended.
        """
        while True:
            with self._lock:
                if self._open:
                    return
                if self._opening is None or self._opening.get_loop().is_closed():
                    self._opening = asyncio.create_task(self._start())
                opening = self._opening
            if opening.get_loop() is asyncio.get_running_loop():
                await asyncio.shield(opening)
            else:
                await asyncio.sleep(POLL_S)

    async def _start(self) -> None:
        guard_logs()  # by now what the stores and the provider need is loaded, with its loggers
        for found in check_processes(self.places, os.environ, command_lines()):
            log.warning("%s", found.text)
        try:
            await self._apply_plans()
            await self.gate.open()
            self.monitor.observe()
            if self._inline:
                self._worker.start()
            self._open = True
        finally:
            self._opening = None

    async def _apply_plans(self) -> None:
        apply = await self._may_apply()
        await self.ledger.setup(apply=apply)
        now_us, act = micros(self.clock.now()), self.act()
        self._versions |= await self.plans.apply(self.catalogue.plans, now_us=now_us, apply=apply, act=act)

    async def _may_apply(self) -> bool:
        return self._apply == "always" or (self._apply == "auto" and await self.ledger.may_apply())

    async def aclose(self) -> None:
        """Gives every connection back, where ``startup`` was never called."""
        await self.gate.aclose()
        await self.counters.aclose()
        await self.ledger.aclose()

    async def shutdown(self) -> None:
        """Writes everything acknowledged to the stream, folds it if this process is a worker, and closes. What a store
        that does not answer keeps from that stands in the journal's file; StoreUnavailable if there is none.
        """
        if not self._open:
            return
        self._open = False
        failpoints.reach("shutdown.before")
        await self.ai.holding.leave_off()
        trouble = await self._write_out()
        failpoints.reach("shutdown.after_settle")
        is_kept = await self.gate.aclose()
        await self.counters.aclose()
        await self.ledger.aclose()
        await asyncio.to_thread(self._portal.close)  # last: the stores gave back what they had on its loop
        if trouble is not None:
            if not is_kept or self._journal is None:
                raise trouble
            log.warning("shut down without a store; the next process goes on with %s: %s", self._journal.path, trouble)

    async def _write_out(self) -> StoreUnavailable | None:
        """Into the stream, and the ledger if this process is a worker; what hinders that."""
        try:
            await self._settle(within_s=SETTLE_S if self._journal is None else SETTLE_WITH_JOURNAL_S)
            await self.gate.report()
            await self._worker.aclose()
            if self._inline:
                await self._drain.fully()
        except StoreUnavailable as error:
            await self._worker.aclose()
            return error
        return None

    # -- what was acknowledged

    async def flush(self) -> None:
        """Does now what the worker does continuously: everything acknowledged before this call is in the ledger, on any
        event loop of this process, or by one that has ended and left a journal's file."""
        await self.startup()
        await self.gate.adopt()
        await self._settle()
        await self._drain.fully()
        await self.gate.report()

    async def _flush_of(self, tenant: str) -> None:
        """The same for one tenant: what hinders another shard does not concern it."""
        await self.startup()
        shard = self.gate.shard_of(tenant_id(tenant))
        await self._settle(shard=shard)
        await self._drain.fully(shard)

    async def _settle(self, *, shard: int | None = None, within_s: float = SETTLE_S) -> None:
        """Everything acknowledged in this process, or in this shard alone, is in the stream."""
        loop, soon = asyncio.get_running_loop(), [*self._soon]
        await asyncio.gather(*(task for task in soon if task.get_loop() is loop))
        while any(not task.done() and task.get_loop().is_running() for task in soon):  # noqa: ASYNC110 - of other loops
            await asyncio.sleep(POLL_S)
        await self.gate.settle(shard=shard, within_s=within_s)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that goes on where its caller is cancelled: done when ``flush`` or ``shutdown`` returns."""
        task = asyncio.get_running_loop().create_task(work)
        self._soon.add(task)
        task.add_done_callback(self._soon.discard)
        return task

    def from_sync(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs async work of this Metering for a caller that is not async, and waits. MeteringError on the thread of
        the loop that is opening it: that loop would stand still, and so never have opened it."""
        opening = self._opening
        if opening is not None and opening.get_loop() is _loop_here():
            raise MeteringError("a sync call came while this event loop opens: await metering.startup() before it")
        return self._portal.run(work)

    # -- what all ask

    def acting(self, actor: str, *, reason: str = "") -> AbstractContextManager[None]:
        """What is done in a ``with`` block is done by ``actor``, an opaque id rather than a name, and for this reason:
        so the audit log has it. "host" does what nobody is named for, "worker" what jobs do."""
        return acting(actor, reason=reason)

    def act(self) -> Act:
        """Who acts here, and why, for what writes to the ledger itself."""
        return act_now(self.clock, new_id)

    @property
    def summary(self) -> str:
        """One line: where it counts, where it keeps, and what the catalogue holds."""
        counters, ledger = self.places
        plans, meters = len(self.catalogue.plans), len(self.catalogue.meters)
        size = f"{plans} plan{'s' * (plans != 1)}, {meters} meter{'s' * (meters != 1)}"
        return f"metering: counters {counters}, ledger {ledger}, {size}"

    def _defaults(self) -> TenantDefaults:
        plan = self.catalogue.default_plan or ""
        return TenantDefaults(plan, self._versions.get(plan, 0), self.catalogue.timezone)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def new_id() -> str:
    return uuid_utils.uuid7().hex
