"""Counters in this process: the executable specification of the protocol. It calls the rule in ``core.limits``."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mm_metering.backends.counters import (
    START,
    Answer,
    Append,
    Backlog,
    Batch,
    Denied,
    Done,
    Entry,
    Fenced,
    Level,
    Load,
    Miss,
    NotLoaded,
    Op,
    OpenHold,
    OtherGeneration,
    Post,
    Reply,
    Result,
    Retag,
    Stale,
    Stamp,
    Take,
    Taken,
    position_key,
)
from mm_metering.core.limits import Line, Slot, State, decide, over_cost

KEEP_S = {"d": 3 * 86_400, "m": 40 * 86_400}
"""How long a past window's counter outlives its start: the window, the grace and the drain's lag."""

WINDOW = re.compile(r"@([dm])([0-9a-z]+)~?\Z")


class Session(NamedTuple):
    seq: int
    reply: Reply


@dataclass(slots=True)
class Tenant:
    """One tenant's hash: its tag ("" when not loaded), its barrier, its counters and open holds, and the hour in which
    past windows were dropped last."""

    tag: str = ""
    barrier: str = START
    values: dict[str, int] = field(default_factory=dict)
    rates: dict[str, tuple[int, int]] = field(default_factory=dict)
    holds: dict[str, OpenHold] = field(default_factory=dict)
    swept_h: int = 0


@dataclass(slots=True)
class Shard:
    """Everything a server keeps for one shard; a generation of 0 means that it is empty."""

    generation: int = 0
    boot: str = ""
    birth: str = START
    open_at_ms: float = 0
    drained: str = START
    last: str = START
    sessions: dict[str, Session] = field(default_factory=dict)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    stream: list[Entry] = field(default_factory=list)


class MemoryCounters:
    """``memory://``: one process, lost with it; a ledger on disk brings the counters back."""

    def __init__(self, *, shards: int = 1, time_ms: Callable[[], float] | None = None) -> None:
        self.shards = shards
        self.boot: str = uuid.uuid4().hex
        self.data: list[Shard] = [Shard() for _ in range(shards)]
        self._time_ms = time_ms or _monotonic_ms
        self._lock = threading.Lock()

    async def apply(self, shard: int, batch: Batch) -> Answer:
        with self._lock:
            return apply(self.data[shard], batch, boot=self.boot, time_ms=self._time_ms())

    async def open(self, shard: int, *, seen: int, generation: int, grace_ms: int) -> bool:
        with self._lock:
            data = self.data[shard]
            if data.generation != seen or generation <= seen:
                return False
            data.generation, data.boot, data.birth = generation, self.boot, data.last
            data.open_at_ms, data.drained = self._time_ms() + grace_ms, START
            data.sessions.clear()
            return True

    async def read(self, shard: int, *, after: str, limit: int) -> Backlog:
        with self._lock:
            data, floor = self.data[shard], position_key(after)
            entries = [entry for entry in data.stream if position_key(entry.position) > floor]
            return Backlog(data.generation, tuple(entries[:limit]), data.last, data.drained)

    async def trim(self, shard: int, *, generation: int, position: str) -> None:
        with self._lock:
            data, end = self.data[shard], position_key(position)
            if data.generation == generation:
                data.drained = max(data.drained, position, key=position_key)
                data.stream = [entry for entry in data.stream if position_key(entry.position) > end]

    async def counters(self, shard: int, tenant: str) -> Mapping[str, int]:
        with self._lock:
            found = self.data[shard].tenants.get(tenant)
            return dict(found.values) if found and found.tag else {}

    async def forget(self, shard: int, tenant: str) -> None:
        with self._lock:
            self.data[shard].tenants.pop(tenant, None)

    async def aclose(self) -> None:
        pass


def _monotonic_ms() -> float:
    return time.monotonic() * 1000


def apply(data: Shard, batch: Batch, *, boot: str, time_ms: float) -> Answer:
    """The law of ``Counters.apply`` on one shard's data."""
    if data.generation == 0 or data.boot != boot:
        return Fenced(data.generation)
    if batch.generation != data.generation:
        return OtherGeneration(data.generation)
    session = data.sessions.get(batch.process)
    if session and batch.seq <= session.seq:
        return session.reply if batch.seq == session.seq else Stale()
    step = _Step(data, batch, time_ms)
    results = tuple([step.run(op) for op in batch.ops])
    reply = Reply(step.finish(), data.drained, results)
    data.sessions[batch.process] = Session(batch.seq, reply)
    return reply


