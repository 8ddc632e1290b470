"""A document: everything that an invoice or a credit note shows, as clean text. The templates only lay it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import tzinfo
from decimal import localcontext
from typing import Literal, TypeAlias

from pydantic.dataclasses import dataclass as checked

from mm_metering.billing.documents.reasons import Note, Reason, reason
from mm_metering.billing.documents.texts import amount, clean, day, moment, price, quantity
from mm_metering.core.invoices import CreditNote, Invoice, InvoiceLine, LineKind
from mm_metering.core.money import EXACT, round_minor
from mm_metering.core.periods import zone
from mm_metering.core.zones import zone_name
from mm_metering.errors import InvalidInput

Tone: TypeAlias = Literal["plain", "open", "good", "bad"]

_KINDS: dict[LineKind, str] = {
    "base": "Plan",
    "proration": "Change of plan",
    "addon": "Add-on",
    "overage": "Usage",
    "commitment": "Minimum",
    "late_usage": "Late usage",
    "adjustment": "Adjustment",
    "discount": "Discount",
    "tax": "Tax",
    "credit": "Credit",
    "carried_over": "Carried over",
}
_CLOSING: frozenset[LineKind] = frozenset({"tax", "credit", "carried_over"})
"""What stands under the subtotal, not among the lines."""


@checked(frozen=True)
class Party:
    """Who sells or buys. ``address`` is a tuple of lines, ``tax_id`` such as "VAT DE123456789"."""

    name: str = field(repr=False)
    address: tuple[str, ...] = field(default=(), repr=False)
    tax_id: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Block:
    """A party as it is printed."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    number: str
    kind: str
    description: str
    quantity: str
    unit_price: str
    amount: str
    late: str
    """The month that late usage belongs to; "" for the invoice's own."""
    reason: Reason | None
    line: str = ""
    """The id of the invoice's line; "" where the row is of none."""


@dataclass(frozen=True, slots=True)
class Sum:
    """``weight``: 0 for one of the parts, 1 for a total, 2 for what is to be paid."""

    label: str
    amount: str
    weight: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """``watermark`` is "" where the badge is enough. ``heading`` is for a tab and a footer."""

    title: str
    heading: str
    badge: str
    tone: Tone
    watermark: str
    currency: str
    seller: Block | None
    buyer: Block
    facts: tuple[Note, ...]
    remarks: tuple[Note, ...]
    rows: tuple[Row, ...]
    sums: tuple[Sum, ...]
    times: str


def document_of(
    value: Invoice | CreditNote,
    *,
    seller: Party | None,
    buyer: Party | None,
    invoice: Invoice | None,
    timezone: str,
) -> Document:
    """InvalidInput for a zone that does not exist, and for an ``invoice`` that is not the credit note's."""
    tz = zone(timezone)
    if isinstance(value, CreditNote):
        return _of_credit_note(value, seller=seller, buyer=buyer, invoice=invoice, tz=tz)
    if invoice is not None:
        raise InvalidInput("invoice", "goes with a credit note only: it is the invoice that the note takes back from")
    return _of_invoice(value, seller=seller, buyer=buyer, tz=tz)


def _of_invoice(invoice: Invoice, *, seller: Party | None, buyer: Party | None, tz: tzinfo) -> Document:
    badge, tone, watermark = _badge(invoice)
    charged = [line for line in invoice.lines if line.kind not in _CLOSING]
    title = "Invoice" if invoice.number else "Draft invoice"
    return Document(
        title=title,
        heading=f"{title} {clean(invoice.number or invoice.period)}",
        badge=badge,
        tone=tone,
        watermark=watermark,
        currency=clean(invoice.currency),
        seller=_block(seller) if seller else None,
        buyer=_buyer(buyer, invoice.tenant),
        facts=tuple(_facts(invoice, buyer, tz)),
        remarks=tuple(_remarks(invoice, tz)),
        rows=tuple(_row(number, line, invoice, tz) for number, line in enumerate(charged, 1)),
        sums=tuple(_sums(invoice)),
        times=_times(tz),
    )


def _badge(invoice: Invoice) -> tuple[str, Tone, str]:
    match invoice.status:
        case "draft":
            return "Draft", "plain", "DRAFT"
        case "finalized":
            return ("Due", "open", "") if invoice.amount_due > 0 else ("Nothing due", "good", "")
        case "paid":
            return "Paid", "good", ""
        case "void":
            return "Void", "bad", "VOID"
        case "uncollectible":
            return "Written off", "bad", ""


def _facts(invoice: Invoice, buyer: Party | None, tz: tzinfo) -> Iterator[Note]:
    if invoice.number:
        yield Note("Number", clean(invoice.number))
    yield Note("Period", clean(invoice.period))
    if invoice.finalized_at:
        yield Note("Issued", day(invoice.finalized_at, tz))
    if invoice.settled_at:
        settled = {"paid": "Paid", "void": "Voided", "uncollectible": "Written off"}.get(invoice.status, "Settled")
        yield Note(settled, day(invoice.settled_at, tz))
    if invoice.issue > 1:
        yield Note("Issue", quantity(invoice.issue))
    yield Note("Currency", clean(invoice.currency))
    if buyer:
        yield Note("Customer", clean(invoice.tenant))
    yield Note("Reference", clean(invoice.id))
    if invoice.status == "finalized":
        yield Note("Amount due", f"{amount(invoice.amount_due)} {clean(invoice.currency)}")
    else:
        yield Note("Total", f"{amount(invoice.total)} {clean(invoice.currency)}")


