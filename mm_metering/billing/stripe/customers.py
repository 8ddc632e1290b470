"""Customers and their ways to pay, at Stripe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from mm_metering.billing.adapter import BillingCustomer, PaymentMethod, plain_text, token
from mm_metering.billing.stripe.account import StripeAccount
from mm_metering.billing.stripe.calls import once_begun
from mm_metering.billing.stripe.failures import NoSuchObject
from mm_metering.billing.stripe.shapes import ORGANIZATION, OURS, checked_id, customer_of, id_of, method_of
from mm_metering.errors import ActionRequired, InvalidInput, InvalidRequest

if TYPE_CHECKING:
    import stripe

MAX_LIVES: Final = 20
"""Of one organization's customers that were deleted and made again, within a day."""


class Customers(StripeAccount):
    """An organization's customer is found by search, or by the answer that Stripe keeps under the organization's
    idempotency key. The search lags by a minute and the key lives for a day, so together they leave no gap."""

    async def create_customer(
        self, *, organization_id: str, email: str, name: str, metadata: Mapping[str, str] | None = None
    ) -> BillingCustomer:
        plain_text(organization_id, "organization_id")
        new: stripe.params.CustomerUpdateParams = {
            "email": plain_text(email, "email"),
            "name": plain_text(name, "name"),
            "metadata": {**_metadata(metadata), ORGANIZATION: organization_id},
        }
        found = await self._searched(organization_id) or await self._made(organization_id)
        if found.email:
            return customer_of(found)
        # New, or left so by a process that ended here.
        return customer_of(await self._updated(found.id, new))

    async def _searched(self, organization_id: str) -> stripe.Customer | None:
        quoted = organization_id.replace("\\", "\\\\").replace("'", "\\'")
        page = await self._calls.read(
            lambda client: client.v1.customers.search_async(
                {"query": f"metadata['{ORGANIZATION}']:'{quoted}'", "limit": 100}
            )
        )
        for each in sorted(page.data, key=lambda each: (each.created, each.id)):
            if customer_of(each).organization_id == organization_id:
                found = await self._customer(each.id)  # the index may be behind
                if found is not None:
                    return found
        return None

    async def _made(self, organization_id: str) -> stripe.Customer:
        """Nothing but the organization is sent, so that whoever asks for it asks for the same."""
        key = first = f"cus:{hashlib.sha256(organization_id.encode()).hexdigest()[:40]}"
        for _ in range(MAX_LIVES):
            made = await self._calls.write(
                lambda client, options: client.v1.customers.create_async(
                    {"metadata": {ORGANIZATION: organization_id}}, options
                ),
                key,
            )
            with once_begun():
                found = await self._customer(made.id)
            if found is not None:
                return found
            key = f"{first}:{made.id}"  # that one was deleted; this is the next
        raise InvalidRequest(f"the organization's customer was deleted {MAX_LIVES} times in a day; try again tomorrow")

    async def get_customer(self, customer_id: str) -> BillingCustomer | None:
        found = await self._customer(customer_id)
        return None if found is None else customer_of(found)

    async def update_customer(
        self,
        customer_id: str,
        *,
        email: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> BillingCustomer:
        checked_id(customer_id, "cus", "customer_id")
        changes: stripe.params.CustomerUpdateParams = {}
        if email is not None:
            changes["email"] = plain_text(email, "email")
        if name is not None:
            changes["name"] = plain_text(name, "name")
        if metadata:
            changes["metadata"] = _metadata(metadata)
        return customer_of(await self._updated(customer_id, changes))

    async def _updated(self, customer_id: str, changes: stripe.params.CustomerUpdateParams) -> stripe.Customer:
        return await self._calls.write(
            lambda client, options: client.v1.customers.update_async(customer_id, changes, options)
        )

    async def delete_customer(self, customer_id: str) -> None:
        checked_id(customer_id, "cus", "customer_id")
        try:
            await self._calls.write(lambda client, _: client.v1.customers.delete_async(customer_id))
        except NoSuchObject:
            return

    # -- ways to pay --------------------------------------------------------------------------------------------------

    async def create_payment_method(self, customer_id: str, *, payment_method: str) -> PaymentMethod:
        """The first one becomes the default."""
        given = token(payment_method)
        customer = await self._known(customer_id)
        setup = await self._calls.write(
            lambda client, options: client.v1.setup_intents.create_async(
                {
                    "customer": customer_id,
                    "payment_method": given,
                    "confirm": True,
                    "usage": "off_session",
                    "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                },
                options,
            )
        )
        if setup.status == "requires_action":
            raise ActionRequired(setup.client_secret or "")
        if setup.status != "succeeded" or setup.payment_method is None:
            raise InvalidRequest(f"this way to pay cannot be kept for later: it is {setup.status!r} at Stripe")
        with once_begun():
            made = await self._method(id_of(setup.payment_method))
            if customer.invoice_settings is None or customer.invoice_settings.default_payment_method is None:
                await self.set_default_payment_method(customer_id, made.id)
        return method_of(made)

    async def get_payment_methods(self, customer_id: str) -> list[PaymentMethod]:
        checked_id(customer_id, "cus", "customer_id")
        found = self._calls.pages(
            lambda client: client.v1.customers.payment_methods.list_async(customer_id, {"limit": 100})
        )
        return [method_of(each) async for each in found]

    async def set_default_payment_method(self, customer_id: str, payment_method_id: str) -> None:
        checked_id(customer_id, "cus", "customer_id")
        checked_id(payment_method_id, "pm", "payment_method_id")
        await self._updated(customer_id, {"invoice_settings": {"default_payment_method": payment_method_id}})

    async def delete_payment_method(self, payment_method_id: str) -> None:
        checked_id(payment_method_id, "pm", "payment_method_id")
        try:
            known = await self._method(payment_method_id)
        except NoSuchObject:
            return
        if known.customer is None:
            return
        await self._check_that_another_pays(id_of(known.customer), payment_method_id)
        await self._calls.write(lambda client, options: client.v1.payment_methods.detach_async(known.id, {}, options))

    async def _check_that_another_pays(self, customer_id: str, payment_method_id: str) -> None:
        if any(each.id != payment_method_id for each in await self.get_payment_methods(customer_id)):
            return
        running = self._calls.pages(
            lambda client: client.v1.subscriptions.list_async({"customer": customer_id, "limit": 100})
        )
        async for each in running:
            if each.status in ("active", "past_due", "trialing"):
                raise InvalidRequest("an active subscription is paid by this method alone; add another one first")

    async def _method(self, payment_method_id: str) -> stripe.PaymentMethod:
        return await self._calls.read(lambda client: client.v1.payment_methods.retrieve_async(payment_method_id))


def _metadata(given: Mapping[str, str] | None) -> dict[str, str]:
    """InvalidInput for a name that is ours, or what Stripe does not hold."""
    for key, value in (given or {}).items():
        if key in OURS or not 1 <= len(key) <= 40 or "[" in key or "]" in key:
            raise InvalidInput("metadata", f"{key[:60]!r} is ours, or no name of 1 to 40 characters without brackets")
        if value:
            plain_text(value, "metadata")
    return dict(given or {})
