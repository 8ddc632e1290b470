"""Windows and billing periods: half-open [start, end), computed from the tenant's zone, never reset by a job.

Instants are aware UTC datetimes. A local day has 23 to 25 hours when clocks change, and carries the same quota.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from mm_metering.core.zones import MovedZone, Piece, zone_name
from mm_metering.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = -(2**62)
"""An instant before every other, in microseconds since 1970."""
_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
LONGEST_DAY = timedelta(hours=26)
_YEARS = range(1970, 9999)
FIRST_PERIOD = f"{_YEARS.start}-01"
_PERIOD = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


class Window(StrEnum):
    """How long a limit counts before it starts anew; ``none`` is for levels, which never do."""

    SECOND = "second"
    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NONE = "none"

    @property
    def seconds(self) -> int:
        """The fixed length of a rate window; 0 for the calendar ones."""
        return {Window.SECOND: 1, Window.MINUTE: 60}.get(self, 0)


class Span(NamedTuple):
    """A half-open stretch of time, both ends aware UTC."""

    start: datetime
    end: datetime

    def contains(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    @property
    def seconds(self) -> int:
        return (self.end - self.start) // _SECOND


FOREVER = Span(EPOCH, datetime(9999, 1, 1, tzinfo=UTC))


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exact."""
    return (moment - EPOCH) // _MICROSECOND


def month_start_us(moment_us: int, months: int = 0) -> int:
    """When the UTC month begins that comes so many months after the moment's, in microseconds since 1970."""
    moment = from_micros(moment_us)
    year, month = divmod(12 * moment.year + moment.month - 1 + months, 12)
    return micros(datetime(year, month + 1, 1, tzinfo=UTC))


def from_micros(value: int) -> datetime:
    return EPOCH + value * _MICROSECOND


def zone(name: str) -> tzinfo:
    """The IANA zone of that name, or a tenant's that has moved (``zones``); InvalidInput for anything else."""
    try:
        return _zone(name)
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise InvalidInput("timezone", f"{str(name)[:60]!r} is not an IANA time zone such as Europe/Berlin") from error


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    new = ZoneInfo(zone_name(name))
    before, moved, _ = name.rpartition(">")
    if not moved:
        return new
    old_name, _, second = before.rpartition("@")
    return _moved(name, _zone(old_name), new, EPOCH + int(second) * _SECOND)


def _moved(name: str, old: tzinfo, new: tzinfo, moment: datetime) -> MovedZone:
    """How the days of ``old`` become those of ``new``. Where the clock must go back by more than two hours it does so
    day by day, at noon."""
    first = day = local_day(moment, old)
    start = day_start(day, old)
    moment = max(moment, start + _SECOND)  # a day that begins at this instant has begun
    starts, pieces, since = dict[date, datetime](), list[Piece](), moment
    while True:
        day += _DAY
        due = day_start(day, new)
        start = starts[day] = max(min(due, start + LONGEST_DAY), moment)
        if start >= due:
            return MovedZone(name, old, new, [*pieces, Piece(since, new)], first_day=first, starts=starts)
        pieces.append(Piece(since, timezone(datetime.combine(day, time(), UTC) - start)))
        since = start + _DAY / 2


@lru_cache(maxsize=8192)
def day_start(day: date, tz: tzinfo) -> datetime:
    """The first instant of a local day. A midnight that clocks skip starts at the instant they jump."""
    if isinstance(tz, MovedZone):
        return tz.starts.get(day) or day_start(day, tz.old if day <= tz.first_day else tz.new)
    midnight = datetime.combine(day, time())
    start = midnight.replace(tzinfo=tz).astimezone(UTC)
    is_shown = start.astimezone(tz).replace(tzinfo=None) == midnight
    return start if is_shown else _jump_over_midnight(day, start, tz)


