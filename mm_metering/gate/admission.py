"""What callers ask of the gate, and what they get."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
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


class Reading(NamedTuple):
    """What a limit of counts stands at after a take that fits: the part of a Decision that each answer shows."""

    meter: str
    window: str
    limit: int
    remaining: int
    overage: int
    resets_at: datetime | None
    window_s: int
    allowed: bool = True


class Admission:
    """The answer to a set of wishes, all or nothing.

    ``decisions`` holds one per limit that was asked, refused ones first, then the most constrained; empty where
    nothing is limited. ``readings`` is the same for an answer's headers. ``facts`` is what was counted, for a reversal;
    ``taken_back`` once that happened. ``degraded``: allowed without the counters.
    """

    __slots__ = ("_decisions", "_facts", "allowed", "degraded", "plan", "taken_back", "tenant")

    def __init__(
        self,
        tenant: str,
        plan: str,
        *,
        allowed: bool,
        decisions: tuple[Decision, ...] = (),
        facts: tuple[Fact, ...] = (),
        degraded: bool = False,
    ) -> None:
        self.tenant = tenant
        self.plan = plan
        self.allowed = allowed
        self.degraded = degraded
        self.taken_back = False
        self._decisions = decisions
        self._facts = facts

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._decisions

    @property
    def readings(self) -> Sequence[Reading | Decision]:
        return self.decisions

    @property
    def facts(self) -> tuple[Fact, ...]:
        return self._facts

    def on(self, meter: str, requested: int) -> Decision:
        """What was decided for one meter: the refused limit, else the closest; unlimited where no limit was asked."""
        own = [decision for decision in self.decisions if decision.meter == meter]
        refused = [decision for decision in self.decisions if not decision]
        if refused or own:
            return (refused or own)[0]
        return Decision(
            allowed=self.allowed, meter=meter, requested=requested, plan=self.plan or None, degraded=self.degraded
        )
