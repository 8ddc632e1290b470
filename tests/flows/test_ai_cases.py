"""What becomes of an AI call that ends in each of the 17 ways in which one can: what is charged, as what, and that
nothing stays held."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import openai
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from mm_metering import FrozenClock, Metering, ModelNotAllowed, ai_call, from_header
from mm_metering.ai.asking import asked
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.deadlines import Timing
from mm_metering.testing import assert_conserved
from mm_metering.testing.fake_llm import FakeLlm
from tests.flows.conftest import Make
from tests.flows.test_ai import CHUNKS, PLANS, facts, reply, spent
from tests.redis_server import RedisServer
from tests.unit.ai_replies import a_round, message

PRICES: Final = {"gpt-4": "0.00003", "claude-x": "0.00001", "claude-y": "0.00002"}
CATALOGUE: Final = PLANS | {"ai": {"prices": PRICES}}
ASKED: Final[dict[str, Any]] = {"model": "gpt-4", "messages": [{"role": "user", "content": "say something nice"}]}
TOKEN: Final = Decimal("0.00003")


class Scene(NamedTuple):
    metering: Metering
    clock: FrozenClock
    fake: FakeLlm

    def reserve(self, model: str = "gpt-4", *, read: int = 100, most: int = 500) -> Any:
        return self.metering.ai.reserve("acme", model, input_tokens=read, max_output_tokens=most)

    def client(self, **options: Any) -> Any:
        settings: dict[str, Any] = {"api_key": self.fake.api_key, "base_url": f"{self.fake.url}/v1", "max_retries": 0}
        return openai.AsyncOpenAI(**settings | options)

    async def gone(self, handler: Callable[[], Awaitable[Any]], *, spec: str) -> None:
        """Serves it to a client that goes away after its first piece: a server of ASGI 2.3 then says so, and Starlette
        cancels; one of 2.4 raises where the app sends, and what streams stays as it stands."""
        app = FastAPI()
        self.metering.install(app, tenant=from_header("x-org-id"))
        app.get("/chat")(handler)
        is_gone, asked = asyncio.Event(), iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            if (request := next(asked, None)) is not None:
                return request
            await is_gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                is_gone.set()
                if spec == "2.4":
                    raise OSError("the client is gone")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/chat",
            "raw_path": b"/chat",
            "query_string": b"",
            "headers": [(b"x-org-id", b"acme")],
        }
        with suppress(Exception):
            await app(scope, receive, send)


async def upstream(end: list[str] | None = None) -> AsyncIterator[dict[str, Any]]:
    """A provider's stream: 10 tokens read, 40 written."""
    for chunk in CHUNKS:
        yield chunk
        await asyncio.sleep(0.001)
    if end is not None:
        end.append("read to its end")


async def success(on: Scene) -> None:
    async with on.reserve() as call:
        call.settle(reply(90, 200))


async def streamed(on: Scene) -> None:
    async with on.reserve(read=10) as call:
        stream = call.track(upstream(), text=True)
    assert "".join([piece async for piece in stream]) == "hello world"


async def no_usage(on: Scene) -> None:
    async with on.reserve() as call:
        call.settle({"model": "gpt-4", "choices": [{"message": {"content": "Grüße!"}}]})


async def error_for_a_reply(on: Scene) -> None:
    on.fake.fail("/v1/chat", "200-error")
    async with on.client() as client, on.reserve() as call:
        call.settle(await client.chat.completions.create(**ASKED))


async def never_sent(on: Scene) -> None:
    async with on.client(base_url="http://127.0.0.1:9/v1") as client:
        with pytest.raises(openai.APIConnectionError):
            async with on.reserve() as call:
                call.settle(await client.chat.completions.create(**ASKED))


async def refused(on: Scene) -> None:
    kinds: tuple[Any, ...] = ("429", "500", "400")
    for kind in kinds:
        on.fake.fail("/v1/chat", kind)
        async with on.client() as client:
            with pytest.raises(openai.APIStatusError):
                async with on.reserve() as call:
                    call.settle(await client.chat.completions.create(**ASKED))


async def timed_out(on: Scene) -> None:
    on.fake.fail("/v1/chat", "timeout", wait_s=0.5)
    async with on.client(timeout=0.1) as client:
        with pytest.raises(openai.APITimeoutError):
            async with on.reserve() as call:
                call.settle(await client.chat.completions.create(**ASKED))


