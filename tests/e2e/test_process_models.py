"""One Metering in several processes, loops and threads: forked before it opened, asked from all sides, counted once."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from examples.mortgagematch.stage import ROOT, bound
from mm_metering import Metering, from_header, metered
from mm_metering.errors import MeteringError, QuotaExceeded, StoreUnavailable
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.loops import _on
from tests.redis_server import RedisServer

Make: TypeAlias = Callable[..., Metering]
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
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return lambda **options: Metering(PLANS, timing=PATIENT, **options)
    server: RedisServer = request.getfixturevalue("redis_server")
    stores = {"counters": f"unix://{server.socket}", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    return lambda **options: Metering(PLANS, timing=PATIENT, **{**stores, "worker": "inline", **options})


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
from mm_metering.gate.deadlines import Timing
from mm_metering.gate.loops import _on
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


def test_a_test_client_with_a_lifespan_counts_exactly(make: Make) -> None:
    metering = make()
    with TestClient(hosted(metering), headers=ACME) as client:
        answers = [client.get("/x").status_code for _ in range(LIMIT + 2)]
        assert client.portal is not None
        assert client.portal.call(calls, metering) == LIMIT
    assert answers == [200] * LIMIT + [429] * 2


def test_a_test_client_without_one_counts_exactly_too(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Each loop that ends leaves its connections behind, for nobody can close them then; nothing else. The default
    has no inline worker on Redis: one would end with the first request's loop, in the middle of what it folds."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        places = without_a_lifespan(make(worker="auto"))
        gc.collect()
    said = [(warning.category, str(warning.message)) for warning in warned]
    connections = ("unclosed <socket", "unclosed transport", "loop is closed", "<aiosqlite.core.Connection")
    assert all(category is ResourceWarning and text.startswith(connections) for category, text in said), said
    assert not (said and places == ("memory://", "memory://"))
    assert not [record for record in caplog.records if record.name == "asyncio"]  # "Task was destroyed"


def without_a_lifespan(metering: Metering) -> tuple[str, str]:
    """Three requests, and one after it was closed, which opens it again. Where it counts and keeps."""
    client = TestClient(hosted(metering), headers=ACME)
    for asked, total in ((3, 3), (1, 4)):
        assert [client.get("/x").status_code for _ in range(asked)] == [200] * asked
        asyncio.run(metering.shutdown())
        assert asyncio.run(closed(metering)) == total
    return metering.places


async def closed(metering: Metering) -> int:
    found = await calls(metering)
    await metering.shutdown()
    return found


# ---- several loops ----


def test_loops_in_two_threads_share_the_limit_and_one_of_them_closes_for_both(make: Make) -> None:
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


async def test_a_loop_opens_it_when_the_one_that_was_opening_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    metering, began, setup = Metering(PLANS, timing=PATIENT), threading.Event(), Metering(PLANS).ledger.setup

    async def never_ready(*, apply: bool) -> None:
        monkeypatch.setattr(metering.ledger, "setup", setup)  # whoever comes next
        began.set()
        await asyncio.Event().wait()

    async def give_up() -> None:
        opening = asyncio.create_task(metering.startup())
        await asyncio.to_thread(waiting.wait, 10)
        opening.cancel()

    monkeypatch.setattr(metering.ledger, "setup", never_ready)
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, give_up())
        await asyncio.to_thread(began.wait, 10)
        opening = asyncio.create_task(metering.startup())
        await asyncio.sleep(0)
        waiting.set()
        await asyncio.wait_for(opening, 10)
        await asyncio.wrap_future(ended)
    assert await attempt(metering)
    await metering.shutdown()


async def test_a_flush_waits_for_what_another_loop_is_about_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    metering, order = Metering(PLANS, timing=PATIENT), list[str]()
    await metering.startup()
    add, settle = metering.gate.add, metering.gate.settle
    adding, may_add, seen = threading.Event(), threading.Event(), threading.Event()

    async def add_late(tenant: str, wishes: Any) -> None:
        adding.set()
        await asyncio.to_thread(may_add.wait, 10)
        await add(tenant, wishes)
        order.append("added")

    async def settle_then(**within: Any) -> None:
        order.append("settled")
        await settle(**within)

    async def job() -> None:
        with metering.bind("acme") as bound:
            bound.add("rows", 5)
        await asyncio.to_thread(seen.wait, 10)

    monkeypatch.setattr(metering.gate, "add", add_late)
    monkeypatch.setattr(metering.gate, "settle", settle_then)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, job())
        await asyncio.to_thread(adding.wait, 10)
        flushing = asyncio.create_task(metering.flush())
        for _ in range(10):
            await asyncio.sleep(0)
        may_add.set()
        await flushing
        seen.set()
        await asyncio.wrap_future(ended)
    assert order == ["added", "settled"]
    assert await rows(metering) == 5
    await metering.shutdown()


async def test_a_flush_sees_what_another_loop_allowed_in_an_outage(own_server: RedisServer, tmp_path: Path) -> None:
    """A take that the counters answered stands in the stream already; one of an outage is in its loop's journal."""
    stores = {"counters": own_server.url, "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    metering = Metering(PLANS, **stores, worker="off", timing=PATIENT)  # type: ignore[arg-type]
    away, is_closed = threading.Event(), threading.Event()

    async def job() -> list[bool]:
        first = await attempt(metering)
        own_server.kill()
        found = [first, await attempt(metering)]
        away.set()
        await asyncio.to_thread(is_closed.wait, 20)
        return found

    await metering.startup()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, job())
        assert await asyncio.to_thread(away.wait, 20)
        own_server.start()
        found = 0
        for _ in range(100):
            try:
                found = await calls(metering)
                break
            except StoreUnavailable:  # a connection from before; nothing is sent twice
                await asyncio.sleep(0.01)
        await metering.shutdown()
        is_closed.set()
        assert await asyncio.wrap_future(ended) == [True, True]
    assert found == 2


