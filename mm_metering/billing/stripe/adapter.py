"""``StripeBillingAdapter``: the law of ``billing.adapter`` on Stripe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mm_metering.billing.plan_prices import PlanPrice
from mm_metering.billing.reporter import BillingMode
from mm_metering.billing.stripe.calls import Calls, Retries
from mm_metering.billing.stripe.meters import Meters
from mm_metering.billing.stripe.prices import Prices
from mm_metering.billing.stripe.webhooks import Webhooks
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import is_currency
from mm_metering.errors import InvalidInput


class StripeBillingAdapter(Webhooks, Meters):
    """A ``BillingAdapter`` on a Stripe account (API 2026-10-28.endive).

    ``api_key``: a secret or restricted key. ``webhook_secret``: "whsec_…", with which Stripe signs what it sends, or
    more than one while it is being changed. ``account``: "acct_…", whose webhooks are taken where they name one.
    ``base_url``: another server for all of Stripe's hosts, as for tests. ``currency``: of the invoices. ``prices``: of
    plans whose price is not called "mm_" and the plan's name. ``billing_mode``: as the Metering's; with "report" Stripe
    multiplies usage by the plans' prices. ``timeout_s``: of one attempt. ``calls_per_s``: at most;
    Stripe takes 25 in a sandbox and 100 live, of everybody who uses the account. It may be used on several event loops;
    each gives its connections back by its own ``aclose()``.
    """

    def __init__(
        self,
        *,
        api_key: str,
        webhook_secret: str | Sequence[str] | None = None,
        account: str | None = None,
        base_url: str | None = None,
        currency: str = "USD",
        prices: Mapping[str, str] | None = None,
        billing_mode: BillingMode = "invoice",
        retries: Retries | None = None,
        calls_per_s: float = 20.0,
        timeout_s: float = 15.0,
    ) -> None:
        if not is_currency(currency):
            raise InvalidInput("currency", f'{currency!r} is no currency such as "USD"')
        if billing_mode not in ("invoice", "report"):
            raise InvalidInput("billing_mode", f'is {str(billing_mode)[:40]!r}, not "invoice" or "report"')
        self.billing_mode: BillingMode = billing_mode
        calls = Calls(api_key, base_url=base_url, timeout_s=timeout_s, retries=retries or Retries(), per_s=calls_per_s)
        secrets = (webhook_secret,) if isinstance(webhook_secret, str) else tuple(webhook_secret or ())
        super().__init__(
            calls, Prices(calls, prices or {}, currency, billing_mode), currency, secrets=secrets, account=account
        )

    async def push_plans(self, catalogue: Catalogue, *, dry_run: bool = False) -> tuple[PlanPrice, ...]:
        """Makes the prices that are missing, and says of each what there is: of every plan one of zero a month; where
        Stripe multiplies, the plan's own and those of its units, with their meters. None is changed."""
        return await self._prices.push(catalogue, dry_run=dry_run)

    @property
    def is_live(self) -> bool:
        """Whether its key is of live data; False for one of a sandbox."""
        return self._calls.is_live

    @property
    def hears(self) -> bool:
        """Whether it has a webhook_secret, without which all that Stripe sends is refused."""
        return bool(self._secrets)

    async def aclose(self) -> None:
        """Closes this event loop's connections; another call opens new ones."""
        await self._calls.aclose()
