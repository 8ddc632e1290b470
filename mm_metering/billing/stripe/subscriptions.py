"""Subscriptions at Stripe: mirrors of plans, without proration, since we rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mm_metering.billing.adapter import Subscription, plan_of
from mm_metering.billing.stripe.account import StripeAccount, default_method, digest, same_request
from mm_metering.billing.stripe.calls import key_of
from mm_metering.billing.stripe.failures import NoSuchObject
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
            "items": [{"price": await self._prices.id_of(plan_id)}],
            "off_session": True,
            "metadata": {**metadata, KEY: idempotency_key} if idempotency_key else metadata,
        }
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
        price = await self._prices.id_of(plan_id)
        # Without its item's id the new price would be added, and both billed.
        item = known["items"].data[0].id
        return await self._updated_to(
            subscription_id,
            {
                "items": [{"id": item, "price": price}],
                "proration_behavior": "none",
                "metadata": {PLAN: plan_of(plan_id)},
            },
        )

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
            plan_id=self._prices.plan_of(found, items[0].price if items else None),
            status=found.status,
            current_period_end=instant(max((each.current_period_end for each in items), default=found.created)),
            cancel_at_period_end=found.cancel_at_period_end,
        )
