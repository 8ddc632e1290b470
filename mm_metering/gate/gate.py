"""The gate: takes and posts for every tenant of this process.

Each event loop has its own lanes. A take prepares its lines from the tenant's view, submits them to the shard's lane
and turns the answer into an Admission; a miss loads the tenant from the ledger first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from mm_metering import failpoints
from mm_metering.backends.counters import (
    ANY_REVISION,
    MAX_BATCH,
    START,
    Append,
    Counters,
    Denied,
    Done,
    Load,
    Miss,
    NotLoaded,
    Post,
    Retag,
    Take,
    Taken,
    position_key,
    shard_of,
)
from mm_metering.backends.ledger import Ledger, ShardRow, Snapshot
from mm_metering.clock import Clock, micros_of
from mm_metering.core.catalogue import AiPolicy, Catalogue, Plan
from mm_metering.core.cells import moves_a_cell
from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact, decode, encode, void
from mm_metering.core.identity import tenant_id
from mm_metering.core.lifecycles import TRIAL
from mm_metering.core.periods import from_micros, zone
from mm_metering.core.rating import plan_label
from mm_metering.core.tenancy import TenantDefaults, TenantRow, refuse_forgotten
from mm_metering.errors import StoreUnavailable, UnknownTenant
from mm_metering.gate import loading
from mm_metering.gate.admission import Admission, Candidate, Wish
from mm_metering.gate.adoption import ADOPT_S, Adopter
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.decisions import Granted, decisions, refused_all
from mm_metering.gate.first_refusals import FirstRefusals
from mm_metering.gate.flight import Fate, Outcome
from mm_metering.gate.holds import Held
from mm_metering.gate.journal import Journal
from mm_metering.gate.journal_file import Directory, Item
from mm_metering.gate.loops import Loops
from mm_metering.gate.observed import Observed
from mm_metering.gate.plans import PlanBook
from mm_metering.gate.pulse import Pulse
from mm_metering.gate.reports import Reports
from mm_metering.gate.seldom import Seldom
from mm_metering.gate.snapshots import Snapshots
from mm_metering.gate.tenants import View, Views
from mm_metering.gate.terms import Terms, overruled
from mm_metering.gate.windows import PlanWindows, Prepared, counted_meters, new_fact
from mm_metering.telemetry.instruments import JOURNAL_AGE, JOURNAL_DEPTH, OUTAGE
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.gate")

LOAD_RETRY_S = 0.02
LOAD_PATIENCE = 15
"""A load goes on for that many times as long as a caller waits for it: where thousands are loaded at once, the tenant's
next caller will find it further on."""
MAX_WINDOWS = 4096
"""Most plan versions x time zones that are kept; past it all are made anew."""
RETAG_TRIES = 50


class Drain(Protocol):
    """Folds what the stream holds of a shard into the ledger, now; the worker does it continuously."""

    def __call__(self, shard: int) -> Awaitable[object]: ...


class Gate:
    """One per Metering; used from any number of event loops. ``store``: what watchers call its counters."""

    def __init__(
        self,
        counters: Counters,
        ledger: Ledger,
        *,
        catalogue: Catalogue,
        plans: PlanBook,
        clock: Clock,
        drain: Drain,
        new_id: Callable[[], str],
        defaults: Callable[[], TenantDefaults],
        timing: Timing | None = None,
        journal: Directory | None = None,
        measures: Measures | None = None,
        store: str = "",
    ) -> None:
        self._counters = counters
        self._ledger = ledger
        self._catalogue = catalogue
        self._plans = plans
        self._now_us = micros_of(clock)
        self._drain = drain
        self._new_id = new_id
        self._defaults = defaults
        self._timing = timing or Timing()
        self._journal = journal
        self._loops = Loops(self._new_lane)
        self._lane_of = self._loops.lane
        self._adopter = None
        if journal is not None:
            self._adopter = Adopter(journal, shards=counters.shards, lane_of=self._lane_of, shard_of=self.shard_of)
        self._views = Views()
        self._terms: tuple[Terms, ...] = ()
        self._fresh: set[str] | None = None
        self._windows: dict[tuple[str, str, int], PlanWindows] = {}
        self._reports = Reports(new_id())
        self.observed: Observed = self._observed_by(measures or Measures(), store)
        self._first_refusals = FirstRefusals()
        self._not_loaded = Seldom(log, "tenants not loaded in time")
        self.chores: list[Callable[[], Awaitable[object]]] = []

    def _observed_by(self, measures: Measures, store: str) -> Observed:
        self._pulse = Pulse(measures, store or type(self._counters).__name__)
        measures.answer(OUTAGE, self._outages)
        measures.answer(JOURNAL_DEPTH, lambda: [("", self.journal_facts)])
        measures.answer(JOURNAL_AGE, lambda: [("", max((lane.waits_s for lane in self._loops.lanes()), default=0.0))])
        money = (meter.name for meter in self._catalogue.meters.values() if meter.unit == "money")
        return Observed(measures, money=frozenset(money))

    # -- takes --------------------------------------------------------------------------------------------------------

    async def take(self, tenant: str, wishes: Sequence[Wish], *, look: bool = False) -> Admission:
        """Counts all wishes or none; with ``look`` it counts nothing and only answers.

        Raises StoreUnavailable where the counters do not answer and a meter's policy is to deny; UnknownTenant.
        """
        wanted = wishes if type(wishes) is tuple else tuple(wishes)
        now_us = self._now_us()
        view, give_up = self._views.get(tenant, now_us), 0.0
        if view is None:
            view, give_up = await self._first_view(tenant_id(tenant))
        lane = self._lane_of(view.shard)
        while True:
            now_us = max(now_us, view.starts_us)
            looks = (
                look or not wanted or bool(view.refused_as)
            )  # it still asks: only the counters know whether that is over
            fact_id = "" if looks else self._new_id()
            asked = view.windows.prepare(wanted, now_us)
            op = view.take(asked, lane.generation, fact_id, now_us)
            answer = lane.submit(op, allow=asked.allowed_in_outage and not looks)
            try:
                outcome = await answer
            except asyncio.CancelledError:
                lane.take_back(op, answer)
                raise
            if isinstance(outcome, Taken) and not view.refused_as:
                if op.payloads and not op.hold:
                    self._reports.acknowledged(view.shard, op.payloads[outcome.chosen])
                    self.observed.granted(view, asked, outcome.states)
                return Granted(view, asked, outcome.states, fact_id, now_us)
            give_up = give_up or lane.time() + self._timing.load_s
            if isinstance(outcome, Miss):
                if await self._load(lane, tenant, outcome.barrier, give_up):
                    now_us = self._now_us()
                    view = self._views.get(tenant, now_us) or view
                    continue
                outcome = self._instead_of_load(lane, op, allow=asked.allowed_in_outage)
            if outcome is not Fate.AGAIN or lane.time() >= give_up:
                return self._not_granted(view, asked, outcome, op, now_us)
            now_us = self._now_us()

    @staticmethod
    def _instead_of_load(lane: Lane, op: Take, *, allow: bool) -> Fate:
        """The outage policy for a tenant that cannot be loaded in time."""
        if not allow or not op.payloads:
            return Fate.UNAVAILABLE
        lane.append_later([(op.tenant, op.payloads[0])])
        return Fate.ALLOWED

    def _not_granted(self, view: View, asked: Prepared, outcome: Outcome, op: Take, now_us: int) -> Admission:
        if view.refused_as:
            return self._refusal(view, refused_all(asked, view.plan, view.refused_as), asked, op, now_us)
        match outcome:
            case Denied(states=states):
                answers = decisions(asked, states, view.plan, now_us, allowed=False)
                return self._refusal(view, answers, asked, op, now_us)
            case Fate.ALLOWED:
                self._reports.acknowledged(view.shard, op.payloads[0])
                facts = tuple(map(decode, op.payloads[0].split(b"\n")))
                self.observed.degraded(view, facts)
                return Admission(view.tenant, view.plan, allowed=True, facts=facts, degraded=True)
            case _:
                if op.payloads:
                    self.observed.unavailable(view)
                raise StoreUnavailable(
                    "counters: no answer in time, so this was not allowed and nothing was counted; "
                    'try again, or set on_outage = "allow" on the meter'
                )

    def _refusal(self, view: View, answers: tuple[Decision, ...], asked: Prepared, op: Take, now_us: int) -> Admission:
        """What is refused counts once per meter and in its units, whichever of its limits refuse; a cap answers in
        money. A look refuses nobody."""
        refused = {answer.meter for answer in answers if not answer.allowed}
        for meter, units in asked.amounts() if op.payloads else ():
            if meter in refused:
                self._reports.refused(view, meter, units, now_us)
        if op.payloads or view.refused_as:
            self.observed.refused(view.tenant, view.plan, answers[0])
        if op.payloads:
            for answer in answers:
                if not answer.allowed:
                    self._first_refusals.add(view.tenant, answer, from_micros(now_us))
        return Admission(view.tenant, view.plan, allowed=False, decisions=answers)

    async def reverse(self, admission: Admission, *, meters: Collection[str] | None = None) -> bool:
        """Takes back what an admission counted, in the windows it was counted in: in these meters, or in all. A second
        time changes nothing.

        A fact that stays in some meters is taken back and stated again without the others. Answers like ``post``.
        """
        if not admission.facts or admission.taken_back:
            return True
        split = [(fact, *_split(fact, meters)) for fact in admission.facts]
        split = [each for each in split if meters is None or each[1].counts]
        if not split:
            return True
        admission.taken_back = True
        self._reports.taken_back(self.shard_of(admission.tenant), (fact for fact, _, _ in split))
        written = [void(fact) for fact, _, _ in split] + [kept for _, _, kept in split if kept.counts]
        return await self._post(admission.tenant, [dropped for _, dropped, _ in split], written, sign=-1)

    # -- reservations -------------------------------------------------------------------------------------------------

    async def hold(self, tenant: str, candidates: Sequence[Candidate], *, lasts_us: int) -> Held | Admission:
        """Reserves the first candidate that fits, or refuses with decisions about the first. Raises like ``take``."""
        view, asked, op, outcome, now_us = await self._asked(tenant, candidates, lasts_us=lasts_us)
        if isinstance(outcome, Taken) and not view.refused_as:
            self.observed.held(view)
            return self._held(view, candidates, op, outcome, now_us)
        if outcome is Fate.ALLOWED:
            self.observed.degraded(view, ())
            return Held(op.hold, tenant, candidates[0], 0, {}, now_us, op.expires_us, degraded=True)
        return self._not_granted(view, asked, outcome, op, now_us)

    async def look(self, tenant: str, candidate: Candidate) -> Admission:
        """Whether it would be reserved now; nothing is."""
        view, asked, op, outcome, now_us = await self._asked(tenant, (candidate,), lasts_us=None)
        if isinstance(outcome, Taken) and not view.refused_as:
            answers = decisions(asked, outcome.states, view.plan, now_us, allowed=True)
            return Admission(view.tenant, view.plan, allowed=True, decisions=answers)
        return self._not_granted(view, asked, outcome, op, now_us)

    async def _asked(
        self, tenant: str, candidates: Sequence[Candidate], *, lasts_us: int | None
    ) -> tuple[View, Prepared, Take, Outcome, int]:
        """What the counters say to a reservation, and when; without ``lasts_us`` it is only looked at. As ``take``."""
        now_us = self._now_us()
        view, give_up = self._views.get(tenant, now_us), 0.0
        if view is None:
            view, give_up = await self._first_view(tenant_id(tenant))
        lane = self._lane_of(view.shard)
        while True:
            now_us = max(now_us, view.starts_us)
            asked, looks = view.windows.prepare_hold(candidates, now_us), lasts_us is None or bool(view.refused_as)
            op = view.hold(asked, lane.generation, self._new_id(), now_us, now_us + (lasts_us or 0))
            if looks:
                op = op._replace(payloads=(), hold="", expires_us=0)
            allow = asked.allowed_in_outage and not looks
            answer = lane.submit(op, allow=allow)
            try:
                outcome = await answer
            except asyncio.CancelledError:
                lane.take_back(op, answer)
                raise
            give_up = give_up or lane.time() + self._timing.load_s
            if isinstance(outcome, Miss):
                if await self._load(lane, tenant, outcome.barrier, give_up):
                    now_us = self._now_us()
                    view = self._views.get(tenant, now_us) or view
                    continue
                outcome = self._instead_of_load(lane, op, allow=allow)
            if outcome is not Fate.AGAIN or lane.time() >= give_up:
                return view, asked, op, outcome, now_us
            now_us = self._now_us()

    @staticmethod
    def _held(view: View, candidates: Sequence[Candidate], op: Take, outcome: Taken, now_us: int) -> Held:
        lines = op.alternatives[outcome.chosen]
        meters = dict.fromkeys(line.slot.meter for line in lines)
        grants = dict(zip(meters, outcome.grants, strict=True))
        chosen = candidates[outcome.chosen]
        return Held(op.hold, view.tenant, chosen, outcome.chosen, grants, now_us, op.expires_us, outcome.states)

    async def ai_policy(self, tenant: str) -> tuple[AiPolicy, str]:
        """The tenant's rules for AI calls, and its plan."""
        view = self._views.get(tenant, self._now_us())
        if view is None:
            view, _ = await self._first_view(tenant_id(tenant))
        return view.windows.ai, view.plan

    async def close(self, held: Held, facts: Sequence[Fact], *, instead_of: Sequence[Fact] = ()) -> bool:
        """Ends a reservation with what was used: the first of ``facts`` is its close. ``instead_of`` is what was
        counted for it before, and is voided among ``facts``. Answers like ``post``."""
        lane, view = self._lane(held.tenant), await self._known_view(held.tenant)
        payload, tag = b"\n".join(encode(fact) for fact in facts), view.tag(lane.generation)
        counted = [fact for fact in facts if fact.kind != "void"]
        self._reports.taken_back(lane.shard, instead_of)
        op = Post(held.tenant, tag, view.deltas(counted, self._now_us()), payload, close=held.id)
        in_stream = self._acknowledged(lane, facts, await lane.submit(op, allow=True))
        self.observed.posted(view, counted)
        self.observed.taken_back(view, instead_of)
        return in_stream

    # -- posts --------------------------------------------------------------------------------------------------------

    async def refuse_forgotten(self, tenants: Iterable[str]) -> None:
        """WrongState if one of them was forgotten, as far as that is known here."""
        for tenant in tenants:
            view = await self._known_view(tenant)
            if view.row is not None:
                refuse_forgotten(view.row)

    async def post(self, tenant: str, facts: Sequence[Fact]) -> bool:
        """States what happened: never refused for a limit.

        Acknowledged when it returns: True, the facts stand in the stream; False, in this process's journal.
        """
        return await self._post(tenant_id(tenant), facts, facts, sign=1)

    async def _post(self, tenant: str, moved: Sequence[Fact], written: Sequence[Fact], *, sign: int) -> bool:
        lane, view = self._lane(tenant), await self._known_view(tenant)
        payload, tag = b"\n".join(encode(fact) for fact in written), view.tag(lane.generation)
        levels = any(fact.kind in ("set", "add") for fact in moved)
        op: Post | Append = Post(tenant, tag, view.deltas(moved, self._now_us(), sign=sign), payload)
        if levels:  # a level taken back: the ledger orders what is left
            op = Append(((tenant, payload),))
        in_stream = self._acknowledged(lane, written, await lane.submit(op, allow=True))
        (self.observed.posted if sign > 0 else self.observed.taken_back)(view, moved)
        return in_stream

    async def add(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """States that this was used now. Acknowledged when it returns, like ``post``."""
        tenant, now_us = tenant_id(tenant), self._now_us()
        facts = [new_fact(tenant, wish, counted_meters(self._catalogue, wish)) for wish in wishes]
        facts = [fact._replace(id=self._new_id(), occurred_us=now_us) for fact in facts]
        for level in (fact for fact in facts if fact.kind == "add"):
            await self.level(tenant, level)
        if sums := [fact for fact in facts if fact.kind != "add"]:
            await self.post(tenant, sums)

    async def append(self, tenant: str, facts: Sequence[Fact]) -> bool:
        """Writes facts that may be known already: nothing is counted here, the ledger takes each once.

        Answers like ``post``.
        """
        payload = b"\n".join(encode(fact) for fact in facts)
        return self._in_stream(await self._lane(tenant).submit(Append(((tenant, payload),)), allow=True))

    async def load_anew(self, facts: Iterable[Fact]) -> None:
        """Has the counters of these facts' tenants loaded anew, of which each has one that the ledger holds already.
        It goes through the stream once more, where it counts for nothing: a load that read the ledger before it held
        the fact is then behind its tenant's barrier (G6), which ``unload`` would not see to for one that is in flight.

        Like ``append``: where the counters do not answer, the journal sees to it. StoreUnavailable if it is full.
        """
        by_lane: dict[Lane, list[Item]] = {}
        for fact in facts:
            by_lane.setdefault(self._lane(fact.tenant), []).append((fact.tenant, encode(fact)))
        await asyncio.gather(*(self._append_all(lane, items) for lane, items in by_lane.items()))

    async def _append_all(self, lane: Lane, items: Sequence[Item]) -> None:
        """In parts, between which others of the shard have their turn."""
        for first in range(0, len(items), MAX_BATCH):
            self._in_stream(await lane.submit(Append(tuple(items[first : first + MAX_BATCH])), allow=True))

    async def level(self, tenant: str, fact: Fact) -> bool:
        """Sets or changes a level; never refused. Answers like ``post``."""
        lane, view = self._lane(tenant_id(tenant)), await self._known_view(tenant)
        payload, tag = encode(fact), view.tag(lane.generation)
        op = view.level_op(fact, tag, payload) or Post(tenant, tag, (), payload)
        return self._acknowledged(lane, (fact,), await lane.submit(op, allow=True))

    def _acknowledged(self, lane: Lane, facts: Sequence[Fact], outcome: Outcome) -> bool:
        in_stream = self._in_stream(outcome)
        for fact in facts:
            if moves_a_cell(fact):
                self._reports.acknowledged(lane.shard, encode(fact))
        return in_stream

    @staticmethod
    def _in_stream(outcome: Outcome) -> bool:
        if not isinstance(outcome, Done) and outcome is not Fate.ALLOWED:
            raise StoreUnavailable("counters: the journal is full; run a worker, then record this again")
        return outcome is not Fate.ALLOWED

    # -- tenants ------------------------------------------------------------------------------------------------------

    async def changed(self, row: TenantRow, *, keep: bool) -> None:
        """A tenant changed in the ledger: in force at the next request, in every process."""
        lane = self._lane(row.id)
        view = await self._make_view(row)
        self._views.put(view)
        failpoints.reach("retag.before")
        for _ in range(RETAG_TRIES):
            outcome = await lane.submit(Retag(row.id, view.tag(lane.generation), keep))
            if isinstance(outcome, Done):
                return
            await asyncio.sleep(LOAD_RETRY_S)
        log.warning("a changed tenant is in force at its next load: the counters did not answer")

    async def _first_view(self, tenant: str) -> tuple[View, float]:
        """The view of a tenant that is not known here, loaded already where the counters answer: its first take will
        hardly find it there. With it, until when a load may take."""
        lane = self._lane(tenant)
        give_up = lane.time() + self._timing.load_s
        if lane.is_up:
            await self._load(lane, tenant, START, give_up)
        view = self._views.get(tenant, self._now_us())
        if view is None:
            view = await self._view(tenant, within_s=give_up - lane.time())
        return view, give_up

    async def _known_view(self, tenant: str) -> View:
        return self._views.get(tenant, self._now_us()) or await self._view(tenant, within_s=self._timing.load_s)

    async def _view(self, tenant: str, *, within_s: float) -> View:
        """The tenant's view, from the ledger. Without a ledger: one that limits nothing, for the outage policy."""
        try:
            async with asyncio.timeout(within_s):
                return await self._read_view(await self._snapshot(tenant))
        except (StoreUnavailable, TimeoutError) as error:
            self._not_loaded.add(self._lane(tenant).time(), str(error) or "deadline")
            return self._view_of(tenant, None, self._windows_of(None, "", self._catalogue.timezone), self._now_us())

    async def _read_view(self, snapshot: Snapshot) -> View:
        if snapshot.tenant is None:
            raise UnknownTenant("unknown tenant, and the catalogue has no default_plan; put_tenant makes it")
        view = await self._make_view(snapshot.tenant)
        if self._fresh is not None and view.tenant not in self._fresh:
            self._fresh.add(view.tenant)
            await self.unload(view.tenant)
        self._views.put(view)
        return view

    @contextmanager
    def on_terms(self, terms: Terms) -> Iterator[None]:
        """Every tenant is on these terms within the block. Counters are loaded anew at a tenant's first take in it, and
        at the first one after it: the two may limit different windows."""
        before, self._terms, self._fresh = self._terms, (*self._terms, terms), set()
        self._views.forget()
        try:
            yield
        finally:
            self._terms, self._fresh = before, set()
            self._views.forget()

    async def _make_view(self, row: TenantRow) -> View:
        now_us = self._now_us()
        segment = row.segment_at(now_us)
        plan, label = await self._plans.get(segment.plan, segment.version), plan_label(segment)
        if plan is not None and segment.status == TRIAL:
            plan, label = plan.in_trial(), f"{label} {TRIAL}"
        plan, label = overruled(self._terms, plan, label)
        view = self._view_of(row.id, row, self._windows_of(plan, label, row.timezone, row.anchor_day), now_us)
        if any(terms.is_unlimited for terms in self._terms):
            view.refused_as = ""
        return view

    def _view_of(self, tenant: str, row: TenantRow | None, windows: PlanWindows, now_us: int) -> View:
        return View(tenant, row, windows, shard=self.shard_of(tenant), now_us=now_us)

    def _windows_of(self, plan: Plan | None, label: str, timezone: str, anchor: int = 1) -> PlanWindows:
        key = (label if plan else "", timezone, anchor)
        known = self._windows.get(key)
        if known is None:
            if len(self._windows) >= MAX_WINDOWS:
                self._windows.clear()
            known = self._windows[key] = PlanWindows(
                plan, zone(timezone), self._catalogue, anchor, observed=self.observed
            )
        return known

    async def _snapshot(self, tenant: str) -> Snapshot:
        """As of an instant after this call; all that wait at a shard are read together."""
        shard, known = self.shard_of(tenant), self._loops.here().snapshots
        snapshots = known.get(shard)
        if snapshots is None:
            read = partial(self._read_snapshots, shard)
            snapshots = known[shard] = Snapshots(read, patience_s=self._timing.load_s)
        return await snapshots.of(tenant)

    async def _read_snapshots(self, shard: int, tenants: Sequence[str]) -> Mapping[str, Snapshot]:
        now_us = self._now_us()
        since = loading.first_day(now_us)
        defaults = self._defaults()
        found = await self._ledger.snapshots(shard, tenants, since=since, defaults=defaults, now_us=now_us)
        for snapshot in found.values():
            if snapshot.tenant is not None:  # a plan that is new here is read once, not by each of its tenants
                await self._plans.of(snapshot.tenant)
        return found

    async def _load(self, lane: Lane, tenant: str, barrier: str, give_up: float) -> bool:
        """Brings the tenant's counters from the ledger; one load per tenant and loop at a time. False at ``give_up``,
        and at once when the counters do not answer meanwhile."""
        if lane.time() >= give_up:
            return False
        key = (tenant, barrier)
        task = lane.loads.get(key)
        if task is None:
            task = asyncio.create_task(self._load_once(lane, tenant, barrier))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits by then
            lane.watch(key, task)
        await asyncio.wait((task,), timeout=give_up - lane.time())
        return task.done() and not task.cancelled() and task.result()

    async def _load_once(self, lane: Lane, tenant: str, barrier: str) -> bool:
        try:
            async with asyncio.timeout(LOAD_PATIENCE * self._timing.load_s):
                while True:
                    loaded = await self._try_load(lane, tenant, barrier)
                    if loaded is True:
                        return True
                    barrier = loaded or barrier
                    await asyncio.sleep(LOAD_RETRY_S)
        except (TimeoutError, StoreUnavailable) as error:
            self._not_loaded.add(lane.time(), str(error) or "deadline")
            return False

    async def _try_load(self, lane: Lane, tenant: str, barrier: str) -> bool | str:
        """True once loaded; else the barrier to wait for, "" where it is as it was."""
        snapshot = await self._snapshot(tenant)
        view = await self._read_view(snapshot)
        generation, position, _ = snapshot.shard
        if generation > lane.generation:
            lane.distrust(generation)
            return ""
        if generation != lane.generation or position_key(position) < position_key(barrier):
            await self._fold(lane.shard)
            return ""
        now_us = self._now_us()
        values = await self._values(view, snapshot, now_us)
        held = loading.holds(view, snapshot, now_us)
        failpoints.reach("load.before")
        outcome = await lane.submit(Load(tenant, view.tag(lane.generation), position, values, held))
        match outcome:
            case Done() | NotLoaded(why="warm"):
                failpoints.reach("load.after")
                return True
            case NotLoaded(why="behind", barrier=later):
                return later
            case _:
                return ""

    async def _values(self, view: View, snapshot: Snapshot, now_us: int) -> dict[str, int]:
        assert view.row is not None
        return loading.counters(view, snapshot, await self._plans.of(view.row), now_us)

    async def expected(self, tenant: str) -> tuple[ShardRow, dict[str, int]]:
        """What the tenant's counters come to by the ledger, and how far that had folded its shard."""
        snapshot = await self._snapshot(tenant)
        view = await self._read_view(snapshot)
        return snapshot.shard, await self._values(view, snapshot, self._now_us())

    async def standings(self, tenant: str) -> tuple[View, list[loading.Stood]]:
        """Each limit of the tenant and what is used of it by the ledger; UnknownTenant."""
        snapshot = await self._snapshot(tenant)
        view = await self._read_view(snapshot)
        assert view.row is not None
        return view, loading.standings(view, snapshot, await self._plans.of(view.row), self._now_us())

    async def unload(self, tenant: str) -> None:
        """Has the tenant's counters loaded anew from the ledger at its next take, in every process."""
        lane = self._lane(tenant)
        await lane.submit(Retag(tenant, f"{lane.generation}.{ANY_REVISION}", keep=False))

    async def _fold(self, shard: int) -> None:
        """Folds once for all tenants that are loaded at the same time: after an outage that is every tenant in use."""
        folds = self._loops.here().folds
        fold = folds.get(shard)
        if fold is None:
            fold = folds[shard] = asyncio.ensure_future(self._drain(shard))
            fold.add_done_callback(lambda done: (folds.pop(shard), done.cancelled() or done.exception()))
        await asyncio.shield(fold)

    # -- lanes --------------------------------------------------------------------------------------------------------

    def shard_of(self, tenant: str) -> int:
        return shard_of(tenant, self._counters.shards)

    def _lane(self, tenant: str) -> Lane:
        return self._lane_of(self.shard_of(tenant))

    def _new_lane(self, shard: int) -> Lane:
        process, journal = self._new_id(), self._journal
        create = None if journal is None else partial(journal.create, shard, self._counters.shards)
        return Lane(
            shard,
            self._counters,
            self._ledger,
            now_us=self._now_us,
            process=process,
            timing=self._timing,
            journal=Journal(create, process),
            pulse=self._pulse,
        )

    async def open(self) -> None:
        """Waits until every shard is open; StoreUnavailable if none is by then.

        One master of a cluster that is away does not keep a process from serving the tenants of all others: its shards
        begin with the outage policy.
        """
        lanes, within_s = [self._lane_of(shard) for shard in range(self._counters.shards)], self._timing.open_s
        opened = await asyncio.gather(*(lane.settled(within_s=within_s) for lane in lanes))
        if not any(opened):
            raise StoreUnavailable(
                f"counters: {opened.count(False)} of {len(lanes)} shards did not open within {within_s:.0f} s; "
                "check the counters' URL and that its server runs"
            )
        if not all(opened):
            log.warning(
                "counters: %d of %d shards did not open within %.0f s; the outage policy decides for their tenants",
                opened.count(False),
                len(lanes),
                within_s,
            )
        await self.adopt()
        self.start_chores()

    def start_chores(self) -> None:
        """Adopts now and then what others leave behind, reports, and does ``chores``, on this event loop, until
        ``aclose``."""
        state = self._loops.here()
        if state.chores is None:
            state.chores = asyncio.get_running_loop().create_task(self._do_chores())

    async def _do_chores(self) -> None:
        while True:
            try:
                await self.adopt()
                await self.report()
                for chore in self.chores:
                    await chore()
            except StoreUnavailable as error:
                log.info("reported the next time: %s", error)
            except Exception:
                log.exception("the chores of this process met a bug; they are done again")
            await asyncio.sleep(ADOPT_S)

    async def report(self) -> None:
        """Tells the ledger what this process acknowledged and refused since the last time."""
        await self._reports.send(self._ledger, self._now_us())

    async def adopt(self) -> None:
        """Takes over, on this event loop, what ended processes and loops left in files. What cannot be taken now, since
        a shard does not answer or there is no room, waits for the next time."""
        if self._adopter is not None:
            await self._loops.leave_ended()
            await self._adopter()

    async def settle(self, *, shard: int | None = None, within_s: float = 10.0) -> None:
        """Waits until everything acknowledged in this process, or in this shard alone, stands in the stream;
        StoreUnavailable otherwise."""
        if not await self._loops.settled(shard, within_s=within_s):
            raise StoreUnavailable(f"counters: not everything was written within {within_s:.0f} s; it stays journalled")

    @property
    def journal_facts(self) -> int:
        """Acknowledged ops that the ledger has not confirmed yet, over all loops of this process."""
        return sum(lane.unconfirmed for lane in self._loops.lanes())

    def _outages(self) -> Iterator[tuple[str, float]]:
        down: dict[int, bool] = {}
        for lane in self._loops.lanes():
            down[lane.shard] = down.get(lane.shard, False) or lane.down
        return ((str(shard), int(is_down)) for shard, is_down in sorted(down.items()))

    async def aclose(self) -> bool:
        """Stops the lanes of every loop that runs. What is unconfirmed waits in files; False if some of it does not,
        and ends with this process."""
        return await self._loops.aclose()


def _split(fact: Fact, meters: Collection[str] | None) -> tuple[Fact, Fact]:
    """The fact with the counts in these meters alone (in all of them for None), and another with the rest."""
    dropped = tuple(count for count in fact.counts if meters is None or count.meter in meters)
    kept = tuple(count for count in fact.counts if count not in dropped)
    return fact._replace(counts=dropped), fact._replace(id=f"{fact.id}:kept", counts=kept)
