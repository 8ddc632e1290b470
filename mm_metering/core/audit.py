"""Who did what, when, to what: written in one transaction with what was done."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class AuditEntry(NamedTuple):
    """``actor``: "worker", a provider's event, "host"; ``action``: "collection paid"; ``subject``: an id."""

    id: str
    tenant: str
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str = ""
