"""What AI calls cost: of the house by model, or of one tenant with its budgets."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from mm_metering.ai.insight import CALL, TOKEN, UNPRICED
from mm_metering.backends.looks import HouseDay
from mm_metering.core.catalogue import AiPolicy
from mm_metering.core.cells import Cell, event_meter
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import days_between, from_micros, local_day, zone
from mm_metering.core.tenancy import TenantRow
from mm_metering.dashboard.charts import Chart, Series
from mm_metering.dashboard.page import Link, Page, Rows, Visit
from mm_metering.dashboard.pages.tenants import plan_of, row_of
from mm_metering.dashboard.standing import AI_COST, DAYS, USD, gauge_of, month_chart, usage_of

STACKED: Final = 6
"""Models that a chart tells apart; the others are added up."""
OTHERS: Final = "others"
CALLS, TOKENS = event_meter(CALL), event_meter(TOKEN)


@dataclass(slots=True)
class ModelCost:
    """What the calls of a model came to in the days shown."""

    model: str
    calls: int = 0
    tokens: int = 0
    nanos: int = 0
    unpriced: int = 0

    @property
    def cost(self) -> Decimal:
        return from_nanos(self.nanos)

    @property
    def per_call(self) -> Decimal | None:
        return from_nanos(self.nanos // self.calls) if self.calls else None


@dataclass(frozen=True, slots=True)
class Costs:
    """``daily``: nano-units by day and model."""

    days: Sequence[date]
    models: dict[str, ModelCost]
    daily: dict[tuple[date, str], int]

    @classmethod
    def of(cls, first: date, last: date) -> Costs:
        return cls([*days_between(first, last)], {}, {})

    def model(self, name: str) -> ModelCost:
        return self.models.setdefault(name, ModelCost(name))

    def add(self, day: date, meter: str, model: str, quantity: int, nanos: int) -> None:
        found = self.model(model)
        if meter == TOKENS:
            found.tokens += quantity
        elif meter == CALLS:
            found.calls += quantity
            found.nanos += nanos
            self.daily[day, model] = self.daily.get((day, model), 0) + nanos

    @property
    def dearest(self) -> list[ModelCost]:
        return sorted(self.models.values(), key=lambda each: (-each.nanos, -each.calls, each.model))


async def ai(visit: Visit) -> Page:
    return await _of_tenant(visit) if visit.text("tenant") else await _of_house(visit)


async def _of_house(visit: Visit) -> Page:
    last = visit.now.date()
    first = last - timedelta(DAYS - 1)
    days = await visit.house.ledger.house_days(first, last)
    costs = _from_days(days, first, last)
    top = defaultdict[str, int](int)
    for each in days:
        if each.meter == AI_COST:
            for tenant, nanos in each.top:
                top[tenant] += nanos
    dearest = sorted(top.items(), key=lambda item: -item[1])[:10]
    data = {
        "row": None,
        "gauges": [],
        "dearest": [(tenant, from_nanos(nanos)) for tenant, nanos in dearest],
        "added_up": from_micros(max(each.made_us for each in days)) if days else None,
    }
    return _page(visit, costs, data, {})


def _from_days(days: Sequence[HouseDay], first: date, last: date) -> Costs:
    costs = Costs.of(first, last)
    for each in days:
        if each.meter in (CALLS, TOKENS):
            for model, quantity, nanos in each.resources:
                costs.add(each.day, each.meter, model, quantity, nanos)
    return costs


async def _of_tenant(visit: Visit) -> Page:
    row = await row_of(visit, visit.text("tenant"))
    last = local_day(visit.now, zone(row.timezone))
    first = last - timedelta(DAYS - 1)
    (view, stood), cells = await asyncio.gather(
        visit.house.gate.standings(row.id), visit.house.ledger.cells(row.id, first=first, last=last)
    )
    charts = await _month(visit, row, view.windows.ai)
    costs = _from_cells(cells, first, last)
    gauges = [gauge_of(each) for each in stood if each.gauge.limit.meter == AI_COST and each.gauge.limit.maximum]
    data = {"row": row, "gauges": gauges, "dearest": [], "added_up": None}
    return _page(visit, costs, data, charts)


async def _month(visit: Visit, row: TenantRow, policy: AiPolicy) -> dict[str, Chart]:
    """The month's cost against its budget, where costs are counted."""
    if AI_COST not in visit.house.catalogue.meters:
        return {}
    plan = await plan_of(visit, row)
    usage = await usage_of(visit.house, row, plan, visit.now)
    seen = await visit.house.ai.insight.forecast(row, policy)
    return {"month": month_chart(usage, AI_COST, seen)}


def _from_cells(cells: Sequence[Cell], first: date, last: date) -> Costs:
    costs = Costs.of(first, last)
    for key, total, *_ in cells:
        if key.scope == UNPRICED:
            costs.model(key.resource).unpriced += total.count
        if not key.scope and key.meter in (CALLS, TOKENS):
            costs.add(key.day, key.meter, key.resource, total.quantity, total.cost_nanos)
    return costs


def _page(visit: Visit, costs: Costs, data: Mapping[str, object], charts: Mapping[str, Chart]) -> Page:
    models = costs.dearest
    total = sum(each.nanos for each in models)
    shares = [each.nanos * 1000 // total / 10 if total else 0.0 for each in models]
    header = ("model", "calls", "tokens", "cost_usd", "unpriced_calls")
    rows = Rows(header, [(each.model, each.calls, each.tokens, each.cost, each.unpriced) for each in models])
    shown = {
        "models": list(zip(models, shares, strict=True)),
        "total": from_nanos(total),
        "calls": sum(each.calls for each in models),
        "days": DAYS,
        **data,
    }
    title = f"AI cost of {visit.text('tenant')}" if visit.text("tenant") else "AI cost"
    return Page("ai.html", title, shown, {"models": _stack(costs), **charts}, {"costs": rows})


def _stack(costs: Costs) -> Chart:
    """The dearest models, and all others as one."""
    priced = [each.model for each in costs.dearest if each.nanos]
    named = priced if len(priced) <= STACKED else priced[: STACKED - 1]
    series = [
        Series(model, [from_nanos(costs.daily.get((day, model), 0)) for day in costs.days], "stack") for model in named
    ]
    if rest := priced[len(named) :]:
        left = [sum(costs.daily.get((day, model), 0) for model in rest) for day in costs.days]
        series.append(Series(OTHERS, [from_nanos(nanos) for nanos in left], "stack"))
    return Chart("Cost by day and model", costs.days, series, USD)


LINK = Link("ai", "AI cost", ai)
