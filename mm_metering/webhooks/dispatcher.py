"""Sends what is due: claims under a lease, attempts many at once, writes what follows together.

Any number of these may run. A process that ends keeps nobody waiting for longer than a lease, and loses nothing: what
it was at is due again then, under the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

from mm_metering import failpoints
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.webhooks import Claimed
from mm_metering.clock import Clock
from mm_metering.core.audit import Act
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Attempt, EndpointRow, Result
from mm_metering.core.event_types import told
from mm_metering.core.periods import micros
from mm_metering.errors import MeteringError
from mm_metering.gate.keyring import Keyring
from mm_metering.telemetry.instruments import DELIVERIES
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.tallies import Tally
from mm_metering.webhooks.answers import Answer
from mm_metering.webhooks.messages import is_metered
from mm_metering.webhooks.signing import sign

log: Final = logging.getLogger("mm_metering.webhooks")

UNSENDABLE: Final = "webhook_unsendable"
"""The kind of alert for an endpoint (its subject) that cannot be sent to for a reason of our own: a key, an extra."""
LEASE: Final = timedelta(seconds=60)
"""More than an attempt, its metering and its writing take, by far."""
PER_ENDPOINT: Final = 4
"""Attempts at one endpoint at the same time; one where it fails."""
AT_ONCE: Final = 512
"""Attempts at the same time: as many endpoints as that may hang before others wait for them."""
PAGE: Final = 100
IDLE_S: Final = 0.5
HAND_BACK_S: Final = 1.0


class Post(Protocol):
    """One attempt, bounded, that never raises for what a receiver does."""

    async def __call__(self, url: str, body: bytes, headers: dict[str, str]) -> Answer: ...


class Dispatcher:
    """``record`` meters a delivery, once by its id; ``secrets`` are an endpoint's live ones."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        post: Post,
        secrets: Callable[[EndpointRow, datetime], Sequence[str]],
        body: Callable[[Notice], bytes],
        keyring: Keyring,
        record: Callable[[Claimed], Awaitable[None]],
        act: Callable[[], Act],
        lease: timedelta = LEASE,
        measures: Measures | None = None,
    ) -> None:
        self.ledger = ledger
        self.clock = clock
        self.record = record
        self.act = act
        self.lease = lease
        self._post = post
        self._secrets = secrets
        self._body = body
        self.unsendable: set[str] | None = None
        """Endpoints with an open alert, once they were asked for."""
        self.keyring = keyring
        self.attempted: Tally = (measures or Measures()).tally(DELIVERIES)
        self.attempted.begin("delivered", "failed", "unsendable")
        self._awake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    async def run(self) -> None:
        """Until it is cancelled; what it was at then is handed back."""
        awake = asyncio.Event()
        self._awake = (asyncio.get_running_loop(), awake)
        shift = Shift(self, awake)
        failing = False
        try:
            while True:
                try:
                    more = await shift.turn()
                    failing = False
                except MeteringError as error:
                    more = False
                    if not failing:
                        log.warning("webhooks wait: %s", error)
                    failing = True
                except Exception:
                    more = False
                    log.exception("webhooks: the dispatcher met a bug and goes on")
                if not more:
                    await shift.pause(IDLE_S)
        finally:
            self._awake = None
            await shift.hand_back()

    async def drain(self) -> int:
        """Sends all that is due now, and waits for it; how many attempts."""
        shift = Shift(self, asyncio.Event())
        try:
            while await shift.turn() or shift.works:
                await shift.pause(IDLE_S if shift.works else 0)
        finally:
            await shift.hand_back()
        return shift.attempts

    def wake(self) -> None:
        """There may be something new. From any thread."""
        if self._awake is not None:
            loop, event = self._awake
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(event.set)

    async def alert(self, endpoint_id: str, detail: str) -> None:
        """It cannot be sent to, through no fault of its own."""
        with suppress(MeteringError):
            await self.ledger.raise_alert(UNSENDABLE, endpoint_id, detail=detail[:500], now_us=micros(self.clock.now()))
            if self.unsendable is not None:
                self.unsendable.add(endpoint_id)

    async def sendable(self, endpoint_id: str) -> None:
        """It can, whatever it answers: its alert is closed."""
        if self.unsendable is None:
            alerts = await self.ledger.open_alerts(after=(UNSENDABLE, ""))
            self.unsendable = {each.subject for each in alerts if each.kind == UNSENDABLE}
        if endpoint_id in self.unsendable:
            await self.ledger.close_alert(UNSENDABLE, endpoint_id, now_us=micros(self.clock.now()))
            self.unsendable.discard(endpoint_id)

    async def attempt(self, endpoint: EndpointRow, notice: Notice, message: str) -> tuple[Attempt, timedelta | None]:
        """One, and what the endpoint asks for."""
        now, body = self.clock.now(), self._body(await self.keyring.opened_notice(notice))
        headers = {
            "content-type": "application/json",
            "user-agent": "mm-metering-webhooks",
            **sign(message, now, body, self._secrets(endpoint, now)),
        }
        answer = await self._post(endpoint.url, body, headers)
        retry_after = None if answer.retry_after_s is None else timedelta(seconds=answer.retry_after_s)
        return _attempt_of(answer, now), retry_after


