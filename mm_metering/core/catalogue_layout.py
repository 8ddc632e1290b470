"""The layout of the plans file: which keys there are, and the rules between them, as tables.

``read_catalogue``, ``read_stored_plan`` and ``overridden`` turn plain data into checked values or raise CatalogueError
with the place; ``json_schema`` draws the same tables for editors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

from mm_metering.core.addon_layout import ADDONS, HELD, read_addons, read_held
from mm_metering.core.addons import bare, raised
from mm_metering.core.catalogue import (
    AI_COST_METER,
    ALERT_RULES,
    UNLIMITED,
    AiPolicy,
    AlertRules,
    Catalogue,
    Changes,
    ChargeUpTo,
    Limit,
    Meter,
    Plan,
)
from mm_metering.core.money import is_currency, to_nanos
from mm_metering.core.periods import Window, zone
from mm_metering.core.price_layout import PRICE
from mm_metering.core.schema import (
    METER_NAMES,
    NAMES,
    NANO_PLACES,
    ROOT,
    Field,
    Given,
    Keys,
    Place,
    Shape,
    choice,
    either,
    in_words,
    listing,
    money,
    places_of,
    shown,
    suggestion,
    table,
    text,
    unknown,
    whole,
)
from mm_metering.errors import InvalidInput

Limits: TypeAlias = list[tuple[Place, Given]]
Find: TypeAlias = Callable[[str, Given, Place], Meter]

_WINDOWS = tuple(Window)

_MODELS = Keys(".{1,256}", "a name of 1 to 256 printable characters")
_ROUTES = Keys(r"[A-Z]{3,16} /[^ ]{0,255}", 'a route; write "METHOD /path", such as "POST /v1/search"')
_WRITE_LIMIT = 'write a whole number from 0, or "unlimited"; 0 that blocks means not in the plan'

_TEXT = text()
_COUNT = whole(', nor "unlimited"')
_NANO_MONEY = money(NANO_PLACES)
_UNIT_PRICE = either(table({}, keys=_MODELS, rest=money(), least='write resource = "price" pairs'), money())
_CHARGE_UP_TO = Field(_NANO_MONEY, "Cap on the month's overage; past it requests are refused.", 'write "20.00"')


def _as_given(value: object, at: Place) -> object:
    return value


def _read_then(value: object, at: Place) -> tuple[str, Decimal | None]:
    """("block" or "charge", the cap)."""
    if isinstance(value, ChargeUpTo):
        value = {"charge_up_to": value.cap}
    if isinstance(value, Mapping):
        return "charge", _CAPPED.read(value, at)["charge_up_to"]
    return _WORDS.read(value, at), None


def _read_currency(value: object, at: Place) -> str:
    code = _CODE.read(value, at)
    if not is_currency(code):
        raise at.wrong(f'{shown(code)} is not a currency of ISO 4217, such as "USD"')
    return code


def _read_zone(value: object, at: Place) -> str:
    try:
        zone(name := _TEXT.read(value, at))
    except InvalidInput as error:
        raise at.wrong(str(error).partition(": ")[2]) from None
    return name


def _read_limits(limit: Shape[Given]) -> Callable[[object, Place], Limits]:
    """A quota is one limit or a list of them; each comes with its place, for the rules that need its meter."""

    def read(value: object, at: Place) -> Limits:
        if isinstance(value, Mapping):
            return [(at, limit.read(value, at))]
        if not isinstance(value, list | tuple) or not value:
            raise at.wrong(f'expected a limit such as {{ limit = 100, per = "day" }} or a list, got {in_words(value)}')
        return [(at / index, limit.read(each, at / index)) for index, each in enumerate(value)]

    return read


_WORDS = choice("block", "charge")
_CAPPED = table({"charge_up_to": _CHARGE_UP_TO})
_CODE = text("[A-Z]{3}", 'a currency of 3 capital letters, such as "USD"')
_DOLLARS = text("USD", 'the currency of provider cost, "USD": nothing converts')
_CURRENCY = Shape(_read_currency, _CODE.schema)
_TIMEZONE = Shape(_read_zone, _TEXT.schema)
_LIMIT_VALUE = Shape(_as_given, {"anyOf": [_COUNT.schema, {"const": UNLIMITED}, *_NANO_MONEY.schema["anyOf"]]})
_THEN = Shape(_read_then, {"anyOf": [_WORDS.schema, _CAPPED.schema]})

_LIMIT_FIELDS = {
    "limit": Field(_LIMIT_VALUE, 'How much is included, or "unlimited"; money for a money meter.', _WRITE_LIMIT),
    "per": Field(choice("second", "minute", "day", "month"), "The window; levels have none."),
    "then": Field(_THEN, 'Past the limit: "block" (default), "charge", or { charge_up_to = "20.00" }.'),
    "unit_price": Field(_UNIT_PRICE, "What a unit past the limit costs the tenant, or a table resource -> price."),
    "price": Field(PRICE, "Instead of unit_price: tiers, packages or a flat price for the month's units past it."),
}
_STORED_LIMIT_FIELDS = _LIMIT_FIELDS | {"unit": Field(choice("count", "money"), "The meter's unit.")}
_METER_FIELDS = {
    "event": Field(text(*NAMES), "The event type it counts; a level may have none."),
    "resource": Field(_TEXT, 'Only events whose resource matches this glob, such as "report_*".'),
    "aggregation": Field(choice("sum", "level"), '"sum" (default) adds up in windows, "level" is a standing amount.'),
    "unit": Field(choice("count", "money"), '"count" (default), or "money": it sums the provider cost of the events.'),
    "cost": Field(money(), "Provider cost of one unit where an event states none."),
    "count_on": Field(
        listing(choice("2xx", "3xx", "4xx", "5xx"), least="name the statuses that count"),
        "HTTP statuses that stay counted; default 2xx, 3xx and 4xx.",
    ),
    "on_outage": Field(choice("allow", "deny"), "While counters are unreachable; default deny for money, else allow."),
}
_SCOPES = Keys(r"(model|feature|user|run):.{1,256}", 'a part; write "feature:chat", or "user:*" for each user')
_BUDGET = table(
    {
        "daily": Field(_NANO_MONEY, "Provider cost of a day at most."),
        "monthly": Field(_NANO_MONEY, "Provider cost of a month at most."),
    },
    least='write { daily = "1.00" }, or monthly',
)
_AI_FIELDS = {
    "daily_budget": Field(_NANO_MONEY, "Provider cost of a day at most."),
    "monthly_budget": Field(_NANO_MONEY, "Provider cost of a month at most."),
    "model_allowlist": Field(
        listing(_TEXT, least="leave it out to allow every model"), "The models the plan may use; default all."
    ),
    "fallback_model": Field(_TEXT, "The model to use when the budget does not reach for the one asked for."),
    "on_unpriced": Field(choice("block", "allow"), 'A model without a known price: "block" (default) or "allow".'),
    "budgets": Field(table({}, keys=_SCOPES, rest=_BUDGET), "Budgets by model, feature, user or run."),
}

_PERCENT = listing(whole(least=1))
_ALERTS = table(
    {
        "quota": Field(_PERCENT, "At which percentages of a quota it is told; default 80 and 100."),
        "budget": Field(_PERCENT, "At which percentages of an AI budget; default 50, 80 and 100."),
        "spike_above": Field(_NANO_MONEY, "An hour's AI cost up to which none is a spike; default 1.00."),
        "off": Field(listing(choice(*ALERT_RULES)), "Rules that are not told."),
    }
)


def _quota(limit_fields: Mapping[str, Field]) -> Shape[Limits]:
    limit = table(limit_fields)
    several = {"type": "array", "items": limit.schema, "minItems": 1}
    return Shape(_read_limits(limit), {"anyOf": [limit.schema, several]})


def _plan_fields(limit_fields: Mapping[str, Field]) -> dict[str, Field]:
    quota = _quota(limit_fields)
    return {
        "price": Field(money(), "Base price of a month.", 'write price = "0.00" for a plan that is free'),
        "minimum": Field(money(), "The least that a month's fees and usage come to; default 0.00."),
        "support": Field(_TEXT, "The kind of support, in a word."),
        "quotas": Field(table({}, keys=METER_NAMES, rest=quota), "Limits by meter: one or a list of them."),
        "ai": Field(table(_AI_FIELDS), "Budgets and models of AI calls."),
        "alerts": Field(_ALERTS, "What is told of its tenants' usage; default the catalogue's."),
    }


_STORED_PLAN = table(
    _plan_fields(_STORED_LIMIT_FIELDS) | {"addons": Field(HELD, "What the tenant has beside it, by name.")}
)
_ONE_PLAN = "write at least one, such as [plans.free]"
_PLANS = table({}, keys=NAMES, rest=table(_plan_fields(_LIMIT_FIELDS)), least=_ONE_PLAN)
_EXEMPT = listing(text(r"/[^ ]{0,255}", 'a path; write "/healthz"'))
_WHEN = choice("now", "period_end")
_CHANGES = table(
    {
        "upgrade": Field(_WHEN, "When a change to a plan of the same or a higher price holds; default now."),
        "downgrade": Field(_WHEN, "When a change to a lower price holds; default period_end."),
        "proration": Field(choice("second", "day"), "By what fees are split; default second."),
    }
)
_CATALOGUE = table(
    {
        "currency": Field(_CURRENCY, "ISO 4217; default USD."),
        "timezone": Field(_TIMEZONE, "IANA zone of tenants that have none of their own; default UTC."),
        "default_plan": Field(_TEXT, "The plan of tenants nobody put on one; without it they are unknown."),
        "meters": Field(table({}, keys=NAMES, rest=table(_METER_FIELDS)), "What is counted."),
        "plans": Field(_PLANS, "What tenants may buy.", _ONE_PLAN),
        "changes": Field(_CHANGES, "How plans are changed."),
        "alerts": Field(_ALERTS, "What is told of a tenant's usage."),
        "addons": Field(ADDONS, "What they may buy beside it: for a price, more of its limits."),
        "routes": Field(
            table(
                {"exempt": Field(_EXEMPT, "Paths that are not metered.")},
                keys=_ROUTES,
                rest=table(
                    {},
                    keys=METER_NAMES,
                    rest=whole(),
                    least="write { api_calls = 5 }, or { api_calls = 0 } to switch off",
                ),
            ),
            "What a request costs by route, over the default of one api_calls; 0 switches off.",
        ),
        "ai": Field(
            table(
                {
                    "prices": Field(table({}, keys=_MODELS, rest=money()), "Provider price of a token by model."),
                    "currency": Field(_DOLLARS, "Of these prices and of budgets, where plans are in another."),
                }
            ),
            "Facts about AI providers.",
        ),
    }
)


def read_catalogue(tree: object, at: Place = ROOT) -> Catalogue:
    """The catalogue of a tree with the keys of the plans file; CatalogueError for the first thing wrong in it."""
    given = _CATALOGUE.read(tree, at)
    meters = {name: _meter(name, entry, at / "meters" / name) for name, entry in given.get("meters", {}).items()}
    find = _finder(meters)
    plans = {name: _plan(name, entry, at / "plans" / name, find) for name, entry in given["plans"].items()}
    addons = read_addons(given.get("addons", {}), plans, find, at / "addons")
    routes = dict(given.get("routes", {}))
    exempt = routes.pop("exempt", ())
    _check_default_plan(given.get("default_plan"), plans, at)
    _check_routes(routes, meters, at / "routes")
    for name, plan in plans.items():
        _check_budgets(plan, meters, at / "plans" / name / "ai")
        check_currency(plan, given.get("currency", "USD"), given.get("ai", {}).get("currency"), at / "plans" / name)
    return Catalogue(
        currency=given.get("currency", "USD"),
        timezone=given.get("timezone", "UTC"),
        default_plan=given.get("default_plan"),
        meters=MappingProxyType(meters),
        plans=MappingProxyType(plans),
        addons=MappingProxyType(addons),
        routes=MappingProxyType({route: MappingProxyType(costs) for route, costs in routes.items()}),
        exempt=exempt,
        ai_prices=MappingProxyType(given.get("ai", {}).get("prices", {})),
        ai_currency=given.get("ai", {}).get("currency"),
        changes=Changes(**given.get("changes", {})),
        alerts=AlertRules(**given.get("alerts", {})),
    )


def read_stored_plan(name: str, definition: object) -> Plan:
    """The plan whose ``definition()`` this is; it needs no catalogue, since each limit says what its meter is."""
    at = Place(("plans", name))
    return _plan(name, _STORED_PLAN.read(definition, at), at, _stored_meter)


def overridden(plan: Plan, changes: object, *, meters: Mapping[str, Meter] | None = None) -> Plan:
    """The plan as one tenant has it: with another ``price`` or ``minimum``, other ``quotas`` by meter, other ``ai``
    settings, other ``alerts``.

    ``changes`` has these keys in the Python form of a plan. A meter's limits are replaced together, and so is each AI
    setting; None takes them away, and what is not named stays. Add-ons raise the new limits. The result keeps every
    rule of a plan, or CatalogueError says which not. ``meters`` are the catalogue's: with them no unknown meter passes.
    Without them, for changes that were checked before, a meter that the plan does not limit is what its new limits make
    of it (unit = "money").
    """
    at = Place(("overrides",))
    given = (_STORED_OVERRIDES if meters is None else _OVERRIDES).read(changes, at)
    entries = given.get("quotas", {})
    held, plan = plan.addons, bare(plan)
    find = _stored_meter_of(plan) if meters is None else _finder(meters)
    quotas = {name: limits for name, limits in plan.quotas.items() if name not in entries}
    quotas |= _quotas({name: limits for name, limits in entries.items() if limits is not None}, at, find)
    found = replace(
        plan,
        price=given.get("price", plan.price),
        minimum=given.get("minimum", plan.minimum),
        quotas=MappingProxyType(quotas),
        ai=_overridden_ai(plan.ai, given["ai"]) if given.get("ai") else plan.ai,
        alerts=AlertRules(**given["alerts"]) if given.get("alerts") else plan.alerts,
    )
    _check_fallback(found.ai, at / "ai")
    _check_budgets(found, meters, at / "ai")
    return raised(found, held)


def _overridden_ai(ai: AiPolicy | None, changes: Given) -> AiPolicy:
    usual = AiPolicy()
    return replace(ai or usual, **{key: getattr(usual, key) if new is None else new for key, new in changes.items()})


def _or_nothing(shape: Shape[Any]) -> Shape[Any]:
    """None stays None: it takes away what the plan says."""
    return Shape(lambda value, at: None if value is None else shape.read(value, at), shape.schema)


def _read_ai_changes(value: object, at: Place) -> Given:
    given = table(_AI_FIELDS).read(value, at)
    return dict.fromkeys(value) | given if isinstance(value, Mapping) else given


def _overrides(limit_fields: Mapping[str, Field]) -> Shape[Given]:
    quotas = table({}, keys=METER_NAMES, rest=_or_nothing(_quota(limit_fields)))
    return table(
        {
            "price": Field(money(), "Another base price of a month."),
            "minimum": Field(money(), "Another minimum of a month; 0.00 for none."),
            "quotas": Field(quotas, "Other limits by meter."),
            "ai": Field(Shape(_read_ai_changes, table(_AI_FIELDS).schema), "Other budgets and models of AI calls."),
            "alerts": Field(_ALERTS, "Other things that are told."),
        }
    )


_OVERRIDES, _STORED_OVERRIDES = _overrides(_LIMIT_FIELDS), _overrides(_STORED_LIMIT_FIELDS)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the plans file; the rules between keys are checked only when it is read."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mm_metering plans file"}
    return head | dict(_CATALOGUE.schema)


# ---- rules between keys: (the key whose line to show, is it broken, what to say) ----

_METER_RULES: tuple[tuple[str, Callable[[Given], bool], str], ...] = (
    (
        "",
        lambda given: "event" not in given and given["aggregation"] == "sum",
        'event is missing; name what it counts, such as event = "api_call", or write aggregation = "level"',
    ),
    (
        "resource",
        lambda given: "event" not in given and "resource" in given,
        "resource picks among the resources of an event; add event, or leave resource out",
    ),
    (
        "unit",
        lambda given: given["aggregation"] == "level" and given["unit"] == "money",
        'a level counts things; leave unit = "money" out',
    ),
    (
        "cost",
        lambda given: given["unit"] == "money" and "cost" in given,
        "a money meter sums the cost that events state; leave cost out",
    ),
    (
        "count_on",
        lambda given: "count_on" in given and (given["aggregation"] == "level" or given["unit"] == "money"),
        "only meters that count requests look at the status; leave count_on out",
    ),
)
_LIMIT_RULES: tuple[tuple[str, Callable[[Meter, Given], bool], str], ...] = (
    (
        "per",
        lambda meter, given: meter.aggregation == "level" and "per" in given,
        "{meter} is a level and has no window; leave per out",
    ),
    (
        "then",
        lambda meter, given: meter.aggregation == "level" and given["cap"] is not None,
        '{meter} is a level, billed by its mean over the month, and has no cap; write then = "charge" or "block"',
    ),
    (
        "unit_price",
        lambda meter, given: meter.aggregation == "level" and isinstance(given.get("unit_price"), dict),
        "{meter} is a level, billed by the sum of its resources; write one price instead of a table of prices",
    ),
    (
        "",
        lambda meter, given: meter.aggregation == "sum" and "per" not in given,
        'per is missing; write per = "day" or "month", or "second" or "minute" for a burst rate',
    ),
    (
        "then",
        lambda meter, given: meter.unit == "money" and given["charges"],
        "{meter} is money, and limits on money always block; leave then and unit_price out",
    ),
    (
        "per",
        lambda meter, given: meter.unit == "money" and given["window"].seconds > 0,
        'a limit on money is per "day" or "month", not per {window}',
    ),
    (
        "then",
        lambda meter, given: given["charges"] and given["window"].seconds > 0,
        'a limit per {window} is a burst rate and always blocks; charge per "day" or "month"',
    ),
    (
        "limit",
        lambda meter, given: given["charges"] and given["limit"] == UNLIMITED,
        "nothing is past unlimited, so nothing is charged; write a number, or leave then and unit_price out",
    ),
    (
        "then",
        lambda meter, given: given["charges"] and not ("unit_price" in given or "price" in given),
        'charging needs a price; add unit_price = "0.01", or write then = "block"',
    ),
    (
        "unit_price",
        lambda meter, given: "unit_price" in given and not given["charges"],
        'a limit that blocks has no price; add then = "charge", or leave unit_price out',
    ),
    (
        "price",
        lambda meter, given: "price" in given and not given["charges"],
        'a limit that blocks has no price; add then = "charge", or leave price out',
    ),
    (
        "price",
        lambda meter, given: "price" in given and "unit_price" in given,
        "unit_price and price are two prices for the same units; keep one",
    ),
    (
        "price",
        lambda meter, given: given["cap"] is not None and "price" in given,
        "charge_up_to needs one price for every unit; write unit_price instead of price",
    ),
    (
        "unit_price",
        lambda meter, given: given["cap"] is not None and isinstance(given["unit_price"], dict),
        "charge_up_to needs one price for every unit, not a table of prices",
    ),
    (
        "unit_price",
        lambda meter, given: given["cap"] is not None and places_of(given["unit_price"]) > NANO_PLACES,
        "charge_up_to needs a price of at most 9 decimal places (whole nano-units)",
    ),
)


def _meter(name: str, given: Given, at: Place) -> Meter:
    facts = {"aggregation": "sum", "unit": "count"} | given
    for key, broken, message in _METER_RULES:
        if broken(facts):
            raise at.wrong(message, key=key)
    return Meter(name, **given)


def _limit(meter: Meter, given: Given, at: Place) -> Limit:
    then, cap = given.get("then", ("block", None))
    window = Window(given.get("per", "none"))
    facts = given | {"charges": then == "charge", "cap": cap, "window": window}
    for key, broken, message in _LIMIT_RULES:
        if broken(meter, facts):
            raise at.wrong(message.format(meter=meter.name, window=window), key=key)
    price = given.get("unit_price")
    return Limit(
        meter=meter.name,
        window=window,
        maximum=_maximum(meter, given["limit"], at / "limit"),
        then=then,
        cap=cap,
        unit_price=MappingProxyType(price) if isinstance(price, dict) else price,
        unit=meter.unit,
        price=given.get("price"),
    )


def _maximum(meter: Meter, value: object, at: Place) -> int | None:
    if isinstance(value, str) and value == UNLIMITED:
        return None
    return to_nanos(_NANO_MONEY.read(value, at)) if meter.unit == "money" else _COUNT.read(value, at)


def _plan(name: str, given: Given, at: Place, find: Find) -> Plan:
    quotas = _quotas(given.get("quotas", {}), at, find)
    ai = AiPolicy(**given["ai"]) if "ai" in given else None
    _check_fallback(ai, at / "ai")
    minimum = given.get("minimum", Decimal(0))
    held = MappingProxyType(read_held(given.get("addons", {}), at / "addons"))
    alerts = AlertRules(**given["alerts"]) if "alerts" in given else None
    return Plan(name, given["price"], given.get("support"), MappingProxyType(quotas), ai, minimum, held, alerts)


def _quotas(given: Mapping[str, Limits], at: Place, find: Find) -> dict[str, tuple[Limit, ...]]:
    quotas: dict[str, tuple[Limit, ...]] = {}
    for meter, entries in given.items():
        limits = [(place, _limit(find(meter, entry, at / "quotas"), entry, place)) for place, entry in entries]
        quotas[meter] = _one_of_each(limits)
    return quotas


def _one_of_each(limits: list[tuple[Place, Limit]]) -> tuple[Limit, ...]:
    """At most one limit per window, and one with a price; the shortest window first."""
    windows: set[Window] = set()
    priced = False
    for at, limit in limits:
        if limit.window in windows:
            raise at.wrong(f"{limit.meter} has another limit {_per(limit.window)}; keep one")
        if priced and not limit.blocks:
            raise at.wrong(f"{limit.meter} has another limit with a price; one use is billed once, keep one price")
        windows.add(limit.window)
        priced = priced or not limit.blocks
    return tuple(sorted((limit for _, limit in limits), key=lambda limit: _WINDOWS.index(limit.window)))


def _per(window: Window) -> str:
    return "as a level" if window is Window.NONE else f"per {window}"


def _finder(meters: Mapping[str, Meter]) -> Find:
    def find(name: str, given: Given, at: Place) -> Meter:
        if name not in meters:
            raise at.wrong(unknown("meter", name, meters), key=name)
        return meters[name]

    return find


def _stored_meter(name: str, given: Given, at: Place) -> Meter:
    """As much of the meter as its stored limit tells: a level has no window, and the unit is written down."""
    return Meter(name, aggregation="sum" if "per" in given else "level", unit=given.pop("unit", "count"))


def _stored_meter_of(plan: Plan) -> Find:
    """As much of a meter as the plan's own limit tells, or else the new one."""

    def find(name: str, given: Given, at: Place) -> Meter:
        known = plan.quotas.get(name)
        if not known:
            return _stored_meter(name, given, at)
        unit = given.pop("unit", known[0].unit)
        return Meter(name, aggregation="level" if known[0].is_level else "sum", unit=unit)

    return find


