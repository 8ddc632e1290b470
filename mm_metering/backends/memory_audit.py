"""The audit log in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import islice

from mm_metering.backends.audit_log import FIRST_LINK, LinkKey
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import Head, Keys, Link, Outside, chained


class MemoryAudit:
    """A part of a ledger with a lock."""

    _lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self._links: list[Link] = []
        self._audit_keys: Keys = {}

    def use_audit_keys(self, keys: Keys) -> None:
        self._audit_keys = keys

    def _note(self, entries: Iterable[AuditEntry]) -> None:
        """The last thing that a transaction does."""
        head = self._head() if self._links else Head(0, Outside().mac)
        self._links += chained(entries, head, self._audit_keys)

    def _head(self) -> Head:
        return Head(self._links[-1].seq or 0, self._links[-1].mac) if self._links else Head()

    async def add_audit(self, entries: Sequence[AuditEntry]) -> None:
        with self._lock:
            self._note(entries)

    async def audit(self, *, tenant: str | None = None, limit: int = 1000) -> Sequence[AuditEntry]:
        with self._lock:
            theirs = [each.entry for each in self._links if tenant in (None, each.tenant)]
            return sorted(theirs, key=lambda each: (each.at, each.id), reverse=True)[:limit]

    async def audit_links(self, *, after: LinkKey = FIRST_LINK, limit: int = 1000) -> tuple[list[Link], Head]:
        with self._lock:
            page = (each for each in self._links[after[0] - 1 if after[0] else 0 :] if (each.seq or 0, each.id) > after)
            return list(islice(page, limit)), self._head()

    async def audit_outside(self, *, after: str = "", limit: int = 1000) -> list[Link]:
        return []
