"""Time zones of tenants that have moved: "UTC@1705363200>America/New_York" was UTC until that second of 1970.

Days that have begun stay what they were, no date comes twice, and no day lasts longer than 26 hours. So a clock that
must go back by more than two hours goes back day by day; one that must go forward does so at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Final, NamedTuple

from mm_metering.errors import InvalidInput

MAX_MOVES: Final = 50
FIRST_DAY_US: Final = 86_400_000_000
_FAR: Final = datetime(9999, 12, 31, tzinfo=UTC)


def moved_zone(name: str, to: str, now_us: int, *, since_us: int) -> str:
    """The name of the zone that was ``name`` and becomes ``to`` at the next whole second. Within a day of ``since_us``
    it is ``to`` from the start."""
    if zone_name(name) == to:
        return name
    if now_us < since_us + FIRST_DAY_US:
        return to
    if name.count(">") >= MAX_MOVES:
        raise InvalidInput("timezone", f"was changed {MAX_MOVES} times, and no more changes are kept for a tenant")
    return f"{name}@{-(-now_us // 1_000_000)}>{to}"


def zone_name(name: str) -> str:
    """The IANA name that is in force last: "America/New_York"."""
    return name.rpartition(">")[2]


def last_move_us(before: str, after: str) -> int | None:
    """The instant from which ``after`` differs from ``before``, if it is that zone moved on; None for another zone."""
    if not after.startswith(f"{before}@"):
        return None
    return int(after.removeprefix(f"{before}@").partition(">")[0]) * 1_000_000


class Piece(NamedTuple):
    """A zone, from an instant on."""

    starts: datetime
    zone: tzinfo


class MovedZone(tzinfo):
    """A clock that shows ``old``, then each of ``pieces`` from its start on, the last one ``new``.

    Up to ``first_day`` days are those of ``old``; ``starts`` has those that follow, until they are those of ``new``.
    """

    def __init__(
        self,
        key: str,
        old: tzinfo,
        new: tzinfo,
        pieces: Sequence[Piece],
        *,
        first_day: date,
        starts: Mapping[date, datetime],
    ) -> None:
        self.key = key
        self.old = old
        self.new = new
        self.first_day = first_day
        self.starts = starts
        before: Sequence[Piece] = [Piece(datetime.min.replace(tzinfo=UTC), old)]
        if isinstance(old, MovedZone):
            before = old._pieces
        self._pieces: Sequence[Piece] = [*(piece for piece in before if piece.starts < pieces[0].starts), *pieces]

    def __deepcopy__(self, memo: object) -> MovedZone:
        return self

    def __str__(self) -> str:
        return self.key

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        if dt is None:
            return None
        return dt.replace(tzinfo=UTC) - self._to_utc(dt)

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None if dt is None else self._at(self._to_utc(dt)).zone.tzname(dt)

    def fromutc(self, dt: datetime) -> datetime:
        moment = dt.replace(tzinfo=UTC)
        local = moment.astimezone(self._at(moment).zone).replace(tzinfo=None, fold=0)
        times = self._times(local)
        return local.replace(tzinfo=self, fold=int(len(times) > 1 and moment != times[0]))

    def _at(self, moment: datetime) -> Piece:
        return next(piece for piece in reversed(self._pieces) if piece.starts <= moment)

    def _times(self, local: datetime) -> list[datetime]:
        """The instants at which the clock shows that, in order."""
        found = set()
        for number, piece in enumerate(self._pieces):
            until = self._pieces[number + 1].starts if number + 1 < len(self._pieces) else _FAR
            for fold in (0, 1):
                moment = local.replace(tzinfo=piece.zone, fold=fold).astimezone(UTC)
                if piece.starts <= moment < until and moment.astimezone(piece.zone).replace(tzinfo=None) == local:
                    found.add(moment)
        return sorted(found)

    def _to_utc(self, dt: datetime) -> datetime:
        """What the clock skips is counted on from before the jump, or with ``fold`` 1 back from after it."""
        local = dt.replace(tzinfo=None, fold=0)
        if times := self._times(local):
            return times[-1] if dt.fold else times[0]
        for before, after in pairwise(self._pieces):
            start = after.starts
            if _shown(start, before.zone) <= local < _shown(start, after.zone):
                return local.replace(tzinfo=after.zone if dt.fold else before.zone).astimezone(UTC)
        return local.replace(tzinfo=self._pieces[-1].zone, fold=dt.fold).astimezone(UTC)


def _shown(moment: datetime, tz: tzinfo) -> datetime:
    return moment.astimezone(tz).replace(tzinfo=None)
