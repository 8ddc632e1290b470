"""Whatever can be changed through a Metering leaves an entry of the audit log: who, why, before and after.

A method that is in neither table fails the test: whoever adds one says here what it writes, or why it writes nothing.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest

from mm_metering import FrozenClock, Metering, MockBillingAdapter
from mm_metering.ai.budgets import Ai
from mm_metering.billing.payments import Payments
from mm_metering.core import facts
from mm_metering.core.collecting import Collection
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import micros
from mm_metering.webhooks.endpoints import Webhooks
from mm_metering.worker import drain
from tests.flows.conftest import PATIENT
from tests.flows.test_dead_letters import USE, stream

ROOMS: Final = {"metering": Metering, "billing": Payments, "webhooks": Webhooks, "ai": Ai}

READS: Final = """
metering: act acting audit_anchor bind check_limit check_up current dashboard dead_letters explain explain_request
export_audit export_tenant export_usage from_sync get_billing_summary get_invoice get_tenant get_usage
get_usage_by_resource invoice_document line_facts list_alerts list_audit list_credits list_invoices list_keys
list_mutes list_payments list_routes portal preview_change preview_invoice prove rerun_invoice shadow_report simulate
status verify_audit
billing: create_usage_snapshot get_customer get_invoice get_payment_methods get_subscription get_usage
webhooks: get_delivery get_endpoint list_deliveries list_endpoints
ai: check_request get_cost_report get_quota_prediction get_usage_stats scope
"""
RECORDS_USAGE: Final = """
metering: add add_soon create_usage_snapshot enforce_quota flush identify record record_ai_usage record_api_call
record_many record_webhook_delivery release report_usage reverse set_level take
billing: record_usage
webhooks: send_event
ai: reserve wrap
"""
OF_THE_PROCESS: Final = """
metering: aclose catch_up from_env install migrate on override shutdown startup work
webhooks: add_event_type
"""
"""Starts, stops, sets the process up; ``startup`` stores plans, and their entries are looked for below."""
TELLS: Final = """
metering: check_alerts stripe_webhook test_alert
webhooks: deliver test_endpoint
"""
"""Sends what is due, or keeps what came in until the worker follows it, under the name of the provider's event."""


class House:
    def __init__(self, metering: Metering, clock: FrozenClock, adapter: MockBillingAdapter) -> None:
        self.metering, self.clock, self.adapter = metering, clock, adapter
        self.billing, self.webhooks, self.ai = metering.billing, metering.webhooks, metering.ai
        self.ids: dict[str, str] = {}

    async def invoice(self, tenant: str) -> Invoice:
        return (await self.metering.list_invoices(tenant=tenant))[-1]

    async def payment(self, tenant: str) -> Collection:
        return (await self.metering.list_payments(tenant=tenant))[-1]

    async def keep(self, name: str, made: Awaitable[Any]) -> None:
        self.ids[name] = (await made).id


Step = Callable[[House], Awaitable[Any]]


async def _january(h: House) -> None:
    """A month of three tenants, one of which has a card that is declined."""
    for tenant, card in (("beta", ""), ("gamma", "pm_card_chargeDeclined")):
        await h.metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        if card:
            customer = await h.billing.create_customer(organization_id=tenant, email="g@example.com", name="G")
            method = await h.billing.create_payment_method(customer.id, payment_method=card)
            await h.billing.set_default_payment_method(customer.id, method.id)
    await h.metering.record_api_call("acme", "/v1/reports")
    h.clock.set("2024-02-01T06:00:00Z")


async def _february(h: House) -> None:
    h.clock.set("2024-02-03T00:00:00Z")


async def _sends(h: House) -> None:
    """One delivery that waits."""
    h.webhooks.add_event_type("report.done", "A report is done.")
    await h.webhooks.send_event("acme", "report.done", {"report": 1})
    await h.metering.ledger.fan_out(micros(h.clock.now()))
    h.ids["delivery"] = (await h.webhooks.list_deliveries("acme", endpoint=h.ids["endpoint"]))[0].id


async def _pays_there(h: House) -> None:
    there = (await h.payment("gamma")).provider_invoice
    customer = await h.metering.ledger.payer("gamma")
    assert there
    assert customer
    good = await h.adapter.create_payment_method(customer, payment_method="pm_card_visa")
    await h.adapter.pay_invoice(there, good.id)


