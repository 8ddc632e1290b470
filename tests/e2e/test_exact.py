"""A limit of 100, 64 connections, two server processes: exactly 100 are admitted, round after round."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from examples.mortgagematch.stage import ROOT, bound
from mm_metering import Metering
from mm_metering.core.periods import local_day, zone
from mm_metering.gate.coalesce import Timing

ROUNDS, CONNECTIONS, LIMIT, REQUESTS = 20, 64, 100, 160


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Two uvicorn processes on one private Valkey and one SQLite file; their worker runs inline."""
    stores = {"counters": f"local://{tmp_path}/counters", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    urls, processes = [], []
    for _ in range(2):
        with bound(0) as listening:
            fd = listening.fileno()
            urls.append("http://{}:{}".format(*listening.getsockname()))
            words = [sys.executable, "-m", "uvicorn", "examples.mortgagematch.app:app", "--fd", str(fd)]
            settings = {**os.environ, **env, "MM_METERING_DEADLINE_MS": "10000"}
            processes.append(
                subprocess.Popen([*words, "--log-level", "warning"], cwd=ROOT, env=settings, pass_fds=(fd,))
            )
    yield urls, stores
    for process in processes:
        process.terminate()
    for process in processes:
        assert process.wait(timeout=20) is not None


@pytest.mark.timeout(120)
async def test_exactly_the_limit_is_admitted(servers: tuple[list[str], dict[str, str]]) -> None:
    urls, stores = servers
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
        await _until_they_serve(client, urls)
        for number in range(ROUNDS):
            answers = await asyncio.gather(
                *(
                    client.get(f"{urls[n % 2]}/v1/scenarios", headers={"x-org-id": f"round-{number}"})
                    for n in range(REQUESTS)
                )
            )
            statuses = [answer.status_code for answer in answers]
            assert (statuses.count(200), statuses.count(429)) == (LIMIT, REQUESTS - LIMIT)
    timing = Timing(decision_s=10, load_s=10)
    async with Metering(**stores, worker="off", timing=timing) as metering:  # type: ignore[arg-type]
        today = local_day(metering.clock.now(), zone("UTC"))
        for number in range(ROUNDS):
            usage = await metering.get_usage(f"round-{number}", today, today)
            assert usage.api_calls == LIMIT


async def _until_they_serve(client: httpx2.AsyncClient, urls: list[str]) -> None:
    for url in urls:
        for _ in range(600):
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get(f"{url}/openapi.json")).status_code == 200:
                    break
            await asyncio.sleep(0.1)
        else:
            pytest.fail(f"{url} does not serve within a minute")
