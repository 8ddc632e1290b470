"""A thread with an event loop of its own, for callers that are not async. Started when the first one comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")


class Portal:
    """Safe from any thread. A forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: tuple[int, BlockingPortal, ExitStack] | None = None

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs it on the thread's loop and waits; its errors are raised here."""
        return self._portal().call(work)

    def _portal(self) -> BlockingPortal:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                stack = ExitStack()
                self._open = (os.getpid(), stack.enter_context(start_blocking_portal("asyncio")), stack)
            return self._open[1]

    def close(self) -> None:
        """Ends the thread. Blocks until what runs there is done."""
        with self._lock:
            here, self._open = self._open, None
        if here is not None and here[0] == os.getpid():
            here[2].close()
