"""``metering.billing``: the payment provider as a host uses it, with organizations in place of its customers.

Owns: which customer pays for which tenant, and that a subscription's timeline here changes before its mirror there.
Does not own: the provider (``adapter``), what an invoice says (``invoices``). Wherever a ``customer_id`` is asked for,
an organization's id does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Protocol

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger
from mm_metering.billing.adapter import (
    BillingAdapter,
    BillingCustomer,
    BillingInvoice,
    Items,
    PaymentMethod,
    Subscription,
    plan_of,
    unknown,
)
from mm_metering.billing.subscriptions import Subscriptions
from mm_metering.core.audit import Act
from mm_metering.core.audited import HOUSE
from mm_metering.core.cards import refuse_card
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.events import UsageEvent
from mm_metering.core.identity import tenant_id
from mm_metering.core.tenancy import refuse_forgotten
from mm_metering.core.usage import UsageRange, UsageSnapshot
from mm_metering.errors import InvalidInput, NotFound
from mm_metering.gate.recorder import Outcome


class Usage(Protocol):
    """What of a Metering the seed's adapter has, too."""

    async def startup(self) -> None: ...

    async def record(self, event: UsageEvent) -> Outcome: ...

    async def get_usage(self, tenant: str, start: date | str, end: date | str) -> UsageRange: ...

    async def create_usage_snapshot(self, tenant: str, day: date | str) -> UsageSnapshot: ...


class _Owned(Protocol):
    @property
    def customer_id(self) -> str: ...


