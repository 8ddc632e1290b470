"""The accounts' part of the ledger in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import islice
from typing import TypeVar

from mm_metering.backends.accounts import Decide, Wanted, refuse_other_payer
from mm_metering.backends.memory_collecting import MemoryCollecting
from mm_metering.core.audit import Act
from mm_metering.core.audited import payer_moved
from mm_metering.core.books import SERIES, Account, Entries
from mm_metering.core.cells import Cell
from mm_metering.core.collecting import Collection
from mm_metering.core.invoices import Adjustment, CreditGrant, CreditNote, Discount, Invoice, InvoiceStatus
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.timeline import Change

Owned = TypeVar("Owned", Invoice, CreditGrant, CreditNote, Discount, Adjustment, Collection)


class MemoryAccounts(MemoryCollecting):
    """A part of a ledger with a lock, tenants and cells. ``book`` writes nothing unless every decision was made."""

    def __init__(self) -> None:
        super().__init__()
        self._invoices: dict[str, Invoice] = {}
        self._inputs: dict[str, bytes] = {}
        self._grants: dict[str, CreditGrant] = {}
        self._notes: dict[str, CreditNote] = {}
        self._discounts: dict[str, Discount] = {}
        self._adjustments: dict[str, Adjustment] = {}
        self._payers: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        """The last number of each series."""

    def _row_of(self, tenant: str) -> TenantRow | None:
        raise NotImplementedError

    def _cells_of(self, tenant: str, first: date, last: date) -> list[Cell]:
        raise NotImplementedError

    def _change(self, tenant: str, change: Change) -> TenantRow:
        raise NotImplementedError

    def _levels_of(self, tenant: str, before: date) -> dict[tuple[str, str], int]:
        raise NotImplementedError

    async def account(self, tenant: str, wanted: Wanted) -> Account | None:
        with self._lock:
            return self._account(tenant, wanted, self._numbers)

    async def book(self, tenants: Sequence[str], wanted: Wanted, decide: Decide) -> None:
        with self._lock:
            numbers, decided = Counter(self._numbers), dict[str, Entries]()
            for tenant in sorted(set(tenants)):
                if account := self._account(tenant, wanted, numbers):
                    decided[tenant] = decide(account)
                    numbers.update(decided[tenant].numbered)
            for tenant, entries in decided.items():
                if entries.change is not None:
                    self._change(tenant, entries.change)
            for entries in decided.values():
                self._write(entries)
            self._numbers = numbers

    def _account(self, tenant: str, wanted: Wanted, numbers: Counter[str]) -> Account | None:
        row = self._row_of(tenant)
        if row is None:
            return None
        invoices = [each for each in self._found(self._invoices, tenant) if each.period in wanted.periods]
        ids = {None, *(each.id for each in invoices)}
        days = wanted.days(row.anchor_day)
        return Account(
            row,
            cells=[
                cell
                for cell in (self._cells_of(tenant, *days) if days else ())
                if not cell.key.scope and not cell.key.meter.startswith("*")
            ],
            levels_before={day: self._levels_of(tenant, day) for day in wanted.level_days(row.anchor_day)},
            invoices=sorted(invoices, key=lambda each: (each.period, each.issue)),
            grants=self._found(self._grants, tenant),
            notes=[each for each in self._found(self._notes, tenant) if each.invoice in ids],
            discounts=self._found(self._discounts, tenant),
            adjustments=[each for each in self._found(self._adjustments, tenant) if each.invoice in ids],
            collections=self._found(self._collections, tenant) if wanted.collections else (),
            next_numbers={series: numbers[series] + 1 for series in SERIES},
        )

    @staticmethod
    def _found(values: Mapping[str, Owned], tenant: str) -> list[Owned]:
        """In order of creation, as every ledger gives them."""
        return [each for each in values.values() if each.tenant == tenant]

    def _write(self, entries: Entries) -> None:
        self._invoices |= {each.id: each for each in entries.invoices}
        self._inputs |= entries.inputs
        self._grants |= {each.id: each for each in entries.grants}
        self._notes |= {each.id: each for each in entries.notes}
        self._discounts |= {each.id: each for each in entries.discounts}
        self._adjustments |= {each.id: each for each in entries.adjustments}
        self._write_collecting(entries)

    async def link_payer(self, tenant: str, customer: str, *, act: Act | None = None) -> str:
        with self._lock:
            refuse_other_payer(tenant, self._paid_for(customer))
            before = self._payers.get(tenant)
            linked = self._payers.setdefault(tenant, customer)
            self._note(payer_moved(tenant, before, linked, act))
            return linked

    async def payer(self, tenant: str) -> str | None:
        with self._lock:
            return self._payers.get(tenant)

    async def paid_for(self, customer: str) -> str | None:
        with self._lock:
            return self._paid_for(customer)

    def _paid_for(self, customer: str) -> str | None:
        return next((tenant for tenant, known in self._payers.items() if known == customer), None)

    async def unlink_payer(self, tenant: str, *, act: Act | None = None) -> None:
        with self._lock:
            self._note(payer_moved(tenant, self._payers.pop(tenant, None), None, act))

    async def invoice(self, invoice_id: str) -> Invoice | None:
        with self._lock:
            return self._invoices.get(invoice_id)

    async def invoice_numbered(self, number: str) -> Invoice | None:
        with self._lock:
            return next((each for each in self._invoices.values() if each.number == number), None)

    async def invoice_inputs(self, invoice_id: str) -> bytes | None:
        with self._lock:
            return self._inputs.get(invoice_id)

    async def invoice_of_line(self, line_id: str) -> Invoice | None:
        with self._lock:
            having = (each for each in self._invoices.values() if any(line.id == line_id for line in each.lines))
            return next(having, None)

    async def invoices(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        after: tuple[str, str, int] = ("", "", 0),
        limit: int = 1000,
    ) -> list[Invoice]:
        with self._lock:
            found = {(each.period, each.tenant, each.issue): each for each in self._invoices.values()}
            wanted = (
                each
                for key, each in sorted(found.items())
                if key > after
                and tenant in (None, each.tenant)
                and period in (None, each.period)
                and status in (None, each.status)
            )
            return list(islice(wanted, limit))

    async def credit_notes(self, invoice_id: str) -> list[CreditNote]:
        with self._lock:
            return [note for note in self._notes.values() if note.invoice == invoice_id]

    async def grants(self, tenant: str) -> list[CreditGrant]:
        with self._lock:
            return self._found(self._grants, tenant)
