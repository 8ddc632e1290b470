"""A month's bill by brute force: one unit after the other, in order of time. It shares no code with what it judges.

Plans are data in the form of a plans file; money is in Fractions, rounded once per line. What it takes from the rules:
a local day begins when its date is first shown; usage before the sign-up is the first plan's; where prices differ by
resource, the dearest resource of a day and plan comes first; a level counts from the local day of the sign-up on.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
Line = tuple[str, str | None, str, Fraction, Fraction]
"""Kind, meter, resource ("" for all), quantity, and amount in whole cents."""
Units = defaultdict[tuple[str, str, str], Fraction]
"""Billed units by meter, resource and price (as JSON)."""


class Event(NamedTuple):
    """``sets``: the ``units`` are a level's value, not a change."""

    at: datetime
    meter: str
    resource: str
    units: int
    sets: bool = False


class Month(NamedTuple):
    """A tenant's month. ``timeline``: the sign-up with its plan, then the changes."""

    zone: str
    year: int
    month: int
    timeline: Sequence[tuple[datetime, str]]
    plans: dict[str, Any]

    def span(self) -> tuple[datetime, datetime]:
        starts = days(self.zone, self.year, self.month)
        return starts[0][0], starts[-1][0]

    def day(self, moment: datetime) -> tuple[datetime, date]:
        return max(each for each in days(self.zone, self.year, self.month) if each[0] <= moment)

    def segment(self, moment: datetime) -> int:
        return max((n for n, (since, _) in enumerate(self.timeline) if since <= moment), default=0)

    def limits(self, meter: str, segment: int) -> list[Any]:
        plan = self.plans[self.timeline[segment][1]]
        found = plan["quotas"].get(meter, [])
        return [raised(meter, limit, plan) for limit in (found if isinstance(found, list) else [found])]


