"""What each process says that it acknowledged."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import case, delete, select

from mm_metering.backends.ledger import Acknowledged
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import acknowledged
from mm_metering.core.digest import MASK, Digest, total


async def put(tx: Transaction, process: str, digests: Mapping[int, Digest], now_us: int) -> None:
    statement = tx.insert(acknowledged)
    changed = {name: statement.excluded[name] for name in ("facts", "digest", "reported_us")}
    upsert = statement.on_conflict_do_update(index_elements=list(acknowledged.primary_key), set_=changed)
    await tx.run_each(upsert, [_row(process, shard, each, now_us) for shard, each in sorted(digests.items())])


async def merge(tx: Transaction, before_us: int) -> int:
    """Deletes what it adds up, so that of two at once each takes its own rows."""
    gone = delete(acknowledged).where(acknowledged.c.process != "", acknowledged.c.reported_us < before_us)
    rows = await tx.all(gone.returning(*acknowledged.c))
    if not rows:
        return 0
    for shard in sorted({row.shard for row in rows}):
        merged = total(Digest(row.facts, row.digest) for row in rows if row.shard == shard)
        await add(tx, shard, merged, before_us)
    return len({row.process for row in rows})


async def add(tx: Transaction, shard: int, more: Digest, reported_us: int = 0) -> None:
    """To what nobody's process has acknowledged there; ``reported_us`` is when that was last."""
    statement = tx.insert(acknowledged)
    sums = {
        "facts": acknowledged.c.facts + statement.excluded.facts,
        "digest": (acknowledged.c.digest + statement.excluded.digest).bitwise_and(MASK),
        "reported_us": case(
            (acknowledged.c.reported_us > statement.excluded.reported_us, acknowledged.c.reported_us),
            else_=statement.excluded.reported_us,
        ),
    }
    upsert = statement.on_conflict_do_update(index_elements=list(acknowledged.primary_key), set_=sums)
    await tx.run(upsert, _row("", shard, more, reported_us))


def _row(process: str, shard: int, digest: Digest, reported_us: int) -> dict[str, object]:
    sums = {"facts": digest.facts, "digest": digest.hashes}
    return {"process": process, "shard": shard, **sums, "reported_us": reported_us}


async def every(tx: Transaction) -> list[Acknowledged]:
    rows = await tx.all(select(acknowledged).order_by(*acknowledged.primary_key))
    return [Acknowledged(row.process, row.shard, Digest(row.facts, row.digest), row.reported_us) for row in rows]
