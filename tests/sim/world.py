"""A small world to break: a counter server that loses, restarts and splits; a slow ledger; processes that die.

The gate, the drain, both memory backends and the rule are the real code. Only the network and the faults are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mm_metering.backends.counters import Answer, Backlog, Batch
from mm_metering.backends.memory import MemoryCounters, Shard
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.digest import total
from mm_metering.core.facts import decode
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.core.timeline import PlanChange
from mm_metering.errors import MeteringError, StoreUnavailable
from mm_metering.gate.admission import Wish
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.flight import Flight
from mm_metering.gate.gate import Gate
from mm_metering.gate.journal_file import Directory
from mm_metering.gate.plans import PlanBook
from mm_metering.worker.drain import Drain

T = TypeVar("T")
START = datetime(2024, 1, 15, 12, tzinfo=UTC)
LIMIT = 30
ROUNDS = 100
CATALOGUE = Catalogue.from_dict(
    {
        "currency": "USD",
        "timezone": "UTC",
        "default_plan": "small",
        "meters": {
            "calls": {"event": "call", "on_outage": "deny"},
            "soft": {"event": "soft"},
            "seats": {"aggregation": "level"},
        },
        "plans": {
            "small": {
                "price": "0",
                "quotas": {"calls": {"limit": LIMIT, "per": "day"}, "soft": {"limit": 10_000, "per": "day"}},
            },
            "large": {
                "price": "9",
                "quotas": {
                    "calls": {"limit": 2 * LIMIT, "per": "month"},
                    "soft": {"limit": 5, "per": "day", "then": {"charge_up_to": "1.00"}, "unit_price": "0.01"},
                    "seats": {"limit": 50},
                },
            },
        },
    }
)


@dataclass
class Faults:
    """What may go wrong in one run. Probabilities per call; the chaos events are chosen from ``events``."""

    lost: float = 0.0
    late: float = 0.0
    ledger: float = 0.0
    events: tuple[str, ...] = ()
    plan_changes: bool = False

    @property
    def lossy(self) -> bool:
        return any(event in self.events for event in ("empty", "rollback", "flush", "failover", "split"))


class SimClock:
    frozen = False

    def __init__(self, loop: asyncio.AbstractEventLoop, skew_s: float = 0.0) -> None:
        self._loop = loop
        self._skew = timedelta(seconds=skew_s)

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time()) + self._skew


class Server:
    """One server process after another, with what each of them lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.boots = 0
        self.nodes = [self._boot([Shard()])]
        self.down_until = 0.0
        self.hangs = False
        self.struck = asyncio.Event()
        """Set for a moment at each strike: who waits for something to do asks then."""
        self.history: list[tuple[float, list[Shard]]] = []

    @property
    def main(self) -> MemoryCounters:
        return self.nodes[-1]

    def _boot(self, data: list[Shard]) -> MemoryCounters:
        node = MemoryCounters(time_ms=lambda: self.loop.time() * 1000)
        self.boots += 1
        node.boot, node.data = f"boot{self.boots}", data
        return node

    def remember(self) -> None:
        self.history.append((self.loop.time(), copy.deepcopy(self.main.data)))
        del self.history[:-4]

    def _older(self) -> list[Shard]:
        return copy.deepcopy(self.rng.choice(self.history)[1]) if self.history else [Shard()]

    def strike(self, event: str) -> None:
        pause = self.rng.choice([0.0, 0.05, 0.4])
        match event:
            case "restart":
                self.nodes = [self._boot(self.main.data)]
            case "empty":
                self.nodes = [self._boot([Shard()])]
            case "rollback":
                self.nodes = [self._boot(self._older())]
            case "flush":
                self.main.data = [Shard()]
                pause = 0.0
            case "failover":
                self.nodes = [self._boot(self._older())]
            case "split":
                self.nodes = [self.main, self._boot(self._older())]
                pause = 0.0
            case "heal":
                self.nodes = self.nodes[-1:]
                pause = 0.0
            case "hang":
                pause = self.rng.choice([0.1, 0.6, 3.0])
        self.hangs = event == "hang"
        self.struck.set()
        self.struck.clear()
        self.history.clear() if event != "hang" else None
        self.down_until = max(self.down_until, self.loop.time() + pause)


