"""The house by day: the days that run are added up each minute, and each day those that late usage may have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.looks import MAX_DAYS
from mm_metering.core.books import LATE_DAYS
from mm_metering.core.periods import from_micros
from mm_metering.worker.jobs import Job

HOUSE_DAYS: Final = "house-days"
LATE_HOUSE_DAYS: Final = "late-house-days"
_DAY: Final = timedelta(days=1)


class HouseDays:
    """One worker's part of it."""

    def __init__(self, ledger: Ledger, *, now_us: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_us = now_us
        self._added_up: object = None

    def jobs(self) -> Iterator[Job]:
        yield Job(HOUSE_DAYS, timedelta(minutes=1), self.add_up_running)
        yield Job(LATE_HOUSE_DAYS, _DAY, self.add_up_late)

    async def add_up_running(self, _period: datetime, _fence: int) -> None:
        """What is today in any zone, and what was yesterday in most; nothing while nothing is folded or refused."""
        days = [self._today() + each * _DAY for each in (-1, 0, 1)]
        stands = (days, await self._ledger.folded(), await self._ledger.acknowledged())
        if stands != self._added_up:
            await self._add_up(days)
            self._added_up = stands

    async def add_up_late(self, _period: datetime, _fence: int) -> None:
        """The last LATE_DAYS, and of those before them what has no sum, as after moving here from an older release."""
        today = self._today()
        first, late = today - (MAX_DAYS - 1) * _DAY, today - LATE_DAYS * _DAY
        stands = {each.day for each in await self._ledger.house_days(first, today)}
        again = {day for day in stands if day >= late}  # also what lost all its usage
        day = await self._ledger.first_day(since=first)
        while day is not None and day <= today:
            if day >= late or day not in stands:
                again.add(day)
            day = await self._ledger.first_day(since=day + _DAY)
        await self._add_up(sorted(again))

    def _today(self) -> date:
        return from_micros(self._now_us()).date()

    async def _add_up(self, days: Iterable[date]) -> None:
        for day in days:
            await self._ledger.roll_up(day, now_us=self._now_us())
