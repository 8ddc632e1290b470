"""The composition root: builds the parts, owns them, and forwards. It holds no logic of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack

import uuid_utils
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from mm_metering import catalogues, failpoints
from mm_metering.ai.budgets import Ai
from mm_metering.analytics import Analytics
from mm_metering.audit import ANCHOR_EVERY, AuditLog
from mm_metering.backends.collecting import Mute
from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.privacy import Forgotten
from mm_metering.backends.sql import open_ledger
from mm_metering.backends.urls import open_counters
from mm_metering.backends.webhooks import Claimed
from mm_metering.backends.work import DeadLetter
from mm_metering.billing.adapter import BillingAdapter, WebhookAdapter
from mm_metering.billing.change_preview import ChangePreview
from mm_metering.billing.collection import BillingRun, Collector
from mm_metering.billing.hooks import Hook, Hooks
from mm_metering.billing.inbox import MAX_BODY, Inbox
from mm_metering.billing.invoices import DocumentForm, Invoices, Progress, TaxService
from mm_metering.billing.payments import Payments
from mm_metering.billing.reconcile import Reconcile, Reconciliation
from mm_metering.billing.reporter import BillingMode, UsageReporter, reporter_of
from mm_metering.billing.shadow import ShadowPlans
from mm_metering.billing.subscriptions import Anchor, At, PaymentState, Subscriptions, Tenant
from mm_metering.billing.summary import BillingSummary, summary
from mm_metering.billing.usage_reporting import EVERY as REPORT_EVERY
from mm_metering.billing.usage_reporting import UsageReporting
from mm_metering.billing.whatif import WhatIf
from mm_metering.clock import Clock, default_clock, micros_of
from mm_metering.core import collecting
from mm_metering.core.alerting import RULES
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.audit_chain import AuditAnchor, AuditReport, Link
from mm_metering.core.books import Rules
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.collecting import Notice
from mm_metering.core.decision import Decision
from mm_metering.core.dunning import Dunning
from mm_metering.core.events import UsageEvent, aware, whole_quantity
from mm_metering.core.facts import Fact
from mm_metering.core.findings import Examined, Finding
from mm_metering.core.identity import tenant_id
from mm_metering.core.invoices import (
    Adjustment,
    BilledFact,
    CreditGrant,
    CreditKind,
    CreditNote,
    CreditScope,
    Discount,
    DiscountScope,
    Explanation,
    Invoice,
    InvoiceStatus,
)
from mm_metering.core.money import Amount
from mm_metering.core.periods import micros
from mm_metering.core.shadow_report import ShadowReport
from mm_metering.core.simulation import Simulation
from mm_metering.core.tenancy import TenantDefaults, plan_name
from mm_metering.core.usage import ResourceUse, UsageRange, UsageSnapshot
from mm_metering.core.whatif import Question
from mm_metering.errors import InvalidInput, MeteringError, StoreUnavailable, UnknownTenant, WebhookRefused
from mm_metering.gate.acting import act_now, acting
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.context import Bound, bind, bound_here, current
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.explaining import RequestExplanation, explained
from mm_metering.gate.gate import Gate
from mm_metering.gate.journal_place import journal_directory
from mm_metering.gate.keyring import Keyring
from mm_metering.gate.loops import POLL_S
from mm_metering.gate.overrides import UNMETERED, instead, override
from mm_metering.gate.plans import PlanBook
from mm_metering.gate.portal import Portal
from mm_metering.gate.reconcile import Reconciler
from mm_metering.gate.recorder import Outcome, Recorder, Tally
from mm_metering.gate.refusals import raise_if_refused
from mm_metering.gate.terms import Limits
from mm_metering.logs import guard_logs
from mm_metering.middleware import provider_webhook
from mm_metering.middleware.asgi import install
from mm_metering.middleware.callers import Callers, always, otherwise
from mm_metering.middleware.doctor import Notes, check_apps, check_routes
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules
from mm_metering.middleware.listing import Met, RouteList, list_routes, met
from mm_metering.middleware.matches import Costs
from mm_metering.middleware.routes import Resolver as HostRoutes
from mm_metering.middleware.shapes import HeaderStyle, Shape
from mm_metering.middleware.tenants import Found, Resolver, found_id
from mm_metering.privacy import KeyUse, Rotated, SealedValues, TenantData
from mm_metering.proof import Proof, prove
from mm_metering.telemetry.instruments import BILLING_DRIFT
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.options import Telemetry
from mm_metering.usage.adjusting import Adjusting, UsageAdjustment
from mm_metering.usage.backfill import BATCH, Backfill, BackfillTally, Events, left_out
from mm_metering.usage.export import Export
from mm_metering.vault import Vault
from mm_metering.webhooks.endpoints import Webhooks
from mm_metering.webhooks.guard import Rules as WebhookRules
from mm_metering.worker import dead_letters
from mm_metering.worker.alerts import Alerts
from mm_metering.worker.checkup import Settings, check_house, check_journal, check_processes, check_settings
from mm_metering.worker.drain import Drain
from mm_metering.worker.house_days import HouseDays
from mm_metering.worker.jobs import Job, Jobs
from mm_metering.worker.leases import Leases
from mm_metering.worker.monitor import Monitor
from mm_metering.worker.payments import collect_now, payment_jobs
from mm_metering.worker.processes import command_lines, version_of
from mm_metering.worker.rebuild import Rebuilt, rebuild_all, rebuild_one
from mm_metering.worker.reconcile import Reconciling
from mm_metering.worker.runner import Worker
from mm_metering.worker.shadow import EVERY, ShadowWatch
from mm_metering.worker.status import Lookout, Status, settled
from mm_metering.worker.unpriced import check_models
from mm_metering.worker.upkeep import upkeep
from mm_metering.worker.webhooks import webhook_jobs

if TYPE_CHECKING:
    from mm_metering.billing.documents import Party
    from mm_metering.dashboard.access import Auth

log = logging.getLogger("mm_metering")

T = TypeVar("T")
H = TypeVar("H", bound=Hook)
SETTLE_S = 10.0
"""Longest wait until what was acknowledged stands in the stream."""
SETTLE_WITH_JOURNAL_S = 2.0
"""The same at a shutdown that can leave it in a file."""
WEBHOOK_DELIVERY = "webhook_delivery"
CLOSE_MONTH = "close-month"
EXPIRE = "expire-holds"
ALERTS = "alerts"
ANCHOR = "audit-anchor"
SHADOW = "shadow"
REPORT_USAGE = "report-usage"
ENVIRONMENT = (
    "CATALOGUE",
    "COUNTERS",
    "LEDGER",
    "APPLY",
    "JOURNAL",
    "SHADOW",
    "BILLING_MODE",
    "SECRET_KEY",
    "AUDIT_ANCHORS",
)
STRIPE = ("API_KEY", "WEBHOOK_SECRET", "BASE_URL")


class Details(TypedDict, total=False):
    """What every record_* method takes beside what was used."""

    success: bool
    cost: Amount | None
    id: str | None
    occurred_at: datetime | None
    metadata: Mapping[str, Any] | None


class Metering:
    """Meters a host's API and AI usage, enforces quotas inline and bills for it.

    catalogue    a plans file, a dict or a Catalogue; the seed's three plans if absent
    counters     "memory://", "local://DIR", "redis://...", "redis+cluster://...", or an object that keeps the
                 ``Counters`` law
    ledger       "memory://", "sqlite:///file", "postgresql://...", or an object that keeps the ``Ledger`` law
    clock        where time comes from; a FrozenClock in tests
    worker       "auto": this process folds usage into the ledger with memory:// and local:// counters, and leaves it to
                 ``mm-metering worker`` with redis://; "inline" and "off" decide it
    apply        "auto": plans and schema are applied on memory and SQLite and to an empty database; elsewhere an
                 unapplied file or schema is refused with the command. "always" and "never" decide it
    grace        how long after a period's end late usage still joins it
    timing       how long a decision waits for the counters (0.05 s), and for a tenant that must be loaded first (2 s)
    journal      the directory of what must outlive this process while the counters do not answer. "auto": beside
                 ``local://`` counters or the SQLite ledger, else in the user's state directory; "off": nowhere
    tax          a tax service: called with a draft without tax, returns the taxes on it; without one each tenant's
                 ``tax_rate`` is taken
    shadow       plans that decide nothing, as a ``catalogue``: the worker looks what they would have decided, and
                 ``shadow_report`` says it
    billing      the payment provider behind ``metering.billing``: the worker sends it each finalized invoice
    dunning      how often a failed payment is tried again, and when its tenant is refused; ``Dunning()`` if absent

    billing_mode "invoice": we rate, the provider collects. "report": its subscriptions carry the plans' prices, and the
                 worker reports usage to its meters; our invoices are the record, and none is sent

    secret_key   the base64 of 32 bytes, which encrypt webhooks' secrets and, through a key of each tenant's own, what
                 may be personal; several with commas between, the newest first. Without one, webhooks need a
                 ``memory://`` ledger, and the rest stays in clear
    audit_anchors
                 a file that the worker appends to each hour where the audit log ends: keep it elsewhere
    webhook_rules
                 which URLs tenants' webhooks may have beyond https at public addresses
    endpoint_rules
                 what our own endpoints take of one client address; ``EndpointRules()`` if absent
    telemetry    what OpenTelemetry is told, and whether it may name tenants; ``Telemetry()`` if absent: it may not

    Opens at the host's start (``install``), with ``async with``, or at first use. Raises at once CatalogueError for a
    wrong catalogue or shadow and InvalidInput for a shadow that cannot be compared; StoreUnavailable where a store
    cannot be reached.
    """

    def __init__(
        self,
        catalogue: catalogues.Source = catalogues.seed,
        *,
        counters: str | Counters = "memory://",
        ledger: str | Ledger = "memory://",
        clock: Clock | None = None,
        worker: Literal["auto", "inline", "off"] = "auto",
        apply: Literal["auto", "always", "never"] = "auto",
        grace: timedelta = timedelta(hours=24),
        timing: Timing | None = None,
        journal: str | Path = "auto",
        tax: TaxService | None = None,
        shadow: catalogues.Source | None = None,
        billing: BillingAdapter | None = None,
        dunning: Dunning | None = None,
        billing_mode: BillingMode = "invoice",
        secret_key: str | None = None,
        webhook_rules: WebhookRules | None = None,
        audit_anchors: str | Path | None = None,
        endpoint_rules: EndpointRules | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        measures = self._measures = Measures(telemetry)
        self.catalogue: Catalogue = catalogues.load(catalogue)
        self.clock: Clock = clock or default_clock()
        self.grace = grace
        self.places = (_place(counters), _place(ledger))
        self.counters = open_counters(counters, frozen=self.clock.frozen) if isinstance(counters, str) else counters
        self.ledger = open_ledger(ledger) if isinstance(ledger, str) else ledger
        self._apply = apply
        self._versions: dict[str, int] = {}
        self._opening: asyncio.Task[None] | None = None
        self._open = False
        self._lock = threading.Lock()
        self._portal = Portal()
        self.notes = Notes(measures)
        self.endpoint_guard = EndpointGuard(
            endpoint_rules or EndpointRules(), now_s=lambda: self.clock.now().timestamp()
        )
        self.callers = Callers()
        self._hosts: list[HostRoutes] = []
        self._apps: list[Any] = []
        self._soon: set[asyncio.Task[None]] = set()
        self._journal = journal_directory(journal, counters=_url(counters), ledger=_url(ledger))
        plans = self.plans = PlanBook(self.ledger, proration=self.catalogue.changes.proration)
        self._drain = Drain(self.counters, self.ledger, self._defaults, now_us=micros_of(self.clock))
        self.gate = Gate(
            self.counters,
            self.ledger,
            catalogue=self.catalogue,
            plans=plans,
            clock=self.clock,
            drain=self._drain,
            new_id=_new_id,
            defaults=self._defaults,
            timing=timing,
            journal=self._journal,
            measures=measures,
            store=self.places[0].partition(":")[0],
        )
        vault, keyring = self._locks(secret_key, ephemeral=_url(ledger) == "memory://")
        self._audit = AuditLog(self.ledger, clock=self.clock, keys=vault.derived("audit"), anchors=audit_anchors)
        self._recorder = Recorder(
            self.gate, self.ledger, catalogue=self.catalogue, clock=self.clock, new_id=_new_id, keyring=keyring
        )
        self._export = Export(self.ledger, keyring)
        self._adjusting = Adjusting(
            self.gate, self.ledger, catalogue=self.catalogue, clock=self.clock, new_id=_new_id, act=self.act
        )
        self._analytics = Analytics(self.ledger, catalogue=self.catalogue, clock=self.clock)
        self._invoices = Invoices(
            self.ledger,
            rules=Rules(self.catalogue.currency, grace=grace),
            plans=plans,
            clock=self.clock,
            new_id=_new_id,
            tax=tax,
        )
        self.ai = Ai(
            self.gate,
            catalogue=self.catalogue,
            clock=self.clock,
            startup=self.startup,
            keep=self._keep,
            from_sync=self.from_sync,
            override=self.override_plan,
            flush=self._flush_of,
            flush_all=self._drain.fully,
            tell=self._told,
            ledger=self.ledger,
            measures=measures,
        )
        self._what_if = WhatIf(self.ledger, plans=plans, catalogue=self.catalogue)
        self._shadow = None if shadow is None else self._shadow_of(catalogues.load(shadow))
        self._subscriptions = Subscriptions(
            self.gate,
            self.ledger,
            catalogue=self.catalogue,
            plans=plans,
            clock=self.clock,
            defaults=self._defaults,
            versions=lambda: self._versions,
            act=self.act,
            own_prices=billing_mode == "invoice",
        )
        self.billing = Payments(
            billing,
            ledger=self.ledger,
            subscriptions=self._subscriptions,
            catalogue=self.catalogue,
            usage=self,
            act=self.act,
        )
        self.webhooks = Webhooks(
            self.ledger,
            clock=self.clock,
            vault=vault,
            keyring=keyring,
            rules=webhook_rules or WebhookRules(),
            startup=self.startup,
            check_plan=self._may_have_webhooks,
            record=self._meter_delivery,
            new_id=_new_id,
            measures=measures,
        )
        self._hooks = Hooks(self.ledger, clock=self.clock)
        self._collector: Collector | None = None
        self._inbox: Inbox | None = None
        if billing is not None:
            _check_currency(billing, self.catalogue)
            self._collect_through(billing, billing_mode, dunning or Dunning())
        self._reporting = self._reporting_to(reporter_of(billing, billing_mode, self.catalogue))
        self._alerts = Alerts(
            self.ledger,
            self.gate,
            self.ai.insight,
            self._hooks,
            self._drain.touched(),
            clock=self.clock,
            monitor=lambda: self.monitor,
            measures=measures,
        )
        self._inline = worker == "inline" or (worker == "auto" and _is_embedded(counters))
        self._work_through(measures)

    def _work_through(self, measures: Measures) -> None:
        """What a worker needs, also where this process is none."""
        leases = Leases(self.ledger, worker=_new_id(), shards=self.counters.shards)
        watch = None if self._shadow is None else ShadowWatch(self.ledger, self._shadow, now=self.clock.now)
        blocks: Mapping[str, int] = {} if watch is None else watch.blocks
        now_us = micros_of(self.clock)
        self._jobs = Jobs(self.ledger, [*self._all_jobs(watch)], worker=leases.worker, now_us=now_us, measures=measures)
        self.reconciler = Reconciler(self.counters, self.ledger, self.gate, self._drain, now_us=now_us)
        self._worker = Worker(
            self._drain,
            leases,
            self._jobs,
            Reconciling(self._drain, self.reconciler),
            alerts=self._alerts,
            webhooks=self.webhooks.dispatcher,
            shards=self.counters.shards,
        )
        self.monitor = Monitor(
            self.counters,
            self.ledger,
            self._drain,
            self._worker,
            files=None if self._journal is None else self._journal.count,
            shadowed=lambda: blocks,
            measures=measures,
        )
        self._lookout = Lookout(
            self.counters, self.ledger, places=self.places, journal=self._journal, close_job=CLOSE_MONTH
        )

    def _locks(self, secret_key: str | None, *, ephemeral: bool) -> tuple[Vault, Keyring]:
        """What seals, and what knows tenants' keys; and what is done with both."""
        self._seals = bool(secret_key)
        vault = Vault.of(secret_key, ephemeral=ephemeral)
        keyring = self._keyring = Keyring(self.ledger, vault, is_on=bool(secret_key))
        self._sealed = SealedValues(self.ledger, vault)
        self._tenant_data = TenantData(
            self.ledger,
            self.counters,
            self.gate,
            keyring=keyring,
            clock=self.clock,
            flush=self._adopt_and_flush,
            end_holds=self._end_holds,
            delete_customer=self._delete_customer,
            act=self.act,
        )
        return vault, keyring

    def _reporting_to(self, reporter: UsageReporter | None) -> UsageReporting | None:
        if reporter is None:
            return None
        return UsageReporting(reporter, self.ledger, plans=self.plans, clock=self.clock, new_id=_new_id)

    def _collect_through(self, billing: BillingAdapter, mode: BillingMode, dunning: Dunning) -> None:
        collector = self._collector = Collector(
            billing,
            self.ledger,
            self.gate,
            clock=self.clock,
            dunning=dunning,
            sends=mode == "invoice",
            new_id=_new_id,
            measures=self._measures,
        )
        if isinstance(billing, WebhookAdapter):
            self._inbox = Inbox(billing, self.ledger, collector, clock=self.clock, prices_there=mode == "report")

    def _all_jobs(self, watch: ShadowWatch | None) -> Iterator[Job]:
        yield from upkeep(self.ledger)
        yield from webhook_jobs(self.ledger)
        yield from HouseDays(self.ledger, now_us=micros_of(self.clock)).jobs()
        yield Job(ALERTS, timedelta(hours=1), self._alerts.every)
        yield Job(ANCHOR, ANCHOR_EVERY, self._audit.keep_anchor)
        yield Job(EXPIRE, timedelta(minutes=1), self._expire_holds)
        yield Job(CLOSE_MONTH, timedelta(days=1), self._close_last_month, catch_up=62)
        if watch is not None:
            yield Job(SHADOW, EVERY, watch.run)
        if self._collector is not None:
            yield from payment_jobs(self._collector, self._inbox, self._hooks, self.ledger)
        if self._reporting is not None:
            yield Job(REPORT_USAGE, REPORT_EVERY, self._report_usage)

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Built from MM_METERING_CATALOGUE, _COUNTERS, _LEDGER, _APPLY, _JOURNAL, _SHADOW, _BILLING_MODE and
        _SECRET_KEY, and _DEADLINE_MS for one decision; with _STRIPE_API_KEY (and _STRIPE_WEBHOOK_SECRET) billed through
        Stripe.

        ``options`` win over them.
        """
        found: dict[str, Any] = {name.lower(): os.environ.get(f"MM_METERING_{name}") for name in ENVIRONMENT}
        deadline_ms = os.environ.get("MM_METERING_DEADLINE_MS", "")
        if deadline_ms:
            found["timing"] = Timing.of_ms(deadline_ms)
        stripe = {name.lower(): os.environ.get(f"MM_METERING_STRIPE_{name}") for name in STRIPE}
        if stripe["api_key"] and "billing" not in options:
            from mm_metering.billing.stripe import StripeBillingAdapter

            catalogue = catalogues.load(options.get("catalogue") or found["catalogue"] or catalogues.seed)
            given: dict[str, Any] = {name: value for name, value in stripe.items() if value}
            if mode := options.get("billing_mode") or found["billing_mode"]:
                given["billing_mode"] = mode
            found["billing"] = StripeBillingAdapter(**given, currency=catalogue.currency)
        return cls(**{name: value for name, value in found.items() if value} | options)

    # -- life ---------------------------------------------------------------------------------------------------------

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

    async def aclose(self) -> None:
        """Gives every connection back, where ``startup`` was never called."""
        await self.gate.aclose()
        await self.counters.aclose()
        await self.ledger.aclose()

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

    async def migrate(self) -> None:
        """Brings the ledger's schema to this release's, whatever ``apply`` says. Closes at the end."""
        try:
            await self.ledger.setup(apply=True)
        finally:
            await self.counters.aclose()
            await self.ledger.aclose()

    @property
    def folded(self) -> int:
        """How many facts this process has folded into the ledger."""
        return self._drain.done.facts

    async def _may_apply(self) -> bool:
        return self._apply == "always" or (self._apply == "auto" and await self.ledger.may_apply())

    async def _apply_plans(self) -> None:
        apply = await self._may_apply()
        await self.ledger.setup(apply=apply)
        now_us, act = micros(self.clock.now()), self.act()
        self._versions |= await self.plans.apply(self.catalogue.plans, now_us=now_us, apply=apply, act=act)

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

    def _defaults(self) -> TenantDefaults:
        plan = self.catalogue.default_plan or ""
        return TenantDefaults(plan, self._versions.get(plan, 0), self.catalogue.timezone)

    # -- the host's app -----------------------------------------------------------------------------------------------

    def install(
        self,
        app: Any,
        *,
        tenant: Resolver | None,
        exempt: Iterable[str] = (),
        headers: HeaderStyle = "standard",
        error_shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        """Adds the middleware to a Starlette or FastAPI app, innermost whatever the order of calls, the lifespan, and
        what operations cost to its OpenAPI.

        ``tenant`` finds the tenant's id in a request: ``from_header("x-org-id")``, or any callable on the scope; None
        where a dependency calls ``identify``. The other options are those of ``MeteringMiddleware``.
        """
        options: Any = {"exempt": exempt, "headers": headers, "error_shapes": error_shapes}
        self._hosts.append(install(app, metering=self, tenant=tenant, **options))
        self._apps.append(app)

    def dashboard(self, auth: Auth | None = None) -> ASGIApp:
        """What the people who run this look at, as ``app.mount("/metering", metering.dashboard(auth=...))``.

        ``auth`` is called with each request and answers who that is: a ``Visitor``, a role ("viewer", "finance",
        "operator"), several, None for nobody, or a Response such as a redirect to a login; it may be async, and may
        raise an HTTPException. Without it the pages are the developer's own: for requests of this machine, and only
        where counters and ledger are too. Else InvalidInput. MissingExtra without ``server``.
        """
        from mm_metering.dashboard.app import dashboard

        return dashboard(self, auth)

    def portal(
        self, tenant: Resolver, *, frames: Iterable[str] = (), read_only: bool = False, name: str = "Usage"
    ) -> ASGIApp:
        """What one tenant sees of itself, as ``app.mount("/usage", metering.portal(tenant=...))``: its limits, usage,
        invoices and webhooks, each as a page and, with ``.json`` behind it, as JSON.

        ``tenant`` finds who asks, like that of ``install``. ``frames``: the origins that may show it in a frame.
        ``read_only``: webhooks can be seen and not changed. MissingExtra without ``server``.
        """
        from mm_metering.dashboard.app import portal

        return portal(self, tenant, frames=tuple(frames), read_only=read_only, name=name)

    async def identify(self, tenant: Found) -> None:
        """Says in a dependency for whom the request runs, where ``install(tenant=None)`` left it open, and decides it
        there. A refusal ends the request with its answer; None or a tenant that is not known is 401."""
        found = found_id(tenant)
        if found is None:
            raise UnknownTenant("identify: nobody is known by that; the request is refused")
        await self.startup()
        await bound_here().identify(found)

    def bind(self, tenant: str) -> AbstractContextManager[Bound]:
        """Runs a block for a tenant, outside of a request: jobs, scripts."""
        return bind(self, tenant)

    @contextmanager
    def override(
        self,
        *,
        tenant: str | None = None,
        plan: str | None = None,
        limits: Limits | None = None,
        allow: bool = False,
        deny: str | None = None,
        disabled: bool = False,
    ) -> Iterator[None]:
        """For tests: what is otherwise within a block, for all threads of this process. Nothing of it is written.

        tenant    who calls, whatever a request shows, also what ``identify`` is told
        plan      the plan that every tenant is on
        limits    by meter: a number in the longest window that the plan has for it, None for unlimited, or limits as
                  a plan has them: ``{"reports": 0, "api_calls": {"limit": 5, "per": "minute"}}``
        allow     nothing is refused, and all is counted
        deny      each take is refused for a reason, such as "quota-exceeded", and nothing is counted
        disabled  all passes, and nothing is counted or recorded; callers need not be known

        Blocks may be nested. InvalidInput for what contradicts itself.
        """
        with ExitStack() as stack:
            if tenant is not None:
                stack.enter_context(self._called_by(tenant_id(tenant)))
            if disabled:
                stack.enter_context(self.callers.instead(otherwise(UNMETERED)))
            stack.enter_context(
                override(
                    self.gate,
                    self.catalogue,
                    now=self.clock.now,
                    plan=plan,
                    limits=limits,
                    allow=allow,
                    deny=deny,
                    disabled=disabled,
                )
            )
            yield

    @contextmanager
    def _called_by(self, tenant: str) -> Iterator[None]:
        own = self.identify

        async def identify(_: Found) -> None:
            await own(tenant)

        with self.callers.instead(always(tenant)), instead(self, {"identify": identify}):
            yield

    def current(self) -> Bound:
        """What is bound here, in a request or a ``bind`` block: its tenant, and ``add(meter, quantity)``."""
        return current()

    @property
    def summary(self) -> str:
        """One line: where it counts, where it keeps, and what the catalogue holds."""
        counters, ledger = self.places
        size = f"{len(self.catalogue.plans)} plans, {len(self.catalogue.meters)} meters"
        return f"metering: counters {counters}, ledger {ledger}, {size}"

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

    async def status(self) -> Status:
        """How the house stands now: workers, what waits and since when, jobs, dead letters, alerts, invoices. It reads
        little and changes nothing; asked again some seconds later it also knows which workers live. StoreUnavailable
        where the ledger does not answer."""
        if not self._open:
            await self.ledger.setup(apply=False)
        return await self._lookout.look(self.clock.now())

    # -- what the middleware and the decorators call ------------------------------------------------------------------

    def take(self, tenant: str, wishes: Sequence[Wish]) -> Coroutine[Any, Any, Admission]:
        """Counts all wishes or none."""
        return self.gate.take(tenant, wishes) if self._open else self._take_when_open(tenant, wishes)

    async def _take_when_open(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        await self.startup()
        return await self.gate.take(tenant, wishes)

    async def reverse(self, admission: Admission, *, meters: Collection[str] | None = None) -> None:
        """Takes back what an admission counted, in these meters or in all."""
        await self.gate.reverse(admission, meters=meters)

    async def add(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """States that this was used: never refused for a quota."""
        await self.startup()
        await self.gate.add(tenant, wishes)

    def add_soon(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """The same from code that cannot wait: done when ``flush`` or ``shutdown`` returns."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.from_sync(lambda: self.add(tenant, wishes))
        else:
            self._keep(self.add(tenant, wishes))

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

    # -- limits -------------------------------------------------------------------------------------------------------

    async def check_limit(self, tenant: str, meter: str, quantity: int = 1, *, resource: str | None = None) -> Decision:
        """Whether ``quantity`` more of a meter would be allowed now. Truthy if so; consumes nothing."""
        return await self._decide(tenant, meter, quantity, resource, look=True)

    async def explain_request(
        self, tenant: str, *, route: str | None = None, meter: str | None = None, quantity: int = 1
    ) -> RequestExplanation:
        """Why a request would be allowed or refused now: each limit with its numbers and a sentence. Truthy if allowed;
        it consumes nothing, and makes no tenant.

        ``route``, such as "POST /v1/reports", is what that uses, times ``quantity``; ``meter`` so many of one meter;
        neither: so many of each meter that has a limit. InvalidInput for both or a route that no app has.
        """
        if route is not None and meter is not None:
            raise InvalidInput("route", "or meter may be named, and not both")
        await self.startup()
        if await self.ledger.tenant(tenant_id(tenant)) is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant or its first request makes it")
        at = None if route is None else met(self._hosts, route)
        groups = self._groups(at, meter, whole_quantity(quantity))
        looks = [await self.gate.take(tenant, wishes, look=True) for wishes in groups]
        return explained(tenant, looks, now=self.clock.now(), asked=self._asked(groups), at=at)

    def _groups(self, at: Met | None, meter: str | None, quantity: int) -> Sequence[tuple[Wish, ...]]:
        """What is looked at together: a route's wishes, else each meter by itself."""
        if at is not None:
            return [tuple(each._replace(quantity=each.quantity * quantity) for each in at.wishes)]
        names = [self.catalogue.meter(meter).name] if meter else [*self.catalogue.meters]
        return [(Wish("", "", quantity, meter=name),) for name in names]

    def _asked(self, groups: Sequence[tuple[Wish, ...]]) -> dict[str, int]:
        by_meter, costs = dict[str, int](), Costs(self.catalogue)
        for wishes in groups:
            by_meter = costs.by_meter(wishes) | by_meter
        return by_meter

    @property
    def apps(self) -> Sequence[ASGIApp]:
        """What it is installed on, in that order."""
        return tuple(self._apps)

    def list_routes(self) -> RouteList:
        """The apps' routes: what each costs, which are exempt, and which patterns match nothing."""
        return list_routes(self._hosts)

    async def enforce_quota(
        self, tenant: str, meter: str, quantity: int = 1, *, resource: str | None = None
    ) -> Decision:
        """Consumes ``quantity`` of a meter, or raises the Refused that fits (QuotaExceeded, BudgetExceeded,
        FeatureNotInPlan) and consumes nothing. A level goes up; ``release`` takes off again."""
        decision = await self._decide(tenant, meter, quantity, resource, look=False)
        raise_if_refused((decision,), self.clock.now())
        return decision

    async def _decide(self, tenant: str, meter: str, quantity: int, resource: str | None, *, look: bool) -> Decision:
        await self.startup()
        wish = Wish("", resource or "", whole_quantity(quantity), meter=self.catalogue.meter(meter).name)
        admission = await self.gate.take(tenant, (wish,), look=look)
        return admission.on(meter, quantity)

    async def release(self, tenant: str, meter: str, quantity: int = 1) -> None:
        """Takes ``quantity`` off a level such as users; it never falls below 0."""
        await self.startup()
        await self._recorder.release(tenant, meter, quantity)

    async def set_level(
        self, tenant: str, meter: str, value: int, *, resource: str | None = None, occurred_at: datetime | None = None
    ) -> None:
        """States a level as it is, 0 to 2**40. Never refused; a statement older than the last changes nothing now."""
        await self.startup()
        await self._recorder.set_level(tenant, meter, value, resource=resource, occurred_at=occurred_at)

    # -- alerts -------------------------------------------------------------------------------------------------------

    async def check_alerts(self, tenant: str | None = None) -> list[Notice]:
        """What the worker does every two seconds: looks what the usage that was folded here came to, or that of one
        tenant, and tells what was not told yet. Hooks of it are called."""
        if tenant is None:
            await self.flush()
            return await self._alerts.once()
        await self._flush_of(tenant_id(tenant))
        return await self._alerts.look([tenant])

    async def list_alerts(self, *, tenant: str | None = None, limit: int = 1000) -> list[Notice]:
        """What was told in the last 40 days, the newest first: usage alerts, and those of the house."""
        await self.startup()
        return [each for each in await self.ledger.notices(tenant=tenant, limit=limit) if each.type in RULES]

    async def _told(self, notices: Sequence[Notice]) -> None:
        await self._alerts.tell(notices)

    async def test_alert(self, tenant: str) -> Notice:
        """Tells an alert that means nothing, as any other is told. It is never muted by a rule of usage."""
        await self.startup()
        notice = Notice(_new_id(), tenant_id(tenant), "alert.test", {"what": "a test"}, self.clock.now())
        await self._alerts.tell([notice])
        await self._hooks.run()
        return notice

    async def mute_alerts(self, rule: str, *, tenant: str = "*", until: datetime | str) -> None:
        """Tells nothing by a rule ("quota", "worker.lag", "*" for each) of a tenant, or of all, until then.
        InvalidInput for a rule that there is not, and an instant without a zone."""
        known = (*sorted({*RULES.values()}), "*")
        if rule not in known:
            raise InvalidInput("rule", f"{rule[:60]!r} is no rule; known: {', '.join(known)}")
        await self.startup()
        mute = Mute(rule, tenant if tenant == "*" else tenant_id(tenant), micros(aware(until, "until")))
        await self.ledger.put_mute(mute, act=self.act())

    async def list_mutes(self) -> list[Mute]:
        """Those that hold now."""
        await self.startup()
        return await self.ledger.mutes(micros(self.clock.now()))

    # -- payment ------------------------------------------------------------------------------------------------------

    async def stripe_webhook(self, request: Request) -> Response:
        """The endpoint for the payment provider's webhooks, as ``app.add_route("/webhooks/stripe",
        metering.stripe_webhook, methods=["POST"])``. It verifies, stores and answers; the worker acts. It is never
        metered; ``endpoint_rules`` say how often one address may ask."""
        if (refusal := self.endpoint_guard.refusal(request.scope)) is not None:
            return refusal
        await self.startup()
        return await provider_webhook.answer(request, self._take_webhook, max_body=MAX_BODY)

    async def _take_webhook(self, body: bytes, headers: Mapping[str, str]) -> bool:
        if self._inbox is None:
            raise WebhookRefused("there is no payment provider that sends webhooks: Metering(billing=...)")
        return await self._inbox.take(body, headers)

    def on(self, type: str) -> Callable[[H], H]:
        """Calls a function (def or async def) with each ``Notice`` of a type, or of "*", in the process that works:
        at least once, in order while none fails. ``@metering.on("payment.succeeded")``. InvalidInput for a type that
        there is not."""

        self._hooks.check(type)

        def add(hook: H) -> H:
            self._hooks.add(type, hook)
            return hook

        return add

    async def collect(self, *, progress: Progress = lambda _: None) -> BillingRun:
        """What the worker does every ten seconds: follows webhooks, sends finalized invoices to the payment provider,
        has them paid, and calls hooks. ``progress`` is told how many invoices are done. InvalidInput without a
        provider."""
        await self.startup()
        return await collect_now(self._collecting(), self._inbox, self._hooks, progress)

    async def list_payments(
        self, *, tenant: str | None = None, period: str | None = None, state: collecting.CollectionState | None = None
    ) -> list[collecting.Collection]:
        """What became of invoices at the payment provider: the first 1,000, by the invoice's id."""
        await self.startup()
        return await self.ledger.collections(tenant=tenant, period=period, state=state)

    async def retry_payment(self, invoice_id: str, *, tenant: str | None = None) -> collecting.Collection:
        """Has it paid at the next ``collect``: also what is parked, and what waits for another day."""
        await self._asks_for(invoice_id, tenant)
        return await self._collecting().retry(invoice_id)

    async def reconcile_payments(
        self, period: str, *, apply: bool = False, progress: Progress = lambda _: None
    ) -> Reconciliation:
        """A month's invoices against those at the payment provider, line by line. Nothing is changed, unless ``apply``:
        then payment states follow the provider, and what was never sent is. ``progress`` is told how many invoices are
        done."""
        await self.startup()
        collector, adapter = self._collecting(), self.billing.adapter
        if not isinstance(adapter, WebhookAdapter):
            raise InvalidInput("billing", f"{type(adapter).__name__} cannot list its invoices")
        found = await Reconcile(adapter, self.ledger, collector).look(period, apply=apply, progress=progress)
        self._measures.answer(BILLING_DRIFT, lambda: [("", len(found.drift))])
        return found

    def _collecting(self) -> Collector:
        if self._collector is None:
            raise InvalidInput("billing", "is not set: Metering(billing=StripeBillingAdapter(...))")
        return self._collector

    # -- the audit log ------------------------------------------------------------------------------------------------

    def acting(self, actor: str, *, reason: str = "") -> AbstractContextManager[None]:
        """What is done in a ``with`` block is done by ``actor``, an opaque id rather than a name, and for this reason:
        so the audit log has it. "host" does what nobody is named for, "worker" what jobs do."""
        return acting(actor, reason=reason)

    def act(self) -> Act:
        """Who acts here, and why, for what writes to the ledger itself."""
        return act_now(self.clock, _new_id)

    async def list_audit(self, *, tenant: str | None = None, limit: int = 1000) -> Sequence[AuditEntry]:
        """The newest first. ``tenant``: its own alone; "" what concerns the house, such as plans."""
        await self.startup()
        return await self.ledger.audit(tenant=tenant, limit=limit)

    async def audit_anchor(self) -> AuditAnchor | None:
        """Where the audit log ends now: keep it where who may write to the ledger may not, for ``verify_audit``. None
        before the first entry."""
        await self.startup()
        return await self._audit.anchor()

    async def verify_audit(
        self, *, anchors: Iterable[str | AuditAnchor] = (), progress: Progress = lambda _: None
    ) -> AuditReport:
        """Whether each entry is what was written, where it was written. ``anchors``, each as ``str(audit_anchor())`` or
        a text that holds many, also show what was cut off at the end, or an older copy of the ledger. It opens nothing
        but the ledger; ``progress`` is told how many entries are done."""
        return await self._audit.verify(anchors, progress)

    def export_audit(
        self, *, start: datetime | str | None = None, end: datetime | str | None = None
    ) -> AsyncIterator[Link]:
        """The entries of [start, end) in the order in which they were written, with what chains them."""
        first, past = (None if at is None else aware(at, name) for at, name in ((start, "start"), (end, "end")))
        return self._audit.export(first, past)

    # -- webhooks that go out -----------------------------------------------------------------------------------------

    async def _may_have_webhooks(self, tenant: str) -> None:
        """FeatureNotInPlan where the plan's limit of deliveries is 0."""
        for meter in self._delivery_meters():
            decision = await self.check_limit(tenant, meter)
            if decision.reason == "feature-not-in-plan":
                raise_if_refused((decision,), self.clock.now())

    async def _meter_delivery(self, each: Claimed) -> None:
        """Once, however often it is said."""
        if self._delivery_meters():
            name, place = each.delivery.id, each.endpoint.id
            tenant, type_ = each.delivery.tenant, WEBHOOK_DELIVERY
            await self._recorder.record(UsageEvent(tenant=tenant, event_type=type_, resource=place, id=name))

    def _delivery_meters(self) -> list[str]:
        return [meter.name for meter in self.catalogue.meters.values() if meter.event == WEBHOOK_DELIVERY]

    # -- keys, and what is kept of tenants ----------------------------------------------------------------------------

    async def list_keys(self) -> list[KeyUse]:
        """How many stored values each key has sealed: the newest first, those that are missing here last."""
        await self.startup()
        return await self._sealed.keys()

    async def rotate_keys(self, *, progress: Progress = lambda _: None) -> Rotated:
        """Seals anew under the newest ``secret_key`` what older ones have sealed; apps go on meanwhile, and it may be
        run again at any time. ``progress`` is told how many are done."""
        await self.startup()
        done = await self._sealed.rotate(progress)
        await self.ledger.add_audit([self.act().did("keys rotated", "", "secret_key", detail=f"{done.values} values")])
        return done

    async def export_tenant(self, tenant: str) -> AsyncIterator[Mapping[str, Any]]:
        """All that is kept of a tenant: one mapping for each thing, which its "kind" names, secrets left out."""
        await self.startup()
        async for each in self._tenant_data.export(tenant):
            yield each

    async def forget_tenant(self, tenant: str, *, reason: str) -> Forgotten:
        """Cancels a tenant for good and destroys what is personal of it; invoices, their usage and the audit log stay,
        under its id. ``reason`` stands in the audit log, and should name nobody. The provider's customer is deleted
        unless an invoice is on its way to be paid. It may be run again. See docs/privacy.md."""
        await self.startup()
        return await self._tenant_data.forget(tenant, reason)

    async def _adopt_and_flush(self, tenant: str) -> None:
        await self.gate.adopt()
        await self._flush_of(tenant)

    async def _end_holds(self, holds: Iterable[Fact]) -> None:
        await self.ai.holding.end(holds)

    async def _delete_customer(self, customer: str) -> None:
        if self.billing.has_adapter:
            await self.billing.delete_customer(customer)

    # -- usage that a payment provider multiplies ---------------------------------------------------------------------

    async def report_usage(self, *, parked: bool = False) -> int:
        """Tells the payment provider now what the worker tells it every ten minutes: the units past the allowances that
        it was not told yet. How many reports were sent; ``parked``: also those that were refused before. Raises the
        provider's error if it does not answer; the next call goes on. InvalidInput unless ``billing_mode`` is
        "report"."""
        if self._reporting is None:
            raise InvalidInput("billing_mode", 'is "invoice": we rate, and nothing is reported')
        await self.flush()
        return await self._reporting.run(parked=parked)

    async def _report_usage(self, _period: datetime, _fence: int) -> None:
        assert self._reporting is not None
        await self._reporting.run()

    # -- usage --------------------------------------------------------------------------------------------------------

    async def record(self, event: UsageEvent) -> Outcome:
        """Records a fact: never refused for a quota. "duplicate" if its id was recorded before with the same payload;
        EventConflict for another."""
        await self.startup()
        return await self._recorder.record(event)

    async def record_many(self, events: Iterable[UsageEvent]) -> Tally:
        """Records many; all are checked first. Answers (recorded, duplicates, conflicts)."""
        await self.startup()
        return await self._recorder.record_many(events)

    async def adjust_usage(
        self,
        tenant: str,
        meter: str,
        quantity: int,
        *,
        resource: str | None = None,
        occurred_at: datetime | str | None = None,
        reason: str,
        id: str | None = None,
    ) -> UsageAdjustment:
        """Corrects what was used: takes units of a meter off (-50), or adds some, at an instant, by default now. The
        opposite undoes it. With an ``id`` it is made once, however often it is asked for. ``reason`` stands in the
        audit log.

        What is taken off was used on that instant's local day, of ``resource`` or of any, largest first: InvalidEvent
        says how much was. It is late usage where the month's invoice is final, and refused as late where recording
        would be. Levels are stated by ``set_level``, and money is given back by credit.
        """
        asked = self._adjusting.ask(
            tenant, meter, quantity, resource=resource, occurred_at=occurred_at, reason=reason, id=id
        )
        await self._flush_of(tenant)
        return await self._adjusting.adjust(asked, has_instant=occurred_at is not None)

    async def backfill(
        self,
        events: Events,
        *,
        dry_run: bool = False,
        start_at: int = 0,
        tally: BackfillTally | None = None,
        strict: bool = False,
        batch: int = BATCH,
        progress: Callable[[BackfillTally], None] = lambda _: None,
    ) -> BackfillTally:
        """Records events of the past or from elsewhere in large batches, straight into the ledger, at a few times the
        speed of ``record_many``. Each needs an id of its own: what is recorded already counts as a duplicate, so that a
        run that was ended is simply run again. An event that cannot be recorded is rejected and hinders no other,
        unless ``strict``; an item may also be the InvalidInput that reading it has raised, or None.

        ``start_at``: how many events are left out, which an earlier run had ``settled``. Whoever gives them from there
        on himself names that run's ``tally`` instead, and goes on counting. ``progress`` hears of each ``batch`` that
        is in the ledger: one transaction, which holds others up as long as it lasts. Usage goes on meanwhile; limits
        know of what was recorded within some seconds. ``dry_run`` writes nothing.
        """
        await self.startup()
        if tally is None:
            tally = BackfillTally(read=start_at, settled=start_at)
            events = left_out(events, start_at)
        backfill = Backfill(
            self.gate,
            self.ledger,
            catalogue=self.catalogue,
            stating=self._recorder.stating,
            keyring=self._keyring,
            clock=self.clock,
            defaults=self._defaults,
            shards=self.counters.shards,
            tally=tally._replace(dry_run=dry_run),
            strict=strict,
            batch=batch,
        )
        try:
            return await backfill.run(events, progress)
        finally:
            await self._note_backfill(backfill.tally)

    async def _note_backfill(self, tally: BackfillTally) -> None:
        if not tally.dry_run:
            counts = {name: getattr(tally, name) for name in ("recorded", "duplicates", "conflicts", "rejected")}
            await self.ledger.add_audit([self.act().did("usage backfilled", "", "usage", after=counts)])

    async def record_api_call(self, tenant: str, resource: str, **details: Unpack[Details]) -> Outcome:
        """Records one API call on a route; details are success, cost, id, occurred_at and metadata."""
        return await self.record(UsageEvent(tenant=tenant, event_type="api_call", resource=resource, **details))

    async def record_ai_usage(self, tenant: str, model: str, *, tokens: int, **details: Unpack[Details]) -> Outcome:
        """Records one AI call and its tokens, under the ids ``id`` and ``id:ai_token``; the cost is the call's."""
        tokens = whole_quantity(tokens, least=0, field="tokens")
        events = [UsageEvent(tenant=tenant, event_type="ai_call", resource=model, **details)]
        if tokens:
            own = None if events[0].id is None else f"{events[0].id}:ai_token"
            changed = {"event_type": "ai_token", "quantity": tokens, "cost": None, "id": own}
            events.append(UsageEvent(**events[0].model_dump() | changed))
        await self.startup()
        return await self._recorder.record_together(events)

    async def record_webhook_delivery(self, tenant: str, webhook_id: str, **details: Unpack[Details]) -> Outcome:
        """Records one event delivered to a tenant's webhook endpoint."""
        event = UsageEvent(tenant=tenant, event_type=WEBHOOK_DELIVERY, resource=webhook_id, **details)
        return await self.record(event)

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

    async def _expire_holds(self, _period: datetime, _fence: int) -> None:
        await self._drain.fully()
        await self.ai.holding.expire()

    async def _settle(self, *, shard: int | None = None, within_s: float = SETTLE_S) -> None:
        """Everything acknowledged in this process, or in this shard alone, is in the stream."""
        loop, soon = asyncio.get_running_loop(), [*self._soon]
        await asyncio.gather(*(task for task in soon if task.get_loop() is loop))
        while any(not task.done() and task.get_loop().is_running() for task in soon):  # noqa: ASYNC110 - of other loops
            await asyncio.sleep(POLL_S)
        await self.gate.settle(shard=shard, within_s=within_s)

    async def create_usage_snapshot(self, tenant: str, day: date | str) -> UsageSnapshot:
        """One day of a tenant in its zone, with all that was acknowledged before the call."""
        await self._flush_of(tenant)
        return await self._analytics.snapshot(tenant, day)

    async def get_usage(self, tenant: str, start: date | str, end: date | str) -> UsageRange:
        """The days from start to end, both included: totals, and ``.days``."""
        await self._flush_of(tenant)
        return await self._analytics.usage(tenant, start, end)

    async def get_usage_by_resource(self, tenant: str, start: date | str, end: date | str) -> list[ResourceUse]:
        """The days from start to end, both included, by meter and resource; without levels."""
        await self._flush_of(tenant)
        return await self._analytics.by_resource(tenant, start, end)

    async def export_usage(
        self, tenant: str | None = None, *, start: date | str | None = None, end: date | str | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """All facts that count of a tenant or of all, of the local days from start to end, both included: by tenant, in
        order of their instants. ``backfill`` reads each as it is, into this ledger as a duplicate."""
        await (self.flush() if tenant is None else self._flush_of(tenant))
        async for line in self._export.lines(tenant, start, end):
            yield line

    # -- tenants and invoices -----------------------------------------------------------------------------------------

    async def put_tenant(
        self,
        tenant: str,
        *,
        plan: str | None = None,
        timezone: str | None = None,
        subscribed_at: datetime | str | None = None,
        tax_rate: Amount | None = None,
        trial_days: int | None = None,
        anchor: Anchor | None = None,
    ) -> Tenant:
        """Inserts or changes a tenant; None leaves a value as it is. In force at the next request.

        ``trial_days``, 0 to 730, of 24 hours from ``subscribed_at`` on: free of charge, and what charges past a limit
        blocks. Another ``timezone`` holds from now on; in the first day of a subscription, from its start.
        ``anchor``: the day on which the tenant's months begin, for quotas, fees and invoices alike: "calendar" (the
        1st), "anniversary" (that of the sign-up), or a day from 1 to 31, which is the last one in shorter months. It
        can be changed in the first month. "2024-01" is then the month that begins in January.
        """
        await self.startup()
        return await self._subscriptions.put(
            tenant,
            plan=plan,
            timezone=timezone,
            subscribed_at=subscribed_at,
            tax_rate=tax_rate,
            trial_days=trial_days,
            anchor=anchor,
        )

    async def get_tenant(self, tenant: str) -> Tenant | None:
        await self.startup()
        return await self._subscriptions.get(tenant)

    async def change_plan(self, tenant: str, plan: str, *, at: At = None) -> Tenant:
        """Moves a tenant to a plan at an instant, which belongs to the new plan: "now", "period_end", or one that may
        lie ahead or back, but not before the sign-up. None: what the catalogue's ``[changes]`` say, by default now, but
        at the period's end where the new plan's price is lower. Changes of plan that were planned for later end; of two
        at one instant the last holds. Add-ons go along where the new plan may have them, on the terms of now. It
        subscribes again who is canceled."""
        await self.startup()
        return await self._subscriptions.change_plan(tenant, plan, at=at)

    async def override_plan(self, tenant: str, changes: Mapping[str, Any], *, at: At = None) -> Tenant:
        """What a tenant has otherwise than its plan, now or from an instant on, in the form of a plan:
        ``{"price": "79.00", "quotas": {"api_calls": {"limit": 20_000, "per": "day"}}}``. A meter's limits are replaced
        together; None takes them away; what is not named stays, also what was overridden before. It ends with the next
        ``change_plan``; add-ons stay. CatalogueError for what a plans file may not say either."""
        await self.startup()
        return await self._subscriptions.override(tenant, changes, at=at)

    async def set_addon(self, tenant: str, addon: str, *, quantity: int, at: At = None) -> Tenant:
        """How many of an add-on a tenant has from an instant on; 0 takes it away. None: as for ``change_plan``, by
        default more of it now, and fewer at the period's end. Its limits are raised at the next request, its fee is
        split to the second. What is planned stays, and has it too where the plan may.

        CatalogueError for an add-on that is not sold, InvalidInput where the plan may not have it or not so many.
        """
        await self.startup()
        return await self._subscriptions.set_addon(tenant, addon, quantity=quantity, at=at)

    async def pause_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Pauses a subscription, now if no instant is named: each request is refused as ``tenant-suspended``, in every
        process, and no fee is due. What is recorded still counts. WrongState while a payment is due, or canceled."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "pause", at=at)

    async def resume_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Ends a pause, and undoes a pause or cancellation that is to come. It changes nothing for a tenant that has
        neither. WrongState for one that is canceled by then: ``change_plan`` subscribes it again."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "resume", at=at)

    async def cancel_subscription(self, tenant: str, *, at: At = None) -> Tenant:
        """Ends a subscription now, at ``at="period_end"`` or at an instant: each request is refused as
        ``payment-required``, and no fee is due from then on."""
        await self.startup()
        return await self._subscriptions.happen(tenant, "cancel", at=at)

    async def set_payment_state(self, tenant: str, state: PaymentState) -> Tenant:
        """Says how payment stands: past_due is served on; unpaid is refused as ``payment-required``, and no fee is due;
        paid makes it active again. WrongState for a tenant in trial, paused or canceled."""
        await self.startup()
        return await self._subscriptions.set_payment_state(tenant, state)

    async def get_billing_summary(self, tenant: str) -> BillingSummary:
        """The tenant's plan, what its running month comes to so far, and what it used of each quota."""
        invoice = await self.preview_invoice(tenant)
        row = await self.ledger.tenant(tenant)
        if row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")
        terms = await self.plans.of(row)
        first, last = terms.days(invoice.period)
        segment = row.segment_at(micros(self.clock.now()))
        usage = await self.get_usage(tenant, first, last)
        return summary(plan_name(segment.plan), terms.plan(segment), usage, invoice)

    async def preview_change(
        self,
        tenant: str,
        *,
        plan: str | None = None,
        event: Literal["pause", "resume", "cancel"] | None = None,
        at: At = None,
    ) -> ChangePreview:
        """What ``change_plan`` with that plan, or that event of the subscription, would come to at an instant: the
        month's invoice before and after, and the ``difference``. Nothing changes for the tenant. Raises what the change
        itself would.
        """
        if (plan is None) == (event is None):
            raise InvalidInput("plan", "or event must be named, and not both: what is to be previewed?")
        await self._flush_of(tenant)
        if plan is not None:
            _, change = await self._subscriptions.plan_change(tenant, plan, at)
        else:
            _, change = await self._subscriptions.state_change(tenant, event or "", at)
        return await self._invoices.preview_change(tenant, change)

    async def preview_invoice(self, tenant: str, *, period: str | None = None) -> Invoice:
        """The tenant's invoice for a calendar month in its zone, as it stands; the current month if absent."""
        await self._flush_of(tenant)
        return await self._invoices.preview(tenant, period)

    async def close_period(
        self,
        period: str,
        *,
        tenant: str | None = None,
        progress: Progress = lambda _: None,
        not_over: Callable[[str], None] = lambda _: None,
    ) -> list[Invoice]:
        """Each tenant's invoice of a calendar month, or one's, in order of their ids: drafts until the month's end and
        ``grace`` are over, then finalized with a number; from then on the same at every call.

        A draft that looks wrong (far above the usual total, too many lines) is not finalized: its ``held`` says why.
        PeriodNotOver before the month's end in the tenant's zone; where it is over for some, the others are left out
        and told to ``not_over``. ``progress`` is told how many tenants are done.
        """
        await (self.flush() if tenant is None else self._flush_of(tenant))
        return await self._invoices.close(period, tenant, progress, not_over=not_over)

    async def simulate(
        self,
        catalogue: catalogues.Source,
        *,
        start: str,
        end: str,
        progress: Progress = lambda _: None,
    ) -> Simulation:
        """What every tenant's calendar months from ``start`` to ``end`` ("2024-01"), both included and at most 36, came
        to under its stored plans, and would have come to under the plans of the same names in another catalogue; with
        and without the demand that was refused. Before tax and credit. Nothing of it is written.

        InvalidInput for months or a catalogue that cannot be compared, CatalogueError for one that is wrong.
        ``progress`` is told how many tenants are done.
        """
        new = catalogues.load(catalogue)
        question = Question.of(new, self.catalogue, start=start, end=end, now=self.clock.now())
        await self.flush()
        return await self._what_if.answer(question, progress)

    async def shadow_report(self, tenant: str | None = None) -> ShadowReport:
        """What the ``shadow`` plans would have decided and billed in the running day and month, each in its tenant's
        zone; of one tenant all of its limits. Nothing of it is written.

        InvalidInput where there are none, and where a tenant's version limits a meter that they do not have.
        """
        if self._shadow is None:
            raise InvalidInput("shadow", 'is not set: Metering(..., shadow="plans-next.toml") or MM_METERING_SHADOW')
        await (self.flush() if tenant is None else self._flush_of(tenant))
        await self.gate.report()
        return await self._shadow.report(tenant, now=self.clock.now(), progress=lambda _: None)

    def _shadow_of(self, catalogue: Catalogue) -> ShadowPlans:
        return ShadowPlans(self.ledger, plans=self.plans, current=self.catalogue, catalogue=catalogue)

    async def _close_last_month(self, today: datetime, _fence: int) -> None:
        await self._drain.fully()
        await self._invoices.close_last_month(today)

    async def get_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """NotFound unless it was closed. This and each call below may name a ``tenant``, who asks: what is another's is
        then not found. None: the host itself asks."""
        await self.startup()
        return await self._invoices.get(invoice_id, tenant)

    async def _asks_for(self, invoice_id: str, tenant: str | None) -> None:
        """NotFound where a tenant asks for another's invoice."""
        await self.startup()
        if tenant is not None:
            await self._invoices.get(invoice_id, tenant)

    async def rerun_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """A finalized invoice, made again from what it was made of. It equals ``get_invoice``: anything else means that
        the stored one was changed, or that this release rates differently."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.rerun(invoice_id)

    async def list_invoices(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        limit: int = 1000,
    ) -> list[Invoice]:
        """The first ``limit`` of those that were closed, in order of (period, tenant, issue)."""
        await self.startup()
        return await self._invoices.every(tenant, period, status, limit)

    async def finalize_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """Finalizes a draft by hand, within the grace too and where it waits for a review. WrongState unless it is a
        draft: of two at once one wins."""
        await self._flush_of((await self.get_invoice(invoice_id, tenant=tenant)).tenant)
        return await self._invoices.finalize(invoice_id)

    async def void_invoice(self, invoice_id: str, *, tenant: str | None = None) -> Invoice:
        """Takes an unpaid invoice back. ``close_period`` then issues a new one, under a new number. WrongState for one
        that is a draft, paid, void, or has credit notes."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.void(invoice_id)

    async def mark_invoice(
        self, invoice_id: str, status: Literal["paid", "uncollectible"], *, tenant: str | None = None
    ) -> Invoice:
        """Says that a finalized invoice was paid, or never will be. WrongState unless it may become that."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.settle(invoice_id, status)

    async def credit_invoice(
        self,
        invoice_id: str,
        *,
        line_id: str | None = None,
        quantity: int | None = None,
        amount: Amount | None = None,
        reason: str,
        tenant: str | None = None,
    ) -> CreditNote:
        """Takes back ``amount`` before tax, ``quantity`` units of a line, a whole line, or all that is left, with its
        tax. What was paid becomes the tenant's credit, what was not is no longer due."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.credit(invoice_id, line_id=line_id, quantity=quantity, amount=amount, reason=reason)

    async def invoice_document(
        self,
        invoice_id: str,
        form: DocumentForm = "html",
        *,
        seller: Party | None = None,
        buyer: Party | None = None,
        tenant: str | None = None,
    ) -> bytes:
        """A closed invoice to be sent or shown: a self-contained page in UTF-8, a PDF (extra ``pdf``), rows, or JSON.
        ``seller`` and ``buyer`` are who stands on it: ``Party(name, address, tax_id, email)``."""
        await self._asks_for(invoice_id, tenant)
        return await self._invoices.document(invoice_id, form, seller=seller, buyer=buyer)

    async def explain(self, line_id: str, *, tenant: str | None = None) -> Explanation:
        """Why a line of a closed invoice is what it is."""
        await self.startup()
        return await self._invoices.explain(line_id, tenant)

    async def line_facts(
        self,
        line_id: str,
        *,
        after: tuple[datetime, str] | None = None,
        limit: int = 1000,
        tenant: str | None = None,
    ) -> list[BilledFact]:
        """A page of the facts in a line's windows, past (occurred_at, id) and in that order."""
        await self.startup()
        return await self._invoices.facts_of(line_id, after, limit, tenant)

    async def grant_credit(
        self,
        tenant: str,
        amount: Amount,
        *,
        kind: CreditKind = "promo",
        priority: int = 0,
        expires_at: datetime | str | None = None,
        applies_to: CreditScope = "metered",
        reason: str = "",
    ) -> CreditGrant:
        """Credit that the tenant's next invoices take: by priority (the lowest first), then the earliest expiry, then
        the earliest grant. "metered" pays usage before tax, "all" pays everything."""
        await self.startup()
        return await self._invoices.grant(
            tenant,
            amount,
            kind=kind,
            priority=priority,
            expires_at=expires_at,
            applies_to=applies_to,
            reason=reason,
        )

    async def list_credits(self, tenant: str) -> list[CreditGrant]:
        """Also those that are used up."""
        await self.startup()
        return await self._invoices.credits(tenant)

    async def put_discount(
        self,
        tenant: str,
        *,
        percent: Amount | None = None,
        amount: Amount | None = None,
        applies_to: DiscountScope = "all",
        starts_at: datetime | str | None = None,
        ends_at: datetime | str | None = None,
        name: str = "discount",
    ) -> Discount:
        """A discount on the invoice of each month of which [starts_at, ends_at) has a part, from now on if absent:
        ``percent="10"`` or ``amount="20.00"``, off the fees ("base"), the usage ("metered") or "all"."""
        await self.startup()
        return await self._invoices.discount(
            tenant,
            percent=percent,
            amount=amount,
            applies_to=applies_to,
            starts_at=starts_at,
            ends_at=ends_at,
            name=name,
        )

    async def end_discount(self, tenant: str, discount_id: str, *, at: datetime | str | None = None) -> Discount:
        """No month that begins at that instant or later has the discount any more; now, if absent."""
        await self.startup()
        return await self._invoices.end_discount(tenant, discount_id, at)

    async def adjust_invoice(self, tenant: str, amount: Amount, *, reason: str) -> Adjustment:
        """An amount with a reason on the tenant's next invoice, before tax; negative in the tenant's favour."""
        await self.startup()
        return await self._invoices.adjust(tenant, amount, reason)


def _check_currency(billing: BillingAdapter, catalogue: Catalogue) -> None:
    if billing.currency != catalogue.currency:
        raise InvalidInput(
            "billing",
            f"bills in {billing.currency} and the plans are in {catalogue.currency}: nothing is converted; "
            f'give the adapter currency="{catalogue.currency}"',
        )


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _new_id() -> str:
    return uuid_utils.uuid7().hex


def _url(store: object) -> str | None:
    return store if isinstance(store, str) else None


def _place(store: object) -> str:
    """A store's URL for people to read: without credentials and options. The class of an object."""
    if not isinstance(store, str):
        return type(store).__name__
    scheme, separator, rest = store.partition("://")
    place, _, options = rest.partition("?")
    if scheme in ("local", "memory", "sqlite"):
        return f"{scheme}{separator}{place}"
    return f"{scheme}{separator}{'***' if '@' in options else place.rpartition('@')[2]}"


def _is_embedded(counters: object) -> bool:
    return isinstance(counters, str) and counters.startswith(("memory:", "local:"))
