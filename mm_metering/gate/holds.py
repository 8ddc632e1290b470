"""Reservations: what a call may use at most is held before it, and its close states what it was."""

from __future__ import annotations

from dataclasses import dataclass

from mm_metering.core.facts import Fact
from mm_metering.core.limits import State
from mm_metering.gate.admission import Candidate


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation that was granted. ``number`` is the candidate's; ``grants`` by meter, for those with a limit.
    ``degraded``: without the counters, so that nothing is held back from others."""

    id: str
    tenant: str
    candidate: Candidate
    number: int
    grants: dict[str, int]
    taken_us: int
    expires_us: int
    states: tuple[State, ...] = ()
    degraded: bool = False

    def granted(self, meter: str) -> int | None:
        """None: no limit of the plan's."""
        return self.grants.get(meter)

    def closed(self, fact: Fact, *, name: str) -> Fact:
        """The fact that ends it; "close" once it is settled, "expired" where nobody settled it."""
        return fact._replace(
            id=f"{self.id}.{name}", occurred_us=self.taken_us, kind="close", tenant=self.tenant, target=self.id
        )
