"""Async work of a Metering for sync tests and for the ends of fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mm_metering.metering import Metering

T = TypeVar("T")


def from_sync(metering: Metering, work: Callable[[], Awaitable[T]], *, instead: str) -> T:
    """Runs it and waits. RuntimeError on the thread of an event loop: what that loop still has to do would be waited
    for, and it stands still."""
    if _is_on_a_loop():
        raise RuntimeError(f"this is an async test, whose event loop would stand still: {instead}")
    return metering.from_sync(work)


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def on_a_thread(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Runs it on a thread and an event loop of its own: the end of a fixture, whatever loop the test had."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - raised on the caller's thread
            errors.append(error)

    thread = Thread(target=run, name="mm-metering-test")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
