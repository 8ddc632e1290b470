"""The file of a scenario: read with the place of whatever is wrong in it, and written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.events import aware
from mm_metering.core.money import exact, plain
from mm_metering.core.periods import day_start, parse_day, zone
from mm_metering.core.scenario import (
    EVENTS,
    MAX_MONTHS,
    MAX_TENANTS,
    MOST_A_DAY,
    NOON,
    Group,
    Moment,
    Scenario,
    Step,
    Usage,
)
from mm_metering.core.schema import Field, Given, Keys, Place, Shape, choice, either, listing, shown, table, text, whole
from mm_metering.core.schema import unknown as unknown_name
from mm_metering.errors import InvalidInput


def read_scenario(tree: object, at: Place) -> Scenario:
    """CatalogueError for the first thing wrong, but what only the catalogue knows (``check``)."""
    given = _SCENARIO.read(tree, at)
    timezone = given.get("timezone", "UTC")
    groups = tuple(_group(name, entry, timezone, at / "tenants" / name) for name, entry in given["tenants"].items())
    scenario = Scenario(
        catalogue=given["catalogue"],
        start=given["start"],
        months=given["months"],
        groups=groups,
        seed=given.get("seed", 1),
        expect=tuple((month, name, each) for month, by in given.get("expect", {}).items() for name, each in by.items()),
    )
    if scenario.start.day != 1:
        raise (at / "start").wrong(f"{scenario.start} is not the first day of a month")
    if scenario.months > MAX_MONTHS:
        raise (at / "months").wrong(f"{scenario.months:,} months are too many; at most {MAX_MONTHS}")
    if sum(group.count for group in groups) > MAX_TENANTS:
        raise (at / "tenants").wrong(f"there are more than {MAX_TENANTS:,} tenants; simulate a part of them")
    names = Counter(tenant for group in groups for tenant in group.tenants)
    for name, times in names.items():
        if times > 1:
            raise (at / "tenants").wrong(f"two of them make a tenant {name}; name one otherwise")
    for group in groups:
        _check_moments(scenario, group, at / "tenants" / group.name)
    for month, name, _ in scenario.expect:
        if month not in scenario.periods:
            raise (at / "expect" / month).wrong(f"is not one of the months from {scenario.periods[0]} on")
        if name not in given["tenants"]:
            raise (at / "expect" / month / name).wrong(unknown_name("tenant", name, given["tenants"]))
    return scenario


def _check_moments(scenario: Scenario, group: Group, at: Place) -> None:
    """What lies before the sign-up or after the last month would never happen."""
    begins, ends = scenario.begins(group), scenario.ends(group)
    for number, step in enumerate(group.steps):
        if not begins <= step.at <= ends:
            raise (at / "changes" / number).wrong(f"{_instant(step.at)} {_outside(begins, ends)}")
    for usage in group.usage:
        for moment in usage.on:
            last = moment if isinstance(moment, datetime) else day_start(moment, zone(group.timezone)) + NOON
            if not begins <= last < ends:
                raise (at / "usage" / usage.meter).wrong(f"{_moment_text(moment)} {_outside(begins, ends)}")


def _outside(begins: datetime, ends: datetime) -> str:
    return f"is not from the sign-up, {_instant(begins)}, to the end of the last month, {_instant(ends)}"


def _moment_text(moment: Moment) -> str:
    return _instant(moment) if isinstance(moment, datetime) else str(moment)


def check(scenario: Scenario, catalogue: Catalogue, at: Place) -> None:
    """CatalogueError for a plan or a meter that the catalogue does not have."""
    for group in scenario.groups:
        here = at / "tenants" / group.name
        for plan in (group.plan, *(step.plan for step in group.steps if step.plan)):
            if plan not in catalogue.plans:
                raise here.wrong(unknown_name("plan", plan, catalogue.plans))
        for addon in (step.addon for step in group.steps if step.addon):
            if addon not in catalogue.addons:
                raise here.wrong(unknown_name("addon", addon, catalogue.addons))
        for usage in group.usage:
            meter = catalogue.meters.get(usage.meter)
            if meter is None:
                raise (here / "usage" / usage.meter).wrong(unknown_name("meter", usage.meter, catalogue.meters))
            if meter.unit == "money":
                raise (here / "usage").wrong(
                    f"{usage.meter} is money, which calls cost; name the calls", key=usage.meter
                )
            if usage.is_level != (meter.aggregation == "level"):
                way = "write { level = 5 }" if meter.aggregation == "level" else "write units a day, such as 500"
                raise (here / "usage" / usage.meter).wrong(f"is a {meter.aggregation}; {way}")


def _group(name: str, given: Given, timezone: str, at: Place) -> Group:
    usage: list[Usage] = []
    for meter, entry in given.get("usage", {}).items():
        usage += [_usage(meter, each, at / "usage" / meter) for each in (entry if isinstance(entry, list) else [entry])]
    return Group(
        name=name,
        plan=given["plan"],
        timezone=given.get("timezone", timezone),
        count=given.get("count", 1),
        subscribed_at=given.get("subscribed_at"),
        trial_days=given.get("trial_days", 0),
        anchor=given.get("anchor", "calendar"),
        usage=tuple(usage),
        steps=tuple(_step(each, at / "changes" / number) for number, each in enumerate(given.get("changes", ()))),
    )


def _usage(meter: str, given: int | Given, at: Place) -> Usage:
    if isinstance(given, int):
        return Usage(meter, given)
    how = [key for key in ("mean", "amount", "level") if key in given]
    if len(how) != 1:
        raise at.wrong("name one of mean (units a day), amount (units at each moment of on), or level")
    if how == ["amount"] and "on" not in given:
        raise at.wrong('amount needs on, such as on = ["2024-01-31"]; write mean for every day')
    shape = {key: given[key] for key in ("resource", "spread", "growth", "weekend", "on") if key in given}
    return Usage(meter, given[how[0]], is_level=how == ["level"], **shape)


def _step(given: Given, at: Place) -> Step:
    what = [key for key in ("plan", "do", "timezone", "addon") if key in given]
    if len(what) != 1:
        raise at.wrong(f"name one of plan, timezone, addon, or do ({', '.join(EVENTS)})")
    if "quantity" in given and what != ["addon"]:
        raise at.wrong("quantity is that of an addon; name it")
    if "since" in given and what != ["plan"]:
        raise at.wrong("since is when a plan holds from; name the plan")
    return Step(
        given["at"],
        plan=given.get("plan"),
        event=given.get("do"),
        timezone=given.get("timezone"),
        since=given.get("since"),
        addon=given.get("addon"),
        quantity=given.get("quantity", 1),
    )


def _parsed(read: Callable[[object], Any], what: str) -> Shape[Any]:
    """A value that ``read`` understands; TOML has dates and times of its own."""

    def parse(value: object, at: Place) -> Any:
        try:
            return read(value)
        except InvalidInput as error:
            raise at.wrong(f"{shown(value)} is not {what}") from error

    return Shape(parse, {"type": "string"})


def _moment(value: object) -> Moment:
    if isinstance(value, datetime) or (isinstance(value, str) and "T" in value):
        return aware(value, "on")
    return _day(value)


def _day(value: object) -> date:
    if not isinstance(value, date | str):
        raise InvalidInput("day", "is neither a date nor text")
    return parse_day(value, "day")


def _zone_name(value: object) -> str:
    zone(str(value))
    return str(value)


def _list_of(item: Shape[Any]) -> Shape[list[Any]]:
    def read(value: object, at: Place) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise at.wrong(f"expected a list, got {shown(value)}")
        return [item.read(each, at / number) for number, each in enumerate(value)]

    return Shape(read, {"type": "array", "items": item.schema})


def _as_it_is(value: object, at: Place) -> object:
    return value


def _fraction(least: int, most: int) -> Shape[Decimal]:
    def read(value: object, at: Place) -> Decimal:
        try:
            found = exact(getattr(value, "written", value), "value")  # a float of the file, as it was written
        except InvalidInput:
            found = None
        if found is None or not least <= found <= most:
            raise at.wrong(f'{shown(value)} is not a number from {least} to {most}, as a string such as "0.3"')
        return found

    return Shape(read, {"type": "string"})


_DAY = _parsed(_day, 'a day such as "2024-01-01"')
_INSTANT = _parsed(lambda value: aware(value, "at"), 'an instant such as "2024-01-16T12:00:00Z"')
_MOMENT = _parsed(_moment, 'a day such as "2024-01-16", or an instant such as "2024-01-16T12:00:00Z"')
_ZONE = _parsed(_zone_name, "an IANA time zone such as Europe/Berlin")
_AMOUNT = _parsed(lambda value: exact(value, "amount"), 'money such as "109.00"')
_NAMES = Keys(r"[A-Za-z0-9_.-]{1,64}", "a name of 1 to 64 letters, digits, _, . and -")
_MONTHS = Keys(r"[0-9]{4}-[0-9]{2}", 'a month such as "2024-01"')
_TEXT, _COUNT = text(), whole()


def _read_units(value: object, at: Place) -> int:
    units = _COUNT.read(value, at)
    if units > MOST_A_DAY:
        raise at.wrong(f"{units:,} is more than {MOST_A_DAY:,}, the most that is simulated in a day")
    return units


_UNITS = Shape(_read_units, {"type": "integer", "minimum": 0, "maximum": MOST_A_DAY})
_WHO = "write [tenants.acme]"
_TOTALS = table({}, keys=_MONTHS, rest=table({}, keys=_NAMES, rest=_AMOUNT))


def _read_anchor(value: object, at: Place) -> str | int:
    return _COUNT.read(value, at) if isinstance(value, int) else choice("calendar", "anniversary").read(value, at)


_ANCHOR = Shape(_read_anchor, {})
_USE = table(
    {
        "mean": Field(_UNITS, "Units a day."),
        "amount": Field(_UNITS, "Units at each moment of on."),
        "level": Field(_UNITS, "What a level stands at."),
        "spread": Field(_fraction(0, 1), "How far a day may lie from the mean, as a part of it."),
        "growth": Field(_fraction(-1, 10), "How much more each month is than the one before."),
        "weekend": Field(_fraction(0, 100), "What Saturdays and Sundays are multiplied by."),
        "on": Field(listing(_MOMENT, least="name a day"), "Days or instants, instead of every day."),
        "resource": Field(_TEXT, "What is used, such as a model."),
    }
)
_USES = either(_USE, _UNITS)


def _read_uses(value: object, at: Place) -> Any:
    if isinstance(value, list):
        return [_USES.read(each, at / number) for number, each in enumerate(value)]
    return _USES.read(value, at)


_GROUP = table(
    {
        "plan": Field(_TEXT, "The plan they sign up for.", 'write plan = "pro"'),
        "timezone": Field(_ZONE, "Their zone."),
        "count": Field(whole(least=1), "How many tenants do the same; default 1."),
        "subscribed_at": Field(_INSTANT, "The sign-up; default the start."),
        "trial_days": Field(_COUNT, "Days of trial."),
        "anchor": Field(_ANCHOR, "On which day months begin: calendar, anniversary or 1 to 31."),
        "usage": Field(table({}, keys=_NAMES, rest=Shape(_read_uses, {})), "By meter."),
        "changes": Field(
            _list_of(
                table(
                    {
                        "at": Field(_INSTANT, "When.", 'write at = "2024-01-16T12:00:00Z"'),
                        "plan": Field(_TEXT, "Another plan."),
                        "since": Field(_INSTANT, "From when the plan holds, if it is backdated."),
                        "do": Field(choice(*EVENTS), "What happens to the subscription."),
                        "timezone": Field(_ZONE, "Another zone."),
                        "addon": Field(_TEXT, "An add-on."),
                        "quantity": Field(_COUNT, "How many of it; default 1, and 0 takes it away."),
                    }
                )
            ),
            "What becomes of the subscription.",
        ),
    }
)
_SCENARIO = table(
    {
        "catalogue": Field(
            either(Shape(_as_it_is, {}), _TEXT), "The plans.", 'write catalogue = "plans.toml", or "seed"'
        ),
        "start": Field(_DAY, "The first day, the 1st of a month.", 'write start = "2024-01-01"'),
        "months": Field(whole(least=1), "How many months.", "write months = 3"),
        "seed": Field(_COUNT, "For what is drawn; default 1."),
        "timezone": Field(_ZONE, "The zone of tenants that have none of their own; default UTC."),
        "tenants": Field(
            table({}, keys=_NAMES, rest=_GROUP, least="write [tenants.acme]"), "Who.", "write [tenants.acme]"
        ),
        "expect": Field(
            table({}, keys=_MONTHS, rest=table({}, keys=_NAMES, rest=_AMOUNT)),
            "Totals before tax, by month and tenant.",
        ),
    }
)


# -- writing -----------------------------------------------------------------------------------------------------------


def to_toml(scenario: Scenario, comment: str = "") -> str:
    """A file that reads as this scenario again. Its catalogue must be a name or a path."""
    lines = [*(f"# {line}" for line in comment.splitlines())]
    lines += [
        f"catalogue = {_text(str(scenario.catalogue))}",
        f'start = "{scenario.start}"',
        f"months = {scenario.months}",
    ]
    lines += [f"seed = {scenario.seed}"]
    for group in scenario.groups:
        lines += ["", f"[tenants.{_text(group.name)}]", f"plan = {_text(group.plan)}"]
        lines += [f"timezone = {_text(group.timezone)}"] if group.timezone != "UTC" else []
        lines += [f"count = {group.count}"] if group.count > 1 else []
        lines += [f'subscribed_at = "{_instant(group.subscribed_at)}"'] if group.subscribed_at else []
        lines += [f"trial_days = {group.trial_days}"] if group.trial_days else []
        lines += [f"anchor = {json.dumps(group.anchor)}"] if group.anchor != "calendar" else []
        lines += ["", f"[tenants.{_text(group.name)}.usage]"] if group.usage else []
        meters = dict.fromkeys(usage.meter for usage in group.usage)
        for meter in meters:
            forms = [_usage_form(usage) for usage in group.usage if usage.meter == meter]
            lines.append(f"{meter} = {forms[0] if len(forms) == 1 else '[' + ', '.join(forms) + ']'}")
        for step in group.steps:
            since = _instant(step.since) if step.since else None
            what = {"plan": step.plan, "since": since, "do": step.event, "timezone": step.timezone}
            lines += ["", f"[[tenants.{_text(group.name)}.changes]]", f'at = "{_instant(step.at)}"']
            lines += [f"{key} = {_text(value)}" for key, value in what.items() if value]
            lines += [f"addon = {_text(step.addon)}", f"quantity = {step.quantity}"] if step.addon else []
    for period in dict.fromkeys(month for month, _, _ in scenario.expect):
        lines += ["", f'[expect."{period}"]']
        lines += [f'{_text(name)} = "{plain(each)}"' for month, name, each in scenario.expect if month == period]
    return "\n".join(lines) + "\n"


def _usage_form(usage: Usage) -> str:
    key = "level" if usage.is_level else "amount" if usage.on else "mean"
    form = [f"{key} = {usage.mean}"]
    form += [f"resource = {_text(usage.resource)}"] if usage.resource else []
    parts = {"spread": (usage.spread, 0), "growth": (usage.growth, 0), "weekend": (usage.weekend, 1)}
    form += [f'{name} = "{plain(value)}"' for name, (value, usual) in parts.items() if value != usual]
    moments = [f'"{_moment_text(each)}"' for each in usage.on]
    form += [f"on = [{', '.join(moments)}]"] if moments else []
    return f"{{ {', '.join(form)} }}"


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
