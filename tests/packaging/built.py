"""The wheel and the sdist, and which distributions each extra brings."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
NAME: Final = "mm-metering"
EXTRAS: Final = tuple(metadata(NAME).get_all("Provides-Extra") or ())


def build(source: Path, folder: Path, *kinds: str) -> list[Path]:
    """By the builder that pyproject.toml names."""
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--directory",
        str(folder),
        *(f"--target={each}" for each in kinds),
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return sorted(folder.iterdir())


def unpacked(archive: Path, folder: Path) -> Path:
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(folder)
        return folder
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return next(folder.iterdir())


def brought(extra: str) -> set[str]:
    """The names of all that ``pip install "mm-metering[extra]"`` would have to install, "" for no extra."""
    found: set[tuple[str, str]] = set()
    todo = [(NAME, ""), (NAME, extra)]
    while todo:
        name, asked = todo.pop()
        if (name, asked) not in found:
            found.add((name, asked))
            todo += _needs(name, asked)
    return {name for name, _ in found} - {NAME}


def _needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    for each in map(Requirement, requires(name) or ()):
        if each.marker is None or each.marker.evaluate({"extra": extra}):
            yield from ((canonicalize_name(each.name), more) for more in ("", *each.extras))
