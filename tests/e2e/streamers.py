"""A process of AI calls, for tests of several.

"reserved" and a tenant has its streams call the model until the tenant's budget is exceeded, and "post-hoc" and a key
does the same with a counter that hears of a call when it is over. The answer: calls, what the model truly used in
nano-units, and how often a call was told to wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, Final

from redis.asyncio import Redis

from mm_metering import BudgetExceeded, FrozenClock, Metering
from tests.e2e.ai_plans import MODEL, TOKEN_NANOS, ai_plans
from tests.e2e.told import NOW, PATIENT

BUDGET_NANOS: Final = 5_000_000_000
MOST: Final = 300
"""Output tokens that a call asks for. The model writes so many, or less."""
CHUNKS: Final = 3
CHUNK_S: Final = 0.02
"""The mean time of a chunk."""
PROMPT: Final = [{"role": "user", "content": "say something nice to everybody who is here"}]
READ: Final = 8
AGAIN_S: Final = (0.05, 0.25)
"""How long a call waits that is told that the budget is busy: the Retry-After is a second."""
PLANS: Final = ai_plans("5.00")


class AsyncModel:
    """Speaks as OpenAI's client does, and keeps each cap to the token. ``nanos``: what it has used in all."""

    def __init__(self) -> None:
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))
        self.calls = self.nanos = 0

    async def _create(self, *, max_tokens: int, **_: Any) -> AsyncIterator[dict[str, Any]]:
        return self._chunks(min(max_tokens, random.randint(1, 2 * MOST)))

    async def _chunks(self, written: int) -> AsyncIterator[dict[str, Any]]:
        self.calls += 1
        for _ in range(CHUNKS):
            await asyncio.sleep(random.uniform(0, 2 * CHUNK_S))
            yield {"choices": [{"index": 0, "delta": {"content": "word "}}], "model": MODEL}
        self.nanos += (READ + written) * TOKEN_NANOS
        usage = {"prompt_tokens": READ, "completion_tokens": written, "total_tokens": READ + written}
        yield {"choices": [], "model": MODEL, "usage": usage}


async def reserved(metering: Metering, model: AsyncModel, tenant: str) -> int:
    """Calls one after another until the budget is exceeded; how often it was busy."""
    client, busy = metering.ai.wrap(model), 0
    with metering.bind(tenant):
        while True:
            try:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=PROMPT, max_tokens=MOST, stream=True
                )
                async for _ in stream:
                    pass
            except BudgetExceeded as refused:
                if refused.decision.reason == "budget-exceeded":
                    return busy
                busy += 1
                await asyncio.sleep(random.uniform(*AGAIN_S))


async def post_hoc(redis: Redis, model: AsyncModel, key: str) -> int:
    """The same with a counter: a call may run while it is below the budget, and is added when it is over."""
    while int(await redis.get(key) or 0) < BUDGET_NANOS:
        used = 0
        async for chunk in await model.chat.completions.create(max_tokens=MOST):
            used = chunk.get("usage", {}).get("total_tokens", 0)
        await redis.incrby(key, used * TOKEN_NANOS)
    return 0


def run(orders: Connection, stores: Mapping[str, str], streams: int) -> None:
    """The process: until nobody gives it orders any more."""
    asyncio.run(_obey(orders, stores, streams))


async def _obey(orders: Connection, stores: Mapping[str, str], streams: int) -> None:
    options: dict[str, Any] = {**stores, "clock": FrozenClock(NOW), "worker": "inline", "timing": PATIENT}
    redis = Redis.from_url(stores["counters"], max_connections=streams)
    async with Metering(PLANS, **options) as metering, redis:
        orders.send(None)
        with suppress(EOFError):
            while True:
                way, name = await asyncio.to_thread(orders.recv)
                model = AsyncModel()
                one = partial(reserved, metering) if way == "reserved" else partial(post_hoc, redis)
                busy = await asyncio.gather(*(one(model, name) for _ in range(streams)))
                orders.send((model.calls, model.nanos, sum(busy)))
