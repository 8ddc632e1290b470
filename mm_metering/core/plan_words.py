"""How a plan's limits and their changes are said, in lines for people. Numbers stand as a plans file writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mm_metering.core.addons import terms_words
from mm_metering.core.catalogue import UNLIMITED, Addon
from mm_metering.core.periods import Window
from mm_metering.core.plan_changes import Form, Holding, LimitChange, PlanDifference, ValueChange

NO_LIMIT: Final = "no limit"
MAX_CHARS: Final = 160


def headline(difference: PlanDifference) -> str:
    """ "pro: price 99.00 -> 119.00; api_calls per day 10000 -> 8000"."""
    said = {"new": "new", "gone": "gone from the file", "changed": "; ".join(changes(difference))}
    return f"{difference.plan}: {said[difference.kind]}"


def shortened(line: str) -> str:
    """At most MAX_CHARS of a line, for an error message."""
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 1]}…"


def changes(difference: PlanDifference) -> Iterator[str]:
    """Each value that differs."""
    yield from (_value_words(each) for each in difference.values)
    for limit in difference.limits:
        yield from _limit_words(limit)


def limit_name(meter: str, window: Window) -> str:
    """ "api_calls per day"; a level is its meter alone."""
    return meter if window is Window.NONE else f"{meter} per {window}"


def past_words(form: Form) -> str:
    """What happens past a limit: "refused", "0.01 each", "0.01 each up to 20.00"."""
    if form["limit"] == UNLIMITED:
        return "nothing"
    if form["then"] == "block":
        return "not in the plan" if form["limit"] == 0 else "refused"
    cap = form["then"]["charge_up_to"] if isinstance(form["then"], Mapping) else None
    return _price_words(form) + ("" if cap is None else f" up to {cap}, then refused")


def holding_words(each: Holding) -> str:
    """ "add-on calls: 3 tenants have 5, 20.00 each, +50 api_calls per day"."""
    who = "1 tenant has" if each.tenants == 1 else f"{each.tenants:,} tenants have"
    return f"add-on {each.addon}: {who} {each.quantity:,}, {each.terms}"


def moved_words(each: Holding, sold: Addon | None) -> str | None:
    """The same, and what differs in what the file sells under that name; None where nothing does."""
    terms = terms_words(sold) if sold else None
    if terms == each.terms:
        return None
    now = "gone from the file: they keep it on their plan" if terms is None else f"in the file {terms}"
    return f"{holding_words(each)}; {now}"


def _value_words(change: ValueChange) -> str:
    return f"{change.name} {_shown(change.before)} -> {_shown(change.after)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _limit_words(change: LimitChange) -> Iterator[str]:
    name, before, after = limit_name(change.meter, change.window), change.before, change.after
    if before is None or after is None or before.get("unit") != after.get("unit"):
        yield f"{name}: {_whole(before)} -> {_whole(after)}"
        return
    if before["limit"] != after["limit"]:
        yield f"{name} {before['limit']} -> {after['limit']}"
    past = past_words(before), past_words(after)
    if past[0] != past[1]:
        yield f"{name} past it: {past[0]} -> {past[1]}"


def _whole(form: Form | None) -> str:
    if form is None:
        return NO_LIMIT
    if form["limit"] == UNLIMITED:
        return UNLIMITED
    unit = " of money" if form.get("unit") == "money" else ""
    return f"{form['limit']}{unit}, past it {past_words(form)}"


def _price_words(form: Form) -> str:
    each = form.get("unit_price")
    if isinstance(each, Mapping):
        return ", ".join(f"{resource} {price} each" for resource, price in each.items())
    if each is not None:
        return f"{each} each"
    return _scheme_words(form["price"])


def _scheme_words(price: Mapping[str, Any]) -> str:
    match price:
        case {"graduated": tiers}:
            return ", then ".join(map(_tier_words, tiers))
        case {"volume": tiers}:
            return f"all units at {', or '.join(map(_tier_words, tiers))}"
        case {"package": units, "unit_price": each}:
            return f"{each} for each {units}"
    return f"{price['flat']} flat"


def _tier_words(tier: Mapping[str, Any]) -> str:
    flat = f" + {tier['flat']}" if "flat" in tier else ""
    end = f" up to {tier['up_to']}" if "up_to" in tier else ""
    return f"{tier['unit_price']} each{flat}{end}"
