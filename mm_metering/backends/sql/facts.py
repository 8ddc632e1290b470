"""Reading and writing facts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import BigInteger, exists, literal_column, not_, select, tuple_, update
from sqlalchemy.types import Text

from mm_metering.backends.ledger import HoldKey
from mm_metering.backends.sql.batch import Batch, FactKey, Known, row_keys
from mm_metering.backends.sql.cells import exact_sum, joined
from mm_metering.backends.sql.dialects import Columns
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.rows import FACT, fact_of, fact_row
from mm_metering.backends.sql.tables import IS_HOLD, IS_LEVEL, IS_OPEN, usage_fact
from mm_metering.core.facts import Fact

ROW_KEY: Final[Columns] = {"tenant": Text(), "id": Text(), "occurred_us": BigInteger()}
_TENANT: Final[Columns] = {"tenant": Text()}
_FACT_KEY: Final[Columns] = {"tenant": Text(), "id": Text()}
PAGE: Final = 5_000
"""Facts read at a time where all of them are folded anew."""

_IN_ORDER: Final = (usage_fact.c.occurred_us, usage_fact.c.id)


async def known(tx: Transaction, facts: Iterable[Fact]) -> dict[FactKey, Known]:
    """What the ledger has of these facts, and of the targets of those that are voids."""
    rows = await tx.matching((*FACT, usage_fact.c.voided), ROW_KEY, row_keys(facts))
    return {FactKey(row.tenant, row.id): Known(fact_of(row), row.voided) for row in rows}


def new_rows(batch: Batch) -> list[tuple[Any, ...]]:
    """Each stored a microsecond after the one before it, so that the newest can be read in their order."""
    now_us, opened = time.time_ns() // 1000, batch.open_holds()
    return [
        fact_row(fact, is_voided=key in batch.voided, is_open=key in opened, stored_us=stored_us)
        for stored_us, (key, fact) in enumerate(batch.new.items(), now_us)
    ]


async def mark(tx: Transaction, batch: Batch) -> None:
    """Marks the facts with a row that were voided, and opens or closes holds."""
    await tx.update_matching(_MARK, ROW_KEY, ((fact.tenant, fact.id, fact.occurred_us) for fact in batch.marked))
    await tx.update_matching(_TURN_HOLD, _FACT_KEY, batch.unsettled_holds())


_MARK: Final = update(usage_fact).values(voided=True, open=False)

_close: Final = usage_fact.alias("mm_close")
_is_closed: Final = exists(
    select(1).where(
        _close.c.tenant == usage_fact.c.tenant,
        _close.c.target == usage_fact.c.id,
        _close.c.kind == literal_column("'close'"),  # as the index has it
        not_(_close.c.voided),
    )
)
# Whichever came first, hold or close, and whatever was voided since: open means no counted close. Only a change writes.
_TURN_HOLD: Final = (
    update(usage_fact)
    .where(IS_HOLD, not_(usage_fact.c.voided), usage_fact.c.open == _is_closed)
    .values(open=not_(usage_fact.c.open))
)


async def page(tx: Transaction, tenant: str, after: tuple[int, str], limit: int) -> list[Fact]:
    """Counted facts past (occurred_us, id), in that order."""
    statement = (
        select(*FACT)
        .where(usage_fact.c.tenant == tenant, tuple_(*_IN_ORDER) > after, not_(usage_fact.c.voided))
        .order_by(*_IN_ORDER)
        .limit(limit)
    )
    return [fact_of(row) for row in await tx.all(statement)]


async def pages(tx: Transaction, tenant: str, from_us: int) -> AsyncIterator[list[Fact]]:
    """All counted facts from an instant on, in order."""
    after = (from_us, "")
    while facts := await page(tx, tenant, after, PAGE):
        yield facts
        after = (facts[-1].occurred_us, facts[-1].id)


async def of_level(tx: Transaction, tenant: str, resource: str, from_us: int) -> list[Fact]:
    """The counted facts from an instant on that move levels of a resource."""
    statement = (
        select(*FACT)
        .where(usage_fact.c.tenant == tenant, usage_fact.c.resource == resource, IS_LEVEL)
        .where(usage_fact.c.occurred_us >= from_us, not_(usage_fact.c.voided))
        .order_by(*_IN_ORDER)
    )
    return [fact_of(row) for row in await tx.all(statement)]


async def of_levels(tx: Transaction, tenant: str, start_us: int, end_us: int) -> list[Fact]:
    """The counted facts in [start, end) that move levels."""
    statement = (
        select(*FACT)
        .where(usage_fact.c.tenant == tenant, IS_LEVEL, not_(usage_fact.c.voided))
        .where(usage_fact.c.occurred_us >= start_us, usage_fact.c.occurred_us < end_us)
        .order_by(*_IN_ORDER)
    )
    return [fact_of(row) for row in await tx.all(statement)]


async def open_holds(tx: Transaction, tenants: Iterable[str]) -> dict[str, tuple[Fact, ...]]:
    """Each tenant's open holds, in order; those with none are left out."""
    found: dict[str, list[Fact]] = {}
    for row in await tx.matching(FACT, _TENANT, ((each,) for each in tenants), where=(IS_OPEN,)):
        found.setdefault(row.tenant, []).append(fact_of(row))
    return {tenant: tuple(sorted(theirs, key=attrgetter("occurred_us", "id"))) for tenant, theirs in found.items()}


async def spent(tx: Transaction, tenant: str, event_type: str, spans: Iterable[tuple[int, int]]) -> list[int]:
    theirs = select(*exact_sum(usage_fact.c.cost_nanos)).where(
        usage_fact.c.tenant == tenant, usage_fact.c.event_type == event_type, not_(usage_fact.c.voided)
    )
    found = []
    for start_us, end_us in spans:
        inside = theirs.where(usage_fact.c.occurred_us >= start_us, usage_fact.c.occurred_us < end_us)
        found += [joined(*row) for row in await tx.all(inside)]
    return found


async def overdue_holds(tx: Transaction, before_us: int, after: HoldKey, limit: int) -> list[Fact]:
    order = (usage_fact.c.occurred_us, usage_fact.c.tenant, usage_fact.c.id)
    overdue = select(*FACT).where(IS_OPEN, usage_fact.c.occurred_us < before_us, tuple_(*order) > after)
    return [fact_of(row) for row in await tx.all(overdue.order_by(*order).limit(limit))]


async def owners(tx: Transaction, tenants: Iterable[str]) -> set[str]:
    """Those of the tenants that have facts."""
    given, source = sorted(tenants), tx.dialect.keys(_TENANT)
    has_facts = exists(select(1).where(usage_fact.c.tenant == source.c.tenant))
    values = tx.dialect.key_values(_TENANT, [(each,) for each in given])
    return {row.tenant for row in await tx.all(select(source.c.tenant).where(has_facts), values)} if given else set()
