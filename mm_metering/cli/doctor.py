"""``mm-metering doctor``: what goes wrong silently."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from mm_metering.cli import canary as canaries
from mm_metering.cli.host import needed, refuse_memories
from mm_metering.cli.options import App, Json
from mm_metering.cli.show import emit
from mm_metering.core.findings import Finding
from mm_metering.metering import Metering


def doctor(
    *,
    canary: Annotated[
        bool, typer.Option("--canary", help="Send one event all the way to a mock invoice, and take it back.")
    ] = False,
    json: Json = False,
    app: App = "",
) -> None:
    """Look for what goes wrong silently: routes that are misread or never reached, plans that do not fit, servers that
    evict or whose clock is off, several processes on memory://, a worker that is behind or not there, dead letters,
    models without a price, keys of the wrong mode, headers that browsers cannot read. Exit code 1 if anything FAILs."""
    metering = needed(app)
    if canary:
        refuse_memories(metering, app)
    findings = asyncio.run(_found(metering, canary=canary))
    if json:
        emit(findings)
    else:
        show(findings)
    if any(each.level == "FAIL" for each in findings):
        raise typer.Exit(1)


async def _found(metering: Metering, *, canary: bool) -> list[Finding]:
    if not canary:
        return await metering.check_up()
    found = await metering.check_up()
    if any(each.level == "FAIL" for each in found):
        return [*found, Finding("warn", "canary: not sent, since what is wrong above would end it")]
    async with metering:
        return [*found, *[each async for each in canaries.send(metering)]]


def show(findings: Sequence[Finding]) -> None:
    """A line for each."""
    for level, text in findings:
        print(f"{level:5} {' '.join(text.split())}")  # noqa: T201
