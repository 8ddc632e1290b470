"""What the ledger shows of the house at one instant: what waits, what runs, what failed. No usage and no amounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from mm_metering.backends.work import Alert, Lease, Run

MOST_COUNTED: Final = 100_000
"""Where a count ends: so many, or more."""
MOST_ALERTS: Final = 100
MOST_ENDPOINTS: Final = 1_000
PERIODS: Final = 2
"""Of so many months, the newest, invoices are counted."""


class Queue(NamedTuple):
    """``waiting``: so many, at most MOST_COUNTED; ``oldest_us``: when the first of them is due, or was taken."""

    waiting: int = 0
    oldest_us: int | None = None


class Overview(NamedTuple):
    """As one transaction saw it.

    positions   by shard, what is folded: (generation, position)
    runs        each job's newest run
    alerts      the first MOST_ALERTS that are open, by (kind, subject)
    invoices    by month, of the newest PERIODS: how many there are by status
    deliveries  webhooks that will be tried
    notices     what hooks are still to be called with
    hints       what the payment provider said, and was not followed yet
    holds       reservations of AI cost that no call has closed
    endpoints_off
                webhook endpoints that are off since they are gone or failing, of the first MOST_ENDPOINTS that are off
    """

    leases: tuple[Lease, ...]
    positions: Mapping[int, tuple[int, str]]
    runs: tuple[Run, ...]
    dead_letters: int
    alerts: tuple[Alert, ...]
    invoices: Mapping[str, Mapping[str, int]]
    deliveries: Queue
    notices: Queue
    hints: Queue
    holds: Queue
    endpoints_off: int


class Overviewed(Protocol):
    """A part of the ``Ledger`` law."""

    async def overview(self) -> Overview:
        """Reads little, however much there is: no table of facts or cells is walked through."""
        ...
