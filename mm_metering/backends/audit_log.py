"""What the ledger keeps of who did what: links of one chain (``core/audit_chain``), and entries older than it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import Head, Keys, Link

LinkKey: TypeAlias = tuple[int, str]
FIRST_LINK: Final[LinkKey] = (0, "")
"""Before every link."""


class Audited(Protocol):
    """A part of the ``Ledger`` law. Whatever method is given an ``Act`` writes what it did into the log, in its own
    transaction and only if it changed something; whoever else writes waits for the head's lock no longer than until
    that one commits. Entries are never changed, and never deleted."""

    def use_audit_keys(self, keys: Keys) -> None:
        """What is written from now on is signed with the first of them; unsigned without one."""
        ...

    async def add_audit(self, entries: Sequence[AuditEntry]) -> None:
        """For what was done elsewhere, such as at a payment provider."""
        ...

    async def audit(self, *, tenant: str | None = None, limit: int = 1000) -> Sequence[AuditEntry]:
        """The newest entries, newest first."""
        ...

    async def audit_links(self, *, after: LinkKey = FIRST_LINK, limit: int = 1000) -> tuple[list[Link], Head]:
        """A page of the chain past (seq, id), and the head as of the same instant."""
        ...

    async def audit_outside(self, *, after: str = "", limit: int = 1000) -> list[Link]:
        """A page of the entries that are older than the chain, by id."""
        ...
