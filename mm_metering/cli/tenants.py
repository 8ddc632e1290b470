"""``mm-metering tenants``: who there is, all that is kept of one, and forgetting one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mm_metering.backends.ledger import tenant_pages
from mm_metering.backends.privacy import Forgotten
from mm_metering.cli.invoices import run
from mm_metering.cli.show import console, say, table
from mm_metering.core.periods import from_micros, micros
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.core.zones import zone_name
from mm_metering.metering import Metering

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    import typer

    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Tenants, and what is kept of them.")

    @group.command("list")
    def list_(*, limit: int = typer.Option(1000, "--limit", min=1, help="The first so many."), app: str = host) -> None:
        """Tenants by id: plan, status, zone, and since when they are forgotten."""
        run(app, lambda metering: show(metering, limit))

    @group.command()
    def export(
        tenant: str,
        *,
        out: str = typer.Option("-", "--out", metavar="FILE", help="Into this file, which only you may read."),
        app: str = host,
    ) -> None:
        """All that is kept of a tenant, one JSON object a line. Its \"kind\" says what it is; secrets are left out."""
        count = run(app, lambda metering: write(metering, tenant, out), counts=True)
        print(f"things: {count:,}", file=sys.stderr)  # noqa: T201

    @group.command()
    def forget(
        tenant: str,
        *,
        reason: str = typer.Option(..., "--reason", help="For the audit log: a request's number. Names nobody."),
        yes: bool = typer.Option(False, "--yes", help="Do not ask."),  # noqa: FBT003
        app: str = host,
    ) -> None:
        """Cancel a tenant for good, and destroy what is personal of it. Invoices, usage and the audit log stay, under
        its id. It cannot be undone; it may be run again."""
        if not yes:
            typer.confirm(f"Forget {tenant!r} for good?", abort=True)
        tell(run(app, lambda metering: metering.forget_tenant(tenant, reason=reason), counts=True))

    return group


async def show(metering: Metering, limit: int) -> None:
    rows, count, now_us = table("tenant", "plan", "status", "zone", "forgotten (UTC)"), 0, micros(metering.clock.now())
    async for page in tenant_pages(metering.ledger):
        for row in page[: limit - count]:
            rows.add_row(*_words(row, now_us))
            count += 1
        if count >= limit:
            break
    screen = console()
    if count:
        screen.print(rows)
    say(screen, f"tenants: {count:,}")


def _words(row: TenantRow, now_us: int) -> tuple[str, ...]:
    segment = row.segment_at(now_us)
    since = f"{from_micros(row.forgotten_us).astimezone(UTC):%Y-%m-%d %H:%M}" if row.forgotten_us else ""
    return row.id, plan_name(segment.plan), segment.status, zone_name(row.timezone), since


async def write(metering: Metering, tenant: str, out: str) -> int:
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
    return json.dumps(each, default=str, ensure_ascii=False) + "\n"


def tell(done: Forgotten) -> None:
    say(
        console(),
        f"{done.tenant.id}: forgotten. Destroyed: its key, the metadata of {done.facts:,} facts, {done.endpoints:,} "
        f"endpoints, {done.deliveries:,} deliveries, {done.notices:,} notices, {done.event_ids:,} event ids. "
        "Kept: invoices, usage, the audit log.",
    )
