"""Usage that goes into the ledger directly, past the counters and their stream: events in bulk, and corrections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

from mm_metering.core.audit import AuditEntry
from mm_metering.core.cells import Cell
from mm_metering.core.facts import Fact
from mm_metering.core.tenancy import TenantDefaults, TenantRow

if TYPE_CHECKING:
    from mm_metering.backends.ledger import Claim, ClaimRequest

Landing: TypeAlias = Literal["recorded", "duplicate", "conflict", "unknown", "forgotten", "retired", "billed"]

SETTLING_S: Final = 60
"""So long after usage was written here, counters of its shard may be other than the ledger, and nothing is wrong."""


class Stated(NamedTuple):
    """An event with a caller's id, as a fact."""

    fact: Fact
    event_id: str
    digest: bytes


class Landed(NamedTuple):
    """What became of it. Nothing is written of one that is not "recorded".

    duplicate  it is there already, at ``occurred_us``     conflict   its id was claimed for another payload
    unknown    there is no such tenant, and no default plan      forgotten  the tenant was forgotten
    retired    it lies before ``kept_us``
    billed     it lies before ``books.late_us``, and the invoice of its month, which is ``period``, stands
    """

    landing: Landing
    period: str = ""
    occurred_us: int = 0


class DayUse(NamedTuple):
    """A tenant, and its cells of a local day. ``period`` is the day's month, ``billed`` whether its invoice stands.
    ``kept_us`` as the ledger's."""

    tenant: TenantRow
    cells: Sequence[Cell]
    period: str
    billed: bool
    kept_us: int


class Correction(NamedTuple):
    """What is to be written: facts of the day, and what the audit log says of it."""

    facts: tuple[Fact, ...] = ()
    audit: tuple[AuditEntry, ...] = ()


class Bulk(Protocol):
    """A part of the ``Ledger`` law. The facts written here count like those that ``fold`` writes; a shard's digest and
    what nobody's process ("") acknowledged there move by the same, ``reported_us`` being ``now_us``. Counters that are
    loaded do not show them: whoever calls has the tenants loaded anew, within SETTLING_S."""

    async def backfill(
        self,
        stated: Sequence[Stated],
        *,
        shards: int,
        defaults: TenantDefaults,
        now_us: int,
        writes: bool = True,
    ) -> list[Landed]:
        """Claims the ids of those that may be recorded, and writes their facts. Answers in the order asked.

        A fact whose id is claimed for the same payload, and which is not here, is written too ("duplicate"), at the
        instant of its claim; it is not acknowledged again. Tenants that are not known are made with the default plan.
        ``writes`` False changes nothing and answers what would become of them. Unstorable as in ``fold``.
        """
        ...

    async def adjust(
        self, request: ClaimRequest, decide: Callable[[DayUse], Correction], *, shard: int, now_us: int
    ) -> Claim:
        """Claims the request's id and, if that is "new", writes what ``decide`` makes of the tenant's day that holds
        ``request.occurred_us``. Nothing of that tenant is folded between the two. What ``decide`` raises undoes all.
        UnknownTenant."""
        ...
