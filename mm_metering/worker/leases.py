"""Which worker drains which shard: an even part of them each, by leases in the ledger.

A lease is only efficiency: two that drain one shard lose nothing, since the shard's position is set by
compare-and-set. So it may be decided on what was seen a moment ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.work import Lease
from mm_metering.worker.still import Still

BEAT_S: Final = 1.0
"""How often a worker raises the beat of its leases."""
LEASE_S: Final = 4.0
"""A lease whose beat was seen to stand still for that long is anybody's."""

SHARD: Final = "shard:"
WORKER: Final = "worker:"
"""Each worker has a lease of its own, so that the others know how many they are."""


class Step(NamedTuple):
    """What one worker asks for."""

    take: list[Lease]
    drop: list[Lease]


def next_step(me: str, shards: int, leases: Iterable[Lease], *, gone: Callable[[Lease], bool]) -> Step:
    """Up to its even part of the shards from those that are free, and what it has past that back. The leases of
    workers that are ``gone`` are free, or dropped."""
    by_name = {lease.name: lease for lease in leases}
    workers = [lease for name, lease in by_name.items() if name.startswith(WORKER)]
    live = sorted({me, *(lease.owner for lease in workers if not gone(lease))})
    part = shards // len(live) + (live.index(me) < shards % len(live))
    mine, free = list[Lease](), list[Lease]()
    for name in (f"{SHARD}{shard}" for shard in range(shards)):
        lease = by_name.get(name)
        if lease is not None and lease.owner == me:
            mine.append(lease)
        elif lease is None or gone(lease):
            free.append(lease or Lease(name, "", 0))
    itself = [] if WORKER + me in by_name else [Lease(WORKER + me, "", 0)]
    lost = [lease for lease in workers if lease.owner != me and gone(lease)]
    return Step([*itself, *free[: max(0, part - len(mine))]], [*mine[part:], *lost])


class Leases:
    """One worker's. ``held`` are the shards it is to drain now."""

    def __init__(self, ledger: Ledger, *, worker: str, shards: int) -> None:
        self.held: frozenset[int] = frozenset()
        self.worker = worker
        self._ledger = ledger
        self._shards = shards
        self._known: list[Lease] = []
        self._still: Still[str, Lease] = Still(gap_s=LEASE_S / 2)

    async def beat(self, now_s: float) -> None:
        """Renews what it has, takes what it may and gives back what is too much. StoreUnavailable leaves all as it
        was."""
        await self._hold(Step([], []), now_s)
        step = next_step(self.worker, self._shards, self._known, gone=self._is_gone)
        if step.take or step.drop:
            await self._hold(step, now_s)
        self.held = frozenset(
            int(lease.name.removeprefix(SHARD))
            for lease in self._known
            if lease.owner == self.worker and lease.name.startswith(SHARD)
        )

    async def give_back(self) -> None:
        """Gives all back, so that others need not wait. What it held it may go on to drain."""
        mine = [lease for lease in self._known if lease.owner == self.worker]
        self._known = []
        if mine:
            await self._ledger.hold(self.worker, drop=mine)

    async def _hold(self, step: Step, now_s: float) -> None:
        self._known = await self._ledger.hold(self.worker, take=step.take, drop=step.drop)
        self._still.look({lease.name: lease for lease in self._known}, now_s)

    def _is_gone(self, lease: Lease) -> bool:
        return self._still.for_s(lease.name) >= LEASE_S
