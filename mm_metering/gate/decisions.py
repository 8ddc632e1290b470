"""From a slot's numbers to a Decision: what a person is told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from mm_metering.core.decision import Decision, Quantity
from mm_metering.core.facts import Fact
from mm_metering.core.limits import UNBOUNDED, Line, State, over_cost
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import Window, from_micros
from mm_metering.gate.admission import Admission, Reading
from mm_metering.gate.tenants import View
from mm_metering.gate.windows import Gauge, Prepared

_ENDLESS_US: Final = 2**61


def decisions(
    asked: Prepared, states: Sequence[State], plan: str, now_us: int, *, allowed: bool
) -> tuple[Decision, ...]:
    """One per limit that was asked, refused ones first, then those with the least left."""
    found = [
        _decision(gauge, line, state, plan, now_us, allowed=allowed)
        for gauge, line, state in zip(asked.gauges, asked.lines, states, strict=True)
        if gauge is not None
    ]
    return tuple(sorted(found, key=_closeness)) if len(found) > 1 else tuple(found)


def refused_all(asked: Prepared, plan: str, reason: str) -> tuple[Decision, ...]:
    """The answer to a tenant whose subscription's state refuses all, whatever its limits say: one per meter."""
    wanted = {count.meter: fact.quantity for fact in asked.facts for count in fact.counts}
    wanted = wanted or {fact.event_type: fact.quantity for fact in asked.facts}
    return tuple(
        Decision(allowed=False, meter=meter, requested=quantity, reason=reason, plan=plan)
        for meter, quantity in wanted.items()
    )


class Granted(Admission):
    """A take that fits. Most requests end without anybody asking for its decisions or facts, so they are made then."""

    __slots__ = ("_fact_id", "_now_us", "_view", "asked", "states")

    def __init__(self, view: View, asked: Prepared, states: Sequence[State], fact_id: str, now_us: int) -> None:
        self.tenant: str = view.tenant
        self.plan: str = view.plan
        self.allowed = True
        self.degraded = self.taken_back = False
        self._view = view
        self.asked: Prepared = asked
        self.states: Sequence[State] = states
        self._fact_id = fact_id
        self._now_us = now_us

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return decisions(self.asked, self.states, self.plan, self._now_us, allowed=True)

    @property
    def readings(self) -> list[Reading]:
        return readings(self.asked, self.states)

    @property
    def facts(self) -> tuple[Fact, ...]:
        return self._view.facts(self.asked, self._fact_id, self._now_us)


def readings(asked: Prepared, states: Sequence[State]) -> list[Reading]:
    """The limits of counts in a window after a take that fits, those with the least left first."""
    found = []
    for order, policy, slot, ends_us in asked.shown:
        used, held, extra = states[order]
        over = used - policy.limit if slot.maximum == UNBOUNDED and used > policy.limit else 0
        resets_us = (extra + slot.rate_s) * 1_000_000 if slot.rate_s else ends_us
        found.append(Reading(policy, max(0, policy.limit - used - held), over, resets_us))
    return sorted(found, key=_share)


def _share(reading: Reading) -> float:
    return reading.remaining / reading.policy.limit if reading.policy.limit else 0.0


def _closeness(decision: Decision) -> tuple[bool, bool, float]:
    """What waiting a second may help is not what refuses, if something else does."""
    if decision.reason == "budget-busy":
        return False, True, 0.0
    if decision.limit is None or decision.remaining is None:
        return decision.allowed, True, 0.0
    share = float(decision.remaining) / float(decision.limit) if decision.limit else 0.0
    return decision.allowed, False, share if decision.allowed else -float(decision.retry_after_s or 0)


def _decision(gauge: Gauge, line: Line, state: State, plan: str, now_us: int, *, allowed: bool) -> Decision:
    reason = None if allowed else refusal(gauge, line, state)
    ends_us = (state.extra + gauge.slot.rate_s) * 1_000_000 if gauge.slot.rate_s else gauge.ends_us
    resets = from_micros(ends_us) if ends_us < _ENDLESS_US and gauge.limit.window is not Window.NONE else None
    if reason == "budget-exceeded" and gauge.slot.price:
        return _over_cap(gauge, line, state, plan)
    used, limit = state.used + (state.held if reason == "budget-busy" else 0), gauge.limit.maximum
    return Decision(
        allowed=reason is None,
        meter=gauge.limit.meter,
        requested=_shown(gauge, line.want),
        limit=None if limit is None else _shown(gauge, limit),
        used=_shown(gauge, used),
        remaining=None if limit is None else _shown(gauge, max(0, limit - state.used - state.held)),
        resets_at=resets,
        reason=reason,
        retry_after_s=_retry_after(gauge, resets, now_us) if reason in ("quota-exceeded", "rate-limited") else None,
        plan=plan,
        overage=_shown(gauge, max(0, used - limit) if limit is not None and not gauge.limit.blocks else 0),
        window=gauge.limit.window.value,
        window_s=gauge.window_s or None,
        reserved=_shown(gauge, state.held),
        scope=gauge.scope or None,
    )


def refusal(gauge: Gauge, line: Line, state: State) -> str | None:
    """Why this line does not fit; None if it does."""
    slot = gauge.slot
    if slot.maximum != UNBOUNDED and state.used + state.held + line.need > slot.maximum:
        if gauge.limit.not_in_plan:
            return "feature-not-in-plan"
        if slot.rate_s:
            return "rate-limited"
        if gauge.limit.unit != "money":
            return "quota-exceeded"
        return "budget-busy" if state.used + line.need <= slot.maximum else "budget-exceeded"
    over = over_cost(slot, state.used + state.held, line.need) if slot.price else 0
    return "budget-exceeded" if over and state.extra + over > slot.cap else None


def _over_cap(gauge: Gauge, line: Line, state: State, plan: str) -> Decision:
    """A spend cap speaks in money: what this would cost, what the month has cost so far, and the cap."""
    cap, spent = gauge.slot.cap, state.extra
    return Decision(
        allowed=False,
        meter=gauge.limit.meter,
        requested=from_nanos(over_cost(gauge.slot, state.used + state.held, line.need)),
        limit=from_nanos(cap),
        used=from_nanos(spent),
        remaining=from_nanos(max(0, cap - spent)),
        reason="budget-exceeded",
        plan=plan,
        window=Window.MONTH.value,
    )


def _shown(gauge: Gauge, amount: int) -> Quantity:
    return from_nanos(amount) if gauge.limit.unit == "money" else amount


def _retry_after(gauge: Gauge, resets: datetime | None, now_us: int) -> int | None:
    """Whole seconds, rounded up. A burst window is opened by the fastest clock of all processes: by a slower one it
    seems to end too late, but nobody waits longer than it is."""
    if resets is None:
        return None
    left_us = int((resets - from_micros(now_us)).total_seconds() * 1_000_000)
    left_s = max(1, -(-left_us // 1_000_000))
    return min(left_s, gauge.slot.rate_s or left_s)
