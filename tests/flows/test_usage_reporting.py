"""The mode in which the payment provider multiplies: what it is told, once, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

from mm_metering import FrozenClock, InvalidRequest, Metering, MockBillingAdapter, UsageEvent, catalogues
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.backends.work import USAGE_REPORT
from mm_metering.billing.reporter import UsageReport, UsageReporter
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.reporting import metered_prices
from mm_metering.errors import CatalogueError, InvalidInput, ProviderRefused, ProviderUnavailable
from tests.flows.conftest import Make

JANUARY = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)
FEBRUARY = JANUARY[1], datetime(2024, 3, 1, tzinfo=UTC)
SEED = catalogues.load(catalogues.seed)


class Killed(BaseException):
    """A process that ends there."""


class House:
    """A Metering whose tenants are billed by the mock."""

    def __init__(self, metering: Metering, adapter: MockBillingAdapter, clock: FrozenClock) -> None:
        self.metering, self.adapter, self.clock = metering, adapter, clock
        self.subscriptions: dict[str, str] = {}
        self.customers: dict[str, str] = {}

    async def tenant(self, name: str, plan: str = "pro") -> None:
        billing = self.metering.billing
        customer = await billing.create_customer(organization_id=name, email="a@b.example", name=name)
        method = await billing.create_payment_method(customer.id, payment_method="pm_card_visa")
        made = await billing.create_subscription(customer_id=customer.id, plan_id=plan, payment_method_id=method.id)
        self.subscriptions[name], self.customers[name] = made.id, customer.id

    async def use(self, name: str, event_type: str, quantity: int, resource: str = "/x", *, at: str = "") -> None:
        occurred = at or None
        event = UsageEvent(
            tenant=name, event_type=event_type, resource=resource, quantity=quantity, occurred_at=occurred
        )
        await self.metering.record(event)

    def told(self, name: str, meter: str = "api_calls") -> list[int]:
        """What the provider counted for the tenant."""
        found = (each.report for each in self.adapter._events)
        return [each.quantity for each in found if (each.customer, each.meter) == (self.customers[name], meter)]

    async def billed(self, name: str, period: str = "2024-01", meter: str = "api_calls") -> int:
        """What our invoice bills of a meter."""
        invoice = await self.metering.preview_invoice(name, period=period)
        return sum(int(line.quantity) for line in invoice.lines if line.meter == meter)

    async def alerts(self) -> list[str]:
        return [each.subject for each in await self.metering.ledger.open_alerts() if each.kind == USAGE_REPORT]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-01T00:00:00Z")


async def open_house(make: Make, clock: FrozenClock, **options: Any) -> House:
    adapter = MockBillingAdapter(clock=clock, billing_mode="report")
    await adapter.push_plans(SEED)
    metering = await make(**{"billing": adapter, "billing_mode": "report", "worker": "off"} | options)
    return House(metering, adapter, clock)


@pytest.fixture
async def house(make: Make, clock: FrozenClock) -> House:
    return await open_house(make, clock)


# -- the same bill ----------------------------------------------------------------------------------------------------


async def spend_a_month(house: House, names: dict[str, str], seed: int) -> None:
    """Random usage, past the daily quotas on some days; reported now and then, and last in the month's last hour."""
    chance = random.Random(seed)
    for day in range(1, 32):
        house.clock.set(f"2024-01-{day:02}T{chance.randrange(1, 23):02}:30:00Z")
        for name, plan in names.items():
            if chance.random() < 0.75:
                continue
            quota = {"pro": 10_000, "enterprise": 100_000}.get(plan, 100)
            await house.use(name, "api_call", chance.randrange(1, 2 * quota))
            await house.use(name, "ai_token", chance.randrange(1, 10**6), "gpt-4")
            await house.use(name, "ai_token", chance.randrange(1, 10**6), "gpt-unpriced")
            if plan != "free":
                await house.use(name, "webhook_delivery", chance.randrange(1, 900))
                await house.use(name, "export", chance.randrange(1, 12), "report_pdf")
                await house.use(name, "ai_call", chance.randrange(1, 1_500), "gpt-4")
        if chance.random() < 0.3:
            await house.metering.report_usage()
    house.clock.set("2024-02-01T00:10:00Z")
    await house.metering.report_usage()
    house.clock.set("2024-02-01T01:00:00Z")


