"""What this process can see of how it was started, and what is installed."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def command_lines() -> list[list[str]]:
    """This process's, and its parent's where the system shows that."""
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except OSError:
        parent = []
    return [sys.orig_argv, [word.decode(errors="replace") for word in parent if word]]


def version_of(package: str) -> str | None:
    """The version of what is imported here; None for what is not."""
    if package not in sys.modules:
        return None
    try:
        return version(package)
    except PackageNotFoundError:
        return None
