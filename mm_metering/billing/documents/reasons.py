"""How a line came about, in words and tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal

from mm_metering.billing.documents.texts import amount, clean, percent, price, quantity, span
from mm_metering.core.invoices import Explanation, InvoiceLine, Share
from mm_metering.core.pricing import TierUse
from mm_metering.core.rating import WindowUse


@dataclass(frozen=True, slots=True)
class Note:
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """``heads`` and as many cells per row. The first ``words`` columns are text, the others numbers."""

    caption: str
    heads: tuple[str, ...]
    words: int
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Reason:
    notes: tuple[Note, ...]
    tables: tuple[Table, ...]


def reason(line: InvoiceLine, currency: str, zone: tzinfo) -> Reason | None:
    """None for a line that explains itself, such as a tax or a discount."""
    why = line.explanation
    if why is None:
        return None
    tables = []
    if why.windows:
        tables.append(_windows(why.windows, zone))
    if why.tiers:
        tables.append(_tiers(why.tiers, currency))
    return Reason(tuple(_notes(line, why, currency)), tuple(tables))


def _notes(line: InvoiceLine, why: Explanation, currency: str) -> Iterator[Note]:
    if line.period:
        yield Note("Usage of", clean(line.period))
    if line.resource:
        yield Note("Resource", clean(line.resource))
    if why.plan_version:
        yield Note("Plan version", clean(why.plan_version))
    if why.events:
        yield Note("Usage events", quantity(why.events))
    yield from _computed(line, why, currency)
    if why.billed_before is not None:
        yield Note("Billed before", f"{amount(why.billed_before)} {clean(currency)}, by earlier invoices: taken off")
    if why.rounding:
        yield Note("Rounding", clean(why.rounding).replace("-", "−"))


def _computed(line: InvoiceLine, why: Explanation, currency: str) -> Iterator[Note]:
    each = f"{price(why.unit_price, currency)} {clean(currency)}"
    if why.share:
        yield Note("Monthly minimum" if line.kind == "commitment" else "Monthly fee", each)
        yield Note("Share", _share(why.share))
    elif why.tiers:
        yield Note("Computed", "the sum of the tiers below")
    elif why.windows:
        yield Note("Computed", f"{quantity(sum(window.overage for window in why.windows))} × {each}")


def _share(share: Share) -> str:
    if share.seconds == share.of_seconds:
        return "the whole month"
    part = percent(share.seconds, share.of_seconds)
    return f"{share.seconds:,} of {share.of_seconds:,} seconds of the month ({part})"


_WINDOW_NUMBERS: Sequence[tuple[str, Callable[[WindowUse], int | Decimal]]] = (
    ("Used", lambda window: window.used),
    ("Allowance", lambda window: window.allowance),
    ("Under earlier plans", lambda window: window.before),
    ("Not billed", lambda window: window.unbilled),
    ("Overage", lambda window: window.overage),
    ("Events", lambda window: window.events),
)
_SELDOM = {"Under earlier plans", "Not billed", "Events"}


def _windows(windows: tuple[WindowUse, ...], zone: tzinfo) -> Table:
    """A column of what happens seldom is there if any window has it."""
    columns = [
        (head, number)
        for head, number in _WINDOW_NUMBERS
        if head not in _SELDOM or any(number(window) for window in windows)
    ]
    rows = tuple(
        (
            span(window.start, window.end, zone),
            clean(window.plan),
            *(quantity(number(window)) for _, number in columns),
        )
        for window in windows
    )
    return Table("Windows", ("Window", "Plan", *(head for head, _ in columns)), 2, rows)


def _tiers(tiers: tuple[TierUse, ...], currency: str) -> Table:
    rows = tuple(
        (
            f"{quantity(tier.after)} to {quantity(tier.up_to)}" if tier.up_to is not None else f"past {tier.after:,}",
            quantity(tier.quantity),
            price(tier.unit_price, currency),
            price(tier.flat, currency),
            price(tier.amount, currency),
        )
        for tier in tiers
    )
    return Table("Tiers", ("Tier", "Units", "Unit price", "Flat fee", "Amount"), 1, rows)
