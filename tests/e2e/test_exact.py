"""Several processes, many callers, one limit: exactly the limit is admitted, round after round."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest

from mm_metering import Metering
from tests.e2e.callers import BURST, FEW, PLANS, THOUSAND, billed
from tests.e2e.servers import Connection, serving, until_it_serves
from tests.e2e.takers import PATIENT
from tests.forks import Program

ROUNDS: Final = int(os.environ.get("MM_EXACT_ROUNDS", "20"))
PROCESSES: Final = 4
CALLERS: Final = 64
TAKES: Final = 300
"""Per process and round: together more than the limit, and more in each than it can get."""
BURSTS: Final = 200


class Takers:
    """The processes of ``takers.py``, ready."""

    def __init__(self, stores: dict[str, str]) -> None:
        env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
        self.processes = [Program("tests.e2e.takers", str(CALLERS), env=env) for _ in range(PROCESSES)]
        assert {self._line(process) for process in self.processes} == {"ready\n"}

    @staticmethod
    def _line(process: Program) -> str:
        return process.stdout.readline()

    def take(self, tenant: str, meter: str, takes: int) -> list[dict[str, Any]]:
        """What each process's callers were told."""
        for process in self.processes:
            process.stdin.write(f"{tenant} {meter} {takes}\n")
            process.stdin.flush()
        return [json.loads(self._line(process)) for process in self.processes]

    def end(self) -> list[int | None]:
        """They end when there is nothing more to do."""
        for process in self.processes:
            process.communicate(timeout=30)
        return [process.returncode for process in self.processes]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("stores")
    return {"counters": f"local://{directory}/counters", "ledger": f"sqlite:///{directory}/ledger.db"}


@pytest.fixture(scope="module")
def takers(stores: dict[str, str]) -> Iterator[Takers]:
    takers = Takers(stores)
    try:
        yield takers
        assert takers.end() == [0] * PROCESSES
    finally:
        for process in takers.processes:
            process.kill()
            process.communicate()


def added(counts: list[dict[str, int]]) -> Counter[str]:
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return total


@pytest.mark.timeout(100 + ROUNDS)
async def test_four_processes_admit_exactly_a_thousand_in_every_round(stores: dict[str, str], takers: Takers) -> None:
    tenants = [f"round-{number}" for number in range(ROUNDS)]
    async with Metering(PLANS, **stores, worker="off", timing=PATIENT) as metering:  # type: ignore[arg-type]
        for tenant in tenants:
            await metering.put_tenant(tenant, plan="thousand")
            told = await asyncio.to_thread(takers.take, tenant, "strict", TAKES)
            assert sum(added([each["granted"] for each in told]).values()) == THOUSAND
            refused = added([each["refused"] for each in told])
            assert refused == {"quota-exceeded": PROCESSES * TAKES - THOUSAND}
        await metering.flush()
        for tenant in tenants:
            assert (await billed(metering, tenant))["strict"] == THOUSAND


@pytest.mark.timeout(120)
async def test_a_burst_rate_is_exact_in_each_second_for_all_processes(stores: dict[str, str], takers: Takers) -> None:
    async with Metering(PLANS, **stores, worker="off", timing=PATIENT) as metering:  # type: ignore[arg-type]
        await metering.put_tenant("acme", plan="second")
        told = [each for _ in range(5) for each in await asyncio.to_thread(takers.take, "acme", "bursts", BURSTS)]
        await metering.flush()
        granted = added([each["granted"] for each in told])
        assert max(granted.values()) == BURST
        assert added([each["refused"] for each in told]).keys() == {"rate-limited"}
        assert max(each["longest_wait_s"] for each in told) == 1
        assert await billed(metering, "acme") == {"soft": 0, "strict": 0, "bursts": sum(granted.values())}


@pytest.mark.timeout(120)
async def test_two_servers_admit_exactly_the_limit(stores: dict[str, str]) -> None:
    rounds, connections = 5, 64
    tenants = [f"page-{number}" for number in range(rounds)]
    with serving("tests.e2e.metered_app:app", stores, processes=2, deadline_ms="10000") as ports:
        async with Metering(PLANS, **stores, worker="off", timing=PATIENT) as metering, AsyncExitStack() as stack:  # type: ignore[arg-type]
            for port in ports:
                await until_it_serves(port)
            ways = [await stack.enter_async_context(Connection.open(ports[n % 2])) for n in range(connections)]
            for tenant in tenants:
                await metering.put_tenant(tenant, plan="few")
                replies = await asyncio.gather(*(way.get("/soft", tenant) for way in ways))
                assert Counter(reply.status for reply in replies) == {200: FEW, 429: connections - FEW}
            await metering.flush()
            for tenant in tenants:
                assert (await billed(metering, tenant))["soft"] == FEW
