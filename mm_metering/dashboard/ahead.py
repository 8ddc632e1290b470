"""What a running month may still charge for usage: each meter's units past its allowance at the month's end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

from mm_metering.core.catalogue import Limit
from mm_metering.core.lifecycles import FREE_STATES
from mm_metering.core.money import EXACT, round_minor
from mm_metering.core.periods import Window, micros
from mm_metering.core.pricing import Price, cost
from mm_metering.dashboard.standing import Usage, forecast_of, past_by_day

_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Ahead:
    """One meter: its units past the allowance so far and at the month's end, and what they cost; rounded, before
    discounts, minimums and tax. Without ``likely`` nothing can be said, and ``why`` says why."""

    meter: str
    window: str
    so_far: int
    amount: Decimal
    why: str
    likely: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    likely_units: int | None = None

    @property
    def more(self) -> Decimal:
        """What is likely to be added to ``amount``."""
        with localcontext(EXACT):
            return _ZERO if self.likely is None else max(_ZERO, self.likely - self.amount)


def ahead(usage: Usage, currency: str) -> list[Ahead]:
    """Of each meter that is charged past a limit of a day or month; under the plan in force, as if it always was."""
    if usage.plan is None or usage.row.segment_at(micros(usage.now)).status in FREE_STATES:
        return []
    return [_of(usage, limit, price, currency) for limit, price in _charging(usage)]


def not_foreseen(usage: Usage) -> list[str]:
    """The meters that are charged by resource, by the month's mean, or that have no price for all of their units."""
    seen = {limit.meter for limit, _ in _charging(usage)}
    limits = (limit for limits in (usage.plan.quotas if usage.plan else {}).values() for limit in limits)
    return sorted({limit.meter for limit in limits if not limit.blocks and limit.meter not in seen})


def _charging(usage: Usage) -> Iterator[tuple[Limit, Price]]:
    for limits in usage.plan.quotas.values() if usage.plan else ():
        for limit in limits:
            price = limit.price_for(None)
            if limit.window in (Window.DAY, Window.MONTH) and not limit.blocks and limit.maximum is not None and price:
                yield limit, price


def _of(usage: Usage, limit: Limit, price: Price, currency: str) -> Ahead:
    allowed_a_day = limit.maximum or 0 if limit.window is Window.DAY else 0
    seen = forecast_of(usage, past_by_day(usage, limit.meter, allowed=allowed_a_day))
    allowed = Decimal(limit.maximum or 0) if limit.window is Window.MONTH else _ZERO

    def units(of_month: Decimal) -> int:
        return int(max(_ZERO, of_month - allowed).to_integral_value())

    def amount(of_month: Decimal) -> Decimal:
        whole = cost(price, units(of_month))
        return round_minor(whole if limit.cap is None else min(whole, limit.cap), currency)

    with localcontext(EXACT):
        now = Ahead(limit.meter, limit.window.value, units(seen.spent), amount(seen.spent), seen.reason)
        if seen.p10 is None or seen.p50 is None or seen.p90 is None:
            return now
        likely, low, high = amount(seen.p50), amount(seen.p10), amount(seen.p90)
        return Ahead(now.meter, now.window, now.so_far, now.amount, now.why, likely, low, high, units(seen.p50))
