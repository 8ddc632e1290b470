"""The browser of this machine, for tests that look at what a person would see."""

from __future__ import annotations

import shutil
from typing import Final

import pytest

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS: Final = (
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser_path() -> str:
    """Skips, and says so, where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"NOT RUN: no browser here ({', '.join(BROWSERS)}); Debian has one: apt-get install chromium")
    return found
