"""Plans as prices at Stripe, found by lookup key: "pro" is the price that is called "mm_pro" there.

Where we rate, a mirrored price is zero; a subscription at Stripe says which plan it is, and no more. Where Stripe
multiplies, it is the plan's, and beside it stands a price for each kind of unit that the plan charges, called
"mm_pro_api_calls", on the meter "mm_api_calls".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from mm_metering.billing.adapter import plan_of
from mm_metering.billing.plan_prices import PlanPrice
from mm_metering.billing.reporter import BillingMode
from mm_metering.billing.stripe.calls import Calls
from mm_metering.billing.stripe.shapes import PLAN, id_of, in_coins, of_coins, told
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import plain
from mm_metering.core.reporting import metered_prices
from mm_metering.errors import CatalogueError, InvalidInput, InvalidRequest

if TYPE_CHECKING:
    import stripe

PREFIX: Final = "mm_"
AT_ONCE: Final = 10
"""Lookup keys in one request."""
_NAME: Final = re.compile(r"[ -~]{1,200}")


class PlanPrices(NamedTuple):
    """What a subscription to a plan has as items."""

    licensed: stripe.Price
    metered: tuple[stripe.Price, ...]


class Prices:
    """``names``: plans whose price is called otherwise, by a lookup key or a price's id ("price_…")."""

    def __init__(self, calls: Calls, names: Mapping[str, str], currency: str, mode: BillingMode) -> None:
        for plan, name in names.items():
            if not _NAME.fullmatch(str(name)):
                raise InvalidInput("prices", f'{plan!r} has no lookup key or price id such as "mm_pro"')
        self._calls = calls
        self._names = {plan_of(plan): name for plan, name in names.items()}
        self._plans = {name: plan for plan, name in self._names.items()}
        self._currency = currency
        self.mode = mode

    def name(self, plan_id: str) -> str:
        plan = plan_of(plan_id)
        return self._names.get(plan, f"{PREFIX}{plan}")

    async def id_of(self, plan_id: str) -> str:
        """The plan's price; InvalidRequest if Stripe has none."""
        name = self.name(plan_id)
        return name if name.startswith("price_") else (await self._licensed(plan_id)).id

    async def all_of(self, plan_id: str) -> PlanPrices:
        """All that the plan costs, where Stripe multiplies."""
        plan = plan_of(plan_id)
        licensed = await self._licensed(plan)
        pages = self._calls.pages(
            lambda client: client.v1.prices.list_async(
                {"active": True, "recurring": {"usage_type": "metered"}, "limit": 100}
            )
        )
        theirs = {each.lookup_key or "": each async for each in pages if told(each.metadata).get(PLAN) == plan}
        metered = [price for name, price in sorted(theirs.items()) if name.startswith(f"{PREFIX}{plan}_")]
        return PlanPrices(licensed, tuple(metered))

    async def _licensed(self, plan_id: str) -> stripe.Price:
        name = self.name(plan_id)
        if name.startswith("price_"):
            return await self._calls.read(lambda client: client.v1.prices.retrieve_async(name))
        if found := (await self._found([name])).get(name):
            return found
        raise InvalidRequest(
            f"the plan {plan_of(plan_id)[:60]!r} has no price {name[:80]!r} at Stripe; mm-metering plans push makes it"
        )

    def plan_of(self, subscription: stripe.Subscription, price: stripe.Price | None) -> str:
        """What the subscription's price says, else what was written down when it was made."""
        for name in (price.lookup_key, price.id) if price is not None else ():
            if name and name in self._plans:
                return self._plans[name]
            if name and name.startswith(PREFIX):
                return name.removeprefix(PREFIX)
        return told(subscription.metadata).get(PLAN, "")

    # -- making them --------------------------------------------------------------------------------------------------

    async def push(self, catalogue: Catalogue, *, dry_run: bool) -> tuple[PlanPrice, ...]:
        wanted = [*self._wanted(catalogue)]
        meters = await self.meters() if any(each.meter for each in wanted) else {}
        found = await self._found([each.lookup_key for each in wanted])
        rows = [self._seen(each, found.get(each.lookup_key), meters) for each in wanted]
        return tuple([each if dry_run or each.state != "missing" else await self._made(each, meters) for each in rows])

    def _wanted(self, catalogue: Catalogue) -> Iterator[PlanPrice]:
        """As if all were missing. CatalogueError where two would have one name."""
        metered = metered_prices(catalogue) if self.mode == "report" else ()
        seen: dict[str, str] = {}
        for plan in catalogue.plans.values():
            amount = plan.price if self.mode == "report" else Decimal(0)
            rows = [PlanPrice(plan.name, self.name(plan.name), "missing", amount=amount)]
            rows += [
                PlanPrice(plan.name, f"{PREFIX}{plan.name}_{each.meter}", "missing", "", each.meter, each.unit_price)
                for each in metered
                if each.plan == plan.name
            ]
            for row in rows:
                what = f"plans.{plan.name}" + (f".quotas.{row.meter}" if row.meter else "")
                if (other := seen.setdefault(row.lookup_key, what)) != what or len(row.lookup_key) > 200:
                    raise CatalogueError(f"{what}: {row.lookup_key[:90]!r} is the price of {other}, too; rename one")
                if not row.lookup_key.startswith("price_"):
                    yield row

    def _seen(self, wanted: PlanPrice, found: stripe.Price | None, meters: Mapping[str, str]) -> PlanPrice:
        if found is None:
            return wanted
        theirs = self._otherwise(wanted, found, meters.get(f"{PREFIX}{wanted.meter}", ""))
        return wanted._replace(state="other" if theirs else "there", price_id=found.id, theirs=theirs)

    async def _made(self, wanted: PlanPrice, meters: dict[str, str]) -> PlanPrice:
        event = f"{PREFIX}{wanted.meter}" if wanted.meter else ""
        if event and event not in meters:
            meters[event] = await self._make_meter(event)
        return wanted._replace(state="made", price_id=await self._make(wanted, meters.get(event, "")))

    def _otherwise(self, wanted: PlanPrice, found: stripe.Price, meter: str) -> str:
        """What of a price at Stripe is not as it should be, in words."""
        recurring, coins = found.recurring, found.unit_amount_decimal
        if coins is None or recurring is None or (recurring.interval, recurring.interval_count) != ("month", 1):
            return "another kind of price"
        if found.currency.upper() != self._currency:
            return found.currency.upper()
        if coins != in_coins(wanted.amount, self._currency):
            return plain(of_coins(coins, self._currency))
        return "another meter" if id_of(recurring.meter or "") != meter else ""

    async def _found(self, names: Iterable[str]) -> dict[str, stripe.Price]:
        """Active prices by lookup key."""
        found: dict[str, stripe.Price] = {}
        every = [*names]
        for start in range(0, len(every), AT_ONCE):
            some = every[start : start + AT_ONCE]
            page = await self._calls.read(
                lambda client, some=some: client.v1.prices.list_async(  # type: ignore[misc]
                    {"lookup_keys": some, "active": True, "limit": 100}
                )
            )
            found |= {each.lookup_key: each for each in page.data if each.lookup_key}
        return found

    async def meters(self) -> dict[str, str]:
        """Ids of active meters by the name of their events."""
        pages = self._calls.pages(
            lambda client: client.v1.billing.meters.list_async({"status": "active", "limit": 100})
        )
        return {each.event_name: each.id async for each in pages}

    async def _make_meter(self, event: str) -> str:
        made = await self._calls.write(
            lambda client, options: client.v1.billing.meters.create_async(
                {
                    "display_name": event.removeprefix(PREFIX),
                    "event_name": event,
                    "default_aggregation": {"formula": "sum"},
                    "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                    "value_settings": {"event_payload_key": "value"},
                },
                options,
            )
        )
        return made.id

    async def _make(self, wanted: PlanPrice, meter: str) -> str:
        name = f"{wanted.plan}: {wanted.meter}" if meter else wanted.plan
        recurring: stripe.params.PriceCreateParamsRecurring = {"interval": "month"}
        if meter:
            recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
        made = await self._calls.write(
            lambda client, options: client.v1.prices.create_async(
                {
                    "currency": self._currency.lower(),
                    "unit_amount_decimal": in_coins(wanted.amount, self._currency),
                    "recurring": recurring,
                    "lookup_key": wanted.lookup_key,
                    "metadata": {PLAN: wanted.plan},
                    "product_data": {"name": name},
                },
                options,
            )
        )
        return made.id
