"""``mm-metering init``: a plans file, an app and what they read, to begin with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import typer

from mm_metering.cli.host import PROGRAM
from mm_metering.cli.options import Json
from mm_metering.cli.show import console, emit, say
from mm_metering.errors import InvalidInput

STARTER: Final[Mapping[str, tuple[str, str]]] = {
    "plans.toml": ("mm_metering.catalogues", "starter.toml"),
    "main.py": ("mm_metering.cli._starter", "main.py"),
    ".env.example": ("mm_metering.cli._starter", "env.example"),
    "pyproject.toml": ("mm_metering.cli._starter", "pyproject.example"),
}
"""By the file that is written: the package and the name of its text."""


def init(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where to; here if absent.")] = ".",
    *,
    json: Json = False,
) -> None:
    """Write plans.toml, main.py, .env.example and pyproject.toml to begin with. A file that is there stays as it is."""
    made = {name: _written(Path(folder), name) for name in STARTER}
    if json:
        emit({"folder": str(Path(folder).absolute()), "written": [name for name, new in made.items() if new]})
        return
    screen = console()
    for name, new in made.items():
        say(screen, f"wrote  {name}" if new else f"kept   {name}: it is there already, and stays as it is")
    if not made["pyproject.toml"]:
        say(screen, 'to name the app for commands, write app = "main:metering" under [tool.mm_metering] there')
    there = "" if folder == "." else f"cd {shlex.quote(folder)}; "
    say(screen, f"next: {there}{PROGRAM} dev")


def _written(folder: Path, name: str) -> bool:
    """False for a file that is there."""
    package, text = STARTER[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("x", encoding="utf-8") as new:
            new.write(files(package).joinpath(text).read_text("utf-8"))
    except FileExistsError:
        if folder.is_dir():
            return False
        raise InvalidInput("folder", f"{folder} is a file; name another folder") from None
    except OSError as error:
        raise InvalidInput("folder", f"{folder / name} cannot be written: {error.strerror}") from error
    return True
