"""``metering.ai``: reserve before a call, settle after it. No budget is overshot by calls that keep to their cap.

Owns: which models a tenant may use, what a call is held for, what is written when it is over.
Does not own: the rule and its numbers (gate), prices (``prices``), what a reply says (``replies``, ``streams``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import date
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

from mm_metering.ai import estimate, tracking
from mm_metering.ai.calls import AiCall, Settled
from mm_metering.ai.insight import CALL, TOKEN, AiUsage, CostRow, Insight, QuotaPrediction
from mm_metering.ai.names import parse
from mm_metering.ai.prices import Prices
from mm_metering.ai.scopes import scoped, scopes
from mm_metering.ai.wrap import Wrapped, is_async
from mm_metering.backends.ledger import FIRST_HOLD, Ledger, hold_key, tenant_pages
from mm_metering.clock import Clock
from mm_metering.core.alerting import unpriced
from mm_metering.core.catalogue import AI_COST_METER, AiPolicy, Catalogue
from mm_metering.core.collecting import Notice
from mm_metering.core.decision import Decision
from mm_metering.core.events import whole_quantity
from mm_metering.core.facts import Count, Fact, void
from mm_metering.core.identity import tenant_id
from mm_metering.core.money import Amount
from mm_metering.core.periods import from_micros, micros, parse_day, parse_period
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import InvalidInput, MissingExtra, StoreUnavailable, UnknownTenant
from mm_metering.gate.admission import Candidate, Scope, Share
from mm_metering.gate.context import bound_or_none
from mm_metering.gate.gate import Gate
from mm_metering.gate.holds import Held
from mm_metering.gate.refusals import raise_if_refused

log = logging.getLogger("mm_metering.ai")

Client = TypeVar("Client")

MIN_OUTPUT: Final = 64
USUAL_OUTPUT: Final = 1_024
"""Output tokens that are held for a call which names no maximum."""
MAX_NAME: Final = 200
LASTS_US: Final = 600_000_000
"""How long a hold lasts."""
MOST_US: Final = 86_400_000_000
"""How long it may be renewed."""
LATE_US: Final = 60_000_000
"""How much later it is expired: what was settled in time is in the ledger by then."""
PAGE: Final = 100
SAME_INSTANT: Final = 200
"""Facts of a tenant that are looked through for one of a known instant."""


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


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it was asked for."""

    tenant: str
    model: str
    input_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    scopes: tuple[Scope, ...] = ()

    def scopes_of(self, model: str) -> tuple[Scope, ...]:
        """With that of the model that it is made to."""
        return (*self.scopes, Scope(f"model:{model}"))


