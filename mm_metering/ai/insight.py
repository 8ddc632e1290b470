"""What AI calls of a tenant came to, by model and by day, and what its month will come to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Final, NamedTuple

from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.catalogue import AiPolicy, Catalogue
from mm_metering.core.cells import Cell, event_meter
from mm_metering.core.forecast import Action, Confidence, DayTotal, Forecast, forecast, recommended_action, share_gone
from mm_metering.core.money import EXACT, from_nanos
from mm_metering.core.periods import Window, days_of, from_micros, local_day, window_span, zone
from mm_metering.core.tenancy import TenantRow

CALL: Final = "ai_call"
TOKEN: Final = "ai_token"
AI_EVENTS: Final = event_meter("ai_")
UNPRICED: Final = "status:unpriced"
"""The scope of calls without a price: what they cost is what was held for them, or not known."""
HISTORY: Final = timedelta(days=400)
"""How far back a forecast looks."""


class ModelUse(NamedTuple):
    requests: int
    tokens: int
    cost: Decimal


class AiUsage(NamedTuple):
    """Of the local days from ``start`` to ``end``, both included. Costs are the provider's, as stored at call time;
    of ``unpriced_calls`` they are what was held, or in no sum at all."""

    tenant: str
    start: date
    end: date
    total_tokens: int
    total_cost: Decimal
    request_count: int
    model_breakdown: Mapping[str, ModelUse]
    unpriced: Mapping[str, int]
    """Calls without a price, by model."""

    @property
    def unpriced_calls(self) -> int:
        return sum(self.unpriced.values())


class CostRow(NamedTuple):
    """What a tenant's calls of a model came to in a month; ``cost`` is the provider's, in USD. ``unpriced``: calls
    whose cost is what was held for them, or not known."""

    tenant: str
    model: str
    requests: int
    tokens: int
    cost: Decimal
    unpriced: int = 0


class QuotaPrediction(NamedTuple):
    """``remaining_requests`` and ``remaining_tokens``: the tighter of quota and what the budgets pay for at the
    tenant's mean cost; None where nothing limits them. ``estimated_cost``: of the month, as likely above as below;
    between ``low`` and ``high`` with 80 % probability. None where nothing can be said: ``reason``."""

    remaining_requests: int | None
    remaining_tokens: int | None
    estimated_cost: Decimal | None
    will_exceed_budget: bool
    recommended_action: Action
    probability: float | None
    low: Decimal | None
    high: Decimal | None
    runs_out_on: date | None
    method: str
    confidence: Confidence
    reason: str


class _Month(NamedTuple):
    """A tenant's AI cost from its ``first`` day on, in nano-units by day before today, and today's; its running month
    is [start, end)."""

    first: date
    start: date
    end: date
    by_day: Mapping[date, int]
    today: int
    calls: int
    tokens: int

    @property
    def total(self) -> int:
        return sum(self.by_day.values()) + self.today

    @property
    def before_today(self) -> int:
        """Of the running month."""
        return sum(cost for day, cost in self.by_day.items() if day >= self.start)


class Insight:
    def __init__(self, ledger: Ledger, *, catalogue: Catalogue, clock: Clock) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._clock = clock

    async def usage(self, tenant: str, first: date, last: date) -> AiUsage:
        models: dict[str, list[Decimal | int]] = defaultdict(lambda: [0, 0, Decimal(0)])
        unpriced = Counter[str]()
        for cell in await self._ledger.cells(tenant, first=first, last=last):
            if cell.key.scope == UNPRICED:
                unpriced[cell.key.resource] += cell.total.count
            if not cell.key.meter.startswith(AI_EVENTS):
                continue
            model = models[cell.key.resource]
            if cell.key.meter == event_meter(CALL):
                model[0] += cell.total.quantity
                model[2] += from_nanos(cell.total.cost_nanos)
            elif cell.key.meter == event_meter(TOKEN):
                model[1] += cell.total.quantity
        breakdown = {
            name: ModelUse(int(requests), int(tokens), Decimal(cost))
            for name, (requests, tokens, cost) in sorted(models.items())
        }
        with localcontext(EXACT):
            total = sum((each.cost for each in breakdown.values()), Decimal(0))
        return AiUsage(
            tenant=tenant,
            start=first,
            end=last,
            total_tokens=sum(each.tokens for each in breakdown.values()),
            total_cost=total,
            request_count=sum(each.requests for each in breakdown.values()),
            model_breakdown=breakdown,
            unpriced=dict(unpriced),
        )

    async def costs(self, row: TenantRow, period: str) -> list[CostRow]:
        """Of the tenant's month, the dearest model first."""
        used = await self.usage(row.id, *days_of(period, row.anchor_day))
        models = used.model_breakdown.items()
        rows = [CostRow(row.id, model, *each, used.unpriced.get(model, 0)) for model, each in models]
        return sorted(rows, key=lambda each: (-each.cost, each.model))

    async def predict(
        self,
        row: TenantRow,
        policy: AiPolicy,
        *,
        requests_left: int | None,
        tokens_left: int | None,
    ) -> QuotaPrediction:
        """``requests_left``, ``tokens_left``: of the quotas, in the tightest of their windows."""
        month = await self._month(row)
        headroom = _headroom(policy, month.today, month.before_today)
        return _prediction(
            self._forecast(row, policy, month),
            policy,
            requests_left=_tighter(requests_left, headroom, month.calls, month.total),
            tokens_left=_tighter(tokens_left, headroom, month.tokens, month.total),
            plan_has_more=self._has_more(policy),
        )

    async def forecast(self, row: TenantRow, policy: AiPolicy) -> Forecast:
        """What the tenant's month comes to, against its budget."""
        return self._forecast(row, policy, await self._month(row))

    async def _month(self, row: TenantRow) -> _Month:
        now, tz = self._clock.now(), zone(row.timezone)
        today, span = local_day(now, tz), window_span(Window.MONTH, now, tz, row.anchor_day)
        first = max(local_day(from_micros(row.subscribed_us), tz), today - HISTORY)
        by_day: dict[date, int] = defaultdict(int)
        calls = tokens = 0
        for cell in await self._cells(row.id, first, today):
            if cell.key.meter == event_meter(CALL):
                by_day[cell.key.day] += cell.total.cost_nanos
                calls += cell.total.quantity
            elif cell.key.meter == event_meter(TOKEN):
                tokens += cell.total.quantity
        spent_today = by_day.pop(today, 0)
        return _Month(first, local_day(span.start, tz), local_day(span.end, tz), by_day, spent_today, calls, tokens)

    def _forecast(self, row: TenantRow, policy: AiPolicy, month: _Month) -> Forecast:
        now, tz = self._clock.now(), zone(row.timezone)
        today = local_day(now, tz)
        first_day = DayTotal(month.first, Decimal(0))
        history = [first_day, *(DayTotal(day, from_nanos(cost)) for day, cost in month.by_day.items())]
        return forecast(
            [each for each in history if each.day < today],
            today=today,
            spent_today=from_nanos(month.today),
            period_start=month.start,
            period_end=month.end,
            today_gone=share_gone(now, tz),
            budget=policy.monthly_budget,
        )

    async def _cells(self, tenant: str, first: date, last: date) -> list[Cell]:
        return [
            cell
            for cell in await self._ledger.cells(tenant, first=first, last=last)
            if cell.key.meter.startswith(AI_EVENTS)
        ]

    def _has_more(self, policy: AiPolicy) -> bool:
        """Whether another plan has a larger budget of a month."""
        if policy.monthly_budget is None:
            return False
        budgets = [plan.ai.monthly_budget for plan in self._catalogue.plans.values() if plan.ai is not None]
        return any(each is None or each > policy.monthly_budget for each in budgets)


