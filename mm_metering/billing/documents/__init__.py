"""Documents: an invoice or a credit note as a page, a PDF or rows of a table.

    html(invoice, seller=Party("Acme Ltd", ("1 High Street", "London")))   one self-contained page; extra "server"
    pdf(invoice, seller=..., buyer=..., paper="us-letter")                 the same on paper; extra "pdf"
    csv(invoices)                                                          a row per line

Owns: how amounts, windows and reasons are worded and laid out. Does not own: what they are (``core``), nor where
documents are kept or sent. JSON is ``invoice.model_dump_json()``.
Invariants: equal values give equal documents, byte by byte; every text of a value is untrusted, and none of it is ever
markup, code or a formula.
"""

from __future__ import annotations

from mm_metering.billing.documents.document import Party
from mm_metering.billing.documents.page import html
from mm_metering.billing.documents.paper import pdf
from mm_metering.billing.documents.rows import COLUMNS, csv

__all__ = ["COLUMNS", "Party", "csv", "html", "pdf"]
