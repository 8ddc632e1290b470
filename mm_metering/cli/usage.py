"""``mm-metering usage``: what was used, corrected by hand, brought in from elsewhere, and taken out."""

from __future__ import annotations

import csv
import gc
import sys
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Final

import typer

from mm_metering.billing.documents.rows import guarded
from mm_metering.cli.host import run
from mm_metering.cli.options import App, DryRun, Json, OfTenant, Quiet, Reason, TenantArgument, group
from mm_metering.cli.show import bar, console, count_tenants, emit, say, table
from mm_metering.cli.tenants import opened
from mm_metering.cli.usage_backfill import Options, backfill_file
from mm_metering.cli.usage_files import Sink, format_of
from mm_metering.core.events import aware
from mm_metering.core.money import plain
from mm_metering.core.periods import day_start, days_of, local_day, month_first, parse_day, period_of, zone
from mm_metering.core.usage import UsageRange
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.metering import Metering
from mm_metering.usage.adjusting import UsageAdjustment
from mm_metering.usage.backfill import BATCH

BY: Final = ("day", "meter", "resource", "model")
FIXED: Final = ("api_calls", "ai_requests", "ai_tokens", "webhook_deliveries", "exports", "storage_mb", "total_cost")
"""What each day has, whatever the catalogue."""


usage: Final = group("What was used: show, correct, bring in and take out.")
First = Annotated[str, typer.Option("--from", metavar="DAY", help="The first day, such as 2024-01-15.")]
Last = Annotated[str, typer.Option("--to", metavar="DAY", help="The last day, included.")]
Format = Annotated[str, typer.Option("--format", help="ndjson or csv; else by the file's name.")]


@usage.command()
def show(
    tenant: TenantArgument,
    *,
    from_: First = "",
    to: Last = "",
    by: Annotated[str, typer.Option("--by", help=f"{', '.join(BY)}.")] = "day",
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    json: Json = False,
    app: App = "",
) -> None:
    """What a tenant used, in its own days; this month of its zone unless --from or --to says otherwise."""
    if by not in BY:
        raise InvalidInput("by", f"{by[:40]!r} is none of {', '.join(BY)}")
    found = run(app, lambda metering: read(metering, tenant, from_, to, by), counts=True)
    if json:
        emit(found)
    else:
        (_as_csv if as_csv else _as_table)(tenant, found)


@usage.command(context_settings={"ignore_unknown_options": True})
def adjust(
    tenant: TenantArgument,
    meter: Annotated[str, typer.Argument(metavar="METER", help="Such as api_calls.")],
    quantity: Annotated[str, typer.Argument(metavar="QUANTITY", help="Such as -50: so much is taken off; 50 adds.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit log.")],
    at: Annotated[str, typer.Option("--at", metavar="INSTANT", help="When it was used, or the day; else now.")] = "",
    resource: Annotated[str, typer.Option("--resource", help="Of this resource; else of any, the largest first.")] = "",
    id: Annotated[str, typer.Option("--id", help="Your own id for it: a second time changes nothing.")] = "",
    json: Json = False,
    app: App = "",
) -> None:
    """Correct what was used. The opposite undoes it; the audit log has who, when and why. Late usage of a month whose
    invoice is final goes on the next invoice."""

    async def adjusted(metering: Metering) -> UsageAdjustment:
        given: dict[str, Any] = {"resource": resource or None, "reason": reason, "id": id or None}
        when = await instant(metering, tenant, at)
        return await metering.adjust_usage(tenant, meter, whole(quantity), occurred_at=when, **given)

    made = run(app, adjusted, counts=True, reason=reason)
    if json:
        emit(made)
    else:
        tell(made)


