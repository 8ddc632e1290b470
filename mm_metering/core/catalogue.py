"""The catalogue: what is counted (meters), what each plan allows and charges (limits), and what routes cost.

Frozen values and what one asks of them; ``catalogue_layout`` holds the rules by which they are read. A plan is also
stored outside the catalogue, as the JSON of its ``definition()``, so that old versions keep their meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal, localcontext
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

from mm_metering.core.money import EXACT, from_nanos, to_nanos
from mm_metering.core.periods import Window
from mm_metering.core.pricing import Price, Scheme, UnitPrice, price_form
from mm_metering.core.schema import money_text, unknown
from mm_metering.errors import CatalogueError, InvalidEvent

Aggregation: TypeAlias = Literal["sum", "level"]
Unit: TypeAlias = Literal["count", "money"]
Proration: TypeAlias = Literal["second", "day"]
Outage: TypeAlias = Literal["allow", "deny"]

AI_COST_METER = "ai_cost"
"""The money meter that AI budgets limit."""
UNLIMITED = "unlimited"
COUNT_ON = ("2xx", "3xx", "4xx")
ON_OUTAGE: Mapping[Unit, Outage] = MappingProxyType({"count": "allow", "money": "deny"})
_MATCHES_KEPT = 4096
_BY_UNIT = cast(Outage, "by unit")


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Meter:
    """A named thing counted. Without an ``event`` it has no events of its own: a level that the host sets."""

    name: str
    event: str | None = None
    resource: str | None = None
    aggregation: Aggregation = "sum"
    unit: Unit = "count"
    cost: Decimal | None = None
    count_on: tuple[str, ...] = COUNT_ON
    on_outage: Outage = _BY_UNIT

    def __post_init__(self) -> None:
        if self.on_outage == _BY_UNIT:
            object.__setattr__(self, "on_outage", ON_OUTAGE[self.unit])

    def matches(self, event_type: str, resource: str | None) -> bool:
        """Whether an event of this type on this resource counts here."""
        if self.event != event_type:
            return False
        return self.resource is None or (resource is not None and fnmatchcase(resource, self.resource))

    def counts(self, status: int) -> bool:
        """Whether a request that ended with this HTTP status stays counted."""
        return f"{status // 100}xx" in self.count_on


@dataclass(frozen=True, slots=True)
class ChargeUpTo:
    """Past the limit, charge until the month's overage reaches ``cap``; then refuse."""

    cap: Decimal


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``maximum`` in each ``window``, and what happens past it. None is unlimited; money is in nano-units.

    What charges has either a ``unit_price`` or another ``price``: tiers, packages or a flat amount. These count the
    month's units past the limit.
    """

    meter: str
    window: Window
    maximum: int | None
    then: Literal["block", "charge"] = "block"
    cap: Decimal | None = None
    unit_price: UnitPrice | None = None
    unit: Unit = "count"
    price: Scheme | None = None

    @property
    def blocks(self) -> bool:
        return self.then == "block"

    @property
    def not_in_plan(self) -> bool:
        """A limit of 0 that blocks: the plan does not have this feature."""
        return self.maximum == 0 and self.then == "block"

    @property
    def is_rate(self) -> bool:
        """A burst rate: it refuses, but leaves no fact and is never billed."""
        return self.window.seconds > 0

    @property
    def is_level(self) -> bool:
        """A standing amount: what charges past it bills the mean over the month, not what was counted in windows."""
        return self.window is Window.NONE

    @property
    def by_resource(self) -> bool:
        return isinstance(self.unit_price, Mapping)

    def in_trial(self) -> Limit:
        """A trial is free: what charges past the limit blocks there."""
        return replace(self, then="block", cap=None, unit_price=None, price=None)

    def price_for(self, resource: str | None) -> Price | None:
        """What overage costs the tenant; None where nothing is billed."""
        if self.price is not None:
            return self.price
        price = self.unit_price
        if price is None or isinstance(price, Decimal):
            return price
        return None if resource is None else price.get(resource)


@dataclass(frozen=True, slots=True)
class AiPolicy:
    """A plan's rules for AI calls. Budgets limit provider cost; a tenant's own settings may override them."""

    daily_budget: Decimal | None = None
    monthly_budget: Decimal | None = None
    model_allowlist: tuple[str, ...] | None = None
    fallback_model: str | None = None
    on_unpriced: Literal["block", "allow"] = "block"
    budgets: Mapping[str, Mapping[str, Decimal]] | None = None
    """Of a part of it, as {"daily": ..., "monthly": ...} by scope: "feature:chat", or "user:*" for each user."""

    def limits_of(self, scope: str) -> tuple[Limit, ...]:
        """Its budgets in a scope, such as "user:u_7": those that name it, else those of each of its kind."""
        budgets = self.budgets or {}
        found = budgets.get(scope) or budgets.get(f"{scope.partition(':')[0]}:*") or {}
        return _budgets(found.get("daily"), found.get("monthly"))


def _budgets(daily: Decimal | None, monthly: Decimal | None) -> tuple[Limit, ...]:
    windows = ((Window.DAY, daily), (Window.MONTH, monthly))
    return tuple(
        Limit(AI_COST_METER, window, to_nanos(most), unit="money") for window, most in windows if most is not None
    )


@dataclass(frozen=True, slots=True)
class AlertRules:
    """What is told of a tenant's usage, once per window. ``quota`` and ``budget``: at which percentages of a limit.
    ``spike_above``: an hour's AI cost up to which none is a spike. ``off`` are the rules that are not told at all."""

    quota: tuple[int, ...] = (80, 100)
    budget: tuple[int, ...] = (50, 80, 100)
    spike_above: Decimal = Decimal("1.00")
    off: tuple[str, ...] = ()


