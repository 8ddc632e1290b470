"""How long anybody waits, and the end of that for one call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from mm_metering.errors import InvalidInput

LAST_TURNS: Final = 3
"""Turns of the event loop that an answer gets after its deadline."""


LOAD_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines in seconds. decision: one call; load: a fenced shard, or a tenant not loaded yet; open: all shards at
    the start."""

    decision_s: float = 0.05
    load_s: float = LOAD_S
    open_s: float = 10.0

    @classmethod
    def of_ms(cls, decision_ms: str) -> Timing:
        """From whole milliseconds as text; InvalidInput unless 1 to 60,000. A load, which ends in a decision, waits at
        least as long."""
        if not (decision_ms.isascii() and decision_ms.isdigit() and 1 <= int(decision_ms[:6]) <= 60_000):
            raise InvalidInput("deadline", f"{decision_ms[:20]!r} is not a number of milliseconds from 1 to 60000")
        decision_s = int(decision_ms) / 1000
        return cls(decision_s=decision_s, load_s=max(LOAD_S, decision_s))


class Deadline:
    """Cancels the task that makes it after that time, but not for an answer that is here and only waits for a busy
    event loop: when the time is over, what is ready runs first."""

    __slots__ = ("_handle", "_loop", "_task", "is_over", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.seconds: float = seconds
        self.is_over: bool = False
        self._loop = loop
        self._task = asyncio.current_task(loop)
        self._handle: asyncio.Handle = loop.call_later(seconds, self._end, LAST_TURNS)

    def cancel(self) -> None:
        self._handle.cancel()

    def is_cancelled_besides(self) -> bool:
        """Takes its own cancel back: the task goes on, unless somebody else cancelled it as well."""
        return self._task is not None and self._task.uncancel() > 0

    def _end(self, turns: int) -> None:
        if turns:
            self._handle = self._loop.call_soon(self._end, turns - 1)
        elif self._task is not None:
            self.is_over = True
            self._task.cancel()
