"""Invoices, credit notes, credit, discounts and adjustments, as every ledger keeps them.

What is written is decided by a pure function (``core.books``) inside the transaction that has read what it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import NamedTuple, Protocol, TypeAlias

from mm_metering.core.audit import Act
from mm_metering.core.books import Account, Entries
from mm_metering.core.invoices import CreditGrant, CreditNote, Invoice, InvoiceStatus
from mm_metering.core.periods import days_of
from mm_metering.errors import InvalidInput

Decide: TypeAlias = Callable[[Account], Entries]


class Wanted(NamedTuple):
    """What an account must hold: the invoices of ``periods``; the cells of the catalogue's meters, without scopes, of
    the tenant's months ``usage``, in order; with ``levels``, each level at their start; with ``collections``, all of
    the tenant's."""

    periods: Sequence[str] = ()
    usage: Sequence[str] = ()
    levels: bool = False
    collections: bool = False

    def days(self, anchor: int) -> tuple[date, date] | None:
        """The first and the last day with wanted cells, both included."""
        return (days_of(self.usage[0], anchor)[0], days_of(self.usage[-1], anchor)[1]) if self.usage else None

    def level_days(self, anchor: int) -> list[date]:
        """At whose start each level is wanted."""
        return [days_of(month, anchor)[0] for month in self.usage] if self.levels else []


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

    async def link_payer(self, tenant: str, customer: str, *, act: Act | None = None) -> str:
        """Remembers the payment provider's customer of a tenant, unless it has one: the one that it has. One customer
        pays for one tenant: InvalidInput for that of another."""
        ...

    async def payer(self, tenant: str) -> str | None:
        """The customer that pays for a tenant."""
        ...

    async def paid_for(self, customer: str) -> str | None:
        """The tenant that a customer pays for."""
        ...

    async def unlink_payer(self, tenant: str, *, act: Act | None = None) -> None: ...

    async def invoice(self, invoice_id: str) -> Invoice | None: ...

    async def invoice_numbered(self, number: str) -> Invoice | None: ...

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


def refuse_other_payer(tenant: str, owner: str | None) -> None:
    """InvalidInput for a customer that pays for another tenant."""
    if owner not in (None, tenant):
        raise InvalidInput("customer", "pays for another organization already; each has a customer of its own")
