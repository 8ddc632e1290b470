"""``mm-metering worker`` and ``migrate``: what runs beside the app."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Annotated, Final

import typer

from mm_metering.cli.host import PROGRAM, metering_of, of_project, refuse_memories, refuse_memory
from mm_metering.cli.options import App, Json
from mm_metering.cli.show import emit
from mm_metering.metering import Metering
from mm_metering.middleware.endpoint_guard import Guarded
from mm_metering.worker.health import health_app, listen, serving

FOLD_S: Final = 2.5
"""How long a worker that was told to stop may still fold."""
STOP_S: Final = 4.0
"""When it has ended, in any case."""
CLOSE_S: Final = 1.0
"""The same after a second signal."""


def worker(
    *,
    once: Annotated[bool, typer.Option("--once", help="Fold what is there, then end.")] = False,
    health: Annotated[
        str,
        typer.Option(
            "--health",
            envvar=["MM_METERING_WORKER_HEALTH", "MM_METERING_HEALTH"],
            metavar="[HOST:]PORT",
            help="Serve /healthz and /metrics there; on this machine alone without a host.",
        ),
    ] = "",
    app: App = "",
) -> None:
    """Fold usage from the counters' stream into the ledger, and with --app close each month. Run any number of
    them; Ctrl-C or SIGTERM stops one."""
    run_worker(metering_of(app), once=once, health=health, bills=bool(app or of_project()), app=app)


def migrate(*, json: Json = False, app: App = "") -> None:
    """Bring the ledger's schema to this release's. Running apps of this release and the one before go on."""
    metering = metering_of(app)
    _, ledger = metering.places
    refuse_memory(ledger, "ledger", app)
    asyncio.run(metering.migrate())
    if json:
        emit({"ledger": ledger, "ready": True})
    else:
        _say(f"{PROGRAM} migrate: {ledger} is ready")


def run_worker(metering: Metering, *, once: bool, health: str = "", bills: bool = True, app: str = "") -> None:
    """Drains until SIGTERM or SIGINT, or once what is there."""
    refuse_memories(metering, app)
    counters, ledger = metering.places
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    greeting = f"{PROGRAM} worker: {counters} into {ledger}"
    asyncio.run(_until_stopped(metering, greeting, once=once, health=health, bills=bills))
    _say_goodbye(metering)


async def _until_stopped(metering: Metering, greeting: str, *, once: bool, health: str, bills: bool) -> None:
    """Whoever has read the greeting may send a signal: it is handled by then. The first signal lets the worker fold
    what is there; after FOLD_S, or at the second one, it closes where it stands. A store that lets not even that
    happen is left to itself: nothing is lost, since what was not folded stays in the stream."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        if health:
            at = listen(health)
            greeting += f", health at http://{at.getsockname()[0]}:{at.getsockname()[1]}/healthz"
            await stack.enter_async_context(serving(Guarded(health_app(metering.monitor), metering.endpoint_guard), at))
        working = asyncio.create_task(metering.work(once=once, stop=stop, bills=bills))

        def end() -> None:
            if stop.is_set() or once:
                working.cancel()
                _end_after(CLOSE_S, metering)
            stop.set()
            loop.call_later(FOLD_S, working.cancel)
            _end_after(STOP_S, metering)

        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, end)
        _say(greeting)
        with suppress(asyncio.CancelledError):
            await working


def _end_after(seconds: float, metering: Metering) -> None:
    """Ends this process by then, whatever it waits for."""

    def leave() -> None:
        _say_goodbye(metering)
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _say_goodbye(metering: Metering) -> None:
    _say(f"{PROGRAM} worker: facts folded: {metering.folded:,}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
