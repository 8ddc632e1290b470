"""The audit log: who did what, and that nobody has changed it since."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

from mm_metering.billing.invoices import Progress
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import AuditAnchor, AuditReport, Link
from mm_metering.core.events import aware
from mm_metering.metering.house import House


class Auditing(House):
    """What was done."""

    async def list_audit(self, *, tenant: str | None = None, limit: int = 1000) -> Sequence[AuditEntry]:
        """The newest first. ``tenant``: its own alone; "" what concerns the house, such as plans."""
        await self.startup()
        return await self.ledger.audit(tenant=tenant, limit=limit)

    async def audit_anchor(self) -> AuditAnchor | None:
        """Where the audit log ends now: keep it where who may write to the ledger may not, for ``verify_audit``. None
        before the first entry."""
        await self.startup()
        return await self._audit.anchor()

    async def verify_audit(
        self, *, anchors: Iterable[str | AuditAnchor] = (), progress: Progress = lambda _: None
    ) -> AuditReport:
        """Whether each entry is what was written, where it was written. ``anchors``, each as ``str(audit_anchor())`` or
        a text that holds many, also show what was cut off at the end, or an older copy of the ledger. It opens nothing
        but the ledger; ``progress`` is told how many entries are done."""
        return await self._audit.verify(anchors, progress)

    def export_audit(
        self, *, start: datetime | str | None = None, end: datetime | str | None = None
    ) -> AsyncIterator[Link]:
        """The entries of [start, end) in the order in which they were written, with what chains them."""
        first, past = (None if at is None else aware(at, name) for at, name in ((start, "start"), (end, "end")))
        return self._audit.export(first, past)