async def cancelled(on: Scene) -> None:
    has_begun = asyncio.Event()

    async def chat() -> None:
        async with on.reserve(read=10) as call:
            async for _ in call.track(upstream()):
                has_begun.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(chat())
    await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def client_gone(spec: str, *, drain: bool) -> Callable[[Scene], Awaitable[None]]:
    async def run(on: Scene) -> None:
        end: list[str] = []

        async def chat() -> StreamingResponse:
            async with on.reserve(read=10) as call:
                return StreamingResponse(call.track(upstream(end), text=True, drain=drain))

        await on.gone(chat, spec=spec)
        await asyncio.gather(*on.metering.ai.holding.reading_on)
        assert bool(end) == drain

    return run


async def abandoned(on: Scene) -> None:
    left: list[Any] = []

    async def chat() -> StreamingResponse:
        async with on.reserve(read=10) as call:
            left.append(call.track(upstream()))

        async def first() -> AsyncIterator[str]:
            async for chunk in left[0]:
                yield json.dumps(chunk)
                return

        return StreamingResponse(first())

    await on.gone(chat, spec="2.4")
    assert left


async def never_begun(on: Scene) -> None:
    async def chat() -> None:
        async with on.reserve(read=10) as call:
            call.track(upstream())
        raise RuntimeError("after the reservation, before the stream was read")

    await on.gone(chat, spec="2.4")


async def process_gone(on: Scene) -> None:
    ai = on.metering.ai
    await ai.holding.open(asked("acme", "gpt-4", input_tokens=100, max_output_tokens=500))
    await on.metering.flush()
    on.clock.advance(timedelta(minutes=12))
    assert await ai.holding.expire() == 1


async def settled_late(on: Scene) -> None:
    ai = on.metering.ai
    late = await ai.holding.open(asked("acme", "gpt-4", input_tokens=100, max_output_tokens=500))
    await on.metering.flush()
    on.clock.advance(timedelta(minutes=12))
    assert await ai.holding.expire() == 1
    late.call.settle(reply(100, 300))
    await ai.holding.write(late)


async def settled_twice(on: Scene) -> None:
    async with on.reserve() as call:
        call.settle(reply(90, 200))
        call.settle(reply(900, 2000))
        call.release()


async def unpriced(on: Scene) -> None:
    with pytest.raises(ModelNotAllowed, match="has no price"):
        await on.reserve("in-house-1").__aenter__()


async def unpriced_unit(on: Scene) -> None:
    async with on.reserve() as call:
        usage = {"prompt_tokens": 90, "completion_tokens": 5, "total_tokens": 95, "num_search_queries": 2}
        call.settle(reply(90, 5, usage=usage))


async def retried(on: Scene) -> None:
    on.fake.script(input_tokens=10, output_tokens=40)
    on.fake.fail("/v1/chat", "500")
    before = len(on.fake.requests)
    async with on.client(max_retries=1) as client, on.reserve() as call:
        call.settle(await client.chat.completions.create(**ASKED))
    assert len(on.fake.requests) - before == 2


async def cached(on: Scene) -> None:
    async with on.reserve() as call:
        call.release()


@ai_call(model="gpt-4", max_output_tokens=100)
async def inner(text: str) -> dict[str, Any]:
    return reply(10, 40)


@ai_call(model="gpt-4", max_output_tokens=100)
async def outer(text: str) -> dict[str, Any]:
    await inner(text)
    return reply(20, 30)


async def nested(on: Scene) -> None:
    with on.metering.bind("acme"):
        await outer("hello")


async def iterations(on: Scene) -> None:
    rounds = [
        a_round("message", 12, 6),
        a_round("compaction", 100, 20),
        a_round("advisor_message", 50, 10, model="claude-y"),
    ]
    usage = {"input_tokens": 12, "output_tokens": 6, "iterations": rounds}
    async with on.reserve("claude-x") as call:
        call.settle(message(usage, model="claude-x"))


class Case(NamedTuple):
    """``tokens`` at the price of gpt-4 are the charge. ``status``: of what was written last; None where nothing was."""

    number: int
    run: Callable[[Scene], Awaitable[None]]
    tokens: Decimal | int
    status: str | None
    calls: int = 1


