"""Whether what somebody else must move stands still, by one's own monotonic clock alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Still(Generic[K, V]):
    """Since when each value was seen unchanged. After ``gap_s`` without a look all begin anew: who did not look, since
    the ledger was away or this process stood still itself, has seen nothing stand still."""

    def __init__(self, *, gap_s: float) -> None:
        self._gap_s = gap_s
        self._looked_s = float("-inf")
        self._since: dict[K, tuple[V, float]] = {}

    def look(self, values: Mapping[K, V], now_s: float) -> None:
        known = self._since if now_s - self._looked_s <= self._gap_s else {}
        self._looked_s = now_s
        self._since = {
            key: known[key] if key in known and known[key][0] == value else (value, now_s)
            for key, value in values.items()
        }

    def for_s(self, key: K) -> float:
        """How long it stood still at the last look; 0 for what was not there."""
        return self._looked_s - self._since[key][1] if key in self._since else 0.0
