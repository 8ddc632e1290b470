"""Plans: every version of every plan, as the tenants' timelines name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import plan_version

Definition = Mapping[str, Any]


async def put(tx: Transaction, definitions: Mapping[str, Definition], now_us: int) -> dict[str, int]:
    """Two that put the same new version at once: one meets the other's row, and is run again."""
    newest = await _newest(tx)
    rows = []
    for plan, definition in sorted(definitions.items()):
        version, stored = newest.get(plan, (0, ""))
        text = json.dumps(definition, sort_keys=True)
        if version == 0 or text != stored:
            newest[plan] = (version + 1, text)
            rows.append({"plan": plan, "version": version + 1, "definition": text, "created_us": now_us})
    await tx.run_each(plan_version.insert(), rows)
    return {plan: newest[plan][0] for plan in definitions}


async def _newest(tx: Transaction) -> dict[str, tuple[int, str]]:
    rows = await tx.all(select(plan_version).order_by(plan_version.c.version))
    return {row.plan: (row.version, row.definition) for row in rows}


async def every(tx: Transaction) -> dict[tuple[str, int], Definition]:
    rows = await tx.all(select(plan_version).order_by(plan_version.c.plan, plan_version.c.version))
    return {(row.plan, row.version): json.loads(row.definition) for row in rows}
