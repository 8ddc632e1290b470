"""The layout of add-ons: as a plans file sells them, and as a stored plan holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from mm_metering.core.addons import refusal
from mm_metering.core.catalogue import Addon, HeldAddon, Limit, Meter, Plan
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import Window
from mm_metering.core.schema import (
    METER_NAMES,
    NAMES,
    NANO_PLACES,
    Field,
    Given,
    Place,
    Shape,
    either,
    listing,
    money,
    shown,
    table,
    text,
    unknown,
    whole,
)

Find: TypeAlias = Callable[[str, Given, Place], Meter]

_COUNT, _MONEY = whole(least=1), money(NANO_PLACES)
_EVERY = (Window.DAY, Window.MONTH)
"""What a plain number raises; a burst rate is raised only where it is named."""

_UNITS = Shape(lambda value, at: value, {"anyOf": [_COUNT.schema, *_MONEY.schema["anyOf"]]})
_BY_WINDOW = table(
    {
        window.value: Field(_UNITS, f"Added to the limit per {window}.")
        for window in Window
        if window is not Window.NONE
    },
    least="write { day = 5_000 }",
)
_RAISES = table({}, keys=METER_NAMES, rest=either(_BY_WINDOW, _UNITS))
_PRICE = Field(money(), "What one costs in a month.", 'write price = "20.00", or "0.00" for one that is free')
_QUOTAS = Field(
    _RAISES, "By meter, what one adds to the limits per day, per month or of a level; or a table by window."
)

ADDONS = table(
    {},
    keys=NAMES,
    rest=table(
        {
            "price": _PRICE,
            "plans": Field(
                listing(text(), least="leave it out to sell it with every plan that it fits"),
                "The plans with which it is sold; default every plan that has limits for it to raise.",
            ),
            "quotas": _QUOTAS,
        }
    ),
)
HELD = table(
    {}, keys=NAMES, rest=table({"quantity": Field(_COUNT, "How many.", "write 1"), "price": _PRICE, "quotas": _QUOTAS})
)


def read_addons(given: Mapping[str, Given], plans: Mapping[str, Plan], find: Find, at: Place) -> dict[str, Addon]:
    """The add-ons that are sold. CatalogueError for a plan that there is not, or that has nothing to raise."""
    found = {}
    for name, entry in given.items():
        quotas = _quotas(entry.get("quotas", {}), find, at / name / "quotas")
        addon = found[name] = Addon(name, entry["price"], entry.get("plans"), quotas)
        _check_plans(addon, plans, at / name)
    return found


def read_held(given: Mapping[str, Given], at: Place) -> dict[str, HeldAddon]:
    """Those of a stored plan. It needs no catalogue: a number is of a level, and what is quoted is money."""
    return {
        name: HeldAddon(
            entry["quantity"], entry["price"], _quotas(entry.get("quotas", {}), _stored_meter, at / name / "quotas")
        )
        for name, entry in given.items()
    }


def _check_plans(addon: Addon, plans: Mapping[str, Plan], at: Place) -> None:
    for index, name in enumerate(addon.plans or ()):
        if name not in plans:
            raise (at / "plans" / index).wrong(unknown("plan", name, plans))
        if why := refusal(addon, plans[name]):
            raise (at / "plans" / index).wrong(f"{why}; leave {name} out, or limit that there")
    reasons = [refusal(addon, plan) for plan in plans.values()]
    if all(reasons):
        raise (at / "quotas").wrong(f"no plan has these limits ({reasons[0]}); limit them in one")


def _quotas(given: Mapping[str, Any], find: Find, at: Place) -> Mapping[str, tuple[Limit, ...]]:
    return MappingProxyType({name: tuple(_raises(name, value, find, at)) for name, value in given.items()})


def _raises(name: str, value: Any, find: Find, at: Place) -> list[Limit]:
    meter, here = find(name, {"limit": value}, at), at / name
    by_window = None
    if isinstance(value, Mapping):  # in the order of windows, so that equal ones are equal however they are written
        by_window = {window: value[window] for window in Window if window in value}
    if meter.aggregation == "level":
        if by_window is not None:
            raise here.wrong(f"{name} is a level and has no window; write {name} = 5")
        by_window = {Window.NONE: value}
    return [
        Limit(name, window, _units(meter, units, here), unit=meter.unit)
        for window, units in (by_window or dict.fromkeys(_EVERY, value)).items()
    ]


def _units(meter: Meter, value: object, at: Place) -> int:
    if meter.unit == "count":
        return _COUNT.read(value, at)
    if not (nanos := to_nanos(_MONEY.read(value, at))):
        raise at.wrong(f"{shown(value)} adds nothing; write more than 0.00")
    return nanos


def _stored_meter(name: str, given: Given, at: Place) -> Meter:
    value = given["limit"]
    units = value.values() if isinstance(value, Mapping) else (value,)
    is_money = any(isinstance(each, str) for each in units)
    return Meter(
        name,
        aggregation="sum" if isinstance(value, Mapping) else "level",
        unit="money" if is_money else "count",
    )
