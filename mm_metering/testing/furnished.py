"""``furnish``: a house in which tenants lived for some weeks, for pages to be looked at and for ``mm-metering dev``.

Owns: what happens to those who live there. Does not own: what follows from it. All of it goes through a Metering's own
methods, day after day, under its clock if that is a ``FrozenClock``; else usage lies in the past and the rest is now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final, TypeAlias

from mm_metering.clock import FrozenClock
from mm_metering.core.invoices import Invoice
from mm_metering.errors import Refused
from mm_metering.metering import Metering
from mm_metering.testing.lodgers import AI_CALL, DAY, MIDDLE, Habits, Lodger, lodgers
from mm_metering.testing.webhook_sink import WebhookSink

OPERATOR: Final = "dashboard:ana"
FINISHED: Final = "report.finished"
LATELY: Final = 11
"""Days ago since when each day is lived in full."""
BUDGETS: Final[dict[str, object]] = {
    "daily_budget": "15.00",
    "monthly_budget": "260.00",
    "budgets": {"feature:chat": {"daily": "2.00"}},
}
TAKES: Final = 4
DECLINES, LACKS = "pm_card_chargeDeclined", "pm_card_chargeDeclinedInsufficientFunds"


async def furnish(
    metering: Metering,
    *,
    tenants: int = 12,
    days: int = 60,
    seed: int = 1,
    hostile: bool = False,
    sink: WebhookSink | None = None,
) -> None:
    """Fills an empty Metering, whose clock stands afterwards where it stood. The same ``seed`` gives the same figures.

    From 60 days on at least one month is closed. ``hostile`` adds tenants with names that pages must not trust.
    ``sink``: where webhooks go; without it there are none. Without a payment provider nothing is paid.
    """
    await _House(metering, [*lodgers(tenants, hostile=hostile)], days, Random(seed), sink).fill()


@dataclass
class _House:
    metering: Metering
    lodgers: Sequence[Lodger]
    days: int
    random: Random
    sink: WebhookSink | None
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.metering.clock.now()
        catalogue = self.metering.catalogue
        plans = sorted(catalogue.plans.values(), key=lambda each: (each.price, each.name))
        self._plans = (plans[0], plans[len(plans) // 2], plans[-1])
        self._habits = Habits(catalogue, self._plans, self.now, self.days, self.random)
        self._levels = [each.name for each in catalogue.meters.values() if each.aggregation == "level"]
        self._calls = next((each.name for each in catalogue.meters.values() if each.event == "api_call"), None)
        self._has_ai = any(each.event == AI_CALL and each.unit == "money" for each in catalogue.meters.values())
        self._ids = {each.id for each in self.lodgers}

    async def fill(self) -> None:
        if self.sink is not None:
            self.metering.webhooks.add_event_type(FINISHED, "A report can be fetched.")
        for ago in range(self.days, -1, -1):
            if isinstance(self.metering.clock, FrozenClock):
                self.metering.clock.set(self.now - ago * DAY)
            await self._move_in(ago)
            await self.metering.record_many([*self._habits.uses(self.lodgers, ago)])
            await self._live(ago)
            await self._happen(ago)
            await self._work(ago)

    async def _work(self, ago: int) -> None:
        """What a worker does: all of it each tenth day, and lately what shows; its other jobs look at every day that
        there was."""
        if ago % 10 == 0:
            await self.metering.catch_up()
        elif ago < LATELY:
            await self.metering.check_alerts()
            await self.metering.webhooks.deliver()
            if self.metering.billing.has_adapter:
                await self.metering.collect()
        await self.metering.flush()

    # -- every day ----------------------------------------------------------------------------------------------------

    async def _move_in(self, ago: int) -> None:
        for lodger in self.lodgers:
            if ago == (self.days if lodger.since is None else min(lodger.since, self.days)):
                await self.metering.put_tenant(
                    lodger.id,
                    plan=self._plans[lodger.rank].name,
                    timezone=lodger.zone,
                    subscribed_at=self.now - (ago + 1) * DAY,
                    trial_days=lodger.trial_days,
                    tax_rate="0.19" if lodger.zone == "Europe/Berlin" else None,
                )
                if lodger.card and self.metering.billing.has_adapter:
                    mail = f"billing@{lodger.id}.example"
                    await self.metering.billing.create_customer(organization_id=lodger.id, email=mail, name=lodger.id)
                    await self._pay_with(lodger.id, lodger.card)
                if self.sink is not None and lodger.card and lodger.rank:
                    await self.sink.subscribed(self.metering, lodger.id)

    async def _pay_with(self, tenant: str, card: str) -> None:
        made = await self.metering.billing.create_payment_method(tenant, payment_method=card)
        await self.metering.billing.set_default_payment_method(tenant, made.id)

    async def _live(self, ago: int) -> None:
        """What is asked for rather than recorded: takes, some of them refused, AI calls, levels, webhooks."""
        for lodger in self.lodgers:
            if not lodger.share:
                continue
            if lodger.rank == 0 and self._calls:
                await self._ask(lodger, self._calls)
            for level in self._levels if ago % 7 == 0 else ():
                most = (900 if level.startswith("storage") else 8) * lodger.share * (1 - ago / 2 / max(1, self.days))
                await self.metering.set_level(lodger.id, level, max(1, int(most)))
            if self.sink is not None and lodger.card and lodger.rank and ago < LATELY:
                await self.metering.webhooks.send_event(lodger.id, FINISHED, {"report": f"r_{1_000 - ago}"})
        if self._has_ai and ago < LATELY and "acme" in self._ids:
            for feature in ("chat", "summary"):
                await self._call("acme", feature)

    async def _ask(self, lodger: Lodger, meter: str) -> None:
        """What its day's limit has room for, and at times more."""
        most = int(self._habits.daily(lodger, "api_call"))
        for _ in range(TAKES):
            with suppress(Refused):
                await self.metering.enforce_quota(lodger.id, meter, self.random.randint(most // 9, most // 3))

    async def _call(self, tenant: str, feature: str) -> None:
        with suppress(Refused):
            async with self.metering.ai.reserve(tenant, "gpt-4", tokens=4_000, feature=feature) as held:
                held.settle(input_tokens=1_500, output_tokens=self.random.randint(200, 900))

    # -- once ---------------------------------------------------------------------------------------------------------

    async def _happen(self, ago: int) -> None:
        tenant, why, what = _STORY.get(ago, ("", "", None))
        if what is not None and tenant in self._ids:
            with self.metering.acting(OPERATOR, reason=why):
                await what(self, tenant)

    async def _grow(self, tenant: str) -> None:
        await self.metering.change_plan(tenant, self._plans[MIDDLE].name)

    async def _discount(self, tenant: str) -> None:
        await self.metering.put_discount(tenant, percent="10", name="first year")
        await self.metering.grant_credit(tenant, "75.00", reason="welcome")

    async def _budget(self, tenant: str) -> None:
        if self._has_ai:
            await self.metering.override_plan(tenant, {"ai": BUDGETS})

    async def _decline(self, tenant: str) -> None:
        if self.metering.billing.has_adapter:
            await self._pay_with(tenant, DECLINES)

    async def _lack(self, tenant: str) -> None:
        if self.metering.billing.has_adapter:
            await self._pay_with(tenant, LACKS)

    async def _mistrust(self, tenant: str) -> None:
        """An endpoint whose secret its receiver does not know."""
        if self.sink is not None:
            await self.metering.webhooks.create_endpoint(tenant, f"{self.sink.url}old", ("*",))

    async def _fail(self, tenant: str) -> None:
        """One delivery is to be tried again."""
        if self.sink is not None:
            await self.metering.webhooks.deliver()
            self.sink.fail_next(status=503)
            await self.metering.webhooks.send_event(tenant, FINISHED, {"report": "r_1001"})
            await self.metering.webhooks.deliver()

    async def _mute(self, tenant: str) -> None:
        await self.metering.mute_alerts("quota", tenant=tenant, until=self.now + 5 * DAY)

    async def _pause(self, tenant: str) -> None:
        await self.metering.pause_subscription(tenant)

    async def _make_good(self, tenant: str) -> None:
        """A credit note for a part of what was paid, and something off the next invoice."""
        for invoice in (await self._bills(tenant))[-1:]:
            await self.metering.credit_invoice(invoice.id, amount="25.00", reason="a day's outage")
        await self.metering.adjust_invoice(tenant, "-40.00", reason="goodwill")

    async def _reissue(self, tenant: str) -> None:
        """It pays by bank transfer; its last invoice had a wrong address."""
        invoices = await self._bills(tenant)
        for invoice in invoices[:-1]:
            await self.metering.mark_invoice(invoice.id, "paid")
        for invoice in invoices[-1:]:
            await self.metering.void_invoice(invoice.id)
            await self.metering.close_period(invoice.period, tenant=tenant)

    async def _lose(self, tenant: str) -> None:
        """Nobody is there to pay any more what is due anew: the payment waits for somebody."""
        if self.metering.billing.has_adapter:
            for invoice in (await self._bills(tenant))[-1:]:
                await self.metering.billing.delete_customer(tenant)
                await self.metering.credit_invoice(invoice.id, amount="9.00", reason="charged twice")
                await self.metering.retry_payment(invoice.id)

    async def _bills(self, tenant: str) -> list[Invoice]:
        """With something on them, the oldest first."""
        found = await self.metering.list_invoices(tenant=tenant)
        return [each for each in found if each.total > 0 and each.status in ("finalized", "paid")]


_Step: TypeAlias = Callable[[_House, str], Awaitable[Any]]
_STORY: Final[Mapping[int, tuple[str, str, _Step]]] = {
    50: ("brightwater", "agreed by mail of last week", _House._discount),
    45: ("harbour", "ticket 4711: wants more", _House._grow),
    33: ("acme", "ticket 4746: a budget for AI", _House._budget),
    20: ("kestrel", "", _House._decline),
    19: ("harbour", "", _House._lack),
    9: ("dune-logistics", "", _House._mistrust),
    7: ("corvid-press", "they know", _House._mute),
    4: ("juniper", "ticket 4802: closed for the winter", _House._pause),
    3: ("brightwater", "ticket 4806: outage of last month", _House._make_good),
    2: ("corvid-press", "ticket 4811: wrong address", _House._reissue),
    1: ("harbour", "ticket 4815: charged twice", _House._lose),
    0: ("fable-games", "", _House._fail),
}
"""By how many days ago: to whom, why, and what."""
