"""Two tenants that have one of everything, and the calls that take an id of such a thing or a tenant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from mm_metering import FrozenClock, Metering, MockBillingAdapter, UsageEvent, catalogues
from mm_metering.ai.budgets import Ai
from mm_metering.billing.payments import Payments
from mm_metering.core.deliveries import Delivery
from mm_metering.errors import MeteringError
from mm_metering.webhooks.endpoints import Webhooks
from mm_metering.webhooks.guard import Rules
from tests.flows.conftest import Make

PLACES: Final[Mapping[str, tuple[type, Callable[[Metering], Any]]]] = {
    "metering": (Metering, lambda metering: metering),
    "billing": (Payments, lambda metering: metering.billing),
    "webhooks": (Webhooks, lambda metering: metering.webhooks),
    "ai": (Ai, lambda metering: metering.ai),
}
IDS: Final = frozenset(
    {
        *("invoice_id", "line_id", "discount_id", "customer_id", "payment_method_id", "subscription_id"),
        *("endpoint_id", "endpoint", "delivery_id"),
    }
)
"""Parameters that name a thing of a tenant's."""
TENANTS: Final = ("tenant", "organization_id")
"""Parameters that say who asks."""
OF_THE_HOST: Final[Mapping[str, str]] = {
    "metering": "startup shutdown aclose work flush migrate check_up status prove dead_letters retry_dead_letters "
    "from_sync current on collect report_usage reconcile_payments simulate list_mutes list_routes stripe_webhook "
    "reverse act acting audit_anchor verify_audit export_audit list_keys rotate_keys catch_up "
    "dashboard portal",
    "billing": "",
    "webhooks": "add_event_type deliver",
    "ai": "scope wrap",
}
"""What names no tenant: the process, the stores, all tenants at once, and what parts hand to each other."""
BY_EVENT: Final = ("record", "record_many", "backfill")
"""The event says whose it is, and holds no id of a thing of another's."""
NOT_ASKED: Final[Mapping[str, str]] = {
    "metering": "install identify bind take add add_soon rebuild mute_alerts forget_tenant override",
    "ai": "reserve",
    "billing": "",
    "webhooks": "",
}
"""A tenant is all that they take or say of one: they answer with nothing that is read of it, or for the host alone."""
SHOWS_NOTHING: Final = "https://127.0.0.1:1/hooks-of-{tenant}"


class Call(NamedTuple):
    """A public method, and the parameter that is to name another tenant's thing; "" for the tenant alone."""

    place: str
    method: str
    param: str

    def __str__(self) -> str:
        return f"{self.place}.{self.method}({self.param})"


def methods(place: str) -> Iterator[tuple[str, inspect.Signature]]:
    for name, function in inspect.getmembers(PLACES[place][0], inspect.isfunction):
        if not name.startswith("_"):
            yield name, inspect.signature(function)


def calls() -> list[Call]:
    """All that a tenant may come to ask, in an order in which what deletes comes last."""
    found = []
    for place in PLACES:
        left_out = {*OF_THE_HOST[place].split(), *NOT_ASKED[place].split(), *BY_EVENT}
        for name, signature in methods(place):
            if name not in left_out:
                ids = [each for each in signature.parameters if each in IDS]
                found += [Call(place, name, each) for each in ids or [""]]
    last = ["disable_endpoint", "void_invoice", "delete_payment_method", "delete_customer"]
    return sorted(found, key=lambda each: last.index(each.method) if each.method in last else -1)


