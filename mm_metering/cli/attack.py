"""``mm-metering plans attack``: what tenants could do to pay less for the same usage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mm_metering import catalogues
from mm_metering.cli.options import Json, Quiet
from mm_metering.cli.show import bar, console, emit, say
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.pumps import MOVES, Pump, attack, tries, words
from mm_metering.core.scenario_file import to_toml
from mm_metering.errors import InvalidInput

ALL = "all"
KNOWN = ", ".join((*MOVES, ALL))


def attack_plans(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The plans file; or seed, starter: the shipped ones.")],
    *,
    allow: Annotated[
        str, typer.Option("--allow", metavar="MOVES", help=f"What tenants can do: {', '.join(MOVES)}, all.")
    ] = "",
    save: Annotated[
        str, typer.Option("--save", metavar="FOLDER", help="Write each as a scenario that can be run.")
    ] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a catalogue for money pumps: round trips within a month that make the same usage cheaper, and tiers
    where one unit more does. Exit code 1 where one is found."""
    catalogue, allowed = catalogues.named(file), _moves(allow)
    total = sum(1 for _ in tries(catalogue, allowed))
    with bar("trying", total) as progress:
        pumps = attack(catalogue, allowed, progress)
    if json:
        emit({"tried": total, "allowed": allowed, "pumps": [_parts(pump, catalogue) for pump in pumps]})
    else:
        _show(pumps, catalogue, total, allowed)
    if save and pumps:
        _save(pumps, catalogue, file, Path(save))
    if pumps:
        raise typer.Exit(1)


def _parts(pump: Pump, catalogue: Catalogue) -> dict[str, object]:
    return {"kind": pump.kind, "plan": pump.plan, "words": words(pump, catalogue.currency)}


def _moves(text: str) -> Sequence[str]:
    if text == ALL:
        return MOVES
    found = [move.strip() for move in text.split(",") if move.strip()]
    for move in found:
        if move not in MOVES:
            raise InvalidInput("--allow", f"{move[:40]!r} is not one of {KNOWN}")
    return found


def _show(pumps: Sequence[Pump], catalogue: Catalogue, total: int, allowed: Sequence[str]) -> None:
    screen = console()
    for pump in pumps:
        say(screen, f"{pump.kind}: {words(pump, catalogue.currency)}")
    moves = f"changes of plan ({catalogue.changes.upgrade} up, {catalogue.changes.downgrade} down)"
    if total == 0:
        say(screen, "nothing to try: no way back within a month, and no tiers")
    say(screen, f"money pumps: {len(pumps)}, of {total:,} ways tried: {', '.join((moves, *allowed))}")
    if others := [move for move in MOVES if move not in allowed]:
        say(screen, f"not tried, since not allowed: {', '.join(others)}")


def _save(pumps: Sequence[Pump], catalogue: Catalogue, file: str, folder: Path) -> None:
    named = file if file in catalogues.SHIPPED else os.path.relpath(file, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, pump in enumerate(pumps, 1):
            comment = f"{pump.kind}: {words(pump, catalogue.currency)}"
            path = folder / f"{number:02}-{pump.kind}-{pump.plan}.toml"
            path.write_text(to_toml(pump.scenario(named), comment), "utf-8")
    except OSError as error:
        raise InvalidInput("--save", f"{folder} cannot be written: {error.strerror}") from error
    say(console(), f"wrote {len(pumps)} scenarios to {folder}; run one with mm-metering simulate FILE")
