"""``mm-metering``: what runs beside the app, from the command line.

Exit codes: 0 done, 1 something was found or went wrong, 2 what was asked for is wrong (an option, a plans file, a
missing extra), 3 a store cannot be reached, 130 interrupted. What goes wrong is one line on stderr, never a traceback.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

from mm_metering.cli.host import PROGRAM
from mm_metering.errors import CatalogueError, InvalidInput, MeteringError, MissingExtra, StoreUnavailable

USAGE: Final = 2
UNREACHABLE: Final = 3
INTERRUPTED: Final = 130
NEXT: Final = f"`{PROGRAM} doctor` looks closer"


def main() -> NoReturn:
    """The entry point of ``mm-metering``."""
    try:
        _run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except MeteringError as error:
        print(f"{PROGRAM}: {sentence(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(exit_code(error))
    sys.exit(0)


def _run() -> None:
    """MissingExtra where typer is not installed."""
    try:
        import typer  # noqa: F401
    except ImportError as error:
        raise MissingExtra("server", "the command line") from error
    from mm_metering.cli.tree import program

    program()(prog_name=PROGRAM)


def sentence(error: MeteringError) -> str:
    """What went wrong, in one line, and where to look next."""
    text = " ".join(str(error).split())
    return f"{text}; {NEXT}" if isinstance(error, StoreUnavailable) else text


def exit_code(error: MeteringError) -> int:
    match error:
        case StoreUnavailable():
            return UNREACHABLE
        case InvalidInput() | CatalogueError() | MissingExtra():
            return USAGE
        case _:
            return 1
