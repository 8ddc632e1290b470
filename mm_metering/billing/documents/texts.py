"""How a document words text, numbers and time. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import datetime, tzinfo
from decimal import Decimal, localcontext

from mm_metering.core.money import EXACT, minor_unit, plain
from mm_metering.core.periods import Span, day_span, local_day, month_span

REPLACED = "\N{REPLACEMENT CHARACTER}"
MAX_PLACES = 12
"""The decimal places that a document shows; the mean price of tiers may have any number."""
MAX_MARKS = 8
_BIDI_CONTROLS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


def clean(text: str) -> str:
    """One line of text as it may be shown: white space becomes blanks, control characters, lone surrogates and what
    would turn its neighbours' direction become U+FFFD, and a letter keeps its first ``MAX_MARKS`` marks, which else
    cover other lines. Right-to-left text itself stays."""
    return "".join(map(_clean_char, _few_marks(text))).strip()


def _few_marks(text: str) -> Iterator[str]:
    run = 0
    for char in text:
        run = run + 1 if unicodedata.category(char) in {"Mn", "Me"} else 0
        if run <= MAX_MARKS:
            yield char


def _clean_char(char: str) -> str:
    if char in "\t\n\r":
        return " "
    hidden = unicodedata.category(char) in {"Cc", "Cs"} or unicodedata.bidirectional(char) in _BIDI_CONTROLS
    return REPLACED if hidden else char


def amount(value: Decimal) -> str:
    """ "−1,234.50": with the places that it has."""
    return f"{value:,f}".replace("-", "−")


def price(value: Decimal, currency: str) -> str:
    """A unit price: at least the currency's places, at most ``MAX_PLACES``; "≈ " if it has more."""
    with localcontext(EXACT):
        least = minor_unit(currency)
        return _approximate(value, least)


def quantity(value: int | Decimal) -> str:
    """ "1,000", or "≈ 0.333333333333" for a Decimal of too many places."""
    with localcontext(EXACT):
        return _approximate(Decimal(value), Decimal(1))


def _approximate(value: Decimal, least: Decimal) -> str:
    """Without zeros at its end, past the places of ``least``. Runs in the exact context."""
    shown = value.quantize(Decimal(1).scaleb(-MAX_PLACES)) if _places(value) > MAX_PLACES else value
    sign = "" if shown == value else "≈ "
    short = shown.normalize()
    return sign + amount(short.quantize(least) if _places(short) < _places(least) else short)


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def percent(part: int, whole: int) -> str:
    """ "38.71 %", rounded half up."""
    with localcontext(EXACT):
        return f"{plain((Decimal(100 * part) / whole).quantize(Decimal('0.01')))} %"


def moment(value: datetime, zone: tzinfo) -> str:
    """ "2024-02-01", or with the time if it is not midnight."""
    local = value.astimezone(zone)
    if not (local.hour or local.minute or local.second):
        return f"{local:%Y-%m-%d}"
    return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


def day(value: datetime, zone: tzinfo) -> str:
    return f"{value.astimezone(zone):%Y-%m-%d}"


def span(start: datetime, end: datetime, zone: tzinfo) -> str:
    """ "2024-01-10" for a local day, "2024-01" for a local month, else both ends."""
    first = local_day(start, zone)
    if Span(start, end) == day_span(first, zone):
        return f"{first:%Y-%m-%d}"
    if Span(start, end) == month_span(first.year, first.month, zone):
        return f"{first:%Y-%m}"
    return f"{moment(start, zone)} to {moment(end, zone)}"
