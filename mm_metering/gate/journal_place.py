"""Where a ledger's journal lies: with its data, so that whoever finds the one finds the other."""

from __future__ import annotations

import hashlib
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mm_metering.gate.journal_file import Directory

log: Final = logging.getLogger("mm_metering.gate")

BESIDE = "the one beside it"
"""The name of a ledger whose files lie next to it: both may be moved together."""


def journal_directory(journal: str | Path, *, counters: str | None, ledger: str | None) -> Directory | None:
    """The directory that ``Metering(journal=...)`` means; the stores by URL, None for objects.

    None where nothing is to be kept: "off", a ledger that ends with its process, or no file locks here.
    """
    if str(journal) == "off":
        return None
    if find_spec("fcntl") is None:
        log.warning("journal: this system has no file locks; what is allowed in an outage ends with its process")
        return None
    name = _name(ledger)
    if str(journal) != "auto":
        return Directory(Path(journal).expanduser().absolute(), name or "an object")
    if not name:
        return None
    if counters and counters.startswith("local://"):
        return Directory(Path(counters.removeprefix("local://")).expanduser().resolve() / "journal", name)
    if name.startswith("sqlite:"):
        return Directory(Path(name.removeprefix("sqlite:") + ".journal"), BESIDE)
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    try:
        return Directory(_state_home() / "mm_metering" / digest, name)
    except RuntimeError as error:
        log.warning(
            "journal: name a directory, journal=...; what is allowed in an outage ends with its process: %s", error
        )
        return None


def _name(ledger: str | None) -> str:
    """A ledger's URL without credentials and options; "" for one that does not outlive its process."""
    scheme, _, rest = (ledger or "").partition("?")[0].partition("://")
    if scheme == "sqlite":
        path = rest.removeprefix("/")
        return "" if path in ("", ":memory:") or path.startswith("file:") else f"sqlite:{Path(path).absolute()}"
    return f"postgresql://{rest.rpartition('@')[2]}" if scheme in ("postgres", "postgresql") else ""


def _state_home() -> Path:
    """As the XDG base directory specification has it: a relative path there is to be ignored."""
    chosen = Path(os.environ.get("XDG_STATE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".local/state"
