"""``mm-metering keys``: what is encrypted in the ledger, under which key, and sealing it anew under the newest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mm_metering.cli.invoices import run
from mm_metering.cli.show import bar, console, say, table
from mm_metering.metering import Metering
from mm_metering.privacy import KeyUse, Rotated
from mm_metering.vault import VARIABLE

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    import typer

    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The keys of what is encrypted at rest.")

    @group.command("list")
    def list_(*, app: str = host) -> None:
        """How many values each key has sealed. Exit code 1 if some need a key that is not here."""
        show(run(app, lambda metering: metering.list_keys()))

    @group.command()
    def rotate(*, app: str = host) -> None:
        """Seal anew, under the newest key, what older keys have sealed. Apps go on meanwhile; ended halfway, run it
        again. When it is done, the older keys may go. Exit code 1 if some values need a key that is not here."""
        tell(run(app, _rotated))

    return group


async def _rotated(metering: Metering) -> Rotated:
    total = sum(each.values for each in await metering.list_keys() if not each.is_newest)
    with bar("values", total) as progress:
        return await metering.rotate_keys(progress=progress)


def show(keys: list[KeyUse]) -> None:
    rows = table("key", ">values", "state")
    for each in keys:
        state = "seals" if each.is_newest else "opens" if each.is_here else "missing"
        rows.add_row(each.key_id, f"{each.values:,}", state)
    screen = console()
    if keys:
        screen.print(rows)
    say(screen, f"keys: {len(keys):,}, values: {sum(each.values for each in keys):,}")
    _end({each.key_id: each.values for each in keys if not each.is_here})


def tell(done: Rotated) -> None:
    say(console(), f"sealed anew under the newest key: {done.values:,}")
    _end(dict(done.missing))


def _end(missing: dict[str, int]) -> None:
    for name, values in missing.items():
        say(console(), f"missing: the key {name}, which {values:,} values need; add it to {VARIABLE}, as the last one")
    if missing:
        sys.exit(1)
