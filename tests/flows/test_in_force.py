"""What is changed in one process holds at the very next request of every other, however warm the tenant is there."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.core.decision import Decision
from mm_metering.errors import QuotaExceeded, Refused, StoreUnavailable, UnknownTenant
from mm_metering.gate.coalesce import Lane
from mm_metering.middleware.responses import problem_schema, refused
from tests.flows.conftest import Make


async def two(shared_stores: dict[str, str], make: Make) -> tuple[Metering, Metering]:
    """The first changes a tenant; it is warm in the second."""
    first, second = await make(**shared_stores), await make(**shared_stores)
    await first.put_tenant("acme", plan="free")
    for _ in range(3):
        await second.enforce_quota("acme", "api_calls", 10)
    return first, second


CHANGES: dict[str, tuple[Callable[[Metering], Awaitable[Any]], Callable[[Decision], Any], Any, Any]] = {
    "a higher plan": (lambda m: m.change_plan("acme", "pro"), lambda d: d.limit, 100, 10_000),
    "a plan of put_tenant": (lambda m: m.put_tenant("acme", plan="enterprise"), lambda d: d.plan, "free", "enterprise"),
    "a zone": (
        lambda m: m.put_tenant("acme", timezone="America/New_York"),
        lambda d: d.resets_at,
        datetime(2024, 1, 16, tzinfo=UTC),
        datetime(2024, 1, 16, 5, tzinfo=UTC),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_in_force_at_the_next_take(shared_stores: dict[str, str], make: Make, name: str) -> None:
    change, seen, before, after = CHANGES[name]
    first, second = await two(shared_stores, make)
    assert seen(await second.enforce_quota("acme", "api_calls")) == before
    await change(first)
    decision = await second.enforce_quota("acme", "api_calls")
    assert (seen(decision), decision.used) == (after, 32)
    assert (await first.check_limit("acme", "api_calls")).used == 32


async def test_a_lower_plan_refuses_at_the_next_take(shared_stores: dict[str, str], make: Make) -> None:
    first, second = await two(shared_stores, make)
    await first.change_plan("acme", "pro")
    await second.enforce_quota("acme", "api_calls", 100)
    await first.change_plan("acme", "free", at="now")
    with pytest.raises(QuotaExceeded, match="130 of 100"):
        await second.enforce_quota("acme", "api_calls")


# -- paused ------------------------------------------------------------------------------------------------------------


async def test_a_paused_tenant_is_refused_at_the_next_take_until_it_is_resumed(
    shared_stores: dict[str, str], make: Make
) -> None:
    first, second = await two(shared_stores, make)
    for _ in range(2):
        assert (await first.pause_subscription("acme")).status == "paused"
        for metering in (second, first, second):
            with pytest.raises(Refused, match="api_calls: this account is suspended") as found:
                await metering.enforce_quota("acme", "api_calls", 2)
            decision = found.value.decision
            assert (decision.reason, decision.requested, decision.plan) == ("tenant-suspended", 2, "free")
            assert (await metering.check_limit("acme", "users")).reason == "tenant-suspended"
        assert (await second.pause_subscription("acme")).status == "paused"
        assert (await first.resume_subscription("acme")).status == "active"
        assert (await second.enforce_quota("acme", "api_calls")).allowed
    assert (await first.resume_subscription("acme")).status == "active"
    assert (await first.check_limit("acme", "api_calls")).used == 32
    assert (await first.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 32


async def test_what_is_recorded_for_a_paused_tenant_counts(metering: Metering) -> None:
    await metering.put_tenant("acme", plan="pro")
    await metering.pause_subscription("acme")
    await metering.record_api_call("acme", "/x")
    assert (await metering.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 1
    await metering.resume_subscription("acme")
    assert (await metering.check_limit("acme", "api_calls")).used == 1


async def test_an_outage_does_not_let_a_paused_tenant_in(memory: Metering) -> None:
    await memory.put_tenant("acme", plan="pro")
    await memory.pause_subscription("acme")
    lane: Lane = memory.gate._lane("acme")
    lane._go_down(StoreUnavailable("the counters do not answer"))
    assert (await memory.check_limit("acme", "api_calls")).reason == "tenant-suspended"


async def test_pausing_nobody_is_an_error(memory: Metering) -> None:
    with pytest.raises(UnknownTenant, match="put_tenant makes it"):
        await memory.pause_subscription("nobody")


async def test_the_answer_to_a_paused_tenant_is_a_problem_of_the_schema(memory: Metering, clock: FrozenClock) -> None:
    await memory.put_tenant("acme", plan="pro")
    await memory.pause_subscription("acme")
    decision = await memory.check_limit("acme", "api_calls")
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    problem = refused([decision], scope, now=clock.now())
    assert problem.status == 403
    jsonschema.Draft202012Validator(problem_schema()).validate(json.loads(problem.body))
