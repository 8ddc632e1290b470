"""``MeteringClock``: a frozen clock that also walks through billing periods, doing on each day what the worker does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from mm_metering.clock import FrozenClock

if TYPE_CHECKING:
    from mm_metering.core.invoices import Invoice
    from mm_metering.metering import Metering
    from mm_metering.testing.fake_stripe import FakeStripe

MOST_DAYS: Final = 800
"""Of one walk."""
MOST_INVOICES: Final = 100_000
_DAY: Final = timedelta(days=1)


class MeteringClock(FrozenClock):
    """Stands still until it is told to move. ``metering`` is asked for at a cycle, and must go by this clock."""

    def __init__(
        self,
        now: str | datetime,
        metering: Callable[[], Metering],
        stripe: Callable[[], FakeStripe | None] = lambda: None,
    ) -> None:
        super().__init__(now)
        self._metering = metering
        self._stripe = stripe

    def advance(self, delta: timedelta = timedelta(), **parts: float) -> None:
        """By a timedelta, or by its parts: ``advance(days=1, hours=2)``."""
        super().advance(delta + timedelta(**parts))

    def run_billing_cycle(self, *, to: str | datetime) -> list[Invoice]:
        """Walks to an instant, "2024-03-01" at 00:00 UTC, and does at each midnight on the way all that is due: folds
        usage, closes months, collects through the payment provider and hears from it, tells alerts, sends webhooks.

        Returns the invoices that were issued on the way, as they stand at the end: a month that is over, but not its
        grace of 24 hours, is a draft. In an async test: ``await metering_clock.billing_cycle(to=...)``.
        """
        from mm_metering.testing.sync import from_sync

        metering = self._metering()
        return from_sync(
            metering, lambda: self.billing_cycle(to=to), instead="await metering_clock.billing_cycle(to=...)"
        )

    async def billing_cycle(self, *, to: str | datetime) -> list[Invoice]:
        """The same for async tests."""
        end, metering = _instant(to), self._metering()
        days = _midnights(self.now(), end)
        if metering.clock is not self:
            raise AssertionError(
                "metering_clock: this Metering goes by another clock, so no period of it would end; make it in the "
                "fixture: def metering(metering_clock): return Metering(..., clock=metering_clock)"
            )
        await metering.startup()
        known = {each.id for each in await metering.list_invoices(limit=MOST_INVOICES)}
        for day in days:
            self.set(day)
            await self._work(metering)
        return [each for each in await metering.list_invoices(limit=MOST_INVOICES) if each.id not in known]

    async def _work(self, metering: Metering) -> None:
        stripe = self._stripe()
        if stripe is None:
            await metering.catch_up()
            return
        stripe.roll()
        await _hear(metering, stripe)
        await metering.catch_up()
        if await _hear(metering, stripe):
            await metering.catch_up()


def _instant(to: str | datetime) -> datetime:
    end = datetime.fromisoformat(to) if isinstance(to, str) else to
    return end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)


def _midnights(now: datetime, end: datetime) -> list[datetime]:
    """Those after now and up to the end, and the end itself."""
    if not now <= end <= now + MOST_DAYS * _DAY:
        raise AssertionError(
            f"metering_clock: from {now:%Y-%m-%d} to {end:%Y-%m-%d} is {(end - now).days:,} days; a walk goes forward "
            f"by at most {MOST_DAYS} days"
        )
    first = datetime.combine(now.date(), time(), UTC) + _DAY
    return [*(first + n * _DAY for n in range((end - first) // _DAY + 1)), end]


async def _hear(metering: Metering, stripe: FakeStripe) -> int:
    """Brings Stripe's new webhooks, as over the wire; how many."""
    from starlette.requests import Request
    from starlette.types import Message

    fresh = stripe.undelivered()
    for event in fresh:
        body, headers = stripe.delivery(event)

        async def receive(body: bytes = body) -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
        answer = await metering.stripe_webhook(Request(scope, receive))
        if answer.status_code >= 300:
            raise AssertionError(
                f"fake_stripe: its webhook {event['type']} was answered with {answer.status_code}: "
                f"{bytes(answer.body).decode()}; is webhook_secret=fake_stripe.webhook_secret set on the adapter?"
            )
    return len(fresh)