def _check_fallback(ai: AiPolicy | None, at: Place) -> None:
    if ai is None or ai.fallback_model is None or ai.model_allowlist is None:
        return
    if ai.fallback_model not in ai.model_allowlist:
        hint = suggestion(ai.fallback_model, ai.model_allowlist) or "; add it there, or choose one of them"
        raise (at / "fallback_model").wrong(f"{shown(ai.fallback_model)} is not in model_allowlist{hint}")


def _check_default_plan(name: str | None, plans: Mapping[str, Plan], at: Place) -> None:
    if name is not None and name not in plans:
        raise (at / "default_plan").wrong(unknown("plan", name, plans))


def _check_routes(routes: Mapping[str, Mapping[str, int]], meters: Mapping[str, Meter], at: Place) -> None:
    for route, costs in routes.items():
        for name in costs:
            meter = _finder(meters)(name, {}, at / route)
            if meter.unit == "money":
                raise (at / route / name).wrong(f"{name} is money and has no cost in units; leave it out")


def check_currency(plan: Plan, currency: str, ai_currency: str | None, at: Place = ROOT) -> None:
    """A budget is in US dollars, as provider cost is, and nothing converts: plans in another currency say so."""
    if "USD" not in (currency, ai_currency) and plan.limits_money:
        raise at.wrong(
            f"budgets limit provider cost, which is in USD, and the plans are in {currency}: nothing converts. Write "
            'the budgets and [ai.prices] in USD, and say so: currency = "USD" under [ai]'
        )


def _check_budgets(plan: Plan, meters: Mapping[str, Meter] | None, at: Place) -> None:
    """A budget is a limit of the money meter ai_cost: that must exist, and have no other limit in the same window.
    Without ``meters``, that it exists was checked before."""
    budgets = {"daily_budget": Window.DAY, "monthly_budget": Window.MONTH, "budgets": None}
    limited = {limit.window for limit in plan.quotas.get(AI_COST_METER, ())}
    for key, window in budgets.items():
        if plan.ai is None or not (plan.ai.budgets if window is None else getattr(plan.ai, key) is not None):
            continue
        if meters is not None and (AI_COST_METER not in meters or meters[AI_COST_METER].unit != "money"):
            raise (at / key).wrong(
                f"a budget limits the meter {AI_COST_METER}; add to [meters]: "
                f'{AI_COST_METER} = {{ event = "ai_call", unit = "money" }}'
            )
        if window in limited:
            raise (at / key).wrong(f"quotas.{AI_COST_METER} has a limit per {window} too; keep one of the two")