ALERT_RULES: Final = ("quota", "budget", "overage", "forecast", "spike", "unpriced")


@dataclass(frozen=True, slots=True)
class Changes:
    """How plans are changed where nobody names an instant, and how fees are split then: by the second, or by the local
    day, of which the new plan has the whole."""

    upgrade: Literal["now", "period_end"] = "now"
    downgrade: Literal["now", "period_end"] = "period_end"
    proration: Proration = "second"


@dataclass(frozen=True, slots=True)
class Addon:
    """What is sold beside a plan, for ``price`` a month each, with ``plans`` or, where that is None, with each that it
    fits. ``quotas``: what one adds to which of a meter's limits, as limits whose ``maximum`` are the units added."""

    name: str
    price: Decimal
    plans: tuple[str, ...] | None = None
    quotas: Mapping[str, tuple[Limit, ...]] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class HeldAddon:
    """So many of an add-on, on the terms on which they were sold."""

    quantity: int
    price: Decimal
    quotas: Mapping[str, tuple[Limit, ...]] = field(default_factory=_nothing)

    @property
    def fee(self) -> Decimal:
        """All of them, a month."""
        with localcontext(EXACT):
            return self.quantity * self.price


@dataclass(frozen=True, slots=True)
class Plan:
    """A base price per month and the limits by meter, each meter's limits from the shortest window to the longest.

    ``minimum`` is the least that a month's fees and usage come to; 0 where nothing is committed. ``addons`` are a
    tenant's, in its own version of the plan: the limits are raised by them, ``price`` is without them.
    """

    name: str
    price: Decimal
    support: str | None = None
    quotas: Mapping[str, tuple[Limit, ...]] = field(default_factory=_nothing)
    ai: AiPolicy | None = None
    minimum: Decimal = Decimal(0)
    addons: Mapping[str, HeldAddon] = field(default_factory=_nothing)
    alerts: AlertRules | None = None
    """None: the catalogue's."""

    def in_trial(self) -> Plan:
        """The plan with the limits of a trial."""
        quotas = {meter: tuple(limit.in_trial() for limit in limits) for meter, limits in self.quotas.items()}
        return replace(self, quotas=quotas)

    @property
    def charged_levels(self) -> tuple[str, ...]:
        """The levels that are billed past their limit."""
        limits = (limit for limits in self.quotas.values() for limit in limits)
        return tuple(limit.meter for limit in limits if limit.is_level and not limit.blocks)

    @property
    def limits(self) -> Mapping[str, tuple[Limit, ...]]:
        """By meter, as decisions know them: the quotas, and the AI budgets as limits of the meter ``ai_cost``."""
        limits = dict(self.quotas)
        if self.ai is not None and (budgets := _budgets(self.ai.daily_budget, self.ai.monthly_budget)):
            limits[AI_COST_METER] = (*limits.get(AI_COST_METER, ()), *budgets)
        return limits

    @property
    def limits_money(self) -> bool:
        """Whether it has a budget, or another limit of what providers cost."""
        limits = (limit for limits in self.limits.values() for limit in limits)
        return bool(self.ai and self.ai.budgets) or any(limit.unit == "money" for limit in limits)

    def definition(self) -> dict[str, Any]:
        """The plan without its name as canonical JSON: sorted keys, money as text. Equal plans give equal text."""
        return _sorted(_plan_form(self, _stored_limit_form))

    @classmethod
    def from_definition(cls, name: str, definition: object) -> Plan:
        """The plan that ``definition()`` described; CatalogueError for anything else."""
        from mm_metering.core.catalogue_layout import read_stored_plan

        return read_stored_plan(name, definition)

    def digest(self) -> str:
        """SHA-256 of the definition, in hex: equal for equal plans, whatever form they were written in."""
        return hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything a plans file says. Build it with ``from_dict`` or from a file; both check every rule."""

    currency: str
    timezone: str
    default_plan: str | None
    meters: Mapping[str, Meter]
    plans: Mapping[str, Plan]
    routes: Mapping[str, Mapping[str, int]] = field(default_factory=_nothing)
    exempt: tuple[str, ...] = ()
    addons: Mapping[str, Addon] = field(default_factory=_nothing)
    ai_prices: Mapping[str, Decimal] = field(default_factory=_nothing)
    ai_currency: str | None = None
    """"USD" where the file says that budgets are, its plans being in another."""
    changes: Changes = Changes()
    alerts: AlertRules = AlertRules()
    _matches: dict[tuple[str, str | None], tuple[Meter, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_dict(cls, tree: object) -> Catalogue:
        """The catalogue of a dict with the keys of the TOML file; CatalogueError names the first thing wrong."""
        from mm_metering.core.catalogue_layout import read_catalogue

        return read_catalogue(tree)

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """JSON Schema (2020-12) of the plans file, for editors."""
        from mm_metering.core.catalogue_layout import json_schema

        return json_schema()

    def to_dict(self) -> dict[str, Any]:
        """The same catalogue in the Python form; ``from_dict`` of it is equal."""
        routes: dict[str, object] = {route: dict(costs) for route, costs in self.routes.items()}
        tree: dict[str, object] = {
            "currency": self.currency,
            "timezone": self.timezone,
            "default_plan": self.default_plan,
            "meters": {name: _meter_form(meter) for name, meter in self.meters.items()},
            "plans": {name: _plan_form(plan, _limit_form) for name, plan in self.plans.items()},
            "addons": {name: _addon_form(addon) for name, addon in self.addons.items()},
            "routes": routes | ({"exempt": list(self.exempt)} if self.exempt else {}),
            "ai": {"prices": {model: money_text(price) for model, price in self.ai_prices.items()}}
            | ({"currency": self.ai_currency} if self.ai_currency else {}),
            "changes": {each.name: getattr(self.changes, each.name) for each in fields(Changes)},
            "alerts": _fields_form(self.alerts),
        }
        return {key: value for key, value in tree.items() if value is not None}

    def meters_of(self, event_type: str, resource: str | None = None) -> tuple[Meter, ...]:
        """The meters in which such an event counts, in the catalogue's order. Remembered, up to a bound."""
        key = (event_type, resource)
        found = self._matches.get(key)
        if found is None:
            if len(self._matches) >= _MATCHES_KEPT:
                self._matches.clear()
            found = tuple(meter for meter in self.meters.values() if meter.matches(event_type, resource))
            self._matches[key] = found
        return found

    def meter(self, name: str) -> Meter:
        """The meter of that name; InvalidEvent with a suggestion otherwise."""
        try:
            return self.meters[name]
        except (KeyError, TypeError):
            raise InvalidEvent("meter", unknown("meter", name, self.meters)) from None

    def plan(self, name: str) -> Plan:
        """The plan of that name, "pro" or the provider's "pro_monthly"; CatalogueError with a suggestion otherwise."""
        try:
            return self.plans[name if name in self.plans else name.removesuffix("_monthly")]
        except (KeyError, TypeError, AttributeError):
            raise CatalogueError(unknown("plan", name, self.plans)) from None

    def addon(self, name: str) -> Addon:
        """The add-on of that name; CatalogueError with a suggestion otherwise."""
        try:
            return self.addons[name]
        except (KeyError, TypeError):
            raise CatalogueError(unknown("add-on", name, self.addons)) from None


