"""A file of events into the ledger: its progress, its checkpoint, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from mm_metering.cli.checkpoint import SUFFIX, Checkpoint, Place
from mm_metering.cli.show import BAR_WIDTH, console, say
from mm_metering.cli.usage_files import Format, Source
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering
from mm_metering.usage.backfill import BATCH, BackfillTally

LINE_EVERY_S: Final = 10.0
"""How often a line says how far it has come, where nobody sees a bar."""
INTERRUPTED: Final = 130
_START: Final = Place(0, 0)

Show = Callable[[int, BackfillTally], None]


class Options(NamedTuple):
    file: str
    form: Format
    checkpoint: str
    dry_run: bool
    resume: bool
    strict: bool
    quiet: bool
    as_json: bool
    batch: int = BATCH

    @property
    def kept_at(self) -> Path:
        return Path(self.checkpoint or f"{self.file}{SUFFIX}")


class Keeper:
    """Writes the checkpoint after each batch."""

    def __init__(self, path: Path, options: Options, source: Source, settled: Place, show: Show) -> None:
        self._path = path
        self._at = options.kept_at
        self._keeps = not options.dry_run
        self._source = source
        self._settled = settled
        self._show = show

    def __call__(self, tally: BackfillTally) -> None:
        here = Place(self._source.offset, self._source.line)
        if tally.settled == tally.read:
            self._settled = here
        if self._keeps:
            Checkpoint.of(self._path, self._settled, tally).write(self._at)
        self._show(here.offset, tally)


async def backfill_file(metering: Metering, options: Options) -> int:
    """The exit code."""
    path = Path(options.file)
    known = _known(path, options)
    settled, tally = (known.settled, known.tally) if known else (_START, BackfillTally())
    with _opened(path) as file, _shown(path, options, tally) as show:
        source = Source(file, options.form, offset=settled.offset, line=settled.line)
        keep = Keeper(path, options, source, settled, show)
        with _stopping(source):
            done = await metering.backfill(
                source,
                dry_run=options.dry_run,
                tally=tally,
                strict=options.strict,
                batch=options.batch,
                progress=keep,
            )
        ended = not file.read(1)
    return _end(options, done, stopped=source.stop and not ended, ended=ended)


def _known(path: Path, options: Options) -> Checkpoint | None:
    if options.dry_run or not options.kept_at.exists():
        return None
    if options.resume:
        return Checkpoint.read(options.kept_at, path)
    raise InvalidInput(
        "checkpoint",
        f"{options.kept_at} says that an earlier run of this file did not end; go on with --resume, or delete it to "
        "begin anew, which records nothing twice",
    )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput("file", f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def _stopping(source: Source) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends it with the batch that is under way."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        source.stop = True
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)


def _end(options: Options, done: BackfillTally, *, stopped: bool, ended: bool) -> int:
    if ended and not options.dry_run:
        options.kept_at.unlink(missing_ok=True)
    if options.as_json:
        reasons = [each._asdict() for each in done.reasons]
        print(json.dumps({**done._asdict(), "reasons": reasons, "ended": ended}))  # noqa: T201
    else:
        _tell(options, done)
    if not ended:
        print(f"go on with: mm-metering usage backfill {options.file} --resume", file=sys.stderr)  # noqa: T201
    if stopped:
        return INTERRUPTED
    return 1 if done.rejected or done.conflicts else 0


def _tell(options: Options, done: BackfillTally) -> None:
    screen = console()
    would = "would be recorded" if options.dry_run else "recorded"
    say(screen, f"{would}: {done.recorded:,}, duplicates: {done.duplicates:,}")
    say(screen, f"conflicts: {done.conflicts:,}, rejected: {done.rejected:,}")
    for number, reason in done.reasons:
        say(screen, f"  line {number:,}: {reason}")
    more = done.rejected + done.conflicts - len(done.reasons)
    if more > 0:
        say(screen, f"  and {more:,} more")


# -- how far it is -----------------------------------------------------------------------------------------------------


@contextmanager
def _shown(path: Path, options: Options, before: BackfillTally) -> Iterator[Show]:
    if options.quiet:
        yield lambda _offset, _tally: None
    elif sys.stderr.isatty():
        with _bar(path, before) as show:
            yield show
    else:
        yield _lines(path.name, before)


@contextmanager
def _bar(path: Path, before: BackfillTally) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_WIDTH),
        TaskProgressColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    began_s, size = time.monotonic(), path.stat().st_size
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(path.name, total=size, said="")

        def show(offset: int, tally: BackfillTally) -> None:
            progress.update(task, completed=offset, said=_said(tally, before, time.monotonic() - began_s))

        yield show


def _lines(name: str, before: BackfillTally) -> Show:
    began_s = told_s = time.monotonic()

    def show(_offset: int, tally: BackfillTally) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= LINE_EVERY_S:
            told_s = now_s
            print(f"{name}: {_said(tally, before, now_s - began_s)}", file=sys.stderr, flush=True)  # noqa: T201

    return show


def _said(tally: BackfillTally, before: BackfillTally, seconds: float) -> str:
    rate = (tally.read - before.settled) / max(seconds, 0.001)
    refused = tally.rejected + tally.conflicts
    return f"{tally.read:,}  {rate:,.0f}/s  dup {tally.duplicates:,}  rejected {refused:,}"
