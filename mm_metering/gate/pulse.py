"""What lanes say of their batches, for whoever watches the counters."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from mm_metering.telemetry.instruments import BATCH_OPS, BATCHES, CHECK
from mm_metering.telemetry.measures import Measures

Fate: TypeAlias = Literal["answered", "fenced", "lost"]

EVERY_S: Final = 0.01
"""A batch that ends sooner after one that was measured is not measured: an SDK takes 7 us for each."""


class Pulse:
    """One per process, for all its lanes. ``store``: what kind of counters they are."""

    def __init__(self, measures: Measures, store: str) -> None:
        self._measures = measures
        self._attributes = {fate: {"store": store, "outcome": fate} for fate in ("answered", "fenced", "lost")}
        self._batches = measures.tally(BATCHES).cell(store)
        self._ops = measures.tally(BATCH_OPS).cell(store)
        self._measured_s = 0.0

    def answered(self, ops: int) -> None:
        self._batches.n += 1
        self._ops.n += ops

    def took(self, began_s: float, now_s: float, fate: Fate) -> None:
        """Seconds of a monotonic clock. What was lost is measured each time."""
        if fate == "lost" or not 0 <= now_s - self._measured_s < EVERY_S:
            self._measured_s = now_s
            self._measures.took(CHECK, now_s - began_s, self._attributes[fate])
