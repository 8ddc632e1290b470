"""Invoices, credit notes, credit, discounts and adjustments, as every ledger keeps them.

What is written is decided by a pure function (``core.books``) inside the transaction that has read what it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import NamedTuple, Protocol, TypeAlias

from mm_metering.core.books import Account, Entries
from mm_metering.core.invoices import CreditGrant, CreditNote, Invoice, InvoiceStatus

Decide: TypeAlias = Callable[[Account], Entries]


class Wanted(NamedTuple):
    """What an account must hold: the cells of the catalogue's meters, without scopes, of the days from ``first`` to
    ``last``, both included; the invoices of ``periods``; the levels at the start of each of ``level_days``."""

    periods: Sequence[str] = ()
    first: date = date.max
    last: date = date.min
    level_days: Sequence[date] = ()


class Accounts(Protocol):
    """A part of the ``Ledger`` law."""

    async def account(self, tenant: str, wanted: Wanted) -> Account | None:
        """As of one instant; None for a tenant that is not known."""
        ...

    async def book(self, tenants: Sequence[str], wanted: Wanted, decide: Decide) -> None:
        """Reads each known tenant's account, in order of id, and writes what ``decide`` returns for it; all in one
        transaction, in which nothing else is folded or booked for them. An error of ``decide`` ends it, and nothing
        is written. ``decide`` may be called again, if the transaction must be repeated."""
        ...

    async def invoice(self, invoice_id: str) -> Invoice | None: ...

    async def invoice_inputs(self, invoice_id: str) -> bytes | None:
        """What the invoice was made of, as it was packed; None for a draft."""
        ...

    async def invoice_of_line(self, line_id: str) -> Invoice | None: ...

    async def invoices(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        after: tuple[str, str, int] = ("", "", 0),
        limit: int = 1000,
    ) -> list[Invoice]:
        """A page of them, past (period, tenant, issue) and in that order."""
        ...

    async def credit_notes(self, invoice_id: str) -> list[CreditNote]:
        """In order of their numbers."""
        ...

    async def grants(self, tenant: str) -> list[CreditGrant]:
        """All of a tenant, also those that are used up, in order of creation."""
        ...
