"""What each process says that it acknowledged."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from mm_metering.backends.ledger import Acknowledged
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import acknowledged
from mm_metering.core.digest import Digest


async def put(tx: Transaction, process: str, digests: Mapping[int, Digest], now_us: int) -> None:
    statement = tx.insert(acknowledged)
    changed = {name: statement.excluded[name] for name in ("facts", "digest", "reported_us")}
    upsert = statement.on_conflict_do_update(index_elements=list(acknowledged.primary_key), set_=changed)
    rows = [
        {"process": process, "shard": shard, "facts": each.facts, "digest": each.hashes, "reported_us": now_us}
        for shard, each in sorted(digests.items())
    ]
    await tx.run_each(upsert, rows)


async def every(tx: Transaction) -> list[Acknowledged]:
    rows = await tx.all(select(acknowledged).order_by(*acknowledged.primary_key))
    return [Acknowledged(row.process, row.shard, Digest(row.facts, row.digest), row.reported_us) for row in rows]
