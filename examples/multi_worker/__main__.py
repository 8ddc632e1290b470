"""``python -m examples.multi_worker``: two servers, two workers, a private Valkey; one of each is killed.

``--counters redis://...`` and ``--ledger postgresql://...`` take stores of yours, which should be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx2

from examples.mortgagematch import stage
from examples.mortgagematch.stage import Child
from examples.multi_worker.app import PLANS
from examples.story import Story, told
from mm_metering import Metering
from mm_metering.gate.deadlines import Timing

SERVERS: Final = 2
WAVES: Final = {"acme": 200, "globex": 300}
"""Requests of each tenant in one of two waves; acme's plan has 300."""
CONNECTIONS: Final = 16
DEADLINE_MS: Final = 5_000
"""For one decision: everything shares this machine, and here a late answer is no outage."""
TAKES_OVER_WITHIN_S: Final = 30.0


class House:
    """The processes, and what their clients were answered."""

    def __init__(self, stack: AsyncExitStack, directory: Path, metering: Metering) -> None:
        self.metering = metering
        self.urls: list[str] = []
        self.servers: list[Child] = []
        self.answers: Counter[tuple[str, int]] = Counter()
        self._stack, self._directory = stack, directory
        self._env: dict[str, str] = {}

    async def open(self) -> None:
        await self._stack.enter_async_context(self.metering)
        await self.metering.put_tenant("globex", plan="large")
        counters, ledger = self.metering.places
        self._env = {
            "MM_METERING_COUNTERS": counters,
            "MM_METERING_LEDGER": ledger,
            "MM_METERING_DEADLINE_MS": str(DEADLINE_MS),
        }

    async def serve(self) -> None:
        """Starts all servers, and waits for them."""
        for n in range(SERVERS):
            with stage.bound(0) as listening:
                fd = listening.fileno()
                self.urls.append("http://{}:{}".format(*listening.getsockname()))
                uvicorn = ("-m", "uvicorn", "examples.multi_worker.app:app", "--fd", str(fd), "--log-level", "error")
                self.servers.append(await self._run(f"server {n + 1}", *uvicorn, fd=fd))
        async with asyncio.TaskGroup() as group:
            for child, url in zip(self.servers, self.urls, strict=True):
                group.create_task(stage.until_it_serves(child, url))

    async def worker(self, name: str) -> Child:
        return await self._run(name, "-m", "mm_metering.cli", "worker", "--app", "examples.multi_worker.app:metering")

    async def _run(self, name: str, *arguments: str, fd: int | None = None) -> Child:
        fds, log = (() if fd is None else (fd,)), self._directory / f"{name}.log"
        running = stage.running(name, *arguments, log=log, env=self._env, pass_fds=fds)
        return await self._stack.enter_async_context(running)

    async def kill_server(self) -> None:
        """All that it was asked is answered."""
        self.urls.pop()
        server = self.servers.pop()
        server.process.kill()
        await server.process.wait()

    # -- traffic ------------------------------------------------------------------------------------------------------

    async def wave(self, *, half_way: asyncio.Event) -> None:
        tenants = [tenant for tenant, times in WAVES.items() for _ in range(times)]
        asks = iter(enumerate(tenants))

        async def connection(http: httpx2.AsyncClient) -> None:
            for n, tenant in asks:
                url = f"{self.urls[n % len(self.urls)]}/v1/quotes"
                answer = await http.get(url, headers={"x-org-id": tenant})
                self.answers[tenant, answer.status_code] += 1
                if n >= len(tenants) // 2:
                    half_way.set()

        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http, asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(connection(http))

    # -- who folds ----------------------------------------------------------------------------------------------------

    async def folding(self, *, but: str = "", all_of_it: bool = False) -> str:
        """The worker that has the lease; with ``all_of_it`` once nothing is left to fold."""
        async with asyncio.timeout(TAKES_OVER_WITHIN_S):
            while True:
                status = await self.metering.status()
                for worker in status.workers:
                    if worker.shards and worker.id != but and not (all_of_it and status.lag_s):
                        return worker.id
                await asyncio.sleep(0.1)


async def first_wave(story: Story, house: House) -> None:
    story.chapter("The first wave; in the middle of it the worker that folds is killed (SIGKILL)")
    worker = await house.worker("worker 1")
    first = await house.folding()
    await house.worker("worker 2")
    await house.serve()
    half_way = asyncio.Event()
    wave = asyncio.create_task(house.wave(half_way=half_way))
    await half_way.wait()
    worker.process.kill()
    began = time.monotonic()
    await wave
    story.tell("requests of that wave, all answered", house.answers.total())
    await house.folding(but=first)
    story.tell("the other worker took over after, s", f"{time.monotonic() - began:.1f}")


async def second_wave(story: Story, house: House) -> None:
    story.chapter("A server is killed, and the second wave goes to the other")
    await house.kill_server()
    before = house.answers.total()
    await house.wave(half_way=asyncio.Event())
    story.tell("requests answered by the one that is left", house.answers.total() - before)


async def count(story: Story, house: House) -> None:
    story.chapter("Counted = served")
    await house.folding(all_of_it=True)
    today = house.metering.clock.now().date()
    for tenant in WAVES:
        served, refused = house.answers[tenant, 200], house.answers[tenant, 429]
        usage = await house.metering.get_usage(tenant, today.replace(day=1), today)
        counted = int(usage.meters["api_calls"])
        story.check(
            f"{tenant:8}served {served:>5}  refused {refused:>4}  counted {counted:>5}", holds=served == counted
        )
    story.check("acme's 300 were shared by the servers to the last one", holds=house.answers["acme", 200] == 300)
    odd = {status for _, status in house.answers} - {200, 429}
    story.check(f"no other answer {odd or ''}".rstrip(), holds=not odd)
    proof = await house.metering.prove()
    facts = sum(each.folded.facts for each in proof.shards)
    story.check(f"prove: what was acknowledged, folded and counted are the same {facts:,} facts", holds=proof.holds)


async def main(counters: str, ledger: str) -> int:
    story = Story(f"{SERVERS} servers, 2 workers, one pair of stores")
    with stage.home() as directory:
        async with AsyncExitStack() as stack:
            places = counters or f"local://{directory}/counters", ledger or f"sqlite:///{directory}/ledger.db"
            timing = Timing.of_ms(str(DEADLINE_MS))
            metering = Metering(PLANS, counters=places[0], ledger=places[1], worker="off", timing=timing)
            house = House(stack, directory, metering)
            await house.open()
            story.tell(f"counters  {counters or 'a private Valkey'}")
            story.tell(f"ledger    {metering.places[1].partition('://')[0]}")
            await first_wave(story, house)
            await second_wave(story, house)
            await count(story, house)
    return story.exit_code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.multi_worker")
    parser.add_argument("--counters", default="", help="a redis:// URL instead of a private Valkey")
    parser.add_argument("--ledger", default="", help="a postgresql:// URL instead of SQLite")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    sys.exit(told(main(given.counters, given.ledger)))
