"""Customers, their ways to pay, and how those get there."""

from __future__ import annotations

import re
from typing import Final

from mm_metering.billing.mock import CARDS, Card
from mm_metering.testing.fake_stripe.params import Params, merged, truth
from mm_metering.testing.fake_stripe.state import Account, Refusal, Thing, page

_QUERY: Final = re.compile(r"metadata\['((?:[^'\\]|\\.)+)'\]:'((?:[^'\\]|\\.)*)'")
_USUAL: Final = Card("visa", "4242")


def create(account: Account, params: Params) -> Thing:
    made = account.new(
        "customer",
        name=params.get("name"),
        email=params.get("email"),
        metadata=merged({}, params.get("metadata")),
        invoice_settings={
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
    )
    account.tell("customer.created", made)
    return made


def retrieve(account: Account, customer_id: str, _: Params) -> Thing:
    found = account.get("customer", customer_id)
    return {"id": customer_id, "object": "customer", "deleted": True} if found.get("deleted") else found


def living(account: Account, customer_id: str) -> Thing:
    found = account.get("customer", customer_id)
    if found.get("deleted"):
        raise Refusal(404, f"No such customer: '{customer_id}'", code="resource_missing", param="customer")
    return found


def update(account: Account, customer_id: str, params: Params) -> Thing:
    found = living(account, customer_id)
    for name in ("name", "email"):
        if name in params:
            found[name] = params[name] or None
    found["metadata"] = merged(found["metadata"], params.get("metadata"))
    method = params.get("invoice_settings", {}).get("default_payment_method")
    if method is not None:
        owned(account, method, customer_id)
        found["invoice_settings"]["default_payment_method"] = method
    account.tell("customer.updated", found)
    return found


def delete(account: Account, customer_id: str, _: Params) -> Thing:
    found = living(account, customer_id)
    found["deleted"] = True
    for each in account.every("subscription", lambda each: each["customer"] == customer_id):
        if each["status"] != "canceled":
            each |= {"status": "canceled", "canceled_at": account.now, "ended_at": account.now}
            account.tell("customer.subscription.deleted", each)
    account.tell("customer.deleted", found | {"deleted": True})
    return {"id": customer_id, "object": "customer", "deleted": True}


def search(account: Account, params: Params) -> Thing:
    asked = _QUERY.fullmatch(params["query"])
    if asked is None:
        raise Refusal(400, f"The fake searches by one key of metadata alone, not by {params['query']!r}")
    key, value = (re.sub(r"\\(.)", r"\1", each) for each in asked.groups())
    found = account.every("customer", lambda each: not each.get("deleted") and each["metadata"].get(key) == value)
    listed = page(found, params, "/v1/customers/search")
    return {**listed, "object": "search_result", "next_page": None}


def list_(account: Account, params: Params) -> Thing:
    return page(account.every("customer", lambda each: not each.get("deleted")), params, "/v1/customers")


# -- ways to pay ------------------------------------------------------------------------------------------------------


def owned(account: Account, method_id: str, customer_id: str) -> Thing:
    found = account.get("payment_method", method_id)
    if found["customer"] != customer_id:
        raise Refusal(
            400,
            "The customer does not have a payment method with that ID.",
            code="resource_missing",
            param="payment_method",
        )
    return found


def card_of(account: Account, method_id: str) -> Card:
    """What the card does, by the token that it was made of."""
    return CARDS.get(account.get("payment_method", method_id)["metadata"].get("token", ""), _USUAL)


def attached(account: Account, token: str, customer_id: str) -> Thing:
    """A way to pay made of a test token."""
    card = CARDS.get(token, _USUAL)
    made = account.new("payment_method", type="card", customer=customer_id, metadata={"token": token})
    made["card"] = {
        "brand": card.brand,
        "checks": None,
        "country": "US",
        "display_brand": card.brand,
        "exp_month": 12,
        "exp_year": account.clock.now().year + 3,
        "fingerprint": None,
        "funding": "credit",
        "generated_from": None,
        "last4": card.last4,
        "networks": None,
        "regulated_status": None,
        "three_d_secure_usage": None,
        "wallet": None,
    }
    account.tell("payment_method.attached", made)
    return made


def setup(account: Account, params: Params) -> Thing:
    """A SetupIntent that is confirmed at once. An expired card is declined here; others, when they are charged."""
    living(account, params["customer"])
    token = params["payment_method"]
    if token == "pm_card_chargeDeclinedExpiredCard":
        raise Refusal(402, "Your card has expired.", code="expired_card", decline_code="expired_card")
    known = account.kept["payment_method"].get(token)
    method = known or attached(account, token, params["customer"])
    method["customer"] = params["customer"]
    made = account.new(
        "setup_intent",
        customer=params["customer"],
        payment_method=method["id"],
        payment_method_types=["card"],
        status="succeeded" if truth(params.get("confirm")) else "requires_confirmation",
        usage=params.get("usage", "off_session"),
        metadata={},
    )
    made["client_secret"] = f"{made['id']}_secret_fake"
    account.tell("setup_intent.succeeded", made)
    return made


def methods(account: Account, customer_id: str, params: Params) -> Thing:
    living(account, customer_id)
    found = account.every("payment_method", lambda each: each["customer"] == customer_id)
    return page(found, params, f"/v1/customers/{customer_id}/payment_methods")


def method(account: Account, method_id: str, _: Params) -> Thing:
    return account.get("payment_method", method_id)


def detach(account: Account, method_id: str, _: Params) -> Thing:
    found = account.get("payment_method", method_id)
    owner = account.get("customer", found["customer"])
    if owner["invoice_settings"]["default_payment_method"] == method_id:
        owner["invoice_settings"]["default_payment_method"] = None
    found["customer"] = None
    account.tell("payment_method.detached", found)
    return found