async def test_fifty_tenants_are_billed_the_same_in_both_modes(house: House) -> None:
    chance = random.Random(7)
    names = {f"t{number:02}": chance.choice(["pro", "pro", "enterprise", "free"]) for number in range(50)}
    for name, plan in names.items():
        await house.tenant(name, plan)
    await spend_a_month(house, names, seed=11)
    metered = 0
    for name in names:
        ours = await house.metering.preview_invoice(name, period="2024-01")
        theirs = house.adapter.invoice_month(house.subscriptions[name], *JANUARY)
        assert theirs.total == ours.subtotal, (name, theirs, ours)
        metered += len(theirs.items) - 1
    assert metered > 100
    assert await house.metering.report_usage() == 0


async def test_an_upgrade_within_a_month_is_billed_the_same(house: House) -> None:
    await house.tenant("acme")
    house.clock.set("2024-01-10T12:00:00Z")
    await house.use("acme", "api_call", 12_000)
    await house.metering.report_usage()
    house.clock.set("2024-01-20T08:15:30Z")
    await house.metering.billing.update_subscription(house.subscriptions["acme"], plan_id="enterprise")
    house.clock.set("2024-01-25T12:00:00Z")
    await house.use("acme", "api_call", 100_400)
    await house.metering.report_usage()
    house.clock.set("2024-02-01T01:00:00Z")
    theirs = house.adapter.invoice_month(house.subscriptions["acme"], *JANUARY)
    assert theirs.total == (await house.metering.preview_invoice("acme", period="2024-01")).subtotal
    assert house.told("acme") == [2_000, 400]


async def test_our_invoice_is_made_all_the_same(house: House) -> None:
    await house.tenant("acme")
    await house.use("acme", "api_call", 10_250)
    house.clock.set("2024-02-03T00:00:00Z")
    (invoice,) = await house.metering.close_period("2024-01")
    assert (invoice.status, invoice.total) == ("finalized", Decimal("101.50"))


# -- what is told, and when -------------------------------------------------------------------------------------------


async def test_only_what_lies_past_the_allowances_is_told(house: House) -> None:
    await house.tenant("acme")
    house.clock.set("2024-01-15T12:00:07Z")
    await house.use("acme", "api_call", 10_000)
    assert (await house.metering.report_usage(), house.adapter._events) == (0, [])
    await house.use("acme", "api_call", 30)
    await house.use("acme", "ai_token", 5, "gpt-4")
    assert [await house.metering.report_usage() for _ in range(2)] == [2, 0]
    told = {each.report.meter: each.report for each in house.adapter._events}
    assert {meter: each.quantity for meter, each in told.items()} == {"api_calls": 30, "ai_tokens.gpt-4": 5}
    assert told["api_calls"].instant == datetime(2024, 1, 15, 12, 0, 7, tzinfo=UTC)
    await house.use("acme", "api_call", 12)
    await house.metering.report_usage()
    assert house.told("acme") == [30, 12]


async def test_nobody_is_told_of_a_tenant_without_a_customer(house: House) -> None:
    await house.metering.put_tenant("free rider", plan="pro")
    await house.use("free rider", "api_call", 20_000)
    assert await house.metering.report_usage() == 0


async def test_what_comes_after_the_months_end_joins_it_for_half_an_hour_then_the_next(house: House) -> None:
    await house.tenant("acme")
    await house.metering.report_usage()
    house.clock.set("2024-02-01T00:29:00Z")
    await house.use("acme", "api_call", 10_100, at="2024-01-31T23:59:00Z")
    await house.metering.report_usage()
    house.clock.set("2024-02-01T00:31:00Z")
    await house.use("acme", "api_call", 7, at="2024-01-31T23:59:00Z")
    await house.metering.report_usage()
    assert [(each.report.quantity, each.report.instant, each.report.period) for each in house.adapter._events] == [
        (100, datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC), "2024-01"),
        (7, datetime(2024, 2, 1, 0, 31, tzinfo=UTC), "2024-01"),
    ]
    house.clock.set("2024-03-02T00:00:00Z")
    january, february = (
        house.adapter.invoice_month(house.subscriptions["acme"], *each) for each in (JANUARY, FEBRUARY)
    )
    assert (january.total, february.total) == (Decimal("100.00"), Decimal("99.07"))


