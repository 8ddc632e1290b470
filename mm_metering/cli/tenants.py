"""``mm-metering tenants``: who there is, what becomes of one, all that is kept of one, and forgetting one."""

from __future__ import annotations

import contextlib
import json as _json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer

from mm_metering.backends.ledger import tenant_pages
from mm_metering.backends.privacy import Forgotten
from mm_metering.cli import subscriptions
from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, TenantArgument, Yes, group
from mm_metering.cli.show import console, emit, say, table
from mm_metering.core.periods import from_micros, micros
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.core.zones import zone_name
from mm_metering.metering import Metering

tenants: Final = group("Tenants, their plans and states, and what is kept of them.")
tenants.command()(subscriptions.show)
tenants.command("set-plan")(subscriptions.set_plan)
for _command in (subscriptions.override, subscriptions.suspend, subscriptions.resume, subscriptions.cancel):
    tenants.command()(_command)


@tenants.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The first so many.")] = 1000,
    json: Json = False,
    app: App = "",
) -> None:
    """Tenants by id: plan, status, zone, and since when they are forgotten."""
    found = run(app, lambda metering: _found(metering, limit))
    if json:
        emit(found)
    else:
        show_list(found)


@tenants.command()
def export(
    tenant: TenantArgument,
    *,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Into this file, which only you may read.")] = "-",
    app: App = "",
) -> None:
    """All that is kept of a tenant, one JSON object a line. Its "kind" says what it is; secrets are left out."""
    count = run(app, lambda metering: _write(metering, tenant, out), counts=True)
    print(f"things: {count:,}", file=sys.stderr)  # noqa: T201


@tenants.command()
def forget(
    tenant: TenantArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="For the audit log: a request's number. Names nobody.")],
    yes: Yes = False,
    json: Json = False,
    app: App = "",
) -> None:
    """Cancel a tenant for good, and destroy what is personal of it. Invoices, usage and the audit log stay, under
    its id. It cannot be undone; it may be run again."""
    if not yes:
        typer.confirm(f"Forget {tenant!r} for good?", abort=True, err=True)
    done = run(app, lambda metering: metering.forget_tenant(tenant, reason=reason), counts=True)
    if json:
        emit({"tenant": done.tenant.id, **_destroyed(done)})
    else:
        tell_forgotten(done)


# -- who there is ------------------------------------------------------------------------------------------------------


async def _found(metering: Metering, limit: int) -> list[dict[str, object]]:
    found, now_us = list[dict[str, object]](), micros(metering.clock.now())
    async for page in tenant_pages(metering.ledger):
        found += [_parts(row, now_us) for row in page[: limit - len(found)]]
        if len(found) >= limit:
            break
    return found


def _parts(row: TenantRow, now_us: int) -> dict[str, object]:
    segment = row.segment_at(now_us)
    return {
        "tenant": row.id,
        "plan": plan_name(segment.plan),
        "status": segment.status,
        "timezone": zone_name(row.timezone),
        "forgotten_at": from_micros(row.forgotten_us) if row.forgotten_us else None,
    }


def show_list(found: list[dict[str, object]]) -> None:
    """A row for each."""
    rows = table("tenant", "plan", "status", "zone", "forgotten (UTC)")
    for each in found:
        *names, forgotten_at = each.values()
        rows.add_row(*map(str, names), f"{forgotten_at:%Y-%m-%d %H:%M}" if forgotten_at else "")
    screen = console()
    if found:
        screen.print(rows)
    say(screen, f"tenants: {len(found):,}")


# -- what is kept of one -----------------------------------------------------------------------------------------------


async def _write(metering: Metering, tenant: str, out: str) -> int:
    count = 0
    with opened(out) as file:
        async for each in metering.export_tenant(tenant):
            file.write(_line(each))
            count += 1
    return count


def opened(out: str) -> contextlib.AbstractContextManager[IO[str]]:
    if out == "-":
        return contextlib.nullcontext(sys.stdout)
    path = Path(out)
    path.touch(mode=0o600)
    return path.open("w", encoding="utf-8")


def _line(each: Mapping[str, Any]) -> str:
    return _json.dumps(each, default=str, ensure_ascii=False) + "\n"


def tell_forgotten(done: Forgotten) -> None:
    """What was destroyed, and what stays."""
    parts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in _counts(done))
    say(
        console(),
        f"{done.tenant.id}: forgotten. Destroyed: its key, the metadata of {done.facts:,} facts, {parts}. "
        "Kept: invoices, usage, the audit log.",
    )


def _destroyed(done: Forgotten) -> dict[str, int]:
    return {"facts": done.facts, **dict(_counts(done))}


def _counts(done: Forgotten) -> Iterator[tuple[str, int]]:
    for name in ("endpoints", "deliveries", "notices", "event_ids"):
        yield name, getattr(done, name)
