"""What payment providers were told of usage, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mm_metering.core.periods import micros
from mm_metering.core.reporting import Intent, ReportState


class MemoryReports:
    """A part of a ledger with a lock."""

    _lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self._intents: dict[tuple[str, str, str, int], Intent] = {}
        self._since_us: int | None = None

    async def reports_since(self, *, now_us: int) -> int:
        with self._lock:
            if self._since_us is None:
                self._since_us = now_us
            return self._since_us

    async def add_report(self, intent: Intent) -> bool:
        with self._lock:
            series = _key(intent)[:3]
            if any(key[:3] == series and each.state != "sent" for key, each in self._intents.items()):
                return False
            return self._intents.setdefault(_key(intent), intent) is intent

    async def move_report(self, intent: Intent) -> bool:
        with self._lock:
            known = self._intents.get(_key(intent))
            if known is None or known.state == "sent":
                return False
            self._intents[_key(intent)] = replace(
                known, state=intent.state, instant=intent.instant, customer=intent.customer
            )
            return True

    async def last_reports(self, tenant: str, periods: Sequence[str]) -> list[Intent]:
        with self._lock:
            last: dict[tuple[str, str], Intent] = {}
            for (owner, period, meter, _), intent in sorted(self._intents.items(), key=lambda item: item[0]):
                if owner == tenant and period in periods:
                    last[period, meter] = intent
            return [*last.values()]

    async def open_reports(
        self, state: ReportState, *, after: tuple[str, str, str] = ("", "", ""), limit: int = 1000
    ) -> list[Intent]:
        with self._lock:
            found = _in_order(each for each in self._intents.values() if each.state == state)
            return [each for each in found if _key(each)[:3] > after][:limit]

    async def reports(self, customer: str, meter: str, *, start_us: int, end_us: int) -> list[Intent]:
        with self._lock:
            theirs = (each for each in self._intents.values() if (each.customer, each.meter) == (customer, meter))
            inside = [each for each in theirs if start_us <= micros(each.instant) < end_us]
            return sorted(inside, key=lambda each: (each.period, each.number))


def _key(intent: Intent) -> tuple[str, str, str, int]:
    return intent.tenant, intent.period, intent.meter, intent.number


def _in_order(intents: Iterable[Intent]) -> list[Intent]:
    return sorted(intents, key=_key)
