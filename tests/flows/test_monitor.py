"""What a worker says about itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from mm_metering import Metering, Telemetry
from mm_metering.backends.counters import Append
from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.errors import InvalidInput
from mm_metering.worker.health import listen
from mm_metering.worker.monitor import HEARTBEAT_S
from tests.flows.conftest import Make
from tests.sim.loop import run as simulated


async def until_it_holds(metering: Metering) -> None:
    async with asyncio.timeout(30):
        while not metering._worker.leases.held:  # noqa: ASYNC110 - of its own task
            await asyncio.sleep(0.01)


async def numbers(metering: Metering) -> dict[str, float]:
    lines = (await metering.monitor.exposition()).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


async def test_an_inline_worker_has_the_same_numbers(memory: Metering) -> None:
    await until_it_holds(memory)
    await memory.enforce_quota("acme", "api_calls")
    await memory.gate._lane("acme").submit(Append((("acme", b"garbage"),)), allow=True)
    await memory.flush()
    found = await numbers(memory)
    assert found["mm_metering_fold_facts_total"] == 1
    assert (found["mm_metering_dead_letters_kept"], found["mm_metering_dead_letters_made_total"]) == (1, 1)
    assert (
        found["mm_metering_worker_leases"],
        found["mm_metering_counters_drift"],
        found['mm_metering_fold_backlog{shard="0"}'],
    ) == (1, 0, 0)
    assert (found["mm_metering_journal_left_files"], found["mm_metering_journal_left_facts"]) == (0, 0)
    is_well, body = await memory.monitor.health()
    assert (is_well, body["status"], body["shards"]) == (True, "ok", [0])


async def test_who_does_not_work_is_not_well(make: Make) -> None:
    metering = await make(worker="off")
    is_well, body = await metering.monitor.health()
    assert (is_well, body["heartbeat_age_s"], body["counters"], body["ledger"]) == (False, None, "ok", "ok")
    assert "mm_metering_worker_heartbeat_age_seconds" not in await numbers(metering)


async def test_the_numbers_are_instruments_too(make: Make) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    memory = await make(telemetry=Telemetry(meter_provider=provider))
    await until_it_holds(memory)
    await memory.enforce_quota("acme", "api_calls")
    await memory.flush()
    data: Any = reader.get_metrics_data()
    found = {
        metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name.startswith("mm_metering.fold.")
    }
    provider.shutdown()
    assert found["mm_metering.fold.facts"] == [({}, 1)]
    assert [labels for labels, _ in found["mm_metering.fold.lag"]] == [{"shard": "0"}]


@pytest.mark.parametrize("place", ["8080x", "", "host:", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(InvalidInput, match="neither PORT nor HOST:PORT"):
        listen(place)


def test_a_place_that_is_taken_is_refused() -> None:
    with contextlib.closing(listen("0")) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InvalidInput, match="cannot be listened at"):
            listen(str(taken.getsockname()[1]))


class Hangs(MemoryLedger):
    """One that does not answer any more, at some time."""

    is_away = False

    async def shard(self, shard: int) -> Any:
        await self._wait()
        return await super().shard(shard)

    async def hold(self, owner: str, **changes: Any) -> Any:
        await self._wait()
        return await super().hold(owner, **changes)

    async def _wait(self) -> None:
        while self.is_away:  # noqa: ASYNC110 - on virtual time
            await asyncio.sleep(1)


def test_a_ledger_that_hangs_is_told_and_lag_and_heartbeat_grow() -> None:
    async def main() -> None:
        ledger = Hangs()
        metering = Metering(ledger=ledger, worker="inline", journal="off")
        await metering.startup()
        await asyncio.sleep(5)
        well, body = await metering.monitor.health()
        assert well
        assert body["lag_s"]["0"] < 1
        ledger.is_away = True
        await asyncio.sleep(HEARTBEAT_S + 5)
        well, body = await metering.monitor.health()
        assert (well, body["counters"], body["ledger"]) == (False, "ok", "no answer within 2 s")
        assert body["heartbeat_age_s"] > HEARTBEAT_S
        assert body["lag_s"]["0"] > HEARTBEAT_S
        ledger.is_away = False
        await asyncio.sleep(3)
        well, body = await metering.monitor.health()
        assert (well, body["lag_s"]["0"] < 1) == (True, True)
        await metering._worker.aclose()
        await metering.aclose()

    simulated(3, main())
