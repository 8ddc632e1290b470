"""One Metering in several processes, loops and threads: forked before it opened, asked from all sides, counted once."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from examples.mortgagematch.stage import ROOT, bound
from mm_metering import Metering, from_header, metered
from mm_metering.errors import QuotaExceeded
from mm_metering.gate.coalesce import Timing
from tests.redis_server import RedisServer

ACME = {"x-org-id": "acme"}
LIMIT = 40
PATIENT = Timing(decision_s=10, load_s=10)
PLANS: dict[str, Any] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "small",
    "meters": {"api_calls": {"event": "api_call"}, "rows": {"event": "row"}},
    "plans": {
        "small": {
            "price": "0",
            "quotas": {"api_calls": {"limit": LIMIT, "per": "month"}, "rows": {"limit": 1_000, "per": "month"}},
        }
    },
}


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Metering]:
    if request.param == "memory":
        return lambda: Metering(PLANS, timing=PATIENT)
    server: RedisServer = request.getfixturevalue("redis_server")
    stores = {"counters": f"unix://{server.socket}", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    return lambda: Metering(PLANS, **stores, worker="inline", timing=PATIENT)  # type: ignore[arg-type]


def hosted(*meterings: Metering) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/x", os.getpid)
    for metering in meterings:
        metering.install(app, tenant=from_header("x-org-id"))
    return app


async def calls(metering: Metering) -> int:
    """What the ledger has, with facts that are all different."""
    today = metering.clock.now().date()
    usage = await metering.get_usage("acme", today, today)
    facts = await metering.ledger.facts("acme", after=(0, ""), limit=10_000)
    assert len({fact.id for fact in facts}) == len(facts)
    return usage.api_calls


# ---- forked before it opened ----

PRELOADED = """
import os
from fastapi import FastAPI
from mm_metering import Metering, from_header
from mm_metering.gate.coalesce import Timing
from tests.e2e.test_process_models import PLANS

metering = Metering.from_env(catalogue=PLANS, timing=Timing(decision_s=10, load_s=10))
metering._recorder._new_id()  # ids are minted before the fork as well
app = FastAPI()
app.add_api_route("/x", lambda: os.getpid())
metering.install(app, tenant=from_header("x-org-id"))
"""


@pytest.fixture
def preloaded(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """gunicorn with two forked workers of an app that was built before the fork."""
    stores = {"counters": f"local://{tmp_path}/counters", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    env = {**os.environ, **{f"MM_METERING_{name.upper()}": url for name, url in stores.items()}}
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with bound(0) as listening:
        host, port = listening.getsockname()
    words = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--worker-class", "asgi"]
    words += ["--bind", f"{host}:{port}", "--log-level", "warning", "preloaded:app"]
    process = subprocess.Popen(words, cwd=ROOT, env={**env, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    yield f"http://{host}:{port}", stores
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said


async def test_workers_that_were_forked_from_a_built_app_share_limits_and_mint_different_ids(
    preloaded: tuple[str, dict[str, str]],
) -> None:
    url, stores = preloaded
    async with httpx2.AsyncClient(base_url=url, headers=ACME, timeout=60, trust_env=False) as client:
        for _ in range(300):
            try:
                await client.get("/openapi.json")
                break
            except httpx2.TransportError:
                await asyncio.sleep(0.1)
    pids: Counter[int] = Counter()
    for _ in range(LIMIT):
        async with httpx2.AsyncClient(base_url=url, headers=ACME, timeout=60, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get("/x") for _ in range(4)))
        pids.update(answer.json() for answer in answers if answer.status_code == 200)
        if any(answer.status_code == 429 for answer in answers) and len(pids) == 2:
            break
    assert (pids.total(), len(pids)) == (LIMIT, 2)
    async with Metering(PLANS, **stores, worker="off", timing=PATIENT) as metering:  # type: ignore[arg-type]
        assert await calls(metering) == LIMIT


# ---- a test client, with a lifespan and without, where each request has a loop of its own ----


def test_a_test_client_with_a_lifespan_counts_exactly(make: Callable[[], Metering]) -> None:
    metering = make()
    with TestClient(hosted(metering), headers=ACME) as client:
        answers = [client.get("/x").status_code for _ in range(LIMIT + 2)]
        assert client.portal is not None
        assert client.portal.call(calls, metering) == LIMIT
    assert answers == [200] * LIMIT + [429] * 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_test_client_without_one_counts_exactly_too(make: Callable[[], Metering]) -> None:
    """Each request leaves its loop's connections behind: nobody can close them once that loop has ended."""
    assert without_a_lifespan(make()) == 3
    gc.collect()


def without_a_lifespan(metering: Metering) -> int:
    client = TestClient(hosted(metering), headers=ACME)
    assert [client.get("/x").status_code for _ in range(3)] == [200] * 3

    async def end() -> int:
        found = await calls(metering)
        await metering.shutdown()
        return found

    return asyncio.run(end())


# ---- several loops ----


def test_loops_in_two_threads_share_the_limit_and_one_of_them_closes_for_both(make: Callable[[], Metering]) -> None:
    metering, both = make(), threading.Barrier(2)

    async def run(*, closes: bool) -> tuple[int, int]:
        await metering.startup()
        await asyncio.to_thread(both.wait, 10)
        taken = sum(await asyncio.gather(*(attempt(metering) for _ in range(LIMIT))))
        await asyncio.to_thread(both.wait, 10)
        found = await calls(metering)  # what the other acknowledged is seen here
        await asyncio.to_thread(both.wait, 10)
        if closes:
            await metering.shutdown()
        await asyncio.to_thread(both.wait, 20)
        return taken, found

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(asyncio.run, run(closes=closes)) for closes in (True, False)]
        taken, found = zip(*(each.result(50) for each in ended), strict=True)
    assert (sum(taken), found) == (LIMIT, (LIMIT, LIMIT))


async def attempt(metering: Metering) -> bool:
    try:
        await metering.enforce_quota("acme", "api_calls")
    except QuotaExceeded:
        return False
    return True


# ---- apps in apps ----


async def test_an_app_in_an_app_is_counted_once_per_metering() -> None:
    outer, other = Metering(PLANS), Metering(PLANS)
    inner, app = hosted(outer, other), FastAPI()
    app.mount("/inner", inner)
    outer.install(app, tenant=from_header("x-org-id"))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://test", headers=ACME
    ) as client:
        assert (await client.get("/inner/x")).status_code == 200
    for metering in (outer, other):
        assert await calls(metering) == 1
        await metering.shutdown()


# ---- callers that are not async ----


@metered("row", quantity=2)
def save() -> str:
    return "saved"


def test_sync_callers_are_metered_and_their_thread_ends_with_the_app(make: Callable[[], Metering]) -> None:
    metering = make()
    before = set(threading.enumerate())
    app = hosted(metering)
    app.add_api_route("/save", save, methods=["POST"])
    with TestClient(app, headers=ACME) as client:
        assert [client.post("/save").json() for _ in range(3)] == ["saved"] * 3
        with ThreadPoolExecutor(1) as pool:
            pool.submit(in_a_thread, metering).result(10)
        assert client.portal is not None
        assert client.portal.call(rows, metering) == 8
    give_up = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < give_up, set(threading.enumerate()) - before
        time.sleep(0.01)


def in_a_thread(metering: Metering) -> None:
    with metering.bind("acme"):
        save()


async def rows(metering: Metering) -> int:
    decision = await metering.check_limit("acme", "rows")
    return int(decision.used)
