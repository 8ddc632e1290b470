"""How a plans file says a price that is not simply one per unit: its shapes, and the rules between tiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import pairwise

from mm_metering.core.pricing import Flat, Graduated, Package, Scheme, Tier, Volume
from mm_metering.core.schema import Field, Given, Place, Shape, in_words, money, table, unknown, whole


def _read_tiers(value: object, at: Place) -> tuple[Tier, ...]:
    """Tiers that rise, each beginning where the one before ends, the last without an end."""
    if not isinstance(value, list | tuple) or not value:
        raise at.wrong(f"expected a list of tiers such as {_SOME_TIERS}, got {in_words(value)}")
    tiers = [_tier(_TIER.read(each, at / index)) for index, each in enumerate(value)]
    for index, (tier, following) in enumerate(pairwise(tiers)):
        if tier.up_to is None:
            raise (at / index).wrong("up_to is missing; only the last tier goes without, and bills all further units")
        if following.up_to is not None and following.up_to <= tier.up_to:
            raise (at / (index + 1) / "up_to").wrong(
                f"{following.up_to} is not past {tier.up_to}, where the tier before ends and this one begins; "
                "write rising numbers"
            )
    if tiers[-1].up_to is not None:
        raise (at / (len(tiers) - 1)).wrong(
            f"units past {tiers[-1].up_to} have no price; leave up_to out of the last tier, or add one without it"
        )
    return tuple(tiers)


def _tier(given: Given) -> Tier:
    return Tier(given.get("up_to"), given["unit_price"], given.get("flat", Decimal(0)))


def _read_price(value: object, at: Place) -> Scheme:
    if not isinstance(value, Mapping) or not value:
        raise at.wrong(
            f"expected a table such as {_SOME_PRICE}, got {in_words(value)}; for one price per unit write unit_price"
        )
    kinds = [kind for kind in _SCHEMES if kind in value]
    if not kinds:
        raise at.wrong(unknown("price", next(iter(value), ""), _SCHEMES))
    if len(kinds) > 1:
        raise at.wrong(f"{' and '.join(kinds)} are {len(kinds)} prices; keep one", key=kinds[1])
    shape, make = _SCHEMES[kinds[0]]
    return make(shape.read(value, at))


_SOME_TIERS = '[{ up_to = 1_000, unit_price = "0.01" }, { unit_price = "0.008" }]'
_SOME_PRICE = '{ package = 1_000, unit_price = "5.00" }'
_TIER = table(
    {
        "up_to": Field(whole(least=1), "The last unit of the tier; the last tier has none."),
        "unit_price": Field(money(), "What each of its units costs.", 'write unit_price = "0.01", or "0.00"'),
        "flat": Field(money(), "Added once when a unit falls into the tier."),
    }
)
_TIERS = Shape(_read_tiers, {"type": "array", "items": _TIER.schema, "minItems": 1})
_SCHEMES: dict[str, tuple[Shape[Given], Callable[[Given], Scheme]]] = {
    "graduated": (
        table({"graduated": Field(_TIERS, "Each unit costs what its own tier says.", f"write {_SOME_TIERS}")}),
        lambda given: Graduated(given["graduated"]),
    ),
    "volume": (
        table({"volume": Field(_TIERS, "All units cost what the last one's tier says.", f"write {_SOME_TIERS}")}),
        lambda given: Volume(given["volume"]),
    ),
    "package": (
        table(
            {
                "package": Field(whole(least=1), "So many units are one package.", f"write {_SOME_PRICE}"),
                "unit_price": Field(money(), "What each begun package costs.", f"write {_SOME_PRICE}"),
            }
        ),
        lambda given: Package(given["package"], given["unit_price"]),
    ),
    "flat": (
        table({"flat": Field(money(), "Once, however many units there are.", 'write flat = "10.00"')}),
        lambda given: Flat(given["flat"]),
    ),
}
"""By the key that tells them apart."""
PRICE = Shape(_read_price, {"anyOf": [shape.schema for shape, _ in _SCHEMES.values()]})