class Network:
    """One process's way to the counters: slow, lossy, and after a split to one side of it."""

    shards = 1

    def __init__(self, server: Server, faults: Faults, rng: random.Random) -> None:
        self.server, self.faults, self.rng = server, faults, rng
        self.side = rng.random() < 0.5
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def node(self) -> MemoryCounters:
        return self.server.nodes[0] if self.side else self.server.main

    async def _call(self, work: Callable[[MemoryCounters], Awaitable[T]]) -> T:
        await asyncio.sleep(self.rng.uniform(0, 0.004))
        fate = self.rng.random()
        if fate < self.faults.lost / 2:
            await self._never()
        down_s = self.server.down_until - self.server.loop.time()
        if down_s > 0:
            if not self.server.hangs and self.rng.random() < 0.5:
                raise StoreUnavailable("connection refused")
            if self.server.hangs and self.rng.random() < 0.5:  # it stands in the socket until the server goes on
                self._arrives(work, down_s + self.rng.uniform(0, 0.5))
            await self._never()
        if fate > 1 - self.faults.late:  # it arrives long after the caller gave up
            self._arrives(work, self.rng.uniform(0.05, 1.5))
            await self._never()
        result = await work(self.node)
        if fate < self.faults.lost:
            await self._never()
        await asyncio.sleep(self.rng.uniform(0, 0.004))
        return result

    def _arrives(self, work: Callable[[MemoryCounters], Awaitable[Any]], late_s: float) -> None:
        async def arrive() -> None:
            await asyncio.sleep(late_s)
            await work(self.node)

        self.tasks.add(asyncio.create_task(arrive()))

    async def _never(self) -> None:
        if self.rng.random() < 0.5:
            raise StoreUnavailable("connection reset")
        await asyncio.sleep(20)
        raise StoreUnavailable("timed out")

    async def apply(self, shard: int, batch: Batch) -> Answer:
        return await self._call(lambda node: node.apply(shard, batch))

    async def open(self, shard: int, *, seen: int, generation: int, grace_ms: int) -> bool:
        return await self._call(lambda node: node.open(shard, seen=seen, generation=generation, grace_ms=grace_ms))

    async def read(self, shard: int, *, after: str, limit: int) -> Backlog:
        return await self._call(lambda node: node.read(shard, after=after, limit=limit))

    async def trim(self, shard: int, *, generation: int, position: str) -> None:
        return await self._call(lambda node: node.trim(shard, generation=generation, position=position))

    async def counters(self, shard: int, tenant: str) -> Mapping[str, int]:
        return await self.node.counters(shard, tenant)

    async def forget(self, shard: int, tenant: str) -> None:
        await self._call(lambda node: node.forget(shard, tenant))

    async def aclose(self) -> None:
        pass


class SlowLedger:
    """The memory ledger behind a connection that sometimes breaks, before or after the commit."""

    def __init__(self, ledger: MemoryLedger, faults: Faults, rng: random.Random) -> None:
        self._ledger, self._faults, self._rng = ledger, faults, rng

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(self._rng.uniform(0, 0.003))
            if self._rng.random() < self._faults.ledger / 2:
                raise StoreUnavailable("ledger: connection refused")
            result = await method(*args, **kwargs)
            await asyncio.sleep(self._rng.uniform(0, 0.003))
            if self._rng.random() < self._faults.ledger / 2:
                raise StoreUnavailable("ledger: connection lost")
            return result

        return call


@dataclass
class Deed:
    """What one caller was told about its facts, and whether that stood in the journal alone (``degraded``). ``minted``
    are the ids that were made on the way: more than one where a fate stayed unknown and the gate asked again."""

    facts: tuple[str, ...]
    tenant: str
    quantity: int
    process: int
    at_s: float
    told: str
    degraded: bool = False
    minted: list[str] = field(default_factory=list)


_deed: ContextVar[Deed | None] = ContextVar("deed", default=None)


class Crash(NamedTuple):
    """A process that died: whether its counters did not answer then, and all that stood in the journal's files."""

    was_down: bool
    written: bytes


