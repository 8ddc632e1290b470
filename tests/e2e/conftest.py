"""A Metering on a server and a ledger of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering
from tests.e2e.callers import PLANS
from tests.e2e.told import NOW, PATIENT, Open, Told
from tests.redis_server import RedisServer


@pytest.fixture
async def opened(own_server: RedisServer, sqlite_url: str) -> AsyncIterator[Open]:
    """Opens a Metering on the test's own server and SQLite."""
    async with AsyncExitStack() as stack:

        async def build(**options: Any) -> Metering:
            settings: dict[str, Any] = {
                "counters": own_server.url,
                "ledger": sqlite_url,
                "clock": FrozenClock(NOW),
                "timing": PATIENT,
                "worker": "off",
            }
            return await stack.enter_async_context(Metering(PLANS, **settings | options))

        yield build


@pytest.fixture
async def told(opened: Open) -> Told:
    return Told(await opened())
