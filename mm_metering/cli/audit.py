"""``mm-metering audit``: who did what, whether that is what was written, and taking it elsewhere."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mm_metering.cli.host import load, refuse_memory
from mm_metering.cli.show import bar, console, say, table
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import AuditReport, Link, anchors_in
from mm_metering.core.events import aware
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

if TYPE_CHECKING:
    import typer

MOVED_EVERY: Final = 1_000
"""So many entries move the bar."""
SHOWN: Final = 10
"""How much of what is broken is printed."""


def commands() -> typer.Typer:
    import typer

    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    one_anchor = typer.Option([], "--anchor", metavar="SEQ:MAC", help="Where the log ended once; any number of them.")
    file_of_anchors = typer.Option([], "--anchors", metavar="FILE", help="With anchors, such as a log of the worker's.")
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who changed what, and whether that is true.")

    @group.command("list")
    def list_(
        *,
        tenant: str | None = typer.Option(None, "--tenant", help='Of this tenant; "" for the house.'),
        limit: int = typer.Option(100, "--limit", min=1, help="The newest so many."),
        app: str = host,
    ) -> None:
        """Who did what, when, to what and why, the newest first."""
        metering = _ledger_of(app)
        show(asyncio.run(_listed(metering, tenant, limit)))

    @group.command()
    def verify(
        *,
        anchor: list[str] = one_anchor,
        anchors: list[str] = file_of_anchors,
        app: str = host,
    ) -> None:
        """Whether each entry is what was written, where it was written; with an anchor, also whether the end is still
        there. Exit code 1 if not, with the first entry that is wrong."""
        known = [*_given(anchor), *_read(anchors)]
        tell(asyncio.run(_verified(_ledger_of(app), known)), anchored=bool(known))

    @group.command()
    def export(
        *,
        from_: str = typer.Option("", "--from", metavar="INSTANT", help="Such as 2026-01-01T00:00:00Z."),
        to: str = typer.Option("", "--to", metavar="INSTANT", help="Up to then, which is left out."),
        app: str = host,
    ) -> None:
        """Every entry as a line of JSON, in the order in which they were written, with what chains them."""
        span = [aware(text, name) if text else None for text, name in ((from_, "from"), (to, "to"))]
        asyncio.run(_exported(_ledger_of(app), *span))

    return group


def _ledger_of(app: str) -> Metering:
    """Its ledger alone is opened: whatever else is broken, the log can be read."""
    metering = load(app) if app else Metering.from_env()
    refuse_memory(metering.places[1], "ledger")
    return metering


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


async def _listed(metering: Metering, tenant: str | None, limit: int) -> list[AuditEntry]:
    try:
        await metering.ledger.setup(apply=False)
        return [*await metering.ledger.audit(tenant=tenant, limit=limit)]
    finally:
        await metering.aclose()


async def _verified(metering: Metering, anchors: Iterable[str]) -> AuditReport:
    try:
        await metering.ledger.setup(apply=False)
        _, head = await metering.ledger.audit_links(limit=1)
        with bar("verifying", head.seq) as progress:
            return await metering.verify_audit(anchors=anchors, progress=progress)
    finally:
        await metering.aclose()


async def _exported(metering: Metering, start: datetime | None, end: datetime | None) -> None:
    try:
        await metering.ledger.setup(apply=False)
        _, head = await metering.ledger.audit_links(limit=1)
        with bar("exporting", head.seq) as progress:
            async for link in metering.export_audit(start=start, end=end):
                print(line_of(link))  # noqa: T201
                if link.seq and link.seq % MOVED_EVERY == 0:
                    progress(link.seq)
    finally:
        await metering.aclose()


def line_of(link: Link) -> str:
    return json.dumps({"at": link.entry.at.isoformat(), **link._asdict()})


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
    """Exit code 1 where the chain is broken."""
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
        sys.exit(1)
    if found.head.seq:
        say(screen, f"verified. It ends with {found.head.seq}:{found.head.mac}; keep that elsewhere, as an anchor")
    else:
        say(screen, "verified: nothing is in it yet")
    if not anchored:
        say(screen, "without --anchor: entries that were cut off at the end, with the head, do not show")
    if found.entries and not found.signed:
        say(screen, "no entry is signed (MM_METERING_SECRET_KEY is not set): it is as good as its anchors")