class World:
    """``acme-canary`` and ``mallory`` with an invoice, a customer, an endpoint and so on each."""

    def __init__(self, metering: Metering, adapter: MockBillingAdapter, clock: FrozenClock) -> None:
        self.metering = metering
        self.adapter = adapter
        self.clock = clock
        self.ids: dict[str, dict[tuple[str, str], str]] = {}

    async def populate(self, *tenants: str) -> None:
        self.clock.set("2024-01-01T00:00:00Z")
        for tenant in tenants:
            await self._has_one_of_everything(tenant)
        self.clock.set("2024-02-03T00:00:00Z")
        for tenant in tenants:
            (invoice,) = await self.metering.close_period("2024-01", tenant=tenant)
            self.ids[tenant] |= {("metering", "invoice_id"): invoice.id}
            metered = next(line for line in invoice.lines if line.meter == "api_calls")
            self.ids[tenant] |= {("metering", "line_id"): metered.id}
        await self.metering.collect()
        await self.metering.webhooks.deliver()
        for tenant in tenants:
            (delivery,) = await self.metering.webhooks.list_deliveries(tenant, limit=1)
            self.ids[tenant] |= {("webhooks", "delivery_id"): delivery.id}

    async def _has_one_of_everything(self, tenant: str) -> None:
        metering, billing = self.metering, self.metering.billing
        await metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
        event = UsageEvent(tenant=tenant, event_type="api_call", resource=f"/of/{tenant}", quantity=12_345)
        await metering.record(event)
        customer = await billing.create_customer(organization_id=tenant, email=f"{tenant}@x.example", name=tenant)
        card = await billing.create_payment_method(customer.id, payment_method="pm_card_chargeDeclined")
        plan = await billing.create_subscription(customer_id=customer.id, plan_id="pro", tenant=tenant)
        items = [{"description": f"for {tenant}", "quantity": 1, "unit_price": "77.77"}]
        there = await billing.create_invoice(customer.id, items=items)
        discount = await metering.put_discount(tenant, amount="1.23", name=f"{tenant}'s")
        await metering.grant_credit(tenant, "4.56", reason=f"for {tenant}")
        endpoint = await metering.webhooks.create_endpoint(tenant, SHOWS_NOTHING.format(tenant=tenant))
        await metering.webhooks.send_event(tenant, "billing.invoice_created", {"of": tenant})
        self.ids[tenant] = {
            ("billing", "customer_id"): customer.id,
            ("billing", "payment_method_id"): card.id,
            ("billing", "subscription_id"): plan.id,
            ("billing", "invoice_id"): there.id,
            ("metering", "discount_id"): discount.id,
            ("webhooks", "endpoint_id"): endpoint.id,
            ("webhooks", "endpoint"): endpoint.id,
        }

    async def ask(self, call: Call, tenant: str, *, given: str = "") -> tuple[str, str]:
        """What a tenant is told: the kind of it, and all of its text. ``given`` instead of the tenant's own id."""
        place, signature = PLACES[call.place], dict(methods(call.place))[call.method]
        words: dict[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if name == "self" or parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if name in TENANTS:
                words[name] = tenant
            elif name == call.param and given:
                words[name] = given
            elif (call.place, name) in self.ids[tenant]:
                words[name] = self.ids[tenant][(call.place, name)]
            elif parameter.default is inspect.Parameter.empty or name in ONE_OF:
                assert name in VALUES, f"{call}: what is a {name}? Give one in VALUES"
                words[name] = INSTANTS.get(name, VALUES[name]) if call.place == "webhooks" else VALUES[name]
            if (call.method, name) in OF_METHOD:
                words[name] = OF_METHOD[call.method, name]
        try:
            answer = getattr(place[1](self.metering), call.method)(**words)
            found = await answer if inspect.isawaitable(answer) else answer
        except MeteringError as error:
            return type(error).__name__, str(error)
        return "answer", found.decode() if isinstance(found, bytes) else repr(found)

    async def all_of(self, tenant: str) -> str:
        """What there is of a tenant, here and at the provider."""
        metering, ids = self.metering, self.ids[tenant]
        customer = ids[("billing", "customer_id")]
        deliveries: list[Delivery] = await metering.webhooks.list_deliveries(tenant)
        found: tuple[object, ...] = (
            await metering.get_tenant(tenant),
            await metering.list_invoices(tenant=tenant),
            await metering.list_credits(tenant),
            await metering.list_payments(tenant=tenant),
            await metering.list_audit(tenant=tenant),
            await metering.webhooks.list_endpoints(tenant),
            deliveries,
            await metering.get_usage(tenant, "2024-01-01", "2024-02-03"),
            await metering.ledger.payer(tenant),
            await self.adapter.get_customer(customer),
            await self.adapter.get_payment_methods(customer),
            await self.adapter.get_invoice(ids[("billing", "invoice_id")]),
            await self.adapter.get_subscription(ids[("billing", "subscription_id")]),
        )
        return "\n".join(map(repr, found))


async def a_world(make: Make, clock: FrozenClock, stores: Mapping[str, str], *tenants: str) -> World:
    rules = Rules(ports=(1,), allow_networks=("127.0.0.1/32",))
    adapter = MockBillingAdapter(clock=clock)
    options = {"billing": adapter, "webhook_rules": rules, "secret_key": SECRET_KEY, "shadow": catalogues.seed}
    made = await make(**stores, **options, worker="off")
    world = World(made, adapter, clock)
    await world.populate(*tenants)
    return world


SECRET_KEY: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
INSTANTS: Final = {"start": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"}
ONE_OF: Final = frozenset({"plan", "percent"})
"""Options of which a call needs one."""
OF_METHOD: Final[Mapping[tuple[str, str], str]] = {("adjust_usage", "meter"): "api_calls"}
"""Where the value that others take will not do: a level is not corrected."""
VALUES: Final[Mapping[str, Any]] = {
    "meter": "users",
    "quantity": 1,
    "value": 3,
    "resource": "/v1/x",
    "model": "gpt-4",
    "tokens": 1,
    "webhook_id": "wh_1",
    "event": {"event_type": "api_call", "resource": "/v1/x"},
    "day": "2024-01-01",
    "start": "2024-01-01",
    "end": "2024-02-01",
    "since": "2024-01-01T00:00:00Z",
    "period": "2024-01",
    "amount": "1.00",
    "percent": "1",
    "reason": "asked for",
    "status": "uncollectible",
    "state": "paid",
    "plan": "enterprise",
    "plan_id": "enterprise",
    "changes": {"price": "98.00"},
    "addon": "seats",
    "email": "m@x.example",
    "name": "M",
    "items": [{"description": "one", "quantity": 1, "unit_price": "1.00"}],
    "payment_method": "pm_card_visa",
    "url": "https://127.0.0.1:1/mine",
    "type": "billing.invoice_created",
    "data": {},
}
