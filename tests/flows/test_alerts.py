"""Alerts: what usage came to is told once per rule, tenant and window; by hooks, a line in the log, an event."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from mm_metering import BudgetExceeded, FrozenClock, Metering, QuotaExceeded
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.collecting import Notice
from mm_metering.core.periods import micros
from mm_metering.errors import CatalogueError, InvalidInput
from mm_metering.gate.journal_file import Waiting
from tests.flows.conftest import Make
from tests.flows.test_ai import PLANS

CATALOGUE: dict[str, Any] = PLANS | {
    "meters": PLANS["meters"]
    | {"reports": {"event": "export"}, "users": {"aggregation": "level"}, "api_calls": {"event": "api_call"}},
    "plans": {
        "pro": {
            "price": "99.00",
            "quotas": {
                "reports": {"limit": 10, "per": "month"},
                "users": {"limit": 4},
                "api_calls": {"limit": 5, "per": "day", "then": "charge", "unit_price": "0.01"},
            },
            "ai": {"daily_budget": "1.00", "monthly_budget": "20.00", "budgets": {"user:*": {"daily": "0.10"}}},
        },
    },
}


@pytest.fixture
async def metering(make: Make, stores: dict[str, str]) -> Metering:
    return await make(catalogue=CATALOGUE, **stores, worker="off")


@pytest.fixture
async def memory(make: Make) -> Metering:
    return await make(catalogue=CATALOGUE, worker="off")


def told(notices: list[Notice]) -> list[tuple[str, str, int]]:
    return [(each.type, each.data["meter"], each.data["threshold"]) for each in notices]


async def spend(metering: Metering, cost: str, tenant: str = "acme", **scopes: Any) -> None:
    async with metering.ai.reserve(tenant, "gpt-4", tokens=1, **scopes) as call:
        call.settle(input_tokens=1, output_tokens=0, cost=cost)


async def test_each_threshold_is_told_once_per_window_on_every_store(metering: Metering, clock: FrozenClock) -> None:
    heard: list[Notice] = []
    metering.on("*")(heard.append)
    await metering.enforce_quota("acme", "reports", 7)
    assert await metering.check_alerts() == []
    await metering.enforce_quota("acme", "reports", 1)
    assert told(await metering.check_alerts()) == [("quota.warning", "reports", 80)]
    assert await metering.check_alerts() == []
    await metering.enforce_quota("acme", "reports", 2)
    assert told(await metering.check_alerts("acme")) == [("quota.exceeded", "reports", 100)]
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota("acme", "reports", 1)
    assert await metering.check_alerts("acme") == []
    assert heard[0].data == {
        "meter": "reports",
        "window": "month",
        "threshold": 80,
        "used": 8,
        "limit": 10,
        "resets_at": "2024-02-01T00:00:00Z",
    }
    clock.set("2024-02-01T00:00:00Z")
    await metering.enforce_quota("acme", "reports", 10)
    assert told(await metering.check_alerts()) == [("quota.warning", "reports", 80), ("quota.exceeded", "reports", 100)]
    assert [each.type for each in heard] == ["quota.warning", "quota.exceeded"] * 2
    assert len(await metering.list_alerts(tenant="acme")) == 4


async def test_budgets_are_told_at_50_80_and_100_per_cent_also_those_of_scopes(metering: Metering) -> None:
    await spend(metering, "0.50")
    assert told(await metering.check_alerts()) == [("budget.warning", "ai_cost", 50)]
    await spend(metering, "0.09", user="ann")
    scoped = await metering.check_alerts()
    assert told(scoped) == [("budget.warning", "ai_cost", 50), ("budget.warning", "ai_cost", 80)]
    assert {each.data["scope"] for each in scoped} == {"user:ann"}
    await spend(metering, "0.45")
    (warned, over) = await metering.check_alerts()
    assert (warned.data["used"], warned.data["limit"], over.type) == ("1.04", "1.00", "budget.exceeded")
    with pytest.raises(BudgetExceeded):
        await spend(metering, "0.01")
    assert await metering.check_alerts() == []


async def test_overage_and_levels_are_told_once(metering: Metering) -> None:
    await metering.record_api_call("acme", "/v1/a")
    for _ in range(8):
        await metering.enforce_quota("acme", "api_calls", 1)
    assert told(await metering.check_alerts()) == [
        ("quota.warning", "api_calls", 80),
        ("overage.started", "api_calls", 100),
    ]
    await metering.set_level("acme", "users", 4)
    assert told(await metering.check_alerts()) == [("quota.warning", "users", 80), ("quota.exceeded", "users", 100)]
    for value in (1, 4):
        await metering.set_level("acme", "users", value)
        assert await metering.check_alerts() == [], "once a month for a level"


async def test_many_processes_at_once_tell_it_once(make: Make, shared_stores: dict[str, str]) -> None:
    houses = [await make(catalogue=CATALOGUE, **shared_stores, worker="off") for _ in range(3)]
    tenants = [f"t{n}" for n in range(12)]
    for number, tenant in enumerate(tenants):
        await houses[number % 3].enforce_quota(tenant, "reports", 10)
    await asyncio.gather(*(house.flush() for house in houses))
    found = await asyncio.gather(*(house._alerts.look(tenants) for house in houses for _ in range(2)))
    assert Counter(notice.tenant for each in found for notice in each) == dict.fromkeys(tenants, 2)


async def test_a_plan_and_a_tenant_have_rules_of_their_own(memory: Metering) -> None:
    await memory.put_tenant("quiet")
    await memory.override_plan("quiet", {"alerts": {"off": ["quota"]}})
    await memory.put_tenant("early")
    await memory.override_plan("early", {"alerts": {"quota": [10, 200]}})
    for tenant in ("quiet", "early"):
        await memory.enforce_quota(tenant, "reports", 10)
    assert [(each.tenant, each.data["threshold"]) for each in await memory.check_alerts()] == [("early", 10)]
    with pytest.raises(CatalogueError, match="quota"):
        Catalogue.from_dict(CATALOGUE | {"alerts": {"quota": [0]}})
    catalogue = Catalogue.from_dict(CATALOGUE | {"alerts": {"budget": [90], "spike_above": "3.00"}})
    assert Catalogue.from_dict(catalogue.to_dict()) == catalogue


async def test_what_is_muted_is_told_when_that_is_over_if_it_is_still_so(memory: Metering, clock: FrozenClock) -> None:
    await memory.mute_alerts("quota", tenant="acme", until="2024-01-15T13:00:00Z")
    for tenant in ("acme", "beta"):
        await memory.enforce_quota(tenant, "reports", 8)
    assert [each.tenant for each in await memory.check_alerts()] == ["beta"]
    assert [mute[:2] for mute in await memory.list_mutes()] == [("quota", "acme")]
    clock.advance(timedelta(hours=1))
    assert [each.tenant for each in await memory.check_alerts("acme")] == ["acme"]
    assert await memory.list_mutes() == []
    for wrong in ({"rule": "quotas"}, {"rule": "quota", "until": "2024-01-15T13:00:00"}):
        with pytest.raises(InvalidInput):
            await memory.mute_alerts(**({"until": "2024-01-16T00:00:00Z"} | wrong))


async def test_an_alert_is_one_structured_line_and_one_event(
    memory: Metering, caplog: pytest.LogCaptureFixture
) -> None:
    await memory.enforce_quota("a\u2028b'", "reports", 8)
    with caplog.at_level(logging.INFO, "mm_metering.alerts"):
        await memory.check_alerts()
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "quota.warning tenant=\"a\\u2028b'\" meter='reports' window='month' threshold=80"
    )
    (alert,) = await memory.list_alerts()
    assert record.__dict__["alert"] == {"type": "quota.warning", "tenant": alert.tenant, **alert.data}


async def test_the_first_refusal_of_a_window_is_one_structured_line(
    memory: Metering, caplog: pytest.LogCaptureFixture, clock: FrozenClock
) -> None:
    await memory.enforce_quota("acme", "reports", 10)
    with caplog.at_level(logging.INFO, "mm_metering.refused"):
        for days in (0, 1, 20):
            clock.advance(timedelta(days=days))
            for _ in range(3):
                with pytest.raises(QuotaExceeded):
                    await memory.enforce_quota("acme", "reports", 11)
    first, second = caplog.records
    assert first.getMessage().startswith("refused tenant='acme': reports: 10 of 10 used this month; resets in")
    assert second.__dict__["refused"]["used"] == 0
    assert {"tenant": "acme", "meter": "reports", "reason": "quota-exceeded"}.items() <= first.__dict__[
        "refused"
    ].items()


async def test_an_hour_that_is_out_of_the_ordinary_is_told_once(memory: Metering, clock: FrozenClock) -> None:
    for week in range(6):
        clock.set("2024-01-15T12:30:00Z")
        clock.advance(timedelta(weeks=week))
        await spend(memory, "0.30")
        await spend(memory, "0.80", "steady")
    await spend(memory, "0.70")
    clock.advance(timedelta(hours=1))
    await memory.override_plan("acme", {"alerts": {"spike_above": "0.50"}})
    await memory.flush()
    hour = clock.now().replace(minute=0)
    await memory._alerts.every(hour, 1)
    await memory._alerts.every(hour, 2)
    (spike,) = [each for each in await memory.list_alerts() if each.type == "usage.spike"]
    assert spike.data == {"hour": "2024-02-19T12:00:00Z", "cost": "1.00", "usual": "0.30", "most": "0.75"}
    assert spike.tenant == "acme"


async def test_a_month_that_will_probably_pass_its_budget_is_told_once(memory: Metering, clock: FrozenClock) -> None:
    await memory.put_tenant("acme", subscribed_at="2023-11-01T00:00:00Z")
    start = clock.now() - timedelta(days=60)
    for day in range(61):
        clock.set(start + timedelta(days=day))
        await spend(memory, "0.60")
    await memory.flush()
    await memory.ai.update_cost_config("acme", monthly_budget="15.00")
    for _ in range(2):
        await memory._alerts.every(clock.now(), 1)
    (seen,) = [each for each in await memory.list_alerts() if each.type == "budget.forecast"]
    assert (seen.data["period"], seen.data["budget"], seen.data["runs_out_on"]) == ("2024-01", "15.00", "2024-01-25")
    assert Decimal(seen.data["low"]) <= Decimal(seen.data["expected"]) <= Decimal(seen.data["high"])


async def test_a_model_without_a_price_is_told_once_a_day(memory: Metering, clock: FrozenClock) -> None:
    await memory.ai.update_cost_config("acme", on_unpriced="allow")
    for hours in (0, 1, 23):
        clock.advance(timedelta(hours=hours))
        async with memory.ai.reserve("acme", "no-such-model", tokens=10) as call:
            call.settle(input_tokens=10, output_tokens=0)
    found = [each.data for each in await memory.list_alerts() if each.type == "model.unpriced"]
    assert [each["day"] for each in found] == ["2024-01-16", "2024-01-15"]
    assert found[0]["model"] == "no-such-model"
    stats = await memory.ai.get_usage_stats("acme", "2024-01-15", "2024-01-16")
    assert (stats.request_count, stats.unpriced_calls, stats.total_cost) == (3, 3, Decimal(0))
    (row,) = await memory.ai.get_cost_report("2024-01")
    assert (row.requests, row.unpriced) == (3, 3)
    facts = await memory.ledger.facts("acme", after=(0, ""), limit=9)
    assert {each.cost_nanos for each in facts if each.kind == "close"} == {None}, "not known is not 0"


async def test_what_is_wrong_with_the_house_is_told_once_while_it_is_so(
    memory: Metering, monkeypatch: pytest.MonkeyPatch, clock: FrozenClock
) -> None:
    heard: list[Notice] = []
    memory.on("worker.lag")(heard.append)
    monkeypatch.setattr(memory.monitor, "lags", lambda: [("3", 75.5), ("4", 2.0)])
    monkeypatch.setattr(memory.monitor, "_files", lambda: Waiting(2, 9))
    for _ in range(3):
        await memory._alerts.house()
        clock.advance(timedelta(minutes=1))
    assert {(each.type, each.tenant) for each in await memory.list_alerts()} == {
        ("worker.lag", ""),
        ("journal.waiting", ""),
    }
    assert [each.data for each in heard] == [{"subject": "shard 3", "lag_s": 75}]
    monkeypatch.setattr(memory.monitor, "lags", list)
    await memory._alerts.house()
    monkeypatch.setattr(memory.monitor, "lags", lambda: [("3", 99.0)])
    await memory._alerts.house()
    assert len(heard) == 2, "told again when it comes back"


async def test_the_worker_tells_by_itself(make: Make) -> None:
    house = await make(catalogue=CATALOGUE, worker="inline")
    heard: list[Notice] = []
    house.on("quota.exceeded")(heard.append)
    await house.enforce_quota("acme", "reports", 10)
    for _ in range(80):
        if heard:
            break
        await asyncio.sleep(0.1)
    assert [each.tenant for each in heard] == ["acme"]
    assert heard[0].made_at == house.clock.now()
    assert micros(heard[0].made_at)
