"""``metering.ai.wrap``: the official clients, against a model server on loopback; what they used is what is charged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from mm_metering import BudgetExceeded, Metering
from mm_metering.errors import InvalidInput, NotBound
from mm_metering.testing.fake_llm import FakeLlm
from tests.flows.conftest import Make
from tests.flows.test_ai import PLANS, facts, spent

ASKED: dict[str, Any] = {"model": "gpt-4", "messages": [{"role": "user", "content": "say something nice to them"}]}
CLAUDE: dict[str, Any] = ASKED | {"model": "claude-x", "max_tokens": 50}
PRICED = PLANS | {"ai": {"prices": {"gpt-4": "0.00003", "claude-x": "0.00001"}}}


@pytest.fixture
def fake() -> Iterator[FakeLlm]:
    with FakeLlm() as fake:
        yield fake


@pytest.fixture
async def metering(make: Make) -> AsyncIterator[Metering]:
    metering = await make(catalogue=PRICED, worker="off")
    with metering.bind("acme"):
        yield metering


@pytest.fixture
async def gpt(metering: Metering, fake: FakeLlm) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(api_key=fake.api_key, base_url=f"{fake.url}/v1", max_retries=0) as client:
        yield metering.ai.wrap(client)


@pytest.fixture
async def claude(metering: Metering, fake: FakeLlm) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(api_key=fake.api_key, base_url=fake.url, max_retries=0) as client:
        yield metering.ai.wrap(client)


def produced(fake: FakeLlm, model: str = "gpt-4") -> int:
    total = fake.totals[model]
    return total.input + total.output


async def charged(metering: Metering) -> int:
    """Tokens at the one price of gpt-4."""
    return int(await spent(metering) / Decimal("0.00003"))


async def test_a_reply_is_charged_what_it_used(metering: Metering, gpt: Any, fake: FakeLlm) -> None:
    reply = await gpt.chat.completions.create(**ASKED, max_tokens=3)
    assert reply.usage.completion_tokens == 3
    assert await charged(metering) == produced(fake)


async def test_a_stream_is_charged_and_shows_no_chunk_that_was_not_asked_for(
    metering: Metering, gpt: Any, fake: FakeLlm
) -> None:
    stream = await gpt.chat.completions.create(**ASKED, stream=True, max_tokens=4)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text.strip() == "say something nice to"
    assert stream.response.status_code == 200, "it keeps what the SDK's stream has"
    asked = await gpt.chat.completions.create(
        **ASKED, stream=True, max_tokens=4, stream_options={"include_usage": True}
    )
    last = [chunk async for chunk in asked][-1]
    assert (last.choices, last.usage.completion_tokens) == ([], 4)
    assert await charged(metering) == produced(fake)


async def test_responses_and_messages_are_charged(metering: Metering, gpt: Any, claude: Any, fake: FakeLlm) -> None:
    await gpt.responses.create(model="gpt-4", input="tell me more", max_output_tokens=16)
    stream = await gpt.responses.create(model="gpt-4", input="tell me more", max_output_tokens=16, stream=True)
    assert [event.type async for event in stream][-1] == "response.completed"
    assert await charged(metering) == produced(fake)
    await claude.messages.create(**CLAUDE)
    async with await claude.messages.create(**CLAUDE, stream=True) as events:
        assert [event.type async for event in events][-1] == "message_stop"
    stats = await metering.ai.get_usage_stats("acme", "2024-01-15", "2024-01-15")
    assert stats.model_breakdown["claude-x"].tokens == produced(fake, "claude-x")


async def test_clients_that_are_not_async_are_charged_too(metering: Metering, fake: FakeLlm) -> None:
    def work() -> list[str]:
        with openai.OpenAI(api_key=fake.api_key, base_url=f"{fake.url}/v1", max_retries=0) as plain:
            client = metering.ai.wrap(plain)
            client.chat.completions.create(**ASKED, max_tokens=3)
            stream = client.with_options(timeout=5).chat.completions.create(**ASKED, max_tokens=4, stream=True)
            return [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(await asyncio.to_thread(work)).strip() == "say something nice to"
    assert await charged(metering) == produced(fake)


async def test_output_is_capped_by_the_budget_and_nothing_is_sent_past_it(
    metering: Metering, gpt: Any, fake: FakeLlm
) -> None:
    fake.script(output_tokens=100_000)
    reply = await gpt.chat.completions.create(**ASKED, max_tokens=90_000)
    assert reply.choices[0].finish_reason == "length"
    assert await spent(metering) <= Decimal("0.10")
    with pytest.raises(BudgetExceeded):
        await gpt.chat.completions.create(**ASKED, max_tokens=90_000)
    assert len(fake.requests) == 1


async def test_of_two_caps_the_larger_is_held_and_neither_is_sent_past_the_budget(
    metering: Metering, gpt: Any, fake: FakeLlm
) -> None:
    """Servers differ in which of them they obey."""
    await gpt.chat.completions.create(**ASKED, max_tokens=5, max_completion_tokens=90_000)
    sent = fake.requests[0].body
    assert sent["max_tokens"] == sent["max_completion_tokens"] < 10_000
    assert await spent(metering) <= Decimal("0.10")


@pytest.mark.parametrize("name", ["model", "n", "max_completion_tokens", "messages", "stream"])
async def test_nothing_that_the_budget_reads_is_laid_over_what_is_sent(gpt: Any, fake: FakeLlm, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"extra_body: holds {name}, which the budget reads"):
        await gpt.chat.completions.create(**ASKED, extra_body={name: 9, "user": "u_1"})
    await gpt.chat.completions.create(**ASKED, extra_body={"user": "u_1"})
    assert len(fake.requests) == 1


async def test_a_client_that_goes_away_is_charged_what_was_seen(metering: Metering, gpt: Any, fake: FakeLlm) -> None:
    fake.script(output_tokens=200, chunks=50, delay_s=0.002)
    stream = await gpt.chat.completions.create(**ASKED, stream=True, max_tokens=300)
    async for _ in stream:
        break
    await stream.close()
    assert 0 < await charged(metering) < 320
    assert [each.kind for each in await facts(metering)].count("close") == 1
    assert (await metering.check_limit("acme", "ai_requests")).used == 1


async def test_what_the_provider_refuses_is_free(metering: Metering, gpt: Any, fake: FakeLlm) -> None:
    for kind in ("429", "500", "400"):
        fake.fail("/v1/chat", kind)
        with pytest.raises(openai.APIStatusError):
            await gpt.chat.completions.create(**ASKED, max_tokens=3)
    assert await spent(metering) == 0


async def test_what_would_pass_by_the_budget_is_refused_with_the_way_out(gpt: Any, claude: Any) -> None:
    calls: tuple[Callable[[], Any], ...] = (
        lambda: gpt.chat.completions.stream,
        lambda: gpt.chat.completions.parse,
        lambda: gpt.chat.completions.with_raw_response,
        lambda: claude.messages.stream,
    )
    for call in calls:
        with pytest.raises(InvalidInput, match=r"create\(stream=True\), or the client itself as \.unwrapped"):
            call()
    assert gpt.api_key == gpt.unwrapped.api_key
    assert gpt.models is gpt.unwrapped.models


async def test_a_call_for_nobody_is_refused_before_it_is_sent(make: Make, fake: FakeLlm) -> None:
    metering = await make(catalogue=PRICED, worker="off")
    client = metering.ai.wrap(openai.AsyncOpenAI(api_key=fake.api_key, base_url=f"{fake.url}/v1"))
    with pytest.raises(NotBound):
        await client.chat.completions.create(**ASKED)
    assert fake.requests == []
