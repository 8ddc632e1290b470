"""Floods of names that callers choose: paths, keys, tenants, models, users. What is kept of them is bounded, in Redis,
in metrics and in the process. ``MM_CARDINALITY=100000`` is the long form."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI

from mm_metering import Metering, SystemClock, first_of, from_header
from mm_metering.errors import MeteringError
from tests.flows.bounds import BOUNDS, FOR_EVER, beyond, bound_of, containers, kept_for_ever
from tests.flows.conftest import Make
from tests.redis_server import RedisServer, command

MANY = int(os.environ.get("MM_CARDINALITY", "400"))
pytestmark = pytest.mark.timeout(60 + MANY // 50)
GROWTH_BYTES = 400_000
"""Most that memory may grow while the second half of a flood comes in: caches that fill are full, or small, by then."""
PLANS: dict[str, Any] = {
    "meters": {
        "api_calls": {"event": "api_call"},
        "ai_requests": {"event": "ai_call"},
        "ai_cost": {"event": "ai_call", "unit": "money"},
    },
    "plans": {
        "free": {
            "price": "0.00",
            "quotas": {"api_calls": {"limit": "unlimited", "per": "day"}},
            "ai": {"daily_budget": "5.00", "model_allowlist": ["gpt-4"]},
        },
    },
}


class Flood:
    """An app on a real server, and floods of names that are new each time."""

    def __init__(self, metering: Metering, server: RedisServer) -> None:
        self.metering = metering
        self.server = server
        self.app = FastAPI()

        @self.app.get("/items/{name}")
        async def item(name: str) -> str:
            return name

        by_key = from_header("x-key", {"a key": "acme"}.get)
        metering.install(self.app, tenant=first_of(by_key, from_header("x-org-id")))

    async def ask(self, path: str, *, method: str = "GET", **headers: str) -> int:
        told: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            told.append(message)

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        places = {"client": ("192.0.2.1", 1), "server": ("x", 80), "scheme": "http", "http_version": "1.1"}
        await self.app({**scope, **places, "headers": raw, "root_path": "", "asgi": {"version": "3.0"}}, receive, send)
        status: int = told[0]["status"]
        return status

    def keys(self) -> int:
        return int(command(self.server.socket, "DBSIZE")[1:])

    def fields(self, tenant: str) -> int:
        return int(command(self.server.socket, f"HLEN {{mm:0}}:c:{tenant}")[1:])

    async def series(self) -> int:
        """Lines of the worker's metrics."""
        return (await self.metering.monitor.exposition()).count("\n")


@pytest.fixture
async def flood(make: Make, redis_server: RedisServer, sqlite_url: str, request: pytest.FixtureRequest) -> Flood:
    plans = {**PLANS, **getattr(request, "param", {})}
    stores = {"counters": redis_server.url, "ledger": sqlite_url}
    made = await make(**stores, catalogue=plans, clock=SystemClock(), worker="off")
    await made.put_tenant("acme", plan="free")
    found = Flood(made, redis_server)
    assert await found.ask("/items/1", x_key="a key") == 200
    with suppress(MeteringError):
        async with made.ai.reserve("acme", "gpt-4", input_tokens=1, max_output_tokens=0):
            pass
    return found


# -- the floods: each takes a number that is new --------------------------------------------------------------------


async def paths(flood: Flood, n: int) -> None:
    assert await flood.ask(f"/{n}/{n:x}", x_key="a key") == 404
    assert await flood.ask(f"/items/{n}", x_key="a key") == 200


async def verbs(flood: Flood, n: int) -> None:
    assert await flood.ask("/items/1", method=f"M{n}", x_key="a key") == 405


async def bogus_keys(flood: Flood, n: int) -> None:
    assert await flood.ask("/items/1", x_key=f"sk_{n}") == 401


async def bogus_tenants(flood: Flood, n: int) -> None:
    assert await flood.ask("/items/1", x_org_id=f"org {n} 😀") == 401


async def models(flood: Flood, n: int) -> None:
    assert not (await flood.metering.ai.check_request("acme", f"gpt-0-{n}")).allowed
    with suppress(MeteringError):
        async with flood.metering.ai.reserve("acme", f"gpt-0-{n}", input_tokens=1):
            raise AssertionError("it is not on the list")


async def users(flood: Flood, n: int) -> None:
    """What refuses them is the model; a call that goes through is a fact, and is billed."""
    with suppress(MeteringError):
        async with flood.metering.ai.reserve("acme", "gpt-9", input_tokens=1, user=f"u{n}", feature=f"f{n}"):
            raise AssertionError("it is not on the list")


async def meters(flood: Flood, n: int) -> None:
    with suppress(MeteringError):
        await flood.metering.enforce_quota("acme", f"meter_{n}")


Floods = Callable[[Flood, int], Awaitable[None]]


@pytest.mark.parametrize("one", [paths, verbs, bogus_keys, bogus_tenants, models, users, meters])
async def test_a_flood_of_names_grows_nothing(flood: Flood, one: Floods) -> None:
    for n in range(MANY // 2):
        await one(flood, n)
    await flood.metering.flush()
    keys, fields, series = flood.keys(), flood.fields("acme"), await flood.series()
    with growth() as grown:
        for n in range(MANY // 2, MANY):
            await one(flood, n)
        await flood.metering.flush()
    assert (flood.keys(), flood.fields("acme"), await flood.series()) == (keys, fields, series)
    assert keys <= 3  # the shard's, its stream, and acme's
    assert beyond() == []
    assert grown() < GROWTH_BYTES


@pytest.mark.parametrize("flood", [{"default_plan": "free"}], indirect=True)
async def test_a_tenant_under_the_default_plan_is_one_and_its_key_ends(flood: Flood) -> None:
    """A resolver that names them says that they are tenants: each has a key, which ends with its windows."""
    before = flood.keys()
    for n in range(MANY):
        assert await flood.ask("/items/1", x_org_id=f"org_{n}") == 200
    assert flood.keys() - before == MANY
    for n in range(0, MANY, MANY // 50):
        assert 0 < int(command(flood.server.socket, f"TTL {{mm:0}}:c:org_{n}")[1:]) <= 40 * 86_400
    assert beyond() == []
    assert await flood.series() < 200


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """How many bytes more are held at the block's end than at its start."""
    held: list[int] = []
    tracemalloc.start()
    try:
        yield lambda: held[0]
    finally:
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()


def test_all_that_is_kept_has_a_bound_that_is_written_down() -> None:
    found = {*containers()}
    assert [each for each in sorted(found) if bound_of(each) is None] == []
    owners = {each.rpartition(".")[0] for each in found}
    gone = [each for each in BOUNDS if each not in found and each.removesuffix(".*") not in owners]
    assert gone == []
    assert {*kept_for_ever()} == FOR_EVER
