"""Who did what, when, to what and why: written in one transaction with what was done (``audit_chain``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias

MAX_SAID: Final = 2_000
"""Characters of what an entry says of the state before, and after."""

Said: TypeAlias = Mapping[str, Any]
"""What of a value matters: short, and nothing secret or personal."""


class AuditEntry(NamedTuple):
    """``tenant``: "" for what concerns the house; ``actor``: "host", "worker", "cli:ann", a provider's event;
    ``action``: "invoice voided"; ``subject``: an id; ``before`` and ``after``: JSON of what changed."""

    id: str
    tenant: str
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str = ""
    before: str = ""
    after: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """Who acts, why, and when; it makes the entries of what is done."""

    actor: str
    at: datetime
    new_id: Callable[[], str]
    reason: str = ""

    def did(
        self,
        action: str,
        tenant: str,
        subject: str,
        *,
        before: Said | None = None,
        after: Said | None = None,
        detail: str = "",
        reason: str = "",
    ) -> AuditEntry:
        """``reason``: the operation's own, where nobody gave one for the act."""
        why, (then, now) = self.reason or reason, (said(before), said(after))
        return AuditEntry(self.new_id(), tenant, self.at, self.actor, action, subject, detail, then, now, why)


def said(values: Said | None) -> str:
    """As JSON; longer than MAX_SAID its digest stands for it."""
    if not values:
        return ""
    text = json.dumps(values, sort_keys=True, default=str)
    return text if len(text) <= MAX_SAID else json.dumps({"sha256": sha256(text.encode()).hexdigest()})
