"""``mm-metering tenants`` and ``keys``, as somebody types them."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering
from tests.flows.conftest import Shell
from tests.redis_server import RedisServer

APP = ("--app", "house_of_tenants:metering")
OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


class House(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, counters: str, ledger: str) -> None:
        super().__init__("house_of_tenants")
        self.stores: dict[str, Any] = {"counters": counters, "ledger": ledger}
        self.clock = FrozenClock("2024-01-15T12:00:00Z")
        self.keys = OLD

    @property
    def metering(self) -> Metering:
        return Metering(**self.stores, clock=self.clock, worker="off", secret_key=self.keys)

    def do(self, work: Callable[[Metering], Awaitable[object]]) -> None:
        async def done() -> None:
            async with self.metering as metering:
                await work(metering)

        asyncio.run(done())


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = House(redis_server.url, f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setitem(sys.modules, "house_of_tenants", found)

    async def use(metering: Metering) -> None:
        for each in ("acme", "beta"):
            await metering.put_tenant(each, plan="pro")
            await metering.record_api_call(each, "/v1", metadata={"name": "Ada"})
        await metering.webhooks.create_endpoint("acme", "https://hooks.acme-mortgage.com/")

    found.do(use)
    return found


def test_a_tenant_is_listed_exported_and_forgotten(house: House, shell: Shell, tmp_path: Path) -> None:
    code, said, _ = shell("tenants", "list", *APP)
    assert (code, "acme" in said, "tenants: 2" in said) == (0, True, True)
    out = tmp_path / "acme.jsonl"
    code, said, noted = shell("tenants", "export", "acme", "--out", out, *APP)
    things = [json.loads(line) for line in out.read_text().splitlines()]
    assert (code, said, noted) == (0, "", f"things: {len(things)}\n")
    assert [json.loads(each["metadata"]) for each in things if each["kind"] == "fact"] == [{"name": "Ada"}]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    code, said, _ = shell("tenants", "forget", "acme", *APP, "--yes", "--reason", "card 4242 4242 4242 4242")
    assert code == 2
    code, said, _ = shell("tenants", "forget", "acme", *APP, "--yes", "--reason", "request 17")
    assert (code, said.startswith("acme: forgotten."), "1 endpoints" in " ".join(said.split())) == (0, True, True)
    code, said, _ = shell("tenants", "list", *APP)
    assert "2024-01-15 12:00" in said
    code, said, _ = shell("tenants", "export", "acme", *APP)
    assert [each["metadata"] for each in map(json.loads, said.splitlines()) if each["kind"] == "fact"] == [None]
    assert shell("tenants", "forget", "nobody", *APP, "--yes", "--reason", "request 18")[0] == 1


def test_a_tenant_s_plan_and_state_are_changed_and_shown(house: House, shell: Shell) -> None:
    code, said, _ = shell("tenants", "set-plan", "acme", "enterprise", "--at", "now", "--reason", "signed", *APP)
    assert (code, said) == (0, "acme: enterprise, active; UTC, since 2024-01-15\n")
    code, said, _ = shell("tenants", "override", "acme", '{"price": "79.00"}', "--json", *APP)
    assert (code, json.loads(said)["plan"]) == (0, "enterprise")
    assert shell("tenants", "cancel", "acme", "--at", "period_end", *APP)[1].splitlines()[1] == (
        "  from 2024-02-01 00:00 UTC on: enterprise, canceled"
    )
    code, said, _ = shell("tenants", "show", "acme", *APP)
    assert (code, "api_calls" in said, "its month so far: " in said) == (0, True, True)
    code, said, _ = shell("tenants", "show", "acme", "--json", *APP)
    found = json.loads(said)
    assert found["summary"]["usage_breakdown"]["api_calls"]["used"] == 1
    assert found["tenant"]["planned"][0]["status"] == "canceled"
    for command, state in (("resume", "active"), ("suspend", "paused"), ("resume", "active"), ("cancel", "canceled")):
        code, said, _ = shell("tenants", command, "acme", *APP)
        assert (code, said.split(";")[0]) == (0, f"acme: enterprise, {state}")
    entries = json.loads(shell("audit", "list", "--tenant", "acme", "--json", *APP)[1])
    assert "signed" in {each["reason"] for each in entries}


def test_what_cannot_be_done_to_a_tenant_is_one_line(house: House, shell: Shell) -> None:
    for words, code, why in (
        (("show", "nobody"), 1, "tenants list"),
        (("set-plan", "nobody", "pro"), 1, "not known"),
        (("set-plan", "acme", "pro2"), 2, "pro"),
        (("override", "acme", "{"), 2, "is no JSON"),
        (("override", "acme", "[]"), 2, "no JSON object"),
        (("override", "acme", '{"prise": "1.00"}'), 2, "price"),
    ):
        ended, said, error = shell("tenants", *words, *APP)
        assert (ended, said, error.count("\n"), why in error) == (code, "", 1, True), (words, error)
    assert shell("tenants", "set-plan", "new", "pro", "--new", *APP)[0] == 0
    assert "tenants: 3" in shell("tenants", "list", *APP)[1]


def test_a_forecast_says_what_it_rests_on(house: House, shell: Shell) -> None:
    async def use(metering: Metering) -> None:
        await metering.put_tenant("old", plan="pro", subscribed_at="2023-11-01T00:00:00Z")
        await metering.ai.update_cost_config("old", monthly_budget="5.00")
        for day in range(30):
            at = house.clock.now() - timedelta(days=day)
            await metering.record_ai_usage("old", "gpt-4", tokens=10, cost="0.50", occurred_at=at)

    house.do(use)
    code, said, _ = shell("forecast", "old", *APP)
    assert (code, "about 14.02 USD" in said, "recommended: " in said) == (1, True, True), said
    code, said, _ = shell("forecast", "acme", "--json", *APP)
    assert (code, json.loads(said)["estimated_cost"]) == (0, None)
    assert "nothing can be said" in shell("forecast", "acme", *APP)[1]


def test_keys_are_listed_and_rotated_and_a_missing_one_is_named(house: House, shell: Shell) -> None:
    code, said, _ = shell("keys", "list", *APP)
    assert (code, "keys: 1, values: 3" in said) == (0, True)
    house.keys = NEW
    code, said, _ = shell("keys", "rotate", *APP)
    assert (code, "sealed anew under the newest key: 0" in said, "which 3 values need" in said) == (1, True, True)
    house.keys = f"{NEW},{OLD}"
    code, said, _ = shell("keys", "rotate", *APP)
    assert (code, said) == (0, "sealed anew under the newest key: 3\n")
    house.keys = NEW
    code, said, _ = shell("keys", "list", *APP)
    assert (code, "keys: 1, values: 3" in said) == (0, True)
