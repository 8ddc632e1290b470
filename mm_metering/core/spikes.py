"""Whether an hour's usage is out of the ordinary, by the same hour of the same weekday in past weeks.

Median and median deviation: a past spike, or a week of holidays, moves neither. Amounts are whole nano-units inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from statistics import median_high
from typing import Final, NamedTuple

from mm_metering.core.money import from_nanos, to_nanos

MIN_WEEKS: Final = 4
DEVIATIONS: Final = 6
"""How many deviations above the median are still ordinary."""
_DEVIATION_OF_MAD: Final = (14_826, 10_000)
"""The standard deviation of normal values, over their median deviation."""
_LEAST_SHARE: Final = 4
"""A deviation is at least a quarter of the median, so that nothing up to two and a half times the median is a spike."""


class Spike(NamedTuple):
    """An hour with ``amount``, which is more than ``most``, the largest that would have been ordinary; ``usual`` is the
    median."""

    amount: Decimal
    usual: Decimal
    most: Decimal


def is_spike(amount: Decimal, same_hours: Sequence[Decimal], *, least: Decimal) -> Spike | None:
    """The spike that an hour is, or None: ``same_hours`` are those of past weeks, with zeros for hours without usage.

    An hour of at most ``least`` never is one, whatever came before; nor is any with fewer than four past weeks, since
    there is nothing to go by.
    """
    if len(same_hours) < MIN_WEEKS or amount <= least:
        return None
    past = [to_nanos(each) for each in same_hours]
    usual = median_high(past)
    spread = median_high([abs(each - usual) for each in past]) * _DEVIATION_OF_MAD[0] // _DEVIATION_OF_MAD[1]
    most = max(usual + DEVIATIONS * max(spread, usual // _LEAST_SHARE), to_nanos(least))
    return Spike(amount, from_nanos(usual), from_nanos(most)) if to_nanos(amount) > most else None
