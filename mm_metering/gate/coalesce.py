"""One lane per event loop and shard: all that wait share one script call, and one batch is in flight at a time.

A lane owns its session with the shard. It numbers its batches, asks for a lost answer again with the same number, has
the shard certified when the server behind it changed, and replays its journal before it takes anything in a new
generation. The steps G1 to G9 are those of ``backends.counters``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from mm_metering import failpoints
from mm_metering.backends.counters import (
    LAST_SEQ,
    MAX_BATCH,
    Answer,
    Batch,
    Counters,
    Done,
    Fenced,
    Op,
    OtherGeneration,
    Reply,
    Result,
    Stale,
    Taken,
)
from mm_metering.backends.ledger import Ledger
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.deadlines import Deadline, Timing
from mm_metering.gate.flight import Fate, Flight, Outcome, Waiter, granted
from mm_metering.gate.generations import certify
from mm_metering.gate.journal import MAX_FACTS, Journal
from mm_metering.gate.journal_file import Acked, Item, JournalFile
from mm_metering.gate.pulse import Fate as Ended
from mm_metering.gate.pulse import Pulse
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.gate")

POLL_S: Final = 0.1
"""How often an unconfirmed journal asks how far the ledger is."""
LOADING_POLL_S: Final = 0.005
"""How often it asks while a tenant is being loaded, so that whoever waits for that learns of an outage in time."""
BACKOFF_S: Final = 0.05
PROBE_S: Final = 0.2
"""How long a call waits while the server is down: shorter than the grace, so that nobody comes back too late."""
PATIENT_S: Final = 2.0
"""The same after QUICK_PROBES without any answer, for a server that is only slow; and for the very first call. A
connection that is refused is an answer: it costs no time and says that nothing is slow."""
QUICK_PROBES: Final = 10
UNDRAINED_S: Final = 60.0
"""After that long without a drain somebody is told, and as often again."""
CLOSE_S: Final = 1.0
"""How long a lane that closes waits for the ledger's word on what is confirmed."""


