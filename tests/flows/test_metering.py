"""What a caller of ``Metering`` relies on, on every pair of stores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.errors import (
    BudgetExceeded,
    CatalogueError,
    EventConflict,
    FeatureNotInPlan,
    InvalidEvent,
    InvalidInput,
    InvalidMoney,
    InvalidTenant,
    MeteringError,
    NotBound,
    QuotaExceeded,
    StoreUnavailable,
    UnknownTenant,
)
from mm_metering.gate.context import current
from mm_metering.gate.deadlines import Timing
from tests.flows.conftest import Make

CAPPED = {
    "currency": "USD",
    "default_plan": "pro",
    "meters": {"api_calls": {"event": "api_call"}, "bursts": {"event": "burst"}},
    "plans": {
        "pro": {
            "price": "99.00",
            "quotas": {
                "api_calls": {
                    "limit": 10_000,
                    "per": "day",
                    "then": {"charge_up_to": "20.00"},
                    "unit_price": "0.01",
                },
                "bursts": [{"limit": 5, "per": "second"}, {"limit": 8, "per": "day"}],
            },
        }
    },
}


LEVELS = {"default_plan": "pro", "meters": {"users": {"aggregation": "level"}}}

# -- the seed's snippets ---------------------------------------------------------------------------------------------


async def test_the_seeds_simulation_on_free(metering: Metering) -> None:
    for _ in range(100):
        await metering.record_api_call("org_123", "/v1/scenarios", success=True, cost="0.01")
    decision = await metering.check_limit("org_123", "api_calls", 1)
    assert not decision
    assert (decision.used, decision.limit, decision.remaining, decision.reason) == (100, 100, 0, "quota-exceeded")
    with pytest.raises(QuotaExceeded, match="api_calls: 100 of 100 used today; resets in 12 hours"):
        await metering.enforce_quota("org_123", "api_calls", 1)


async def test_ai_usage_is_a_call_and_its_tokens_with_the_cost_once(metering: Metering) -> None:
    assert await metering.record_ai_usage("org_123", "gpt-4", tokens=1000, cost="0.03", id="x") == "recorded"
    assert await metering.record_ai_usage("org_123", "gpt-4", tokens=1000, cost="0.03", id="x") == "duplicate"
    with pytest.raises(EventConflict, match="'x' was recorded before"):
        await metering.record_ai_usage("org_123", "gpt-4", tokens=999, cost="0.03", id="x")
    await metering.record_webhook_delivery("org_123", "wh_1", success=True, cost="0.001")
    snapshot = await metering.create_usage_snapshot("org_123", "2024-01-15")
    assert (snapshot.ai_requests, snapshot.ai_tokens, snapshot.api_calls) == (1, 1000, 0)
    assert (snapshot.webhook_deliveries, snapshot.total_cost) == (1, Decimal("0.031"))
    assert snapshot == (await metering.get_usage("org_123", "2024-01-15", "2024-01-15")).days[0]


async def test_check_looks_enforce_takes_all_or_nothing(metering: Metering) -> None:
    for _ in range(3):
        assert await metering.check_limit("org_123", "reports")
    assert (await metering.enforce_quota("org_123", "reports")).remaining == 0
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("org_123", "reports")
    assert (await metering.enforce_quota("org_123", "ai_requests", 7)).used == 7
    with pytest.raises(QuotaExceeded, match="7 of 10 used today, and this needs 5"):
        await metering.enforce_quota("org_123", "ai_requests", 5)
    assert (await metering.enforce_quota("org_123", "ai_requests", 3)).used == 10
    usage = await metering.get_usage("org_123", "2024-01-15", "2024-01-15")
    assert (usage.exports, usage.meters["reports"], usage.ai_requests) == (1, 1, 10)


async def test_a_limit_of_zero_is_not_in_the_plan(metering: Metering) -> None:
    with pytest.raises(FeatureNotInPlan, match="webhook_deliveries: not part of the plan free"):
        await metering.enforce_quota("org_123", "webhook_deliveries")


async def test_levels_go_up_and_down_and_are_stated(metering: Metering, clock: FrozenClock) -> None:
    await metering.put_tenant("acme", plan="pro")
    assert (await metering.enforce_quota("acme", "users", 4)).used == 4
    await metering.release("acme", "users", 1)
    assert (await metering.check_limit("acme", "users", 7)).used == 3
    clock.advance(timedelta(seconds=1))
    await metering.set_level("acme", "users", 10)
    with pytest.raises(QuotaExceeded, match="users: 10 of 10 used; give some back"):
        await metering.enforce_quota("acme", "users")
    await metering.set_level("acme", "users", 2, occurred_at=clock.now() - timedelta(hours=1))
    assert (await metering.check_limit("acme", "users")).used == 10
    clock.advance(timedelta(seconds=1))
    await metering.release("acme", "users", 99)
    assert (await metering.check_limit("acme", "users")).used == 0


async def test_a_level_that_charges_is_never_refused(stores: dict[str, str], make: Make) -> None:
    users = {"limit": 10, "then": "charge", "price": {"package": 5, "unit_price": "9.00"}}
    metering = await make(
        catalogue={**LEVELS, "plans": {"pro": {"price": "99.00", "quotas": {"users": users}}}}, **stores
    )
    for used, overage in ((8, 0), (16, 6)):
        decision = await metering.enforce_quota("acme", "users", 8)
        assert (decision.allowed, decision.used, decision.limit) == (True, used, 10)
        assert (decision.remaining, decision.overage, decision.resets_at) == (max(0, 10 - used), overage, None)
    assert await metering.check_limit("acme", "users", 1_000)
    await metering.release("acme", "users", 7)
    assert (await metering.check_limit("acme", "users")).used == 9


async def test_storage_events_state_a_level(metering: Metering, clock: FrozenClock) -> None:
    for megabytes, resource in ((512, "reports"), (100, "scenarios"), (300, "reports"), (0, "scenarios")):
        clock.advance(timedelta(minutes=1))
        await metering.record(UsageEvent(tenant="org", event_type="storage", resource=resource, quantity=megabytes))
    assert (await metering.create_usage_snapshot("org", "2024-01-15")).storage_mb == 300
    clock.advance(timedelta(days=2))
    assert (await metering.create_usage_snapshot("org", "2024-01-17")).storage_mb == 300


# -- counting --------------------------------------------------------------------------------------------------------


async def test_failures_are_facts_but_do_not_count(metering: Metering) -> None:
    await metering.record_api_call("org", "/v1/x", success=False, cost="0.01")
    snapshot = await metering.create_usage_snapshot("org", "2024-01-15")
    assert (snapshot.api_calls, snapshot.total_cost) == (0, Decimal("0.01"))
    assert (await metering.check_limit("org", "api_calls")).used == 0


async def test_late_events_count_in_their_own_window(metering: Metering, clock: FrozenClock) -> None:
    await metering.record_api_call("org", "/v1/x")
    await metering.record_api_call("org", "/v1/x", occurred_at=clock.now() - timedelta(days=1))
    await metering.record_api_call("org", "/v1/x", occurred_at=clock.now() + timedelta(minutes=4))
    assert (await metering.check_limit("org", "api_calls")).used == 2
    days = (await metering.get_usage("org", "2024-01-14", "2024-01-15")).days
    assert [day.api_calls for day in days] == [1, 2]


async def test_windows_end_by_the_tenants_midnight(metering: Metering, clock: FrozenClock) -> None:
    await metering.put_tenant("york", plan="free", timezone="America/New_York")
    clock.set("2024-03-10T04:59:59Z")
    await metering.enforce_quota("york", "api_calls", 100)
    clock.set("2024-03-10T05:00:00Z")
    decision = await metering.enforce_quota("york", "api_calls", 100)
    assert decision.resets_at == datetime.fromisoformat("2024-03-11T04:00:00Z")  # 23 hours
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("york", "api_calls")


async def test_a_spend_cap_is_exact_under_concurrency(stores: dict[str, str], make: Make) -> None:
    """S24: 12,345 attempts, 12,000 admitted."""
    metering = await make(catalogue=CAPPED, **stores)
    await metering.put_tenant("a", subscribed_at="2024-01-01T00:00:00Z")
    await metering.record(UsageEvent(tenant="a", event_type="api_call", resource="/x", quantity=9_000))
    taken = await asyncio.gather(*(_attempts(metering, "a", "api_calls", 60) for _ in range(64)))
    assert sum(taken) == 3_000
    with pytest.raises(BudgetExceeded, match=r"api_calls: 20.00 of 20.00 used this month, and this needs 0.01"):
        await metering.enforce_quota("a", "api_calls")
    assert (await metering.preview_invoice("a", period="2024-01")).total == Decimal("119.00")


async def _attempts(metering: Metering, tenant: str, meter: str, count: int) -> int:
    taken = 0
    for _ in range(count):
        try:
            await metering.enforce_quota(tenant, meter)
            taken += 1
        except MeteringError:
            pass
    return taken


async def test_a_burst_is_refused_without_touching_the_day(stores: dict[str, str], make: Make) -> None:
    metering = await make(catalogue=CAPPED, **stores)
    assert await _attempts(metering, "a", "bursts", 7) == 5
    decision = await metering.check_limit("a", "bursts")
    assert (decision.reason, decision.retry_after_s) == ("rate-limited", 1)
    metering.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]
    assert await _attempts(metering, "a", "bursts", 7) == 3
    assert (await metering.check_limit("a", "bursts", 1)).window == "day"


async def test_a_change_of_plan_is_in_force_at_the_next_request_in_every_process(
    shared_stores: dict[str, str], make: Make
) -> None:
    first, second = await make(**shared_stores), await make(**shared_stores)
    await first.put_tenant("acme", plan="free")
    for metering in (first, second):
        await metering.enforce_quota("acme", "api_calls", 50)
    assert not await second.check_limit("acme", "api_calls")
    await first.change_plan("acme", "pro")
    assert (await second.enforce_quota("acme", "api_calls")).limit == 10_000
    assert (await first.check_limit("acme", "api_calls")).used == 101


async def test_everything_acknowledged_is_seen_from_another_process(shared_stores: dict[str, str], make: Make) -> None:
    first, second = await make(**shared_stores, worker="off"), await make(**shared_stores, worker="off")
    await first.enforce_quota("acme", "api_calls", 7)
    assert (await second.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 7


async def test_counters_survive_a_restart_through_the_ledger(shared_stores: dict[str, str], make: Make) -> None:
    async with Metering(**shared_stores, clock=FrozenClock("2024-01-15T12:00:00Z"), worker="inline") as before:  # type: ignore[arg-type]
        await before.enforce_quota("acme", "api_calls", 60)
    fresh = await make(counters="memory://", ledger=shared_stores["ledger"])
    assert (await fresh.check_limit("acme", "api_calls")).used == 60


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.check_limit("org", "api_call"), InvalidEvent, 'did you mean "api_calls"'),
        (lambda m: m.enforce_quota("org", "reports", 0), InvalidEvent, "quantity: 0 is not allowed; the least is 1"),
        (lambda m: m.enforce_quota("org", "reports", -1), InvalidEvent, "quantity: -1"),
        (lambda m: m.enforce_quota("org", "reports", quantity=True), InvalidEvent, "expected an int, got bool"),
        (lambda m: m.enforce_quota("org", "reports", 2**53), InvalidEvent, "2\\*\\*53 - 1"),
        (lambda m: m.record_api_call("org", "/x", cost=0.01), InvalidMoney, "cost: 0.01 is a float"),
        (lambda m: m.record_api_call("org", "/x", cost="-1"), InvalidMoney, "negative"),
        (lambda m: m.record_api_call("org", "/x", cost="NaN"), InvalidMoney, "cost"),
        (lambda m: m.record_api_call("org", ""), InvalidEvent, "resource: is 0 bytes"),
        (lambda m: m.record_api_call("", "/x"), InvalidTenant, "tenant: is 0 bytes"),
        (lambda m: m.record_api_call("a\x00b", "/x"), InvalidTenant, "U\\+0000 at position 1"),
        (lambda m: m.record_api_call("a\ud800", "/x"), InvalidTenant, "lone surrogate"),
        (lambda m: m.record_api_call("é" * 129, "/x"), InvalidTenant, "258 bytes"),
        (lambda m: m.enforce_quota("a\nb", "reports"), InvalidTenant, "U\\+000A"),
        (lambda m: m.record_api_call("org", "/x", occurred_at=datetime(2024, 1, 1)), InvalidEvent, "no time zone"),  # noqa: DTZ001
        (lambda m: m.record_api_call("org", "/x", occurred_at="2024-01-15T12:06:00Z"), InvalidEvent, "360 s in the f"),
        (lambda m: m.record(UsageEvent(tenant="o", event_type="fax", resource="x")), InvalidEvent, "no meter counts"),
        (lambda m: m.record_ai_usage("org", "gpt-4", tokens=-1), InvalidEvent, "tokens: -1"),
        (lambda m: m.set_level("org", "users", -1), InvalidEvent, "value: -1"),
        (lambda m: m.set_level("org", "users", 2**41), InvalidEvent, "2\\*\\*40"),
        (lambda m: m.set_level("org", "api_calls", 1), InvalidEvent, "a sum, not a level"),
        (lambda m: m.put_tenant("org", plan="por"), CatalogueError, 'did you mean "pro"'),
        (lambda m: m.put_tenant("org", timezone="Mars/Base"), InvalidInput, "timezone: 'Mars/Base'"),
        (lambda m: m.put_tenant("org", tax_rate="19"), InvalidMoney, "write 19 % as 0.19"),
        (lambda m: m.change_plan("nobody", "pro"), UnknownTenant, "put_tenant makes it"),
        (lambda m: m.preview_invoice("org", period="2024-13"), InvalidInput, "period: '2024-13'"),
        (lambda m: m.get_usage("org", "2024-02-30", "2024-03-01"), InvalidInput, "start: '2024-02-30'"),
        (lambda m: m.get_usage("org", "2024-02-02", "2024-02-01"), InvalidInput, "end"),
    ],
)
async def test_bad_input_names_the_field_and_the_bound_and_records_nothing(
    memory: Metering, call: Any, error: type[Exception], says: str
) -> None:
    await memory.put_tenant("org")
    with pytest.raises(error, match=says):
        await call(memory)
    usage = await memory.get_usage("org", "2024-01-14", "2024-01-16")
    assert not any(usage.meters.values())


async def test_a_batch_with_one_bad_event_records_none(memory: Metering, clock: FrozenClock) -> None:
    good = UsageEvent(tenant="org", event_type="api_call", resource="/x")
    bad = good.model_copy(update={"occurred_at": clock.now() + timedelta(hours=1)})
    with pytest.raises(InvalidEvent):
        await memory.record_many([good, bad])
    assert (await memory.get_usage("org", "2024-01-15", "2024-01-15")).api_calls == 0


async def test_without_a_default_plan_an_unknown_tenant_is_an_error(make: Make) -> None:
    strict = await make(catalogue={key: value for key, value in CAPPED.items() if key != "default_plan"})
    with pytest.raises(UnknownTenant):
        await strict.enforce_quota("org", "api_calls")
    with pytest.raises(UnknownTenant):
        await strict.record_api_call("org", "/x")
    with pytest.raises(UnknownTenant, match="needs one"):
        await strict.put_tenant("org")
    await strict.put_tenant("org", plan="pro")
    assert await strict.enforce_quota("org", "api_calls")


async def test_no_server_at_start_is_one_clear_sentence() -> None:
    with pytest.raises(StoreUnavailable, match="counters"):
        async with Metering(counters="redis://127.0.0.1:1/0", timing=Timing(open_s=0.5)):
            pass
    with pytest.raises(InvalidInput, match="memory://, local://DIR"):
        Metering(counters="mysql://x")


# -- the rest of the surface -----------------------------------------------------------------------------------------


async def test_bind_names_the_tenant_of_a_block(memory: Metering) -> None:
    with pytest.raises(NotBound, match=r"metering\.bind"):
        current()
    with memory.bind("org_123"):
        assert current().tenant == "org_123"


async def test_tenants_are_upserted(metering: Metering, clock: FrozenClock) -> None:
    first = await metering.put_tenant("acme", plan="pro_monthly", timezone="Europe/Berlin", tax_rate="0.19")
    assert (first.plan, first.timezone, first.subscribed_at, first.status) == (
        "pro",
        "Europe/Berlin",
        clock.now(),
        "active",
    )
    assert await metering.put_tenant("acme") == first == await metering.get_tenant("acme")
    assert await metering.get_tenant("nobody") is None
    later = clock.now() + timedelta(days=3)
    assert (await metering.change_plan("acme", "enterprise", at=later)).plan == "pro"
    clock.set(later)
    decision = await metering.check_limit("acme", "api_calls")
    assert (decision.limit, decision.plan) == (100_000, "enterprise")


def test_metering_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("MM_METERING_COUNTERS", "memory://")
    monkeypatch.setenv("MM_METERING_LEDGER", f"sqlite:///{tmp_path}/l.db")
    monkeypatch.setenv("MM_METERING_CATALOGUE", str(tmp_path / "missing.toml"))
    with pytest.raises(CatalogueError, match=r"missing.toml: no such file"):
        Metering.from_env()
    assert type(Metering.from_env(catalogue=CAPPED).ledger).__name__ == "SqlLedger"


HOT = """
import asyncio, sys
import mm_metering
light = {"redis", "sqlalchemy", "starlette", "pydantic", "typer", "stripe"} & set(sys.modules)
assert not light, light
from mm_metering import Metering
async def main():
    async with Metering() as metering:
        await metering.enforce_quota("org", "api_calls")
