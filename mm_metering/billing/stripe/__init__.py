"""Stripe, behind the law of ``billing.adapter``.

Owns: Stripe's shapes, its failures, its idempotency keys; no other room imports ``stripe``.
Does not own: what is owed, which plan a tenant is on, webhooks that come in.
Invariants: a call is repeated with its own key only; a total that is not ours is never invoiced; no card number and no
secret leaves in a message.
"""

from mm_metering.billing.plan_prices import PlanPrice
from mm_metering.billing.stripe.adapter import StripeBillingAdapter
from mm_metering.billing.stripe.calls import Retries

__all__ = ["PlanPrice", "Retries", "StripeBillingAdapter"]