class Lane:
    """Touched by its event loop alone. ``start`` once, ``submit`` from then on, ``aclose`` at the end."""

    def __init__(
        self,
        shard: int,
        counters: Counters,
        ledger: Ledger,
        *,
        now_us: Callable[[], int],
        process: str,
        timing: Timing,
        journal: Journal | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self.shard = shard
        self.generation: int = 0
        self.down: bool = False
        self._known = 0
        self.journal: Journal = journal or Journal()
        self._pulse = pulse or Pulse(Measures(), "")
        self.loads: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._counters = counters
        self._ledger = ledger
        self._now_us = now_us
        self._process = process
        self._timing = timing
        self._seq = 0
        self._answers = 0
        self._silences = 0
        self._confirmed_s = self._warned_s = asyncio.get_running_loop().time()
        self._queue: deque[Waiter] = deque()
        self._flight: Flight | None = None
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Future[None] | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._asks = False
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None

    def time(self) -> float:
        """Seconds of its loop's clock."""
        return self._loop.time()

    @property
    def unconfirmed(self) -> int:
        """Acknowledged ops that the ledger has not confirmed: journalled, or on their way to be replayed."""
        return self.journal.facts + (len(self._flight.replay) if self._flight else 0)

    @property
    def waits_s(self) -> float:
        """How long the ledger has confirmed none of them."""
        return max(0.0, self.time() - self._confirmed_s) if self.unconfirmed else 0.0

    def start(self) -> None:
        """The flusher runs in an empty context: nothing of the first caller's may leak into it."""
        self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    def submit(self, op: Op, *, allow: bool = False) -> asyncio.Future[Outcome]:
        """The op's result, or its fate. ``allow``: in an outage it counts as done, and its facts are journalled.

        A caller that is cancelled leaves nothing behind: what was taken for it is taken back.
        """
        waiter = Waiter(op, allow, asyncio.Future(loop=self._loop))
        if self.journal.facts >= MAX_FACTS and waiter.items:
            waiter.tell(Fate.UNAVAILABLE)
        elif self.down:
            self._tell_unsent((waiter,))
        else:
            self._queue.append(waiter)
            if self._idle is not None:
                self._wake()
        return waiter.future

    def take_back(self, op: Op, answer: asyncio.Future[Outcome]) -> None:
        """For a caller that was cancelled while it waited: if its answer had come by then, and nobody got it, what was
        taken is taken back. Of a caller that is cancelled before, ``_finish`` knows."""
        if answer.done() and not answer.cancelled():
            outcome = answer.result()
            if isinstance(outcome, Taken) or outcome is Fate.ALLOWED:
                self.append_later(Waiter(op, allow=False, future=answer).voids)

    def watch(self, key: tuple[str, str], load: asyncio.Task[bool]) -> None:
        """Cancels the load of a tenant when the counters stop answering."""
        self.loads[key] = load
        load.add_done_callback(lambda _: self.loads.pop(key, None))
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        self._wake()

    def append_later(self, items: Sequence[Item]) -> None:
        """Journals facts that were allowed without the counters."""
        self.journal.promise(items)
        self._wake()

    def distrust(self, generation: int) -> None:
        """The ledger knows a newer generation than this lane's: ask the shard, and certify it if it is behind."""
        if generation > self.generation:
            self._known = generation
            self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def settled(self, *, within_s: float) -> bool:
        """Waits until nothing is queued, in flight or to be replayed; False if that took too long. The counters are
        asked first: they may have lost what stood in the stream, and then it is replayed."""
        enough = self._answers + (2 if self._flight else 1)
        try:
            async with asyncio.timeout(within_s):
                while self._is_busy or (self.journal.facts and not self.down and self._answers < enough):
                    self._ask()
                    await asyncio.sleep(BACKOFF_S if self.down else 0.001)
        except TimeoutError:
            return False
        return True

    @property
    def _is_busy(self) -> bool:
        return bool(self._queue or self._flight or self.journal.waiting) or self.generation == 0

    async def aclose(self) -> bool:
        """Ends it. What the ledger has not confirmed goes to a file; False where it ends with this process."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._poll is not None:
            self._poll.cancel()
        self._disarm()
        if self.journal.has_files:
            self._answer_all()
        for waiter in (*self._queue, *(self._flight.waiters if self._flight else ())):
            waiter.tell(Fate.UNAVAILABLE)
        return await self.leave()

    async def leave(self) -> bool:
        """Leaves the journal to the next process. Also from another event loop, if its own has ended."""
        flight = self._flight or Flight(0, 0)
        owed = [*flight.replay, *(item for waiter in flight.waiters for item in waiter.owed)]
        if self.journal.facts and not owed:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    row = await self._ledger.shard(self.shard)
                    self.journal.confirm(row.generation, row.position)
        return self.journal.close(owed)

    # -- what other processes left behind -----------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether it knows its shard's generation, and the shard answers."""
        return self.generation > 0 and not self.down

    async def end_session(self, process: str) -> bool:
        """G4 for a process that has ended: what is still on its way arrives past its number, and runs nothing. False
        if the counters did not say so."""
        batch = Batch(process, self.generation, LAST_SEQ, self._now_us(), ())
        try:
            async with asyncio.timeout(self._timing.load_s):
                return isinstance(await self._counters.apply(self.shard, batch), Reply)
        except (StoreUnavailable, TimeoutError):
            return False

    def adopt(self, file: JournalFile, facts: Mapping[Item, tuple[int, str]]) -> None:
        """Takes over a file's facts: what stands in this generation's stream waits for the ledger, the rest is
        replayed."""
        standing: dict[str, list[Item]] = {}
        later: list[Item] = []
        for item, (generation, position) in facts.items():
            (standing.setdefault(position, []) if generation == self.generation else later).append(item)
        acked = [Acked(self.generation, position, tuple(items)) for position, items in standing.items()]
        self.journal.adopt(file, acked, later)
        self._wake()

    # -- the flusher --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                if self._flight is None:
                    await self._work()
                    self._flight = self._next_flight()
                await self._send(self._flight)
            except StoreUnavailable as error:
                self._go_down(error)
                await asyncio.sleep(BACKOFF_S)
            except Exception:
                log.exception("shard %d: the flusher met a bug and goes on", self.shard)
                await asyncio.sleep(BACKOFF_S)

    async def _work(self) -> None:
        """Returns when there is something to send: a waiter, a replay, a journal to ask after, or a shard that did not
        answer, since only an answer ends an outage."""
        while not (self._queue or self._asks or self.journal.waiting or self._is_unsure):
            if (self.journal.facts or self.loads) and self._poll is None:
                self._poll = self._loop.call_later(LOADING_POLL_S if self.loads else POLL_S, self._ask)
            self._idle = self._loop.create_future()
            await self._idle
        self._asks = False

    @property
    def _is_unsure(self) -> bool:
        return self.down or self.generation < max(1, self._known)

    def _ask(self) -> None:
        """Send something now, if only to hear how far the ledger is."""
        self._poll, self._asks = None, True
        self._wake()

    def _next_flight(self) -> Flight:
        self._seq += 1
        if self.journal.waiting:
            return Flight(self._seq, self.generation, self.journal.next_replay())
        next_ones = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
        return Flight(self._seq, self.generation, (), [each for each in next_ones if not each.future.cancelled()])

    async def _send(self, flight: Flight) -> None:
        failpoints.reach("replay.before_send" if flight.replay else "lane.before_send")
        answer = await self._call(flight)
        match answer:
            case Reply():
                failpoints.reach("replay.after_reply" if flight.replay else "lane.after_reply")
                self._come_up()
                self._flight = None
                self._pulse.answered(len(flight.waiters))
                self._finish(flight, answer)
                if self._known > self.generation:
                    await certify(self._counters, self._ledger, self.shard, seen=self.generation)
            case OtherGeneration(generation) if generation > flight.generation and generation >= self._known:
                self._keep()
                self._enter(generation, flight)
            case OtherGeneration(generation) | Fenced(generation):
                self._keep()
                self._arm()
                await certify(self._counters, self._ledger, self.shard, seen=generation, known=self.generation)
            case Stale():
                self._unknown(flight)

    async def _call(self, flight: Flight) -> Answer:
        """One round trip. StoreUnavailable, with the flight's fate unknown, if there is no answer in time."""
        batch = Batch(self._process, flight.generation, flight.seq, self._now_us(), flight.ops)
        deadline, began_s = Deadline(self._loop, self._deadline_s()), self._loop.time()
        try:
            answer = await self._counters.apply(self.shard, batch)
        except asyncio.CancelledError:
            if not deadline.is_over or deadline.is_cancelled_besides():
                raise
            self._silences += 1
            self._lose(flight, began_s)
            raise StoreUnavailable(f"counters: no answer within {deadline.seconds * 1000:.0f} ms") from None
        except StoreUnavailable:
            self._lose(flight, began_s)
            raise
        finally:
            deadline.cancel()
        ended: Ended = "answered" if isinstance(answer, Reply) else "fenced"
        self._pulse.took(began_s, self._loop.time(), ended)
        return answer

    def _lose(self, flight: Flight, began_s: float) -> None:
        flight.lost += 1
        self._pulse.took(began_s, self._loop.time(), "lost")

    def _deadline_s(self) -> float:
        if not self._answers:
            return PATIENT_S
        if not self.down:
            return self._timing.decision_s
        return PROBE_S if self._silences <= QUICK_PROBES else PATIENT_S

    # -- answers ------------------------------------------------------------------------------------------------------

    def _finish(self, flight: Flight, reply: Reply) -> None:
        """Journals what was appended, tells the waiters, and puts right what some were told before."""
        appended, was_empty = list(flight.replay), not self.journal.facts
        for waiter, result in zip(flight.waiters, reply.results if not flight.replay else (), strict=True):
            future = waiter.future
            if isinstance(result, Taken):
                if item := granted(waiter.op, result):
                    appended.append(item)
            elif isinstance(result, Done):
                appended.extend(waiter.items)
            if future.done():
                self._too_late(waiter, result)
            else:
                future.set_result(result)
        self.journal.acked(flight.generation, reply.entry, appended)
        failpoints.reach("lane.after_ack")
        self._mind_the_drain(is_confirmed=self.journal.confirm(flight.generation, reply.drained) or was_empty)

    def _mind_the_drain(self, *, is_confirmed: bool) -> None:
        now_s = self._loop.time()
        if is_confirmed:
            self._confirmed_s = self._warned_s = now_s
        elif now_s - self._warned_s > UNDRAINED_S:
            self._warned_s = now_s
            log.warning(
                "shard %d: nothing was folded into the ledger for %.0f s, and %d acknowledged ops wait; "
                "run `mm-metering worker`, or look at its log",
                *(self.shard, UNDRAINED_S, self.unconfirmed),
            )

    def _too_late(self, waiter: Waiter, result: Result) -> None:
        """Puts right what a waiter was told before this result, or what was taken for one that went away."""
        if isinstance(result, Taken):
            if waiter.told is Fate.UNAVAILABLE or waiter.future.cancelled():
                self.journal.later(waiter.voids)
        elif waiter.told is Fate.ALLOWED and not isinstance(result, Done):
            self.journal.later(waiter.items)

    def _enter(self, generation: int, flight: Flight) -> None:
        """G3, G7: a new generation. What was acknowledged is replayed; an unknown fate is settled."""
        self.journal.restart()
        self.generation = generation
        self._disarm()  # the shard is open; with nothing to send there may be no reply that would tell
        if flight.lost:
            self._unknown(flight)
            return
        self._flight = None
        self.journal.later(flight.replay)
        self.journal.later(item for waiter in flight.waiters if waiter.told is Fate.ALLOWED for item in waiter.items)
        self._queue.extendleft(waiter for waiter in reversed(flight.waiters) if waiter.told is None)

    def _unknown(self, flight: Flight) -> None:
        """G7: nobody knows whether this batch ran. Said yes: use it. Said no, or nothing yet: take it back."""
        self._flight = None
        self.journal.later(flight.replay)
        self.journal.promise(item for waiter in flight.waiters for item in waiter.owed)
        for waiter in flight.waiters:
            waiter.tell(Fate.ALLOWED if waiter.stands and waiter.items else Fate.AGAIN)

    # -- outage -------------------------------------------------------------------------------------------------------

    def _go_down(self, error: Exception) -> None:
        """The flight is asked for again until its answer is known."""
        if not self.down:
            log.warning("shard %d: %s; deciding by the outage policy", self.shard, error)
        self.down = True
        if not self.unconfirmed:
            self._confirmed_s = self._loop.time()
        self._disarm()
        self._keep()
        self._answer_all()
        for load in self.loads.values():
            load.cancel()

    def _answer_all(self) -> None:
        """O1 to O3: answers all that wait by their policy, now. What follows from that is written before."""
        sent = [waiter for waiter in (self._flight.waiters if self._flight else ()) if waiter.told is None]
        for waiter in sent:
            waiter.told = waiter.policy
        self.journal.note(item for waiter in sent for item in waiter.owed)
        self._tell_unsent([waiter for waiter in self._queue if not waiter.future.done()])
        self._queue.clear()
        for waiter in sent:
            waiter.tell(waiter.policy)

    def _tell_unsent(self, waiters: Iterable[Waiter]) -> None:
        waiters = tuple(waiters)
        self.journal.promise(item for waiter in waiters if waiter.allow for item in waiter.items)
        for waiter in waiters:
            waiter.tell(waiter.policy)

    def _keep(self) -> None:
        """Something is wrong with the shard: what stands in no file yet is written."""
        flight = self._flight
        self.journal.save(flight.replay if flight and not flight.kept else ())
        if flight:
            flight.kept = True

    def _come_up(self) -> None:
        if self.down:
            log.warning("shard %d: the counters answer again", self.shard)
        self.down, self._silences = False, 0
        self._answers += 1
        self._disarm()

    def _arm(self) -> None:
        """Waiters do not wait for a shut shard longer than the load deadline."""
        if self._watch is None and not self.down:
            error = StoreUnavailable("counters: the shard is not open yet")
            self._watch = asyncio.get_running_loop().call_later(self._timing.load_s, self._go_down, error)

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