def _headroom(policy: AiPolicy, today: int, month_before_today: int) -> int | None:
    """Nano-units that the budgets leave; None without one."""
    with localcontext(EXACT):
        daily = None if policy.daily_budget is None else int(policy.daily_budget * 10**9) - today
        spent = today + month_before_today
        monthly = None if policy.monthly_budget is None else int(policy.monthly_budget * 10**9) - spent
    left = [each for each in (daily, monthly) if each is not None]
    return max(0, min(left)) if left else None


def _tighter(quota: int | None, headroom: int | None, units: int, cost: int) -> int | None:
    """Of what the quota leaves, and what the headroom pays for at the mean cost of a unit."""
    paid = None if headroom is None or not units or not cost else headroom * units // cost
    left = [each for each in (quota, paid) if each is not None]
    return min(left) if left else None


def _prediction(
    seen: Forecast, policy: AiPolicy, *, requests_left: int | None, tokens_left: int | None, plan_has_more: bool
) -> QuotaPrediction:
    return QuotaPrediction(
        remaining_requests=requests_left,
        remaining_tokens=tokens_left,
        estimated_cost=seen.p50,
        will_exceed_budget=seen.will_exceed_budget,
        recommended_action=recommended_action(
            seen, has_fallback=policy.fallback_model is not None, higher_plan_has_more=plan_has_more
        ),
        probability=seen.p_exceed,
        low=seen.p10,
        high=seen.p90,
        runs_out_on=seen.runs_out_on,
        method=seen.method,
        confidence=seen.confidence,
        reason=seen.reason,
    )