class Payments:
    """Each method raises InvalidInput where the Metering has no payment provider, and what the adapter raises. Each may
    name a ``tenant``, who asks: what is another's is then NotFound. None: the host itself asks."""

    def __init__(
        self,
        adapter: BillingAdapter | None,
        *,
        ledger: Ledger,
        subscriptions: Subscriptions,
        catalogue: Catalogue,
        usage: Usage,
        act: Callable[[], Act],
    ) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._subscriptions = subscriptions
        self._catalogue = catalogue
        self._usage = usage
        self._act = act

    @property
    def adapter(self) -> BillingAdapter:
        """The provider itself."""
        if self._adapter is None:
            raise InvalidInput(
                "billing", "there is no payment provider; give one, such as Metering(billing=MockBillingAdapter())"
            )
        return self._adapter

    @property
    def has_adapter(self) -> bool:
        return self._adapter is not None

    # -- customers ----------------------------------------------------------------------------------------------------

    async def create_customer(
        self, *, organization_id: str, email: str, name: str, metadata: Mapping[str, str] | None = None
    ) -> BillingCustomer:
        """The organization's customer: made, or the one that it has."""
        tenant, adapter = tenant_id(organization_id), await self._opened()
        _refuse_cards(email, name, metadata)
        if account := await self._ledger.account(tenant, Wanted()):
            refuse_forgotten(account.tenant)
        made = await adapter.create_customer(organization_id=tenant, email=email, name=name, metadata=metadata)
        linked = await self._ledger.link_payer(tenant, made.id, act=self._act())
        return made if linked == made.id else await adapter.get_customer(linked) or made

    async def get_customer(self, customer_id: str, *, tenant: str | None = None) -> BillingCustomer | None:
        adapter = await self._opened()
        return await adapter.get_customer(await self._customer(customer_id, tenant))

    async def update_customer(
        self,
        customer_id: str,
        *,
        email: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        tenant: str | None = None,
    ) -> BillingCustomer:
        adapter = await self._opened()
        _refuse_cards(email, name, metadata)
        known, given = await self._customer(customer_id, tenant), {"email": email, "name": name, "metadata": metadata}
        changed = await adapter.update_customer(known, email=email, name=name, metadata=metadata)
        fields = ", ".join(field for field, value in given.items() if value is not None)
        await self._note("customer changed", known, known, detail=fields)  # what they are now is personal
        return changed

    async def delete_customer(self, customer_id: str, *, tenant: str | None = None) -> None:
        """At the provider. The tenant stays as it is here, without anybody who pays for it."""
        adapter = await self._opened()
        known = await self._customer(customer_id, tenant)
        await adapter.delete_customer(known)
        if owner := await self._ledger.paid_for(known):
            await self._ledger.unlink_payer(owner, act=self._act())
        else:
            await self._note("customer deleted", None, known)

    # -- ways to pay --------------------------------------------------------------------------------------------------

    async def create_payment_method(
        self, customer_id: str, *, payment_method: str, tenant: str | None = None
    ) -> PaymentMethod:
        adapter = await self._opened()
        known = await self._customer(customer_id, tenant)
        made = await adapter.create_payment_method(known, payment_method=payment_method)
        await self._note("payment method added", known, made.id)
        return made

    async def get_payment_methods(self, customer_id: str, *, tenant: str | None = None) -> list[PaymentMethod]:
        adapter = await self._opened()
        return await adapter.get_payment_methods(await self._customer(customer_id, tenant))

    async def set_default_payment_method(
        self, customer_id: str, payment_method_id: str, *, tenant: str | None = None
    ) -> None:
        adapter = await self._opened()
        known = await self._customer(customer_id, tenant)
        await self._check_method(payment_method_id, tenant)
        await adapter.set_default_payment_method(known, payment_method_id)
        await self._note("payment method made the default", known, payment_method_id)

    async def delete_payment_method(self, payment_method_id: str, *, tenant: str | None = None) -> None:
        adapter = await self._opened()
        await self._check_method(payment_method_id, tenant)
        await adapter.delete_payment_method(payment_method_id)
        await self._note("payment method deleted", None, payment_method_id)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def create_subscription(
        self, *, customer_id: str, plan_id: str, payment_method_id: str | None = None, tenant: str | None = None
    ) -> Subscription:
        """Puts the tenant on the plan, then mirrors that. Again after an error it makes no second one."""
        adapter = await self._opened()
        plan, customer = self._plan(plan_id), await self._customer(customer_id, tenant)
        owner = await self._tenant(customer)
        if payment_method_id is not None:
            await self._check_method(payment_method_id, tenant)
        await self._subscriptions.put(owner, plan=plan)
        revision = await self._subscriptions.revision(owner)
        made = await adapter.create_subscription(
            customer_id=customer,
            plan_id=plan,
            payment_method_id=payment_method_id,
            idempotency_key=f"subscription:{owner}:{revision}",
        )
        return await self._mirrored(made, plan)

    async def get_subscription(self, subscription_id: str, *, tenant: str | None = None) -> Subscription | None:
        found = await (await self._opened()).get_subscription(subscription_id)
        await self._check_customer(found, "subscription", subscription_id, tenant)
        return found

    async def update_subscription(
        self, subscription_id: str, *, plan_id: str, tenant: str | None = None
    ) -> Subscription:
        """As ``change_plan`` without an instant: an upgrade holds now, a downgrade from the period's end on."""
        adapter, plan = await self._opened(), self._plan(plan_id)
        await self._subscriptions.change_plan(await self._owner(subscription_id, tenant), plan)
        return await self._mirrored(await adapter.update_subscription(subscription_id, plan_id=plan), plan)

    async def cancel_subscription(
        self, subscription_id: str, *, at_once: bool = False, tenant: str | None = None
    ) -> Subscription:
        """At the period's end, unless ``at_once``."""
        adapter, owner = await self._opened(), await self._owner(subscription_id, tenant)
        await self._subscriptions.happen(owner, "cancel", at="now" if at_once else "period_end")
        return await self._mirrored(await adapter.cancel_subscription(subscription_id, at_once=at_once), "canceled")

    async def resume_subscription(self, subscription_id: str, *, tenant: str | None = None) -> Subscription:
        adapter, owner = await self._opened(), await self._owner(subscription_id, tenant)
        await self._subscriptions.happen(owner, "resume", at="now")
        return await self._mirrored(await adapter.resume_subscription(subscription_id), "resumed")

    async def _mirrored(self, there: Subscription, what: str) -> Subscription:
        await self._note("subscription mirrored", there.customer_id, there.id, detail=what)
        return there

    # -- invoices -----------------------------------------------------------------------------------------------------

    async def create_invoice(
        self,
        customer_id: str,
        *,
        items: Items,
        due_date: date | str | None = None,
        idempotency_key: str | None = None,
        tenant: str | None = None,
    ) -> BillingInvoice:
        """An invoice at the provider, of exactly these items."""
        adapter = await self._opened()
        known = await self._customer(customer_id, tenant)
        made = await adapter.create_invoice(known, items=items, due_date=due_date, idempotency_key=idempotency_key)
        await self._note("provider's invoice created", known, made.id)
        return made

    async def get_invoice(self, invoice_id: str, *, tenant: str | None = None) -> BillingInvoice | None:
        found = await (await self._opened()).get_invoice(invoice_id)
        await self._check_customer(found, "invoice", invoice_id, tenant)
        return found

    async def pay_invoice(
        self, invoice_id: str, payment_method_id: str | None = None, *, tenant: str | None = None
    ) -> BillingInvoice:
        """By the customer's default way to pay, unless another is named."""
        adapter = await self._opened()
        await self._check_invoice(invoice_id, tenant)
        if payment_method_id is not None:
            await self._check_method(payment_method_id, tenant)
        paid = await adapter.pay_invoice(invoice_id, payment_method_id)
        await self._note("provider's invoice paid", paid.customer_id, paid.id, detail=paid.status)
        return paid

    async def void_invoice(self, invoice_id: str, *, tenant: str | None = None) -> BillingInvoice:
        adapter = await self._opened()
        await self._check_invoice(invoice_id, tenant)
        voided = await adapter.void_invoice(invoice_id)
        await self._note("provider's invoice voided", voided.customer_id, voided.id)
        return voided

    # -- usage, which is ours -----------------------------------------------------------------------------------------

    async def record_usage(self, organization_id: str, event: UsageEvent | Mapping[str, object]) -> Outcome:
        """``metering.record`` of that organization's event."""
        given = event.model_dump() if isinstance(event, UsageEvent) else dict(event)
        return await self._usage.record(UsageEvent.model_validate({**given, "tenant": organization_id}))

    async def get_usage(self, organization_id: str, start: date | str, end: date | str) -> UsageRange:
        return await self._usage.get_usage(organization_id, start, end)

    async def create_usage_snapshot(self, organization_id: str, day: date | str) -> UsageSnapshot:
        return await self._usage.create_usage_snapshot(organization_id, day)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _opened(self) -> BillingAdapter:
        adapter = self.adapter
        await self._usage.startup()
        return adapter

    async def _note(self, action: str, customer: str | None, subject: str, *, detail: str = "") -> None:
        """What the provider has done, and is not ours to do in a transaction."""
        tenant = await self._ledger.paid_for(customer) if customer else None
        await self._ledger.add_audit([self._act().did(action, tenant or HOUSE, subject, detail=detail)])

    async def _customer(self, customer_id: str, tenant: str | None) -> str:
        """The provider's id, for that or for an organization's."""
        known = await self._ledger.payer(customer_id) or customer_id
        if tenant is not None and known != await self._ledger.payer(tenant_id(tenant)):
            raise _missing("customer", customer_id)
        return known

    async def _check_customer(self, found: _Owned | None, what: str, given: str, tenant: str | None) -> None:
        """NotFound where a tenant asks for what its own customer does not have."""
        if tenant is not None:
            mine = await self._ledger.payer(tenant_id(tenant))
            if found is None or found.customer_id != mine:
                raise _missing(what, given)

    async def _check_invoice(self, invoice_id: str, tenant: str | None) -> None:
        if tenant is not None:
            await self.get_invoice(invoice_id, tenant=tenant)

    async def _check_method(self, method_id: str, tenant: str | None) -> None:
        if tenant is not None:
            mine = await self._ledger.payer(tenant_id(tenant))
            known = await self.adapter.get_payment_methods(mine) if mine else ()
            if all(each.id != method_id for each in known):
                raise _missing("payment method", method_id)

    async def _tenant(self, customer: str) -> str:
        tenant = await self._ledger.paid_for(customer)
        if tenant is None:
            raise unknown("customer of an organization", customer)
        return tenant

    async def _owner(self, subscription_id: str, tenant: str | None) -> str:
        """The tenant of a subscription."""
        known = await self.get_subscription(subscription_id, tenant=tenant)
        if known is None:
            raise unknown("subscription", subscription_id)
        return await self._tenant(known.customer_id)

    def _plan(self, plan_id: str) -> str:
        return self._catalogue.plan(plan_of(plan_id)).name


def _refuse_cards(email: str | None, name: str | None, metadata: Mapping[str, str] | None) -> None:
    told = (
        ("email", email),
        ("name", name),
        *(("metadata", f"{key} {value}") for key, value in (metadata or {}).items()),
    )
    for field, text in told:
        refuse_card(str(text), field)


def _missing(what: str, given: str) -> NotFound:
    return NotFound(f"there is no {what} {str(given)[:60]!r}")
