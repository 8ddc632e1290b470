"""``mm-metering keys``: what is encrypted in the ledger, under which key, and sealing it anew under the newest."""

from __future__ import annotations

from typing import Final

import typer

from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, Quiet, group
from mm_metering.cli.show import bar, console, emit, say, table
from mm_metering.metering import Metering
from mm_metering.privacy import KeyUse, Rotated
from mm_metering.vault import VARIABLE

keys: Final = group("The keys of what is encrypted at rest.")


@keys.command("list")
def list_(*, json: Json = False, app: App = "") -> None:
    """How many values each key has sealed. Exit code 1 if some need a key that is not here."""
    found = run(app, lambda metering: metering.list_keys())
    missing = {each.key_id: each.values for each in found if not each.is_here}
    if json:
        emit(found)
    else:
        show(found)
        tell_missing(missing)
    if missing:
        raise typer.Exit(1)


@keys.command()
def rotate(*, json: Json = False, quiet: Quiet = False, app: App = "") -> None:
    """Seal anew, under the newest key, what older keys have sealed. Apps go on meanwhile; ended halfway, run it
    again. When it is done, the older keys may go. Exit code 1 if some values need a key that is not here."""
    done = run(app, _rotated)
    if json:
        emit(done)
    else:
        say(console(), f"sealed anew under the newest key: {done.values:,}")
        tell_missing(dict(done.missing))
    if done.missing:
        raise typer.Exit(1)


async def _rotated(metering: Metering) -> Rotated:
    total = sum(each.values for each in await metering.list_keys() if not each.is_newest)
    with bar("values", total) as progress:
        return await metering.rotate_keys(progress=progress)


def show(found: list[KeyUse]) -> None:
    """A row for each key."""
    rows = table("key", ">values", "state")
    for each in found:
        state = "seals" if each.is_newest else "opens" if each.is_here else "missing"
        rows.add_row(each.key_id, f"{each.values:,}", state)
    screen = console()
    if found:
        screen.print(rows)
    say(screen, f"keys: {len(found):,}, values: {sum(each.values for each in found):,}")


def tell_missing(missing: dict[str, int]) -> None:
    for name, values in missing.items():
        say(console(), f"missing: the key {name}, which {values:,} values need; add it to {VARIABLE}, as the last one")