def _remarks(invoice: Invoice, tz: tzinfo) -> Iterator[Note]:
    if invoice.status == "draft":
        yield Note("Draft", "This is not an invoice yet. Its amounts may change until it is finalized.")
    if invoice.status == "void":
        yield Note("Void", "This invoice was voided: nothing is to be paid for it.")
    if invoice.held:
        yield Note("Held for review", clean(invoice.held))
    bounds = [
        f"{verb} before {moment(bound, tz)}"
        for verb, bound in (("used", invoice.usage_until), ("stored", invoice.stored_until))
        if bound
    ]
    if bounds:
        yield Note("Usage", f"What was {' and '.join(bounds)}.")


def _row(number: int, line: InvoiceLine, invoice: Invoice, tz: tzinfo) -> Row:
    return Row(
        number=str(number),
        kind=_KINDS[line.kind],
        description=clean(line.description),
        quantity=quantity(line.quantity),
        unit_price=price(line.unit_price, invoice.currency),
        amount=amount(line.amount),
        late=clean(line.period) if line.period and line.period != invoice.period else "",
        reason=reason(line, invoice.currency, tz),
        line=clean(line.id),
    )


def _sums(invoice: Invoice) -> Iterator[Sum]:
    yield Sum("Subtotal", amount(invoice.subtotal), 1)
    grants = tuple(f"{amount(use.amount)} from {clean(use.grant)}" for use in invoice.credits)
    last_credit = max((i for i, line in enumerate(invoice.lines) if line.kind == "credit"), default=None)
    for place, line in enumerate(invoice.lines):
        if line.kind in _CLOSING:
            label = clean(line.description) or _KINDS[line.kind]
            yield Sum(_capital(label), amount(line.amount), 0, grants if place == last_credit else ())
    if invoice.status == "draft":
        yield Sum("Total", amount(invoice.total), 2)
        return
    yield Sum("Total", amount(invoice.total), 1)
    if invoice.credited:
        yield Sum("Credit notes", amount(invoice.credited.copy_negate()))
    yield Sum("Amount due", amount(round_minor(invoice.amount_due, invoice.currency)), 2)


def _of_credit_note(
    note: CreditNote, *, seller: Party | None, buyer: Party | None, invoice: Invoice | None, tz: tzinfo
) -> Document:
    if invoice is not None and invoice.id != note.invoice:
        raise InvalidInput("invoice", f"is {invoice.id}, and credit note {note.number} is for {note.invoice}")
    return Document(
        title="Credit note",
        heading=f"Credit note {clean(note.number)}",
        badge="Credited",
        tone="good",
        watermark="",
        currency=clean(note.currency),
        seller=_block(seller) if seller else None,
        buyer=_buyer(buyer, note.tenant),
        facts=tuple(_note_facts(note, buyer, invoice, tz)),
        remarks=(Note("Reason", clean(note.reason)),) if note.reason else (),
        rows=(_note_row(note, invoice),),
        sums=tuple(_note_sums(note)),
        times=_times(tz),
    )


def _note_facts(note: CreditNote, buyer: Party | None, invoice: Invoice | None, tz: tzinfo) -> Iterator[Note]:
    yield Note("Number", clean(note.number))
    yield Note("For invoice", clean((invoice and invoice.number) or note.invoice))
    if invoice:
        yield Note("Period", clean(invoice.period))
    yield Note("Issued", day(note.created_at, tz))
    yield Note("Currency", clean(note.currency))
    if buyer:
        yield Note("Customer", clean(note.tenant))
    yield Note("Reference", clean(note.id))
    yield Note("Total", f"{amount(note.total)} {clean(note.currency)}")


def _note_row(note: CreditNote, invoice: Invoice | None) -> Row:
    lines = {line.id: line.description for line in invoice.lines} if invoice else {}
    what = f"Taken back: {lines.get(note.line, note.line)}" if note.line else "Taken back from the invoice as a whole"
    return Row(
        number="1",
        kind="Credit note",
        description=clean(what),
        quantity=quantity(note.quantity) if note.quantity is not None else "",
        unit_price="",
        amount=amount(note.amount),
        late="",
        reason=None,
    )


def _note_sums(note: CreditNote) -> Iterator[Sum]:
    yield Sum("Amount", amount(note.amount), 1)
    if note.tax:
        yield Sum("Tax", amount(note.tax))
    yield Sum("Total credited", amount(note.total), 2)
    if note.to_credit:
        yield Sum("Of this, to your credit balance", amount(note.to_credit))
    with localcontext(EXACT):
        off_due = note.total - note.to_credit
    if off_due:
        yield Sum("Of this, off what is due", amount(off_due))


def _block(party: Party) -> Block:
    lines = (*party.address, party.tax_id or "", party.email or "")
    return Block(clean(party.name), tuple(filter(None, map(clean, lines))))


def _buyer(buyer: Party | None, tenant: str) -> Block:
    return _block(buyer) if buyer else Block(clean(tenant), ())


def _times(tz: tzinfo) -> str:
    return f"Days and times are those of {zone_name(str(tz))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