class _Step:
    """One batch at work: collects the lines it appends and the tenants that must be loaded anew."""

    def __init__(self, data: Shard, batch: Batch, time_ms: float) -> None:
        self.data = data
        self.generation = batch.generation
        self.now_us = batch.now_us
        self.time_ms = time_ms
        self.entry = f"{position_key(data.last)[0] + 1}-0"
        self.lines: list[bytes] = []
        self.unloaded: set[str] = set()
        self.own_tags: dict[str, bool] = {}

    def run(self, op: Op) -> Result:
        match op:
            case Take():
                return self.take(op)
            case Post():
                return self.post(op)
            case Level():
                return self.level(op)
            case Append():
                for tenant, payload in op.payloads:
                    self.append_uncounted(tenant, payload)
                return Done(counted=False)
            case Load():
                return self.load(op)
            case Retag():
                return self.retag(op)

    def finish(self) -> str:
        """Appends the batch's entry and sets the barrier of every tenant that must be loaded anew."""
        data = self.data
        if self.lines:
            data.stream.append(Entry(self.entry, tuple(self.lines)))
            data.last = self.entry
        for tenant in self.unloaded:
            data.tenants[tenant].barrier = data.last
        return self.entry if self.lines else ""

    # -- tenants ------------------------------------------------------------------------------------------------------

    def loaded(self, tenant: str, tag: str) -> Tenant | None:
        """The data may hold tags of an older generation: only one of this generation counts as loaded."""
        found = self.data.tenants.get(tenant)
        return found if found and found.tag == tag and self.is_own(tag) else None

    def is_own(self, tag: str) -> bool:
        if tag not in self.own_tags:
            self.own_tags[tag] = _revision(tag, self.generation) >= 0
        return self.own_tags[tag]

    def barrier(self, tenant: str) -> str:
        """G5: what the ledger must have folded before this tenant may be loaded."""
        if tenant in self.unloaded:
            return self.entry if self.lines else self.data.last
        found = self.data.tenants.get(tenant)
        return max(self.data.birth, found.barrier if found else START, key=position_key)

    def unload(self, tenant: str) -> None:
        self.data.tenants.setdefault(tenant, Tenant()).tag = ""
        self.unloaded.add(tenant)

    def append(self, payload: bytes) -> None:
        self.lines += payload.split(b"\n")

    def append_uncounted(self, tenant: str, payload: bytes) -> Done:
        self.append(payload)
        self.unload(tenant)
        return Done(counted=False)

    # -- ops ----------------------------------------------------------------------------------------------------------

    def take(self, op: Take) -> Result:
        tenant = self.loaded(op.tenant, op.tag)
        if tenant is None:
            return Miss(self.barrier(op.tenant))
        states = [self.states(tenant, lines) for lines in op.alternatives]
        verdict = decide(op.alternatives, states)
        if verdict.chosen < 0:
            return Denied(states[0])
        lines, grants = op.alternatives[verdict.chosen], tuple(verdict.grants.values())
        if op.payloads:
            for slot, _, _ in lines:
                self.move(tenant, slot, verdict.grants[slot.meter], held=bool(op.hold))
            payload = op.payloads[verdict.chosen]
            if op.hold:
                held = tuple((slot.field, verdict.grants[slot.meter]) for slot, _, _ in lines if not slot.rate_s)
                tenant.holds[op.hold] = OpenHold(op.expires_us, held)
                payload = b"%s;%s" % (b",".join(b"%d" % grant for grant in grants), payload)
            self.append(payload)
            if op.stamp and not self.stamp(tenant, op.stamp, absolute=False):
                self.unload(op.tenant)
        return Taken(verdict.chosen, grants, self.states(tenant, lines) if op.payloads else states[verdict.chosen])

    def post(self, op: Post) -> Result:
        tenant = self.loaded(op.tenant, op.tag)
        closed = tenant.holds.pop(op.close, None) if tenant and op.close else None
        late_cap = any(delta.slot.price and not delta.opens for delta in op.deltas)
        if tenant is None or late_cap or (op.close and closed is None):
            return self.append_uncounted(op.tenant, op.payload)
        held = dict(closed.amounts) if closed else {}
        for delta in op.deltas:
            self.change(tenant, delta.slot, delta.used, delta.held - held.pop(delta.slot.field, 0), opens=delta.opens)
        for name, amount in held.items():
            self.change(tenant, Slot(name, ""), 0, -amount, opens=False)
        self.append(op.payload)
        return Done(counted=True)

    def level(self, op: Level) -> Result:
        tenant = self.loaded(op.tenant, op.tag)
        if tenant is None or not self.stamp(tenant, op.stamp, absolute=op.absolute):
            return self.append_uncounted(op.tenant, op.payload)
        before = tenant.values.get(op.field, 0)
        after = max(0, op.value if op.absolute else before + op.value)
        tenant.values[op.field] = after
        tenant.values[op.total_field] = tenant.values.get(op.total_field, 0) + after - before
        self.append(op.payload)
        return Done(counted=True)

    def load(self, op: Load) -> Result:
        tenant = self.data.tenants.setdefault(op.tenant, Tenant())
        if self.time_ms < self.data.open_at_ms:
            return NotLoaded("early", op.barrier)
        stored = _revision(tenant.tag, self.generation)
        if stored >= _revision(op.tag, self.generation):
            return NotLoaded("warm" if tenant.tag == op.tag else "old", op.barrier)
        if stored >= 0:  # counted under an older plan: the ledger is behind these counters
            self.unload(op.tenant)
        barrier = self.barrier(op.tenant)
        if position_key(barrier) > position_key(op.barrier) or op.tenant in self.unloaded:
            return NotLoaded("behind", barrier)
        tenant.tag, tenant.values, tenant.holds = op.tag, dict(op.values), dict(op.holds)
        return Done(counted=True)

    def retag(self, op: Retag) -> Result:
        tenant = self.data.tenants.get(op.tenant)
        if tenant and 0 <= _revision(tenant.tag, self.generation) < _revision(op.tag, self.generation):
            if op.keep:
                tenant.tag = op.tag
            else:
                self.unload(op.tenant)
        return Done(counted=bool(tenant and tenant.tag))

    # -- fields -------------------------------------------------------------------------------------------------------

    def states(self, tenant: Tenant, lines: Iterable[Line]) -> tuple[State, ...]:
        return tuple([self.state(tenant, slot) for slot, _, _ in lines])

    def state(self, tenant: Tenant, slot: Slot) -> State:
        if slot.rate_s:
            own = self.now_us // 1_000_000 // slot.rate_s * slot.rate_s
            start, count = tenant.rates.get(slot.field, (0, 0))
            return State(count, 0, start) if start >= own else State(0, 0, own)
        values = tenant.values
        extra = values.get(slot.cap_field, 0) if slot.price else 0
        return State(values.get(slot.field, 0), values.get(slot.field + "~", 0), extra)

    def move(self, tenant: Tenant, slot: Slot, amount: int, *, held: bool) -> None:
        """Counts a grant."""
        if slot.rate_s:
            state = self.state(tenant, slot)
            tenant.rates[slot.field] = (state.extra, state.used + amount)
        else:
            self.change(tenant, slot, 0 if held else amount, amount if held else 0, opens=True)

    def change(self, tenant: Tenant, slot: Slot, used: int, held: int, *, opens: bool) -> None:
        """Moves a counter and its cap; opens it if ``opens``, and then drops the windows that are long past."""
        values, twin = tenant.values, slot.field + "~"
        before = values.get(slot.field)
        if slot.rate_s or not (opens or before is not None or twin in values):
            return
        if before is None:
            self.drop_past(tenant)
        if slot.price:
            base = (before or 0) + values.get(twin, 0)
            values[slot.cap_field] = values.get(slot.cap_field, 0) + over_cost(slot, base, used + held)
        values[slot.field] = (before or 0) + used
        if held:
            values[twin] = values.get(twin, 0) + held

    def stamp(self, tenant: Tenant, stamp: Stamp, *, absolute: bool) -> bool:
        """True if this change of a level comes after the last one: a set strictly, an add also beside another add."""
        last = tenant.values.get(stamp.field, -1)
        mark = 2 * stamp.at_us
        in_order = mark > last if absolute else mark >= last
        if in_order:
            tenant.values[stamp.field] = mark + absolute
        return in_order

    def drop_past(self, tenant: Tenant) -> None:
        """Once an hour at most, since it looks at every field. Names of windows end in "@d<start>" or "@m<start>"
        (seconds), those of their twins in "~"."""
        now_s = self.now_us // 1_000_000
        if now_s // 3600 <= tenant.swept_h:
            return
        tenant.swept_h = now_s // 3600
        for name in list(tenant.values):
            window = WINDOW.search(name)
            if window and int(window[2], 36) < now_s - KEEP_S[window[1]]:
                del tenant.values[name]


def _revision(tag: str, generation: int) -> int:
    """The revision in a tag of this generation, -1 for no tag or another generation's."""
    owner, _, revision = tag.partition(".")
    return int(revision) if revision and owner == str(generation) else -1
