"""``mm-metering status``: how the house stands now."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mm_metering.cli.host import closing, metering_of, refuse_memory
from mm_metering.cli.options import App, Json
from mm_metering.cli.show import console, emit, table
from mm_metering.metering import Metering
from mm_metering.worker.status import Status, settled

if TYPE_CHECKING:
    from rich.console import RenderableType

ALIVE: Final[dict[bool | None, str]] = {True: "yes", False: "NO", None: "not known yet"}


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.5, max=30, help="Seconds between looks with --watch.")] = 2.0,
    json: Json = False,
    app: App = "",
) -> None:
    """Who works and whether they live, how far the ledger is behind, jobs and failed ones, dead letters, alerts,
    invoices by status, and what waits. It changes nothing. Exit code 1 where somebody must look."""
    metering = metering_of(app)
    refuse_memory(metering.places[1], "ledger", app)
    if watch:
        asyncio.run(closing(metering, lambda metering: _watched(metering, every, json=json)))
        return
    found = asyncio.run(closing(metering, lambda metering: settled(metering.status)))
    if json:
        emit(found)
    else:
        console().print(*shown(found), sep="\n")
    if found.troubles:
        raise typer.Exit(1)


async def _watched(metering: Metering, every: float, *, json: bool) -> None:
    if json:
        async for found in _looks(metering, every):
            emit(found)
        return
    from rich.console import Group
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        async for found in _looks(metering, every):
            live.update(Group(*shown(found)), refresh=True)


async def _looks(metering: Metering, every: float) -> AsyncIterator[Status]:
    """One after another, until somebody stops it."""
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    while not stop.is_set():
        yield await metering.status()
        with suppress(TimeoutError):
            async with asyncio.timeout(every):
                await stop.wait()


# -- for people --------------------------------------------------------------------------------------------------------


def shown(found: Status) -> Iterator[RenderableType]:
    """What there is, and last what somebody must look at."""
    yield _text(f"as of {_at(found.as_of)} UTC: {found.counters} into {found.ledger}")
    if found.counters.startswith("memory:"):
        yield _text("its counters live inside another process: what waits there is not seen from here")
    yield from _workers(found)
    yield from _shards(found)
    yield from _queues(found)
    yield from _jobs(found)
    yield from _invoices(found)
    for alert in found.alerts:
        yield _text(f"alert since {_at(alert.opened_at)}: {alert.kind} {alert.subject}: {alert.detail}")
    for trouble in found.troubles:
        yield _text(f"LOOK  {trouble}")
    if not found.troubles:
        yield _text("nothing that somebody must look at")


def _workers(found: Status) -> Iterator[RenderableType]:
    rows = table("worker", "shards", "alive")
    for each in found.workers:
        rows.add_row(each.id, ", ".join(map(str, each.shards)), ALIVE[each.alive])
    yield rows if found.workers else _text("workers: none")


def _shards(found: Status) -> Iterator[RenderableType]:
    rows = table("shard", "folded up to (UTC)", ">behind, s", "worker", "")
    for each in found.shards:
        rows.add_row(str(each.shard), _at(each.folded_at), f"{each.lag_s:,.1f}", each.worker or "", each.trouble)
    yield rows


def _queues(found: Status) -> Iterator[RenderableType]:
    rows = table("what waits", ">so many", "since (UTC)")
    for name in ("deliveries", "notices", "provider_webhooks", "holds"):
        queue = getattr(found, name)
        rows.add_row(name.replace("_", " "), f"{queue.waiting:,}", _at(queue.oldest_at))
    rows.add_row("dead letters", f"{found.dead_letters:,}", "")
    rows.add_row("webhook endpoints switched off", f"{found.endpoints_off:,}", "")
    rows.add_row("facts in journal files here", f"{found.journal.facts:,}", "")
    yield rows


def _jobs(found: Status) -> Iterator[RenderableType]:
    rows = table("job", "period (UTC)", "state", ">tries", "ended (UTC)", "error")
    for each in found.jobs:
        ended = _at(each.finished_at)
        rows.add_row(each.job, _at(each.period_start), each.state, str(each.tries), ended, each.error or "")
    if found.jobs:
        yield rows


def _invoices(found: Status) -> Iterator[RenderableType]:
    rows = table("invoices of", "by status")
    for period, counts in found.invoices.items():
        rows.add_row(period, ", ".join(f"{status} {count:,}" for status, count in counts.items()))
    if found.invoices:
        yield rows


def _text(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, overflow="fold")


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
