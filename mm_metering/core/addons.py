"""Add-ons: what a tenant buys beside its plan. Its own version of the plan is the plan with the limits raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from types import MappingProxyType

from mm_metering.core.catalogue import Addon, HeldAddon, Limit, Plan
from mm_metering.core.money import MAX_MONEY, from_nanos, plain, to_nanos
from mm_metering.core.periods import Window
from mm_metering.core.schema import MAX_COUNT, money_text
from mm_metering.errors import InvalidInput


def refusal(addon: Addon, plan: Plan) -> str | None:
    """Why the plan may not have the add-on: it is not among those named, or has nothing for it to raise."""
    if addon.plans is not None and plan.name not in addon.plans:
        return f"{addon.name} is for {', '.join(addon.plans)}, and not for {plan.name}"
    for meter, raises in addon.quotas.items():
        limited = {limit.window for limit in plan.quotas.get(meter, ())}
        if not any(each.window in limited for each in raises):
            return f"{plan.name} has no limit of {_named(meter, raises)}, so {addon.name} would raise nothing"
    return None


def _named(meter: str, raises: tuple[Limit, ...]) -> str:
    """ "api_calls per day or month"; a level is its meter alone."""
    windows = " or ".join(each.window for each in raises if each.window is not Window.NONE)
    return f"{meter} per {windows}" if windows else meter


def with_addon(plan: Plan, addon: Addon, quantity: int) -> Plan:
    """The plan with so many of the add-on, on its terms of now, in place of those that it has. InvalidInput where
    ``refusal`` says why not, and for more than a limit or a fee can be."""
    if quantity and (why := refusal(addon, plan)):
        raise InvalidInput("addon", why)
    rest = {name: held for name, held in plan.addons.items() if name != addon.name}
    if quantity:
        rest[addon.name] = HeldAddon(quantity, addon.price, addon.quotas)
    return plan if rest == plan.addons else raised(bare(plan), rest)


def without_addon(plan: Plan, name: str) -> Plan:
    """The plan without that add-on, whether or not it is still sold."""
    rest = {each: held for each, held in plan.addons.items() if each != name}
    return plan if rest == plan.addons else raised(bare(plan), rest)


def carried(plan: Plan, held: Mapping[str, HeldAddon], sold: Mapping[str, Addon]) -> Plan:
    """Another plan, with those of the add-ons that it may have, on the terms on which they are ``sold`` now."""
    kept = {
        name: HeldAddon(each.quantity, sold[name].price, sold[name].quotas)
        for name, each in held.items()
        if name in sold and refusal(sold[name], plan) is None
    }
    return raised(plan, kept) if kept else plan


def raised(plan: Plan, held: Mapping[str, HeldAddon]) -> Plan:
    """A plan that has none, with these add-ons. InvalidInput for more than a limit or a fee can be."""
    for name, each in held.items():
        plan = replace(plan, quotas=_moved(plan.quotas, each, each.quantity))
        _check(name, each, plan)
    return replace(plan, addons=MappingProxyType(dict(sorted(held.items()))))


def bare(plan: Plan) -> Plan:
    """The plan without add-ons: its limits as they are by themselves."""
    for each in plan.addons.values():
        plan = replace(plan, quotas=_moved(plan.quotas, each, -each.quantity))
    return replace(plan, addons=MappingProxyType({}))


def terms_words(sold: Addon | HeldAddon) -> str:
    """ "20.00 each, +50 api_calls per day or month, +3 users"."""
    raises = (_raise_words(meter, each) for meter, each in sorted(sold.quotas.items()))
    return ", ".join([f"{money_text(sold.price)} each", *(words for each in raises for words in each)])


def _raise_words(meter: str, raises: tuple[Limit, ...]) -> Iterator[str]:
    for units, same in groupby(raises, key=lambda each: each.maximum or 0):
        limits = tuple(same)
        shown = plain(from_nanos(units)) if limits[0].unit == "money" else str(units)
        yield f"+{shown} {_named(meter, limits)}"


def _moved(quotas: Mapping[str, tuple[Limit, ...]], held: HeldAddon, by: int) -> Mapping[str, tuple[Limit, ...]]:
    moved = {
        meter: tuple(_limit_moved(limit, held.quotas.get(meter, ()), by) for limit in limits)
        for meter, limits in quotas.items()
    }
    return MappingProxyType(moved)


def _limit_moved(limit: Limit, raises: tuple[Limit, ...], by: int) -> Limit:
    """Unlimited stays unlimited."""
    units = sum(each.maximum or 0 for each in raises if each.window is limit.window)
    return limit if limit.maximum is None or not units else replace(limit, maximum=limit.maximum + by * units)


def _check(name: str, held: HeldAddon, plan: Plan) -> None:
    if held.fee > MAX_MONEY:
        raise InvalidInput(
            "quantity", f"{held.quantity:,} x {name} cost {held.fee:,} a month; the largest amount is {MAX_MONEY:,}"
        )
    for meter in held.quotas:
        for limit in plan.quotas.get(meter, ()):
            is_money = limit.unit == "money"
            most, shown = (to_nanos(Decimal(MAX_MONEY)), MAX_MONEY) if is_money else (MAX_COUNT, MAX_COUNT)
            if limit.maximum is not None and limit.maximum > most:
                raise InvalidInput(
                    "quantity",
                    f"{held.quantity:,} x {name} raise {meter} past {shown:,}, the largest limit; take fewer",
                )
