"""Documents as HTML: one page that loads nothing and runs nothing."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from mm_metering.billing.documents.document import Party, document_of
from mm_metering.core.invoices import CreditNote, Invoice
from mm_metering.errors import MissingExtra

if TYPE_CHECKING:
    from jinja2 import Template


def html(
    document: Invoice | CreditNote,
    *,
    seller: Party | None = None,
    buyer: Party | None = None,
    invoice: Invoice | None = None,
    timezone: str = "UTC",
) -> str:
    """A self-contained page, for screens and for printing. MissingExtra without jinja2.

    ``invoice`` is the one that a credit note takes back from: its number and line are then shown. ``timezone`` is the
    tenant's, in which windows are whole days. Without ``buyer`` the tenant's id stands there.
    """
    shown = document_of(document, seller=seller, buyer=buyer, invoice=invoice, timezone=timezone)
    return _template().render(document=shown)


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("server", "an invoice as HTML") from error
    environment = Environment(
        loader=PackageLoader("mm_metering.billing.documents"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("document.html")
