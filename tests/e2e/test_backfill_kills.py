"""``mm-metering usage backfill`` is killed at points and at random moments, while its tenants are used, and goes on:
nothing is lost, nothing counts twice, and the counters know.

``MM_BACKFILL_KILLS=100 ./dev test tests/e2e/test_backfill_kills.py`` kills it more often.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import pytest

from examples.mortgagematch.stage import end_with_parent
from mm_metering import Metering, failpoints
from mm_metering.cli import main
from mm_metering.proof import Verdict
from tests.e2e.takers import PATIENT
from tests.forks import forks
from tests.redis_server import RedisServer

KILLS: Final = int(os.environ.get("MM_BACKFILL_KILLS", "3"))
SEED: Final = int(os.environ.get("MM_BACKFILL_SEED", "1"))
EVENTS: Final = 450
TENANTS: Final = ("acme", "beta", "gamma")
BATCH: Final = 30
LIMIT: Final = 1_000_000
PLANS: Final = f"""
currency = "USD"
default_plan = "p"
meters = {{ calls = {{ event = "api_call" }} }}
[plans.p]
price = "0"
quotas = {{ calls = {{ limit = {LIMIT}, per = "month" }} }}
"""


def write(file: Path) -> None:
    at = datetime.now(UTC) - timedelta(hours=1)
    row: dict[str, Any] = {"event_type": "api_call", "resource": "/v1", "occurred_at": at.isoformat()}
    rows = ({"tenant": TENANTS[n % 3], "id": f"e{n}", **row} for n in range(EVENTS))
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))


def begin(file: Path, stores: dict[str, str], failpoint: str = "") -> BaseProcess:
    """What it says goes beside the file."""
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    process = forks().Process(target=run, args=(file, env, failpoint))
    process.start()
    return process


def run(file: Path, env: dict[str, str], failpoint: str) -> None:
    end_with_parent()
    os.environ.update(env)
    if failpoint:
        failpoints.reach = failpoints.armed(failpoint)
    sys.argv = ["mm-metering", "usage", "backfill", str(file), "--resume", "--json", "--quiet", "--batch", str(BATCH)]
    with file.with_suffix(".said").open("w") as said, redirect_stdout(said):
        main()


def killed(process: BaseProcess, checkpoint: Path, within_s: float) -> bool:
    """At some time after it has begun to write; False if it was done by then."""
    stood = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.is_alive() and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == stood):
        process.join(timeout=0.01)
    process.join(timeout=within_s)
    process.kill()
    return ended(process) < 0


def ended(process: BaseProcess) -> int:
    process.join()
    code = process.exitcode
    process.close()
    assert code is not None
    return code


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, redis_server: RedisServer) -> dict[str, str]:
    return {"counters": redis_server.url, "ledger": str(request.getfixturevalue(f"{request.param}_url"))}


@pytest.mark.timeout(60 + 30 * KILLS)
async def test_a_killed_backfill_goes_on_and_records_each_event_once(stores: dict[str, str], tmp_path: Path) -> None:
    here = {**stores, "catalogue": str(tmp_path / "plans.toml")}
    chance, file, done = random.Random(SEED), tmp_path / "events.ndjson", 0
    checkpoint, taken = file.with_name(f"{file.name}.backfill"), 0
    write(file)
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS)
    options: dict[str, Any] = {**stores, "worker": "inline", "timing": PATIENT, "apply": "always"}
    async with Metering(plans, **options) as live:
        while done < KILLS:
            for tenant in TENANTS:
                await live.enforce_quota(tenant, "calls")
            taken += 1
            point = chance.choice([f"backfill.after_commit:{chance.randint(1, 15)}", "backfill.after_settle", "", ""])
            process = begin(file, here, point)
            if point:
                done += await asyncio.to_thread(ended, process) < 0
            else:
                done += await asyncio.to_thread(killed, process, checkpoint, chance.random() / 4)
        assert await asyncio.to_thread(ended, begin(file, here)) == 0
        tally = json.loads(file.with_suffix(".said").read_text())
        assert tally["recorded"] + tally["duplicates"] == tally["read"] == EVENTS
        assert not checkpoint.exists()
        for tenant in TENANTS:
            used = await live.get_usage(tenant, datetime.now(UTC).date() - timedelta(days=2), datetime.now(UTC).date())
            assert used.api_calls == EVENTS // 3 + taken
            left = LIMIT - EVENTS // 3 - taken
            assert await live.check_limit(tenant, "calls", left)
            assert not await live.check_limit(tenant, "calls", left + 1)
        proof = await live.prove()
        assert (proof.holds, {each.verdict for each in proof.shards}) == (True, {Verdict.EQUAL})
