"""The same fixtures where anyio runs the async tests."""

from __future__ import annotations

import pytest

from mm_metering import Metering
from mm_metering.testing.billing_cycle import MeteringClock


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_anyio(metering: Metering, metering_clock: MeteringClock) -> None:
    await metering.put_tenant("acme", plan="pro")
    assert [each.period for each in await metering_clock.billing_cycle(to="2024-02-02")] == ["2024-01"]
