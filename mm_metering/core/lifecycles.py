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

_ON_ITS_WAY: Final = {
    "pay": "paid",
    "fail": "failing",
    "confirm": "confirming",
    "park": "parked",
    "void": "void",
    "give up": "uncollectible",
}
COLLECTION: Final = Lifecycle(
    "collection of",
    {
        "open": _ON_ITS_WAY,
        "failing": _ON_ITS_WAY,
        "confirming": _ON_ITS_WAY,
        "parked": {"retry": "open", "pay": "paid", "void": "void", "give up": "uncollectible"},
        "uncollectible": {"pay": "paid", "void": "void"},
        "paid": {},
        "void": {},
    },
)
"""An invoice on its way to be paid through the provider."""

TRIAL: Final = "trial"
ACTIVE: Final = "active"
PAST_DUE: Final = "past_due"
UNPAID: Final = "unpaid"
PAUSED: Final = "paused"
CANCELED: Final = "canceled"

SUBSCRIPTION: Final = Lifecycle(
    "subscription",
    {
        TRIAL: {
            "end trial": ACTIVE,
            "change plan": TRIAL,
            "pause": PAUSED,
            "resume": TRIAL,
            "cancel": CANCELED,
        },
        ACTIVE: {
            "fail payment": PAST_DUE,
            "suspend": UNPAID,
            "pay": ACTIVE,
            "change plan": ACTIVE,
            "pause": PAUSED,
            "resume": ACTIVE,
            "cancel": CANCELED,
        },
        PAST_DUE: {
            "fail payment": PAST_DUE,
            "suspend": UNPAID,
            "pay": ACTIVE,
            "change plan": PAST_DUE,
            "resume": PAST_DUE,
            "cancel": CANCELED,
        },
        UNPAID: {
            "fail payment": PAST_DUE,
            "suspend": UNPAID,
            "pay": ACTIVE,
            "change plan": UNPAID,
            "resume": UNPAID,
            "cancel": CANCELED,
        },
        PAUSED: {"change plan": PAUSED, "pause": PAUSED, "resume": ACTIVE, "cancel": CANCELED},
        CANCELED: {"change plan": ACTIVE, "cancel": CANCELED},
    },
)
"""What leads to its own state changes nothing in it; "resume" also undoes a pause or a cancellation that is to come."""

FREE_STATES: Final = frozenset({TRIAL, UNPAID, PAUSED, CANCELED})
"""In which no fee is due."""

REFUSED_AS: Final[Mapping[str, str]] = {
    UNPAID: "payment-required",
    PAUSED: "tenant-suspended",
    CANCELED: "payment-required",
}
"""The states in which each request is refused, and the reason that it is told."""

PAYMENT_EVENTS: Final[Mapping[str, str]] = {"paid": "pay", "past_due": "fail payment", "unpaid": "suspend"}
"""What happens to a subscription whose payment stands like that."""
