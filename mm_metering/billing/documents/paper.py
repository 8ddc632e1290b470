"""Documents as PDF, set by typst."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Literal, TypeAlias

from mm_metering.billing.documents.document import Party, document_of
from mm_metering.core.invoices import CreditNote, Invoice
from mm_metering.errors import MissingExtra

Paper: TypeAlias = Literal["a4", "us-letter"]


def pdf(
    document: Invoice | CreditNote,
    *,
    seller: Party | None = None,
    buyer: Party | None = None,
    invoice: Invoice | None = None,
    timezone: str = "UTC",
    paper: Paper = "a4",
) -> bytes:
    """A tagged PDF, the same bytes for the same values and release of typst. MissingExtra without typst.

    Arguments are those of ``html``. Only the fonts within typst are used: Latin, Greek, Cyrillic, Hebrew and Arabic;
    other scripts show as boxes. It computes, 0.05 s for a page and seconds for sixty: give it to a thread in an
    event loop.
    """
    try:
        import typst
    except ImportError as error:
        raise MissingExtra("pdf", "an invoice as PDF") from error
    shown = document_of(document, seller=seller, buyer=buyer, invoice=invoice, timezone=timezone)
    # as data, so that no text can be code
    inputs = {"document": json.dumps(asdict(shown)), "paper": paper}
    return typst.compile(_template(), format="pdf", sys_inputs=inputs, ignore_system_fonts=True)


@cache
def _template() -> bytes:
    return resources.files("mm_metering.billing.documents").joinpath("templates", "document.typ").read_bytes()
