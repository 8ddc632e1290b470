"""The shards' rows: how far the ledger has folded each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import and_, bindparam, case, or_, select, update

from mm_metering.backends.counters import START
from mm_metering.backends.ledger import ShardRow
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import shard
from mm_metering.core.digest import MASK, Digest

_UNKNOWN: Final = ShardRow(0, START, 0)
_COLUMNS: Final = tuple(shard.c[name] for name in ShardRow._fields)


async def find(tx: Transaction, number: int, *, lock: bool = False) -> ShardRow:
    statement = select(*_COLUMNS).where(shard.c.shard == number)
    row = await tx.first(statement.with_for_update() if lock else statement)
    return ShardRow(*row) if row else _UNKNOWN


async def certify(tx: Transaction, number: int, seen: int) -> tuple[int, bool]:
    await _make(tx, number)
    row = await find(tx, number, lock=True)
    generation = max(row.next_generation, seen) + 1
    await tx.run(update(shard).where(shard.c.shard == number).values(next_generation=generation))
    return generation, row.next_generation == 0


async def advance(tx: Transaction, number: int, *, generation: int, before: str, after: str) -> bool:
    """Moves the position on if the shard stands at ``before``, and locks its row until the transaction ends."""
    stands = and_(shard.c.generation == generation, shard.c.position == before)
    begins = shard.c.generation < generation if before == START else stands
    statement = (
        update(shard)
        .where(shard.c.shard == number, or_(stands, begins))
        .values(
            generation=generation,
            position=after,
            next_generation=case((shard.c.next_generation < generation, generation), else_=shard.c.next_generation),
        )
    )
    if await tx.run(statement):
        return True
    return await _make(tx, number) and bool(await tx.run(statement))


async def hold(tx: Transaction, number: int, more: Digest) -> None:
    """Adds to the digest of what the shard has folded."""
    sums = {"facts": shard.c.facts + more.facts, "digest": (shard.c.digest + more.hashes).bitwise_and(MASK)}
    await tx.run(update(shard).where(shard.c.shard == number).values(sums))


async def hold_still(tx: Transaction, numbers: Iterable[int]) -> None:
    """Nothing of these shards is folded until the transaction ends. In order, so that two of these never wait for each
    other crosswise."""
    for number in sorted(numbers):
        if not await tx.run(_TOUCH, {"number": number}):
            await _make(tx, number)


_TOUCH: Final = update(shard).where(shard.c.shard == bindparam("number")).values(facts=shard.c.facts)


async def digests(tx: Transaction) -> dict[int, Digest]:
    rows = await tx.all(select(shard.c.shard, shard.c.facts, shard.c.digest))
    return {row.shard: Digest(row.facts, row.digest) for row in rows}


async def _make(tx: Transaction, number: int) -> bool:
    """Makes the shard's row; False if it is there already."""
    row = {"shard": number, **_UNKNOWN._asdict()}
    return bool(await tx.run(tx.insert(shard).on_conflict_do_nothing(), row))