async def test_loops_that_end_meanwhile_do_not_disturb_a_flush() -> None:
    """As where each job has an ``asyncio.run`` of its own."""
    metering, stop = Metering(PLANS, timing=PATIENT), threading.Event()
    await metering.startup()

    def jobs() -> int:
        done = 0
        while not stop.is_set():
            asyncio.run(metering.record_api_call("acme", "/job"))
            done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(jobs) for _ in range(2)]
        try:
            async with asyncio.timeout(20):
                for _ in range(40):
                    await metering.flush()
        finally:
            stop.set()
    assert await calls(metering) == sum(each.result() for each in working)
    await metering.shutdown()


def run_by_hand(main: Coroutine[Any, Any, None]) -> None:
    """A loop that is closed with what still runs on it."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main)
    loop.close()


@pytest.mark.parametrize("run", [asyncio.run, run_by_hand])
async def test_nobody_waits_for_work_on_a_loop_that_ends(
    run: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    loops, begun = list[asyncio.AbstractEventLoop](), threading.Event()

    async def job() -> None:
        loops.append(asyncio.get_running_loop())
        there.set()
        await asyncio.to_thread(begun.wait, 10)

    async def never_done() -> bool:
        begun.set()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        return await future

    there = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run, job())
        assert await asyncio.to_thread(there.wait, 10)
        async with asyncio.timeout(10):
            assert await _on(loops[0], never_done, unless=lambda: False, within_s=60)
            assert await _on(loops[0], never_done, unless=lambda: False, within_s=60)  # it is closed, or about to be
        await asyncio.wrap_future(ended)
    assert run is run_by_hand or not caplog.records


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


def helped() -> str:
    """An endpoint that is not marked: what it calls takes by itself."""
    return save()


def test_sync_callers_are_metered_and_their_thread_ends_with_the_app(make: Make) -> None:
    metering = make()
    before = set(threading.enumerate())
    app = hosted(metering)
    app.add_api_route("/save", save, methods=["POST"])
    app.add_api_route("/helped", helped, methods=["POST"])
    with TestClient(app, headers=ACME) as client:
        assert [client.post(path).json() for path in ("/save", "/helped", "/save")] == ["saved"] * 3
        with ThreadPoolExecutor(1) as pool:
            pool.submit(in_a_thread, metering).result(10)
        assert client.portal is not None
        assert client.portal.call(rows, metering) == 8
    assert_only(before)


def test_a_script_without_a_loop_is_metered_and_its_thread_ends_at_shutdown(make: Make) -> None:
    metering = make()
    before = set(threading.enumerate())
    for _ in range(3):
        in_a_thread(metering)
    assert metering.from_sync(lambda: rows(metering)) == 6
    assert set(threading.enumerate()) - before
    asyncio.run(metering.shutdown())
    assert_only(before)


def assert_only(threads: set[threading.Thread]) -> None:
    """No other threads are left, or they end soon."""
    give_up = time.monotonic() + 10
    while others := set(threading.enumerate()) - threads:
        assert time.monotonic() < give_up, others
        time.sleep(0.01)


async def test_a_sync_call_that_would_wait_for_its_own_loop_says_so() -> None:
    metering = Metering(PLANS, timing=PATIENT)
    opening = asyncio.create_task(metering.startup())
    await asyncio.sleep(0)
    with metering.bind("acme"), pytest.raises(MeteringError, match="startup"):
        save()
    await opening
    with metering.bind("acme"):
        save()
    assert await rows(metering) == 2
    await metering.shutdown()


def in_a_thread(metering: Metering) -> None:
    with metering.bind("acme"):
        save()


async def rows(metering: Metering) -> int:
    decision = await metering.check_limit("acme", "rows")
    return int(decision.used)
