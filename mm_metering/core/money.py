"""Exact money: Decimal at the edges, integer nano-units (10⁻⁹ of the currency) where it is stored.

A float is refused everywhere: 1500 × 0.00003 in binary floats rounds to 0.04, and the bill says 0.05.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Annotated, TypeAlias

from pydantic import PlainSerializer

from mm_metering.errors import InvalidMoney

NANOS_PER_UNIT = 1_000_000_000
MAX_MONEY = 9_000_000
"""The largest amount of one limit, price or cost: its nano-units stay below 2**53, where Lua's numbers are exact."""

_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,24})?", re.ASCII)
_OTHER_MINOR_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
_MINOR_DIGITS = {code: digits for digits, codes in _OTHER_MINOR_DIGITS.items() for code in codes.split()}
_CURRENCIES = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF "
    "CHF CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD "
    "HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL "
    "LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR "
    "PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP "
    "TRY TTD TWD TZS UAH UGX USD UYI UYU UYW UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
EXACT = Context(prec=60, rounding=ROUND_HALF_UP)
"""For ``localcontext``: the host's own precision, rounding and traps must not reach a bill."""

Amount: TypeAlias = Decimal | int | str
"""What callers may pass for money."""


def plain(amount: Decimal) -> str:
    """The amount as text without an exponent: 0.0000003, not 3E-7."""
    return format(amount, "f")


Money: TypeAlias = Annotated[Decimal, PlainSerializer(plain, return_type=str, when_used="json")]
"""A model's field of money: a Decimal, and a plain decimal string in JSON."""


def exact(value: object, field: str) -> Decimal:
    """The value as an exact Decimal.

    Takes a Decimal, an int or a plain decimal string ("0.01"); raises InvalidMoney for a float, for anything
    with an exponent, a sign other than a leading minus, or more than 24 decimal places, and past ±9,000,000.
    """
    if isinstance(value, float):
        raise InvalidMoney(field, f'{value!r} is a float and not exact; write it as a string, "{value}"')
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidMoney(field, f"expected a Decimal, an int or a decimal string, got {type(value).__name__}")
    if isinstance(value, int) and abs(value) > MAX_MONEY:  # before any text: Python refuses to write very long ints
        raise InvalidMoney(field, f"is out of range; the largest amount is {MAX_MONEY:,}")
    text = _plain(value)
    if not _DECIMAL.fullmatch(text):
        raise InvalidMoney(field, f'{text[:40]!r} is not a plain decimal number such as "0.01" (at most 24 places)')
    number = Decimal(text)
    if number.copy_abs() > MAX_MONEY:
        raise InvalidMoney(field, f"{text[:40]} is out of range; the largest amount is {MAX_MONEY:,}")
    return number or number.copy_abs()


def _plain(value: Decimal | int | str) -> str:
    """A Decimal without its exponent, so that 1E-7 and 0.0000001 are one number; NaN and infinities stay words."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 40:
        return plain(value)
    return str(value)


def non_negative(value: object, field: str) -> Decimal:
    """As ``exact``, and not below zero."""
    number = exact(value, field)
    if number < 0:
        raise InvalidMoney(field, f"{number} is negative; the least is 0")
    return number


def to_nanos(amount: Decimal) -> int:
    """Integer nano-units, rounded half up: the one place where provider cost loses digits, once per call."""
    with localcontext(EXACT):
        return int((amount * NANOS_PER_UNIT).quantize(Decimal(1), ROUND_HALF_UP))


def from_nanos(nanos: int) -> Decimal:
    """Nano-units back as a Decimal, without trailing zeros past the second place."""
    if not nanos:
        return _NOTHING
    with localcontext(EXACT):
        shortened = Decimal(nanos).scaleb(-9).normalize()
        exponent = shortened.as_tuple().exponent
        return shortened.quantize(Decimal("0.01")) if isinstance(exponent, int) and exponent > -2 else shortened


_NOTHING = Decimal("0.00")


def is_currency(code: str) -> bool:
    """Whether ISO 4217 has it, as money that people pay with."""
    return code in _CURRENCIES.split()


def minor_unit(currency: str) -> Decimal:
    """The currency's smallest coin: 0.01 for USD, 1 for JPY, 0.001 for KWD (ISO 4217)."""
    return Decimal((0, (1,), -_MINOR_DIGITS.get(currency, 2)))


def round_minor(amount: Decimal, currency: str) -> Decimal:
    """Rounded half up to the currency's minor unit: once per invoice line, never before."""
    with localcontext(EXACT):
        return amount.quantize(minor_unit(currency), ROUND_HALF_UP) + 0  # no -0.00


def split(total: Decimal, weights: Sequence[int], currency: str) -> list[Decimal]:
    """``total`` (whole minor units) shared out by weight with the largest remainder: the parts add up to it exactly.

    A negative total is shared out as its positive one, so that a credit mirrors its charge.
    """
    coins, whole = _coins(total, currency), sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("split: weights must be non-negative and not all zero")
    shares = [divmod(abs(coins) * weight, whole) for weight in weights]
    left = abs(coins) - sum(share for share, _ in shares)
    by_remainder = sorted(range(len(weights)), key=lambda i: (-shares[i][1], i))
    extra = set(by_remainder[:left])
    with localcontext(EXACT):
        unit = minor_unit(currency).copy_sign(total)
        return [(share + (i in extra)) * unit for i, (share, _) in enumerate(shares)]


def _coins(total: Decimal, currency: str) -> int:
    with localcontext(EXACT):
        coins = total / minor_unit(currency)
        if coins != coins.to_integral_value():
            raise ValueError(f"split: {total} is not a whole number of {currency} minor units; round it first")
        return int(coins)
