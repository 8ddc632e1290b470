"""The ledger: durable facts and what follows from them. It is the truth; the counters are a cache of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from mm_metering.backends.accounts import Accounts
from mm_metering.backends.audit_log import Audited
from mm_metering.backends.bulk import Bulk
from mm_metering.backends.collecting import Collecting
from mm_metering.backends.looks import Looks
from mm_metering.backends.overview import Overviewed
from mm_metering.backends.privacy import Privacy
from mm_metering.backends.usage_reports import UsageReports
from mm_metering.backends.webhooks import Outgoing
from mm_metering.backends.work import DeadLetter, Work
from mm_metering.core.audit import Act
from mm_metering.core.cells import Cell, CellKey, LevelEnd
from mm_metering.core.digest import Digest
from mm_metering.core.facts import Fact
from mm_metering.core.identity import CANARY
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow
from mm_metering.core.timeline import Change

MAX_SNAPSHOTS: Final = 64
"""Most tenants that one ``snapshots`` is asked for."""
KEEP_MONTHS: Final = 25
"""How long facts are kept, in whole months of UTC besides the running one. Their cells stay for ever."""


HoldKey: TypeAlias = tuple[int, str, str]
FIRST_HOLD: Final[HoldKey] = (-(2**63), "", "")
"""Before every hold."""


def hold_key(hold: Fact) -> HoldKey:
    """The oldest first."""
    return hold.occurred_us, hold.tenant, hold.id


class ShardRow(NamedTuple):
    """How far the ledger has folded a shard: ``position`` in ``generation``; 0 and START before the first drain.
    ``next_generation`` is the highest number ever handed out."""

    generation: int
    position: str
    next_generation: int


class UsageRow(NamedTuple):
    """Cells summed over resources: what the counters are loaded from."""

    day: date
    since_us: int
    meter: str
    scope: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one transaction saw of a tenant: enough to load its counters."""

    shard: ShardRow
    tenant: TenantRow | None
    usage: tuple[UsageRow, ...]
    levels: Mapping[tuple[str, str], LevelEnd]
    holds: tuple[Fact, ...]


class Used(NamedTuple):
    """What one transaction saw of a tenant's days. ``sums``: their cells, but those of a scope, by day and meter, as
    cells of no segment, resource or digest. ``carried``: each level (meter, resource) as it stood at the start of the
    first day. ``moves``: the counted facts that changed levels in these days, in order of (occurred_us, id)."""

    tenant: TenantRow | None
    sums: Sequence[Cell]
    carried: Mapping[tuple[str, str], int]
    moves: Sequence[Fact]


@dataclass(frozen=True, slots=True)
class Claim:
    """A caller's event id. "new": claimed now; "known": claimed before for the same payload; "conflict": for another.
    ``occurred_us`` is the first claim's, so that posting it again meets the same ledger row."""

    outcome: Literal["new", "known", "conflict"]
    occurred_us: int
    in_ledger: bool


class ClaimRequest(NamedTuple):
    """``fact_id`` is the id that the event's fact has or will have in the ledger."""

    tenant: str
    event_id: str
    digest: bytes
    occurred_us: int
    fact_id: str


class Acknowledged(NamedTuple):
    """What a process has acknowledged in a shard, in all its life up to ``reported_us``."""

    process: str
    shard: int
    digest: Digest
    reported_us: int


class Retired(NamedTuple):
    """``facts`` deleted, ``tables`` detached: whose archive they are is up to who runs the database. ``more``: there
    is at least one more call's work."""

    facts: int
    tables: tuple[str, ...]
    more: bool