@dataclass
class World:
    """The whole of it, and the books kept beside it. ``files`` is where the journals' files lie."""

    seed: int
    faults: Faults
    files: Path
    deeds: list[Deed] = field(default_factory=list)
    losses: list[tuple[float, str]] = field(default_factory=list)
    crashes: dict[int, Crash] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    late: list[Network] = field(default_factory=list)
    ids: int = 0
    tenants: Sequence[str] = ("a", "b")

    async def live(self, *, seconds: float = 4.0, processes: int = 3) -> None:
        loop = asyncio.get_running_loop()
        self.rng = random.Random(self.seed)
        self.calm = Faults()
        names = random.Random(self.seed)
        self.journal = Directory(
            self.files / "journal", "sim", off_loop=self._off_loop, new_id=lambda: f"{names.getrandbits(128):032x}"
        )
        self.server = Server(loop, self.rng)
        self.ledger = MemoryLedger()
        versions = await self.ledger.put_plans(
            {name: plan.definition() for name, plan in CATALOGUE.plans.items()}, now_us=0
        )
        self.versions = dict(versions)
        self.defaults = TenantDefaults("small", versions["small"], "UTC")
        self.end_s = seconds
        async with asyncio.TaskGroup() as group:
            for number in range(processes):
                group.create_task(self._process(number))
            for _ in range(2):
                group.create_task(self._worker())
            group.create_task(self._chaos())
        await self._quiesce()

    # -- actors -------------------------------------------------------------------------------------------------------

    def _gate(self, number: int, faults: Faults) -> Gate:
        network = Network(self.server, faults, self.rng)
        ledger: Any = SlowLedger(self.ledger, faults, self.rng)
        return Gate(
            network,
            ledger,
            catalogue=CATALOGUE,
            plans=PlanBook(ledger),
            clock=SimClock(asyncio.get_running_loop(), skew_s=number * 0.01),
            drain=Drain(network, ledger, lambda: self.defaults),
            new_id=self._new_id,
            defaults=lambda: self.defaults,
            journal=self.journal,
        )

    async def _off_loop(self, work: Callable[..., T], *args: Any) -> T:
        await asyncio.sleep(self.rng.uniform(0, 0.003))
        return work(*args)

    def _new_id(self) -> str:
        self.ids += 1
        name = f"f{self.ids:06d}"
        if deed := _deed.get():
            deed.minted.append(name)
        return name

    async def _process(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.end_s:
            self.process = number
            gate = self._gate(number, self.faults)
            life = self.rng.uniform(0.3, 2.0) if "crash" in self.faults.events else self.end_s - loop.time()
            born = loop.time()
            tasks = [asyncio.create_task(self._caller(gate, number)) for _ in range(3)]
            adopting = [asyncio.create_task(self._adopter(gate))] if "crash" in self.faults.events else []
            crashes = "crash" in self.faults.events and born + life < self.end_s
            await asyncio.sleep(life if crashes else self.end_s - born)
            if crashes:
                await _ended([*tasks, *adopting])
                if self.rng.random() < 0.3:
                    await gate._reports.send(self.ledger, 0)
                    await gate.aclose()  # whatever the counters do: the next process goes on with its file
                else:
                    await self._crash(gate, number)
                number += 10
            else:
                await asyncio.gather(*tasks)
                await _ended(adopting)
                await self._leave(gate)

    async def _adopter(self, gate: Gate) -> None:
        """More often than in truth, where it is every few seconds."""
        while True:
            await gate.adopt()
            await asyncio.sleep(self.rng.uniform(0.02, 0.4))

    async def _crash(self, gate: Gate, number: int) -> None:
        """kill -9: what it had not written is gone, and perhaps it was about to write a line."""
        lanes = [*gate._loops.lanes()]
        written = self._written()
        self.crashes[number] = Crash(all(lane.down for lane in lanes), written)
        self.unsettled.update(name for lane in lanes for name in _unsettled(lane) if name.encode() not in written)
        for lane in lanes:
            if lane.down and lane._flight and self.rng.random() < 0.5:
                self._still_arrives(lane, lane._flight)
            for timer in (lane._poll, lane._watch):
                if timer is not None:
                    timer.cancel()
            own = lane.journal._own
            if own is not None and self.rng.random() < 0.5:
                _tear(own.path)
            for file in (*lane.journal._files, lane.journal._spill):
                if file is not None:
                    file.release()
        await _ended([lane._task for lane in lanes if lane._task])

    def _still_arrives(self, lane: Lane, flight: Flight) -> None:
        """The batch of a process that has died in an outage stands in a socket, and is carried out when it is over."""
        batch = Batch(lane._process, flight.generation, flight.seq, lane._now_us(), flight.ops)
        over_s = max(0.0, self.server.down_until - self.server.loop.time())
        network = Network(self.server, self.calm, self.rng)
        network._arrives(lambda node: node.apply(lane.shard, batch), over_s + self.rng.uniform(0, 1.0))
        self.late.append(network)

    def _written(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.files.glob("journal/*.journal")))

    async def _leave(self, gate: Gate) -> None:
        """A clean end: nothing is left in the journal."""
        for lane in gate._loops.lanes():
            lane._counters.faults = lane._ledger._faults = self.calm  # type: ignore[attr-defined]
        self.server.down_until = 0.0
        await self._empty(gate)
        await gate._reports.send(self.ledger, 0)
        await gate.aclose()

    async def _empty(self, gate: Gate) -> None:
        drain = self._drain(self.calm)  # one, as a process has: it remembers how long a shard has been behind
        for _ in range(400):
            await gate.settle(within_s=30)
            await drain.fully()
            if gate.journal_facts == 0:
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"journal never empties: {gate.journal_facts} left")

    def _drain(self, faults: Faults) -> Drain:
        ledger: Any = SlowLedger(self.ledger, faults, self.rng)
        return Drain(Network(self.server, faults, self.rng), ledger, lambda: self.defaults)

    async def _caller(self, gate: Gate, number: int) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.end_s:
            await self._pause(self.rng.expovariate(12))
            tenant = self.rng.choice(self.tenants)
            event = self.rng.choice(["call", "call", "soft"])
            deed = Deed((), tenant, self.rng.choice([1, 1, 3]), number, loop.time(), "unknown")
            self.deeds.append(deed)
            _deed.set(deed)
            try:
                await self._do(gate, deed, event)
            except MeteringError:
                deed.told = "refused"

    async def _pause(self, seconds: float) -> None:
        """Or until the server is struck: what is asked while its data changes hands is what goes wrong."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.server.struck.wait()
                await asyncio.sleep(self.rng.uniform(0, 0.01))

    async def _do(self, gate: Gate, deed: Deed, event: str) -> None:
        wish = Wish(event, "/r", deed.quantity)
        patience_s = self.rng.uniform(0, 0.01) if self.rng.random() < 0.1 else None
        try:
            async with asyncio.timeout(patience_s):
                admission = await gate.take(deed.tenant, [wish])
        except TimeoutError:
            deed.told = "gone"
            return
        deed.facts = tuple(fact.id for fact in admission.facts)
        deed.told = "allowed" if admission.allowed else "denied"
        deed.degraded = admission.degraded
        if admission.allowed and self.rng.random() < 0.2:
            await asyncio.sleep(self.rng.uniform(0, 0.1))
            deed.told = "unknown"
            deed.degraded = not await gate.reverse(admission)
            deed.told = "reversed"

    async def _worker(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.end_s:
            drain = self._drain(self.faults)
            try:
                async with asyncio.timeout(self.rng.uniform(0.05, 1.5)):  # then it is killed
                    while True:
                        with contextlib.suppress(StoreUnavailable):
                            await drain(0)
                        await asyncio.sleep(self.rng.uniform(0.01, 0.2))
            except TimeoutError:
                await asyncio.sleep(self.rng.uniform(0, 0.5))

    async def _chaos(self) -> None:
        loop = asyncio.get_running_loop()
        strikes = [event for event in self.faults.events if event != "crash"]
        while loop.time() < self.end_s - 0.5:
            await asyncio.sleep(self.rng.uniform(0.05, 0.3))
            self.server.remember()
            if strikes and self.rng.random() < 0.25:
                event = self.rng.choice(strikes)
                self.server.strike(event)
                if event not in {"hang", "restart"}:
                    self.losses.append((loop.time(), event))
                if event == "split":
                    await asyncio.sleep(self.rng.uniform(0.1, 0.8))
                    self.server.strike("heal")
                    self.losses.append((loop.time(), "heal"))
            if self.faults.plan_changes and self.rng.random() < 0.2:
                await self._change_plan()

    async def _change_plan(self) -> None:
        tenant, plan = self.rng.choice(self.tenants), self.rng.choice(["small", "large"])
        now = SimClock(asyncio.get_running_loop()).now()
        at_us = int(now.timestamp() * 1_000_000)
        await self.ledger.put_tenant(NewTenant(tenant, subscribed_us=0), defaults=self.defaults, now_us=at_us)
        row = await self.ledger.change_subscription(tenant, PlanChange(at_us, plan, self.versions[plan]))
        gate = self._gate(0, self.calm)
        await gate.changed(row, keep=False)
        await gate.aclose()

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _quiesce(self) -> None:
        """All faults over: everything left settles, then the counters are loaded and compared with the ledger."""
        self.faults = self.calm
        self.server.down_until = 0.0
        self.server.strike("heal")
        await asyncio.sleep(2.0)  # late calls arrive
        gate = self._gate(0, self.calm)
        for _ in range(ROUNDS):  # a file may wait until a shard answers, and until there is room
            await gate.adopt()
            await self._empty(gate)
            if not self._written():
                break
        for tenant in self.tenants:
            await gate.take(tenant, [Wish("call", "/r")], look=True)
        await self._drain(self.calm).fully()
        self.final = {tenant: await self._compare(gate, tenant) for tenant in self.tenants}
        await gate.aclose()

    async def _compare(self, gate: Gate, tenant: str) -> tuple[dict[str, int], dict[str, int]]:
        _, want = await gate.expected(tenant)
        have = await self.server.main.counters(0, tenant)
        return _amounts(have), _amounts(want)

    # -- judgement ----------------------------------------------------------------------------------------------------

    async def _judge_digests(self) -> list[str]:
        """What the processes acknowledged, what was folded and what the cells hold; one that crashed reported nothing,
        and what it had acknowledged is in the ledger all the same."""
        acknowledged = total(each.digest for each in await self.ledger.acknowledged())
        folded = total((await self.ledger.folded()).values())
        cells = total(digest for _, digest in await self.ledger.cell_digests())
        is_told = acknowledged.facts <= folded.facts if self.crashes else acknowledged == folded
        return [] if is_told and folded == cells else [f"digests: told {acknowledged}, folded {folded}, cells {cells}"]

    async def over_admitted(self) -> list[str]:
        """Tenants that got more than their daily limit."""
        found = []
        for tenant in self.tenants:
            facts = await self.ledger.facts(tenant, after=(0, ""), limit=1_000_000)
            calls = sum(fact.quantity for fact in facts if fact.event_type == "call")
            if calls > LIMIT:
                found.append(f"{tenant}: {calls} admitted, the limit is {LIMIT}")
        return found

    async def verdict(self) -> list[str]:
        """What went wrong, in words; empty if nothing did."""
        found: list[str] = []
        counted: dict[str, int] = {}
        for tenant in self.tenants:
            facts = await self.ledger.facts(tenant, after=(0, ""), limit=1_000_000)
            counted |= {fact.id: fact.quantity for fact in facts}
            cells = await self.ledger.cells(tenant, first=START.date(), last=START.date())
            in_cells = sum(cell.total.quantity for cell in cells if not cell.key.meter.startswith("*"))
            if in_cells != sum(fact.quantity for fact in facts):
                found.append(f"{tenant}: cells say {in_cells}, facts {sum(f.quantity for f in facts)}")
            have, want = self.final[tenant]
            if have != want:
                found.append(f"{tenant}: drift: counters {have}, ledger {want}")
        found.extend(await self._judge_digests())
        if left := sorted(path.name for path in self.files.glob("journal/*")):
            found.append(f"files that nobody took over: {left}")
        for deed in self.deeds:
            found.extend(self._judge(deed, counted))
        if unknown := set(counted) - {name for deed in self.deeds for name in deed.minted}:
            found.append(f"billed, but nobody asked for it: {sorted(unknown)[:5]}")
        return found

    def _judge(self, deed: Deed, counted: Mapping[str, int]) -> list[str]:
        billed = [fact for fact in deed.facts if fact in counted]
        if deed.told == "allowed" and len(billed) != len(deed.facts) and not self._excused(deed):
            return [f"lost: {deed}"]
        if deed.told == "reversed" and billed and not self._excused(deed):
            return [f"reversed but billed: {deed}"]
        untold = [name for name in deed.minted if name in counted and name not in deed.facts]
        if untold and deed.told != "unknown" and not self._excused(deed) and not self.unsettled.issuperset(untold):
            return [f"billed, but its caller was not told so: {untold} of {deed}"]
        return []

    def _excused(self, deed: Deed) -> bool:
        """G10: an app was lost together with the undrained tail of the counters, before it noticed that they fail."""
        crash = self.crashes.get(deed.process)
        if crash is None or crash.was_down or deed.degraded:
            return False
        last = [f"{name}:void" if deed.told == "reversed" else name for name in deed.facts]
        is_written = all(name.encode() in crash.written for name in last)
        return not is_written and any(at >= deed.at_s for at, _ in self.losses)


def _amounts(counters: Mapping[str, int]) -> dict[str, int]:
    """Without the stamps of levels, and what is not there."""
    return {name: value for name, value in counters.items() if value and "!" not in name}


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _tear(path: Path) -> None:
    """As a kill leaves it: the last line was not written to its end, or not all of its blocks."""
    *_, last = path.read_bytes().splitlines()
    with path.open("ab") as file:
        file.write(last.replace(b'\\"f0', b'\\"g0') + b"\n" if b'\\"f0' in last else last[: len(last) // 2])


def _unsettled(lane: Lane) -> Iterator[str]:
    """The facts that a process whose counters answered still had to settle when it died: their voids or replays."""
    flight = None if lane.down else lane._flight
    waiting = [] if lane.down else [*lane.journal._pending, *(flight.replay if flight else ())]
    waiting += [item for waiter in (flight.waiters if flight else ()) for item in waiter.items]
    for fact in (decode(line) for _, lines in waiting for line in lines.split(b"\n")):
        yield fact.target or fact.id
