"""``metering.ai``: reserve before a call, settle after it. No budget is overshot by calls that keep to their cap.

Owns: what hosts call. Does not own: what a call is held as (``candidates``), what is written when it is over
(``holding``), the rule and its numbers (gate), prices (``prices``), what a reply says (``replies``, ``streams``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import date
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from mm_metering.ai.asking import Asked, asked, is_listed, model_name
from mm_metering.ai.calls import MIN_OUTPUT
from mm_metering.ai.candidates import Candidates
from mm_metering.ai.holding import Holding
from mm_metering.ai.insight import CALL, TOKEN, AiUsage, CostRow, Insight, QuotaPrediction
from mm_metering.ai.prices import Prices
from mm_metering.ai.reservation import Reservation
from mm_metering.ai.scopes import scoped, scopes
from mm_metering.ai.wrap import Wrapped, is_async
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.clock import Clock
from mm_metering.core.catalogue import AiPolicy, Catalogue
from mm_metering.core.collecting import Notice
from mm_metering.core.events import whole_quantity
from mm_metering.core.identity import tenant_id
from mm_metering.core.money import Amount
from mm_metering.core.periods import parse_day, parse_period
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import MissingExtra, UnknownTenant
from mm_metering.gate.admission import Candidate, Share
from mm_metering.gate.gate import Gate
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.ai")

Client = TypeVar("Client")


class Unset:
    """Not named."""


UNSET: Final = Unset()


class AiCheck(NamedTuple):
    """A preview: nothing is held. ``reason`` is a code of the HTTP table, ``fallback_model`` what would run instead."""

    allowed: bool
    reason: str | None = None
    fallback_model: str | None = None

    def __bool__(self) -> bool:
        return self.allowed


class Ai:
    def __init__(
        self,
        gate: Gate,
        *,
        catalogue: Catalogue,
        clock: Clock,
        startup: Callable[[], Awaitable[None]],
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        from_sync: Callable[[Callable[[], Awaitable[None]]], None],
        override: Callable[[str, Mapping[str, Any]], Awaitable[object]],
        flush: Callable[[str], Awaitable[None]],
        flush_all: Callable[[], Awaitable[None]],
        tell: Callable[[Sequence[Notice]], Awaitable[object]],
        ledger: Ledger,
        measures: Measures | None = None,
    ) -> None:
        self._gate = gate
        self._catalogue = catalogue
        self._clock = clock
        self._startup = startup
        self._override = override
        self._flush = flush
        self._flush_all = flush_all
        self._ledger = ledger
        self._has_prices = False
        self.insight: Insight = Insight(ledger, catalogue=catalogue, clock=clock)
        self.prices: Prices = Prices.of_catalogue(catalogue.ai_prices)
        self._candidates = Candidates(catalogue, self.prices, clock=clock)
        self.holding: Holding = Holding(
            gate,
            ledger,
            self._candidates,
            clock=clock,
            keep=keep,
            from_sync=from_sync,
            flush_all=flush_all,
            tell=tell,
            measures=measures or Measures(),
        )
        gate.chores.append(self.holding.renew)

    # -- before a call ------------------------------------------------------------------------------------------------

    def reserve(
        self,
        tenant: str,
        model: str,
        *,
        input: object = None,
        input_tokens: int | None = None,
        tokens: int | None = None,
        max_output_tokens: int | None = None,
        min_output_tokens: int = MIN_OUTPUT,
        feature: str | None = None,
        user: str | None = None,
        run: str | None = None,
    ) -> Reservation:
        """Holds the worst case of a call, or what the budgets leave of it: ``min_output_tokens`` of output at least.

        The input is a text or messages to be estimated, or ``input_tokens``; ``tokens`` are all at the input's rate.
        ``max_output_tokens``: 1,024 if absent. Where that does not fit, the plan's fallback model is tried in the same
        step. Entering raises BudgetExceeded ("budget-exceeded", "budget-busy"), ModelNotAllowed ("model-not-allowed",
        "model-unpriced"), QuotaExceeded, FeatureNotInPlan; InvalidInput for what is no call.
        """
        return Reservation(
            self.holding,
            self._ready,
            lambda: asked(
                tenant,
                model,
                input=input,
                input_tokens=input_tokens,
                tokens=tokens,
                max_output_tokens=max_output_tokens,
                min_output_tokens=min_output_tokens,
                feature=feature,
                user=user,
                run=run,
            ),
        )

    def scope(
        self,
        *,
        feature: str | None = None,
        user: str | None = None,
        run: str | None = None,
        cap: Amount | None = None,
    ) -> AbstractContextManager[None]:
        """Names whose cost the calls inside are: ``with metering.ai.scope(run="ticket-4812", cap="0.75"):``. They are
        charged to the tenant once, and count in the budgets of each scope as well; runs inside runs count in all of
        them. ``cap`` is the most that the run may come to in a month, in USD."""
        return scoped(scopes(feature=feature, user=user, run=run, cap=cap))

    async def _ready(self) -> None:
        """Open, and with prices: they are read off the event loop, which would stand still for half a second. Without
        the list, own prices must do."""
        await self._startup()
        if not self._has_prices:
            with suppress(MissingExtra):
                await asyncio.to_thread(self.prices.load)
            self._has_prices = True

    def wrap(self, client: Client, *, feature: str | None = None) -> Client:
        """A client of OpenAI or Anthropic whose ``create`` calls are reserved and settled for the tenant that is bound
        where they are made; streams, too. All else is the client's own. What would pass by the budget (``parse``, the
        ``stream`` helpers, batches, raw responses) is InvalidInput; ``.unwrapped`` is the client itself."""
        return cast(Client, Wrapped(client, self.reserve, is_async=is_async(client), feature=feature))

    async def check_request(self, tenant: str, model: str, tokens: int = 0) -> AiCheck:
        """Whether a call would run now: the list of models, then the quota of requests, then the money. A preview:
        ``reserve`` enforces."""
        read = whole_quantity(tokens, least=0, field="tokens")
        asked = Asked(tenant_id(tenant), model_name(model), read, 0, 0, scopes())
        await self._ready()
        policy, _ = await self._gate.ai_policy(asked.tenant)
        if not is_listed(asked.model, policy):
            return AiCheck(allowed=False, reason="model-not-allowed")
        first = self._candidates.one(asked, asked.model, policy)
        if first is None:
            return AiCheck(allowed=False, reason="model-unpriced", fallback_model=_fallback(policy, asked.model))
        looked = await self._gate.look(asked.tenant, first)
        if looked.allowed:
            return AiCheck(allowed=True)
        return AiCheck(allowed=False, reason=looked.decisions[0].reason, fallback_model=_fallback(policy, asked.model))

    # -- settings, and what was used ----------------------------------------------------------------------------------

    async def update_cost_config(
        self,
        tenant: str,
        *,
        daily_budget: Amount | Unset | None = UNSET,
        monthly_budget: Amount | Unset | None = UNSET,
        model_allowlist: Sequence[str] | Unset | None = UNSET,
        fallback_model: str | Unset | None = UNSET,
        on_unpriced: Literal["block", "allow"] | Unset = UNSET,
        budgets: Mapping[str, Mapping[str, Amount]] | Unset | None = UNSET,
    ) -> AiPolicy:
        """Budgets and models that a tenant has otherwise than its plan, from its next call on. ``budgets`` are those of
        scopes: ``{"user:*": {"daily": "1.00"}}``. What is not named stays; None takes it away. It ends with the next
        ``change_plan``. CatalogueError for what a plan may not say either."""
        given = {
            "daily_budget": daily_budget,
            "monthly_budget": monthly_budget,
            "model_allowlist": model_allowlist,
            "fallback_model": fallback_model,
            "on_unpriced": on_unpriced,
            "budgets": budgets,
        }
        changes = {name: value for name, value in given.items() if not isinstance(value, Unset)}
        await self._startup()
        await self._gate.ai_policy(tenant)  # a tenant that is new here is made, as by its first request
        await self._override(tenant, {"ai": changes})
        return (await self._gate.ai_policy(tenant))[0]

    async def get_usage_stats(self, tenant: str, start: date | str, end: date | str) -> AiUsage:
        """Calls, tokens and provider cost of the local days from start to end, both included, in all and by model."""
        await self._flush(tenant_id(tenant))
        return await self.insight.usage(tenant, parse_day(start, "start"), parse_day(end, "end"))

    async def get_cost_report(
        self, period: str, *, tenant: str | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> list[CostRow]:
        """A month ("2024-01", in each tenant's zone) by tenant and model, of all tenants or one: the tenants in order,
        each one's dearest model first. ``progress`` is told how many tenants are done."""
        parse_period(period)
        await self._startup()
        await (self._flush_all() if tenant is None else self._flush(tenant_id(tenant)))
        if tenant is not None:
            return await self.insight.costs(await self._row(tenant), period)
        found, done = list[CostRow](), 0
        async for page in tenant_pages(self._ledger):
            for row in page:
                found += await self.insight.costs(row, period)
                progress(done := done + 1)
        return found

    async def get_quota_prediction(self, tenant: str) -> QuotaPrediction:
        """What is left of quotas and budgets, what the month will cost, and what to do about it."""
        await self._flush(tenant_id(tenant))
        row = await self._row(tenant)
        policy, _ = await self._gate.ai_policy(tenant)
        left = {event: await self._left(tenant, event) for event in (CALL, TOKEN)}
        return await self.insight.predict(row, policy, requests_left=left[CALL], tokens_left=left[TOKEN])

    async def _row(self, tenant: str) -> TenantRow:
        row = await self._ledger.tenant(tenant)
        if row is None:
            raise UnknownTenant(f"tenant {tenant[:60]!r} is not known; put_tenant makes it")
        return row

    async def _left(self, tenant: str, event: str) -> int | None:
        """Of the tightest quota in units; None where nothing limits it."""
        meters = [each.name for each in self._catalogue.meters.values() if each.event == event and each.unit != "money"]
        shares = tuple(Share(meter, 0, 0) for meter in meters)
        looked = await self._gate.look(tenant, Candidate(event, event, shares))
        blocking = [each.remaining for each in looked.decisions if each.remaining is not None and not each.overage]
        return min((int(each) for each in blocking), default=None)


def _fallback(policy: AiPolicy, model: str) -> str | None:
    return None if policy.fallback_model == model else policy.fallback_model
