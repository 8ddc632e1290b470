"""``assert_conserved`` passes after ordinary use on each pair of stores, and names whatever was damaged by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.backends.redis_wire import tenant_key
from mm_metering.gate import loops
from mm_metering.gate.admission import Wish
from mm_metering.testing import assert_conserved, conserved
from tests.flows.conftest import Make
from tests.redis_server import RedisServer

TOLD = {"org_1": {"api_calls": 13, "users": 2}, "org_2": {"api_calls": 1}}


async def use(metering: Metering, clock: FrozenClock) -> None:
    """Takes, levels, records, costs, a change of plan, a second day, a fact taken back."""
    await metering.put_tenant("org_1", plan="pro", timezone="Asia/Kathmandu")
    await metering.enforce_quota("org_1", "api_calls", 3)
    await metering.enforce_quota("org_1", "users", 3)
    await metering.release("org_1", "users", 1)
    await metering.record_ai_usage("org_1", "gpt-4o", tokens=120, cost="0.03", id="chat-1")
    await metering.record_ai_usage("org_1", "gpt-4o", tokens=120, cost="0.03", id="chat-1")
    await metering.enforce_quota("org_2", "api_calls")
    clock.set("2024-01-16T12:00:00Z")
    await metering.change_plan("org_1", "enterprise")
    await metering.record_many(UsageEvent(tenant="org_1", event_type="api_call", resource="/r") for _ in range(10))
    await metering.reverse(await metering.take("org_2", (Wish("api_call", "/r", 5),)))


async def test_nothing_is_said_after_ordinary_use(metering: Metering, clock: FrozenClock) -> None:
    await use(metering, clock)
    await assert_conserved(metering, told=TOLD)
    await assert_conserved(metering, tenants=["org_2"])


async def test_what_was_told_and_is_not_there_is_named(metering: Metering, clock: FrozenClock) -> None:
    await use(metering, clock)
    with pytest.raises(AssertionError, match=r"org_2: was told 2 of api_calls, the ledger holds 1$"):
        await assert_conserved(metering, told={"org_2": {"api_calls": 2}})
    with pytest.raises(AssertionError, match=r"org_3: was told 1 of api_calls, the ledger holds 0$"):
        await assert_conserved(metering, tenants=[], told={"org_3": {"api_calls": 1}})


DAMAGES = {
    "a fact is gone": (
        "DELETE FROM mm_usage_fact WHERE tenant = 'org_2' AND kind = 'use' AND quantity = 1",
        r"org_2: cell api_calls of 2024-01-15 \(api_calls\): facts say 0 in 0 facts, it holds 1 in 1 facts",
    ),
    "a fact has another amount": (
        "UPDATE mm_usage_fact SET quantity = 121 WHERE quantity = 120",
        r"org_1: cell \*ai_token of 2024-01-15 \(gpt-4o\): facts say 121 in 1 facts, it holds 120 in 1 facts",
    ),
    "a cell has another amount": (
        "UPDATE mm_usage_cell SET quantity = quantity + 5 WHERE tenant = 'org_2' AND meter = 'api_calls' AND count = 1",
        r"org_2: counter api_calls@d\w+ stands at 1, the ledger says 6",
    ),
    "a cell has another cost": (
        "UPDATE mm_usage_cell SET cost_nanos = 1 WHERE meter = '*ai_call'",
        r"facts say 1 in 1 facts, 30,000,000 nanos, it holds 1 in 1 facts, 1 nanos",
    ),
    "a cell is gone": (
        "DELETE FROM mm_usage_cell WHERE tenant = 'org_1' AND meter = 'users'",
        r"org_1: cell users of 2024-01-15 \(users\): facts say 2 in 2 facts, it holds 0 in 0 facts",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_in_the_ledger_is_named(
    make: Make, clock: FrozenClock, redis_server: RedisServer, tmp_path: Path, damage: str
) -> None:
    metering = await make(counters=redis_server.url, ledger=f"sqlite:///{tmp_path}/ledger.db")
    await use(metering, clock)
    clock.set("2024-01-15T12:00:00Z")
    await assert_conserved(metering, told=TOLD)
    statement, says = DAMAGES[damage]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()
    with pytest.raises(AssertionError, match=says):
        await assert_conserved(metering)


async def _moved(server: RedisServer, key: str) -> None:
    fields = server.command("HKEYS", key).decode().split("\r\n")
    field = next(each for each in fields if each.startswith("api_calls@d"))
    server.command("HINCRBY", key, field, "2")


async def test_a_counter_that_moved_by_hand_is_named(
    make: Make, clock: FrozenClock, redis_server: RedisServer, shared_stores: dict[str, str]
) -> None:
    metering = await make(**shared_stores)
    await metering.enforce_quota("org_2", "api_calls")
    await assert_conserved(metering)
    await _moved(redis_server, tenant_key(0, "org_2"))
    with pytest.raises(AssertionError, match=r"org_2: counter api_calls@d\w+ stands at 3, the ledger says 1$"):
        await assert_conserved(metering)


async def test_a_tenant_that_is_not_loaded_is_no_difference(metering: Metering) -> None:
    await metering.enforce_quota("org_1", "api_calls")
    await metering.put_tenant("org_1", plan="enterprise")  # its counters wait for the next request
    await assert_conserved(metering, told={"org_1": {"api_calls": 1}})


async def test_a_journal_that_is_not_confirmed_is_named(memory: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conserved, "CONFIRM_S", 0.05)
    monkeypatch.setattr(loops.Loops, "settled", _at_once)
    await memory.startup()
    memory.gate._lane("org_1").journal.promise([("org_1", b'["x"]')])
    with pytest.raises(AssertionError, match="the journal holds 1 facts that the ledger did not confirm"):
        await assert_conserved(memory)
    memory.gate._lane("org_1").journal.next_replay()


async def _at_once(*_: object, **__: object) -> bool:
    return True


async def test_a_long_list_is_cut(memory: Metering) -> None:
    told = {f"org_{n}": {"api_calls": 1} for n in range(25)}
    with pytest.raises(AssertionError, match=r"and 5 more$") as refused:
        await assert_conserved(memory, told=told)
    assert str(refused.value).count("was told") == conserved.SHOWN
