"""How units are priced: a price as a value, and what a quantity costs at it. Exact; nothing is rounded here.

A quantity is what a line bills in its month, past the allowance: whole units, or a Decimal for a level's mean. Tiers
are half-open on it, (after, up_to], so that 1000.5 units fall into no gap between 1,000 and 1,001. No units cost
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any, ClassVar, TypeAlias, assert_never

from pydantic import BaseModel, ConfigDict

from mm_metering.core.money import EXACT, Money, plain
from mm_metering.core.schema import money_text

_ZERO = Decimal(0)

UnitPrice: TypeAlias = Decimal | Mapping[str, Decimal]
"""One price per unit, or a price per resource (per model)."""


@dataclass(frozen=True, slots=True)
class Tier:
    """The units past the tier before it, up to and including ``up_to``; None for all further ones. ``flat`` is added
    once when a unit falls into it."""

    up_to: int | None
    unit_price: Decimal
    flat: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit costs what its own tier says."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """All units cost what the tier says in which the last one lies. More units may cost less."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """Each begun package of so many ``units`` costs ``unit_price``."""

    units: int
    unit_price: Decimal


@dataclass(frozen=True, slots=True)
class Flat:
    """``amount`` once, however many units there are."""

    amount: Decimal


Scheme: TypeAlias = Graduated | Volume | Package | Flat
"""Every price that is not simply one per unit."""
Price: TypeAlias = Decimal | Scheme
"""What the units of one line cost. A Decimal is the price of each."""


class TierUse(BaseModel):
    """The units of a line that one tier bills: those past ``after`` and up to ``up_to`` (None: all further ones), at
    ``unit_price`` each plus ``flat`` once; at a volume price, all of the line's. ``amount`` is exact.

    With ``package``, ``unit_price`` is that of each begun package of so many units.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)

    after: int
    up_to: int | None
    quantity: int | Decimal
    unit_price: Money
    flat: Money
    amount: Money
    package: int | None = None


def cost(price: Price, quantity: int | Decimal) -> Decimal:
    """The exact cost, not rounded."""
    with localcontext(EXACT):
        if isinstance(price, Decimal):
            return price * quantity
        return sum((tier.amount for tier in tier_uses(price, quantity)), _ZERO)


def tier_uses(price: Price, quantity: int | Decimal) -> tuple[TierUse, ...]:
    """The tiers that bill something, from the first unit on; none for a price per unit, and for no units."""
    if isinstance(price, Decimal) or quantity <= 0:
        return ()
    with localcontext(EXACT):
        match price:
            case Graduated(tiers):
                reached = ((after, tier) for after, tier in _spans(tiers) if after < quantity)
                return tuple(
                    _use(after, tier, min(quantity, tier.up_to or quantity) - after) for after, tier in reached
                )
            case Volume(tiers):
                after, last = next(each for each in _spans(tiers) if quantity <= (each[1].up_to or quantity))
                return (_use(after, last, quantity),)
            case Package(units, unit_price):
                whole = _use(0, Tier(None, unit_price), quantity)
                return (whole.model_copy(update={"package": units, "amount": _packages(quantity, units) * unit_price}),)
            case Flat(amount):
                return (_use(0, Tier(None, _ZERO, amount), quantity),)
    assert_never(price)


def _spans(tiers: Sequence[Tier]) -> Iterator[tuple[int, Tier]]:
    """Each tier with where it begins."""
    after = 0
    for tier in tiers:
        yield after, tier
        after = tier.up_to or after


def _use(after: int, tier: Tier, quantity: int | Decimal) -> TierUse:
    return TierUse(
        after=after,
        up_to=tier.up_to,
        quantity=quantity,
        unit_price=tier.unit_price,
        flat=tier.flat,
        amount=quantity * tier.unit_price + tier.flat,
    )


def _packages(quantity: int | Decimal, units: int) -> int:
    with localcontext(EXACT):
        return int((Decimal(quantity) / units).to_integral_value(ROUND_CEILING))


# ---- as text and plain data ----


def price_form(price: Scheme) -> dict[str, Any]:
    """The price as a plans file says it, with money as text."""
    match price:
        case Graduated(tiers):
            return {"graduated": [_tier_form(tier) for tier in tiers]}
        case Volume(tiers):
            return {"volume": [_tier_form(tier) for tier in tiers]}
        case Package(units, unit_price):
            return {"package": units, "unit_price": money_text(unit_price)}
        case Flat(amount):
            return {"flat": money_text(amount)}
    assert_never(price)


def _tier_form(tier: Tier) -> dict[str, Any]:
    flat = {"flat": money_text(tier.flat)} if tier.flat else {}
    end = {} if tier.up_to is None else {"up_to": tier.up_to}
    return flat | {"unit_price": money_text(tier.unit_price)} | end


def price_text(price: Price) -> str:
    """Equal for equal prices, and for no others."""
    if isinstance(price, Decimal):
        with localcontext(EXACT):
            return plain(price.normalize())
    return json.dumps(price_form(price))


def price_words(price: Price, quantity: int | Decimal) -> str:
    """How the units of a line were priced: "0.01 each", or "1,000 at 0.01, then 500 at 0.008 + 5.00"."""
    uses = tier_uses(price, quantity)
    match price:
        case Graduated():
            return ", then ".join(f"{quantity_text(use.quantity)} at {_tier_words(use)}" for use in uses)
        case Volume():
            return f"all at {', '.join(map(_tier_words, uses))}"
        case Package(units, unit_price):
            packages = _packages(quantity, units)
            return f"{packages:,} package{'' if packages == 1 else 's'} of {units:,} at {plain(unit_price)}"
        case Flat(amount):
            return f"{plain(amount)} flat"
    return f"{plain(price)} each"


def _tier_words(use: TierUse) -> str:
    return plain(use.unit_price) + (f" + {plain(use.flat)}" if use.flat else "")


def quantity_text(quantity: int | Decimal) -> str:
    """1,500 or 1,000.5: without zeros at the end."""
    if isinstance(quantity, int):
        return f"{quantity:,}"
    with localcontext(EXACT):
        return f"{quantity.normalize():,f}"