CASES = {
    "success": Case(1, success, 290, "exact"),
    "a stream, read after its block": Case(1, streamed, 50, "exact"),
    "no usage": Case(2, no_usage, 100 + 3, "estimated"),
    "200 with an error": Case(2, error_for_a_reply, 100, "estimated"),
    "never sent": Case(3, never_sent, 0, None, 0),
    "refused by the provider": Case(4, refused, 0, None, 0),
    "a time-out": Case(5, timed_out, 100, "estimated"),
    "cancelled in a stream": Case(6, cancelled, 10 + 2, "estimated"),
    "client gone, ASGI 2.3": Case(6, client_gone("2.3", drain=False), 10 + 2, "estimated"),
    "client gone, ASGI 2.4": Case(6, client_gone("2.4", drain=False), 10 + 2, "estimated"),
    "client gone, ASGI 2.3, read on": Case(6, client_gone("2.3", drain=True), 50, "exact"),
    "client gone, ASGI 2.4, read on": Case(6, client_gone("2.4", drain=True), 50, "exact"),
    "a stream abandoned": Case(7, abandoned, 10 + 2, "estimated"),
    "a stream never begun": Case(7, never_begun, 10, "estimated"),
    "its process gone": Case(8, process_gone, 100, "expired"),
    "settled late": Case(9, settled_late, 400, "exact"),
    "settled twice": Case(10, settled_twice, 290, "exact"),
    "no price": Case(13, unpriced, 0, None, 0),
    "no price for what it used": Case(13, unpriced_unit, 600, "unpriced"),
    "retried by its client": Case(14, retried, 50, "exact"),
    "an answer from a cache": Case(15, cached, 0, None, 0),
    "a call within a call": Case(16, nested, 100, "exact", 2),
    "a compaction, and an advisor": Case(17, iterations, (138 + 2 * 60) / Decimal(3), "exact"),
}
"""The rows of the table; 11 and 12, an outage, are below."""


@pytest.fixture(scope="module")
def server() -> Iterator[FakeLlm]:
    with FakeLlm() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeLlm) -> FakeLlm:
    server.script()
    return server


async def closed(metering: Metering) -> list[str]:
    """The statuses of what was written, in order."""
    closes = [each for each in await facts(metering) if each.kind == "close"]
    return [json.loads(each.metadata or "{}")["status"] for each in closes]


async def assert_nothing_is_held(metering: Metering) -> None:
    for meter in ("ai_cost", "ai_requests"):
        assert (await metering.check_limit("acme", meter)).reserved == 0


@pytest.mark.parametrize("name", CASES)
async def test_a_call_is_charged_once_whatever_becomes_of_it(
    make: Make, clock: FrozenClock, fake: FakeLlm, name: str
) -> None:
    case, metering = CASES[name], await make(catalogue=CATALOGUE, worker="off")
    await case.run(Scene(metering, clock, fake))
    assert await spent(metering) == case.tokens * TOKEN
    assert (await closed(metering))[-1:] == ([case.status] if case.status else [])
    await assert_nothing_is_held(metering)
    await assert_conserved(metering, told={"acme": {"ai_requests": case.calls}})


def test_every_row_of_the_table_is_here() -> None:
    assert {case.number for case in CASES.values()} | {11, 12} == set(range(1, 18))


# -- rows 11 and 12: the counters do not answer -----------------------------------------------------------------------


TIMING: Final = Timing(decision_s=0.5, load_s=10)


@pytest.mark.parametrize("on_outage", ["deny", "allow"])
async def test_in_an_outage_money_is_refused_and_what_is_allowed_is_charged_afterwards(
    make: Make, redis_server: RedisServer, on_outage: str
) -> None:
    meters = CATALOGUE["meters"] | {"ai_cost": {"event": "ai_call", "unit": "money", "on_outage": on_outage}}
    plans = CATALOGUE | {"meters": meters}
    metering = await make(catalogue=plans, counters=redis_server.url, worker="off", timing=TIMING)
    await metering.check_limit("acme", "ai_requests")
    calls = 0
    with redis_server.stopped():
        try:
            async with metering.ai.reserve("acme", "gpt-4", input_tokens=100) as call:
                call.settle(reply(90, 200))
                calls += 1
        except StoreUnavailable:
            assert on_outage == "deny"
    assert calls == (on_outage == "allow")
    assert await spent(metering) == calls * 290 * TOKEN
    await assert_nothing_is_held(metering)
    await assert_conserved(metering, told={"acme": {"ai_requests": calls}})


async def test_what_is_settled_in_an_outage_is_charged_once_when_it_is_over(
    make: Make, redis_server: RedisServer
) -> None:
    metering = await make(catalogue=CATALOGUE, counters=redis_server.url, worker="off", timing=TIMING)
    async with metering.ai.reserve("acme", "gpt-4", input_tokens=100, max_output_tokens=500) as call:
        call.settle(reply(90, 200))
        stopped = redis_server.stopped()
        stopped.__enter__()
    stopped.__exit__(None, None, None)
    assert await spent(metering) == 290 * TOKEN
    assert await closed(metering) == ["exact"]
    await assert_nothing_is_held(metering)
    await assert_conserved(metering, told={"acme": {"ai_requests": 1}})
