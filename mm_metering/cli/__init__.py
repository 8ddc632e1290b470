"""``mm-metering``: what runs beside the app, from the command line.

Exit codes: 0 done, 1 any other error of ours, 2 what was asked for is wrong (an option, a plans file, a missing extra),
3 a store cannot be reached, 130 interrupted. What goes wrong is one line on stderr, never a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from mm_metering.cli import ai, alerts, audit, invoices, keys, payments, plans, simulate, telemetry, tenants, webhooks
from mm_metering.cli.host import PROGRAM, REASON, by_hand, load, refuse_memory
from mm_metering.core.periods import from_micros
from mm_metering.errors import CatalogueError, InvalidInput, MeteringError, MissingExtra, StoreUnavailable
from mm_metering.metering import Metering
from mm_metering.middleware.endpoint_guard import Guarded
from mm_metering.worker.dead_letters import tenant_of
from mm_metering.worker.health import health_app, listen, serving

if TYPE_CHECKING:
    import typer

T = TypeVar("T")
USAGE, UNREACHABLE, INTERRUPTED = 2, 3, 130
FOLD_S: Final = 2.5
"""How long a worker that was told to stop may still fold."""
STOP_S: Final = 4.0
"""When it has ended, in any case."""
CLOSE_S: Final = 1.0
"""The same after a second signal."""


def main() -> NoReturn:
    """The entry point of ``mm-metering``."""
    try:
        commands()(prog_name=PROGRAM)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except MeteringError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_code(error))
    sys.exit(0)


def exit_code(error: MeteringError) -> int:
    match error:
        case StoreUnavailable():
            return UNREACHABLE
        case InvalidInput() | CatalogueError() | MissingExtra():
            return USAGE
        case _:
            return 1


def commands() -> typer.Typer:
    """The command line. MissingExtra where typer is not installed."""
    try:
        import typer
    except ImportError as error:
        raise MissingExtra("server", "the command line") from error
    program = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
        if wanted:
            typer.echo(f"{PROGRAM} {_version()}")
            raise typer.Exit

    @program.callback()
    def root(
        *,
        _version: bool = typer.Option(
            False,  # noqa: FBT003
            "--version",
            callback=show_version,
            is_eager=True,
            help="Show it and exit.",
        ),
    ) -> None:
        """Meter usage, enforce quotas, bill for it: what runs beside your app."""

    @program.command()
    def worker(
        *,
        app: str = typer.Option(
            "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
        ),
        once: bool = typer.Option(False, "--once", help="Fold what is there, then end."),  # noqa: FBT003
        health: str = typer.Option(
            "",
            envvar="MM_METERING_HEALTH",
            metavar="[HOST:]PORT",
            help="Serve /healthz and /metrics there; on this machine alone without a host.",
        ),
    ) -> None:
        """Fold usage from the counters' stream into the ledger, and with --app close each month. Run any number of
        them; Ctrl-C or SIGTERM stops one."""
        run_worker(load(app) if app else Metering.from_env(), once=once, health=health, bills=bool(app))

    @program.command("dead-letters")
    def dead_letters(
        what: str = typer.Argument("list", metavar="[list|retry]", help="List them, or post them again."),
        *,
        app: str = typer.Option(
            "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
        ),
        reason: str = typer.Option("", "--reason", help=REASON),
    ) -> None:
        """What could not be folded into the ledger, and is kept: where it stood in the stream, when, its tenant where
        that can be read, and why. With retry, those are posted again that are facts to this release; each is counted
        once, however often it is posted."""
        if what not in LETTER_COMMANDS:
            raise InvalidInput("dead-letters", f"{what!r} is neither list nor retry")
        with by_hand(reason):
            LETTER_COMMANDS[what](load(app) if app else Metering.from_env())

    @program.command()
    def prove(
        *,
        app: str = typer.Option(
            "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
        ),
        shards_only: bool = typer.Option(False, "--shards-only", help="Leave tenants and invoices out."),  # noqa: FBT003
    ) -> None:
        """Show that all that was acknowledged is in the ledger once: equal digests per shard and tenant; and that each
        invoice is what it was made as. Exit code 1 if anything is missing or differs."""
        run_prove(load(app) if app else Metering.from_env(), tenants=not shards_only)

    @program.command()
    def rebuild(
        *,
        app: str = typer.Option(
            "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
        ),
        tenant: str = typer.Option("", "--tenant", help="This tenant alone."),
        reason: str = typer.Option("", "--reason", help=REASON),
    ) -> None:
        """Fold cells anew from the facts, and have every tenant's counters loaded anew. Usage goes on meanwhile."""
        with by_hand(reason):
            run_rebuild(load(app) if app else Metering.from_env(), tenant or None)

    @program.command()
    def migrate(
        *,
        app: str = typer.Option(
            "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
        ),
    ) -> None:
        """Bring the ledger's schema to this release's. Running apps of this release and the one before go on."""
        run_migrate(load(app) if app else Metering.from_env())

    @program.command()
    def doctor(
        *,
        app: str = typer.Option(
            ..., envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering, in the module that installs it."
        ),
    ) -> None:
        """Look for what goes wrong silently: routes that are misread or never reached, plans that do not fit, stores
        that do not open. Exit code 1 if anything is wrong."""
        run_doctor(load(app))

    simulate.register(program)
    payments.register(program)
    program.add_typer(invoices.commands(), name="invoice")
    program.add_typer(plans.commands(), name="plans")
    program.add_typer(alerts.commands(), name="alerts")
    program.add_typer(ai.commands(), name="ai")
    program.add_typer(webhooks.commands(), name="webhooks")
    program.add_typer(audit.commands(), name="audit")
    program.add_typer(tenants.commands(), name="tenants")
    program.add_typer(keys.commands(), name="keys")
    program.add_typer(telemetry.commands(), name="telemetry")
    return program