class Shift:
    """What one event loop is at."""

    def __init__(self, dispatcher: Dispatcher, awake: asyncio.Event) -> None:
        self.attempts: int = 0
        self._of = dispatcher
        self._awake = awake
        self._tasks: dict[asyncio.Task[Result], Claimed] = {}
        self._done: list[Result] = []

    @property
    def works(self) -> bool:
        return bool(self._tasks or self._done)

    async def turn(self) -> bool:
        """Writes what was answered, makes deliveries of what happened, and begins what is due; whether it did any of
        that."""
        wrote = await self._settle()
        made = await self._of.ledger.fan_out(self._now_us())
        failpoints.reach("webhooks.after_fan_out")
        claimed = await self._claim()
        for each in claimed:
            task = asyncio.get_running_loop().create_task(self._carry_out(each))
            self._tasks[task] = each
            task.add_done_callback(lambda _: self._awake.set())
        self.attempts += len(claimed)
        return bool(wrote or made or claimed)

    async def pause(self, seconds: float) -> None:
        """Until an attempt is over, or something new is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        self._awake.clear()

    async def hand_back(self) -> None:
        """What was not answered is due at once, for others."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        now = self._of.clock.now()
        for task, each in self._tasks.items():
            result = None if task.cancelled() or task.exception() else task.result()
            self._done.append(result or _put_off(each, now, timedelta(0)))
        self._tasks.clear()
        with suppress(MeteringError, TimeoutError):
            async with asyncio.timeout(HAND_BACK_S):
                await self._settle()

    async def _settle(self) -> int:
        for task in [each for each in self._tasks if each.done()]:
            del self._tasks[task]
            self._done.append(task.result())
        if not self._done:
            return 0
        written = len(self._done)
        await self._of.ledger.settle_deliveries(self._done, act=self._of.act())  # they stay where that fails
        failpoints.reach("webhooks.after_settle")
        self._done = []
        return written

    async def _claim(self) -> list[Claimed]:
        room = min(AT_ONCE - len(self._tasks), PAGE)
        if room <= 0:
            return []
        at = Counter(each.endpoint.id for each in self._tasks.values())
        slow = {each.endpoint.id for each in self._tasks.values() if each.endpoint.failing_since}
        part = PER_ENDPOINT // 2
        now = self._of.clock.now()
        found = await self._of.ledger.claim_deliveries(
            micros(now),
            until_us=micros(now + self._of.lease),
            busy=sorted(slow | {name for name, count in at.items() if count > PER_ENDPOINT - part}),
            per_endpoint=part,
            limit=room,
        )
        failpoints.reach("webhooks.after_claim")
        return found

    async def _carry_out(self, each: Claimed) -> Result:
        delivery, endpoint = each.delivery, each.endpoint
        try:
            attempt, retry_after = await self._of.attempt(endpoint, each.notice, delivery.event)
            failpoints.reach("webhooks.after_send")
            if attempt.succeeded and is_metered(each.notice):
                await self._of.record(each)
            await self._of.sendable(endpoint.id)
            attempt = await self._of.keyring.sealed_attempt(attempt, delivery)
        except MeteringError as error:
            self._of.attempted.add("unsendable")
            log.error("webhooks: endpoint %s cannot be sent to: %s", endpoint.id, error)
            await self._of.alert(endpoint.id, str(error))
            return _put_off(each, self._of.clock.now())
        except Exception:
            log.exception("webhooks: delivery %s met a bug and is put off", delivery.id)
            return _put_off(each, self._of.clock.now())
        self._of.attempted.add("delivered" if attempt.succeeded else "failed")
        name, _ = told(each.notice.type, each.notice.data)
        how = attempt.error.partition(":")[0] or attempt.status
        log.debug("webhooks: %s (%s) to %s: %s, %d ms", delivery.event, name, endpoint.id, how, attempt.took_ms)
        return Result(delivery.id, delivery.claim, self._of.clock.now(), attempt, retry_after)

    def _now_us(self) -> int:
        return micros(self._of.clock.now())


def _attempt_of(answer: Answer, at: datetime) -> Attempt:
    error = answer.error or ""
    return Attempt(at=at, status=answer.status, error=error, took_ms=answer.took_ms, excerpt=answer.excerpt)


def _put_off(each: Claimed, now: datetime, by: timedelta | None = None) -> Result:
    return Result(each.delivery.id, each.delivery.claim, now, None, by)
