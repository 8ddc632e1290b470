"""What the ledger keeps between us and the payment provider: collections, hints that came in, notices that go out.

Collections, notices and audit entries are written by ``Accounts.book``, together with the invoice and the subscription
that they are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

from mm_metering.core.audit import Act
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.invoices import Invoice

About: TypeAlias = Literal["invoice", "payment", "subscription", "customer", "payment_method", "other"]
PROVIDER_REFUSED = "provider_refused"
"""The kind of alert for a payment provider that takes no call: a wrong key, a missing permission."""
PARKED = "collection_parked"
"""The kind of alert for a collection (its subject: the invoice) that somebody must look at."""
HOOK_FAILED = "hook_failed"
"""The kind of alert for a notice (its subject) on which a host's hook failed to the last."""
HINT_FAILED = "hint_failed"
"""The kind of alert for a hint (its subject) that could not be followed."""


class Hint(NamedTuple):
    """A provider's word that something happened to one of its objects. What happened is asked of the provider itself,
    so hints may come twice and in any order. ``next_us``: when it is to be looked at; None once that is done."""

    id: str
    type: str
    about: About
    object_id: str
    happened_us: int
    stored_us: int
    next_us: int | None
    tries: int = 0
    note: str = ""


AT_ONCE = 0
"""When a notice that nobody has tried to tell is due: those go out in the order in which they were made."""


class Waiting(NamedTuple):
    """A notice on its way out."""

    notice: Notice
    next_us: int | None
    tries: int = 0


class Mute(NamedTuple):
    """Nothing is told by a rule ("quota", "worker.lag"; "*" for each) of a tenant ("*" for each) until then."""

    rule: str
    tenant: str
    until_us: int


class Collecting(Protocol):
    """A part of the ``Ledger`` law. Each method is one transaction."""

    async def uncollected(self, *, limit: int) -> list[Invoice]:
        """Finalized invoices of tenants that have a payer, which are not collected yet."""
        ...

    async def collections(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        state: str | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Collection]:
        """A page of them, past an invoice's id and in that order."""
        ...

    async def collections_due(self, now_us: int, *, limit: int) -> list[Collection]:
        """Those of which something is to be done by now, the longest due first."""
        ...

    async def collection(self, invoice_id: str) -> Collection | None: ...

    async def collection_at(self, provider_invoice: str) -> Collection | None:
        """That of an invoice at the provider."""
        ...

    async def put_hint(self, hint: Hint) -> bool:
        """Stores it; False, and nothing is changed, if one of that id is there."""
        ...

    async def hints_due(self, now_us: int, *, limit: int) -> list[Hint]:
        """In the order in which they are to be looked at."""
        ...

    async def move_hint(self, hint: Hint) -> None:
        """Writes its ``next_us``, ``tries`` and ``note``."""
        ...

    async def forget_hints(self, *, before_us: int) -> int:
        """Deletes those that are done and were stored before then; how many."""
        ...

    async def notices_due(self, now_us: int, *, limit: int) -> list[Waiting]:
        """First those that nobody has tried to tell, in the order in which they were made; then by ``next_us``."""
        ...

    async def notices(self, *, tenant: str | None = None, limit: int = 1000) -> list[Notice]:
        """The newest ones, newest first."""
        ...

    async def add_notices(self, notices: Sequence[Notice]) -> list[Notice]:
        """Writes those whose id is not there yet, and returns them."""
        ...

    async def put_mute(self, mute: Mute, *, act: Act | None = None) -> None:
        """In place of the one of that rule and tenant."""
        ...

    async def mutes(self, now_us: int) -> list[Mute]:
        """Those that hold now, by rule and tenant."""
        ...

    async def move_notice(self, notice_id: str, *, next_us: int | None, tries: int) -> None: ...

    async def forget_notices(self, *, before_us: int) -> int:
        """Deletes those that were made before then; how many."""
        ...
