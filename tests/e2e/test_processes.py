"""Server processes on shared stores: changes reach each at its next request, and many connections are no trouble."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from mm_metering import Metering
from tests.e2e.callers import BURST, FEW, PLANS, billed
from tests.e2e.servers import Connection, Reply, serving, until_it_serves
from tests.e2e.takers import PATIENT
from tests.redis_server import RedisServer

REQUESTS: Final = 4
"""Per connection."""


@pytest.fixture
def stores(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {"counters": redis_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}


class Pair:
    """A connection to each of two server processes, and the Metering of a third: an operator's."""

    def __init__(self, operator: Metering, connections: list[Connection]) -> None:
        self.operator = operator
        self._connections = connections

    async def get(self, path: str) -> list[Reply]:
        """One request to each, in turn."""
        return [await connection.get(path, "acme") for connection in self._connections]

    async def statuses(self, path: str) -> list[int]:
        return [reply.status for reply in await self.get(path)]


@pytest_asyncio.fixture
async def pair(stores: dict[str, str]) -> AsyncIterator[Pair]:
    """acme has used up its plan, and is warm in both."""
    async with AsyncExitStack() as stack:
        ports = stack.enter_context(serving("tests.e2e.metered_app:app", stores, processes=2, deadline_ms="10000"))
        for port in ports:
            await until_it_serves(port)
        connections = [await stack.enter_async_context(Connection.open(port)) for port in ports]
        metering = Metering(PLANS, **stores, worker="inline", timing=PATIENT)  # type: ignore[arg-type]
        pair = Pair(await stack.enter_async_context(metering), connections)
        await pair.operator.put_tenant("acme", plan="few")
        for _ in range(FEW // 2):
            assert await pair.statuses("/soft") == [200, 200]
        assert await pair.statuses("/soft") == [429, 429]
        yield pair


async def test_changes_are_in_force_at_the_next_request_of_every_process(pair: Pair) -> None:
    """No sleep: each change is one call, and the very next request of each process meets it."""
    operator = pair.operator
    for _ in range(3):
        await operator.change_plan("acme", "large")
        assert await pair.statuses("/soft") == [200, 200]
        await operator.pause_subscription("acme")
        paused = await pair.get("/soft")
        assert [(reply.status, json.loads(reply.body)["code"]) for reply in paused] == [(403, "tenant-suspended")] * 2
        assert {reply.headers["x-should-retry"] for reply in paused} == {"false"}
        await operator.resume_subscription("acme")
        assert await pair.statuses("/soft") == [200, 200]
        await operator.put_tenant("acme", plan="few")
        assert await pair.statuses("/soft") == [429, 429]
    await operator.flush()
    assert (await billed(operator, "acme"))["soft"] == FEW + 3 * 4


async def test_a_change_of_zone_is_in_force_at_the_next_request_of_every_process(pair: Pair) -> None:
    await pair.operator.change_plan("acme", "large")
    before = [_resets_in_s(reply) for reply in await pair.get("/soft")]
    await pair.operator.put_tenant("acme", timezone="Asia/Tokyo")
    after = [_resets_in_s(reply) for reply in await pair.get("/soft")]
    assert all(abs(then - now) > 3_600 for then, now in zip(before, after, strict=True))


def _resets_in_s(reply: Reply) -> int:
    found = re.search(r";t=(\d+)", reply.headers["ratelimit"])
    assert found is not None
    return int(found[1])


async def test_a_burst_is_told_how_long_to_wait(pair: Pair) -> None:
    await pair.operator.put_tenant("acme", plan="minute")
    replies = [reply for _ in range(2 * BURST + 2) for reply in await pair.get("/burst")]
    refused = [reply for reply in replies if reply.status != 200]
    assert len(refused) >= 4
    for reply in refused:
        problem: dict[str, Any] = json.loads(reply.body)
        assert (reply.status, problem["code"], problem["violated-policies"]) == (429, "rate-limited", ["bursts-minute"])
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    await pair.operator.flush()
    assert (await billed(pair.operator, "acme"))["bursts"] == len(replies) - len(refused)


@pytest.mark.parametrize("connections", [256, 512])
async def test_many_connections_meet_no_error(stores: dict[str, str], connections: int) -> None:
    """One process, no setting but the stores. Where the machine gives the server no time for 50 ms, an answer may be
    degraded, but it is a 200 and billed."""
    with serving("tests.e2e.metered_app:app", stores, processes=1) as (port,):
        await until_it_serves(port)
        async with AsyncExitStack() as stack:
            opening = (stack.enter_async_context(Connection.open(port)) for _ in range(connections))
            ways = [await each for each in opening]

            async def ask(n: int, way: Connection) -> list[tuple[int, str]]:
                replies = [await way.get("/soft", f"tenant-{n % 8}") for _ in range(REQUESTS)]
                return [(reply.status, reply.headers.get("mm-metering", "")) for reply in replies]

            told = await asyncio.gather(*(ask(n, way) for n, way in enumerate(ways)))
    found = Counter(each for replies in told for each in replies)
    assert {status for status, _ in found} == {200}
    assert found[200, ""] > found[200, "degraded"]
    assert found.total() == connections * REQUESTS
    async with Metering(PLANS, **stores, worker="off", timing=PATIENT) as metering:  # type: ignore[arg-type]
        await metering.flush()
        assert sum([(await billed(metering, f"tenant-{n}"))["soft"] for n in range(8)]) == connections * REQUESTS
