"""Every shape of a reply and of a stream gives the numbers that its provider bills, as a dict and as an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mm_metering.ai.replies import usage_of
from mm_metering.ai.streams import text_of
from tests.unit.ai_replies import CASES, GEMINI, GPT, PLAIN, Case, chat, google, message, response, said, tokens
from tests.unit.ai_streams import STREAMS, Stream, counted, delta, last, start, stop, streamed, text
from tests.unit.ai_streams import google as a_chunk

ASKED = {"model": "asked"}
SEVEN = ASKED | {"input_tokens": 7}
LONG = "m" * 10_000
METRICS = "amazon-bedrock-invocationMetrics"


def nested(depth: int) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    for _ in range(depth):
        reply = {"choices": [reply]}
    return reply


MORE = [
    Case(
        "titan on bedrock",
        {"inputTextTokenCount": 10, "results": [{"tokenCount": 5, "outputText": "Hi", "completionReason": "FINISH"}]},
        ASKED | {"input": 10, "output": 5},
        ASKED,
    ),
    Case(
        "llama on bedrock",
        {"generation": "Hi", "prompt_token_count": 10, "generation_token_count": 5, "stop_reason": "stop"},
        ASKED | {"input": 10, "output": 5},
        ASKED,
    ),
    Case(
        "ollama",
        {"model": "llama3.2", "message": {"content": "Hi"}, "done": True, "prompt_eval_count": 10, "eval_count": 5},
        {"model": "llama3.2", "input": 10, "output": 5},
        ASKED,
    ),
    Case(
        "ollama whose prompt was in its cache",
        {"model": "llama3.2", "response": "Hi", "done": True, "eval_count": 5, "prompt_eval_count": None},
        {"model": "llama3.2", "input": 7, "output": 1, "is_estimated": True},
        SEVEN,
    ),
    Case(
        "mistral: of a second of sound the begun one counts",
        chat(PLAIN | {"prompt_audio_seconds": 12.4}),
        GPT | {"input": 10, "output": 5, "audio_seconds": 13},
    ),
    Case(
        "seconds below nothing",
        chat(PLAIN | {"prompt_audio_seconds": -3}),
        GPT | {"input": 10, "output": 5, "is_contradictory": True},
    ),
    Case(
        "google: digits in a text",
        google({"promptTokenCount": 8, "candidatesTokenCount": "20", "totalTokenCount": 28}),
        GEMINI | {"input": 8, "output": 20, "is_contradictory": True},
    ),
    Case("bytes", b"abc", None, SEVEN),
    Case("nested deeply", nested(50), None, SEVEN),
    Case("a name of 10 kB", chat(PLAIN, model=LONG), ASKED | {"input": 10, "output": 5}, ASKED),
    Case("a name of 10 kB that was asked for", chat(PLAIN, model=None), {"input": 10, "output": 5}, {"model": LONG}),
    Case("a response that failed", response(None, status="failed", error={"code": "x"}, output=[]), None, SEVEN),
    Case(
        "a tier of 10 kB",
        chat(PLAIN, service_tier=LONG),
        GPT | {"input": 10, "output": 5},
    ),
    Case(
        "a gateway's fee is not the provider's count",
        chat(PLAIN | {"cost": 0.0001, "is_byok": False}),
        GPT | {"input": 10, "output": 5},
    ),
    Case(
        "iterations that are no list",
        message({"input_tokens": 12, "output_tokens": 6, "iterations": {"type": "compaction"}}),
        {"model": "claude-sonnet-4-5", "provider": "anthropic", "input": 12, "output": 6},
    ),
]
MORE_STREAMS = [
    Stream(
        "azure: a first chunk without choices, and without usage",
        [delta() | {"choices": [], "prompt_filter_results": []}, delta("abc"), delta(end="stop"), last(PLAIN)],
        GPT | {"input": 10, "output": 5},
    ),
    Stream(
        "google without a model",
        [
            a_chunk("abc", counted(8, 1)) | {"modelVersion": None},
            a_chunk("d", counted(8, 2, 5), finishReason="STOP") | {"modelVersion": None},
        ],
        GEMINI | {"model": "asked", "input": 8, "output": 7, "reasoning": 5},
        ASKED,
    ),
    Stream(
        "anthropic on bedrock",
        [
            start({"input_tokens": 9, "output_tokens": 1}),
            text("abc"),
            stop({"output_tokens": 15}),
            {"type": "message_stop", METRICS: {"inputTokenCount": 9, "outputTokenCount": 15}},
        ],
        {"model": "claude-sonnet-4-5", "provider": "anthropic", "input": 9, "output": 15},
    ),
    Stream(
        "llama on bedrock",
        [
            {"generation": "abc", "prompt_token_count": 10, "generation_token_count": 1},
            {"generation": "def", "prompt_token_count": None, "generation_token_count": 2},
            {
                "generation": "",
                "generation_token_count": 3,
                METRICS: {"inputTokenCount": 10, "outputTokenCount": 3, "cacheReadInputTokenCount": 4},
            },
        ],
        ASKED | {"input": 14, "cached": 4, "output": 3},
        ASKED,
    ),
    Stream(
        "ollama",
        [
            {"model": "l", "message": {"content": "abc"}, "done": False},
            {"model": "l", "message": {"content": ""}, "done": True, "prompt_eval_count": 10, "eval_count": 5},
        ],
        {"model": "l", "input": 10, "output": 5},
    ),
    Stream(
        "cohere",
        [
            {"type": "content-delta", "delta": {"message": {"content": {"text": "abc"}}}},
            {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 9}}}},
        ],
        ASKED | {"provider": "cohere", "input": 5, "output": 9},
        ASKED,
    ),
    Stream(
        "anthropic, with an error in the middle",
        [start({"input_tokens": 9, "output_tokens": 1}), text("abc"), {"type": "error", "error": {"type": "x"}}],
        {"model": "claude-sonnet-4-5", "provider": "anthropic", "input": 9, "output": 2, "is_estimated": True},
    ),
    Stream(
        "openai, with an error in the middle",
        [delta("abc"), {"error": {"message": "x"}}],
        GPT | {"input": 7, "output": 1, "is_estimated": True},
        {},
        7,
    ),
    Stream(
        "a negative end",
        [delta("abc"), last(tokens(-1, -5))],
        GPT | {"input": 7, "output": 1, "is_estimated": True, "is_contradictory": True},
        {},
        7,
    ),
    Stream(
        "an end whose usage is null", [delta("abc"), last(None)], GPT | {"input": 1, "output": 1, "is_estimated": True}
    ),
    Stream(
        "what a server sends",
        [b"data: {}", "[DONE]"],
        ASKED | {"input": 7, "output": 2, "is_estimated": True},
        ASKED,
        7,
    ),
    Stream(
        "names of 10 kB",
        [delta("abc") | {"model": LONG}, last(PLAIN) | {"model": LONG}],
        ASKED | {"input": 10, "output": 5},
        ASKED,
    ),
]
ALL, ALL_STREAMS = [*CASES, *MORE], [*STREAMS, *MORE_STREAMS]


class Thing:
    """As the objects of an SDK that nobody here knows."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update({name: as_object(value, name) for name, value in values.items()})


