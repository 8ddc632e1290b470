"""Callers that go away: whatever the moment, nobody pays for an answer that nobody got."""

from __future__ import annotations

import asyncio

import pytest

from mm_metering import Metering

TURNS = 40


@pytest.mark.parametrize("meter", ["api_calls", "users"])
async def test_a_caller_that_is_cancelled_at_any_turn_leaves_nothing_behind(metering: Metering, meter: str) -> None:
    """The turns in which its answer has come, and it has not gone on yet, are among them."""
    await metering.put_tenant("acme", plan="enterprise")
    told = gone = 0
    for turns in (*range(TURNS), *range(TURNS)):
        take = asyncio.create_task(metering.enforce_quota("acme", meter))
        for _ in range(turns):
            await asyncio.sleep(0)
        take.cancel()
        await asyncio.wait((take,))
        told += not take.cancelled()
        gone += take.cancelled()
        if not take.cancelled():
            assert take.result().used == told
    assert gone
    assert (await metering.check_limit("acme", meter)).used == told
    usage = await metering.get_usage("acme", "2024-01-15", "2024-01-15")
    assert usage.meters[meter] == told
