"""What this process has acknowledged and the ledger has not confirmed yet.

Facts go in when the counters (or the outage policy) said yes, and leave when the drain has passed their entry in their
own generation. When a generation ends, what is left is replayed into the next one: the ledger takes each fact once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from mm_metering.backends.counters import position_key

MAX_FACTS: Final = 1_000_000
"""Beyond this many unconfirmed facts nothing more is acknowledged: somebody must drain."""
REPLAY_BATCH: Final = 500

Item: TypeAlias = tuple[str, bytes]
"""A tenant and the fact lines of one op."""


class Acked(NamedTuple):
    """Facts that stand in one stream entry of one generation."""

    generation: int
    position: str
    items: tuple[Item, ...]


class Journal:
    """One per lane; touched by its event loop alone."""

    def __init__(self) -> None:
        self._acked: deque[Acked] = deque()
        self._pending: deque[Item] = deque()
        self.facts = 0

    @property
    def full(self) -> bool:
        return self.facts >= MAX_FACTS

    @property
    def waiting(self) -> bool:
        """Whether something must be replayed before anything is taken."""
        return bool(self._pending)

    def acked(self, generation: int, position: str, items: Sequence[Item]) -> None:
        """These facts stand in the stream now."""
        if items:
            self._acked.append(Acked(generation, position, tuple(items)))
            self.facts += len(items)

    def later(self, items: Iterable[Item]) -> None:
        """These facts must be appended: allowed in an outage, or their fate is unknown."""
        for item in items:
            self._pending.append(item)
            self.facts += 1

    def next_replay(self) -> tuple[Item, ...]:
        """Takes the next facts to replay out; they come back by ``acked`` or ``later``."""
        count = min(REPLAY_BATCH, len(self._pending))
        self.facts -= count
        return tuple(self._pending.popleft() for _ in range(count))

    def confirm(self, generation: int, drained: str) -> None:
        """Forgets what the ledger has folded of this generation."""
        end = position_key(drained)
        while self._acked and self._acked[0].generation == generation:
            if position_key(self._acked[0].position) > end:
                return
            self.facts -= len(self._acked.popleft().items)

    def restart(self) -> None:
        """A new generation began: everything unconfirmed is to be replayed into it, in order."""
        acked = [item for entry in self._acked for item in entry.items]
        self._acked.clear()
        self._pending.extendleft(reversed(acked))
