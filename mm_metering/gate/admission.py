"""What callers ask of the gate, and what they get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact
from mm_metering.core.periods import micros

WINDOWS: Final = ("second", "minute", "day", "month")


class Wish(NamedTuple):
    """One thing about to be used: ``quantity`` of ``resource`` under an event type, or of a meter by its name."""

    event_type: str
    resource: str
    quantity: int = 1
    cost_nanos: int | None = None
    meter: str | None = None


class Scope(NamedTuple):
    """A part of a tenant's AI cost, "feature:chat": its budgets are the plan's; ``cap`` is the most that this one may
    come to in a month, in nano-units."""

    name: str
    cap: int | None = None


class Share(NamedTuple):
    """What a reservation holds of a meter: ``want``, or what is left of it, but at least ``need``. Units, or nano-units
    of money. It is held in each of ``scopes`` too."""

    meter: str
    need: int
    want: int
    scopes: tuple[Scope, ...] = ()


class Candidate(NamedTuple):
    """One way to do what is reserved: ``resource`` under an event type, with a share of each meter. ``note`` is kept
    with it, as JSON."""

    event_type: str
    resource: str
    shares: tuple[Share, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A limit of counts in a window, as an answer shows it. Compared by identity: it is one object for as long as its
    window is open, so what follows from it may be kept by it.

    window_s  how long the window is; 0 where that is not known
    """

    meter: str
    window: str
    limit: int
    window_s: int


class Reading(NamedTuple):
    """What a limit of counts stands at: the part of a Decision that each answer shows. ``resets_us`` is 0 for a window
    without end."""

    policy: Policy
    remaining: int
    overage: int
    resets_us: int
    allowed: bool = True


class Admission:
    """The answer to a set of wishes, all or nothing.

    ``decisions`` holds one per limit that was asked, refused ones first, then the most constrained; empty where
    nothing is limited. ``readings`` is the same for an answer's headers, without levels, money and what is unlimited.
    ``facts`` is what was counted, for a reversal; ``taken_back`` once that happened. ``degraded``: allowed without the
    counters.
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
        self.tenant: str = tenant
        self.plan: str = plan
        self.allowed: bool = allowed
        self.degraded: bool = degraded
        self.taken_back: bool = False
        self._decisions = decisions
        self._facts = facts

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._decisions

    @property
    def readings(self) -> Sequence[Reading]:
        return readings(self.decisions)

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


def readings(decisions: Sequence[Decision]) -> list[Reading]:
    """What these decisions say of limits of counts in a window, in their order."""
    return [
        Reading(
            _policy(each.meter, each.window, each.limit, each.window_s or 0),
            int(each.remaining or 0),
            int(each.overage),
            micros(each.resets_at) if each.resets_at else 0,
            each.allowed,
        )
        for each in decisions
        if isinstance(each.limit, int) and each.window in WINDOWS
    ]


def policy_name(meter: str, window: str | None) -> str:
    """ "api_calls-day"; a level has its meter's name alone."""
    return f"{meter}-{window}" if window in WINDOWS else meter


_policy = lru_cache(maxsize=1024)(Policy)
