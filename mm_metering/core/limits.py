"""The one limit and the one rule.

Quotas, AI budgets, spend caps, levels and burst rates are slots of a tenant's counters. A take asks for all of its
lines or nothing; a post states what happened and is never refused. The memory backend calls this module; the
script library states the same rule for Redis, and a model test holds the two equal.

Amounts are whole numbers up to 2**53 - 1: units, or nano-units for money. ``used`` is what is counted, ``held`` what
is reserved and not settled yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

UNBOUNDED: Final = -1
DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def window_start(second: int) -> str:
    """A window's start in a field's name: seconds since 1970 to the base of 36, for ``int(text, 36)``. Every tenant has
    a dozen of them in memory: four characters less each are an eighth of that."""
    text, left = "", abs(second)
    while left:
        left, digit = divmod(left, 36)
        text = DIGITS[digit] + text
    return f"-{text}" if second < 0 else text or "0"


class Slot(NamedTuple):
    """One counter and its bound, as a plan gives it for one window.

    field     name in the tenant's hash: "api_calls@ds7a000" (``window_start``); its twin for what is held ends in "~"
    maximum   the most that used + held may reach; UNBOUNDED for none
    free      past this, each unit costs ``price`` nano-units, counted in ``cap_field`` up to ``cap``
    rate_s    > 0: a burst window of that many seconds, kept as "start n" and never loaded, held or in facts
    """

    field: str
    meter: str
    maximum: int = UNBOUNDED
    free: int = 0
    price: int = 0
    cap_field: str = ""
    cap: int = 0
    rate_s: int = 0


class Line(NamedTuple):
    """One wish of a take: at least ``need``, at best ``want`` (equal for plain counts)."""

    slot: Slot
    need: int
    want: int


class State(NamedTuple):
    """A slot's numbers. ``extra`` is the money counted in its cap, or a burst window's start in seconds."""

    used: int
    held: int
    extra: int


class Verdict(NamedTuple):
    """What a take came to: the index of the alternative that fits, or -1, and what it grants per meter, in order."""

    chosen: int
    grants: dict[str, int]


class Delta(NamedTuple):
    """One line of a post. ``opens`` is True for a window that contains now or lies ahead; a past window's counter
    moves only if it is still there."""

    slot: Slot
    used: int
    held: int
    opens: bool = True


def decide(alternatives: Sequence[Sequence[Line]], states: Sequence[Sequence[State]]) -> Verdict:
    """The first alternative whose lines all fit; ``states`` are those of its lines' slots. A line fits if the head,
    maximum - used - held, is at least its need; the lines of one meter share one grant, the least of their
    min(want, head); and what the grant costs past the free amount fits under the cap."""
    for index, (lines, known) in enumerate(zip(alternatives, states, strict=True)):
        grants = _grants(lines, known)
        if grants is not None and _under_cap(lines, known, grants):
            return Verdict(index, grants)
    return Verdict(-1, {})


def _grants(lines: Sequence[Line], states: Sequence[State]) -> dict[str, int] | None:
    grants: dict[str, int] = {}
    for (slot, need, want), (used, held, _) in zip(lines, states, strict=True):
        granted, meter = want, slot.meter
        if slot.maximum != UNBOUNDED:
            granted = min(want, slot.maximum - used - held)
            if granted < need:
                return None
        grants[meter] = min(granted, grants[meter]) if meter in grants else granted
    return grants


def _under_cap(lines: Sequence[Line], states: Sequence[State], grants: dict[str, int]) -> bool:
    added: dict[str, int] = {}
    for (slot, _, _), (used, held, extra) in zip(lines, states, strict=True):
        if not slot.price:
            continue
        cost = over_cost(slot, used + held, grants[slot.meter])
        added[slot.cap_field] = added.get(slot.cap_field, 0) + cost
        if cost and extra + added[slot.cap_field] > slot.cap:
            return False
    return True


def over_cost(slot: Slot, base: int, change: int) -> int:
    """By how much the money past the free amount moves when ``base`` = used + held changes."""
    return slot.price * (max(0, base + change - slot.free) - max(0, base - slot.free))