async def test_what_is_owed_no_more_is_taken_back(house: House) -> None:
    await house.tenant("acme")
    house.clock.set("2024-01-15T12:00:00Z")
    await house.use("acme", "api_call", 60_000)
    await house.metering.report_usage()
    await house.metering.change_plan("acme", "enterprise", at="2024-01-02T00:00:00Z")
    await house.metering.report_usage()
    assert house.told("acme") == [50_000, -50_000]


async def test_months_before_the_first_report_were_billed_otherwise(make: Make, clock: FrozenClock) -> None:
    clock.set("2023-12-05T00:00:00Z")
    house = await open_house(make, clock)
    await house.tenant("acme")
    await house.use("acme", "api_call", 20_000)
    clock.set("2024-01-05T00:00:00Z")
    await house.use("acme", "api_call", 10_005)
    await house.metering.report_usage()
    assert house.told("acme") == [5]


async def test_totals_are_told_to_those_who_take_them(make: Make, clock: FrozenClock) -> None:
    class Totals(MockBillingAdapter):
        takes: Literal["deltas", "totals"] = "totals"

    adapter = Totals(clock=clock, billing_mode="report")
    await adapter.push_plans(SEED)
    house = House(await make(billing=adapter, billing_mode="report", worker="off"), adapter, clock)
    await house.tenant("acme")
    for _ in range(2):
        await house.use("acme", "api_call", 10_030)
        await house.metering.report_usage()
    assert house.told("acme") == [30, 10_060]


async def test_the_worker_reports(house: House) -> None:
    await house.tenant("acme")
    await house.use("acme", "api_call", 10_030)
    await house.metering.flush()
    await house.metering._jobs.once()
    assert house.told("acme") == [30]


# -- exactly once -----------------------------------------------------------------------------------------------------

STEPS = [f"{call}.{side}" for call in ("add_report", "report_usage", "move_report") for side in ("before", "after")]