def _version() -> str:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "from its sources, not installed"


# -- the worker ------------------------------------------------------------------------------------------------------


def run_worker(metering: Metering, *, once: bool, health: str = "", bills: bool = True) -> None:
    """Drains until SIGTERM or SIGINT, or once what is there."""
    counters, ledger = metering.places
    refuse_memory(counters, "counters")
    refuse_memory(ledger, "ledger")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    greeting = f"{PROGRAM} worker: {counters} into {ledger}"
    asyncio.run(_until_stopped(metering, greeting, once=once, health=health, bills=bills))
    _say_goodbye(metering)


def run_migrate(metering: Metering) -> None:
    """Applies the schema's missing migrations."""
    _, ledger = metering.places
    refuse_memory(ledger, "ledger")
    asyncio.run(metering.migrate())
    print(f"{PROGRAM} migrate: {ledger} is ready", flush=True)  # noqa: T201


def run_prove(metering: Metering, *, tenants: bool) -> None:
    """Prints a line per shard, and one for each tenant that differs."""
    refuse_memory(metering.places[1], "ledger")
    proof = asyncio.run(_closing(metering, metering.prove(tenants=tenants, progress=_progress("tenants and invoices"))))
    print(f"{'shard':>5}  {'acknowledged':>30}  {'ledger':>30}  {'cells':>30}")  # noqa: T201
    for each in proof.shards:
        digests = "  ".join(f"{digest!s:>30}" for digest in (each.acknowledged, each.folded, each.cells))
        print(f"{each.shard:5}  {digests}  {each.verdict.value}")  # noqa: T201
    for off in proof.differ:
        cells = f"{len(off.wrong):,} cells differ, the first is {off.wrong[0].key}" if off.wrong else "other facts"
        print(f"tenant {off.tenant!r}: cells {off.cells}, facts {off.facts}: {cells}")  # noqa: T201
    if tenants:
        print(f"tenants folded anew: {proof.tenants:,}, of which differ: {len(proof.differ):,}")  # noqa: T201
        for invoice_id in proof.wrong_invoices:
            print(f"invoice {invoice_id} is not what it was made as; rerun_invoice shows that")  # noqa: T201
        print(f"invoices made anew: {proof.invoices:,}, of which differ: {len(proof.wrong_invoices):,}")  # noqa: T201
    if not proof.holds:
        print("not proved: see the lines in capitals, docs/reliability.md and `mm-metering rebuild`")  # noqa: T201
        sys.exit(1)
    print("proved: all that was acknowledged is in the ledger once, and in its cells")  # noqa: T201


def run_rebuild(metering: Metering, tenant: str | None) -> None:
    """Prints how much was wrong."""
    refuse_memory(metering.places[1], "ledger")
    done = asyncio.run(_closing(metering, metering.rebuild(tenant, progress=_progress("tenants"))))
    print(f"{PROGRAM} rebuild: tenants: {done.tenants:,}, cells that were wrong: {done.cells:,}")  # noqa: T201


async def _closing(metering: Metering, work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        await metering.aclose()


def _progress(what: str) -> Callable[[int], None]:
    """Counts on a terminal; says nothing into a file."""

    def show(done: int) -> None:
        if sys.stderr.isatty() and done % 100 == 0:
            print(f"\r{what}: {done:,}", end="\r", file=sys.stderr, flush=True)  # noqa: T201

    return show


def run_doctor(metering: Metering) -> None:
    """Prints a line per finding."""
    findings = asyncio.run(metering.check_up())
    for level, text in findings:
        print(f"{level:5} {' '.join(text.split())}")  # noqa: T201
    if any(each.level == "FAIL" for each in findings):
        sys.exit(1)


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
        print(greeting, flush=True)  # noqa: T201
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
    print(f"{PROGRAM} worker: facts folded: {metering.folded:,}", flush=True)  # noqa: T201


def list_dead_letters(metering: Metering) -> None:
    """Prints a line per dead letter."""

    async def show() -> None:
        async for letter in metering.dead_letters():
            place = f"{letter.shard}/{letter.generation}/{letter.position}/{letter.number}"
            when = from_micros(letter.stored_us).isoformat(timespec="seconds")
            print(f"{place}  {when}  {tenant_of(letter)!r}  {letter.reason}")  # noqa: T201

    refuse_memory(metering.places[1], "ledger")
    asyncio.run(show())


def retry_dead_letters(metering: Metering) -> None:
    """Posts what can be folded now."""
    for place, store in zip(metering.places, ("counters", "ledger"), strict=True):
        refuse_memory(place, store)
    tried, left = asyncio.run(metering.retry_dead_letters())
    print(f"{PROGRAM} dead-letters: {tried:,} posted again, {left:,} left", flush=True)  # noqa: T201


LETTER_COMMANDS: Final = {"list": list_dead_letters, "retry": retry_dead_letters}
