"""Every lifecycle is a table: in each state, what may happen, and which state follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mm_metering.errors import WrongState


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """``moves[state][event]`` is the state after it. A state without moves is final."""

    of: str
    moves: Mapping[str, Mapping[str, str]]

    def after(self, state: str, event: str, *, name: str) -> str:
        """The state that follows; WrongState if ``event`` may not happen to ``name``, which is in ``state``."""
        allowed = self.moves[state]
        if event not in allowed:
            ways = f"it allows {', '.join(allowed)}" if allowed else "that is final"
            raise WrongState(f"{self.of} {name} is {state}: {event} is not possible; {ways}", state=state)
        return allowed[event]


INVOICE: Final = Lifecycle(
    "invoice",
    {
        "draft": {"finalize": "finalized"},
        "finalized": {"pay": "paid", "void": "void", "give up": "uncollectible"},
        "uncollectible": {"pay": "paid", "void": "void"},
        "paid": {},
        "void": {},
    },
)
