"""What the rest of a period may come to: draws from a tenant's own past, in whole nano-units and without a float.

Two kinds of draws are mixed. **Weekly blocks**: each week ahead is one of the last eight weeks, weekday on weekday.
**The year**: for a steady tenant how far the same forecast would have been off at each week of the last year, in both
directions; for a bursty one what really came in as many days, at each week of the last year. Blocks alone are too sure
of themselves: they know neither drift nor the customer who was away for two months and comes back. Without enough of a
year, single days are drawn in its stead, and moved as far as steady tenants' levels are known to move. Where little is
known, it is drawn twice: first what is known, then from that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Final

MILLION: Final = 1_000_000
DRAWS: Final = 400
WEEKS: Final = 8
"""Of which the mean of each weekday is taken, and from which blocks are drawn."""
LEVEL_WEEKS: Final = 4
YEAR_WEEKS: Final = 52
MAX_DAYS: Final = 7 * (YEAR_WEEKS + WEEKS)
"""The most whole days that are looked at, the newest ones."""
MIN_STEADY_DAYS: Final = 28
"""What a forecast of the past must have had before it, for its error to count."""
MIN_FROM_YEAR: Final = 8
"""Fewer than these overlap so much that they say less than single days do."""
FROM_YEAR: Final = DRAWS * 3 // 4
FROM_YEAR_AFTER_SILENCE: Final = DRAWS // 4
"""For a steady tenant who has stopped: most such tenants have left, some are back next week."""
DRIFT_PERCENT: Final = (72, 90, 96, 100, 104, 111, 139)
"""How far a level moves within a month, each as likely as the others: what the six steady public series of the
benchmark did. It stands in for a tenant's own errors until there are some."""
STEADY_DAYS: Final = 4
"""A week: a tenant that rests at weekends, and on a holiday, is steady, too."""


@dataclass(frozen=True, slots=True)
class Past:
    """Whole days, none below zero, the last one yesterday's; how many days are ahead, today included; and how many
    millionths of today are over."""

    days: Sequence[int]
    ahead: int
    gone: int
    sums: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sums", tuple(accumulate(self.days, initial=0)))

    @property
    def weeks(self) -> int:
        return min(WEEKS, len(self.days) // 7)

    def ago(self, weeks: int, first: int = 0, last: int | None = None) -> int:
        """What the days ahead from ``first`` to before ``last`` came to so many weeks ago, less what is over of
        today."""
        start = len(self.days) - 7 * weeks
        total = self.sums[start + (self.ahead if last is None else last)] - self.sums[start + first]
        return total if first else total - self.days[start] * self.gone // MILLION

    def whole_weeks_ago(self) -> range:
        """The weeks of the last year that lie before as many known days as are ahead."""
        return range(-(-self.ahead // 7), min(YEAR_WEEKS, len(self.days) // 7) + 1)


def used_weeks(past: Past) -> list[int]:
    """On how many days something was used, in each of the last eight weeks in which anything was; the newest first."""
    ends = range(len(past.days), 6, -7)
    used = (sum(map(bool, past.days[end - 7 : end])) for end in ends)
    return list(islice(filter(None, used), WEEKS))


def is_steady(past: Past) -> bool:
    """Whether a week with any usage has it on most days. Silence is no sign of it: a steady tenant that was away stays
    one, and a bursty one has silent weeks as a rule."""
    used = used_weeks(past)
    return sum(used) >= STEADY_DAYS * max(1, len(used))


def expected(past: Past, *, steady: bool) -> list[int]:
    """Each day ahead, today's rest first: the mean of its weekday. For a steady tenant it is moved to the level
    of late (``_level``)."""
    at, weeks = len(past.days), past.weeks
    over, under = _level(past, at, weeks) if steady else (1, 1)
    week = [sum(past.days[at - 7 * weeks + weekday : at : 7]) * over // (under * weeks) for weekday in range(7)]
    plan = [week[offset % 7] for offset in range(past.ahead)]
    return [plan[0] * (MILLION - past.gone) // MILLION, *plan[1:]]


def _level(past: Past, at: int, weeks: int) -> tuple[int, int]:
    """Before day ``at``: the level halfway between the last four weeks and the last one, over that of ``weeks``."""
    whole, recent = _sum_of(past, at, weeks), min(LEVEL_WEEKS, weeks)
    near = recent * _sum_of(past, at, 1) + _sum_of(past, at, recent)
    return (weeks * near, 2 * recent * whole) if whole else (1, 1)


def _sum_of(past: Past, at: int, weeks: int) -> int:
    return past.sums[at] - past.sums[at - 7 * weeks]


def draws(past: Past, plan: Sequence[int], *, steady: bool, chance: random.Random) -> list[int]:
    """What the days ahead may come to, in order of size, DRAWS times. ``plan`` is what ``expected`` says."""
    rest, level = sum(plan), _level(past, len(past.days), past.weeks) if steady else (1, 1)
    year = list(_by_past_errors(past, rest) if steady and rest else map(past.ago, past.whole_weeks_ago()))
    if len(year) < MIN_FROM_YEAR:
        year = [total * level[0] // level[1] for total in _of_days(past, FROM_YEAR, chance)]
    count = FROM_YEAR if rest or not steady else FROM_YEAR_AFTER_SILENCE
    blocks = [_of_blocks(past, chance) * level[0] // level[1] for _ in range(DRAWS - count)]
    return sorted([year[number % len(year)] for number in range(count)] + blocks)


def _of_blocks(past: Past, chance: random.Random) -> int:
    """Each seven days ahead as one of the last weeks that are known as far."""
    total = 0
    known = chance.choices(range(past.weeks), k=past.weeks)
    for first in range(0, past.ahead, 7):
        last = min(first + 7, past.ahead)
        newest = -(-last // 7)
        oldest = (len(past.days) + first) // 7
        total += past.ago(min(oldest, newest + chance.choice(known)), first, last)
    return total


def _by_past_errors(past: Past, rest: int) -> Iterator[int]:
    """The rest, times what came over what this forecast would have said, and times the inverse: errors have no side."""
    for weeks in past.whole_weeks_ago():
        at = len(past.days) - 7 * weeks
        if at < MIN_STEADY_DAYS:
            return
        came, said = past.sums[at + past.ahead] - past.sums[at], _said(past, at)
        if came and said:
            yield rest * came // said
            yield rest * said // came


def _said(past: Past, at: int) -> int:
    """What would have been expected before day ``at``, of as many days as are ahead now."""
    weeks = min(WEEKS, at // 7)
    over, under = _level(past, at, weeks)
    total = 0
    for weekday in range(min(7, past.ahead)):
        times = (past.ahead - weekday + 6) // 7
        total += times * sum(past.days[at - 7 * weeks + weekday : at : 7])
    return total * over // (under * weeks)


def draws_of_few_days(past: Past, chance: random.Random) -> list[int]:
    """As ``draws`` of days too few for weeks."""
    return sorted(_of_days(past, DRAWS, chance))


def _of_days(past: Past, count: int, chance: random.Random) -> Iterator[int]:
    """Days drawn anew from the known ones, of which then each day ahead is one, at a level that moves. Drawing twice
    makes up for how little a few days say of their own mean."""
    for number in range(count):
        known = chance.choices(past.days, k=len(past.days))
        today, *later = chance.choices(known, k=past.ahead)
        total = today * (MILLION - past.gone) // MILLION + sum(later)
        yield total * DRIFT_PERCENT[number % len(DRIFT_PERCENT)] // 100