class Ledger(Work, Bulk, Accounts, Audited, Collecting, UsageReports, Outgoing, Privacy, Overviewed, Looks, Protocol):
    """The law that every implementation keeps; ``mm_metering.testing.LedgerContract`` checks it.

    Each method is one transaction. All may raise StoreUnavailable; nothing was written then, or all of it.
    """

    async def setup(self, *, apply: bool) -> None:
        """Makes the schema ready. With ``apply`` False an unready one raises NotApplied with the command."""
        ...

    async def may_apply(self) -> bool:
        """Whether schema and plans are applied here without being asked: memory, SQLite, and an empty database."""
        ...

    # -- shards and facts

    async def certify(self, shard: int, *, seen: int) -> tuple[int, bool]:
        """Hands out a generation above every other and above ``seen``; True with it if it is the shard's first."""
        ...

    async def shard(self, shard: int) -> ShardRow: ...

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
        """Writes facts, cells, dead letters and the shard's position from ``before`` to ``after`` together, or nothing.

        False if the shard stands elsewhere by now (another drain was first). A higher ``generation`` than the row's
        starts at position START. Each fact counts once, by (tenant, id): repeats change nothing. A void takes its
        target out of the cells, or keeps it out if it comes later. A close ends its hold, whichever comes first.

        Unstorable names those of the facts whose values do not fit, and nothing was written: without them it will be.
        A dead letter is written once, and opens its shard's alert.
        """
        ...

    async def snapshots(
        self, shard: int, tenants: Sequence[str], *, since: date, defaults: TenantDefaults, now_us: int
    ) -> Mapping[str, Snapshot]:
        """Each tenant's snapshot: the shard's row and the tenant's usage from the local day ``since`` on, levels and
        open holds, all as of one instant after the call. At most MAX_SNAPSHOTS tenants.

        Makes unknown tenants with the default plan if there is one (subscribed at now_us), in a transaction of its
        own; without one their ``tenant`` is None, and all else is empty.
        """
        ...

    # -- what proves that nothing was lost

    async def report(
        self,
        process: str,
        *,
        acknowledged: Mapping[int, Digest],
        refused: Mapping[CellKey, int],
        now_us: int,
    ) -> None:
        """Stores what a process acknowledged by shard since it began, in place of its last report, and adds what it
        refused since that to the cells. The process "" is nobody's."""
        ...

    async def acknowledged(self) -> list[Acknowledged]:
        """Every process's last report, by process and shard."""
        ...

    async def merge_reports(self, *, before_us: int) -> int:
        """Adds up the reports of processes that have not reported since ``before_us``, as one process "": how many."""
        ...

    async def folded(self) -> Mapping[int, Digest]:
        """By shard: the facts that it has folded and that count, kept as they came."""
        ...

    async def cell_digests(self, *, after: str = "", limit: int = 1000) -> list[tuple[str, Digest]]:
        """By tenant: the same facts, as its cells have them. One page, by id."""
        ...

    async def rebuild_cells(self, tenant: str, *, act: Act | None = None) -> int:
        """Folds the tenant's facts anew; how many cells were not what they must be."""
        ...

    # -- events with a caller's id

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[Claim]:
        """Claims event ids for ever; the first payload stays. Answers in the order asked."""
        ...

    # -- plans and tenants

    async def put_plans(
        self, definitions: Mapping[str, Mapping[str, Any]], *, now_us: int, act: Act | None = None
    ) -> Mapping[str, int]:
        """Stores each definition that differs from its plan's newest version as a new version; the newest of each."""
        ...

    async def plan_versions(self) -> Mapping[tuple[str, int], Mapping[str, Any]]:
        """Every version of every plan, by (plan, version)."""
        ...

    async def tenant(self, tenant: str) -> TenantRow | None: ...

    async def tenants(self, *, after: str = "", limit: int = 1000) -> list[TenantRow]:
        """One page, by id."""
        ...

    async def put_tenant(
        self, new: NewTenant, *, defaults: TenantDefaults, now_us: int, act: Act | None = None
    ) -> TenantRow:
        """Inserts or changes a tenant (``tenancy.changed_tenant``); a changed value raises the revision. Its cells are
        folded anew where the zone or the timeline changed; a known one's timeline goes out as a notice
        (``books.timeline_news``)."""
        ...

    async def change_subscription(
        self, tenant: str, change: Change, *, now_us: int | None = None, act: Act | None = None
    ) -> TenantRow:
        """Changes a tenant's timeline (``tenancy.with_change``), and splits the cells there. With ``now_us`` a change
        goes out as a notice (``books.timeline_news``). UnknownTenant if there is
        none; InvalidInput for an instant before the sign-up; WrongState for what its state does not allow."""
        ...

    # -- reading

    async def cells(self, tenant: str, *, first: date, last: date) -> list[Cell]:
        """The cells with facts of the local days from first to last, both included, in key order."""
        ...

    async def meters_used(self, tenants: Sequence[str]) -> Mapping[str, int]:
        """By meter of a catalogue: how many of these tenants have facts that count in it, of any day."""
        ...

    async def used(self, tenant: str, *, first: date, last: date, timezone: str) -> Used:
        """The tenant's local days from first to last, both included; ``timezone`` is that of one without a row."""
        ...

    async def facts(self, tenant: str, *, after: tuple[int, str], limit: int) -> list[Fact]:
        """A page of the tenant's counted facts past (occurred_us, id), in that order; voided ones are left out."""
        ...

    async def spent(self, tenant: str, event_type: str, spans: Sequence[tuple[int, int]]) -> list[int]:
        """What the counted facts of an event type cost in each [start, end) of instants, in nano-units."""
        ...

    async def overdue_holds(self, before_us: int, *, after: HoldKey = FIRST_HOLD, limit: int) -> list[Fact]:
        """Open holds that were taken before then, past ``hold_key`` and in its order."""
        ...

    # -- keeping

    async def make_room(self, now_us: int) -> tuple[str, ...]:
        """Makes where the facts of this month and of the next three are stored, and moves those there that came before
        it was made; the names of what is new. To be called daily: PostgreSQL's drain is slower in a month without it,
        and its facts cannot be detached one day. Nothing elsewhere."""
        ...

    async def retire(self, now_us: int, *, keep_months: int = KEEP_MONTHS) -> Retired:
        """Takes the facts of the months before the last ``keep_months`` out, a bounded part of them; call again while
        there is ``more``. Cells stay as they are, and so do the facts that set and add levels: a level rests on all.

        ``kept_us`` moves with the first that goes, and never back. A fact from before it that comes later is stored
        voided, and counts nowhere: whether it was counted before can no longer be told. A void of a retired fact
        changes nothing.
        """
        ...

    async def kept_us(self) -> int:
        """The instant from which on all facts are here: -(2**62) if none were retired."""
        ...

    async def aclose(self) -> None: ...


async def tenant_pages(ledger: Ledger, size: int = 1000) -> AsyncIterator[list[TenantRow]]:
    """All tenants by id but the check-up's own, at most ``size`` at a time; no page is empty."""
    after = ""
    while page := await ledger.tenants(after=after, limit=size):
        if theirs := [row for row in page if row.id != CANARY]:
            yield theirs
        after = page[-1].id
