"""Which tenants' usage was folded since somebody looked at them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from mm_metering.core.facts import Fact

MOST: Final = 100_000
"""Most tenants that wait to be looked at."""


class Touched:
    def __init__(self) -> None:
        self._tenants: dict[str, None] = {}

    def add(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            if len(self._tenants) < MOST:
                self._tenants[fact.tenant] = None

    def put_back(self, tenants: Iterable[str]) -> None:
        """Those that could not be looked at."""
        self._tenants = dict.fromkeys((*tenants, *self._tenants))

    def take(self, most: int) -> list[str]:
        """Those that wait, the longest first; they do no longer."""
        taken = [*islice(self._tenants, most)]
        for tenant in taken:
            del self._tenants[tenant]
        return taken
