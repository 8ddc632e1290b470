"""What a change of a subscription would come to: the invoice as it stands, and as it would be then.

Nothing is written, but perhaps a version of a plan that nobody is on, where add-ons go along.

The tenant's cells are folded in memory as the ledger would fold them, and the rest is the code that makes invoices. So
a preview is what the change does, to the cent, as long as nothing else happens meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal, localcontext

from mm_metering.backends.ledger import Ledger
from mm_metering.core.books import Account
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, LevelEnd, fold_all, merge
from mm_metering.core.invoices import Invoice, InvoiceLine, Value
from mm_metering.core.money import EXACT
from mm_metering.core.periods import day_start, micros
from mm_metering.core.tenancy import TenantRow

PAGE = 10_000


class ChangePreview(Value):
    """A change at an instant, and the invoice of the month in which it takes effect, without it and with it: that of
    its instant, or the running month where it lies back."""

    at: datetime
    plan: str
    status: str
    before: Invoice
    after: Invoice

    @property
    def difference(self) -> Decimal:
        """What it adds to the total, after tax and credit; negative for what it saves."""
        with localcontext(EXACT):
            return (self.after.total - self.after.carried_over) - (self.before.total - self.before.carried_over)

    @property
    def lines(self) -> tuple[InvoiceLine, ...]:
        """The lines that are new or other than before."""
        return tuple(line for line in self.after.lines if line not in self.before.lines)


async def changed_account(ledger: Ledger, account: Account, after: TenantRow, at_us: int) -> Account:
    """The account as it would be read once the tenant is ``after``, which differs from ``at_us`` on."""
    before = account.tenant
    if not await ledger.facts(before.id, after=(at_us, ""), limit=1):
        return replace(account, tenant=after)
    then, now = Calendar(before.timezone, before.segments), Calendar(after.timezone, after.segments)
    day = then.day(at_us)
    stood = (await ledger.used(before.id, first=day, last=day, timezone=before.timezone)).carried
    old_ends, new_ends = ({level: LevelEnd(value, -1) for level, value in stood.items()} for _ in range(2))
    gone, fresh = dict[CellKey, CellSum](), dict[CellKey, CellSum]()
    cursor = (micros(day_start(day, then.zone)), "")
    while page := await ledger.facts(before.id, after=cursor, limit=PAGE):
        fold_all(gone, page, then, old_ends)
        fold_all(fresh, page, now, new_ends)
        cursor = (page[-1].occurred_us, page[-1].id)
    cells = {cell.key: replace(cell.total) for cell in account.cells}
    merge(cells, _of_meters(gone), sign=-1)
    merge(cells, _of_meters(fresh))
    refused = {cell.key: cell.refused for cell in account.cells}
    moved = [Cell(key, total, 0, refused.get(key, 0)) for key, total in cells.items() if total != CellSum()]
    return replace(account, tenant=after, cells=moved)


def _of_meters(cells: dict[CellKey, CellSum]) -> dict[CellKey, CellSum]:
    """Those that an account has: of meters, without a scope."""
    return {key: total for key, total in cells.items() if not key.scope and not key.meter.startswith("*")}
