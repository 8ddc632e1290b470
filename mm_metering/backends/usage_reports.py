"""What payment providers were told of usage, as every ledger keeps it: written before it is told, and once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mm_metering.core.reporting import Intent, ReportState


class UsageReports(Protocol):
    """A part of the ``Ledger`` law. A series is the intents of one tenant, month and meter."""

    async def reports_since(self, *, now_us: int) -> int:
        """When usage was first reported from this ledger: the instant of the first call."""
        ...

    async def add_report(self, intent: Intent) -> bool:
        """Writes the series' next intent. False, and nothing is written, if there is one of its number, or one that is
        not sent."""
        ...

    async def move_report(self, intent: Intent) -> bool:
        """Changes the state, the instant and the customer of an intent. False, and nothing is written, if it is sent,
        or not there: what is sent stays so."""
        ...

    async def last_reports(self, tenant: str, periods: Sequence[str]) -> list[Intent]:
        """The last intent of each of the tenant's series of these months, by (period, meter)."""
        ...

    async def open_reports(
        self, state: ReportState, *, after: tuple[str, str, str] = ("", "", ""), limit: int = 1000
    ) -> list[Intent]:
        """A page of those in a state other than "sent", past (tenant, period, meter) and in that order: a series has
        one at most."""
        ...

    async def reports(self, customer: str, meter: str, *, start_us: int, end_us: int) -> list[Intent]:
        """What a customer's meter was told for instants of [start, end), in any state, by (period, number)."""
        ...
