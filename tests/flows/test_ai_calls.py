"""One call in code of any shape: ``call.track``, what ``@ai_call`` may be put on, and input that is wrong."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from mm_metering import BudgetExceeded, FrozenClock, Metering, ai_call
from mm_metering.ai import tracking
from mm_metering.errors import CatalogueError, InvalidInput
from mm_metering.testing import assert_conserved
from tests.flows.conftest import Make
from tests.flows.test_ai import CHUNKS, PLANS, reply, spent
from tests.flows.test_ai_cases import CATALOGUE, TOKEN, assert_nothing_is_held, closed, upstream


@pytest.fixture
async def memory(make: Make) -> Metering:
    return await make(catalogue=PLANS, worker="off")


def asked(metering: Metering, **options: Any) -> Any:
    return metering.ai.reserve("acme", "gpt-4", **{"input_tokens": 10, "max_output_tokens": 100} | options)


# -- the decorator ----------------------------------------------------------------------------------------------------

seen: list[tuple[Any, Any]] = []


async def an_async_def(text: str, *, model: str = "", max_output_tokens: int = 0) -> dict[str, Any]:
    seen.append((model, max_output_tokens))
    return reply(10, 40)


def by_place(text: str, model: str, max_output_tokens: int) -> dict[str, Any]:
    seen.append((model, max_output_tokens))
    return reply(10, 40)


def hands_on(text: str, **options: Any) -> Any:
    return an_async_def(text, **options)


def a_generator(text: str) -> Iterator[dict[str, Any]]:
    yield from CHUNKS


async def an_async_generator(text: str) -> AsyncIterator[dict[str, Any]]:
    for chunk in CHUNKS:
        yield chunk


async def returns_a_stream(text: str) -> AsyncIterator[dict[str, Any]]:
    return upstream()


class Called:
    async def __call__(self, text: str, *, model: str) -> dict[str, Any]:
        seen.append((model, None))
        return reply(10, 40)


class CalledStream:
    async def __call__(self, text: str) -> AsyncIterator[dict[str, Any]]:
        for chunk in CHUNKS:
            yield chunk


class Bot:
    @ai_call(model="gpt-4", max_output_tokens=100)
    async def ask(self, text: str, *, model: str = "") -> dict[str, Any]:
        seen.append((model, None))
        return reply(10, 40)

    @ai_call(model="gpt-4", max_output_tokens=100)
    @staticmethod
    async def once(text: str) -> dict[str, Any]:
        return reply(10, 40)


decorated = ai_call(model="gpt-4", max_output_tokens=100)
CALLABLES: dict[str, Any] = {
    "an async def": decorated(an_async_def),
    "by place": lambda text: decorated(by_place)(text, "gpt-4", 90),
    "a def that hands on what is to be awaited": decorated(hands_on),
    "a generator": decorated(a_generator),
    "an async generator": decorated(an_async_generator),
    "a stream that is returned": decorated(returns_a_stream),
    "a partial": decorated(functools.partial(an_async_def, max_output_tokens=50)),
    "a partial of a partial of a generator": decorated(functools.partial(functools.partial(an_async_generator))),
    "an object that is called": decorated(Called()),
    "an object that is called and streams": decorated(CalledStream()),
    "a bound method": decorated(Called().__call__),
    "a method": Bot().ask,
    "a static method": Bot.once,
}


@pytest.mark.parametrize("name", CALLABLES)
async def test_anything_that_is_called_is_reserved_and_settled(make: Make, name: str) -> None:
    metering = await make(catalogue=PLANS, worker="off")
    seen.clear()
    with metering.bind("acme"):
        answer = CALLABLES[name]("hello")
        answer = await answer if inspect.isawaitable(answer) else answer
        if hasattr(answer, "__aiter__"):
            answer = [chunk async for chunk in answer]
        elif not isinstance(answer, dict):
            answer = list(answer)
    assert answer in (CHUNKS, reply(10, 40))
    assert {model for model, _ in seen} <= {"gpt-4"}
    assert {most for _, most in seen} <= {100, 90, None}
    assert await spent(metering) == 50 * TOKEN
    assert await closed(metering) == ["exact"]
    await assert_nothing_is_held(metering)


async def test_it_looks_as_what_it_was_put_on() -> None:
    assert inspect.iscoroutinefunction(CALLABLES["an async def"])
    assert CALLABLES["an async def"].__name__ == "an_async_def"
    with pytest.raises(TypeError):
        decorated(classmethod(an_async_def))  # type: ignore[arg-type, type-var]


async def test_what_cannot_be_sent_is_refused_before_anything_is_held(memory: Metering) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with memory.bind("acme"), pytest.raises(InvalidInput, match="nested"):
        await CALLABLES["an async def"](deep)
    await assert_nothing_is_held(memory)


# -- track ------------------------------------------------------------------------------------------------------------


class AwsStream:
    """Can be iterated and closed, and is no iterator: as botocore's."""

    response = "kept"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield {"contentBlockDelta": {"delta": {"text": "Hello"}}}
        yield {"metadata": {"usage": {"inputTokens": 10, "outputTokens": 40, "totalTokens": 50}}}

    def close(self) -> None: ...


