"""Our invoice's lines as a provider's items: the same sum, to the coin."""

from __future__ import annotations

from decimal import Decimal, localcontext

from mm_metering.billing.adapter import MAX_ITEMS, MAX_TEXT, BillingItem
from mm_metering.core.invoices import Invoice, InvoiceLine
from mm_metering.core.money import EXACT


def items_of_invoice(invoice: Invoice, amount: Decimal) -> tuple[BillingItem, ...]:
    """That come to ``amount``, its total less its credit notes. A line whose price and quantity do not come to its
    amount, as through tiers, is one item of that amount; what is past 250 items is one, too."""
    lines = [each for each in invoice.lines if each.amount]
    items = [_item(each, invoice.currency) for each in lines]
    with localcontext(EXACT):
        if credited := invoice.total - amount:
            items.append(_of("Credit notes", -credited))
    if len(items) > MAX_ITEMS:
        rest = items[MAX_ITEMS - 1 :]
        with localcontext(EXACT):
            amount = sum((each.amount(invoice.currency) for each in rest), Decimal(0))
        items = [*items[: MAX_ITEMS - 1], _of(f"{len(rest):,} more lines, see invoice {invoice.number}", amount)]
    return tuple(items)


def _item(line: InvoiceLine, currency: str) -> BillingItem:
    whole = int(line.quantity)
    if whole == line.quantity and whole > 0:
        item = BillingItem(description=_text(line.description), quantity=whole, unit_price=line.unit_price)
        if item.amount(currency) == line.amount:
            return item
    return _of(line.description, line.amount)


def _of(description: str, amount: Decimal) -> BillingItem:
    return BillingItem(description=_text(description), quantity=1, unit_price=amount)


def _text(text: str) -> str:
    """Printable, and not too long."""
    shown = "".join(each if each.isprintable() else " " for each in text).strip()
    return shown[:MAX_TEXT] or "-"
