"""One invoice with the reasons of each line, the facts behind them, and its documents; or the month that still runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, cast, get_args

from mm_metering.billing.documents.document import document_of
from mm_metering.billing.invoices import DocumentForm
from mm_metering.core.invoices import BilledFact, CreditNote, Invoice
from mm_metering.core.lifecycles import INVOICE
from mm_metering.core.periods import from_micros, micros
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.zones import zone_name
from mm_metering.dashboard.ahead import ahead, not_foreseen
from mm_metering.dashboard.page import PAGE, Document, Page, Rows, Visit, place_text
from mm_metering.dashboard.pages.tenants import plan_of, row_of
from mm_metering.dashboard.standing import usage_of
from mm_metering.errors import InvalidInput, NotFound

IN_FILE: Final = 10_000
"""Most facts of one file; its last one is where the next begins."""
MEDIA: Final[Mapping[DocumentForm, str]] = {
    "pdf": "application/pdf",
    "html": "text/html; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
}
LAST_US: Final = micros(datetime.max.replace(tzinfo=from_micros(0).tzinfo))
CREDITABLE: Final = ("finalized", "paid")


@dataclass(frozen=True, slots=True)
class Made:
    """An invoice made again: the names of what came out otherwise than it stands."""

    differs: Sequence[str]


class Choice(NamedTuple):
    """A line that may be credited."""

    id: str
    text: str


# -- one that was closed ----------------------------------------------------------------------------------------------


async def invoice(visit: Visit) -> Page:
    house, found = visit.house, await _found(visit)
    row, payment, notes = await asyncio.gather(
        row_of(visit, found.tenant), house.ledger.collection(found.id), house.ledger.credit_notes(found.id)
    )
    data = shown(found, row) | {
        "payment": payment,
        "provider": house.billing.has_adapter,
        "notes": notes,
        "moves": moves_of(found),
        "creditable": _is_creditable(found, notes),
        "choices": [*_choices(found)],
        "made": await _made(visit, found),
        "forms": get_args(DocumentForm),
        "is_preview": False,
    }
    value = found.model_dump(mode="json")
    return Page("invoice.html", found.number or f"Draft of {found.period}", data, files=_files(found), value=value)


async def _found(visit: Visit) -> Invoice:
    """NotFound also for another tenant's, in a portal."""
    return await visit.house.get_invoice(visit.text("id"), tenant=visit.tenant or None)


def shown(found: Invoice, row: TenantRow) -> dict[str, Any]:
    """An invoice as its document words it, in its tenant's zone."""
    shown = document_of(found, seller=None, buyer=None, invoice=None, timezone=row.timezone)
    counted = {line.id for line in found.lines if line.meter and line.explanation and line.explanation.windows}
    return {"invoice": found, "shown": shown, "counted": counted, "zone": zone_name(row.timezone)}


def moves_of(found: Invoice) -> Sequence[str]:
    """What may happen to it. What has credit notes stays, so it cannot be voided."""
    return [each for each in INVOICE.moves[found.status] if each != "void" or not found.credited]


def _is_creditable(found: Invoice, notes: Iterable[CreditNote]) -> bool:
    """Whether anything is left that it charged: before tax, and of what credit did not pay."""
    before_tax = found.subtotal > sum((each.amount for each in notes), Decimal(0))
    return found.status in CREDITABLE and before_tax and found.total > found.credited


def _choices(found: Invoice) -> Iterable[Choice]:
    yield Choice("", "all that is left")
    for line in found.lines:
        if line.kind not in ("tax", "credit", "carried_over") and line.amount > 0:
            yield Choice(line.id, f"{line.description}: {line.amount:,f}")


async def _made(visit: Visit, found: Invoice) -> Made | None:
    """None unless it was asked for; a draft is made anew by each close."""
    if not visit.text("again") or found.status == "draft" or visit.tenant:
        return None
    again = await visit.house.rerun_invoice(found.id)
    return Made([name for name in Invoice.model_fields if getattr(again, name) != getattr(found, name)])


def _files(found: Invoice) -> dict[str, Rows]:
    header = ("line", "kind", "meter", "resource", "period", "description", "quantity", "unit_price", "amount")
    names = ("id", *header[1:])
    return {"lines": Rows(header, [[getattr(line, name) for name in names] for line in found.lines])}


async def document(visit: Visit) -> Document:
    """As a file to be sent."""
    form = visit.text("form", "pdf")
    if form not in MEDIA:
        raise InvalidInput("form", f"{form[:20]!r} is none of {', '.join(MEDIA)}")
    known = cast(DocumentForm, form)
    found = await _found(visit)
    content = await visit.house.invoice_document(found.id, known)
    return Document(content, MEDIA[known], f"{found.number or f'draft-{found.period}'}.{form}")


# -- one that is not closed yet ---------------------------------------------------------------------------------------


async def preview(visit: Visit) -> Page:
    """The month as it stands; nothing is written."""
    row = await row_of(visit, visit.tenant or visit.text("tenant"))
    found = await visit.house.preview_invoice(row.id, period=visit.text("period") or None)
    now = await visit.house.preview_invoice(row.id) if visit.text("period") else found
    data = shown(found, row) | {
        "is_preview": True,
        "was_invoiced": found.status != "draft",
        "coming": None,
        "made": None,
    }
    if found.period == now.period and found.status == "draft":
        data |= await _coming(visit, row)
    value = found.model_dump(mode="json")
    return Page("invoice.html", f"{row.id}, {found.period} so far", data, files=_files(found), value=value)


async def _coming(visit: Visit, row: TenantRow) -> dict[str, Any]:
    """What the running month may still charge."""
    usage = await usage_of(visit.house, row, await plan_of(visit, row), visit.now)
    coming = ahead(usage, visit.house.catalogue.currency)
    more = sum((each.more for each in coming), Decimal("0.00"))
    quiet = [each.meter for each in coming if each.likely is None and not each.so_far]
    return {"coming": coming, "more": more, "quiet": quiet, "not_foreseen": not_foreseen(usage)}


# -- what is behind a line --------------------------------------------------------------------------------------------


async def facts(visit: Visit) -> Page:
    """A page of the facts in a line's windows, the oldest first."""
    name, owner = visit.text("line"), visit.tenant or None
    why = await visit.house.explain(name, tenant=owner)
    found = await visit.house.ledger.invoice_of_line(name)
    if found is None:
        raise NotFound(f"no invoice that was closed has a line {name!r}")
    line = next(each for each in found.lines if each.id == name)
    place = visit.place("after")
    after = (from_micros(min(place[0], LAST_US)), place[1]) if place else None
    size = IN_FILE if "csv" in visit.query else PAGE
    there = await visit.house.line_facts(name, after=after, limit=size + 1, tenant=owner)
    page, last = there[:size], there[size - 1] if len(there) > size else None
    data = {
        "invoice": found,
        "line": line,
        "why": why,
        "facts": page,
        "next": place_text(last.occurred_at, last.id) if last else "",
        "begun": place is not None,
    }
    return Page("facts.html", f"Facts behind a line of {found.number or found.period}", data, files=_facts_file(page))


def _facts_file(page: Iterable[BilledFact]) -> dict[str, Rows]:
    names = ("id", "occurred_at", "event_type", "resource", "quantity")
    return {"facts": Rows(names, [[getattr(each, name) for name in names] for each in page])}