async def test_callers_that_are_not_async_reserve_and_track_too(memory: Metering) -> None:
    def work() -> str:
        with asked(memory) as call:
            call.settle(reply(10, 40))
        with asked(memory) as call:
            stream = call.track(AwsStream(), text=True)
            assert stream.response == "kept"
        with pytest.raises(RuntimeError), asked(memory):
            raise RuntimeError
        return "".join(stream)

    assert await asyncio.to_thread(work) == "Hello"
    assert sorted(await closed(memory)) == ["estimated", "exact", "exact"]
    assert await spent(memory) == (50 + 50 + 10) * TOKEN
    await assert_nothing_is_held(memory)


async def test_an_error_in_the_block_after_its_stream_was_opened_is_not_free(memory: Metering) -> None:
    async def fails() -> None:
        async with asked(memory) as call:
            await anext(call.track(upstream()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    assert await spent(memory) == 12 * TOKEN
    await assert_nothing_is_held(memory)


async def test_the_hosts_own_answer_is_no_refusal_of_the_provider(memory: Metering) -> None:
    from fastapi import HTTPException

    with pytest.raises(HTTPException):
        async with asked(memory):
            raise HTTPException(404)
    assert await spent(memory) == 10 * TOKEN
    refusal = Exception()
    refusal.response = {"ResponseMetadata": {"HTTPStatusCode": 429}}  # type: ignore[attr-defined]
    with pytest.raises(HTTPException):
        async with asked(memory):
            raise HTTPException(502) from refusal
    assert await spent(memory) == 10 * TOKEN


async def test_what_is_no_stream_settles_at_once(memory: Metering) -> None:
    async with asked(memory) as call:
        answer = reply(10, 40)
        assert call.track(answer) is answer
    with pytest.raises(InvalidInput, match="drain"):
        async with asked(memory) as call:
            call.track(iter(CHUNKS), drain=True)
    assert sorted(await closed(memory)) == ["estimated", "exact"]


class Endless:
    """A stream of which nobody knows the end."""

    def __init__(self, *, hangs: bool) -> None:
        self.is_closed = False
        self._hangs = hangs
        self._count = 0

    def __aiter__(self) -> Endless:
        return self

    async def __anext__(self) -> dict[str, Any]:
        self._count += 1
        if self._count > 1 and self._hangs:
            await asyncio.Event().wait()
        return CHUNKS[0]

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("kind", ["hangs", "never ends"])
async def test_reading_on_has_an_end(memory: Metering, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    hangs = kind == "hangs"
    monkeypatch.setattr(tracking, "DRAIN_S", 0.05 if hangs else 30.0)
    monkeypatch.setattr(tracking, "DRAIN_CHUNKS", 3)
    stream = Endless(hangs=hangs)
    async with asked(memory) as call:
        async for _ in (tracked := call.track(stream, drain=True)):
            break
        await tracked.aclose()
        await tracked.aclose()
    if hangs:
        assert await spent(memory) == 0, "who asks meanwhile does not wait for it"
    await asyncio.gather(*memory.ai.holding.reading_on)
    assert await closed(memory) == ["estimated"]
    assert await spent(memory) == (10 + (2 if hangs else 8)) * TOKEN
    assert stream.is_closed
    await assert_conserved(memory, told={"acme": {"ai_requests": 1}})


async def test_what_is_read_on_when_its_loop_ends_is_what_was_seen(memory: Metering) -> None:
    async with asked(memory) as call:
        async for _ in (tracked := call.track(Endless(hangs=True), drain=True)):
            break
        await tracked.aclose()
    await asyncio.sleep(0)
    await memory.ai.holding.leave_off()
    assert await closed(memory) == ["estimated"]
    assert await spent(memory) == 12 * TOKEN
    await assert_nothing_is_held(memory)


async def test_a_reader_that_is_cancelled_while_it_waits_loses_no_chunk(memory: Metering) -> None:
    may_go_on, is_waited_for, got = asyncio.Event(), asyncio.Event(), list[Any]()

    async def slow() -> AsyncIterator[dict[str, Any]]:
        yield CHUNKS[0]
        is_waited_for.set()
        await may_go_on.wait()
        for chunk in CHUNKS[1:]:
            yield chunk

    async def read() -> None:
        async with asked(memory) as call:
            async for chunk in call.track(slow(), drain=True):
                got.append(chunk)

    reader = asyncio.create_task(read())
    await is_waited_for.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert got == CHUNKS[:1]
    assert (await memory.check_limit("acme", "ai_cost")).reserved > 0
    may_go_on.set()
    await asyncio.gather(*memory.ai.holding.reading_on)
    assert await closed(memory) == ["exact"]
    assert await spent(memory) == 50 * TOKEN
    await assert_nothing_is_held(memory)


# -- bad input --------------------------------------------------------------------------------------------------------

LONG = "m" * 10_000
WRONG: dict[str, tuple[Any, str]] = {
    "an unknown model": (reply(10, 40, model="nobody-knows-1"), "exact"),
    "a model's name of 10 kB": (reply(10, 40, model=LONG), "exact"),
    "more cached than read": (
        reply(
            10, 40, usage={"prompt_tokens": 10, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 99}}
        ),
        "estimated",
    ),
    "negative": (reply(10, 40, usage={"prompt_tokens": -10, "completion_tokens": -40}), "estimated"),
    "no numbers": (reply(10, 40, usage={"prompt_tokens": "many", "completion_tokens": math.nan}), "estimated"),
    "huge": (reply(10, 40, usage={"prompt_tokens": 10**30, "completion_tokens": math.inf}), "estimated"),
    "zeros": (reply(0, 0), "estimated"),
    "200 with an error": ({"error": {"message": "no", "code": 429}}, "estimated"),
    "200 with errors": ({"type": "error", "error": {"type": "overloaded_error"}}, "estimated"),
    "bytes": (b"\x00\xff", "estimated"),
    "an empty text": ("", "estimated"),
    "nothing": (None, "estimated"),
    "a number": (7, "estimated"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_no_reply_makes_a_call_fail_or_free(make: Make, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """As a body, and as a stream's one chunk; each twice."""
    answer, status = WRONG[name]

    async def chunks() -> AsyncIterator[Any]:
        yield answer

    metering = await make(catalogue=PLANS, worker="off")
    for number in range(4):
        async with asked(metering) as call:
            if number % 2:
                assert [chunk async for chunk in call.track(chunks())] == [answer]
            else:
                call.settle(answer)
    assert await spent(metering) >= 4 * 10 * TOKEN
    assert set(await closed(metering)) <= {status, "estimated"}
    await assert_nothing_is_held(metering)
    lines = [each for each in caplog.records if each.name == "mm_metering.ai"]
    assert len(lines) <= 1, "what is wrong twice is said once"
    assert LONG not in caplog.text


Wrong = Callable[[Any], None]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda call: call.settle(input_tokens=-1),
        lambda call: call.settle(input_tokens=10, cached_tokens=99),
        lambda call: call.settle(output_tokens=10**12),
        lambda call: call.settle(cost="-0.01"),
        lambda call: call.settle(reply(1, 1), output_tokens=1),
    ],
)
async def test_counts_that_are_none_are_said_and_the_call_is_not_free(memory: Metering, wrong: Wrong) -> None:
    with pytest.raises(InvalidInput):
        async with asked(memory) as call:
            wrong(call)
    assert await spent(memory) == 10 * TOKEN
    await assert_nothing_is_held(memory)


async def test_the_same_defect_of_a_model_is_said_once_an_hour_with_how_many(
    make: Make, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    metering = await make(catalogue=CATALOGUE | {"plans": {"pro": {"price": "1.00"}}}, worker="off")

    async def some(count: int, model: str = "gpt-4") -> None:
        for _ in range(count):
            async with metering.ai.reserve("acme", model, input_tokens=10) as call:
                call.settle(reply(10, 40, model=model) | {"usage": {"prompt_tokens": -1, "completion_tokens": 5}})

    def lines() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name == "mm_metering.ai"]

    await some(20)
    await some(1, "claude-x")
    assert [line.partition(" said")[0] for line in lines()] == ["AI calls of gpt-4: 1", "AI calls of claude-x: 1"]
    clock.advance(timedelta(hours=1))
    await some(5)
    assert [line.partition(" said")[0] for line in lines()[2:]] == ["AI calls of gpt-4: 20"]


async def test_a_call_of_no_budget_and_no_price_is_marked_and_counted(make: Make) -> None:
    metering = await make(catalogue=PLANS | {"plans": {"pro": {"price": "1.00"}}}, worker="off")
    async with metering.ai.reserve("acme", "in-house-1", input_tokens=10) as call:
        call.settle(reply(10, 40, model="in-house-1"))
    assert await closed(metering) == ["unpriced"]
    stats = await metering.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert (stats.request_count, stats.total_tokens) == (1, 50)


async def test_a_tenants_budget_in_another_currency_is_refused_with_the_way_out(make: Make) -> None:
    plans = PLANS | {"currency": "EUR", "plans": {"pro": {"price": "1.00"}}}
    euros = await make(catalogue=plans, worker="off")
    with pytest.raises(CatalogueError, match=r'in USD, and the plans are in EUR.*currency = "USD" under \[ai\]'):
        await euros.ai.update_cost_config("acme", daily_budget="0.001")
    dollars = await make(catalogue=plans | {"ai": PLANS["ai"] | {"currency": "USD"}}, worker="off")
    await dollars.ai.update_cost_config("acme", daily_budget="0.001")
    with pytest.raises(BudgetExceeded):
        await asked(dollars, input_tokens=100).__aenter__()
