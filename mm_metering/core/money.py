"""Exact money: Decimal at the edges, integer nano-units (10⁻⁹ of the currency) where it is stored.

A float is refused everywhere: 1500 × 0.00003 in binary floats rounds to 0.04, and the bill says 0.05.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import TypeAlias

from mm_metering.errors import InvalidMoney

NANOS_PER_UNIT = 1_000_000_000
MAX_MONEY = 9_000_000
"""The largest amount of one limit, price or cost: its nano-units stay below 2**53, where Lua's numbers are exact."""

_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,24})?", re.ASCII)
_MINOR_DIGITS = {"JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "VND": 0, "BHD": 3, "KWD": 3, "OMR": 3, "TND": 3}

Amount: TypeAlias = Decimal | int | str
"""What callers may pass for money."""


def exact(value: object, field: str) -> Decimal:
    """The value as an exact Decimal.

    Takes a Decimal, an int or a plain decimal string ("0.01"); raises InvalidMoney for a float, for anything
    with an exponent, a sign other than a leading minus, or more than 24 decimal places, and past ±9,000,000.
    """
    if isinstance(value, float):
        raise InvalidMoney(field, f'{value!r} is a float and not exact; write it as a string, "{value}"')
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidMoney(field, f"expected a Decimal, an int or a decimal string, got {type(value).__name__}")
    text = _plain(value)
    if not _DECIMAL.fullmatch(text):
        raise InvalidMoney(field, f'{text[:40]!r} is not a plain decimal number such as "0.01" (at most 24 places)')
    number = Decimal(text)
    if abs(number) > MAX_MONEY:
        raise InvalidMoney(field, f"{text[:40]} is out of range; the largest amount is {MAX_MONEY:,}")
    return number


def _plain(value: Decimal | int | str) -> str:
    """A Decimal without its exponent, so that 1E-7 and 0.0000001 are one number; NaN and infinities stay words."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 40:
        return format(value, "f")
    return str(value)


def non_negative(value: object, field: str) -> Decimal:
    """As ``exact``, and not below zero."""
    number = exact(value, field)
    if number < 0:
        raise InvalidMoney(field, f"{number} is negative; the least is 0")
    return number


def to_nanos(amount: Decimal) -> int:
    """Integer nano-units, rounded half up: the one place where provider cost loses digits, once per call."""
    with localcontext(prec=60):
        return int((amount * NANOS_PER_UNIT).quantize(Decimal(1), ROUND_HALF_UP))


def from_nanos(nanos: int) -> Decimal:
    """Nano-units back as a Decimal, without trailing zeros past the second place."""
    number = Decimal(nanos).scaleb(-9)
    shortened = number.normalize()
    exponent = shortened.as_tuple().exponent
    return shortened.quantize(Decimal("0.01")) if isinstance(exponent, int) and exponent > -2 else shortened


def minor_unit(currency: str) -> Decimal:
    """The currency's smallest coin: 0.01 for USD, 1 for JPY, 0.001 for KWD (ISO 4217)."""
    return Decimal(1).scaleb(-_MINOR_DIGITS.get(currency, 2))


def round_minor(amount: Decimal, currency: str) -> Decimal:
    """Rounded half up to the currency's minor unit: once per invoice line, never before."""
    with localcontext(prec=60):
        return amount.quantize(minor_unit(currency), ROUND_HALF_UP)


def split(total: Decimal, weights: Sequence[int], currency: str) -> list[Decimal]:
    """``total`` (whole minor units) shared out by weight with the largest remainder: the parts add up to it exactly."""
    unit = minor_unit(currency)
    coins = int(total / unit)
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("split: weights must be non-negative and not all zero")
    shares = [divmod(coins * weight, whole) for weight in weights]
    left = coins - sum(share for share, _ in shares)
    by_remainder = sorted(range(len(weights)), key=lambda i: (-shares[i][1], i))
    extra = set(by_remainder[:left])
    return [(share + (i in extra)) * unit for i, (share, _) in enumerate(shares)]
