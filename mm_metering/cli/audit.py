"""``mm-metering audit``: who did what, whether that is what was written, and taking it elsewhere."""

from __future__ import annotations

import json as _json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from mm_metering.cli.host import on_ledger
from mm_metering.cli.options import App, Json, Quiet, group
from mm_metering.cli.show import bar, console, emit, say, table
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import AuditReport, Link, anchors_in
from mm_metering.core.events import aware
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

MOVED_EVERY: Final = 1_000
"""So many entries move the bar."""
SHOWN: Final = 10
"""How much of what is broken is printed."""


audit: Final = group("Who changed what, and whether that is true.")


@audit.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help='Of this tenant; "" for the house.')] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 100,
    json: Json = False,
    app: App = "",
) -> None:
    """Who did what, when, to what and why, the newest first."""

    async def read(metering: Metering) -> list[AuditEntry]:
        return [*await metering.ledger.audit(tenant=tenant, limit=limit)]

    found = on_ledger(app, read)
    if json:
        emit(found)
    else:
        show(found)


@audit.command()
def verify(
    *,
    anchor: Annotated[
        list[str] | None,
        typer.Option("--anchor", metavar="SEQ:MAC", help="Where the log ended once; any number of them."),
    ] = None,
    anchors: Annotated[
        list[str] | None,
        typer.Option("--anchors", metavar="FILE", help="With anchors, such as a log of the worker's."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """Whether each entry is what was written, where it was written; with an anchor, also whether the end is still
    there. Exit code 1 if not, with the first entry that is wrong."""
    known = [*_given(anchor or ()), *_read(anchors or ())]
    found = on_ledger(app, lambda metering: _verified(metering, known))
    if json:
        emit({"holds": found.holds, "found": found, "anchored": bool(known)})
    else:
        tell(found, anchored=bool(known))
    if not found.holds:
        raise typer.Exit(1)


@audit.command()
def export(
    *,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="INSTANT",
            help="Such as 2026-01-01T00:00:00Z.",
        ),
    ] = "",
    end: Annotated[
        str,
        typer.Option("--to", metavar="INSTANT", help="Up to then, which is left out."),
    ] = "",
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """Every entry as a line of JSON, in the order in which they were written, with what chains them."""
    first, past = (aware(text, name) if text else None for text, name in ((start, "from"), (end, "to")))
    on_ledger(app, lambda metering: _exported(metering, first, past))


def _given(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        if not anchors_in(text):
            raise InvalidInput("anchor", f"{text[:80]!r} is not of the form SEQ:MAC, as `audit verify` prints it")
        yield text


def _read(files: Iterable[str]) -> Iterable[str]:
    for name in files:
        try:
            text = Path(name).read_text(errors="replace")
        except OSError as error:
            raise InvalidInput("anchors", f"{name} cannot be read: {error.strerror}") from error
        if not anchors_in(text):
            raise InvalidInput("anchors", f"{name} has no anchor, which is SEQ:MAC with 64 hex digits")
        yield text


async def _verified(metering: Metering, anchors: Iterable[str]) -> AuditReport:
    _, head = await metering.ledger.audit_links(limit=1)
    with bar("verifying", head.seq) as progress:
        return await metering.verify_audit(anchors=anchors, progress=progress)


async def _exported(metering: Metering, start: datetime | None, end: datetime | None) -> None:
    _, head = await metering.ledger.audit_links(limit=1)
    with bar("exporting", head.seq) as progress:
        async for link in metering.export_audit(start=start, end=end):
            print(line_of(link))  # noqa: T201
            if link.seq and link.seq % MOVED_EVERY == 0:
                progress(link.seq)


def line_of(link: Link) -> str:
    return _json.dumps({"at": link.entry.at.isoformat(), **link._asdict()})


def show(entries: list[AuditEntry]) -> None:
    rows = table("at (UTC)", "who", "what", "tenant", "of", "before", "after", "why")
    for each in entries:
        what = f"{each.action} ({each.detail})" if each.detail else each.action
        at = f"{each.at:%Y-%m-%d %H:%M:%S}"
        rows.add_row(at, each.actor, what, each.tenant, each.subject, each.before, each.after, each.reason)
    screen = console()
    if entries:
        screen.print(rows)
    say(screen, f"entries: {len(entries):,}")


def tell(found: AuditReport, *, anchored: bool) -> None:
    """What was found, and the first of what is broken."""
    screen = console()
    say(screen, f"entries: {found.entries:,}, of which signed: {found.signed:,}")
    if found.outside:
        say(screen, f"from before the chain: {found.outside:,}; they are what they were when it began, if it holds")
    for each in found.broken[:SHOWN]:
        say(screen, f"BROKEN  {each.what}")
    if not found.holds:
        more = len(found.broken) - SHOWN
        if more > 0:
            say(screen, f"  and {more:,} more")
        first = min(each.seq for each in found.broken)
        say(
            screen,
            f"not verified from entry {first:,} on: keep this database as it is, and compare a copy with an older "
            "backup or with an export; docs/audit.md says what each finding means",
        )
        return
    if found.head.seq:
        say(screen, f"verified. It ends with {found.head.seq}:{found.head.mac}; keep that elsewhere, as an anchor")
    else:
        say(screen, "verified: nothing is in it yet")
    if not anchored:
        say(screen, "without --anchor: entries that were cut off at the end, with the head, do not show")
    if found.entries and not found.signed:
        say(screen, "no entry is signed (MM_METERING_SECRET_KEY is not set): it is as good as its anchors")
