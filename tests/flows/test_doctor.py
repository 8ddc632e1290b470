"""``mm-metering doctor`` in a house with real stores: what it finds, and one event sent all the way."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI

from mm_metering import FrozenClock, Metering, from_header
from mm_metering.cli import canary
from mm_metering.core.identity import CANARY
from tests.flows.conftest import PATIENT, Make, Shell
from tests.redis_server import RedisServer

APP = ("--app", "house_of_doctor:metering")
KEY = base64.b64encode(bytes(32)).decode()


class House(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, clock: FrozenClock, **options: Any) -> None:
        super().__init__("house_of_doctor")
        self.clock = clock
        self.options = options

    @property
    def metering(self) -> Metering:
        metering = Metering(**self.options, clock=self.clock, timing=PATIENT)
        app = FastAPI()
        app.add_api_route("/v1/reports", lambda: 1, methods=["POST"])
        metering.install(app, tenant=from_header("x-org-id"))
        return metering


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> House:
    stores = {"counters": redis_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    found = House(clock, **stores, worker="inline", secret_key=KEY, audit_anchors=tmp_path / "anchors")
    monkeypatch.setitem(sys.modules, "house_of_doctor", found)
    return found


def not_ok(said: str) -> list[str]:
    """The lines of what is to be mended; the tests' Redis keeps no file, and its clock is not the test's."""
    of_this_server = ("keeps no append-only file", "the clock of ")
    lines = [line for line in said.splitlines() if not line.startswith("ok")]
    return [line for line in lines if not any(each in line for each in of_this_server)]


def test_a_healthy_house_has_nothing_to_mend(house: House, shell: Shell) -> None:
    code, said, _ = shell("doctor", *APP)
    assert (code, not_ok(said)) == (0, [])
    assert "evicts nothing" in said


def test_a_house_without_keys_and_workers_is_told(house: House, shell: Shell) -> None:
    house.options |= {"worker": "off", "secret_key": None, "audit_anchors": None}
    code, said, _ = shell("doctor", *APP)
    assert code == 0
    assert [line.split(":")[0] for line in not_ok(said)] == [
        "warn  no secret_key",
        "warn  no audit_anchors",
        "warn  no worker runs",
    ]


def test_several_processes_on_memory_are_a_failure(house: House, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    house.options["counters"] = "memory://"
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    code, said, _ = shell("doctor", *APP)
    assert (code, "each of 4 processes has a counters of its own" in said) == (1, True)


async def test_an_app_that_starts_says_so_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    await make()
    assert [each.message.split(",")[0] for each in caplog.records] == ["WEB_CONCURRENCY=4"] * 2


def test_plans_that_are_not_applied_are_a_failure(house: House, shell: Shell) -> None:
    house.options["apply"] = "never"
    code, said, _ = shell("doctor", "--json", *APP)
    found = [each["text"] for each in json.loads(said) if each["level"] == "FAIL"]
    assert (code, len(found), "mm-metering migrate" in found[0]) == (1, 1, True)


async def test_models_without_a_price_are_named_with_their_calls(make: Make, clock: FrozenClock) -> None:
    metering = await make()
    for tenant, calls in (("acme", 2), ("beta", 1)):
        await metering.ai.update_cost_config(tenant, on_unpriced="allow")
        for _ in range(calls):
            async with metering.ai.reserve(tenant, "no-such-model", tokens=10) as call:
                call.settle(input_tokens=10, output_tokens=0)
    await metering.flush()
    (said,) = [text for level, text in await metering.check_up() if "without a price" in text]
    assert "models without a price in the last day: no-such-model (3 calls)" in said
    clock.advance(timedelta(days=2))
    assert not [text for _, text in await metering.check_up() if "without a price" in text]


# -- the canary --------------------------------------------------------------------------------------------------------


def test_one_event_is_sent_all_the_way_and_taken_back(house: House, shell: Shell) -> None:
    for _ in range(2):
        code, said, _ = shell("doctor", "--canary", *APP)
        assert (code, not_ok(said)) == (0, [])
        steps = re.findall(r"ok    canary: (.*) after [\d,]+ ms", said)
        assert steps == [
            "recorded, and counted",
            "in the ledger",
            "in the day's snapshot",
            "in a preview of its invoice",
            "at a mock provider, to the coin",
        ]


async def test_it_leaves_nothing_in_bills(make: Make, clock: FrozenClock, stores: dict[str, str]) -> None:
    metering = await make(**stores)
    await metering.put_tenant("acme", plan="pro")
    found = [each async for each in canary.send(metering)]
    assert {each.level for each in found} == {"ok"}
    assert (await metering.create_usage_snapshot(CANARY, clock.now().date())).api_calls == 0
    assert (await metering.check_limit(CANARY, "api_calls")).used == 0
    assert await metering.check_alerts() == []
    clock.set("2024-02-03T00:00:00Z")
    assert [each.tenant for each in await metering.close_period("2024-01")] == ["acme"]
    assert (await metering.simulate(metering.catalogue, start="2024-01", end="2024-01")).tenants[0].tenant == "acme"
    proof = await metering.prove()
    assert proof.holds, proof


async def test_a_house_that_does_not_fold_is_told(memory: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> list[object]:
        return []

    monkeypatch.setattr(memory.ledger, "facts", nothing)
    found = [each async for each in canary.send(memory)]
    assert [each.level for each in found] == ["ok", "ok", "FAIL"]
    assert "it was recorded, and is not in the ledger" in found[-1].text


def test_it_needs_stores_that_this_process_sees(house: House, shell: Shell) -> None:
    house.options["counters"] = "memory://"
    code, _, error = shell("doctor", "--canary", *APP)
    assert (code, "lives inside one process" in error) == (2, True)
    assert f'another than that of {APP[1]}; give it counters="local://usage"' in error
    assert asyncio.iscoroutinefunction(house.metering.check_up)
