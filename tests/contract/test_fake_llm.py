"""The fake model server, through the official SDKs: what it says is what was scripted, and what it counts is true."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import cached_property
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest

from mm_metering.ai.replies import usage_of
from mm_metering.ai.streams import StreamUsage
from mm_metering.ai.usage import Usage
from mm_metering.testing.fake_llm import FakeLlm, Produced

MODEL: Final = "model-1"
PROMPT: Final = "one two three four five six"
PATHS: Final = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
LIMITS: Final = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
APIS: Final = tuple(PATHS)
EVENTS_BEFORE_TEXT: Final = {"chat": 1, "responses": 4, "messages": 2}
"""As the SDKs give them: pings are left out by theirs."""
each_api = pytest.mark.parametrize("api", APIS)
plain_and_stream = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


class Sdks:
    """Clients that do not try again, and one way to call them all. Without certificates, which take long to load."""

    def __init__(self, fake: FakeLlm, stack: ExitStack) -> None:
        self._fake = fake
        self._stack = stack
        self._ours: Any = {"api_key": fake.api_key, "max_retries": 0}

    @cached_property
    def openai(self) -> Any:
        http = openai.DefaultHttpxClient(verify=False)
        client = openai.OpenAI(base_url=self._fake.url + "/v1", http_client=http, **self._ours)
        return self._stack.enter_context(client)

    @cached_property
    def anthropic(self) -> Any:
        http = anthropic.DefaultHttpxClient(verify=False)
        client = anthropic.Anthropic(base_url=self._fake.url, http_client=http, **self._ours)
        return self._stack.enter_context(client)

    def call(self, api: str, **asked: Any) -> Any:
        return calling(api, self.anthropic if api == "messages" else self.openai, **asked)


def calling(api: str, client: Any, **asked: Any) -> Any:
    messages = [{"role": "user", "content": PROMPT}]
    match api:
        case "chat":
            if asked.get("stream"):
                asked = {"stream_options": {"include_usage": True}} | asked
            return client.chat.completions.create(model=MODEL, messages=messages, **asked)
        case "responses":
            return client.responses.create(model=MODEL, input=PROMPT, **asked)
        case _:
            return client.messages.create(model=MODEL, messages=messages, **{"max_tokens": 4096} | asked)


@pytest.fixture
def fake() -> Iterator[FakeLlm]:
    with FakeLlm() as fake:
        yield fake


@pytest.fixture
def sdks(fake: FakeLlm) -> Iterator[Sdks]:
    with ExitStack() as stack:
        yield Sdks(fake, stack)


def text_of(api: str, reply: Any) -> str:
    match api:
        case "chat":
            return str(reply.choices[0].message.content)
        case "responses":
            return str(reply.output_text)
        case _:
            return str(reply.content[0].text)


def delta_of(chunk: Any) -> str:
    if getattr(chunk, "choices", None):
        return chunk.choices[0].delta.content or ""
    delta = getattr(chunk, "delta", "")
    return delta if isinstance(delta, str) else getattr(delta, "text", "")


def stop_of(api: str, reply: Any) -> str:
    match api:
        case "chat":
            return str(reply.choices[0].finish_reason)
        case "responses":
            return str(reply.incomplete_details.reason if reply.incomplete_details else reply.status)
        case _:
            return str(reply.stop_reason)


def used(reply: Any) -> Usage:
    """Plain or streamed to its end."""
    if not hasattr(reply, "__next__"):
        found = usage_of(reply)
        assert found is not None
        return found
    stream = StreamUsage()
    for chunk in reply:
        stream.add(chunk)
    assert stream.is_complete
    return stream.usage()


def scripted(fake: FakeLlm) -> None:
    fake.script(
        text="a b c d e f g h i j",
        input_tokens=1_000,
        output_tokens=300,
        cached_tokens=600,
        reasoning_tokens=120,
        model="model-1-2026-01-01",
        service_tier="priority",
    )


def assert_scripted(found: Usage) -> None:
    assert (found.input, found.cached, found.output, found.reasoning) == (1_000, 600, 300, 120)
    assert (found.model, found.service_tier) == ("model-1-2026-01-01", "priority")
    assert not found.is_estimated
    assert not found.is_contradictory


SCRIPTED: Final = {"model-1-2026-01-01": Produced(calls=1, input=1_000, cached=600, output=300, reasoning=120)}


# -- what is said is what was scripted --------------------------------------------------------------------------------


@each_api
@plain_and_stream
def test_usage_is_read_as_it_was_scripted(fake: FakeLlm, sdks: Sdks, api: str, *, stream: bool) -> None:
    scripted(fake)
    assert_scripted(used(sdks.call(api, stream=stream)))
    assert fake.totals == SCRIPTED


@each_api
async def test_async_clients_read_the_same(fake: FakeLlm, api: str) -> None:
    scripted(fake)
    made: Any = anthropic.AsyncAnthropic if api == "messages" else openai.AsyncOpenAI
    url = fake.url if api == "messages" else fake.url + "/v1"
    async with made(api_key=fake.api_key, base_url=url, max_retries=0) as client:
        assert_scripted(used(await calling(api, client)))
        stream, texts = StreamUsage(), []
        async for chunk in await calling(api, client, stream=True):
            stream.add(chunk)
            texts.append(delta_of(chunk))
    assert stream.is_complete
    assert_scripted(stream.usage())
    assert "".join(texts) == "a b c d e f g h i j"


@each_api
def test_the_echo_counts_a_token_for_each_word(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    reply = sdks.call(api)
    assert text_of(api, reply) == PROMPT
    assert (used(reply).input, used(reply).output) == (6, 6)
    assert fake.totals == {MODEL: Produced(calls=1, input=6, output=6)}


@each_api
def test_a_stream_comes_in_as_many_chunks_as_were_scripted(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.script(text=PROMPT, chunks=3)
    texts = [text for chunk in sdks.call(api, stream=True) if (text := delta_of(chunk))]
    assert texts == ["one two ", "three four ", "five six"]


def test_instructions_and_parts_are_read_too(fake: FakeLlm, sdks: Sdks) -> None:
    part = {"type": "text", "text": "three four"}
    sdks.anthropic.messages.create(
        model=MODEL, max_tokens=9, system="one two", messages=[{"role": "user", "content": [part]}]
    )
    sdks.openai.responses.create(model=MODEL, instructions="one two", input="three four five")
    assert fake.totals[MODEL].input == 4 + 5


def test_the_next_scripts_come_first_and_in_order(fake: FakeLlm, sdks: Sdks) -> None:
    fake.script(text="always")
    fake.script(text="first", times=1)
    fake.script(text="then", times=2)
    said = [text_of("chat", sdks.call("chat")) for _ in range(5)]
    assert said == ["first", "then", "then", "always", "always"]


@pytest.mark.parametrize(
    "wrong", [{"output_tokens": 5, "reasoning_tokens": 6}, {"input_tokens": 5, "cached_tokens": 6}, {"chunks": 0}]
)
def test_a_script_that_contradicts_itself_is_refused(fake: FakeLlm, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"is more than|at least 1"):
        fake.script(**wrong)  # type: ignore[arg-type]


# -- limits -----------------------------------------------------------------------------------------------------------


@each_api
@plain_and_stream
@pytest.mark.parametrize("limit", [1, 7, 99])
def test_no_more_is_written_than_is_allowed(fake: FakeLlm, sdks: Sdks, api: str, limit: int, *, stream: bool) -> None:
    fake.script(output_tokens=100, reasoning_tokens=5)
    found = used(sdks.call(api, stream=stream, **{LIMITS[api]: limit}))
    assert (found.output, found.reasoning) == (limit, min(limit, 5))
    assert fake.totals[MODEL].output == limit
    assert fake.requests[0].max_tokens == limit


@each_api
@pytest.mark.parametrize(("limit", "is_cut"), [(5, True), (6, False)])
def test_it_says_whether_it_was_cut_off(fake: FakeLlm, sdks: Sdks, api: str, limit: int, *, is_cut: bool) -> None:
    reply = sdks.call(api, **{LIMITS[api]: limit})
    assert text_of(api, reply).split() == PROMPT.split()[:limit]
    cut = {"chat": "length", "responses": "max_output_tokens", "messages": "max_tokens"}
    whole = {"chat": "stop", "responses": "completed", "messages": "end_turn"}
    assert stop_of(api, reply) == (cut if is_cut else whole)[api]


def test_the_old_name_of_the_limit_counts_too(fake: FakeLlm, sdks: Sdks) -> None:
    assert used(sdks.call("chat", max_tokens=2)).output == 2


def test_a_response_cut_off_ends_incomplete(fake: FakeLlm, sdks: Sdks) -> None:
    *_, last = sdks.call("responses", stream=True, max_output_tokens=2)
    assert (last.type, last.response.usage.output_tokens) == ("response.incomplete", 2)


# -- the shapes of streams --------------------------------------------------------------------------------------------


def test_chat_streams_say_usage_only_if_asked_and_in_a_last_chunk_without_choices(fake: FakeLlm, sdks: Sdks) -> None:
    *others, last = sdks.call("chat", stream=True)
    assert (last.choices, last.usage.total_tokens) == ([], 12)
    assert all(each.usage is None and each.choices for each in others)
    unasked = [*sdks.call("chat", stream=True, stream_options=None)]
    assert [each for each in unasked if each.usage is not None or not each.choices] == []


def test_messages_say_what_is_read_first_and_what_is_written_last(fake: FakeLlm, sdks: Sdks) -> None:
    fake.script(input_tokens=10, cached_tokens=4, output_tokens=20)
    events = [*sdks.call("messages", stream=True)]
    start, delta = events[0].message.usage, events[-2].usage
    assert (start.input_tokens, start.cache_read_input_tokens, start.output_tokens) == (6, 4, 1)
    assert (events[-2].type, delta.output_tokens) == ("message_delta", 20)


def test_messages_have_a_ping_in_their_stream(fake: FakeLlm) -> None:
    body = {"model": MODEL, "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    got = httpx.post(f"{fake.url}/v1/messages", json=body, headers={"x-api-key": fake.api_key})
    assert 'event: ping\ndata: {"type": "ping"}\n\n' in got.text


def test_the_helpers_of_the_sdks_put_the_stream_together(fake: FakeLlm, sdks: Sdks) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    with sdks.anthropic.messages.stream(max_tokens=99, **asked) as stream:
        message = stream.get_final_message()
    with sdks.openai.responses.stream(model=MODEL, input=PROMPT) as stream:
        response = stream.get_final_response()
    with sdks.openai.chat.completions.stream(**asked) as stream:
        chat = stream.get_final_completion()
    assert text_of("messages", message) == text_of("responses", response) == text_of("chat", chat) == PROMPT
    assert used(message).output == used(response).output == 6


# -- faults -----------------------------------------------------------------------------------------------------------

LOST: Final = (openai.APIConnectionError, anthropic.APIConnectionError)
FAILED: Final = {
    "429": (openai.RateLimitError, anthropic.RateLimitError),
    "500": (openai.InternalServerError, anthropic.InternalServerError),
    "400": (openai.BadRequestError, anthropic.BadRequestError),
    "refused": LOST,
    "timeout": LOST,
}


@each_api
@plain_and_stream
@pytest.mark.parametrize("kind", FAILED)
def test_what_fails_has_produced_nothing(fake: FakeLlm, sdks: Sdks, api: str, kind: Any, *, stream: bool) -> None:
    fake.fail(f"{PATHS[api]}$", kind, wait_s=0.02)
    with pytest.raises(FAILED[kind]):
        sdks.call(api, stream=stream)
    assert fake.totals == {}
    used(sdks.call(api, stream=stream))
    assert [each.fault for each in fake.requests] == [kind, None]


@each_api
def test_a_client_that_waits_less_times_out(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.fail(PATHS[api], "timeout", wait_s=30)
    with pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)):
        sdks.call(api, timeout=0.05)


@each_api
def test_too_many_requests_say_when_to_come_again(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.fail(PATHS[api], "429", wait_s=7)
    with pytest.raises(FAILED["429"]) as caught:
        sdks.call(api)
    error: Any = caught.value
    assert error.response.headers["retry-after"] == "7"


def test_a_client_of_the_sdk_tries_again(fake: FakeLlm) -> None:
    fake.fail("chat", "429", wait_s=0.01)
    with openai.OpenAI(api_key=fake.api_key, base_url=fake.url + "/v1", max_retries=1) as gpt:
        assert used(calling("chat", gpt)).output == 6
    assert [each.fault for each in fake.requests] == ["429", None]


def until_dropped(stream: Any) -> list[Any]:
    """openai's client wraps what httpx says, anthropic's does not."""
    got: list[Any] = []
    with pytest.raises(Exception, match=r"Connection error|peer closed connection"):
        deque(map(got.append, stream), maxlen=0)
    return got


@each_api
def test_a_dropped_stream_ends_after_its_chunks_and_counts_them(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.script(output_tokens=100, reasoning_tokens=20, chunks=8)
    fake.fail(PATHS[api], "drop", after=3)
    stream = StreamUsage()
    got = until_dropped(sdks.call(api, stream=True))
    for chunk in got:
        stream.add(chunk)
    assert [delta_of(chunk) for chunk in got if delta_of(chunk)] == ["word " * 10] * 3
    assert not stream.is_complete
    assert fake.totals == {MODEL: Produced(calls=1, input=6, output=20 + 3 * 10, reasoning=20)}


@each_api
@pytest.mark.parametrize("after", [0, 6, 99])
def test_a_stream_dropped_late_has_all_text_and_no_end(fake: FakeLlm, sdks: Sdks, api: str, after: int) -> None:
    fake.fail(PATHS[api], "drop", after=after)
    got = until_dropped(sdks.call(api, stream=True))
    assert len(got) == EVENTS_BEFORE_TEXT[api] + min(after, 6)
    assert fake.totals[MODEL].output == min(after, 6)


@each_api
def test_a_plain_reply_that_is_dropped_was_produced_whole(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.fail(PATHS[api], "drop")
    with pytest.raises(LOST):
        sdks.call(api)
    assert fake.totals[MODEL] == Produced(calls=1, input=6, output=6)


@each_api
def test_an_error_may_come_as_a_success(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    fake.fail(PATHS[api], "200-error", times=2)
    assert usage_of(sdks.call(api)) is None
    kinds = []
    try:
        kinds += [chunk.type for chunk in sdks.call(api, stream=True)]
    except (openai.APIError, anthropic.APIStatusError) as error:
        kinds.append(type(error).__name__)
    assert kinds == [{"chat": "APIError", "responses": "error", "messages": "APIStatusError"}[api]]
    assert fake.totals == {}


@each_api
@plain_and_stream
def test_usage_that_is_left_out_was_used_all_the_same(fake: FakeLlm, sdks: Sdks, api: str, *, stream: bool) -> None:
    fake.fail(PATHS[api], "no-usage")
    reply = sdks.call(api, stream=stream)
    if stream:
        seen = StreamUsage()
        for chunk in reply:
            seen.add(chunk)
        assert not seen.is_complete
        found: Usage | None = seen.usage(input_tokens=9)
    else:
        found = usage_of(reply, input_tokens=9)
    assert found is not None
    assert (found.is_estimated, found.input, found.output) == (True, 9, -(-len(PROMPT) // 3))
    assert fake.totals[MODEL] == Produced(calls=1, input=6, output=6)


def test_a_fault_of_one_path_leaves_the_others_alone_and_can_be_ended(fake: FakeLlm, sdks: Sdks) -> None:
    fake.fail("messages", "500", times=9)
    assert used(sdks.call("chat")).output == 6
    fake.fail("messages", "500", times=0)
    assert used(sdks.call("messages")).output == 6
    with pytest.raises(ValueError, match="none of drop"):
        fake.fail("messages", "418")  # type: ignore[arg-type]


# -- requests, keys, and many at once ---------------------------------------------------------------------------------


@each_api
def test_requests_are_kept(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    used(sdks.call(api, stream=True, **{LIMITS[api]: 50}))
    (asked,) = fake.requests
    assert (asked.path, asked.model, asked.max_tokens, asked.is_stream) == (PATHS[api], MODEL, 50, True)
    assert asked.body[LIMITS[api]] == 50


@each_api
def test_another_key_is_refused(fake: FakeLlm, sdks: Sdks, api: str) -> None:
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)):
        sdks.call(api, extra_headers={"Authorization": "Bearer sk-other", "x-api-key": "sk-other"})
    assert fake.totals == {}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/messages", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}, 400),
        ("/v1/responses", {"model": MODEL, "input": "hi", "max_output_tokens": 0}, 400),
        ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "n": 2}, 400),
        ("/v1/embeddings", {}, 404),
    ],
)
def test_what_it_cannot_do_is_refused(fake: FakeLlm, path: str, body: dict[str, Any], status: int) -> None:
    got = httpx.post(fake.url + path, json=body, headers={"Authorization": f"Bearer {fake.api_key}"})
    assert (got.status_code, "error" in got.json(), fake.totals) == (status, True, {})


async def test_128_slow_streams_are_open_at_once(fake: FakeLlm) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    headers = {"Authorization": f"Bearer {fake.api_key}"}
    limits = httpx.Limits(max_connections=256)

    async with (
        httpx.AsyncClient(base_url=fake.url, headers=headers, limits=limits, timeout=30) as client,
        AsyncExitStack() as stack,
    ):

        async def begun() -> str:
            got = await stack.enter_async_context(client.stream("POST", PATHS["chat"], json=body))
            return await anext(got.aiter_lines())

        async def whole() -> str:
            return (await client.post(PATHS["chat"], json=body)).text

        fake.script(output_tokens=40, chunks=4, delay_s=600)
        first = await asyncio.gather(*(begun() for _ in range(128)))
        assert all('"role": "assistant"' in line for line in first)
        assert fake.totals == {MODEL: Produced(calls=128, input=128 * 6, output=0)}

        fake.script(output_tokens=40, chunks=4, delay_s=0.01)
        replies = await asyncio.gather(*(whole() for _ in range(128)))
        assert all(text.endswith("data: [DONE]\n\n") for text in replies)
        assert fake.totals == {MODEL: Produced(calls=256, input=256 * 6, output=128 * 40)}


def test_leaving_it_ends_what_is_slow() -> None:
    with FakeLlm() as fake, ExitStack() as stack:
        fake.script(text=PROMPT, delay_s=60)
        stream = Sdks(fake, stack).call("chat", stream=True)
        assert next(stream).choices[0].delta.content == ""
        fake.__exit__(None, None, None)
        with pytest.raises(openai.APIConnectionError):
            next(stream)


def test_once_left_it_answers_no_more_on_connections_that_are_open() -> None:
    with FakeLlm() as fake, httpx.Client(base_url=fake.url) as client:
        assert client.post("/v1/models").status_code == 404
        fake.__exit__(None, None, None)
        with pytest.raises(httpx.TransportError):
            client.post("/v1/models")


def test_a_body_that_is_no_json_is_refused(fake: FakeLlm) -> None:
    got = httpx.post(f"{fake.url}/v1/messages", content=b"{", headers={"x-api-key": fake.api_key})
    assert (got.status_code, got.json()["error"]["type"]) == (400, "invalid_request_error")
