"""``mm-metering dead-letters``: what could not be folded into the ledger, and is kept."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, Literal

import typer

from mm_metering.backends.work import DeadLetter
from mm_metering.cli.host import PROGRAM, by_hand, metering_of, refuse_memories, refuse_memory
from mm_metering.cli.options import App, Json, Reason
from mm_metering.cli.show import emit
from mm_metering.core.periods import from_micros
from mm_metering.metering import Metering
from mm_metering.worker.dead_letters import tenant_of

SHOWN: Final = 1_000


def dead_letters(
    what: Annotated[
        Literal["list", "retry"], typer.Argument(metavar="[list|retry]", help="List them, or post them again.")
    ] = "list",
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The oldest so many.")] = SHOWN,
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """What could not be folded into the ledger, and is kept: where it stood in the stream, when, its tenant where
    that can be read, and why. With retry, those are posted again that are facts to this release; each is counted
    once, however often it is posted."""
    metering = metering_of(app)
    if what == "list":
        refuse_memory(metering.places[1], "ledger", app)
        show(asyncio.run(_found(metering, limit)), json=json)
        return
    refuse_memories(metering, app)
    with by_hand(reason):
        tried, left = asyncio.run(metering.retry_dead_letters())
    if json:
        emit({"posted": tried, "left": left})
    else:
        _say(f"{PROGRAM} dead-letters: {tried:,} posted again, {left:,} left")


async def _found(metering: Metering, limit: int) -> list[DeadLetter]:
    found = list[DeadLetter]()
    async for letter in metering.dead_letters():
        if len(found) < limit:
            found.append(letter)
    return found


def show(found: list[DeadLetter], *, json: bool) -> None:
    """A line for each, or JSON."""
    if json:
        emit([_parts(letter) for letter in found])
        return
    for letter in found:
        when = from_micros(letter.stored_us).isoformat(timespec="seconds")
        _say(f"{_place(letter)}  {when}  {tenant_of(letter)!r}  {letter.reason}")


def _parts(letter: DeadLetter) -> dict[str, object]:
    where = {"place": _place(letter), "stored_at": from_micros(letter.stored_us)}
    return {**where, "tenant": tenant_of(letter), "reason": letter.reason}


def _place(letter: DeadLetter) -> str:
    return f"{letter.shard}/{letter.generation}/{letter.position}/{letter.number}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
