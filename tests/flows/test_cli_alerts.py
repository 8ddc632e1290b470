"""``mm-metering alerts`` and ``ai costs``, as somebody types them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.errors import InvalidInput
from tests.flows.conftest import Make, Shell
from tests.flows.test_alerts import CATALOGUE, spend

APP = ("--app", "house_of_alerts:metering")


class House(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, ledger: str) -> None:
        super().__init__("house_of_alerts")
        self.ledger = ledger
        self.clock = FrozenClock("2024-01-15T12:00:00Z")

    @property
    def metering(self) -> Metering:
        return Metering(CATALOGUE, ledger=self.ledger, clock=self.clock, worker="off")

    def do(self, work: Callable[[Metering], Awaitable[object]]) -> None:
        async def done() -> None:
            async with self.metering as metering:
                await work(metering)

        asyncio.run(done())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = House(f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setitem(sys.modules, "house_of_alerts", found)
    return found


def test_what_was_told_is_listed_tested_and_muted(house: House, shell: Shell) -> None:
    async def use(metering: Metering) -> None:
        await metering.enforce_quota("acme", "reports", 10)
        await metering.check_alerts()

    house.do(use)
    code, said, _ = shell("alerts", "list", *APP)
    assert code == 0
    assert "quota.exceeded" in said
    assert "alerts: 2" in said
    code, said, _ = shell("alerts", "mute", "quota", "--tenant", "beta", "--hours", "2", *APP)
    assert (code, said) == (0, "quota of beta: nothing is told until 2024-01-15 14:00 UTC\n")
    code, said, _ = shell("alerts", "test", "--tenant", "beta", *APP)
    assert (code, "alert.test" in said) == (0, True)
    code, said, _ = shell("alerts", "list", "--tenant", "beta", *APP)
    assert "alerts: 1" in said
    assert "muted: quota of beta until 2024-01-15 14:00 UTC" in said


def test_wrong_words_are_said_in_one_line(house: House, shell: Shell) -> None:
    code, _, said = shell("alerts", "mute", "qota", *APP)
    assert (code, said.count("\n")) == (2, 1)
    assert "'qota' is no rule; known: " in said
    code, _, said = shell("ai", "costs", "2024-13", *APP)
    assert (code, "is not a calendar month" in said) == (2, True)


def test_a_months_costs_by_tenant_and_model(house: House, shell: Shell) -> None:
    async def use(metering: Metering) -> None:
        for tenant, cost in (("beta", "0.25"), ("acme", "0.50"), ("acme", "0.10")):
            await spend(metering, cost, tenant)
        async with metering.ai.reserve("acme", "gpt-3.5-turbo", tokens=7) as call:
            call.settle(input_tokens=7, output_tokens=0)
        await metering.flush()

    house.do(use)
    code, said, _ = shell("ai", "costs", "2024-01", "--csv", *APP)
    assert (code, said.splitlines()) == (
        0,
        [
            "tenant,model,requests,tokens,cost,unpriced",
            "acme,gpt-4,2,2,0.60,0",
            "acme,gpt-3.5-turbo,1,7,0.000007,0",
            "beta,gpt-4,1,1,0.25,0",
        ],
    )
    code, said, _ = shell("ai", "costs", "2024-01", "--tenant", "beta", *APP)
    assert "tenants: 1, cost: 0.25 USD" in said
    code, said, _ = shell("ai", "costs", "2024-02", *APP)
    assert said == "tenants: 0, cost: 0.00 USD\n"


async def test_the_report_is_the_sum_of_the_days(make: Make, stores: dict[str, str]) -> None:
    house = await make(catalogue=CATALOGUE, **stores, worker="off")
    await spend(house, "0.30")
    await spend(house, "0.20", user="ann")
    (row,) = await house.ai.get_cost_report("2024-01")
    stats = await house.ai.get_usage_stats("acme", "2024-01-01", "2024-01-31")
    assert (row.tenant, row.model, row.cost) == ("acme", "gpt-4", stats.total_cost)
    with pytest.raises(InvalidInput):
        await house.ai.get_cost_report("January")
