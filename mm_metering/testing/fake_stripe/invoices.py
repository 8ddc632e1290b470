"""Invoices: drafts, the items bound to them, payment by test cards."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from mm_metering.testing.fake_stripe.customers import card_of, living
from mm_metering.testing.fake_stripe.params import Params, merged, truth
from mm_metering.testing.fake_stripe.spec import blank
from mm_metering.testing.fake_stripe.state import Account, Refusal, Thing, page


def create(account: Account, params: Params) -> Thing:
    living(account, params["customer"])
    made = begun(account, params["customer"], params.get("currency", "usd"), params)
    if params.get("pending_invoice_items_behavior") == "include":
        for item in account.every("invoiceitem", lambda each: each["customer"] == params["customer"]):
            if item["invoice"] is None:
                item["invoice"] = made["id"]
                add_line(account, made, item)
    account.tell("invoice.created", made)
    return made


def begun(account: Account, customer_id: str, currency: str, params: Params) -> Thing:
    method = params.get("collection_method", "charge_automatically")
    if "due_date" in params and method != "send_invoice":
        raise Refusal(400, "You cannot specify due_date unless collection_method is send_invoice", param="due_date")
    made = account.new(
        "invoice",
        customer=customer_id,
        currency=currency.lower(),
        status="draft",
        auto_advance=truth(params.get("auto_advance", "false")),
        collection_method=method,
        due_date=int(params["due_date"]) if "due_date" in params else None,
        metadata=merged({}, params.get("metadata")),
        period_start=account.now,
        period_end=account.now,
    )
    made["lines"] |= {"url": f"/v1/invoices/{made['id']}/lines"}
    return made


def add_item(account: Account, params: Params) -> Thing:
    living(account, params["customer"])
    if "amount" in params and "quantity" in params:
        raise Refusal(400, "You may only specify one of these parameters: amount, quantity.", param="amount")
    invoice = account.get("invoice", params["invoice"]) if "invoice" in params else None
    if invoice is not None and invoice["status"] != "draft":
        raise Refusal(400, "This invoice is no longer editable", code="invoice_not_editable")
    if invoice is not None and len(invoice["lines"]["data"]) >= 250:
        raise Refusal(400, "You can only have 250 items on an invoice")
    quantity = int(params.get("quantity", 1))
    each = decimal(params.get("unit_amount_decimal") or params.get("amount") or "0")
    if quantity < 0 or -int(each.normalize().as_tuple().exponent) > 12:
        raise Refusal(400, "Invalid quantity or unit_amount_decimal", param="unit_amount_decimal")
    made = account.new(
        "invoiceitem",
        customer=params["customer"],
        currency=params.get("currency", "usd"),
        description=params.get("description"),
        invoice=invoice and invoice["id"],
        quantity=quantity,
        quantity_decimal=str(quantity),
        amount=rounded(quantity * each),
        metadata=merged({}, params.get("metadata")),
        date=account.now,
        period={"start": account.now, "end": account.now},
    )
    made["pricing"] = {"type": "price_details", "unit_amount_decimal": plain(each)}
    if invoice is not None:
        add_line(account, invoice, made)
    return made


def add_line(account: Account, invoice: Thing, item: Thing) -> Thing:
    """The newest first, as Stripe shows them."""
    line = account.new(
        "line_item",
        amount=item["amount"],
        currency=invoice["currency"],
        description=item["description"],
        quantity=item["quantity"],
        metadata=dict(item["metadata"]),
        period=dict(item["period"]),
        pricing=dict(item["pricing"]),
        invoice=invoice["id"],
        subtotal=item["amount"],
    )
    invoice["lines"]["data"].insert(0, line)
    total = sum(each["amount"] for each in invoice["lines"]["data"])
    due = max(total, 0)
    invoice |= {"subtotal": total, "total": total, "amount_due": due, "amount_remaining": due}
    return line


def shown(invoice: Thing) -> Thing:
    """With its first ten lines."""
    every = invoice["lines"]
    return {**invoice, "lines": {**every, "data": every["data"][:10], "has_more": len(every["data"]) > 10}}


def retrieve(account: Account, invoice_id: str, params: Params) -> Thing:
    found = shown(account.get("invoice", invoice_id))
    if "confirmation_secret" in params.get("expand", ()) and found["status"] == "open":
        secret = {"client_secret": f"{_intent(account, invoice_id)['id']}_secret_fake", "type": "payment_intent"}
        found["confirmation_secret"] = secret
    return found


def list_(account: Account, params: Params) -> Thing:
    since = int(params.get("created", {}).get("gte", 0))
    found = account.every(
        "invoice",
        lambda each: (
            params.get("customer") in (None, each["customer"])
            and params.get("status") in (None, each["status"])
            and each["created"] >= since
        ),
    )
    return page(map(shown, found), params, "/v1/invoices")


def lines(account: Account, invoice_id: str, params: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    return page(found["lines"]["data"], params, f"/v1/invoices/{invoice_id}/lines")


def delete(account: Account, invoice_id: str, _: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    if found["status"] != "draft":
        raise Refusal(400, "You can only delete draft invoices.", code="invoice_not_editable")
    del account.kept["invoice"][invoice_id]
    return {"id": invoice_id, "object": "invoice", "deleted": True}


def finalize(account: Account, invoice_id: str, _: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    if found["status"] != "draft":
        raise Refusal(400, "This invoice is already finalized", code="invoice_already_finalized")
    if found["total"] < 0:
        raise Refusal(400, "The fake finalizes no negative invoice")
    finalized(account, found)
    return shown(found)


def finalized(account: Account, found: Thing) -> None:
    found["status"] = "open"
    found["status_transitions"] |= {"finalized_at": account.now}
    if not found["total"]:
        settled(account, found)
    else:
        intent = account.new("payment_intent", status="requires_payment_method", amount=found["amount_due"])
        intent |= {"currency": found["currency"], "customer": found["customer"], "payment_method_types": ["card"]}
        payment = account.new(
            "invoice_payment", invoice=found["id"], amount_requested=found["amount_due"], is_default=True
        )
        payment |= {"currency": found["currency"], "status": "open"}
        payment["payment"] = {"type": "payment_intent", "payment_intent": intent["id"]}
    account.tell("invoice.finalized", found)


def pay(account: Account, invoice_id: str, params: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    if found["status"] == "draft":
        finalized(account, found)
    if found["status"] == "paid":
        raise Refusal(400, "Invoice is already paid", code="invoice_already_paid")
    if found["status"] != "open":
        raise Refusal(400, f"This invoice is {found['status']}", code="invoice_not_open")
    intent = _intent(account, invoice_id)
    if intent["status"] == "processing":
        raise Refusal(400, "The invoice has a payment that is processing", code="invoice_payment_processing")
    owner = living(account, found["customer"])
    method = params.get("payment_method") or owner["invoice_settings"]["default_payment_method"]
    if method is None:
        raise Refusal(400, "This customer has no default payment method.", code="missing")
    charged(account, found, method)
    return shown(found)


def charged(account: Account, invoice: Thing, method: str) -> None:
    """Refusal (402) where the card does not pay."""
    card, intent = card_of(account, method), _intent(account, invoice["id"])
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    intent["payment_method"] = method
    if card.takes_time:
        intent["status"] = "processing"
    elif card.confirms:
        intent["status"] = "requires_action"
        account.tell("invoice.payment_action_required", invoice)
        raise Refusal(
            402, "The payment needs an action of the customer.", code="invoice_payment_intent_requires_action"
        )
    elif card.declines:
        failed(account, invoice, card.declines)
        raise Refusal(402, "Your card was declined.", code="card_declined", decline_code=card.declines)
    else:
        settled(account, invoice)


def failed(account: Account, invoice: Thing, decline_code: str) -> None:
    intent = _intent(account, invoice["id"])
    error = blank("api_errors") | {"type": "card_error", "code": "card_declined", "decline_code": decline_code}
    intent |= {
        "status": "requires_payment_method",
        "last_payment_error": {k: v for k, v in error.items() if v is not None},
    }
    owner = account.get("customer", invoice["customer"])
    if not owner["delinquent"]:
        owner["delinquent"] = True
        account.tell("customer.updated", owner)
    account.tell("payment_intent.payment_failed", intent)
    account.tell("invoice.payment_failed", invoice)


def settled(account: Account, invoice: Thing) -> None:
    invoice |= {"status": "paid", "amount_paid": invoice["amount_due"], "amount_remaining": 0, "attempted": True}
    invoice["status_transitions"] |= {"paid_at": account.now}
    for payment in _payments(account, invoice["id"]):
        payment |= {"status": "paid", "amount_paid": invoice["amount_paid"]}
        payment["status_transitions"] |= {"paid_at": account.now}
        intent = account.get("payment_intent", payment["payment"]["payment_intent"])
        intent |= {"status": "succeeded", "last_payment_error": None, "amount_received": invoice["amount_paid"]}
        account.tell("payment_intent.succeeded", intent)
        account.tell("invoice_payment.paid", payment)
    account.tell("invoice.paid", invoice)


def void(account: Account, invoice_id: str, _: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    if found["status"] not in ("open", "uncollectible"):
        raise Refusal(400, f"You can only void open invoices; this is {found['status']}", code="invoice_not_open")
    found["status"] = "void"
    found["status_transitions"] |= {"voided_at": account.now}
    account.tell("invoice.voided", found)
    return shown(found)


def mark_uncollectible(account: Account, invoice_id: str, _: Params) -> Thing:
    found = account.get("invoice", invoice_id)
    found["status"] = "uncollectible"
    found["status_transitions"] |= {"marked_uncollectible_at": account.now}
    account.tell("invoice.marked_uncollectible", found)
    return shown(found)


def payments(account: Account, params: Params) -> Thing:
    asked = params.get("payment", {}).get("payment_intent")
    found = account.every(
        "invoice_payment",
        lambda each: (
            params.get("invoice") in (None, each["invoice"]) and asked in (None, each["payment"]["payment_intent"])
        ),
    )
    return page(found, params, "/v1/invoice_payments")


def payment_intent(account: Account, intent_id: str, _: Params) -> Thing:
    return account.get("payment_intent", intent_id)


def _payments(account: Account, invoice_id: str) -> list[Thing]:
    return account.every("invoice_payment", lambda each: each["invoice"] == invoice_id)


def _intent(account: Account, invoice_id: str) -> Thing:
    return account.get("payment_intent", _payments(account, invoice_id)[0]["payment"]["payment_intent"])


def decimal(text: str) -> Decimal:
    """A number in plain digits: the fake takes no exponent."""
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        raise Refusal(400, f"Invalid decimal: {text}", code="parameter_invalid_decimal")
    return Decimal(text)


def rounded(coins: Decimal) -> int:
    return int(coins.quantize(Decimal(1), ROUND_HALF_UP))


def plain(value: Any) -> str:
    return format(Decimal(value).normalize(), "f")
