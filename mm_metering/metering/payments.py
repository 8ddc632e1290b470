"""Payments: what the provider is sent, what it says, and what it is told of usage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mm_metering.billing.adapter import WebhookAdapter
from mm_metering.billing.collection import BillingRun, Collector
from mm_metering.billing.hooks import Hook
from mm_metering.billing.inbox import MAX_BODY
from mm_metering.billing.invoices import Progress
from mm_metering.billing.reconcile import Reconcile, Reconciliation
from mm_metering.core import collecting
from mm_metering.errors import InvalidInput, WebhookRefused
from mm_metering.metering.invoices import Invoicing
from mm_metering.middleware import provider_webhook
from mm_metering.telemetry.instruments import BILLING_DRIFT
from mm_metering.worker.payments import collect_now

H = TypeVar("H", bound=Hook)


class Paying(Invoicing):
    """What becomes of invoices at a payment provider."""

    async def stripe_webhook(self, request: Request) -> Response:
        """The endpoint for the payment provider's webhooks, as ``app.add_route("/webhooks/stripe",
        metering.stripe_webhook, methods=["POST"])``. It verifies, stores and answers; the worker acts. It is never
        metered; ``endpoint_rules`` say how often one address may ask."""
        if (refusal := self.endpoint_guard.refusal(request.scope)) is not None:
            return refusal
        await self.startup()
        return await provider_webhook.answer(request, self._take_webhook, max_body=MAX_BODY)

    async def _take_webhook(self, body: bytes, headers: Mapping[str, str]) -> bool:
        if self._inbox is None:
            raise WebhookRefused("there is no payment provider that sends webhooks: Metering(billing=...)")
        return await self._inbox.take(body, headers)

    def on(self, type: str) -> Callable[[H], H]:
        """Calls a function (def or async def) with each ``Notice`` of a type, or of "*", in the process that works:
        at least once, in order while none fails. ``@metering.on("payment.succeeded")``. InvalidInput for a type that
        there is not."""

        self._hooks.check(type)

        def add(hook: H) -> H:
            self._hooks.add(type, hook)
            return hook

        return add

    async def collect(self, *, progress: Progress = lambda _: None) -> BillingRun:
        """What the worker does every ten seconds: follows webhooks, sends finalized invoices to the payment provider,
        has them paid, and calls hooks. ``progress`` is told how many invoices are done. InvalidInput without a
        provider."""
        await self.startup()
        return await collect_now(self._collecting(), self._inbox, self._hooks, progress)

    async def list_payments(
        self, *, tenant: str | None = None, period: str | None = None, state: collecting.CollectionState | None = None
    ) -> list[collecting.Collection]:
        """What became of invoices at the payment provider: the first 1,000, by the invoice's id."""
        await self.startup()
        return await self.ledger.collections(tenant=tenant, period=period, state=state)

    async def retry_payment(self, invoice_id: str, *, tenant: str | None = None) -> collecting.Collection:
        """Has it paid at the next ``collect``: also what is parked, and what waits for another day."""
        collector, invoice = self._collecting(), await self.get_invoice(invoice_id, tenant=tenant)
        return await collector.retry(invoice.id)

    async def reconcile_payments(
        self, period: str, *, apply: bool = False, progress: Progress = lambda _: None
    ) -> Reconciliation:
        """A month's invoices against those at the payment provider, line by line. Nothing is changed, unless ``apply``:
        then payment states follow the provider, and what was never sent is. ``progress`` is told how many invoices are
        done."""
        await self.startup()
        collector, adapter = self._collecting(), self.billing.adapter
        if not isinstance(adapter, WebhookAdapter):
            raise InvalidInput("billing", f"{type(adapter).__name__} cannot list its invoices")
        found = await Reconcile(adapter, self.ledger, collector).look(period, apply=apply, progress=progress)
        self._measures.answer(BILLING_DRIFT, lambda: [("", len(found.drift))])
        return found

    def _collecting(self) -> Collector:
        if self._collector is None:
            raise InvalidInput("billing", "is not set: Metering(billing=StripeBillingAdapter(...))")
        return self._collector

    # -- usage that it multiplies

    async def report_usage(self, *, parked: bool = False) -> int:
        """Tells the payment provider now what the worker tells it every ten minutes: the units past the allowances that
        it was not told yet. How many reports were sent; ``parked``: also those that were refused before. Raises the
        provider's error if it does not answer; the next call goes on. InvalidInput unless ``billing_mode`` is
        "report"."""
        if self._reporting is None:
            raise InvalidInput("billing_mode", 'is "invoice": we rate, and nothing is reported')
        await self.flush()
        return await self._reporting.run(parked=parked)

    async def _report_usage(self, _period: datetime, _fence: int) -> None:
        assert self._reporting is not None
        await self._reporting.run()
