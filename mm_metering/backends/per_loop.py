"""What belongs to one event loop: connections, tasks and futures are of no use on another."""

from __future__ import annotations

import asyncio
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class PerLoop(Generic[T]):
    """A value for each event loop, made when that loop first asks; it goes when its loop does.

    The loop that asked last is answered without a look-up: that is the one loop of most processes.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: weakref.WeakKeyDictionary[AbstractEventLoop, T] = weakref.WeakKeyDictionary()
        self._latest: tuple[Callable[[], AbstractEventLoop | None], T | None] = (_no_loop, None)
        self._lock = threading.Lock()

    def here(self) -> T:
        """The running loop's."""
        loop, (known, value) = asyncio.get_running_loop(), self._latest
        if known() is loop:
            return cast(T, value)
        with self._lock:
            if loop not in self._values:
                self._values[loop] = self._make()
            self._latest = (weakref.ref(loop), self._values[loop])
            return self._values[loop]

    def all(self) -> list[tuple[AbstractEventLoop, T]]:
        """Those of every loop that has asked and is still there."""
        with self._lock:
            return list(self._values.items())

    def pop(self, loop: AbstractEventLoop) -> T | None:
        """Takes a loop's out: it gets a new one if it asks again."""
        with self._lock:
            self._latest = (_no_loop, None)
            return self._values.pop(loop, None)


def _no_loop() -> None:
    return None
