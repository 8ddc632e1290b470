"""Webhooks of the payment provider: stored when they come, followed later by asking the provider what holds.

A hint may come twice, late, in any order, or not at all: what is written follows from what the provider says when it is
asked, and ``back_fill`` asks for what never came.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from mm_metering.backends.collecting import HINT_FAILED, PROVIDER_REFUSED, Hint
from mm_metering.backends.ledger import Ledger
from mm_metering.billing.adapter import Seen, Subscription, SubscriptionStatus, WebhookAdapter
from mm_metering.billing.collection import Collector
from mm_metering.clock import Clock
from mm_metering.core.cards import masked
from mm_metering.core.collecting import Standing
from mm_metering.core.periods import micros
from mm_metering.errors import BillingError, InvalidInput, InvalidRequest, ProviderRefused, WebhookRefused

log: Final = logging.getLogger("mm_metering.worker")

MAX_BODY: Final = 256 * 1024
"""Bytes of one webhook."""
PAGE: Final = 100
FIRST_REST: Final = timedelta(seconds=30)
MOST_REST: Final = timedelta(hours=6)
MAX_TRIES: Final = 20
"""About three days; then the hint is given up, with an alert."""
ON_ITS_WAY: Final = timedelta(minutes=5)
"""So young a webhook may still come by itself."""
UNSETTLED: Final = ("open", "failing", "confirming", "uncollectible")
"""The states of collections in which the provider may know more than we do."""
STANDING: Final[Mapping[SubscriptionStatus, Standing]] = {
    "trialing": "paid",
    "active": "paid",
    "incomplete": "past_due",
    "past_due": "past_due",
    "incomplete_expired": "unpaid",
    "unpaid": "unpaid",
    "paused": "unpaid",
    "canceled": "unpaid",
}
"""What a subscription that carries the prices makes of its tenant."""
TROUBLE: Final = frozenset(
    {"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found", "invoice.finalization_failed"}
)
"""What somebody must look at."""


class Inbox:
    """``prices_there``: the provider's subscriptions carry the prices, so that their state is the tenant's."""

    def __init__(
        self, adapter: WebhookAdapter, ledger: Ledger, collector: Collector, *, clock: Clock, prices_there: bool
    ) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._collector = collector
        self._clock = clock
        self._prices_there = prices_there

    async def take(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Stores what a webhook hints at; False for one that is known. WebhookRefused for anything that the provider
        did not send to us just now."""
        if len(body) > MAX_BODY:
            raise WebhookRefused(f"it has {len(body):,} bytes, more than {MAX_BODY:,}")
        return await self._ledger.put_hint(self._adapter.read_webhook(body, headers, self._clock.now()))

    async def work(self) -> int:
        """Follows the hints that are due; how many."""
        done = 0
        while hints := await self._ledger.hints_due(self._now_us(), limit=PAGE):
            for hint in hints:
                try:
                    await self._follow(hint)
                except ProviderRefused as error:
                    await self._alert(PROVIDER_REFUSED, "", str(error))
                    return done
                done += 1
        return done

    async def _follow(self, hint: Hint) -> None:
        if hint.type in TROUBLE:
            await self._alert(HINT_FAILED, hint.id, f"{hint.type} of {hint.object_id or 'the account'}: look there")
        try:
            await self._heard(await self._adapter.look(hint.about, hint.object_id), hint)
        except ProviderRefused:
            raise
        except (InvalidRequest, InvalidInput) as error:
            await self._give_up(hint, str(error))
        except BillingError as error:
            if hint.tries + 1 >= MAX_TRIES:
                await self._give_up(hint, str(error))
                return
            rest = min(FIRST_REST * 2**hint.tries, MOST_REST)
            next_us = self._now_us() + rest // timedelta(microseconds=1)
            await self._ledger.move_hint(
                hint._replace(next_us=next_us, tries=hint.tries + 1, note=masked(str(error))[:300])
            )
        else:
            await self._ledger.move_hint(hint._replace(next_us=None))

    async def _heard(self, seen: Seen, hint: Hint) -> None:
        await self._collector.heard(seen, actor=hint.id)
        if seen.subscription is not None and self._prices_there:
            await self._stand(seen.subscription, hint)

    async def _stand(self, subscription: Subscription, hint: Hint) -> None:
        tenant = await self._ledger.paid_for(subscription.customer_id)
        if tenant is not None:
            await self._collector.stand(tenant, STANDING[subscription.status], because=subscription.id, actor=hint.id)

    async def _give_up(self, hint: Hint, why: str) -> None:
        log.error("webhook %s (%s of %s) is given up: %s", hint.id, hint.type, hint.object_id, why)
        await self._alert(HINT_FAILED, hint.id, f"{hint.type} of {hint.object_id}: {why}")
        await self._ledger.move_hint(hint._replace(next_us=None, note=masked(why)[:300]))

    async def back_fill(self, since: datetime) -> int:
        """Asks for what has happened since then and was not delivered, and looks at each invoice that is not settled;
        how many hints came of it that should have been here by now."""
        missed, now = 0, self._clock.now()
        for hint in await self._adapter.missed(since, now):
            is_new = await self._ledger.put_hint(hint)
            missed += is_new and hint.happened_us < micros(now - ON_ITS_WAY)
        for state in UNSETTLED:
            after = ""
            while page := await self._ledger.collections(state=state, after=after, limit=PAGE):
                after = page[-1].invoice
                for each in page:
                    if each.provider_invoice is not None:
                        with suppress(InvalidRequest):
                            seen = await self._adapter.look("invoice", each.provider_invoice)
                            await self._collector.heard(seen, actor="back-fill")
        return missed

    async def _alert(self, kind: str, subject: str, detail: str) -> None:
        await self._ledger.raise_alert(kind, subject, detail=detail[:500], now_us=self._now_us())

    def _now_us(self) -> int:
        return micros(self._clock.now())
