"""AI calls and what they are made in: a request that is over before its calls are, and a block that makes many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mm_metering import BudgetExceeded, Metering, from_header
from mm_metering.ai.asking import asked
from tests.flows.conftest import Make
from tests.flows.test_ai import PLANS, spent

READ, WROTE = 10, 40
USAGE = {"prompt_tokens": READ, "completion_tokens": WROTE, "total_tokens": READ + WROTE}
ASKED: dict[str, Any] = {"model": "gpt-4", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


class AsyncModel:
    """Answers once it ``may``; then it has ``begun``, and the first chunk of a stream was read."""

    def __init__(self) -> None:
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))
        self.begun, self.may = asyncio.Event(), asyncio.Event()
        self.says = "hello "
        self.asked: list[dict[str, Any]] = []

    async def _create(self, **asked: Any) -> Any:
        self.asked.append(asked)
        if asked.get("stream"):
            return self._chunks()
        self.begun.set()
        await self.may.wait()
        return {"model": "gpt-4", "choices": [], "usage": USAGE}

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        yield {"choices": [{"delta": {"content": self.says}}]}
        self.begun.set()
        await self.may.wait()
        yield {"choices": [], "usage": USAGE}


@pytest.fixture
async def metering(make: Make) -> Metering:
    return await make(catalogue=PLANS, worker="off")


@pytest.mark.parametrize("way", [{}, {"stream": True}])
async def test_a_call_that_outlives_its_request_is_charged_what_it_used(
    metering: Metering, way: dict[str, Any]
) -> None:
    model, tasks = AsyncModel(), list[asyncio.Task[None]]()
    client = metering.ai.wrap(model)

    async def work() -> None:
        reply = await client.chat.completions.create(**ASKED, **way)
        if way:
            async for _ in reply:
                pass

    async def endpoint(_: Request) -> Response:
        tasks.append(asyncio.create_task(work()))
        await model.begun.wait()
        return PlainTextResponse("it is under way")

    app = Starlette(routes=[Route("/", endpoint)])
    metering.install(app, tenant=from_header("x-org-id"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        assert (await http.get("/", headers={"x-org-id": "acme"})).status_code == 200
    model.may.set()
    await tasks[0]
    assert await spent(metering) == (READ + WROTE) * Decimal("0.00003")


async def test_a_block_keeps_nothing_of_its_calls_that_are_settled(metering: Metering) -> None:
    model = AsyncModel()
    model.may.set()
    client = metering.ai.wrap(model)
    with metering.bind("acme") as bound:
        for _ in range(20):
            await client.chat.completions.create(**ASKED)
        assert len(bound.unsettled) == 0


async def test_choices_are_refused_where_not_a_token_of_each_is_left(metering: Metering) -> None:
    """100 tokens are left, and the input takes 14. A choice has a token at least, whatever the cap is divided by."""
    wanted = asked("acme", "gpt-4", input_tokens=100_000_000 // 30_000 - 100, max_output_tokens=0)
    opened = await metering.ai.holding.open(wanted)
    opened.call.settle(input_tokens=wanted.input_tokens, output_tokens=0)
    await metering.ai.holding.write(opened)
    model = AsyncModel()
    model.may.set()
    client = metering.ai.wrap(model)
    with metering.bind("acme"):
        with pytest.raises(BudgetExceeded):
            await client.chat.completions.create(**ASKED | {"max_tokens": 2, "n": 90})
        await client.chat.completions.create(**ASKED | {"max_tokens": 2, "n": 80})
    assert [each["max_tokens"] for each in model.asked] == [1]


async def test_a_stream_that_is_left_is_charged_no_more_than_its_cap(metering: Metering) -> None:
    """A token here has 8 bytes, and is estimated as 3; the provider kept to its cap."""
    model = AsyncModel()
    client = metering.ai.wrap(model)
    with metering.bind("acme"):
        stream = await client.chat.completions.create(**ASKED | {"max_tokens": 90_000}, stream=True)
        cap = model.asked[0]["max_tokens"]
        model.says = "sentence" * cap
        await anext(stream)
        await stream.aclose()
    assert Decimal("0.09") < await spent(metering) <= Decimal("0.10")
