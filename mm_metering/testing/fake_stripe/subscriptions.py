"""Products, prices, subscriptions, meters. A month is 30 days, or the calendar's where it is anchored at its 1st."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Final

from mm_metering.core.periods import Window, from_micros, window_span, zone
from mm_metering.testing.fake_stripe.customers import living, owned
from mm_metering.testing.fake_stripe.invoices import begun, charged, decimal, finalized, plain, rounded, shown
from mm_metering.testing.fake_stripe.params import Params, merged, texts, truth
from mm_metering.testing.fake_stripe.spec import blank
from mm_metering.testing.fake_stripe.state import Account, Refusal, Thing, page

MONTH: Final = timedelta(days=30) // timedelta(seconds=1)
BACK_S: Final = 35 * 86_400
AHEAD_S: Final = 300


def create_product(account: Account, params: Params) -> Thing:
    return account.new("product", name=params["name"], active=True, updated=account.now)


def create_price(account: Account, params: Params) -> Thing:
    key = params.get("lookup_key")
    holders = account.every("price", lambda each: key is not None and each["lookup_key"] == key)
    if holders and truth(params.get("transfer_lookup_key")):
        holders[0]["lookup_key"] = None
    elif holders:
        raise Refusal(400, f"A price (`price_…`) already uses that lookup key: {key}", param="lookup_key")
    product = params.get("product") or create_product(account, params["product_data"])["id"]
    account.get("product", product)
    each = decimal(params.get("unit_amount_decimal") or params.get("unit_amount") or "0")
    repeats = params.get("recurring")
    made = account.new(
        "price",
        active=True,
        billing_scheme="per_unit",
        currency=params["currency"],
        lookup_key=key,
        metadata=merged({}, params.get("metadata")),
        product=product,
        type="recurring" if repeats else "one_time",
        unit_amount=int(each) if each == int(each) else None,
        unit_amount_decimal=plain(each),
    )
    if repeats:
        usage = repeats.get("usage_type", "licensed")
        if usage == "metered" and "meter" not in repeats:
            raise Refusal(400, "A metered price needs a meter", param="recurring[meter]")
        made["recurring"] = {
            "interval": repeats["interval"],
            "interval_count": 1,
            "meter": repeats.get("meter"),
            "usage_type": usage,
            "trial_period_days": None,
        }
    return made


def price(account: Account, price_id: str, _: Params) -> Thing:
    return account.get("price", price_id)


def prices(account: Account, params: Params) -> Thing:
    keys = texts(params.get("lookup_keys"))
    active = params.get("active")
    found = account.every(
        "price",
        lambda each: (not keys or each["lookup_key"] in keys) and (active is None or each["active"] is truth(active)),
    )
    return page(found, params, "/v1/prices")


# -- subscriptions ----------------------------------------------------------------------------------------------------


def create(account: Account, params: Params) -> Thing:
    owner = living(account, params["customer"])
    method = params.get("default_payment_method") or owner["invoice_settings"]["default_payment_method"]
    if method:
        owned(account, method, owner["id"])
    made = account.new(
        "subscription",
        customer=owner["id"],
        currency="usd",
        billing_cycle_anchor=account.now,
        start_date=account.now,
        metadata=merged({}, params.get("metadata")),
        default_payment_method=params.get("default_payment_method"),
        billing_mode={"type": "flexible", "flexible": None},
        status="active",
    )
    if "billing_cycle_anchor_config" in params:
        made["billing_cycle_anchor_config"] = {
            **blank("subscriptions_resource_billing_cycle_anchor_config"),
            **{name: int(each) for name, each in params["billing_cycle_anchor_config"].items()},
        }
    made["items"] |= {"url": f"/v1/subscription_items?subscription={made['id']}"}
    for each in params["items"]:
        add_item(account, made, each)
    first = billed(account, made, metered=False)
    made["latest_invoice"] = first["id"]
    if first["status"] == "open":
        made["status"] = "incomplete"
        if method and params.get("payment_behavior") != "default_incomplete":
            try:
                charged(account, first, method)
                made["status"] = "active"
            except Refusal:
                pass
    account.tell("customer.subscription.created", made)
    return made


def add_item(account: Account, subscription: Thing, asked: Params) -> None:
    """Another price at once, whatever there is already."""
    found = account.get("price", asked["price"])
    item = account.new(
        "subscription_item",
        price=found,
        subscription=subscription["id"],
        current_period_start=account.now,
        current_period_end=next_end(subscription, account.now),
        metadata=merged({}, asked.get("metadata")),
    )
    if (found["recurring"] or {}).get("usage_type") != "metered":
        item["quantity"] = int(asked.get("quantity", 1))
    elif "quantity" in asked:
        raise Refusal(400, "You may not set the quantity of a metered price", param="items[0][quantity]")
    subscription["items"]["data"].append(item)


def next_end(subscription: Thing, start: int) -> int:
    """Of the period that begins then."""
    if subscription["billing_cycle_anchor_config"] is None:
        return start + MONTH
    return int(window_span(Window.MONTH, from_micros(start * 1_000_000), zone("UTC")).end.timestamp())


def retrieve(account: Account, subscription_id: str, _: Params) -> Thing:
    return account.get("subscription", subscription_id)


def list_(account: Account, params: Params) -> Thing:
    wanted = params.get("status")
    found = account.every(
        "subscription",
        lambda each: (
            params.get("customer") in (None, each["customer"])
            and (wanted == "all" or each["status"] == wanted or (wanted is None and each["status"] != "canceled"))
        ),
    )
    return page(found, params, "/v1/subscriptions")


def update(account: Account, subscription_id: str, params: Params) -> Thing:
    found = running(account, subscription_id)
    for asked in params.get("items", ()):
        known = [each for each in found["items"]["data"] if each["id"] == asked.get("id")]
        if asked.get("id") and not known:
            raise Refusal(404, f"No such subscription_item: '{asked['id']}'", code="resource_missing")
        if not known:
            add_item(account, found, asked)
        elif truth(asked.get("deleted")):
            found["items"]["data"].remove(known[0])
        else:
            known[0]["price"] = account.get("price", asked["price"])
    if "cancel_at_period_end" in params:
        found["cancel_at_period_end"] = truth(params["cancel_at_period_end"])
    if "pause_collection" in params:
        asked = params["pause_collection"]
        found["pause_collection"] = {"behavior": asked["behavior"], "resumes_at": None} if asked else None
    found["metadata"] = merged(found["metadata"], params.get("metadata"))
    account.tell("customer.subscription.updated", found)
    return found


def cancel(account: Account, subscription_id: str, _: Params) -> Thing:
    found = running(account, subscription_id)
    found |= {"status": "canceled", "canceled_at": account.now, "ended_at": account.now, "cancel_at_period_end": False}
    account.tell("customer.subscription.deleted", found)
    return found


def pause(account: Account, subscription_id: str, _: Params) -> Thing:
    found = running(account, subscription_id)
    found["status"] = "paused"
    account.tell("customer.subscription.paused", found)
    return found


def resume(account: Account, subscription_id: str, _: Params) -> Thing:
    found = running(account, subscription_id)
    if found["status"] != "paused":
        raise Refusal(400, "You may only resume a subscription that is paused")
    found["status"] = "active"
    account.tell("customer.subscription.resumed", found)
    return found


def running(account: Account, subscription_id: str) -> Thing:
    found = account.get("subscription", subscription_id)
    if found["status"] == "canceled":
        raise Refusal(400, "This subscription is canceled", code="resource_missing", param="id")
    return found


def billed(account: Account, subscription: Thing, *, metered: bool) -> Thing:
    """An invoice of what its prices come to; of metered ones, for the period that is over."""
    invoice = begun(account, subscription["customer"], subscription["currency"], {})
    for item in subscription["items"]["data"]:
        found = item["price"]
        is_metered = found["recurring"]["usage_type"] == "metered"
        if is_metered and not metered:
            continue
        span = (item["current_period_start"], item["current_period_end"])
        quantity = measured(account, found["recurring"]["meter"], subscription["customer"], *span) if is_metered else 1
        _line(account, invoice, found, quantity)
    finalized(account, invoice)
    return invoice


def _line(account: Account, invoice: Thing, price: Thing, quantity: Decimal | int) -> None:
    each = Decimal(price["unit_amount_decimal"])
    line = account.new(
        "line_item",
        amount=rounded(each * quantity),
        currency=invoice["currency"],
        description=price["lookup_key"],
        quantity=int(quantity),
        pricing={"type": "price_details", "unit_amount_decimal": plain(each)},
        invoice=invoice["id"],
        period={"start": account.now, "end": account.now},
    )
    invoice["lines"]["data"].insert(0, line)
    total = sum(one["amount"] for one in invoice["lines"]["data"])
    invoice |= {"subtotal": total, "total": total, "amount_due": max(total, 0), "amount_remaining": max(total, 0)}


def roll(account: Account) -> list[Thing]:
    """Bills what is over by the clock: usage of the period, and the prices of the next."""
    made = []
    for each in reversed(account.every("subscription", lambda each: each["status"] in ("active", "past_due"))):
        while account.now >= max(item["current_period_end"] for item in each["items"]["data"]):
            if each["cancel_at_period_end"]:
                cancel(account, each["id"], {})
                break
            made.append(billed(account, each, metered=True))
            for item in each["items"]["data"]:
                item["current_period_start"] = item["current_period_end"]
                item["current_period_end"] = next_end(each, item["current_period_start"])
            owner = account.get("customer", each["customer"])
            method = each["default_payment_method"] or owner["invoice_settings"]["default_payment_method"]
            if made[-1]["status"] == "open" and method:
                try:
                    charged(account, made[-1], method)
                except Refusal:
                    each["status"] = "past_due"
                    account.tell("customer.subscription.updated", each)
    return made


def preview(account: Account, params: Params) -> Thing:
    subscription = account.get("subscription", params["subscription"])
    told = len(account.events)
    made = billed(account, subscription, metered=True)
    del account.kept["invoice"][made["id"]], account.events[told:]
    return shown(made)


# -- meters -----------------------------------------------------------------------------------------------------------


def create_meter(account: Account, params: Params) -> Thing:
    if any(each["event_name"] == params["event_name"] for each in account.every("billing.meter")):
        raise Refusal(400, f"An active meter already exists for the event name {params['event_name']}")
    return account.new(
        "billing.meter",
        display_name=params["display_name"],
        event_name=params["event_name"],
        default_aggregation={"formula": params["default_aggregation"]["formula"]},
        customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"},
        value_settings={"event_payload_key": "value"},
        status="active",
        updated=account.now,
    )


def meters(account: Account, params: Params) -> Thing:
    return page(account.every("billing.meter"), params, "/v1/billing/meters")


def meter_event(account: Account, params: Params) -> Thing:
    known = [each for each in account.every("billing.meter") if each["event_name"] == params["event_name"]]
    if not known:
        raise Refusal(400, f"No active meter found for event name {params['event_name']}", code="no_meter")
    identifier = params.get("identifier") or f"auto_{len(account.meter_events)}"
    if any(each["identifier"] == identifier for each in account.meter_events):
        raise Refusal(
            400, f"An event already exists with identifier {identifier}.", headers={"Stripe-Should-Retry": "false"}
        )
    at = int(params.get("timestamp", account.now))
    if not account.now - BACK_S <= at <= account.now + AHEAD_S:
        raise Refusal(400, "The timestamp is not within 35 days back and 5 minutes ahead", code="timestamp_invalid")
    payload = params["payload"]
    account.get("customer", payload["stripe_customer_id"])
    made = {
        "object": "billing.meter_event",
        "created": account.now,
        "event_name": params["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": at,
    }
    account.meter_events.append(made)
    return made


def measured(account: Account, meter_id: str, customer_id: str, start: int, end: int) -> Decimal:
    """The sum of a customer's events in [start, end)."""
    name = account.get("billing.meter", meter_id)["event_name"]
    theirs = (
        Decimal(each["payload"]["value"])
        for each in account.meter_events
        if each["event_name"] == name
        and each["payload"]["stripe_customer_id"] == customer_id
        and start <= each["timestamp"] < end
    )
    return sum(theirs, Decimal(0))


def summaries(account: Account, meter_id: str, params: Params) -> Thing:
    start, end = int(params["start_time"]), int(params["end_time"])
    total = measured(account, meter_id, params["customer"], start, end)
    found = {
        "id": f"mtrusg_{start}",
        "object": "billing.meter_event_summary",
        "aggregated_value": float(total),
        "start_time": start,
        "end_time": end,
        "livemode": False,
        "meter": meter_id,
    }
    return page([found], params, f"/v1/billing/meters/{meter_id}/event_summaries")
