"""Plans: every version of every plan, as the tenants' timelines name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import plan_version
from mm_metering.core.audit import Act
from mm_metering.core.audited import Plans, plans_stored

Definition = Mapping[str, Any]


async def put(
    tx: Transaction, definitions: Mapping[str, Definition], now_us: int, act: Act | None = None
) -> dict[str, int]:
    """Two that put the same new version at once: one meets the other's row, and is run again."""
    newest = await _newest(tx)
    before, rows = dict(newest), list[dict[str, Any]]()
    for plan, definition in sorted(definitions.items()):
        version, stored = newest.get(plan, (0, ""))
        text = json.dumps(definition, sort_keys=True)
        if version == 0 or text != stored:
            newest[plan] = (version + 1, text)
            rows.append({"plan": plan, "version": version + 1, "definition": text, "created_us": now_us})
    await tx.run_each(plan_version.insert(), rows)
    made = {row["plan"]: newest[row["plan"]] for row in rows}
    tx.note(plans_stored(_read(before) if made else {}, _read(made), act))
    return {plan: newest[plan][0] for plan in definitions}


def _read(texts: Mapping[str, tuple[int, str]]) -> Plans:
    return {plan: (version, json.loads(text)) for plan, (version, text) in texts.items()}


async def _newest(tx: Transaction) -> dict[str, tuple[int, str]]:
    rows = await tx.all(select(plan_version).order_by(plan_version.c.version))
    return {row.plan: (row.version, row.definition) for row in rows}


async def every(tx: Transaction) -> dict[tuple[str, int], Definition]:
    rows = await tx.all(select(plan_version).order_by(plan_version.c.plan, plan_version.c.version))
    return {(row.plan, row.version): json.loads(row.definition) for row in rows}