# ---- back to plain data ----


def _meter_form(meter: Meter) -> dict[str, Any]:
    usual = Meter(meter.name, unit=meter.unit)
    keys = ("event", "resource", "aggregation", "cost", "count_on", "on_outage")
    form = {key: _plain(getattr(meter, key)) for key in keys if getattr(meter, key) != getattr(usual, key)}
    return form | ({"unit": "money"} if meter.unit == "money" else {})


def _limit_form(limit: Limit) -> dict[str, Any]:
    form: dict[str, Any] = {
        "limit": UNLIMITED if limit.maximum is None else limit.maximum,
        "per": None if limit.window is Window.NONE else limit.window.value,
        "price": None if limit.price is None else price_form(limit.price),
        "then": limit.then if limit.cap is None else {"charge_up_to": money_text(limit.cap)},
        "unit_price": _plain(limit.unit_price),
    }
    if limit.unit == "money" and limit.maximum is not None:
        form["limit"] = money_text(from_nanos(limit.maximum))
    return {key: value for key, value in form.items() if value is not None}


def _stored_limit_form(limit: Limit) -> dict[str, Any]:
    return _limit_form(limit) | ({"unit": "money"} if limit.unit == "money" else {})


def _plan_form(plan: Plan, limit_form: Callable[[Limit], dict[str, Any]]) -> dict[str, Any]:
    form: dict[str, Any] = {
        "price": money_text(plan.price),
        "minimum": money_text(plan.minimum) if plan.minimum else None,
        "support": plan.support,
        "quotas": {meter: [limit_form(limit) for limit in limits] for meter, limits in plan.quotas.items()},
        "ai": None if plan.ai is None else _fields_form(plan.ai),
        "alerts": None if plan.alerts is None else _fields_form(plan.alerts),
        "addons": {name: _held_form(held) for name, held in plan.addons.items()} or None,
    }
    return {key: value for key, value in form.items() if value is not None}


def _addon_form(addon: Addon) -> dict[str, Any]:
    form = {"price": money_text(addon.price), "plans": _plain(addon.plans), "quotas": _raises_form(addon.quotas)}
    return {key: value for key, value in form.items() if value is not None}


def _held_form(held: HeldAddon) -> dict[str, Any]:
    return {"quantity": held.quantity, "price": money_text(held.price), "quotas": _raises_form(held.quotas)}


def _raises_form(quotas: Mapping[str, tuple[Limit, ...]]) -> dict[str, Any]:
    """A level by its number, the others by window; money is text."""
    return {
        meter: _limit_form(raises[0])["limit"]
        if raises[0].is_level
        else {each.window.value: _limit_form(each)["limit"] for each in raises}
        for meter, raises in quotas.items()
    }


def _fields_form(each_of: AiPolicy | AlertRules) -> dict[str, Any]:
    values = {each.name: getattr(each_of, each.name) for each in fields(each_of)}
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _plain(value: object) -> Any:
    if isinstance(value, Decimal):
        return money_text(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _sorted(form: dict[str, Any]) -> dict[str, Any]:
    return {key: _sorted(form[key]) if isinstance(form[key], dict) else form[key] for key in sorted(form)}
