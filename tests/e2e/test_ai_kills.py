"""AI calls whose callers go away, whose tasks are cancelled and whose processes and servers are killed: the books
balance, and no settlement is lost."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from mm_metering import Metering, SystemClock
from mm_metering.core.facts import Fact
from mm_metering.gate.admission import Candidate, Share
from mm_metering.testing import assert_conserved
from mm_metering.testing.fake_llm import Asked, FakeLlm, tokens_in
from tests.e2e.ai_app import PLANS
from tests.e2e.ai_faults import TENANTS, House, Told
from tests.e2e.ai_plans import MODEL, TOKEN_NANOS
from tests.redis_server import RedisServer

FAULTS: Final = int(os.environ.get("MM_AI_FAULTS", "50"))
SEED: Final = int(os.environ.get("MM_AI_FAULTS_SEED", "1"))
KILLS: Final = max(6, FAULTS // 8)
"""So many of the faults are kills of processes and of the counters' server."""
CHUNK_S: Final = 0.01
AHEAD: Final = timedelta(minutes=12)
"""By then every hold is overdue."""
SETTLED_S: Final = 2.0
"""So much later what a request has left is settled for certain."""
PAGE: Final = 1_000


class Later:
    """The machine's clock, and ahead of it."""

    frozen = False

    def now(self) -> datetime:
        return SystemClock().now() + AHEAD


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, appendonly=True)
    server.start()
    yield server
    server.kill()


@pytest.mark.timeout(90 + FAULTS)
async def test_nothing_is_lost_by_callers_that_go_away_nor_by_kills(
    tmp_path: Path, counters: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = {
        "counters": counters.url,
        "ledger": f"sqlite:///{tmp_path}/ledger.db",
        "journal": str(tmp_path / "journal"),
    }
    options: dict[str, Any] = {**stores, "worker": "off"}
    async with Metering(PLANS, **options) as metering:
        for tenant in TENANTS:
            await metering.put_tenant(tenant)
    with FakeLlm() as fake:
        fake.script(delay_s=CHUNK_S)
        house = House(tmp_path, counters, fake, stores, SEED)
        async with house.running():
            await house.suffer(KILLS, FAULTS)
        served = {call_of(asked): asked for asked in fake.requests}
        assert len(served) == len(fake.requests), "a call reaches the model once"
    async with Metering(PLANS, **options, clock=Later()) as metering:
        await metering.flush()
        orphans = await metering.ai.holding.expire()
        books = Books(house.told, served, [fact for tenant in TENANTS for fact in await facts(metering, tenant)])
        assert not books.problems()
        await assert_conserved(metering)
        assert (await metering.prove()).holds
        for tenant in TENANTS:
            assert await totals(metering, tenant) == {(books.charged[tenant], 0)}
    with capsys.disabled():
        print(f"\n{house.told.faults.total():,} faults ({listed(house.told.faults)}); {len(served):,} calls served, "
              f"{len(house.told.ended):,} seen to their end, none of these lost: {listed(books.ways)}; "
              f"{orphans} expired at the end")  # fmt: skip


def listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def call_of(asked: Asked) -> str:
    return asked.texts[-1].partition(" ")[0]


async def facts(metering: Metering, tenant: str) -> list[Fact]:
    """All that count."""
    found: list[Fact] = []
    after = (-1, "")
    while page := await metering.ledger.facts(tenant, after=after, limit=PAGE):
        found += page
        after = (page[-1].occurred_us, page[-1].id)
    return found


async def totals(metering: Metering, tenant: str) -> set[tuple[int, int]]:
    """What is spent and held: by the counters, as a call would find them, by the stats, and by the usage."""
    looked = await metering.gate.look(tenant, Candidate("ai_call", MODEL, (Share("ai_cost", 0, 0),)))
    used, held = (int(each * 10**9) for each in (looked.decisions[0].used, looked.decisions[0].reserved))
    days = [f"{moment:%Y-%m-%d}" for moment in (Later().now() - timedelta(days=1), Later().now())]
    stats = await metering.ai.get_usage_stats(tenant, *days)
    usage = await metering.get_usage(tenant, *days)
    return {(used, held), (int(stats.total_cost * 10**9), 0), (int(usage.meters["ai_cost"] * 10**9), 0)}


class Books:
    """What the ledger has of each call, beside what its caller was told and what the model did."""

    def __init__(self, told: Told, served: dict[str, Asked], stored: list[Fact]) -> None:
        self._told = told
        self._served = served
        self._closes: dict[str, list[Fact]] = {}
        self._holds: dict[str, list[Fact]] = {}
        self.charged = Counter[str]()
        self.ways = Counter[str]()
        for fact in stored:
            kept = {"close": self._closes, "hold": self._holds}.get(fact.kind, {})
            kept.setdefault(fact.id[: len("c000000-")], []).append(fact)
            self.charged[fact.tenant] += (fact.cost_nanos or 0) if fact.kind == "close" else 0

    def problems(self) -> list[str]:
        found = [f"{call}: closed {len(each)} times" for call, each in self._closes.items() if len(each) > 1]
        found += [f"{call}: served, and not charged" for call in sorted(self._served.keys() - self._closes.keys())]
        for call, (close, *_) in self._closes.items():
            found += [f"{call}: {what}" for what in self._wrong(call, close)]
        return found

    def _wrong(self, call: str, close: Fact) -> Iterator[str]:
        detail, asked = json.loads(close.metadata or "{}"), self._served.get(call)
        status, cost = detail["status"], close.cost_nanos or 0
        self.ways[status] += 1
        if close.tenant != self._told.tenant[call]:
            yield f"it is charged to {close.tenant}"
        if status not in ("exact", "estimated", "expired"):
            yield f"it is {status}"
        if call in self._told.ended and status != "exact":
            yield f"its stream was seen to its end, and it is {status}: {detail}"
        if status == "exact" and (asked is None or cost != produced(asked) * TOKEN_NANOS):
            yield f"it is charged {cost / TOKEN_NANOS:g} tokens, and the model was asked {asked}"
        if status == "expired" and not self._was_killed(call):
            yield "its process lived on, and nobody settled it"
        floor = json.loads(self._holds[call][0].metadata or "[]")[0]
        if status == "expired" and cost != floor:
            yield f"its process is gone, and it is charged {cost}, not its input of {floor}"
        most = floor + ((asked and asked.max_tokens) or 0) * TOKEN_NANOS
        if status == "estimated" and not floor <= cost <= most:
            yield f"it is charged {cost}, and must be from {floor} for its input to {most} for its cap"

    def _was_killed(self, call: str) -> bool:
        """Whether an app process was killed while the call ran, or before it could be settled."""
        first, last = self._told.began_at[call], self._told.over_at[call] + SETTLED_S
        return any(first < killed_at < last for killed_at in self._told.killed_at)


def produced(asked: Asked) -> int:
    """Tokens that the model read and wrote, if the stream was read to its end."""
    read = len(tokens_in(asked.texts[-1]))
    return read + min(read, asked.max_tokens or read)
