"""Warnings of what may happen to thousands at once."""

from __future__ import annotations

from logging import Logger
from typing import Final

EVERY_S: Final = 1.0


class Seldom:
    """Warns at the first, and then at most once a second, of how many there were since."""

    def __init__(self, log: Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._count = 0
        self._again_s = float("-inf")

    def add(self, now_s: float, why: str) -> None:
        """``now_s`` is seconds of any clock that does not step back; ``why`` is the last one's reason."""
        self._count += 1
        if now_s >= self._again_s:
            self._log.warning("%s: %d, the last one: %s", self._what, self._count, why)
            self._count, self._again_s = 0, now_s + EVERY_S