asyncio.run(main())
heavy = {"redis", "sqlalchemy", "alembic", "stripe", "genai_prices", "typer", "rich"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_is_light_and_a_metered_call_loads_no_vendor() -> None:
    subprocess.run([sys.executable, "-c", HOT], check=True, timeout=60)


@pytest.mark.parametrize(
    "quota",
    [
        [{"limit": 5, "per": "day"}, {"limit": 5, "per": "month"}],
        {"limit": 2, "per": "day", "then": {"charge_up_to": "0.03"}, "unit_price": "0.01"},
    ],
    ids=["by two limits", "by a cap"],
)
async def test_what_is_refused_is_counted_once_and_in_units(make: Make, quota: Any) -> None:
    plan = {"price": "0.00", "quotas": {"api_calls": quota}}
    metering = await make(catalogue=CAPPED | {"plans": {"pro": plan}})
    assert await _attempts(metering, "a", "api_calls", 8) == 5
    await metering.gate.report()
    usage = await metering.get_usage("a", "2024-01-15", "2024-01-15")
    assert (usage.api_calls, usage.refused) == (5, {"api_calls": 3})


async def test_plans_that_changed_are_told_with_who_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    told = []
    for limit in (2, 2, 20):
        plans = {
            "meters": {"calls": {"event": "api_call"}},
            "plans": {"p": {"price": "0", "quotas": {"calls": {"limit": limit, "per": "day"}}}},
        }
        async with Metering(plans, ledger=ledger, worker="off", journal="off"):
            told.append([each for each in caplog.messages if each.startswith("plan p has changed")])
    assert [len(each) for each in told] == [0, 0, 1]
    assert "version 2 is for whoever comes now; tenants of an older one stay there until put_tenant" in told[-1][0]