def _jump_over_midnight(day: date, late: datetime, tz: tzinfo) -> datetime:
    """The instant of the jump: Toronto's clocks went from 23:30 to 00:30 in 1919, and ``late`` reads 01:00 there."""
    early = datetime.combine(day, time(fold=1), tz).astimezone(UTC)
    seconds = range((late - early) // _SECOND)
    return early + bisect_left(seconds, day, key=lambda s: (early + s * _SECOND).astimezone(tz).date()) * _SECOND


def local_day(moment: datetime, tz: tzinfo) -> date:
    """The day whose span holds the moment. Clocks set back over midnight (00:01 to 23:01) do not bring a day back."""
    if isinstance(tz, MovedZone):
        return _day_of_moved(moment, tz)
    day = moment.astimezone(tz).date()
    following = day + timedelta(days=1)
    return day if moment < day_start(following, tz) else following


def _day_of_moved(moment: datetime, tz: MovedZone) -> date:
    if moment < day_start(tz.first_day, tz.old):
        return local_day(moment, tz.old)
    day = max((day for day, start in tz.starts.items() if start <= moment), default=tz.first_day)
    return local_day(moment, tz.new) if day == max(tz.starts) else day


def day_span(day: date, tz: tzinfo) -> Span:
    return Span(day_start(day, tz), day_start(day + timedelta(days=1), tz))


def days_us(first: date, last: date, timezone: str) -> tuple[int, int]:
    """When the local days from first to last, both included, begin and end."""
    tz = zone(timezone)
    return micros(day_start(first, tz)), micros(day_start(last + timedelta(days=1), tz))


def month_day(year: int, month: int, anchor: int) -> date:
    """The day of a month on which its billing month begins: the last one where it has no such day (31 Jan, 29 Feb,
    31 Mar)."""
    return date(year, month, min(anchor, calendar.monthrange(year, month)[1]))


def month_span(year: int, month: int, tz: tzinfo, anchor: int = 1) -> Span:
    """The month that begins on its day ``anchor``, 1 to 31; it ends where the next one begins."""
    following = month_day(*_month_after(year, month), anchor)
    return Span(day_start(month_day(year, month, anchor), tz), day_start(following, tz))


def _month_after(year: int, month: int) -> tuple[int, int]:
    return year + month // 12, month % 12 + 1


def window_span(window: Window, moment: datetime, tz: tzinfo, anchor: int = 1) -> Span:
    """The window of that kind that holds ``moment``; months begin on the day ``anchor``."""
    if window is Window.NONE:
        return FOREVER
    if window.seconds:
        start = EPOCH + (moment - EPOCH) // _SECOND // window.seconds * window.seconds * _SECOND
        return Span(start, start + timedelta(seconds=window.seconds))
    day = local_day(moment, tz)
    if window is Window.DAY:
        return day_span(day, tz)
    first = month_first(day, anchor)
    return month_span(first.year, first.month, tz, anchor)


def parse_period(period: object) -> tuple[int, int]:
    """(2024, 1) for "2024-01", of the years 1970 to 9998; InvalidInput otherwise."""
    match = _PERIOD.fullmatch(period) if isinstance(period, str) else None
    if match is None or not _YEARS.start <= int(match[1]) < _YEARS.stop:
        raise InvalidInput("period", f'{str(period)[:40]!r} is not a calendar month such as "2024-01"')
    return int(match[1]), int(match[2])


def period_span(period: str, tz: tzinfo, anchor: int = 1) -> Span:
    return month_span(*parse_period(period), tz, anchor)


def month_first(day: date, anchor: int = 1) -> date:
    """The first day of the billing month that holds a day."""
    if anchor == 1:
        return day.replace(day=1)
    first = month_day(day.year, day.month, anchor)
    if day < first:
        year, month = divmod(12 * day.year + day.month - 2, 12)
        first = month_day(year, month + 1, anchor)
    return first


def period_of(day: date, anchor: int = 1) -> str:
    """ "2024-01": the calendar month in which the billing month of a day begins."""
    return f"{month_first(day, anchor):%Y-%m}"


def later_period(period: str, months: int) -> str:
    """ "2024-01" moved by whole months, also backwards."""
    year, month = parse_period(period)
    year, month = divmod(12 * year + month - 1 + months, 12)
    return f"{year:04}-{month + 1:02}"


def days_of(period: str, anchor: int = 1) -> tuple[date, date]:
    """The first and the last day of a billing month."""
    year, month = parse_period(period)
    return month_day(year, month, anchor), month_day(*_month_after(year, month), anchor) - _DAY


def parse_day(day: date | str, field: str) -> date:
    """A date, or "YYYY-MM-DD", of 1970 to 9998; a datetime is refused, since its day depends on a zone."""
    parsed = _date(day) if isinstance(day, str) else day
    if isinstance(parsed, date) and not isinstance(parsed, datetime) and parsed.year in _YEARS:
        return parsed
    raise InvalidInput(field, f'{str(day)[:40]!r} is not a day such as "2024-01-15"')


def _date(text: str) -> date | None:
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.isoformat() == text else None  # other ISO forms, such as 2024-W03-1, are refused


def days_between(first: date, last: date) -> Iterator[date]:
    """Every day from first to last, both included."""
    for offset in range((last - first).days + 1):
        yield first + timedelta(days=offset)
