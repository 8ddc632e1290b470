"""``SqlLedger``: each of the Protocol's methods as one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, Final

from sqlalchemy import select

from mm_metering import failpoints
from mm_metering.backends.accounts import Decide, Wanted
from mm_metering.backends.audit_log import FIRST_LINK, LinkKey
from mm_metering.backends.bulk import Correction, DayUse, Landed, Stated
from mm_metering.backends.collecting import Hint, Mute, Waiting
from mm_metering.backends.ledger import (
    FIRST_HOLD,
    KEEP_MONTHS,
    Acknowledged,
    Claim,
    ClaimRequest,
    HoldKey,
    Retired,
    ShardRow,
    Snapshot,
    Used,
)
from mm_metering.backends.overview import Overview
from mm_metering.backends.privacy import Forgotten, KeyRow
from mm_metering.backends.sql import (
    accounts,
    bulk,
    cells,
    claims,
    collecting,
    facts,
    folding,
    keeping,
    levels,
    overview,
    payers,
    plans,
    privacy,
    reports,
    schema,
    shards,
    usage_reports,
    webhooks,
)
from mm_metering.backends.sql import audit as audit_log
from mm_metering.backends.sql import tenants as tenancy
from mm_metering.backends.sql import work as workers
from mm_metering.backends.sql.engine import Store, Transaction, UnstorableValue
from mm_metering.backends.sql.looks import SqlLooks
from mm_metering.backends.sql.rows import CELL, stored_cell
from mm_metering.backends.sql.tables import usage_cell
from mm_metering.backends.webhooks import Claimed
from mm_metering.backends.work import FIRST_LETTER, Alert, DeadLetter, Lease, LetterKey, Run
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.audit_chain import Head, Keys, Link
from mm_metering.core.audited import subscription_changed, tenant_put
from mm_metering.core.books import Account, timeline_news
from mm_metering.core.cells import Cell, CellKey
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow, Result
from mm_metering.core.digest import Digest
from mm_metering.core.facts import Fact
from mm_metering.core.findings import Finding
from mm_metering.core.invoices import CreditGrant, CreditNote, Invoice, InvoiceStatus
from mm_metering.core.periods import days_us
from mm_metering.core.reporting import Intent, ReportState
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow
from mm_metering.core.timeline import Change
from mm_metering.errors import StoreUnavailable

log: Final = logging.getLogger("mm_metering.ledger")


class SqlLedger(SqlLooks):
    """``sqlite:///file`` or ``postgresql://…``. May be used from several event loops, each with its connections."""

    def __init__(self, url: str) -> None:
        self._audit_keys: Keys = {}
        self._store = Store(url, last=lambda tx: audit_log.chain(tx, self._audit_keys))

    async def setup(self, *, apply: bool) -> None:
        await self._store.prepare()
        if apply:
            await self._store.write(schema.migrate)
        else:
            await self._store.read(lambda tx: schema.check(tx, self._store.where))

    async def may_apply(self) -> bool:
        return self._store.is_file or await self._store.read(schema.is_empty)

    async def examine(self, *, now_us: int) -> list[Finding]:
        return [*await self._store.read(lambda tx: tx.dialect.examine(tx.connection, now_us))]

    # -- shards and facts ---------------------------------------------------------------------------------------------

    async def certify(self, shard: int, *, seen: int) -> tuple[int, bool]:
        return await self._store.write(lambda tx: shards.certify(tx, shard, seen))

    async def shard(self, shard: int) -> ShardRow:
        return await self._store.read(lambda tx: shards.find(tx, shard))

    async def fold(
        self,
        shard: int,
        *,
        generation: int,
        before: str,
        after: str,
        facts: Sequence[Fact],
        defaults: TenantDefaults,
        dead: Sequence[DeadLetter] = (),
    ) -> bool:
        async def work(tx: Transaction) -> bool:
            if not await shards.advance(tx, shard, generation=generation, before=before, after=after):
                return False
            if facts:
                with tx.storing():
                    folded = await folding.fold(tx, facts, defaults.timezone)
                await shards.hold(tx, shard, folded.digest)
            await workers.bury(tx, dead)
            if facts:
                failpoints.reach("drain.before_commit")
            return True

        try:
            return await self._store.write(work)
        except UnstorableValue as error:
            await self._store.write(lambda tx: folding.name_unstorable(tx, facts, defaults.timezone))
            raise StoreUnavailable(f"the ledger refuses these facts together, but each alone not: {error}") from error

    async def snapshots(
        self, shard: int, tenants: Sequence[str], *, since: date, defaults: TenantDefaults, now_us: int
    ) -> Mapping[str, Snapshot]:
        seen = await self._store.read(lambda tx: _snapshots(tx, shard, tenants, since))
        unknown = [tenant for tenant, snapshot in seen.items() if snapshot.tenant is None]
        if not unknown or not defaults.plan:
            return seen
        # One without facts had none when it was read either: all that was seen of it stays right, but for its row.
        made = await self._store.write(lambda tx: tenancy.make(tx, unknown, defaults, now_us))
        seen |= {row.id: replace(seen[row.id], tenant=row) for row in made}
        others = [tenant for tenant in unknown if seen[tenant].tenant is None]
        return seen | await self._store.read(lambda tx: _snapshots(tx, shard, others, since)) if others else seen

    # -- what proves that nothing was lost ----------------------------------------------------------------------------

    async def report(
        self, process: str, *, acknowledged: Mapping[int, Digest], refused: Mapping[CellKey, int], now_us: int
    ) -> None:
        async def work(tx: Transaction) -> None:
            await reports.put(tx, process, acknowledged, now_us)
            await cells.add_refused(tx, refused)

        await self._store.write(work)

    async def acknowledged(self) -> list[Acknowledged]:
        return await self._store.read(reports.every)

    async def merge_reports(self, *, before_us: int) -> int:
        return await self._store.write(lambda tx: reports.merge(tx, before_us))

    async def folded(self) -> Mapping[int, Digest]:
        return await self._store.read(shards.digests)

    async def cell_digests(self, *, after: str = "", limit: int = 1000) -> list[tuple[str, Digest]]:
        return await self._store.read(lambda tx: cells.digests(tx, after, limit))

    async def rebuild_cells(self, tenant: str, *, act: Act | None = None) -> int:
        return await self._store.write(lambda tx: tenancy.rebuild_cells(tx, tenant, act))

    # -- events with a caller's id ------------------------------------------------------------------------------------

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claim]:
        return await self._store.write(lambda tx: claims.claim(tx, requests))

    async def backfill(
        self,
        stated: Sequence[Stated],
        *,
        shards: int,
        defaults: TenantDefaults,
        now_us: int,
        writes: bool = True,
    ) -> list[Landed]:
        if not writes:
            return await self._store.read(lambda tx: bulk.foresee(tx, stated, defaults, now_us))
        try:
            return await self._store.write(lambda tx: bulk.backfill(tx, stated, shards, defaults, now_us))
        except UnstorableValue as error:
            facts = [each.fact for each in stated]
            await self._store.write(lambda tx: folding.name_unstorable(tx, facts, defaults.timezone))
            raise StoreUnavailable(f"the ledger refuses these facts together, but each alone not: {error}") from error

    async def adjust(
        self, request: ClaimRequest, decide: Callable[[DayUse], Correction], *, shard: int, now_us: int
    ) -> Claim:
        return await self._store.write(lambda tx: bulk.adjust(tx, request, decide, shard, now_us))

    # -- plans and tenants --------------------------------------------------------------------------------------------

    async def put_plans(
        self, definitions: Mapping[str, Mapping[str, Any]], *, now_us: int, act: Act | None = None
    ) -> Mapping[str, int]:
        return await self._store.write(lambda tx: plans.put(tx, definitions, now_us, act))

    async def plan_versions(self) -> Mapping[tuple[str, int], Mapping[str, Any]]:
        return await self._store.read(plans.every)

    async def tenant(self, tenant: str) -> TenantRow | None:
        return await self._store.read(lambda tx: tenancy.find(tx, tenant))

    async def tenants(self, *, after: str = "", limit: int = 1000) -> list[TenantRow]:
        return await self._store.read(lambda tx: tenancy.page(tx, after, limit))

    async def put_tenant(
        self, new: NewTenant, *, defaults: TenantDefaults, now_us: int, act: Act | None = None
    ) -> TenantRow:
        async def work(tx: Transaction) -> TenantRow:
            before, after = await tenancy.put(tx, new, defaults, now_us)
            tx.note(tenant_put(before, after, act))
            await collecting.write(tx, timeline_news(before, after, now_us, now_us))
            return after

        return await self._store.write(work)

    async def change_subscription(
        self, tenant: str, change: Change, *, now_us: int | None = None, act: Act | None = None
    ) -> TenantRow:
        async def work(tx: Transaction) -> TenantRow:
            before, after = await tenancy.change_subscription(tx, tenant, change)
            tx.note(subscription_changed(before, after, change, act))
            if now_us is not None:
                await collecting.write(tx, timeline_news(before, after, change.at_us, now_us))
            return after

        return await self._store.write(work)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def cells(self, tenant: str, *, first: date, last: date) -> list[Cell]:
        statement = (
            select(*CELL, usage_cell.c.revision, usage_cell.c.refused)
            .where(usage_cell.c.tenant == tenant, usage_cell.c.day.between(first, last), cells.IS_SHOWN)
            .order_by(*usage_cell.primary_key)
        )
        rows = await self._store.read(lambda tx: tx.all(statement))
        return [stored_cell(row) for row in rows]

    async def meters_used(self, tenants: Sequence[str]) -> Mapping[str, int]:
        return await self._store.read(lambda tx: cells.meters_used(tx, tenants))

    async def used(self, tenant: str, *, first: date, last: date, timezone: str) -> Used:
        return await self._store.read(lambda tx: _used(tx, tenant, first, last, timezone))

    async def facts(self, tenant: str, *, after: tuple[int, str], limit: int) -> list[Fact]:
        return await self._store.read(lambda tx: facts.page(tx, tenant, after, limit))

    async def spent(self, tenant: str, event_type: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        return await self._store.read(lambda tx: facts.spent(tx, tenant, event_type, spans))

    async def overdue_holds(self, before_us: int, *, after: HoldKey = FIRST_HOLD, limit: int) -> list[Fact]:
        return await self._store.read(lambda tx: facts.overdue_holds(tx, before_us, after, limit))

    # -- accounts -----------------------------------------------------------------------------------------------------

    async def account(self, tenant: str, wanted: Wanted) -> Account | None:
        return await self._store.read(lambda tx: accounts.account(tx, tenant, wanted))

    async def book(self, tenants: Sequence[str], wanted: Wanted, decide: Decide) -> None:
        await self._store.write(lambda tx: accounts.book(tx, tenants, wanted, decide))

    async def link_payer(self, tenant: str, customer: str, *, act: Act | None = None) -> str:
        return await self._store.write(lambda tx: payers.link(tx, tenant, customer, act))

    async def payer(self, tenant: str) -> str | None:
        return await self._store.read(lambda tx: payers.of(tx, tenant))

    async def paid_for(self, customer: str) -> str | None:
        return await self._store.read(lambda tx: payers.paid_for(tx, customer))

    async def unlink_payer(self, tenant: str, *, act: Act | None = None) -> None:
        await self._store.write(lambda tx: payers.unlink(tx, tenant, act))

    async def reports_since(self, *, now_us: int) -> int:
        return await self._store.write(lambda tx: usage_reports.since(tx, now_us))

    async def add_report(self, intent: Intent) -> bool:
        return await self._store.write(lambda tx: usage_reports.add(tx, intent))

    async def move_report(self, intent: Intent) -> bool:
        return await self._store.write(lambda tx: usage_reports.move(tx, intent))

    async def last_reports(self, tenant: str, periods: Sequence[str]) -> list[Intent]:
        return await self._store.read(lambda tx: usage_reports.last(tx, tenant, periods))

    async def open_reports(
        self, state: ReportState, *, after: tuple[str, str, str] = ("", "", ""), limit: int = 1000
    ) -> list[Intent]:
        return await self._store.read(lambda tx: usage_reports.page(tx, state, after, limit))

    async def reports(self, customer: str, meter: str, *, start_us: int, end_us: int) -> list[Intent]:
        return await self._store.read(lambda tx: usage_reports.of_customer(tx, customer, meter, start_us, end_us))

    async def invoice(self, invoice_id: str) -> Invoice | None:
        return await self._store.read(lambda tx: accounts.find(tx, invoice_id))

    async def invoice_numbered(self, number: str) -> Invoice | None:
        return await self._store.read(lambda tx: accounts.numbered(tx, number))

    async def invoice_inputs(self, invoice_id: str) -> bytes | None:
        return await self._store.read(lambda tx: accounts.inputs(tx, invoice_id))

    async def invoice_of_line(self, line_id: str) -> Invoice | None:
        return await self._store.read(lambda tx: accounts.of_line(tx, line_id))

    async def invoices(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        after: tuple[str, str, int] = ("", "", 0),
        limit: int = 1000,
    ) -> list[Invoice]:
        chosen: dict[str, Any] = {"tenant": tenant, "period": period, "status": status, "after": after, "limit": limit}
        return await self._store.read(lambda tx: accounts.page(tx, **chosen))

    async def credit_notes(self, invoice_id: str) -> list[CreditNote]:
        return await self._store.read(lambda tx: accounts.credit_notes(tx, invoice_id))

    async def grants(self, tenant: str) -> list[CreditGrant]:
        return await self._store.read(lambda tx: accounts.grants(tx, tenant))

    # -- payment ------------------------------------------------------------------------------------------------------

    async def uncollected(self, *, limit: int) -> list[Invoice]:
        return await self._store.read(lambda tx: collecting.uncollected(tx, limit))

    async def collections(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        state: str | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Collection]:
        chosen: dict[str, Any] = {"tenant": tenant, "period": period, "state": state, "after": after, "limit": limit}
        return await self._store.read(lambda tx: collecting.page(tx, **chosen))

    async def collections_due(self, now_us: int, *, limit: int) -> list[Collection]:
        return await self._store.read(lambda tx: collecting.due(tx, now_us, limit))

    async def collection(self, invoice_id: str) -> Collection | None:
        return await self._store.read(lambda tx: collecting.find(tx, invoice_id))

    async def collection_at(self, provider_invoice: str) -> Collection | None:
        return await self._store.read(lambda tx: collecting.at(tx, provider_invoice))

    async def put_hint(self, hint: Hint) -> bool:
        return await self._store.write(lambda tx: collecting.put_hint(tx, hint))

    async def hints_due(self, now_us: int, *, limit: int) -> list[Hint]:
        return await self._store.read(lambda tx: collecting.hints_due(tx, now_us, limit))

    async def move_hint(self, hint: Hint) -> None:
        await self._store.write(lambda tx: collecting.move_hint(tx, hint))

    async def forget_hints(self, *, before_us: int) -> int:
        return await self._store.write(lambda tx: collecting.forget_hints(tx, before_us))

    async def notices_due(self, now_us: int, *, limit: int) -> list[Waiting]:
        return await self._store.read(lambda tx: collecting.notices_due(tx, now_us, limit))

    async def notices(self, *, tenant: str | None = None, limit: int = 1000) -> list[Notice]:
        return await self._store.read(lambda tx: collecting.notices(tx, tenant, limit))

    async def add_notices(self, notices: Sequence[Notice]) -> list[Notice]:
        return await self._store.write(lambda tx: collecting.add_notices(tx, notices)) if notices else []

    async def put_mute(self, mute: Mute, *, act: Act | None = None) -> None:
        await self._store.write(lambda tx: collecting.put_mute(tx, mute, act))

    async def mutes(self, now_us: int) -> list[Mute]:
        return await self._store.read(lambda tx: collecting.mutes(tx, now_us))

    async def move_notice(self, notice_id: str, *, next_us: int | None, tries: int) -> None:
        await self._store.write(lambda tx: collecting.move_notice(tx, notice_id, next_us, tries))

    async def forget_notices(self, *, before_us: int) -> int:
        return await self._store.write(lambda tx: collecting.forget_notices(tx, before_us))

    # -- the audit log ------------------------------------------------------------------------------------------------

    def use_audit_keys(self, keys: Keys) -> None:
        self._audit_keys = keys

    async def add_audit(self, entries: Sequence[AuditEntry]) -> None:
        async def work(tx: Transaction) -> None:
            tx.note(entries)

        await self._store.write(work)

    async def audit(self, *, tenant: str | None = None, limit: int = 1000) -> Sequence[AuditEntry]:
        return await self._store.read(lambda tx: audit_log.newest(tx, tenant, limit))

    async def audit_links(self, *, after: LinkKey = FIRST_LINK, limit: int = 1000) -> tuple[list[Link], Head]:
        return await self._store.read(lambda tx: audit_log.page(tx, after, limit))

    async def audit_outside(self, *, after: str = "", limit: int = 1000) -> list[Link]:
        return await self._store.read(lambda tx: audit_log.outside(tx, after, limit))

    # -- webhooks -----------------------------------------------------------------------------------------------------

    async def put_endpoint(
        self, endpoint: EndpointRow, *, instead_of: EndpointRow | None, audit: Sequence[AuditEntry] = ()
    ) -> bool:
        return await self._store.write(lambda tx: webhooks.put_endpoint(tx, endpoint, instead_of, audit))

    async def endpoint(self, endpoint_id: str) -> EndpointRow | None:
        return await self._store.read(lambda tx: webhooks.find_endpoint(tx, endpoint_id))

    async def endpoints(self, tenant: str) -> list[EndpointRow]:
        return await self._store.read(lambda tx: webhooks.endpoints(tx, tenant))

    async def put_notice(self, notice: Notice) -> bool:
        return await self._store.write(lambda tx: webhooks.put_notice(tx, notice))

    async def notice(self, notice_id: str) -> Notice | None:
        return await self._store.read(lambda tx: webhooks.find_notice(tx, notice_id))

    async def fan_out(self, now_us: int) -> int:
        if not await self._store.read(webhooks.has_fresh):  # so that who only looks keeps nobody from writing
            return 0
        return await self._store.write(lambda tx: webhooks.fan_out(tx, now_us))

    async def claim_deliveries(
        self, now_us: int, *, until_us: int, busy: Sequence[str], per_endpoint: int, limit: int
    ) -> list[Claimed]:
        if not await self._store.read(lambda tx: webhooks.has_due(tx, now_us, busy)):
            return []
        chosen: dict[str, Any] = {"busy": busy, "per_endpoint": per_endpoint, "limit": limit}
        return await self._store.write(lambda tx: webhooks.claim(tx, now_us, until_us=until_us, **chosen))

    async def settle_deliveries(self, results: Sequence[Result], *, act: Act | None = None) -> int:
        return await self._store.write(lambda tx: webhooks.settle(tx, results, act))

    async def open_deliveries(self, deliveries: Sequence[Delivery], *, again: bool, act: Act | None = None) -> int:
        return await self._store.write(lambda tx: webhooks.open_again(tx, deliveries, act, again=again))

    async def delivery(self, delivery_id: str) -> Delivery | None:
        return await self._store.read(lambda tx: webhooks.find(tx, delivery_id))

    async def deliveries(
        self,
        tenant: str,
        *,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        chosen: dict[str, Any] = {"endpoint_id": endpoint, "state": state, "before": before, "limit": limit}
        return await self._store.read(lambda tx: webhooks.page(tx, tenant, **chosen))

    async def notices_of(
        self, tenant: str, *, start_us: int, end_us: int, after: tuple[int, str] | None = None, limit: int = 500
    ) -> list[Notice]:
        chosen: dict[str, Any] = {"start_us": start_us, "end_us": end_us, "after": after, "limit": limit}
        return await self._store.read(lambda tx: webhooks.notices_of(tx, tenant, **chosen))

    async def forget_deliveries(self, *, before_us: int) -> int:
        return await self._store.write(lambda tx: webhooks.forget(tx, before_us))

    # -- privacy ------------------------------------------------------------------------------------------------------

    async def tenant_key(self, tenant: str) -> str | None:
        return await self._store.read(lambda tx: privacy.key(tx, tenant))

    async def put_tenant_key(self, new: KeyRow, *, instead_of: str | None) -> bool:
        return await self._store.write(lambda tx: privacy.put_key(tx, new, instead_of))

    async def tenant_keys(self, *, after: str = "", limit: int = 1000) -> list[KeyRow]:
        return await self._store.read(lambda tx: privacy.keys(tx, after, limit))

    async def every_endpoint(self, *, after: str = "", limit: int = 1000) -> list[EndpointRow]:
        return await self._store.read(lambda tx: privacy.every_endpoint(tx, after, limit))

    async def forget_tenant(
        self, tenant: str, *, now_us: int, shard: int, audit: Sequence[AuditEntry] = ()
    ) -> Forgotten:
        done = await self._store.write(lambda tx: privacy.forget(tx, tenant, now_us, shard, audit))
        if not await self._store.wipe():
            log.warning(
                "forget: others read the ledger at %s; what went is in its log until they end", self._store.where
            )
        return done

    # -- keeping ------------------------------------------------------------------------------------------------------

    async def make_room(self, now_us: int) -> tuple[str, ...]:
        return await self._store.write(lambda tx: keeping.make_room(tx, now_us))

    async def retire(self, now_us: int, *, keep_months: int = KEEP_MONTHS) -> Retired:
        return await self._store.write(lambda tx: keeping.retire(tx, now_us, keep_months))

    async def kept_us(self) -> int:
        return await self._store.read(keeping.since_us)

    # -- what workers leave each other --------------------------------------------------------------------------------

    async def dead_letters(self, *, after: LetterKey = FIRST_LETTER, limit: int = 1000) -> list[DeadLetter]:
        return await self._store.read(lambda tx: workers.letters(tx, after, limit))

    async def count_dead_letters(self) -> int:
        return await self._store.read(workers.count_letters)

    async def remove_dead_letters(self, keys: Sequence[LetterKey], *, now_us: int, act: Act | None = None) -> None:
        await self._store.write(lambda tx: workers.remove_letters(tx, keys, now_us, act))

    async def raise_alert(self, kind: str, subject: str, *, detail: str, now_us: int) -> bool:
        return await self._store.write(lambda tx: workers.raise_alert(tx, kind, subject, detail, now_us))

    async def close_alert(self, kind: str, subject: str, *, now_us: int) -> bool:
        return await self._store.write(lambda tx: workers.close_alert(tx, kind, subject, now_us))

    async def open_alerts(self, *, after: tuple[str, str] = ("", ""), limit: int = 1000) -> list[Alert]:
        return await self._store.read(lambda tx: workers.open_alerts(tx, after, limit))

    async def hold(self, owner: str, *, take: Sequence[Lease] = (), drop: Sequence[Lease] = ()) -> list[Lease]:
        return await self._store.write(lambda tx: workers.hold(tx, owner, take, drop))

    async def runs(self, job: str, *, until_us: int, limit: int) -> list[Run]:
        return await self._store.read(lambda tx: workers.runs(tx, job, until_us, limit))

    async def put_run(self, run: Run, *, instead_of: Run) -> bool:
        return await self._store.write(lambda tx: workers.put_run(tx, run, instead_of))

    async def forget_runs(self, *, before_us: int) -> int:
        return await self._store.write(lambda tx: workers.forget_runs(tx, before_us))

    async def overview(self) -> Overview:
        return await self._store.read(overview.look)

    async def aclose(self) -> None:
        await self._store.aclose()


async def _snapshots(tx: Transaction, shard: int, ids: Sequence[str], since: date) -> dict[str, Snapshot]:
    row = await shards.find(tx, shard)
    owners = {owner.id: owner for owner in await tenancy.find_all(tx, ids)}
    usage = await cells.usage(tx, owners, since)
    ends = await levels.of_tenants(tx, owners)
    holds = await facts.open_holds(tx, owners)
    return {
        each: Snapshot(row, owners.get(each), usage.get(each, ()), ends.get(each, {}), holds.get(each, ()))
        for each in ids
    }


async def _used(tx: Transaction, tenant: str, first: date, last: date, timezone: str) -> Used:
    row = await tenancy.find(tx, tenant)
    carried, moves = await levels.values(tx, tenant, first), list[Fact]()
    if carried:
        start, end = days_us(first, last, row.timezone if row else timezone)
        moves = await facts.of_levels(tx, tenant, start, end)
    return Used(row, await cells.day_sums(tx, tenant, first, last), carried, moves)
