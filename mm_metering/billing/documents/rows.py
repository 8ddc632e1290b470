"""Invoices as CSV, for spreadsheets and bookkeeping."""

from __future__ import annotations

import csv as _csv
from collections.abc import Iterable, Iterator
from decimal import Decimal
from io import StringIO

from mm_metering.core.invoices import Invoice, InvoiceLine
from mm_metering.core.money import plain

COLUMNS = (
    "invoice",  # the invoice's id
    "number",  # "" for a draft
    "issue",
    "status",
    "tenant",
    "period",  # the month that the line belongs to: the invoice's, or an earlier one for late usage
    "currency",
    "line",  # the line's id
    "kind",
    "meter",  # "" for what is not usage
    "resource",
    "plan_version",
    "description",
    "quantity",
    "unit_price",
    "amount",
)
"""The header row of ``csv``."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the full-width forms of the first, which some locales take for them."""


def csv(invoices: Iterable[Invoice]) -> str:
    """RFC 4180 with CRLF: the header row ``COLUMNS``, then a row per line, tax and credits included. An invoice's
    amounts sum to its total.

    Quantities and money are plain decimals such as -1234.50. Every other cell that a spreadsheet would take for a
    formula gets a leading apostrophe. Write it as UTF-8; Excel needs the encoding "utf-8-sig".
    """
    out = StringIO(newline="")
    writer = _csv.writer(out)
    writer.writerow(COLUMNS)
    for invoice in invoices:
        writer.writerows(_row(invoice, line) for line in invoice.lines)
    return out.getvalue()


def _row(invoice: Invoice, line: InvoiceLine) -> Iterator[str]:
    texts = (
        invoice.id,
        invoice.number or "",
        str(invoice.issue),
        invoice.status,
        invoice.tenant,
        line.period or invoice.period,
        invoice.currency,
        line.id,
        line.kind,
        line.meter or "",
        line.resource,
        line.explanation.plan_version if line.explanation else "",
        line.description,
    )
    yield from map(guarded, texts)
    yield from (plain(Decimal(line.quantity)), plain(line.unit_price), plain(line.amount))


def guarded(text: str) -> str:
    """Not a formula, also where blanks before it are dropped; and without lone surrogates, which no file can hold."""
    held = text.encode(errors="replace").decode()
    return f"'{held}" if held.lstrip(" ").startswith(_FORMULA_STARTS) else held
