"""Subscriptions at Stripe: where we rate, mirrors of plans without proration; else all of the plan's prices."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from mm_metering.billing.adapter import Subscription, plan_of
from mm_metering.billing.stripe.account import StripeAccount, default_method, digest, same_request
from mm_metering.billing.stripe.calls import key_of
from mm_metering.billing.stripe.failures import NoSuchObject
from mm_metering.billing.stripe.prices import PlanPrices
from mm_metering.billing.stripe.shapes import ASKED, KEY, ORGANIZATION, PLAN, checked_id, id_of, instant, told
from mm_metering.errors import InvalidRequest

if TYPE_CHECKING:
    import stripe

ENDED: Final = ("canceled", "incomplete_expired")


class Subscriptions(StripeAccount):
    async def create_subscription(
        self,
        *,
        customer_id: str,
        plan_id: str,
        payment_method_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Subscription:
        key = key_of(idempotency_key, "sub")
        if payment_method_id is not None:
            checked_id(payment_method_id, "pm", "payment_method_id")
        customer = await self._known(customer_id)
        asked = digest({"customer": customer_id, "plan": plan_of(plan_id), "method": payment_method_id})
        if idempotency_key and (made := await self._subscribed(customer_id, idempotency_key, asked)):
            return self._subscription(made)
        metadata = {ORGANIZATION: told(customer.metadata).get(ORGANIZATION, ""), PLAN: plan_of(plan_id), ASKED: asked}
        wanted: stripe.params.SubscriptionCreateParams = {
            "customer": customer_id,
            "items": await self._new_items(plan_id),
            "off_session": True,
            "metadata": {**metadata, KEY: idempotency_key} if idempotency_key else metadata,
        }
        if self._prices.mode == "report":  # months as ours
            wanted["billing_cycle_anchor_config"] = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
        if method := payment_method_id or default_method(customer):
            wanted["default_payment_method"] = method
            wanted["payment_behavior"] = "allow_incomplete"
        else:
            wanted["payment_behavior"] = "default_incomplete"
        return self._subscription(
            await self._calls.write(lambda client, options: client.v1.subscriptions.create_async(wanted, options), key)
        )

    async def _subscribed(self, customer_id: str, key: str, asked: str) -> stripe.Subscription | None:
        """What was made under the key, also long after Stripe has forgotten the key."""
        pages = self._calls.pages(
            lambda client: client.v1.subscriptions.list_async({"customer": customer_id, "status": "all", "limit": 100})
        )
        async for each in pages:
            metadata = told(each.metadata)
            if metadata.get(KEY) == key:
                same_request(metadata.get(ASKED), asked, key)
                return each
        return None

    async def get_subscription(self, subscription_id: str) -> Subscription | None:
        try:
            return self._subscription(await self._retrieved(subscription_id))
        except NoSuchObject:
            return None

    async def update_subscription(self, subscription_id: str, *, plan_id: str) -> Subscription:
        known = await self._running(subscription_id)
        metadata = {PLAN: plan_of(plan_id)}
        if self._prices.mode == "report":
            prices, items = await self._prices.all_of(plan_id), await self._items(known)
            return await self._updated_to(
                subscription_id,
                {
                    "items": replaced(items, prices),
                    "proration_behavior": "create_prorations" if is_dearer(prices, items) else "none",
                    "metadata": metadata,
                },
            )
        price = await self._prices.id_of(plan_id)
        # Without its item's id the new price would be added, and both billed.
        item = known["items"].data[0].id
        return await self._updated_to(
            subscription_id,
            {"items": [{"id": item, "price": price}], "proration_behavior": "none", "metadata": metadata},
        )

    async def _new_items(self, plan_id: str) -> list[stripe.params.SubscriptionCreateParamsItem]:
        """Without quantities: a licensed price is had once, and a metered one takes none."""
        if self._prices.mode == "invoice":
            return [{"price": await self._prices.id_of(plan_id)}]
        prices = await self._prices.all_of(plan_id)
        return [{"price": each.id} for each in (prices.licensed, *prices.metered)]

    async def _items(self, known: stripe.Subscription) -> list[stripe.SubscriptionItem]:
        """All of them: the subscription shows the first few."""
        if not known["items"].has_more:
            return list(known["items"].data)
        pages = self._calls.pages(
            lambda client: client.v1.subscription_items.list_async({"subscription": known.id, "limit": 100})
        )
        return [each async for each in pages]

    async def cancel_subscription(self, subscription_id: str, *, at_once: bool = False) -> Subscription:
        known = await self._retrieved(subscription_id)
        if known.status in ENDED:
            return self._subscription(known)
        if not at_once:
            return await self._updated_to(subscription_id, {"cancel_at_period_end": True})
        try:
            return self._subscription(
                await self._calls.write(
                    lambda client, _: client.v1.subscriptions.cancel_async(
                        subscription_id, {"invoice_now": True, "prorate": False}
                    )
                )
            )
        except InvalidRequest:  # a first attempt, or somebody else, has done it
            known = await self._retrieved(subscription_id)
            if known.status not in ENDED:
                raise
            return self._subscription(known)

    async def resume_subscription(self, subscription_id: str) -> Subscription:
        """Whichever of three holds it back: a cancellation to come, collection that is paused, a pause."""
        known = await self._running(subscription_id)
        changes: stripe.params.SubscriptionUpdateParams = {}
        if known.cancel_at_period_end:
            changes["cancel_at_period_end"] = False
        if known.pause_collection is not None:
            changes["pause_collection"] = ""
        now = await self._updated_to(subscription_id, changes) if changes else self._subscription(known)
        if known.status != "paused":
            return now
        return self._subscription(
            await self._calls.write(
                lambda client, options: client.v1.subscriptions.resume_async(
                    subscription_id, {"payment_behavior": "resume_on_payment_success"}, options
                )
            )
        )

    async def _updated_to(self, subscription_id: str, changes: stripe.params.SubscriptionUpdateParams) -> Subscription:
        return self._subscription(
            await self._calls.write(
                lambda client, options: client.v1.subscriptions.update_async(subscription_id, changes, options)
            )
        )

    async def _running(self, subscription_id: str) -> stripe.Subscription:
        known = await self._retrieved(subscription_id)
        if known.status in ENDED:
            raise InvalidRequest(f"subscription {subscription_id} is {known.status}; create a new one")
        return known

    async def _retrieved(self, subscription_id: str) -> stripe.Subscription:
        checked_id(subscription_id, "sub", "subscription_id")
        return await self._calls.read(lambda client: client.v1.subscriptions.retrieve_async(subscription_id))

    def _subscription(self, found: stripe.Subscription) -> Subscription:
        items = found["items"].data
        return Subscription(
            id=found.id,
            customer_id=id_of(found.customer),
            plan_id=self._prices.plan_of(found, next((each.price for each in items if not meter_of(each.price)), None)),
            status=found.status,
            current_period_end=instant(max((each.current_period_end for each in items), default=found.created)),
            cancel_at_period_end=found.cancel_at_period_end,
        )


def meter_of(price: stripe.Price) -> str:
    """The id of the meter whose units it prices; nothing for what is due by the month."""
    return id_of(price.recurring.meter or "") if price.recurring is not None else ""


def replaced(
    items: Sequence[stripe.SubscriptionItem], prices: PlanPrices
) -> list[stripe.params.SubscriptionUpdateParamsItem]:
    """Each item with its new price, by its id: else the new price would be added, and both billed. Of a meter that
    the new plan does not price the item is deleted; what was not there is added."""
    new = {meter_of(each): each.id for each in (*prices.metered, prices.licensed)}
    changes: list[stripe.params.SubscriptionUpdateParamsItem] = []
    for item in items:
        price = new.pop(meter_of(item.price), None)
        changes.append({"id": item.id, "deleted": True} if price is None else {"id": item.id, "price": price})
    added: list[stripe.params.SubscriptionUpdateParamsItem] = [{"price": price} for price in new.values()]
    return [*changes, *added]


def is_dearer(prices: PlanPrices, items: Sequence[stripe.SubscriptionItem]) -> bool:
    """Whether the plan's price a month rises: then it is due for the rest of the month, by the second."""
    before = sum((each.price.unit_amount_decimal or 0 for each in items if not meter_of(each.price)), Decimal(0))
    return (prices.licensed.unit_amount_decimal or 0) > before