@usage.command()
def backfill(
    file: Annotated[str, typer.Argument(metavar="FILE", help="One JSON object a line, or CSV.")],
    *,
    dry_run: DryRun = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run came to.")] = False,
    form: Format = "",
    checkpoint: Annotated[str, typer.Option("--checkpoint", metavar="FILE", help="Else beside the file.")] = "",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Events of one transaction.")] = BATCH,
    strict: Annotated[bool, typer.Option("--strict", help="End after a batch with an event that is refused.")] = False,
    quiet: Quiet = False,
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Record the events of a file, straight into the ledger: one JSON object a line, or CSV. Each has its own id and is
    recorded once, however often the file is read. Ctrl-C ends it after a batch, and --resume goes on. Exit code 1 where
    an event was rejected or has the id of another."""
    gc.set_threshold(100_000, 20, 20)  # what a batch makes is in use until the batch is over
    options = Options(file, format_of(file, form), checkpoint, dry_run, resume, strict, quiet, json, batch)
    code = run(app, lambda metering: backfill_file(metering, options), counts=not dry_run, reason=reason)
    if code:
        raise typer.Exit(code)


@usage.command()
def export(
    *,
    tenant: OfTenant = "",
    from_: First = "",
    to: Last = "",
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Into this file, which only you may read.")] = "-",
    form: Format = "",
    app: App = "",
) -> None:
    """Each fact that counts, as a line that `usage backfill` reads: into another ledger as usage, into this one as a
    duplicate."""
    count = run(app, lambda metering: export_to(metering, tenant, (from_, to), out, form), counts=True)
    print(f"facts: {count:,}", file=sys.stderr)  # noqa: T201


# -- show --------------------------------------------------------------------------------------------------------------


async def read(metering: Metering, tenant: str, start: str, end: str, by: str) -> list[dict[str, Any]]:
    """Rows of equal columns."""
    first, last = await _days(metering, tenant, start, end)
    match by:
        case "resource":
            found = await metering.get_usage_by_resource(tenant, first, last)
            return [each.model_dump(mode="json") for each in found]
        case "model":
            stats = await metering.ai.get_usage_stats(tenant, first, last)
            models = sorted(stats.model_breakdown.items())
            return [
                {"model": name, "requests": each.requests, "tokens": each.tokens, "cost": plain(each.cost)}
                for name, each in models
            ]
    usage = await metering.get_usage(tenant, first, last)
    return _by_day(usage) if by == "day" else _by_meter(usage)


async def _days(metering: Metering, tenant: str, start: str, end: str) -> tuple[date | str, date | str]:
    """The running month of the tenant, up to its end, where nothing else is said."""
    row = await metering.ledger.tenant(tenant)
    if row is None:
        raise UnknownTenant(f"tenant {tenant!r} is not known; `mm-metering tenants list` has those that are")
    today = local_day(metering.clock.now(), zone(row.timezone))
    if end and not start:
        return month_first(_day(end), row.anchor_day), end
    first, _ = days_of(period_of(today, row.anchor_day), row.anchor_day)
    return start or first, end or today


def _day(text: str) -> date:
    return parse_day(text, "to")


def _by_day(usage: UsageRange) -> list[dict[str, Any]]:
    """Columns of what the range has nothing of are left out."""
    days = [day.model_dump(mode="json") for day in usage.days]
    whole = usage.model_dump(mode="json")
    fixed = [name for name in FIXED if name in ("api_calls", "total_cost") or getattr(usage, name)]
    meters = [name for name, used in whole["meters"].items() if name not in FIXED and _is_some(used)]
    return [
        {"day": day["date"]} | {name: day[name] for name in fixed} | {name: day["meters"][name] for name in meters}
        for day in days
    ]


def _by_meter(usage: UsageRange) -> list[dict[str, Any]]:
    meters = usage.model_dump(mode="json")["meters"]
    return [{"meter": name, "used": used, "refused": usage.refused.get(name, 0)} for name, used in meters.items()]


def _is_some(used: object) -> bool:
    return used not in (0, "0.00")


def _as_table(tenant: str, rows: Sequence[dict[str, Any]]) -> None:
    screen = console()
    if rows:
        shown = table(*(f">{name}" if isinstance(value, int) else name for name, value in rows[0].items()))
        for row in rows:
            shown.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
        screen.print(shown)
    say(screen, f"{tenant}: rows: {len(rows):,}")


def _as_csv(_tenant: str, rows: Sequence[dict[str, Any]]) -> None:
    written = csv.writer(sys.stdout, lineterminator="\n")
    if rows:
        written.writerow(rows[0])
        written.writerows(
            [guarded(value) if isinstance(value, str) else value for value in row.values()] for row in rows
        )


# -- adjust ------------------------------------------------------------------------------------------------------------


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput("quantity", f"{text[:40]!r} is not a whole number such as -50") from None


async def instant(metering: Metering, tenant: str, text: str) -> datetime | None:
    """A day means its first instant, in the tenant's zone."""
    if not text:
        return None
    if len(text) > len("2024-01-15"):
        return aware(text, "at")
    row = await metering.ledger.tenant(tenant)
    return day_start(parse_day(text, "at"), zone(row.timezone if row else metering.catalogue.timezone))


def tell(made: UsageAdjustment) -> None:
    if made.outcome == "duplicate":
        say(console(), f"{made.id}: was made before; nothing changed")
        return
    late = "; the month's invoice is final, so the next one has the difference" if made.late else ""
    what = f"{made.tenant}: {made.meter} {made.quantity:+,} on {made.day}"
    say(console(), f"{what}: {made.before:,} before, {made.after:,} now{late}")


# -- export ------------------------------------------------------------------------------------------------------------


async def export_to(metering: Metering, tenant: str, days: tuple[str, str], out: str, form: str) -> int:
    written, count, seen = format_of(out, form), 0, ""
    tenants = 1 if tenant else await count_tenants(metering.ledger)
    start, end = days
    with opened(out) as file, bar("tenants", tenants) as progress:
        sink, done = Sink(file, written), 0
        async for line in metering.export_usage(tenant or None, start=start or None, end=end or None):
            sink.write(line)
            count += 1
            if line["tenant"] != seen:
                seen, done = line["tenant"], done + 1
                progress(done)
    return count
