"""All invoices, what each month came to, and what may be done with one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Final, Literal, cast

from mm_metering.backends.looks import MAX_COUNT
from mm_metering.core.invoices import Invoice, InvoiceStatus
from mm_metering.core.lifecycles import INVOICE
from mm_metering.core.money import EXACT, from_nanos
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.page import PAGE, Done, Link, Page, Rows, Show, Visit
from mm_metering.dashboard.pages.invoice import document, facts, invoice, preview
from mm_metering.dashboard.render import amount, link
from mm_metering.errors import InvalidInput

READ: Final = 1_000
"""Invoices that a file reads at a time, up to MAX_COUNT."""
MONTHS: Final = 12
STATUSES: Final[Sequence[str]] = tuple(INVOICE.moves)
BILLED: Final[Sequence[InvoiceStatus]] = ("finalized", "paid", "uncollectible")
MARKS: Final = ("paid", "uncollectible")


@dataclass(frozen=True, slots=True)
class Month:
    """What a month's invoices come to by status, before credit notes; ``share``: per cent of the largest month."""

    period: str
    counts: dict[str, int]
    sums: dict[str, Decimal]
    billed: Decimal
    share: float

    @property
    def invoices(self) -> int:
        return sum(self.counts.values())


async def invoices(visit: Visit) -> Page:
    """All of them; in a portal the tenant's own, without what is added up over all."""
    status, ledger = visit.text("status"), visit.house.ledger
    wanted: dict[str, Any] = {
        "tenant": visit.tenant or visit.text("tenant") or None,
        "period": visit.text("period") or None,
        "status": status if status in STATUSES else None,
    }
    skip = visit.number("skip", most=MAX_COUNT)
    found, total = await ledger.invoices_page(**wanted, skip=skip, limit=PAGE)
    months = [] if visit.tenant else _by_month(await ledger.invoice_totals(months=MONTHS))
    rows = await _all(visit, wanted) if visit.text("csv") == "invoices" else ()
    data = {
        "invoices": found,
        "total": total,
        "most": MAX_COUNT,
        "skip": skip,
        "size": PAGE,
        "months": months,
        "statuses": STATUSES,
        "filtered": any(wanted.values()),
        "currency": visit.house.catalogue.currency,
    }
    files = {"invoices": _file(rows)} | ({} if visit.tenant else {"months": _months_file(months)})
    value = {"invoices": [each.model_dump(mode="json") for each in found], "total": total, "skip": skip}
    return Page("invoices.html", "Invoices", data, files=files, value=value)


async def _all(visit: Visit, wanted: dict[str, Any]) -> list[Invoice]:
    found: list[Invoice] = []
    while len(found) < MAX_COUNT:
        page, _ = await visit.house.ledger.invoices_page(**wanted, skip=len(found), limit=READ)
        found += page
        if len(page) < READ:
            break
    return found


def _file(rows: Iterable[Invoice]) -> Rows:
    names = ("id", "period", "tenant", "number", "issue", "status", "currency")
    money = ("subtotal", "tax", "credits_applied", "carried_over", "total", "credited", "amount_due")
    header = (*names, *money, "finalized_at", "settled_at", "held")
    return Rows(header, [[getattr(each, name) for name in header] for each in rows])


def _by_month(totals: Iterable[tuple[str, InvoiceStatus, int, int]]) -> list[Month]:
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    sums: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for period, status, how_many, nanos in totals:
        counts[period][status], sums[period][status] = how_many, from_nanos(nanos)
    with localcontext(EXACT):
        billed = {period: sum((sums[period].get(each, Decimal(0)) for each in BILLED), Decimal(0)) for period in counts}
    most = max(billed.values(), default=Decimal(0)) or Decimal(1)
    return [
        Month(period, counts[period], sums[period], billed[period], round(float(billed[period] * 100 / most), 2))
        for period in sorted(counts, reverse=True)
    ]


def _months_file(months: Iterable[Month]) -> Rows:
    header = ("period", "invoices", "billed", *STATUSES)
    return Rows(header, [(each.period, each.invoices, each.billed, *map(each.sums.get, STATUSES)) for each in months])


# -- what may be done --------------------------------------------------------------------------------------------------


async def finalize(visit: Visit) -> Done:
    visit.needs("reason")
    done = await visit.house.finalize_invoice(visit.needs("id"))
    if done.status == "draft":
        return _done(done, "It is still a draft.")
    return _done(done, f"It is final as {done.number}: {amount(done.total, done.currency)}.")


async def void(visit: Visit) -> Done:
    visit.needs("reason")
    done = await visit.house.void_invoice(visit.needs("id"))
    return _done(done, f"{done.number} is void. Closing {done.period} again issues it under a new number.")


async def mark(visit: Visit) -> Done:
    """As paid elsewhere, or as never to be paid."""
    status = visit.needs("status")
    if status not in MARKS:
        raise InvalidInput("status", f"{status[:20]!r} is none of {', '.join(MARKS)}")
    visit.needs("reason")
    done = await visit.house.mark_invoice(visit.needs("id"), cast(Literal["paid", "uncollectible"], status))
    return _done(done, f"{done.number} is {done.status}.")


async def credit(visit: Visit) -> Done:
    """A line, an amount before tax, or all that is left."""
    name = visit.needs("id")
    note = await visit.house.credit_invoice(
        name, line_id=visit.given("line") or None, amount=visit.given("amount") or None, reason=visit.needs("reason")
    )
    where = "to the tenant's credit" if note.to_credit else "no longer due"
    said = f"Credit note {note.number}: {amount(note.total, note.currency)}, {where}."
    return Done(said, link("invoice", id=name))


def _done(invoice: Invoice, said: str) -> Done:
    return Done(said, link("invoice", id=invoice.id))


ALSO: Final[Mapping[str, Show]] = {"invoice": invoice, "preview": preview, "facts": facts, "document": document}
LINK = Link(
    "invoices",
    "Invoices",
    invoices,
    also=ALSO,
    actions={
        "finalize": (Role.FINANCE, finalize),
        "void": (Role.FINANCE, void),
        "credit": (Role.FINANCE, credit),
        "mark": (Role.FINANCE, mark),
    },
)
OWN = Link("invoices", "Invoices", invoices, also=ALSO)
"""The same of one tenant, in its portal: to be looked at."""
