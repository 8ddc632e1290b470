"""The composition root: builds the parts and hands them to each other. It holds no logic of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from starlette.types import ASGIApp

from mm_metering import catalogues
from mm_metering.ai.budgets import Ai
from mm_metering.analytics import Analytics
from mm_metering.audit import ANCHOR_EVERY, AuditLog
from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.sql import open_ledger
from mm_metering.backends.urls import open_counters
from mm_metering.billing.adapter import BillingAdapter, WebhookAdapter
from mm_metering.billing.collection import Collector
from mm_metering.billing.hooks import Hooks
from mm_metering.billing.inbox import Inbox
from mm_metering.billing.invoices import Invoices, TaxService
from mm_metering.billing.payments import Payments
from mm_metering.billing.reporter import BillingMode, UsageReporter, reporter_of
from mm_metering.billing.shadow import ShadowPlans
from mm_metering.billing.subscriptions import Subscriptions
from mm_metering.billing.usage_reporting import EVERY as REPORT_EVERY
from mm_metering.billing.usage_reporting import UsageReporting
from mm_metering.billing.whatif import WhatIf
from mm_metering.clock import Clock, default_clock, micros_of
from mm_metering.core.books import Rules
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.dunning import Dunning
from mm_metering.errors import InvalidInput
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.gate import Gate
from mm_metering.gate.journal_place import journal_directory
from mm_metering.gate.keyring import Keyring
from mm_metering.gate.plans import PlanBook
from mm_metering.gate.portal import Portal
from mm_metering.gate.reconcile import Reconciler
from mm_metering.gate.recorder import Recorder
from mm_metering.metering.alerts import Alerting
from mm_metering.metering.apps import Hosting
from mm_metering.metering.audit import Auditing
from mm_metering.metering.deliveries import Delivering
from mm_metering.metering.environment import found_in_environment
from mm_metering.metering.health import Checking
from mm_metering.metering.house import new_id
from mm_metering.metering.invoices import Invoicing
from mm_metering.metering.limits import Limiting
from mm_metering.metering.payments import Paying
from mm_metering.metering.privacy import Keeping
from mm_metering.metering.tenants import Subscribing
from mm_metering.metering.usage import Recording
from mm_metering.metering.whatif import Comparing
from mm_metering.metering.work import CLOSE_MONTH, Working
from mm_metering.middleware.callers import Callers
from mm_metering.middleware.doctor import Notes
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules
from mm_metering.middleware.tenants import Resolver
from mm_metering.privacy import SealedValues, TenantData
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.options import Telemetry
from mm_metering.usage.adjusting import Adjusting
from mm_metering.usage.export import Export
from mm_metering.vault import Vault
from mm_metering.webhooks.endpoints import Webhooks
from mm_metering.webhooks.guard import Rules as WebhookRules
from mm_metering.worker.alerts import Alerts
from mm_metering.worker.drain import Drain
from mm_metering.worker.house_days import HouseDays
from mm_metering.worker.jobs import Job, Jobs
from mm_metering.worker.leases import Leases
from mm_metering.worker.monitor import Monitor
from mm_metering.worker.payments import payment_jobs
from mm_metering.worker.reconcile import Reconciling
from mm_metering.worker.runner import Worker
from mm_metering.worker.shadow import EVERY, ShadowWatch
from mm_metering.worker.status import Lookout
from mm_metering.worker.upkeep import upkeep
from mm_metering.worker.webhooks import webhook_jobs

if TYPE_CHECKING:
    from mm_metering.dashboard.access import Auth

EXPIRE = "expire-holds"
ALERTS = "alerts"
ANCHOR = "audit-anchor"
SHADOW = "shadow"
REPORT_USAGE = "report-usage"


class Metering(  # what leans on another stands before it
    Hosting,
    Delivering,
    Limiting,
    Paying,
    Invoicing,
    Recording,
    Subscribing,
    Comparing,
    Alerting,
    Auditing,
    Keeping,
    Working,
    Checking,
):
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
        self.places: tuple[str, str] = (_place(counters), _place(ledger))
        self.counters: Counters = (
            open_counters(counters, frozen=self.clock.frozen) if isinstance(counters, str) else counters
        )
        self.ledger: Ledger = open_ledger(ledger) if isinstance(ledger, str) else ledger
        self._apply = apply
        self._versions = {}
        self._opening = None
        self._open = False
        self._lock = threading.Lock()
        self._portal = Portal()
        self.notes: Notes = Notes(measures)
        self.endpoint_guard: EndpointGuard = EndpointGuard(
            endpoint_rules or EndpointRules(), now_s=lambda: self.clock.now().timestamp()
        )
        self.callers: Callers = Callers()
        self._hosts = []
        self._apps = []
        self._soon = set()
        self._journal = journal_directory(journal, counters=_url(counters), ledger=_url(ledger))
        self.plans: PlanBook = PlanBook(self.ledger, proration=self.catalogue.changes.proration)
        self._drain = Drain(self.counters, self.ledger, self._defaults, now_us=micros_of(self.clock))
        self.gate: Gate = Gate(
            self.counters,
            self.ledger,
            catalogue=self.catalogue,
            plans=self.plans,
            clock=self.clock,
            drain=self._drain,
            new_id=new_id,
            defaults=self._defaults,
            timing=timing,
            journal=self._journal,
            measures=measures,
            store=self.places[0].partition(":")[0],
        )
        vault, keyring = self._locks(secret_key, ephemeral=_url(ledger) == "memory://")
        self._audit = AuditLog(self.ledger, clock=self.clock, keys=vault.derived("audit"), anchors=audit_anchors)
        self._recorder = Recorder(
            self.gate, self.ledger, catalogue=self.catalogue, clock=self.clock, new_id=new_id, keyring=keyring
        )
        self._export = Export(self.ledger, keyring)
        self._adjusting = Adjusting(
            self.gate, self.ledger, catalogue=self.catalogue, clock=self.clock, new_id=new_id, act=self.act
        )
        self._analytics = Analytics(self.ledger, catalogue=self.catalogue, clock=self.clock)
        self._invoices = Invoices(
            self.ledger,
            rules=Rules(self.catalogue.currency, grace=grace),
            plans=self.plans,
            clock=self.clock,
            new_id=new_id,
            tax=tax,
        )
        self.ai: Ai = Ai(
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
        self._what_if = WhatIf(self.ledger, plans=self.plans, catalogue=self.catalogue)
        self._shadow = None if shadow is None else self._shadow_of(catalogues.load(shadow))
        self._subscriptions = Subscriptions(
            self.gate,
            self.ledger,
            catalogue=self.catalogue,
            plans=self.plans,
            clock=self.clock,
            defaults=self._defaults,
            versions=lambda: self._versions,
            act=self.act,
            own_prices=billing_mode == "invoice",
        )
        self.billing: Payments = Payments(
            billing,
            ledger=self.ledger,
            subscriptions=self._subscriptions,
            catalogue=self.catalogue,
            usage=self,
            act=self.act,
        )
        self.webhooks: Webhooks = Webhooks(
            self.ledger,
            clock=self.clock,
            vault=vault,
            keyring=keyring,
            rules=webhook_rules or WebhookRules(),
            startup=self.startup,
            check_plan=self._may_have_webhooks,
            record=self._meter_delivery,
            new_id=new_id,
            measures=measures,
        )
        self._hooks = Hooks(self.ledger, clock=self.clock)
        self._collector = None
        self._inbox = None
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

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Built from MM_METERING_CATALOGUE, _COUNTERS, _LEDGER, _APPLY, _JOURNAL, _SHADOW, _BILLING_MODE and
        _SECRET_KEY, and _DEADLINE_MS for one decision; with _STRIPE_API_KEY (and _STRIPE_WEBHOOK_SECRET) billed through
        Stripe.

        ``options`` win over them.
        """
        return cls(**found_in_environment(options))

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

    def _shadow_of(self, catalogue: Catalogue) -> ShadowPlans:
        return ShadowPlans(self.ledger, plans=self.plans, current=self.catalogue, catalogue=catalogue)

    def _reporting_to(self, reporter: UsageReporter | None) -> UsageReporting | None:
        if reporter is None:
            return None
        return UsageReporting(reporter, self.ledger, plans=self.plans, clock=self.clock, new_id=new_id)

    def _collect_through(self, billing: BillingAdapter, mode: BillingMode, dunning: Dunning) -> None:
        collector = self._collector = Collector(
            billing,
            self.ledger,
            self.gate,
            clock=self.clock,
            dunning=dunning,
            sends=mode == "invoice",
            new_id=new_id,
            measures=self._measures,
        )
        if isinstance(billing, WebhookAdapter):
            self._inbox = Inbox(billing, self.ledger, collector, clock=self.clock, prices_there=mode == "report")

    def _work_through(self, measures: Measures) -> None:
        """What a worker needs, also where this process is none."""
        leases = Leases(self.ledger, worker=new_id(), shards=self.counters.shards)
        watch = None if self._shadow is None else ShadowWatch(self.ledger, self._shadow, now=self.clock.now)
        blocks: Mapping[str, int] = {} if watch is None else watch.blocks
        now_us = micros_of(self.clock)
        self._jobs = Jobs(self.ledger, [*self._all_jobs(watch)], worker=leases.worker, now_us=now_us, measures=measures)
        self.reconciler: Reconciler = Reconciler(self.counters, self.ledger, self.gate, self._drain, now_us=now_us)
        self._worker = Worker(
            self._drain,
            leases,
            self._jobs,
            Reconciling(self._drain, self.reconciler),
            alerts=self._alerts,
            webhooks=self.webhooks.dispatcher,
            shards=self.counters.shards,
        )
        self.monitor: Monitor = Monitor(
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

    # -- what shows all of it

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


def _check_currency(billing: BillingAdapter, catalogue: Catalogue) -> None:
    if billing.currency != catalogue.currency:
        raise InvalidInput(
            "billing",
            f"bills in {billing.currency} and the plans are in {catalogue.currency}: nothing is converted; "
            f'give the adapter currency="{catalogue.currency}"',
        )


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
