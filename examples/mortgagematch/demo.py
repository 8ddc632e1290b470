"""``./dev demo``: three customers, three days, two server processes, a worker, and the proof that all is counted.

Everything is real, on this machine and offline: HTTP over 64 connections to two uvicorn processes, a private Valkey as
the counters, SQLite as the ledger, ``mm-metering worker``, webhooks to a receiver that verifies them. Simulated are the
model, a server of this process, and the days: all processes read one clock file. After the check it serves until
Ctrl-C (``--once`` does not), and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import sys
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Final

import httpx2
from rich.console import Console

from examples.mortgagematch import report, stage
from examples.mortgagematch.clock import SimulatedClock
from examples.mortgagematch.plans import PLANS
from examples.mortgagematch.stage import Child, DemoFailed
from examples.mortgagematch.traffic import (
    CONNECTIONS,
    DAYS,
    REPLY_TOKENS,
    SUBSCRIBED_AT,
    customers,
    drive,
    shuffled,
    subscribing,
)
from mm_metering import Metering
from mm_metering.errors import MeteringError
from mm_metering.gate.deadlines import Timing
from mm_metering.testing import FakeLlm, WebhookSink

APP: Final = "examples.mortgagematch.app:metering"
PORTS: Final = (8000, 8001)
DEADLINE_MS: Final = 5_000
"""For one decision. Servers, customers and stores share this machine, and here a late answer is no outage."""
KEPT: Final = ("--timeout-keep-alive", "120")
"""Connections wait with their clients while a day's webhooks are delivered."""
DELIVERED_WITHIN_S: Final = 60.0
MORNING, RUSH = timedelta(hours=9), timedelta(hours=14)


