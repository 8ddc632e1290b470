"""Events on their way while those who send them are killed: none is lost, none is made up, each verifies, and each is
metered once.

``MM_WEBHOOK_EVENTS`` and ``MM_WEBHOOK_KILLS`` set the sizes (``./dev nightly``: 2,000 and 30).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from standardwebhooks.webhooks import Webhook

from examples.mortgagematch.stage import ROOT
from mm_metering import Metering
from mm_metering.backends.accounts import Wanted
from mm_metering.core.books import Account, Entries
from mm_metering.core.collecting import Notice
from mm_metering.webhooks.endpoints import Endpoint
from tests.redis_server import RedisServer
from tests.webhook_receiver import receiving

EVENTS: Final = int(os.environ.get("MM_WEBHOOK_EVENTS", "100"))
KILLS: Final = int(os.environ.get("MM_WEBHOOK_KILLS", "2"))
SEED: Final = int(os.environ.get("MM_WEBHOOK_SEED", "1"))
LEDGERS: Final = ("sqlite", "postgres") if KILLS > 2 else ("sqlite",)
RECEIVERS: Final = 10
FAILING: Final = 0.2
"""Of the receivers."""
FAILS: Final = 0.3
"""Of their requests: ten in a row, after which a delivery is dead, are one in 170,000."""
POINTS: Final = ("after_send", "after_settle", "after_claim", "after_fan_out")
TYPE: Final = "billing.invoice_created"
KEY: Final = base64.b64encode(bytes(32)).decode()
WITHIN_S: Final = 30 + EVENTS / 20 + KILLS * 5


class Workers:
    """One at a time, in processes of their own."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._pid = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, *places: object) -> AsyncIterator[Workers]:
        command = (sys.executable, "-m", "tests.e2e.webhook_worker", *map(str, places))
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.communicate()

    async def begin(self, point: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{point}\n".encode())
        word, pid = (await self._said()).split()
        assert word == "ready"
        self._pid = int(pid)

    async def killed(self, within_s: float) -> None:
        """By its failpoint, or by us after that time."""
        ended = asyncio.ensure_future(self._said())
        await asyncio.wait((ended,), timeout=within_s)
        if not ended.done():
            os.kill(self._pid, signal.SIGKILL)
        assert await ended == "ended"

    async def _said(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


async def roll_back(metering: Metering, name: str) -> None:
    """A change that tells of itself, and does not happen."""
    notice = Notice(name, "tenant 0", "invoice.paid", {}, datetime.now(UTC))

    def decide(account: Account) -> Entries:
        if account.tenant.id == "tenant 0":
            return Entries(notices=(notice,))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await metering.ledger.book(["tenant 0", "tenant 1"], Wanted(), decide)


@pytest.fixture(params=LEDGERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/ledger.db"


@pytest.mark.timeout(30 + WITHIN_S)
async def test_kills_lose_nothing_and_make_nothing_up(own_server: RedisServer, url: str) -> None:
    dice = random.Random(SEED)
    sent, rounds, began = dict[str, int](), KILLS + 1, datetime.now(UTC).date()
    async with (
        receiving() as receiver,
        Metering(
            counters=own_server.url, ledger=url, secret_key=KEY, worker="off", webhook_rules=receiver.rules
        ) as metering,
    ):
        endpoints = list[Endpoint]()
        for number in range(RECEIVERS):
            await metering.put_tenant(f"tenant {number}", plan="enterprise")
            endpoints.append(await metering.webhooks.create_endpoint(f"tenant {number}", receiver.url(f"/{number}")))
            if number < RECEIVERS * FAILING:
                receiver.answers[f"/{number}"] = lambda _: 500 if dice.random() < FAILS else 200

        async def send(among: int) -> None:
            for number in range(among):
                tenant = number % RECEIVERS
                event = await metering.webhooks.send_event(f"tenant {tenant}", TYPE, {"n": len(sent)})
                sent[event.id] = tenant
                if number % 10 == 0:
                    await roll_back(metering, f"phantom {len(sent)}")

        async def waiting() -> int:
            found = [
                await metering.webhooks.list_deliveries(f"tenant {number}", state="pending", limit=1000)
                for number in range(RECEIVERS)
            ]
            return sum(map(len, found))

        async with Workers.at(own_server.url, url, KEY, receiver.port) as workers, asyncio.timeout(WITHIN_S):
            for number in range(KILLS):
                point = "" if number % 2 else f"webhooks.{POINTS[number // 2 % 4]}:{dice.randint(2, 5)}"
                await workers.begin(point)
                sending = asyncio.ensure_future(send(EVENTS // rounds))
                await workers.killed(5 if point else dice.uniform(0.02, 0.3))
                await sending
            await workers.begin()
            await send(EVENTS - len(sent))
            got = set[str]()
            while sent.keys() - got or await waiting():
                await asyncio.sleep(0.05)
                got = {each.id for each in receiver.got}
        await metering.flush()
        today = datetime.now(UTC).date()
        used = [await metering.get_usage(f"tenant {number}", began, today) for number in range(RECEIVERS)]
        states = Counter[str]()
        for number in range(RECEIVERS):
            theirs = await metering.webhooks.list_deliveries(f"tenant {number}", limit=1000)
            states.update(each.state for each in theirs)
    for each in receiver.got:
        secret = endpoints[int(each.path[1:])].secret
        Webhook(secret or "").verify(each.body, each.headers)
        assert sent[each.id] == int(each.path[1:])  # also: no phantom
    assert states == {"delivered": EVENTS}
    assert [each.webhook_deliveries for each in used] == list(Counter(sorted(sent.values())).values())
    what = f"{url.partition(':')[0]}: {EVENTS} events, {KILLS} kills"
    print(f"{what}: {len(receiver.got)} requests, 0 undelivered, 0 phantom, all verify")
