"""What stood: a level over one month, plan segment by plan segment, as the sums that a mean is made of.

Cells hold a level's changes, and each change times the seconds left in its day. With the value at the month's start
that is all: what stood counts for a whole segment, and a change from its own second to the segment's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from itertools import pairwise
from typing import NamedTuple

from mm_metering.core.cells import Cell
from mm_metering.core.periods import Span, day_span, day_start, from_micros, local_day, micros, zone
from mm_metering.core.tenancy import TenantRow


class Part(NamedTuple):
    """A month's time under the plan segment that began at ``since_us``. ``weighted`` is the level, of all resources
    together, times the ``seconds`` that it stood; ``events`` counts the facts that changed it."""

    since_us: int
    span: Span
    seconds: int
    weighted: int
    events: int


def parts(cells: Iterable[Cell], tenant: TenantRow, month: Span, before: int) -> Iterator[Part]:
    """The parts of ``month``, a month in the tenant's zone, in order of time; the first begins no earlier than the
    local day of the sign-up. What is last is taken to stand until the month's end.

    ``cells`` are one level's of this month, ``before`` is its value at the month's start.
    """
    tz = zone(tenant.timezone)
    level, changes = before, [(key.day, _segment(tenant, key.since_us), total) for key, total, *_ in cells]

    def left(day: date) -> int:
        """Seconds from a day's end to the month's."""
        return _left(day_span(day, tz).end, month)

    for span in _stretches(tenant, month):
        since_us = _segment(tenant, micros(span.start))
        own = [(day, total) for day, since, total in changes if since == since_us]
        first, end = local_day(span.start, tz), _left(span.end, month)
        level += sum(total.quantity for day, total in own if day < first)  # before the sign-up
        inside = [(day, total) for day, total in own if day >= first]
        seconds = _left(span.start, month) - end
        weighted = level * seconds + sum(total.weighted + total.quantity * (left(day) - end) for day, total in inside)
        yield Part(since_us, span, seconds, weighted, sum(total.count for _, total in inside))
        level += sum(total.quantity for _, total in inside)


def _stretches(tenant: TenantRow, month: Span) -> Iterator[Span]:
    """The month from the local day of the sign-up on, cut where the plan changes."""
    start, sign_up_us = month.start, tenant.segments[0].starts_us
    if sign_up_us > micros(start):
        tz = zone(tenant.timezone)
        start = day_start(local_day(from_micros(sign_up_us), tz), tz)
    changes = (segment.starts_us for segment in tenant.segments[1:])
    cuts = [from_micros(each) for each in changes if micros(start) < each < micros(month.end)]
    ends = [start, *cuts, month.end] if start < month.end else []
    return (Span(*pair) for pair in pairwise(ends))


def _segment(tenant: TenantRow, moment_us: int) -> int:
    return tenant.segment_at(moment_us).starts_us


def _left(moment: datetime, month: Span) -> int:
    """Whole seconds until the month's end, as cells count those of a day."""
    return Span(moment, month.end).seconds
