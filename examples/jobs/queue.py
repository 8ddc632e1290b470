"""A task queue in memory, as small as one can be: what is in it happens at least once.

In its place stands yours. What matters here it has too: a job is data with a tenant in it, it is run again when it
failed, and it may be run again although it had succeeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

MOST_TRIES: Final = 3
MOST_WAITING: Final = 1_000


@dataclass(frozen=True)
class Job:
    """``tenant`` travels in the job: where it is run nobody is bound."""

    id: str
    tenant: str
    pages: int
    tries: int = 0


class Queue:
    def __init__(self, run: Callable[[Job], Awaitable[None]], give_up: Callable[[Job], Awaitable[None]]) -> None:
        self._run = run
        self._give_up = give_up
        self._waiting: asyncio.Queue[Job] = asyncio.Queue(MOST_WAITING)
        self.runs = 0

    async def put(self, job: Job) -> None:
        await self._waiting.put(job)

    async def work(self) -> None:
        """The worker: until it is cancelled."""
        while True:
            job = await self._waiting.get()
            job, self.runs = replace(job, tries=job.tries + 1), self.runs + 1
            try:
                await self._run(job)
            except Exception:  # noqa: BLE001 - whatever a job raises, it is tried again
                await (self._waiting.put(job) if job.tries < MOST_TRIES else self._give_up(job))
            finally:
                self._waiting.task_done()

    async def finished(self) -> None:
        await self._waiting.join()