class Reservation:
    """``async with metering.ai.reserve(...) as call``, or ``with`` where the caller is not async: Refused where the
    call may not run, and then nothing is held."""

    def __init__(self, ai: Ai, asked: Callable[[], Asked]) -> None:
        self._ai = ai
        self._asked = asked
        self._open: OpenCall | None = None

    async def __aenter__(self) -> AiCall:
        return self._entered(await self._ai.open(self._asked()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if opened := self._ended(error):
            await self._ai.write(opened)

    def __enter__(self) -> AiCall:
        return self._entered(self._ai.open_sync(self._asked()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if opened := self._ended(error):
            self._ai.write_sync(opened)

    def _entered(self, opened: OpenCall) -> AiCall:
        self._open, call = opened, opened.call
        call.is_limited = bool(opened.held.grants)
        tracking.attach(call, write=lambda: self._ai.write(opened), from_sync=self._ai._from_sync, later=self._later)
        return call

    def _ended(self, error: BaseException | None) -> OpenCall | None:
        """What is to be written; nothing while a stream goes on."""
        assert self._open is not None
        call = self._open.call
        if call.is_open and call.left_behind is not None:
            if error is None:
                return None
            call.left_behind()
        call.end(error)
        return None if call.goes_on else self._open

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody else writes it meanwhile."""
        assert self._open is not None
        self._open.is_written = True
        self._ai._keep(self._written_after(work, self._open))

    async def _written_after(self, work: Coroutine[Any, Any, None], opened: OpenCall) -> None:
        await work
        opened.is_written = False
        await self._ai.write(opened)


class Abandoned(Exception):
    """Nobody was left to say what a call was."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenCall:
    """A call with what is held for it, until ``expires_us`` unless that is renewed."""

    asked: Asked
    call: AiCall
    held: Held
    expires_us: int
    is_written: bool = False


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
    ) -> None:
        self._gate = gate
        self._catalogue = catalogue
        self._clock = clock
        self._startup = startup
        self._keep = keep
        self._from_sync = from_sync
        self._override = override
        self._flush = flush
        self._flush_all = flush_all
        self._tell = tell
        self._ledger = ledger
        self._has_prices = False
        self._running: dict[str, weakref.ref[OpenCall]] = {}
        self.insight = Insight(ledger, catalogue=catalogue, clock=clock)
        self.prices = Prices.of_catalogue(catalogue.ai_prices)

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
            self,
            lambda: self.asked(
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

    @staticmethod
    def asked(
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
    ) -> Asked:
        """The call that ``reserve`` asks for, checked."""
        read = _input(input, input_tokens, tokens)
        most = 0 if tokens is not None and max_output_tokens is None else USUAL_OUTPUT
        if max_output_tokens is not None:
            most = whole_quantity(max_output_tokens, least=0, field="max_output_tokens")
        least = min(whole_quantity(min_output_tokens, least=0, field="min_output_tokens"), most)
        named = scopes(feature=feature, user=user, run=run)
        return Asked(tenant_id(tenant), _model(model), read, most, least, named)

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

    async def open(self, asked: Asked) -> OpenCall:
        """Held, or the Refused that fits."""
        await self._ready()
        policy, plan = await self._gate.ai_policy(asked.tenant)
        candidates = self._candidates(asked, policy, plan)
        held = await self._gate.hold(asked.tenant, candidates, lasts_us=LASTS_US)
        if not isinstance(held, Held):
            raise_if_refused(_with_fallback(held.decisions, policy), self._clock.now())
            raise AssertionError("a hold that was refused has a decision that says why")
        opened = OpenCall(asked, self._call(asked, held), held, held.expires_us)
        self._running[held.id] = weakref.ref(opened)
        if (bound := bound_or_none()) is not None:
            bound.unsettled.append(lambda: self.leave(opened))
        return opened

    async def _ready(self) -> None:
        """Open, and with prices: they are read off the event loop, which would stand still for half a second. Without
        the list, own prices must do."""
        await self._startup()
        if not self._has_prices:
            with suppress(MissingExtra):
                await asyncio.to_thread(self.prices.load)
            self._has_prices = True

    def open_sync(self, asked: Asked) -> OpenCall:
        """The same for a caller that is not async."""
        found: list[OpenCall] = []

        async def opening() -> None:
            found.append(await self.open(asked))

        self._from_sync(opening)
        return found[0]

    def write_sync(self, done: OpenCall) -> None:
        self._from_sync(lambda: self.write(done))

    def wrap(self, client: Client, *, feature: str | None = None) -> Client:
        """A client of OpenAI or Anthropic whose ``create`` calls are reserved and settled for the tenant that is bound
        where they are made; streams, too. All else is the client's own. What would pass by the budget (``parse``, the
        ``stream`` helpers, batches, raw responses) is InvalidInput; ``.unwrapped`` is the client itself."""
        return cast(Client, Wrapped(client, self, is_async=is_async(client), feature=feature))

    def leave(self, opened: OpenCall) -> None:
        """Its request is over: what is still open is settled by what was seen, and written in the background."""
        if opened.is_written:
            return
        if opened.call.is_open and opened.call.left_behind is not None:
            opened.call.left_behind()
        opened.call.end(Abandoned("the request is over"))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._from_sync(lambda: self.write(opened))
        else:
            self._keep(self.write(opened))

    def _candidates(self, asked: Asked, policy: AiPolicy, plan: str) -> list[Candidate]:
        """The asked model, then the fallback. ModelNotAllowed for one that is not on the list, which is never swapped,
        or that has no price under a money budget."""
        if not _is_listed(asked.model, policy):
            self._refuse("model-not-allowed", plan)
        models = [asked.model]
        if policy.fallback_model and policy.fallback_model != asked.model and _is_listed(policy.fallback_model, policy):
            models.append(policy.fallback_model)
        found = [candidate for model in models if (candidate := self._candidate(asked, model, policy)) is not None]
        if not found or (found[0].resource != asked.model):
            self._refuse("model-unpriced", plan)
        return found

    def _candidate(self, asked: Asked, model: str, policy: AiPolicy) -> Candidate | None:
        """None for a model without a price that a budget needs."""
        scopes = asked.scopes_of(model)
        shares, note = [], {"floor": 0, "tokens": asked.input_tokens, "scopes": [each.name for each in scopes]}
        for meter in self._catalogue.meters_of(CALL, model):
            if meter.unit != "money":
                shares.append(Share(meter.name, 1, 1))
                continue
            costs = self._costs(asked, model)
            if costs is None:
                if policy.on_unpriced == "block" and _has_budget(policy, scopes):
                    return None
                continue
            floor, least, most = costs
            note["floor"] = floor
            shares.append(Share(meter.name, least, most, scopes if meter.name == AI_COST_METER else ()))
        for meter in self._catalogue.meters_of(TOKEN, model):
            least, most = asked.min_output_tokens, asked.max_output_tokens
            shares.append(Share(meter.name, asked.input_tokens + least, asked.input_tokens + most))
        return Candidate(CALL, model, tuple(shares), json.dumps(note))

    def _costs(self, asked: Asked, model: str) -> tuple[int, int, int] | None:
        """Nano-units of its input alone, with the least output, and with the most."""
        try:
            rates = self.prices.token_rates(model, asked.input_tokens, self._clock.now())
        except MissingExtra:
            rates = None
        if rates is None:
            return None
        read, least, most = asked.input_tokens, asked.min_output_tokens, asked.max_output_tokens
        costs = [rates.worst_case(read, output) for output in (0, least, most)]
        if any(each is None for each in costs):
            return None
        floor, low, high = (each or 0 for each in costs)
        return floor, low, high

    def _call(self, asked: Asked, held: Held) -> AiCall:
        """With the output that its grants pay for."""
        model, most = held.candidate.resource, asked.max_output_tokens
        granted = held.granted(AI_COST_METER)
        wanted = next((each.want for each in held.candidate.shares if each.meter == AI_COST_METER), 0)
        if granted is not None and granted < wanted:
            afford = self.prices.affordable_output(model, asked.input_tokens, granted, self._clock.now())
            most = min(most, afford or 0)
        for meter in self._catalogue.meters_of(TOKEN, model):
            tokens = held.granted(meter.name)
            if tokens is not None:
                most = min(most, tokens - asked.input_tokens)
        return AiCall(
            model=model,
            asked_model=asked.model,
            input_tokens=asked.input_tokens,
            max_output_tokens=max(0, most),
            granted_nanos=granted,
            floor_nanos=json.loads(held.candidate.note or "{}")["floor"],
            began_at=from_micros(held.taken_us),
            prices=self.prices,
        )

    def _refuse(self, reason: Literal["model-not-allowed", "model-unpriced"], plan: str) -> None:
        meters = [meter.name for meter in self._catalogue.meters.values() if meter.event == CALL]
        decision = Decision(allowed=False, meter=meters[0] if meters else CALL, requested=1, reason=reason, plan=plan)
        raise_if_refused((decision,), self._clock.now())

    async def check_request(self, tenant: str, model: str, tokens: int = 0) -> AiCheck:
        """Whether a call would run now: the list of models, then the quota of requests, then the money. A preview:
        ``reserve`` enforces."""
        read = whole_quantity(tokens, least=0, field="tokens")
        asked = Asked(tenant_id(tenant), _model(model), read, 0, 0, scopes())
        await self._ready()
        policy, _ = await self._gate.ai_policy(asked.tenant)
        if not _is_listed(asked.model, policy):
            return AiCheck(allowed=False, reason="model-not-allowed")
        first = self._candidate(asked, asked.model, policy)
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

    # -- after a call -------------------------------------------------------------------------------------------------

    async def write(self, done: OpenCall) -> None:
        """States what the call was. It goes on where its caller is cancelled; a second time changes nothing."""
        if done.is_written:
            return
        done.is_written = True
        self._running.pop(done.held.id, None)
        await asyncio.shield(self._keep(self._write(done)))

    async def _write(self, done: OpenCall) -> None:
        held, settled = done.held, done.call.settled
        if settled is None:
            await self._gate.close(held, [void(_hold_fact(held))])
            return
        scopes = [each.name for each in done.asked.scopes_of(held.candidate.resource)]
        facts, before = self.facts(held, settled, scopes, name="close"), list[Fact]()
        if micros(self._clock.now()) >= done.expires_us:
            expired = self.facts(held, replace(settled, tokens=1), (), name="expired")
            facts += [void(fact) for fact in expired]
            ids = {fact.id for fact in expired}
            stored = await self._ledger.facts(held.tenant, after=(held.taken_us - 1, ""), limit=SAME_INSTANT)
            before = [fact for fact in stored if fact.id in ids]
        await self._gate.close(held, facts, instead_of=before)
        if settled.status == "unpriced":
            await self._tell_unpriced(held, settled)

    async def _tell_unpriced(self, held: Held, settled: Settled) -> None:
        day, missing = f"{from_micros(held.taken_us):%Y-%m-%d}", (settled.detail or {}).get("missing", ())
        with suppress(StoreUnavailable):  # the call itself is written; the next one tells it
            await self._tell([unpriced(held.tenant, held.candidate.resource, missing, day, self._clock.now())])

    async def renew(self) -> int:
        """Prolongs what is held for calls that still run here, from the half of its time on and for a day at most; how
        many. A chore of each process."""
        now_us, done = micros(self._clock.now()), 0
        for hold_id, known in list(self._running.items()):
            opened = known()
            if opened is None:  # its stream was dropped outside of a request
                self._running.pop(hold_id, None)
            elif opened.expires_us - LASTS_US // 2 <= now_us < opened.held.taken_us + MOST_US:
                until_us = opened.expires_us + LASTS_US
                await self._gate.post(opened.held.tenant, [_renewal(opened.held, until_us)])
                opened.expires_us, done = until_us, done + 1
        return done

    async def expire(self) -> int:
        """Charges the input of calls that nobody settled for longer than a hold lasts: their process is gone. How
        many. A late settle replaces that."""
        now_us, done, after = micros(self._clock.now()), 0, FIRST_HOLD
        while holds := await self._ledger.overdue_holds(now_us - LASTS_US - LATE_US, after=after, limit=PAGE):
            overdue = [hold for hold in holds if await self._renewed_us(hold) <= now_us - LATE_US]
            for hold in overdue:
                await self._expire(hold)
            done, after = done + len(overdue), hold_key(holds[-1])
        if done:
            await self._flush_all()
        return done

    async def end(self, holds: Iterable[Fact]) -> None:
        """Charges the input of calls that nobody is to settle any more."""
        for hold in holds:
            await self._expire(hold)

    async def _renewed_us(self, hold: Fact) -> int:
        """Until when it was renewed."""
        beside = await self._ledger.facts(hold.tenant, after=(hold.occurred_us, hold.id), limit=SAME_INSTANT)
        renewed = (each.quantity for each in beside if each.target == hold.id and not each.event_type)
        return max(renewed, default=hold.occurred_us + LASTS_US)

    async def _expire(self, hold: Fact) -> None:
        note = json.loads(hold.metadata or "{}")
        floor, tokens, scopes = (note.get(name, other) for name, other in (("floor", 0), ("tokens", 0), ("scopes", ())))
        settled = Settled(floor, tokens, "expired", "input alone")
        candidate = Candidate(hold.event_type, hold.resource, ())
        held = Held(hold.id, hold.tenant, candidate, 0, {}, hold.occurred_us, hold.occurred_us + LASTS_US)
        log.warning("an AI call of %r on %s was never settled: its input is charged", hold.tenant, hold.resource)
        await self._gate.close(held, self.facts(held, settled, scopes, name="expired"))

    def facts(self, held: Held, settled: Settled, scopes: Sequence[str], *, name: str) -> list[Fact]:
        """Its close, and its tokens beside it."""
        model = held.candidate.resource
        detail = {"status": settled.status, "source": settled.source, **(settled.detail or {}), **_counts(settled)}
        counts = [
            Count(meter.name, scope, settled.nanos if meter.unit == "money" else 1)
            for meter in self._catalogue.meters_of(CALL, model)
            for scope in ("", *(scopes if meter.unit == "money" else ()))
        ]
        close = Fact("", 0, "close", "", CALL, model, 1, settled.nanos, tuple(counts))
        close = held.closed(close._replace(metadata=json.dumps(detail)), name=name)
        if not settled.tokens:
            return [close]
        tokens = tuple(Count(meter.name, "", settled.tokens) for meter in self._catalogue.meters_of(TOKEN, model))
        beside = close._replace(id=f"{close.id}:{TOKEN}", kind="use", event_type=TOKEN, quantity=settled.tokens)
        return [close, beside._replace(cost_nanos=None, counts=tokens, target=None, metadata=None)]


def _renewal(held: Held, until_us: int) -> Fact:
    """A fact that counts nowhere, beside the hold's."""
    fact = Fact(
        f"{held.id}.renewed.{until_us}", held.taken_us, "use", held.tenant, "", held.candidate.resource, 0, None, ()
    )
    return fact._replace(quantity=until_us, target=held.id)


def _hold_fact(held: Held) -> Fact:
    each = held.candidate
    return Fact(held.id, held.taken_us, "hold", held.tenant, each.event_type, each.resource, 1, None, ())


def _counts(settled: Settled) -> dict[str, Any]:
    usage = settled.usage
    if usage is None:
        return {}
    named = {"input": usage.input, "cached": usage.cached, "output": usage.output, "reasoning": usage.reasoning}
    return {name: count for name, count in named.items() if count}


def _input(prompt: object, input_tokens: int | None, tokens: int | None) -> int:
    given = [each for each in (input_tokens, tokens) if each is not None]
    if len(given) + (prompt is not None) != 1:
        raise InvalidInput("input", "give one of input, input_tokens and tokens")
    if given:
        return whole_quantity(given[0], least=0, field="input_tokens" if input_tokens is not None else "tokens")
    return estimate.input_tokens(prompt)


def _model(model: object) -> str:
    if not isinstance(model, str) or not 1 <= len(model) <= MAX_NAME or not model.isprintable():
        raise InvalidInput("model", f"is not the name of a model: 1 to {MAX_NAME} printable characters")
    return model


def _is_listed(model: str, policy: AiPolicy) -> bool:
    """By any of its names: "openai/gpt-4" is "gpt-4"."""
    if policy.model_allowlist is None:
        return True
    name = parse(model)
    forms = set(name.forms) if name is not None else set()
    return model in policy.model_allowlist or not forms.isdisjoint(policy.model_allowlist)


def _has_budget(policy: AiPolicy, scopes: Sequence[Scope]) -> bool:
    if policy.daily_budget is not None or policy.monthly_budget is not None:
        return True
    return any(each.cap is not None or policy.limits_of(each.name) for each in scopes)


def _fallback(policy: AiPolicy, model: str) -> str | None:
    return None if policy.fallback_model == model else policy.fallback_model


def _with_fallback(decisions: tuple[Decision, ...], policy: AiPolicy) -> tuple[Decision, ...]:
    return tuple(each.model_copy(update={"fallback_model": policy.fallback_model}) for each in decisions)
