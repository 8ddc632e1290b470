"""PostgreSQL's partitions of the facts: one for each month of UTC, and a default one for what has none."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sqlalchemy import text

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import IS_LEVEL, usage_fact
from mm_metering.core.periods import from_micros

DEFAULT: Final = f"{usage_fact.name}_default"
LOCK_TIMEOUT_S: Final = 3
"""How long a change of the partitions waits for those who read: all who come later wait behind it."""

_BOUND: Final = re.compile(r"FOR VALUES FROM \('(-?\d+)'\) TO \('(-?\d+)'\)")
_EVERY: Final = text(f"""
    SELECT child.oid::regclass::text AS name, pg_get_expr(child.relpartbound, child.oid) AS bound
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = '{usage_fact.name}'::regclass
""")


class Partition(NamedTuple):
    """Facts from ``start_us`` on, and before ``end_us``."""

    start_us: int
    end_us: int
    name: str

    def meets(self, start_us: int, end_us: int) -> bool:
        return self.start_us < end_us and start_us < self.end_us


async def every(tx: Transaction) -> list[Partition]:
    """All but the default one, the oldest first."""
    found = [(row.name, _BOUND.fullmatch(row.bound)) for row in await tx.all(_EVERY)]
    return sorted(Partition(int(bound[1]), int(bound[2]), name) for name, bound in found if bound)


async def make(tx: Transaction, start_us: int, end_us: int) -> str:
    """Makes the partition of a month, and moves the facts there that the default one has of it: with them in it
    PostgreSQL would refuse."""
    name, parent = f"{usage_fact.name}_{from_micros(start_us):%Y_%m}", usage_fact.name
    months = f"occurred_us >= {start_us} AND occurred_us < {end_us}"
    await _run(
        tx,
        f"LOCK TABLE ONLY {parent} IN SHARE UPDATE EXCLUSIVE MODE",
        f"LOCK TABLE {DEFAULT} IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL)",
        f"WITH moved AS (DELETE FROM {DEFAULT} WHERE {months} RETURNING *) INSERT INTO {name} SELECT * FROM moved",
        f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({start_us}) TO ({end_us})",
    )
    return name


async def detach(tx: Transaction, partition: Partition) -> None:
    """Makes it a table of its own. Its facts of levels are copied into the default one."""
    parent, name = usage_fact.name, partition.name
    await _run(
        tx,
        f"ALTER TABLE {parent} DETACH PARTITION {name}",
        f"INSERT INTO {parent} SELECT * FROM {name} WHERE {IS_LEVEL}",
    )


async def _run(tx: Transaction, *statements: str) -> None:
    for statement in (f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'", *statements):
        await tx.run(text(statement))
