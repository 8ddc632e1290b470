"""What callers ask of the gate, and what they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact


class Wish(NamedTuple):
    """One thing about to be used: ``quantity`` of ``resource`` under an event type, or of a meter by its name."""

    event_type: str
    resource: str
    quantity: int = 1
    cost_nanos: int | None = None
    meter: str | None = None


@dataclass(slots=True)
class Admission:
    """The answer to a set of wishes, all or nothing.

    ``decisions`` holds one per limit that was asked, refused ones first, then the most constrained; empty where
    nothing is limited. ``facts`` is what was counted, for a reversal; ``taken_back`` once that happened.
    ``degraded``: allowed without the counters.
    """

    tenant: str
    plan: str
    allowed: bool
    decisions: tuple[Decision, ...]
    facts: tuple[Fact, ...] = ()
    degraded: bool = False
    taken_back: bool = False

    @property
    def binding(self) -> Decision | None:
        """The decision that speaks for all: the first refused one, else the one closest to its limit."""
        return self.decisions[0] if self.decisions else None

    def on(self, meter: str, requested: int) -> Decision:
        """What was decided for one meter: the refused limit, else the closest; unlimited where no limit was asked."""
        own = [decision for decision in self.decisions if decision.meter == meter]
        refused = [decision for decision in self.decisions if not decision]
        if refused or own:
            return (refused or own)[0]
        return Decision(
            allowed=self.allowed, meter=meter, requested=requested, plan=self.plan or None, degraded=self.degraded
        )
