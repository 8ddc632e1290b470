"""A seeded event loop on virtual time: the real asyncio code, run in every order, with no waiting."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any


class _NoSelector(selectors.BaseSelector):
    """Selects nothing; a wait becomes a step of virtual time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        self._loop.virtual_s += max(0.0, timeout)
        return []

    def get_map(self) -> Any:
        return {}


class SimLoop(asyncio.SelectorEventLoop):
    """Shuffles the ready callbacks before each turn. Same seed, same run."""

    def __init__(self, seed: int) -> None:
        self.virtual_s = 0.0
        self.random = random.Random(seed)
        super().__init__(_NoSelector(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.virtual_s

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            handles = list(ready)
            self.random.shuffle(handles)
            ready.clear()
            ready.extend(handles)
        super()._run_once()  # type: ignore[misc]


def run(seed: int, main: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end on a fresh seeded loop."""
    loop = SimLoop(seed)
    try:
        return loop.run_until_complete(main)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
