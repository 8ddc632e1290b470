"""Somebody must drain: who does not is told so."""

from __future__ import annotations

import asyncio

import pytest

from mm_metering.gate import coalesce
from tests.flows.conftest import Make

WARNING = "nothing was folded into the ledger"


async def test_a_process_says_that_nobody_drains(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coalesce, "UNDRAINED_S", 0.3)
    metering = await make(worker="off")
    await metering.enforce_quota("acme", "api_calls")
    await metering.flush()
    await until_confirmed(metering.gate._lane("acme"))
    await asyncio.sleep(0.4)  # quiet for longer than that: the next fact has not waited yet
    await metering.enforce_quota("acme", "api_calls")
    assert WARNING not in caplog.text
    async with asyncio.timeout(30):
        while WARNING not in caplog.text:  # noqa: ASYNC110 - a log line is nothing to wait for
            await asyncio.sleep(0.01)
    assert "1 acknowledged ops wait; run `mm-metering worker`" in caplog.text


async def until_confirmed(lane: coalesce.Lane) -> None:
    async with asyncio.timeout(30):
        while lane.unconfirmed:  # noqa: ASYNC110 - of the lane's own poll
            await asyncio.sleep(0.01)
