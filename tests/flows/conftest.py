"""A Metering on each pair of stores, and the clock that moves it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from mm_metering import FrozenClock, Metering
from mm_metering.cli import main
from mm_metering.gate.deadlines import Timing

Make: TypeAlias = Callable[..., Awaitable[Metering]]
PATIENT = Timing(decision_s=10, load_s=10)
"""No outage policy on a machine that is busy with other tests."""
STORES = ("memory+memory", "redis+sqlite", "redis+postgres")


class Shell:
    """Runs the command line: its exit code, and what it said. No error is a traceback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["mm-metering", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-15T12:00:00Z")


def urls(request: pytest.FixtureRequest) -> dict[str, str]:
    counters, ledger = request.param.split("+")
    found = {"counters": "memory://", "ledger": "memory://"}
    if counters == "redis":
        found["counters"] = f"unix://{request.getfixturevalue('redis_server').socket}"
    if ledger == "sqlite":
        found["ledger"] = request.getfixturevalue("sqlite_url")
    if ledger == "postgres":
        found["ledger"] = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture(params=STORES)
def stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """The URLs of a counter store and a ledger, both empty."""
    return urls(request)


@pytest.fixture(params=STORES[1:])
def shared_stores(request: pytest.FixtureRequest) -> dict[str, str]:
    """The same, of those that outlive a process and serve several."""
    return urls(request)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest) -> str:
    """The URL of an empty ledger."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest_asyncio.fixture
async def make(clock: FrozenClock) -> AsyncIterator[Make]:
    """Opens a Metering under the test's clock; all are closed at the end."""
    async with AsyncExitStack() as stack:

        async def build(**options: Any) -> Metering:
            settings: dict[str, Any] = {"clock": clock, "worker": "inline", "timing": PATIENT}
            return await stack.enter_async_context(Metering(**settings | options))

        yield build


@pytest_asyncio.fixture
async def metering(stores: dict[str, str], make: Make) -> Metering:
    """The shipped plans on each pair of stores."""
    return await make(**stores)


@pytest_asyncio.fixture
async def memory(make: Make) -> Metering:
    """The shipped plans in memory."""
    return await make()
