"""Which tenants are named in metrics: a bounded number, and none of them is forgotten while the process lives."""

from __future__ import annotations

from collections import Counter
from typing import Final

from mm_metering.telemetry.instruments import OTHER
from mm_metering.telemetry.options import Telemetry

MOST_SEEN: Final = 10_000
"""Most tenants that are compared with each other between two readings."""


class TenantNames:
    """Names those that the host named, and of the others the busiest until all places are taken."""

    def __init__(self, options: Telemetry) -> None:
        self._named = set(options.named)
        self._places = options.top
        self._seen: Counter[str] = Counter()

    def label(self, tenant: str) -> str:
        """Its id, or OTHER. Each call is a sign of life."""
        if tenant in self._named:
            return tenant
        if self._places and (tenant in self._seen or len(self._seen) < MOST_SEEN):
            self._seen[tenant] += 1
        return OTHER

    def choose(self) -> None:
        """Gives the places that are left to those that were busiest since the last time."""
        if self._places and self._seen:
            seen, self._seen = self._seen, Counter()
            chosen = [tenant for tenant, _ in seen.most_common(self._places)]
            self._named.update(chosen)
            self._places -= len(chosen)
