"""``mm-metering prove`` and ``rebuild``: that nothing is missing, and making anew what follows from the facts."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from mm_metering.cli.host import PROGRAM, by_hand, closing, metering_of, refuse_memory
from mm_metering.cli.options import App, Json, Quiet, Reason
from mm_metering.cli.show import bar, emit
from mm_metering.core.digest import Digest
from mm_metering.metering import Metering
from mm_metering.proof import Proof, TenantProof


def prove(
    *,
    shards_only: Annotated[bool, typer.Option("--shards-only", help="Leave tenants and invoices out.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """Show that all that was acknowledged is in the ledger once: equal digests per shard and tenant; and that each
    invoice is what it was made as. Exit code 1 if anything is missing or differs."""
    metering, tenants = metering_of(app), not shards_only
    refuse_memory(metering.places[1], "ledger", app)

    async def work(metering: Metering) -> Proof:
        with bar("tenants and invoices", None) as progress:
            return await metering.prove(tenants=tenants, progress=progress)

    proof = asyncio.run(closing(metering, work))
    if json:
        emit(_parts(proof))
    else:
        _show(proof, tenants=tenants)
    if not proof.holds:
        raise typer.Exit(1)


def rebuild(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="This tenant alone.")] = "",
    json: Json = False,
    quiet: Quiet = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Fold cells anew from the facts, and have every tenant's counters loaded anew. Usage goes on meanwhile."""
    metering = metering_of(app)
    refuse_memory(metering.places[1], "ledger", app)
    with by_hand(reason), bar("tenants", None) as progress:
        done = asyncio.run(closing(metering, lambda metering: metering.rebuild(tenant or None, progress=progress)))
    if json:
        emit(done)
    else:
        _say(f"{PROGRAM} rebuild: tenants: {done.tenants:,}, cells that were wrong: {done.cells:,}")


def _show(proof: Proof, *, tenants: bool) -> None:
    """A line per shard, and one for each tenant and invoice that differs."""
    _say(f"{'shard':>5}  {'acknowledged':>30}  {'ledger':>30}  {'cells':>30}")
    for each in proof.shards:
        digests = "  ".join(f"{digest!s:>30}" for digest in (each.acknowledged, each.folded, each.cells))
        _say(f"{each.shard:5}  {digests}  {each.verdict.value}")
    for off in proof.differ:
        _say(_difference(off))
    if tenants:
        _say(f"tenants folded anew: {proof.tenants:,}, of which differ: {len(proof.differ):,}")
        for invoice_id in proof.wrong_invoices:
            _say(f"invoice {invoice_id} is not what it was made as; rerun_invoice shows that")
        _say(f"invoices made anew: {proof.invoices:,}, of which differ: {len(proof.wrong_invoices):,}")
    if proof.holds:
        _say("proved: all that was acknowledged is in the ledger once, and in its cells")
    else:
        _say("not proved: see the lines in capitals, docs/reliability.md and `mm-metering rebuild`")


def _difference(off: TenantProof) -> str:
    cells = f"{len(off.wrong):,} cells differ, the first is {off.wrong[0].key}" if off.wrong else "other facts"
    return f"tenant {off.tenant!r}: cells {off.cells}, facts {off.facts}: {cells}"


def _parts(proof: Proof) -> dict[str, object]:
    """Digests as texts: JSON's numbers are too short for them in most languages."""
    shards = [
        {"shard": each.shard, "verdict": each.verdict.value.lower()}
        | {name: _digest(getattr(each, name)) for name in ("acknowledged", "folded", "cells")}
        for each in proof.shards
    ]
    differ = [
        {"tenant": each.tenant, "cells": _digest(each.cells), "facts": _digest(each.facts), "wrong": len(each.wrong)}
        for each in proof.differ
    ]
    kept = {name: getattr(proof, name) for name in ("tenants", "invoices", "wrong_invoices")}
    return {"holds": proof.holds, "shards": shards, "differ": differ, **kept}


def _digest(digest: Digest) -> dict[str, object]:
    return {"facts": digest.facts, "hashes": f"{digest.hashes:016x}"}


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