class Demo:
    """One run: its processes live on ``stack``, and end with it."""

    def __init__(self, to: Console, stack: AsyncExitStack, directory: Path, random: Random) -> None:
        self.to = to
        self.clock = SimulatedClock(directory / "clock")
        self.clock.set(DAYS[0])
        self.model = stack.enter_context(FakeLlm())
        self.model.script(output_tokens=REPLY_TOKENS)
        self.hooks = stack.enter_context(WebhookSink())
        self.customers = customers(self.hooks.url)
        self.secret_key = base64.b64encode(os.urandom(32)).decode()
        self.metering = Metering(
            PLANS,
            counters=f"local://{directory}/counters",
            ledger=f"sqlite:///{directory}/ledger.db",
            clock=self.clock,
            worker="off",
            secret_key=self.secret_key,
            webhook_rules=self.hooks.rules,
            timing=Timing.of_ms(str(DEADLINE_MS)),
        )
        self.urls: list[str] = []
        self.children: list[Child] = []
        self._stack = stack
        self._directory = directory
        self._random = random

    async def open(self) -> None:
        """Stores first, then the servers and the worker, all at once."""
        metering = await self._stack.enter_async_context(self.metering)
        for customer in self.customers:
            await metering.put_tenant(customer.id, plan=customer.plan, subscribed_at=SUBSCRIBED_AT)
        counters, ledger = metering.places
        env = {
            "MM_METERING_COUNTERS": counters,
            "MM_METERING_LEDGER": ledger,
            "MM_METERING_DEADLINE_MS": str(DEADLINE_MS),
            "MM_METERING_SECRET_KEY": self.secret_key,
            "MORTGAGEMATCH_CLOCK": str(self._directory / "clock"),
            "MORTGAGEMATCH_WORKER": "another process",
            "MORTGAGEMATCH_LLM": self.model.url,
            "MORTGAGEMATCH_HOOKS": str(self.hooks.port),
        }
        for port in PORTS:
            await self._serve(port, env)
        await self._run("the worker", "-m", "mm_metering.cli", "worker", "--app", APP, env=env)
        async with asyncio.TaskGroup() as group:
            for child, url in zip(self.children, self.urls, strict=False):
                group.create_task(stage.until_it_serves(child, url))
        self._introduce(counters, ledger)

    async def _serve(self, port: int, env: dict[str, str]) -> None:
        with stage.bound(port) as listening:
            fd = listening.fileno()
            url = "http://{}:{}".format(*listening.getsockname())
            app = ("-m", "uvicorn", "examples.mortgagematch.app:app", "--fd", str(fd), "--log-level", "warning", *KEPT)
            await self._run(f"the server at {url}", *app, env=env, fd=fd)
        self.urls.append(url)

    async def _run(self, name: str, *arguments: str, env: dict[str, str], fd: int | None = None) -> None:
        log = self._directory / f"{len(self.children)}.log"
        fds = () if fd is None else (fd,)
        self.children.append(
            await self._stack.enter_async_context(stage.running(name, *arguments, log=log, env=env, pass_fds=fds))
        )

    def _introduce(self, counters: str, ledger: str) -> None:
        self.to.print("[bold]MortgageMatch[/]: three customers, three days, two server processes")
        self.to.print(f"  servers   {' and '.join(self.urls)}")
        self.to.print(f"  counters  {counters}  [dim]a private Valkey[/]", soft_wrap=True)
        self.to.print(f"  ledger    {ledger}", soft_wrap=True)
        self.to.print("  worker    mm-metering worker\n")

    # -- the three days -----------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """A day's requests are all answered before the clock moves on."""
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        with report.progress(self.to) as bars:
            async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
                await self._subscribe(client)
                for day, midnight in enumerate(DAYS):
                    waves = [(customer, customer.waves(day, self._random)) for customer in self.customers]
                    total = sum(len(calls) for _, pair in waves for calls in pair)
                    watched = bars.add_task(f"{midnight:%a %d %b %Y}", total=total, allowed=0, refused=0)
                    before = self._answers()

                    def answered(watched=watched, before=before) -> None:  # type: ignore[no-untyped-def]
                        allowed, refused = (now - then for now, then in zip(self._answers(), before, strict=True))
                        bars.update(watched, advance=1, allowed=allowed, refused=refused)

                    for moment, wave in ((MORNING, 0), (RUSH, 1)):
                        self.clock.set(midnight + moment)
                        sendings = shuffled([(customer, pair[wave]) for customer, pair in waves], self._random)
                        await drive(client, self.urls, sendings, answered)
                        await self._delivered()

    async def _subscribe(self, client: httpx2.AsyncClient) -> None:
        """The webhooks of those whose plan has some."""
        for customer in self.customers:
            if customer.plan != "free":
                call = subscribing(self.hooks.url)
                url = f"{self.urls[0]}{call.path}"
                answer = await client.request(call.method, url, headers={"x-org-id": customer.id})
                customer.tally.add(call, answer)
                self.hooks.trust(answer.json()["secret"])

    async def _delivered(self) -> None:
        """Waits until every event has been taken, and its delivery is metered."""
        sent = sum(customer.tally.admitted["webhook_deliveries"] for customer in self.customers)
        give_up = time.monotonic() + DELIVERED_WITHIN_S
        while len(self.hooks.events) < sent or (await self.metering.status()).deliveries.waiting:
            if time.monotonic() > give_up:
                heard = f"{len(self.hooks.events)} of {sent} webhooks arrived in {DELIVERED_WITHIN_S:g} s"
                raise DemoFailed(f"{heard}; the worker says: {self.children[-1].last_words()}")
            await asyncio.sleep(0.05)

    def _answers(self) -> tuple[int, int]:
        tallies = [customer.tally for customer in self.customers]
        return sum(tally.allowed for tally in tallies), sum(tally.refusals for tally in tallies)

    # -- what came of it ----------------------------------------------------------------------------------------------

    async def check(self) -> bool:
        """Waits for the worker, then prints each customer's books and whether they agree to the unit."""
        await self.metering.flush()
        first, last = DAYS[0].date(), DAYS[-1].date()
        checked: list[report.Sums] = []
        for customer in self.customers:
            usage = await self.metering.get_usage(customer.id, first, last)
            invoice = await self.metering.preview_invoice(customer.id, period=f"{first:%Y-%m}")
            report.show_customer(self.to, customer, usage, invoice)
            checked += await report.sums(self.metering, customer, usage)
        report.show_ai(self.to, await self.metering.ai.get_cost_report(f"{first:%Y-%m}"))
        return report.show_check(self.to, checked)

    async def stay(self) -> None:
        """Serves until Ctrl-C."""
        url = self.urls[0]
        self.to.print("\nStill serving; Ctrl-C ends it and leaves nothing behind. Try:")
        browser = self.customers[1].id
        self.to.print(f"  open {url}/metering/, or {url}/as/{browser} for the page of {browser}", soft_wrap=True)
        for words in ("", " -X POST"):
            path = "/v1/reports" if words else "/v1/scenarios"
            self.to.print(f"  curl -i{words} -H 'x-org-id: {self.customers[0].id}' {url}{path}", soft_wrap=True)
        await asyncio.Event().wait()


async def run(*, once: bool, seed: int) -> int:
    """The exit code: 1 if the check fails."""
    to = report.console()
    with stage.home() as directory:
        async with AsyncExitStack() as stack:
            demo = Demo(to, stack, directory, Random(seed))
            await demo.open()
            await demo.live()
            agreed = await demo.check()
            if agreed and not once:
                await demo.stay()
            return 0 if agreed else 1


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description="The main job, offline, with its proof.")
    parser.add_argument("--once", action="store_true", help="end after the check")
    parser.add_argument("--seed", type=int, default=1, help="of the order of requests")
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(run(once=options.once, seed=options.seed))
    except KeyboardInterrupt:
        return 0
    except (MeteringError, DemoFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
