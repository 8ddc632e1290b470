"""The calls of this process that something is held for: opened, written, renewed; and those of ended processes."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from mm_metering.ai.asking import Asked
from mm_metering.ai.calls import AiCall, Settled
from mm_metering.ai.candidates import Candidates
from mm_metering.ai.hold_facts import Note, close_facts, hold_fact, renewal
from mm_metering.ai.observed import CallSpan, ObservedCalls
from mm_metering.backends.ledger import FIRST_HOLD, Ledger, hold_key
from mm_metering.clock import Clock
from mm_metering.core.alerting import unpriced
from mm_metering.core.catalogue import AiPolicy
from mm_metering.core.collecting import Notice
from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact, void
from mm_metering.core.periods import from_micros, micros
from mm_metering.errors import ModelNotAllowed, StoreUnavailable
from mm_metering.gate.admission import Candidate
from mm_metering.gate.context import Bound, bound_or_none
from mm_metering.gate.gate import Gate
from mm_metering.gate.holds import Held
from mm_metering.gate.refusals import raise_if_refused
from mm_metering.telemetry.instruments import RESERVATIONS
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.ai")

LASTS_US: Final = 600_000_000
"""How long a hold lasts."""
MOST_US: Final = 86_400_000_000
"""How long it may be renewed."""
LATE_US: Final = 60_000_000
"""How much later it is expired: what was settled in time is in the ledger by then."""
PAGE: Final = 100
SAME_INSTANT: Final = 200
"""Facts of a tenant that are looked through for one of a known instant."""


class Abandoned(Exception):
    """Nobody was left to say what a call was."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenCall:
    """A call with what is held for it, until ``expires_us`` unless that is renewed; the block or request that it is
    made in, and the task."""

    asked: Asked
    call: AiCall
    held: Held
    expires_us: int
    bound: Bound | None
    task: asyncio.Task[Any] | None
    span: CallSpan | None = None
    is_written: bool = False

    @property
    def outlives(self) -> bool:
        """Whether a task of its own still works on it, which outlives the block or request."""
        return self.task is not None and not self.task.done() and self.task is not _task_here()


class Holding:
    """``keep`` runs work that goes on where its caller is cancelled; ``from_sync`` runs it for a caller that is not
    async. ``tell`` is told of models without a price."""

    def __init__(
        self,
        gate: Gate,
        ledger: Ledger,
        candidates: Candidates,
        *,
        clock: Clock,
        keep: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        from_sync: Callable[[Callable[[], Awaitable[None]]], None],
        flush_all: Callable[[], Awaitable[None]],
        tell: Callable[[Sequence[Notice]], Awaitable[object]],
        measures: Measures,
    ) -> None:
        self.from_sync = from_sync
        self.reading_on: set[asyncio.Task[None]] = set()
        """Streams that are read on in the background, since their reader has left."""
        self._gate = gate
        self._ledger = ledger
        self._candidates = candidates
        self._clock = clock
        self._keep = keep
        self._flush_all = flush_all
        self._tell = tell
        self._running: dict[str, weakref.ref[OpenCall]] = {}
        self._observed = ObservedCalls(measures)
        measures.answer(RESERVATIONS, lambda: [("", len(self._running))])

    async def open(self, asked: Asked) -> OpenCall:
        """Held, or the Refused that fits."""
        policy, plan = await self._gate.ai_policy(asked.tenant)
        try:
            candidates = self._candidates.all(asked, policy, plan)
        except ModelNotAllowed as error:
            self._gate.observed.refused(asked.tenant, plan, error.decisions[0])
            raise
        held = await self._gate.hold(asked.tenant, candidates, lasts_us=LASTS_US)
        if not isinstance(held, Held):
            raise_if_refused(_with_fallback(held.decisions, policy), self._clock.now())
            raise AssertionError("a hold that was refused has a decision that says why")
        call = self._candidates.call(asked, held)
        opened = OpenCall(asked, call, held, held.expires_us, bound_or_none(), _task_here(), self._observed.begin(call))
        self._running[held.id] = weakref.ref(opened)
        if opened.bound is not None:
            opened.bound.unsettled[held.id] = lambda: self.leave(opened)
        return opened

    def open_sync(self, work: Callable[[], Awaitable[OpenCall]]) -> OpenCall:
        """Opens one for a caller that is not async."""
        found: list[OpenCall] = []

        async def opening() -> None:
            found.append(await work())

        self.from_sync(opening)
        return found[0]

    def write_sync(self, done: OpenCall) -> None:
        self.from_sync(lambda: self.write(done))

    def leave(self, opened: OpenCall) -> None:
        """Its request is over: what is still open is settled by what was seen, and written in the background. A task
        that goes on settles its own."""
        if opened.is_written or opened.outlives:
            return
        if opened.call.is_open and opened.call.left_behind is not None:
            opened.call.left_behind()
        opened.call.end(Abandoned("the request is over"))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.from_sync(lambda: self.write(opened))
        else:
            self._keep(self.write(opened))

    async def write(self, done: OpenCall) -> None:
        """States what the call was. It goes on where its caller is cancelled; a second time changes nothing."""
        if done.is_written:
            return
        done.is_written = True
        self._running.pop(done.held.id, None)
        if done.bound is not None:
            done.bound.unsettled.pop(done.held.id, None)
        await asyncio.shield(self._keep(self._write(done)))

    async def _write(self, done: OpenCall) -> None:
        self._observed.over(done.call, done.span)
        held, settled = done.held, done.call.settled
        if settled is None:
            await self._gate.close(held, [void(hold_fact(held))])
            return
        facts, before = close_facts(held, settled, name="close"), list[Fact]()
        if micros(self._clock.now()) >= done.expires_us:
            expired = close_facts(held, replace(settled, tokens=1), name="expired")
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

    async def leave_off(self) -> None:
        """Streams that are read on in the background here are what was seen of them."""
        here = [each for each in self.reading_on if each.get_loop() is asyncio.get_running_loop()]
        for task in here:
            task.cancel()
        await asyncio.gather(*here, return_exceptions=True)

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
                await self._gate.post(opened.held.tenant, [renewal(opened.held, until_us)])
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
        candidate = Candidate(hold.event_type, hold.resource, (), hold.metadata)
        note = Note.in_(candidate)
        settled = Settled(note.floor, note.tokens, "expired", "input alone")
        held = Held(hold.id, hold.tenant, candidate, 0, {}, hold.occurred_us, hold.occurred_us + LASTS_US)
        log.warning("an AI call of %r on %s was never settled: its input is charged", hold.tenant, hold.resource)
        await self._gate.close(held, close_facts(held, settled, name="expired"))
        self._observed.count(hold.resource, settled)


def _task_here() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return None


def _with_fallback(decisions: tuple[Decision, ...], policy: AiPolicy) -> tuple[Decision, ...]:
    return tuple(each.model_copy(update={"fallback_model": policy.fallback_model}) for each in decisions)
