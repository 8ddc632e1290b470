"""The lanes of every event loop of this process: each loop has its own, and gives them up when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from mm_metering.backends.per_loop import PerLoop
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.snapshots import Snapshots

CLOSE_S: Final = 10.0
POLL_S: Final = 0.002
"""How often work on another event loop is looked at."""


@dataclass(slots=True, eq=False)
class LoopState:
    """What belongs to one event loop."""

    lanes: dict[int, Lane] = field(default_factory=dict)
    folds: dict[int, asyncio.Future[object]] = field(default_factory=dict)
    snapshots: dict[int, Snapshots] = field(default_factory=dict)
    chores: asyncio.Task[None] | None = None


class Loops:
    """``make`` makes a shard's lane, on the loop that first asks for it."""

    def __init__(self, make: Callable[[int], Lane]) -> None:
        self._make = make
        self._states = PerLoop(LoopState)
        self.here: Callable[[], LoopState] = self._states.here

    def lane(self, shard: int) -> Lane:
        """This loop's."""
        state = self.here()
        return state.lanes.get(shard) or self._open(shard, state)

    def lanes(self) -> Iterator[Lane]:
        """Those of all loops: to be looked at, not to be called from here."""
        return (lane for _, state in self._states.all() for lane in state.lanes.values())

    def _open(self, shard: int, state: LoopState) -> Lane:
        lane = state.lanes[shard] = self._make(shard)
        lane.start()
        return lane

    async def settled(self, shard: int | None, *, within_s: float) -> bool:
        """Waits until everything acknowledged on the loops that run, or in this shard alone, stands in the stream;
        False if that takes too long."""

        def lanes() -> list[Lane]:
            return [lane for lane in self.here().lanes.values() if shard in (None, lane.shard)]

        async def settled_here() -> bool:
            return all(await asyncio.gather(*(lane.settled(within_s=within_s) for lane in lanes())))

        def is_settled() -> bool:
            return all(_is_settled(lane) for lane in lanes())

        others = (_on(loop, settled_here, unless=is_settled, within_s=within_s + 1) for loop in self._others())
        return all(await asyncio.gather(settled_here(), *others))

    async def leave_ended(self) -> None:
        """The lanes of loops that have ended leave their journals to whoever adopts them."""
        for loop in [loop for loop, _ in self._states.all() if loop.is_closed()]:
            state = self._states.pop(loop)
            for lane in state.lanes.values() if state else ():
                await lane.leave()

    async def aclose(self) -> bool:
        """Stops the lanes of every loop that runs; False if something unconfirmed ends with this process."""

        async def close_here() -> bool:
            state = self._states.pop(asyncio.get_running_loop()) or LoopState()
            if state.chores is not None:
                state.chores.cancel()
                await asyncio.gather(state.chores, return_exceptions=True)
            return all(await asyncio.gather(*(lane.aclose() for lane in state.lanes.values())))

        others = (_on(loop, close_here, unless=lambda: False, within_s=CLOSE_S) for loop in self._others())
        kept = await asyncio.gather(close_here(), *others)
        await self.leave_ended()
        return all(kept)

    def _others(self) -> list[asyncio.AbstractEventLoop]:
        """The other loops that run."""
        here = asyncio.get_running_loop()
        return [loop for loop, _ in self._states.all() if loop is not here and loop.is_running()]


def _is_settled(lane: Lane) -> bool:
    """Whether all that it has acknowledged stands in the stream. To be asked on its own loop."""
    return not (lane.down or lane.journal.waiting or lane.unconfirmed > lane.journal.facts)


async def _on(
    loop: asyncio.AbstractEventLoop,
    work: Callable[[], Coroutine[Any, Any, bool]],
    *,
    unless: Callable[[], bool],
    within_s: float,
) -> bool:
    """What work comes to on another loop; False if that takes too long. True if ``unless`` says so there already, or
    that loop ends first, and its lanes with it.

    Nothing is awaited that belongs to that loop: when it ends such a future is cancelled, or never done.
    """
    done, give_up = Future[bool](), asyncio.get_running_loop().time() + within_s
    begun: list[asyncio.Task[bool]] = []

    def begin() -> None:
        if unless():
            done.set_result(True)
            return
        begun.append(loop.create_task(work()))
        begun[0].add_done_callback(lambda task: done.set_result(task.cancelled() or task.result()))

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:  # it is closed
        return True
    while not (done.done() or loop.is_closed()):
        if asyncio.get_running_loop().time() >= give_up:
            return False
        await asyncio.sleep(POLL_S)
    return not done.done() or done.result()