async def _buries(h: House) -> None:
    """A line that no release before this one understood."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain, "decode", _understands_nothing)
        await stream(h.metering, [facts.encode(USE._replace(id="late", tenant="acme"))])
        await h.metering.flush()
    assert await h.metering.ledger.count_dead_letters() == 1


def _understands_nothing(_: bytes) -> Any:
    raise ValueError("of a later release")


EVENT = {"tenant": "acme", "event_type": "api_call", "resource": "/v1", "id": "e1"}
ITEM = {"description": "by hand", "unit_price": "5.00"}

STEPS: list[tuple[str, Step]] = [
    ("metering.put_tenant", lambda h: h.metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z")),
    ("metering.change_plan", lambda h: h.metering.change_plan("acme", "enterprise", at="now")),
    ("metering.override_plan", lambda h: h.metering.override_plan("acme", {"price": "79.00"})),
    ("metering.set_addon", lambda h: h.metering.set_addon("acme", "help", quantity=2)),
    ("ai.update_cost_config", lambda h: h.ai.update_cost_config("acme", daily_budget="5.00")),
    ("metering.pause_subscription", lambda h: h.metering.pause_subscription("acme")),
    ("metering.resume_subscription", lambda h: h.metering.resume_subscription("acme")),
    ("metering.set_payment_state", lambda h: h.metering.set_payment_state("acme", "past_due")),
    ("metering.cancel_subscription", lambda h: h.metering.cancel_subscription("acme", at="period_end")),
    ("metering.mute_alerts", lambda h: h.metering.mute_alerts("quota", until="2024-03-01T00:00:00Z")),
    ("metering.grant_credit", lambda h: h.metering.grant_credit("acme", "5.00", reason="sorry")),
    ("metering.put_discount", lambda h: h.keep("discount", h.metering.put_discount("acme", percent="10"))),
    ("metering.end_discount", lambda h: h.metering.end_discount("acme", h.ids["discount"], at="2024-02-01T00:00:00Z")),
    ("metering.adjust_invoice", lambda h: h.metering.adjust_invoice("acme", "-1.00", reason="a typo")),
    (
        "billing.create_customer",
        lambda h: h.keep("customer", h.billing.create_customer(organization_id="acme", email="a@b.example", name="A")),
    ),
    ("billing.update_customer", lambda h: h.billing.update_customer("acme", email="other@b.example")),
    (
        "billing.create_payment_method",
        lambda h: h.keep("card", h.billing.create_payment_method("acme", payment_method="pm_card_visa")),
    ),
    ("billing.set_default_payment_method", lambda h: h.billing.set_default_payment_method("acme", h.ids["card"])),
    (
        "billing.create_subscription",
        lambda h: h.keep("sub", h.billing.create_subscription(customer_id="acme", plan_id="pro")),
    ),
    ("billing.update_subscription", lambda h: h.billing.update_subscription(h.ids["sub"], plan_id="enterprise")),
    ("billing.cancel_subscription", lambda h: h.billing.cancel_subscription(h.ids["sub"])),
    ("billing.resume_subscription", lambda h: h.billing.resume_subscription(h.ids["sub"])),
    ("billing.create_invoice", lambda h: h.keep("there", h.billing.create_invoice("acme", items=[ITEM]))),
    ("billing.pay_invoice", lambda h: h.billing.pay_invoice(h.ids["there"])),
    ("", lambda h: h.keep("there", h.billing.create_invoice("acme", items=[ITEM]))),
    ("billing.void_invoice", lambda h: h.billing.void_invoice(h.ids["there"])),
    (
        "webhooks.create_endpoint",
        lambda h: h.keep("endpoint", h.webhooks.create_endpoint("acme", "https://hooks.acme.com/in?key=secret")),
    ),
    ("", _sends),
    ("webhooks.resend", lambda h: h.webhooks.resend(h.ids["delivery"])),
    ("webhooks.rotate_secret", lambda h: h.webhooks.rotate_secret(h.ids["endpoint"])),
    ("webhooks.disable_endpoint", lambda h: h.webhooks.disable_endpoint(h.ids["endpoint"])),
    ("webhooks.update_endpoint", lambda h: h.webhooks.update_endpoint(h.ids["endpoint"], enabled=True)),
    ("webhooks.recover", lambda h: h.webhooks.recover(h.ids["endpoint"], "2024-01-01T00:00:00Z")),
    (
        "webhooks.replay",
        lambda h: h.webhooks.replay(h.ids["endpoint"], "2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"),
    ),
    ("", _january),
    ("metering.close_period", lambda h: h.metering.close_period("2024-01")),
    ("metering.finalize_invoice", lambda h: _of(h.metering.finalize_invoice, h, "acme")),
    ("metering.void_invoice", lambda h: _of(h.metering.void_invoice, h, "acme")),
    ("", _february),
    ("metering.close_period", lambda h: h.metering.close_period("2024-01")),
    ("metering.credit_invoice", lambda h: _of(h.metering.credit_invoice, h, "acme", amount="1.00", reason="sorry")),
    ("metering.mark_invoice", lambda h: _of(h.metering.mark_invoice, h, "beta", "uncollectible")),
    ("metering.collect", lambda h: h.metering.collect()),
    ("metering.retry_payment", lambda h: _of(h.metering.retry_payment, h, "gamma")),
    ("", _pays_there),
    ("metering.reconcile_payments", lambda h: h.metering.reconcile_payments("2024-01", apply=True)),
    ("", lambda h: h.billing.create_payment_method("acme", payment_method="pm_card_mastercard")),
    ("billing.delete_payment_method", lambda h: h.billing.delete_payment_method(h.ids["card"])),
    ("billing.delete_customer", lambda h: h.billing.delete_customer("acme")),
    ("metering.adjust_usage", lambda h: h.metering.adjust_usage("gamma", "api_calls", 5, reason="a typo")),
    ("metering.backfill", lambda h: h.metering.backfill([EVENT])),
    ("metering.rebuild", lambda h: h.metering.rebuild()),
    ("metering.rebuild", lambda h: h.metering.rebuild("acme")),
    ("metering.rotate_keys", lambda h: h.metering.rotate_keys()),
    ("metering.forget_tenant", lambda h: h.metering.forget_tenant("beta", reason="it asked for it")),
    ("", _buries),
    ("metering.retry_dead_letters", lambda h: h.metering.retry_dead_letters()),
]


async def _of(call: Callable[..., Awaitable[Any]], h: House, tenant: str, *args: Any, **options: Any) -> Any:
    return await call((await h.invoice(tenant)).id, *args, **options)


def catalogue() -> dict[str, Any]:
    """The shipped one, with an add-on."""
    text = (files("mm_metering.catalogues") / "seed.toml").read_text()
    return {**tomllib.loads(text), "addons": {"help": {"price": "9.30"}}}


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    clock = FrozenClock("2024-01-15T12:00:00Z")
    adapter = MockBillingAdapter(clock=clock)
    ledger = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/ledger.db"
    options: dict[str, Any] = {"worker": "off", "timing": PATIENT, "journal": "off"}
    secret = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    metering = Metering(catalogue(), ledger=ledger, billing=adapter, clock=clock, secret_key=secret, **options)
    async with metering:
        yield House(metering, clock, adapter)


async def test_every_change_leaves_an_entry_of_who_made_it_and_why(house: House) -> None:
    stored = await house.metering.ledger.audit()
    assert {(each.action, each.actor) for each in stored} == {("plan stored", "host")}
    assert len(stored) == 3
    for number, (name, step) in enumerate(STEPS):
        before = {each.id for each in await house.metering.ledger.audit()}
        with house.metering.acting("u_17", reason=f"ticket {number}"):
            await step(house)
        made = [each for each in await house.metering.ledger.audit() if each.id not in before]
        if name:
            assert made, f"{name} has left no entry"
            assert {(each.actor, each.reason) for each in made} == {("u_17", f"ticket {number}")}, name
    report = await house.metering.verify_audit(anchors=[str(await house.metering.audit_anchor())])
    assert (report.broken, report.entries, report.signed) == ((), report.entries, report.entries)
    said = " ".join(map(repr, await house.metering.ledger.audit(limit=10_000)))
    assert not [each for each in ("b.example", "?key", "whsec_", "pm_card") if each in said]


def words(table: str) -> set[str]:
    found, room = set[str](), ""
    for word in table.split():
        if word.endswith(":"):
            room = word[:-1]
        else:
            found.add(f"{room}.{word}")
    return found


def test_each_public_method_writes_an_entry_or_is_said_not_to() -> None:
    public = {
        f"{room}.{name}"
        for room, kind in ROOMS.items()
        for name, _ in inspect.getmembers(kind, callable)
        if not name.startswith("_")
    }
    silent = [words(each) for each in (READS, RECORDS_USAGE, OF_THE_PROCESS, TELLS)]
    audited = {name for name, _ in STEPS if name}
    assert public == audited.union(*silent)
    assert len(public) == len(audited) + sum(map(len, silent)), "one is in two tables"