def as_object(value: Any, name: str = "") -> Any:
    """What JSON has as an object is a Thing; arguments of tools stay as SDKs have them."""
    if isinstance(value, dict):
        return value if name in ("args", "input") else Thing(value)
    return [as_object(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
def test_a_reply_used_what_its_provider_bills(case: Case) -> None:
    for reply in (case.reply, as_object(case.reply)):
        assert said(usage_of(reply, **case.asked)) == case.used


@pytest.mark.parametrize("stream", ALL_STREAMS, ids=[stream.name for stream in ALL_STREAMS])
def test_a_stream_used_what_its_provider_bills(stream: Stream) -> None:
    is_estimated = stream.used.get("is_estimated", False) and not stream.used.get("is_contradictory")
    for chunks in (stream.chunks, as_object(stream.chunks)):
        found = streamed(stream._replace(chunks=chunks))
        assert said(found.usage(input_tokens=stream.input_tokens)) == stream.used
        assert found.is_complete == (not is_estimated)


def answers() -> Iterator[bool]:
    """Whether each shape is read as its provider bills it."""
    for case in ALL:
        yield from (said(usage_of(reply, **case.asked)) == case.used for reply in (case.reply, as_object(case.reply)))
    for stream in ALL_STREAMS:
        for chunks in (stream.chunks, as_object(stream.chunks)):
            found = streamed(stream._replace(chunks=chunks)).usage(input_tokens=stream.input_tokens)
            yield said(found) == stream.used


def test_at_least_99_of_100_shapes_are_read_right() -> None:
    right = [*answers()]
    print(f"usage read right: {sum(right)} of {len(right)} = {100 * sum(right) / len(right):.1f} %")
    assert len(ALL) + len(ALL_STREAMS) >= 60
    assert sum(right) / len(right) >= 0.99


TEXTS = {
    "openai: a last chunk without choices": "Hello",
    "reasoning and arguments were written too": "",
    "openai's objects": "Hel",
    "openai's stream helper says everything twice": "abcdef",
    "mistral's events": "abc",
    "responses": "Hello",
    "responses, broken off": "de",
    "anthropic, broken off": "de",
    "and its end has the message": "abc",
    "google: every chunk is cumulative": "abcdef",
    "google: a call of a function": "",
    "bedrock": "Hello",
    "bedrock, broken off": "de",
    "llama on bedrock": "abcdef",
    "ollama": "abc",
    "cohere": "abc",
    "what is no chunk": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_reader_is_shown_the_text_alone_and_once(name: str) -> None:
    chunks = next(each.chunks for each in ALL_STREAMS if each.name == name)
    for each in (chunks, as_object(chunks)):
        assert "".join(map(text_of, each)) == TEXTS[name]


def test_google_thoughts_are_not_shown_and_a_chunk_in_itself_has_an_end() -> None:
    thought = a_chunk("", None)
    thought["candidates"][0]["content"]["parts"] = [{"text": "hm", "thought": True}, {"text": "Hi"}]
    assert text_of(thought) == "Hi"
    own: dict[str, Any] = {}
    own["message"] = {"content": own}
    assert text_of(own) == ""
