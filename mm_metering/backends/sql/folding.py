"""The fold: facts, the cells that they move, and the levels, written together and each fact once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mm_metering.backends.sql import cells, facts, keeping, levels
from mm_metering.backends.sql import tenants as tenancy
from mm_metering.backends.sql.batch import Batch
from mm_metering.backends.sql.engine import Transaction, UnstorableValue
from mm_metering.backends.sql.tables import usage_fact
from mm_metering.core.cells import Calendar
from mm_metering.core.digest import Digest, total
from mm_metering.core.facts import Fact
from mm_metering.errors import Unstorable


class Folded(NamedTuple):
    """By what the digest of all that was folded changes, and what else the batch came to."""

    digest: Digest
    batch: Batch


async def fold(tx: Transaction, new: Sequence[Fact], default_timezone: str) -> Folded:
    calendars = await tenancy.calendars(tx, (fact.tenant for fact in new), default_timezone)
    batch = await _written(tx, new, calendars, await keeping.hold_still(tx))
    await levels.fold(tx, batch.cells, batch.levels, calendars)
    await cells.apply(tx, batch.cells)
    return Folded(total(Digest(cell.facts, cell.digest) for cell in batch.cells.values()), batch)


async def name_unstorable(tx: Transaction, facts: Sequence[Fact], timezone: str) -> None:
    """Raises Unstorable with the facts that the database refuses, and so undoes the others, which it folds by the way:
    halves of those that are refused together are tried, down to a single one."""
    refused: dict[int, str] = {}
    parts = [range(len(facts))]
    while parts:
        part = parts.pop()
        theirs = [facts[number] for number in part]
        try:
            with tx.storing():
                async with tx.connection.begin_nested():
                    await fold(tx, theirs, timezone)
        except UnstorableValue as error:
            if len(part) == 1:
                refused[part[0]] = str(error)
            else:
                half = len(part) // 2
                parts += (part[half:], part[:half])
    if refused:
        raise Unstorable(refused)


async def _written(tx: Transaction, new: Sequence[Fact], calendars: Mapping[str, Calendar], since_us: int) -> Batch:
    """Nearly always each fact is new, which the key tells for nothing: only where one is not, all are looked up."""
    targets = await facts.known(tx, (fact for fact in new if fact.kind == "void"))
    batch = Batch(targets, calendars, since_us=since_us)
    batch.fold(new)
    if not await tx.appended(usage_fact, facts.new_rows(batch)):
        batch = Batch(await facts.known(tx, new), calendars, since_us=since_us)
        batch.fold(new)
        await tx.append(usage_fact, facts.new_rows(batch))
    await facts.mark(tx, batch)
    return batch