class Fuse:
    """Ends the process once, at a named step."""

    def __init__(self, step: str) -> None:
        self.step = step

    def reach(self, step: str) -> None:
        if step == self.step:
            self.step = ""
            raise Killed(step)

    def around(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        async def called(*arguments: Any) -> Any:
            self.reach(f"{name}.before")
            answer = await call(*arguments)
            self.reach(f"{name}.after")
            return answer

        setattr(owner, name, called)


def ledgers(tmp_path: Path) -> dict[str, Callable[[], Any]]:
    return {"memory": MemoryLedger, "sqlite": lambda: SqlLedger(f"sqlite:///{tmp_path}/ledger.db")}


async def killed_at(make: Make, clock: FrozenClock, step: str, ledger: Any) -> House:
    house = await open_house(make, clock, ledger=ledger)
    await house.tenant("acme")
    await house.tenant("beta")
    clock.set("2024-01-10T12:00:00Z")
    for name in ("acme", "beta"):
        await house.use(name, "api_call", 10_250)
        await house.use(name, "ai_call", 1_003, "gpt-4")
    fuse = Fuse(step)
    for owner, name in ((house.metering.ledger, "add_report"), (house.metering.ledger, "move_report")):
        fuse.around(owner, name)
    fuse.around(house.adapter, "report_usage")
    with pytest.raises(Killed):
        await house.metering.report_usage()
    assert not fuse.step
    return house


@pytest.mark.parametrize(
    ("kind", "away"),
    [("sqlite", timedelta(minutes=1)), ("memory", timedelta(days=3))],
    ids=["sqlite, a minute", "memory, days"],
)
@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_ends_between_two_steps_loses_and_doubles_nothing(
    make: Make, tmp_path: Path, *, clock: FrozenClock, step: str, kind: str, away: timedelta
) -> None:
    house = await killed_at(make, clock, step, ledgers(tmp_path)[kind]())
    clock.advance(away)
    await house.use("acme", "api_call", 10_007)
    for _ in range(2):
        await house.metering.report_usage()
    for name in ("acme", "beta"):
        for meter in ("api_calls", "ai_requests"):
            assert sum(house.told(name, meter)) == await house.billed(name, meter=meter)
    assert await house.alerts() == []
    assert await house.metering.ledger.open_reports("unsent") == []


async def test_what_was_never_told_is_told_after_any_time(make: Make, clock: FrozenClock) -> None:
    house = await killed_at(make, clock, "report_usage.before", MemoryLedger())
    clock.advance(timedelta(days=70))
    await house.metering.report_usage()
    told = [house.told(name, meter) for name in ("acme", "beta") for meter in ("api_calls", "ai_requests")]
    assert (told, await house.alerts()) == ([[250], [3], [250], [3]], [])
    assert {each.report.instant for each in house.adapter._events} == {clock.now()}


async def test_where_the_provider_has_something_else_a_person_looks(make: Make, clock: FrozenClock) -> None:
    house = await killed_at(make, clock, "report_usage.before", MemoryLedger())
    (waiting,) = await house.metering.ledger.open_reports("unsent")
    other = UsageReport("x", waiting.customer, waiting.meter, 9, "by hand", waiting.instant, "2024-01")
    await house.adapter.report_usage(other)
    clock.advance(timedelta(days=2))
    await house.metering.report_usage()
    assert await house.alerts() == [f"{waiting.tenant}/2024-01/{waiting.meter}"]
    assert house.told(waiting.tenant, waiting.meter) == [9]


async def test_several_who_report_at_once_tell_everything_once(house: House) -> None:
    for name in ("acme", "beta", "carol"):
        await house.tenant(name)
        await house.use(name, "api_call", 10_250)
    await house.metering.flush()
    reporting = house.metering._reporting
    assert reporting is not None
    sent = await asyncio.gather(*(reporting.run() for _ in range(4)))
    assert sum(sent) == 3
    assert [house.told(name) for name in ("acme", "beta", "carol")] == [[250]] * 3


# -- a provider that says no ------------------------------------------------------------------------------------------


class Says:
    """What the adapter raises instead of counting, and what it was told then."""

    def __init__(self, adapter: MockBillingAdapter) -> None:
        self.no: Callable[[UsageReport], Exception | None] = lambda _: None
        self.told: list[UsageReport] = []
        counts = adapter.report_usage

        async def report_usage(report: UsageReport) -> None:
            self.told.append(report)
            if error := self.no(report):
                raise error
            await counts(report)

        adapter.report_usage = report_usage  # type: ignore[method-assign]


def away(_: UsageReport) -> Exception:
    return ProviderUnavailable("the payment provider did not answer", outcome_unknown=True)


async def test_what_is_refused_is_parked_with_an_alert_until_somebody_asks_for_it(house: House) -> None:
    await house.tenant("acme")
    await house.tenant("beta")
    await house.use("acme", "api_call", 10_250)
    await house.use("beta", "api_call", 10_250)
    del house.adapter._prices["pro", "api_calls"], house.adapter._prices["enterprise", "api_calls"]
    says = Says(house.adapter)
    assert [await house.metering.report_usage() for _ in range(3)] == [0, 0, 0]
    assert len(says.told) == 2, "no retry loop"
    assert await house.alerts() == ["acme/2024-01/api_calls", "beta/2024-01/api_calls"]
    (detail, *_) = [each.detail for each in await house.metering.ledger.open_alerts()]
    assert "250 api_calls of 'acme' in 2024-01" in detail
    assert "there is no meter 'api_calls'" in detail
    await house.use("acme", "api_call", 5)
    await house.adapter.push_plans(SEED)
    assert await house.metering.report_usage() == 0
    assert await house.metering.report_usage(parked=True) == 3
    assert (house.told("acme"), house.told("beta"), await house.alerts()) == ([250, 5], [250], [])


async def test_what_a_customer_who_is_gone_was_to_pay_is_told_of_the_next_one(house: House) -> None:
    await house.tenant("acme")
    await house.use("acme", "api_call", 10_250)
    says = Says(house.adapter)
    says.no = away
    with pytest.raises(ProviderUnavailable):
        await house.metering.report_usage()
    says.no = lambda _: None
    await house.metering.billing.delete_customer("acme")
    assert (await house.metering.report_usage(), await house.alerts()) == (0, ["acme/2024-01/api_calls"])
    gone = house.customers["acme"]
    made = await house.metering.billing.create_customer(organization_id="acme", email="a@b.example", name="A")
    house.customers["acme"] = made.id
    assert (await house.metering.report_usage(parked=True), await house.alerts()) == (1, [])
    assert (made.id == gone, house.told("acme")) == (False, [250])


async def test_a_provider_that_is_away_is_told_later_under_the_same_identifier(house: House) -> None:
    await house.tenant("acme")
    await house.use("acme", "api_call", 10_250)
    says = Says(house.adapter)
    says.no = away
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await house.metering.report_usage()
    says.no = lambda _: None
    await house.use("acme", "api_call", 4)
    assert await house.metering.report_usage() == 2
    assert [each.quantity for each in says.told] == [250, 250, 250, 4]
    assert len({each.identifier for each in says.told[:3]}) == 1
    assert (house.told("acme"), await house.alerts()) == ([250, 4], [])


async def test_one_that_always_fails_holds_up_nobody_else_and_many_end_the_run(house: House) -> None:
    names = [f"t{number}" for number in range(6)]
    for name in names:
        await house.tenant(name)
        await house.use(name, "api_call", 10_001)
    says = Says(house.adapter)
    says.no = lambda report: away(report) if report.tenant == "t0" else None
    with pytest.raises(ProviderUnavailable):
        await house.metering.report_usage()
    assert [house.told(name) for name in names] == [[]] + [[1]] * 5
    for name in names[1:]:
        await house.use(name, "api_call", 1)
    says.no, says.told = away, []
    with pytest.raises(ProviderUnavailable):
        await house.metering.report_usage()
    assert len(says.told) == 3


async def test_a_wrong_key_concerns_everybody_and_parks_nothing(house: House) -> None:
    await house.tenant("acme")
    await house.tenant("beta")
    await house.use("acme", "api_call", 10_001)
    await house.use("beta", "api_call", 10_001)
    says = Says(house.adapter)
    says.no = lambda _: ProviderRefused("the key is revoked")
    with pytest.raises(ProviderRefused):
        await house.metering.report_usage()
    assert (len(says.told), await house.alerts()) == (1, [])
    says.no = lambda _: None
    assert await house.metering.report_usage() == 2


# -- what cannot be ---------------------------------------------------------------------------------------------------


def test_the_modes_of_the_metering_and_of_its_provider_are_one() -> None:
    reporting = MockBillingAdapter(billing_mode="report")
    for options, says in (
        ({"billing_mode": "report"}, "there is nobody to report to"),
        ({"billing_mode": "report", "billing": MockBillingAdapter()}, 'that of MockBillingAdapter is "invoice"'),
        ({"billing": reporting}, 'that of MockBillingAdapter is "report"'),
        ({"billing_mode": "both", "billing": reporting}, 'not "invoice" or "report"'),
    ):
        with pytest.raises(InvalidInput, match=says):
            Metering(**options)


async def test_where_we_rate_nothing_is_reported(memory: Metering) -> None:
    with pytest.raises(InvalidInput, match="we rate, and nothing is reported"):
        await memory.report_usage()


CANNOT = {
    "tiers": ("quotas.calls.price", {"limit": 1, "per": "day", "then": "charge", "price": {"flat": "1.00"}}),
    "packages": (
        "quotas.calls.price",
        {"limit": 1, "per": "day", "then": "charge", "price": {"package": 10, "unit_price": "1.00"}},
    ),
    "levels": ("quotas.seats: .* mean over time", {"limit": 1, "then": "charge", "unit_price": "1.00"}),
}


def plans(quota: object, **more: object) -> Catalogue:
    meter = "calls" if not isinstance(quota, dict) or "per" in quota else "seats"
    tree = {
        "meters": {"calls": {"event": "call"}, "seats": {"aggregation": "level"}},
        "plans": {"pro": {"price": "9.00", "quotas": {meter: quota}}},
    }
    return Catalogue.from_dict(tree | more)


@pytest.mark.parametrize(("where", "quota"), CANNOT.values(), ids=CANNOT)
def test_what_a_provider_cannot_multiply_is_named_before_anything_runs(where: str, quota: object) -> None:
    with pytest.raises(CatalogueError, match=rf"^plans\.pro\.{where}") as found:
        Metering(plans(quota), billing=MockBillingAdapter(billing_mode="report"), billing_mode="report")
    assert 'billing_mode="report"' in str(found.value)
    Metering(plans(quota), billing=MockBillingAdapter())


def test_minimums_addons_and_fees_by_the_day_are_named_too() -> None:
    block = {"limit": 1, "per": "day"}
    minimum = {"plans": {"pro": {"price": "9.00", "minimum": "50.00"}}}
    addon = {"addons": {"more": {"price": "1.00", "quotas": {"calls": 5}}}}
    for more, where in (
        (minimum, "plans.pro.minimum"),
        (addon, "addons.more"),
        ({"changes": {"proration": "day"}}, ""),
    ):
        with pytest.raises(CatalogueError, match=where or 'changes.proration = "day"'):
            metered_prices(plans(block, **more))


def test_a_resource_that_is_no_name_of_a_meter_is_named() -> None:
    price = {"limit": 1, "per": "day", "then": "charge", "unit_price": {"GET /x": "1.00"}}
    with pytest.raises(CatalogueError, match=r"plans\.pro\.quotas\.calls: .* 'calls\.GET /x' does not do"):
        metered_prices(plans(price))


def test_the_seeds_prices_are_those_of_its_units() -> None:
    found = {(each.plan, each.meter): str(each.unit_price) for each in metered_prices(SEED)}
    assert found["pro", "api_calls"] == "0.01"
    assert found["pro", "ai_tokens.gpt-4"] == "0.00003"
    assert not [plan for plan, _ in found if plan == "free"]


async def test_an_older_version_that_cannot_be_multiplied_raises_an_alert_and_stops_nobody(
    make: Make, clock: FrozenClock
) -> None:
    house = await open_house(make, clock)
    await house.tenant("acme")
    await house.tenant("beta")
    tiers = {"limit": 10, "per": "day", "then": "charge", "price": {"package": 10, "unit_price": "1.00"}}
    house.metering._subscriptions._own_prices = True  # as where we rated until now
    await house.metering.override_plan("acme", {"quotas": {"api_calls": tiers}})
    await house.use("acme", "api_call", 10_250)
    await house.use("beta", "api_call", 10_250)
    assert [await house.metering.report_usage() for _ in range(2)] == [1, 0]
    assert (house.told("acme"), house.told("beta"), await house.alerts()) == ([], [250], ["acme/2024-01"])
    await house.metering.change_plan("acme", "pro", at="2024-01-01T00:00:00Z")
    await house.metering.report_usage()
    assert (house.told("acme"), await house.alerts()) == ([250], [])


async def test_limits_may_be_a_tenants_own_and_prices_not(house: House) -> None:
    await house.tenant("acme")
    more = {"limit": 20_000, "per": "day", "then": "charge"}
    for changes in (
        {"price": "79.00"},
        {"quotas": {"api_calls": more | {"unit_price": "0.02"}}},
        {"quotas": {"users": {"limit": 10, "then": "charge", "unit_price": "1.00"}}},
    ):
        with pytest.raises(InvalidInput, match="make other prices than pro has at the payment provider"):
            await house.metering.override_plan("acme", changes)
    await house.metering.override_plan("acme", {"quotas": {"api_calls": more | {"unit_price": "0.01"}}})
    await house.use("acme", "api_call", 20_007)
    await house.metering.report_usage()
    assert house.told("acme") == [7]


def test_identifiers_fit() -> None:
    assert isinstance(MockBillingAdapter(), UsageReporter)
    with pytest.raises(InvalidInput, match="has 101 characters"):
        UsageReport("t", "cus_1", "m", 1, "x" * 101, JANUARY[0], "2024-01")


async def test_the_mock_refuses_as_a_provider_does(house: House) -> None:
    await house.tenant("acme")
    with pytest.raises(InvalidRequest, match="finalized an hour later"):
        house.adapter.invoice_month(house.subscriptions["acme"], *JANUARY)
    customer = house.customers["acme"]
    for instant in (datetime(2023, 11, 20, tzinfo=UTC), datetime(2024, 1, 1, 0, 6, tzinfo=UTC)):
        with pytest.raises(InvalidRequest, match="not of the last 35 days"):
            await house.adapter.report_usage(UsageReport("acme", customer, "api_calls", 1, "a", instant, "2024-01"))
    with pytest.raises(InvalidRequest, match="no customer"):
        await house.adapter.report_usage(UsageReport("x", "cus_no", "api_calls", 1, "a", house.clock.now(), "2024-01"))