def raised(meter: str, limit: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """A limit with what the plan's add-ons add to it: units by window, or to a level."""
    value = limit["limit"]
    for addon in plan.get("addons", {}).values():
        units = addon["quotas"].get(meter, 0)
        more = units.get(limit.get("per"), 0) if isinstance(units, dict) else units
        value = value if value == "unlimited" else value + addon["quantity"] * more
    return limit | {"limit": value}


@lru_cache(None)
def days(zone: str, year: int, month: int) -> list[tuple[datetime, date]]:
    """The month's days and the next one's first, each with the first minute at which its date or a later is shown."""
    found: list[tuple[datetime, date]] = []
    day, tz = date(year, month, 1), ZoneInfo(zone)
    while not found or found[-1][1].month == month:
        moment = datetime.combine(day, time(), tz).astimezone(UTC) - 150 * MINUTE
        while moment.astimezone(tz).date() < day:
            moment += MINUTE
        found, day = [*found, (moment, day)], day + timedelta(days=1)
    return found


def invoice(month: Month, events: Sequence[Event], levels: Sequence[Event]) -> list[Line]:
    billed = [*fees(month)]
    for (meter, resource, price), units in (usage(month, events) | stood(month, levels)).items():
        if units:
            billed.append(("overage", meter, resource, units, half_up(cost(json.loads(price), units), 2)))
    short = half_up(minimum(month), 2) - sum(amount for *_, amount in billed)
    return [*billed, ("commitment", None, "", Fraction(1), short)] if short > 0 else billed


def fees(month: Month) -> Iterator[Line]:
    yield from charged(month, {name: (1, Fraction(plan["price"])) for name, plan in month.plans.items()}, "base")
    held = {name: plan.get("addons", {}) for name, plan in month.plans.items()}
    for addon in {addon for each in held.values() for addon in each}:
        terms = {name: each.get(addon, {"quantity": 0, "price": "0"}) for name, each in held.items()}
        prices = {name: (each["quantity"], Fraction(each["price"])) for name, each in terms.items()}
        yield from charged(month, {name: each if each[1] else (0, each[1]) for name, each in prices.items()}, "addon")


def charged(month: Month, prices: dict[str, tuple[int, Fraction]], kind: str) -> Iterator[Line]:
    """A fee by plan, as a number of units and the price of each: given back and charged anew where either changes."""
    (start, end), old = month.span(), None
    timeline = {since.replace(microsecond=0): prices[plan] for since, plan in month.timeline}
    for since, new in sorted(timeline.items()):
        if since >= end or any(since < other <= start for other in timeline):
            continue
        share = Fraction((end - max(since, start)) // SECOND, (end - start) // SECOND)
        lines = [] if old == new else [(kind, new)] if old is None else [("", (-old[0], old[1])), ("", new)]
        for of, (units, price) in lines:
            if units * price or of == "base":
                yield (
                    of or {"base": "proration"}.get(kind, kind),
                    None,
                    "",
                    Fraction(1),
                    half_up(units * price * share, 2),
                )
        old = new


def minimum(month: Month) -> Fraction:
    """Walked from change to change; a change belongs to the second it lies in."""
    start, end = month.span()
    least = {since.replace(microsecond=0): month.plans[plan].get("minimum", "0") for since, plan in month.timeline}
    total = Fraction(0)
    for since, until in pairwise([*sorted(least), max(end, *least)]):
        seconds = (min(until, end) - max(since, start)) // SECOND
        total += Fraction(least[since]) * max(0, seconds)
    return total / ((end - start) // SECOND)


def usage(month: Month, events: Sequence[Event]) -> Units:
    billed, counted, spent = Units(Fraction), Counter[object](), defaultdict[str, Fraction](Fraction)

    def order(event: Event) -> tuple[datetime, int, float, str]:
        segment = month.segment(event.at)
        prices = [price_of(limit, event.resource) for limit in month.limits(event.meter, segment)]
        dearest = max((float(price) for price in prices if isinstance(price, str)), default=0.0)
        return month.day(event.at)[0], segment, -dearest, event.resource

    start, end = month.span()
    for at, meter, resource, units, _ in sorted((each for each in events if start <= each.at < end), key=order):
        limits = [limit for limit in month.limits(meter, month.segment(at)) if limit["per"] != "second"]
        windows = {"day": (meter, month.day(at)), "month": (meter, None)}
        for _ in range(units):
            counted.update(windows.values())
            past = [each for each in limits if each["limit"] != "unlimited"]
            past = [each for each in past if counted[windows[each["per"]]] > each["limit"]]
            refused = any(each.get("then", "block") == "block" for each in past)
            for limit in past:
                price = price_of(limit, resource)
                if price and isinstance(limit["then"], dict):
                    spent[meter] += Fraction(price)
                    refused = refused or spent[meter] > Fraction(limit["then"]["charge_up_to"])
                own = resource if isinstance(limit.get("unit_price"), dict) else ""
                billed[meter, own, json.dumps(price)] += bool(price) and not refused
    return billed


def price_of(limit: dict[str, Any], resource: str) -> Any:
    unit = limit.get("unit_price")
    return limit.get("price") or (unit.get(resource) if isinstance(unit, dict) else unit)


def stood(month: Month, events: Sequence[Event]) -> Units:
    """A level's mean past the allowance, plan by plan, walked from change to change."""
    billed, (start, end) = Units(Fraction), month.span()
    whole, start = end - start, max(start, month.day(max(start, month.timeline[0][0]))[0])
    stops = {start, end, *(since for since, _ in month.timeline), *(event.at for event in events)}
    for meter in {event.meter for event in events}:
        weighted, lasted = Counter[int](), Counter[int]()
        for moment, following in pairwise(sorted(stop for stop in stops if start <= stop <= end)):
            seconds = (end - moment) // SECOND - (end - following) // SECOND
            lasted[month.segment(moment)] += seconds
            weighted[month.segment(moment)] += level(meter, events, moment) * seconds
        for segment in lasted:
            for limit in filter(lambda each: price_of(each, ""), month.limits(meter, segment)):
                over = max(0, weighted[segment] - limit["limit"] * lasted[segment])
                billed[meter, "", json.dumps(price_of(limit, ""))] += half_up(Fraction(over, whole // SECOND), 6)
    return billed


def level(meter: str, events: Sequence[Event], until: datetime) -> int:
    values = Counter[str]()
    for event in sorted(event for event in events if event.meter == meter and event.at <= until):
        values[event.resource] = max(0, event.units if event.sets else values[event.resource] + event.units)
    return sum(values.values())


def cost(price: Any, quantity: Fraction) -> Fraction:
    if isinstance(price, str):
        return Fraction(price) * quantity
    if "package" in price:
        return Fraction(price["unit_price"]) * ceil(quantity / int(price["package"]))
    total, after = Fraction(str(price.get("flat", 0))), Fraction(0)
    for tier in price.get("graduated") or price.get("volume", []):
        end, each, flat = map(Fraction, (tier.get("up_to", 2**60), tier["unit_price"], tier.get("flat", 0)))
        if "graduated" in price and quantity > after:
            total += (min(quantity, end) - after) * each + flat
        elif "volume" in price and after < quantity <= end:
            total = quantity * each + flat
        after = end
    return total


def half_up(amount: Fraction, places: int) -> Fraction:
    """Halves go away from zero."""
    return Fraction(floor(abs(amount) * 10**places + Fraction(1, 2)), 10**places) * (1 if amount >= 0 else -1)
