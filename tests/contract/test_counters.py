"""Every store of counters keeps the same law."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mm_metering.backends.counters import Counters
from mm_metering.backends.local import Home, open_local
from mm_metering.backends.memory import MemoryCounters
from mm_metering.backends.redis import RedisCounters
from mm_metering.backends.urls import open_counters
from mm_metering.testing.counters_contract import CountersContract
from tests.redis_cluster import RedisCluster
from tests.redis_server import RedisServer, command


class TestMemory(CountersContract):
    @pytest.fixture
    async def counters(self) -> Counters:
        return MemoryCounters()


class TestRedis(CountersContract):
    @pytest.fixture
    async def counters(self, redis_server: RedisServer) -> AsyncIterator[Counters]:
        counters = RedisCounters(redis_server.url, timeout_s=10)
        yield counters
        await counters.aclose()


class TestCluster(CountersContract):
    @pytest.fixture
    async def counters(self, redis_cluster: RedisCluster) -> AsyncIterator[Counters]:
        counters = RedisCounters(redis_cluster.url, timeout_s=10)
        yield counters
        await counters.aclose()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose server runs all the time."""
    directory = tmp_path_factory.mktemp("local")
    use = open_local(directory)
    yield directory
    use.close()


class TestLocal(CountersContract):
    @pytest.fixture
    async def counters(self, home: Path) -> AsyncIterator[Counters]:
        command(Home(home).socket, "FLUSHALL")
        counters = open_counters(f"local://{home}")
        yield counters
        await counters.aclose()
