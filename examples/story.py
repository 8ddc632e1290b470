"""What the examples share: a story of lines and numbers, and an app that is served while a block runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from examples.mortgagematch.stage import bound

WIDTH: Final = 78
POLL_S: Final = 0.01


class Story:
    """Prints what happens. ``exit_code`` is 1 once a check did not hold."""

    def __init__(self, title: str) -> None:
        self.exit_code = 0
        print(title)

    def chapter(self, text: str) -> None:
        print(f"\n{text}")

    def tell(self, what: str, number: object = "") -> None:
        """A line, its number at the right edge."""
        print(f"  {what} {number:>{max(1, WIDTH - len(what) - 3)}}".rstrip() if number != "" else f"  {what}")

    def check(self, what: str, *, holds: bool) -> None:
        self.exit_code |= not holds
        print(f"  {'ok' if holds else 'WRONG':6}{what}")


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, port: int = 0) -> AsyncIterator[str]:
    """The URL of the app under uvicorn, in this process and on this loop; on another port where that one is taken."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    with bound(port) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started and not task.done():  # noqa: ASYNC110 - it says so nowhere else
                await asyncio.sleep(POLL_S)
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            await task


def told(story: Coroutine[Any, Any, int]) -> int:
    """Runs it; its exit code. Ctrl-C ends it well."""
    try:
        return asyncio.run(story)
    except KeyboardInterrupt:
        return 0
