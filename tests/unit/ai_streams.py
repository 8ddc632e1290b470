"""Streams as providers send them, whole and broken off, and what each used."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from anthropic.types import RawMessageDeltaEvent, RawMessageStartEvent
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from mm_metering.ai.streams import StreamUsage
from tests.unit.ai_replies import CLAUDE, GEMINI, GPT, NOVA, PLAIN, a_round, io, message, response, tokens


class Stream(NamedTuple):
    """``used`` and ``asked`` as in a Case."""

    name: str
    chunks: list[Any]
    used: dict[str, Any]
    asked: Mapping[str, Any] = MappingProxyType({})
    input_tokens: int = 0


def streamed(stream: Stream) -> StreamUsage:
    found = StreamUsage(**stream.asked)
    for chunk in stream.chunks:
        found.add(chunk)
    return found


def delta(text: str | None = None, end: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text} | more, "finish_reason": end}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o",
        "choices": [choice],
        "usage": None,
    }


def last(usage: Any) -> dict[str, Any]:
    return delta() | {"choices": [], "usage": usage}


def start(usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": message(usage, content=[], stop_reason=None)}


def block(**fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


def text(words: str) -> dict[str, Any]:
    return block(type="text_delta", text=words)


def stop(usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}


def google(words: str, usage: Any, **candidate: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": words}]}
    return {
        "candidates": [{"content": content} | candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
    }


def counted(read: int, wrote: int | None = None, thought: int | None = None) -> dict[str, Any]:
    found = {"promptTokenCount": read, "candidatesTokenCount": wrote, "thoughtsTokenCount": thought}
    return {name: count for name, count in found.items() if count is not None} | {
        "totalTokenCount": read + (wrote or 0) + (thought or 0)
    }


STARTED = {
    "input_tokens": 20,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 60,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 60},
    "output_tokens": 1,
    "service_tier": "standard",
}
CREATED = {"type": "response.created", "response": response(None, output=[])}
KEPT = CLAUDE | {"service_tier": "standard", "input": 180, "cached": 100, "cache_write_1h": 60}
ASK = {"model": "amazon.nova-lite-v1:0"}

OPENAI = [
    Stream(
        "openai: a last chunk without choices",
        [delta("Hel"), delta("lo"), delta(end="stop"), last(PLAIN)],
        GPT | {"input": 10, "output": 5},
    ),
    Stream(
        "openai without include_usage",
        [delta("abc"), delta("defg"), delta(end="stop")],
        GPT | {"input": 9, "output": 3, "is_estimated": True},
        {},
        9,
    ),
    Stream(
        "openai, broken off",
        [delta("abc"), delta("defg")],
        GPT | {"input": 9, "output": 3, "is_estimated": True},
        {},
        9,
    ),
    Stream(
        "reasoning and arguments were written too",
        [
            delta(reasoning_content="abc"),
            delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
            delta(refusal="no"),
        ],
        GPT | {"input": 1, "output": 3, "is_estimated": True},
    ),
    Stream(
        "a tier in the chunks",
        [delta("a") | {"service_tier": "flex"}, last(PLAIN)],
        GPT | {"service_tier": "flex", "input": 10, "output": 5},
    ),
    Stream(
        "vllm: usage in every chunk",
        [
            delta("abc") | {"usage": tokens(10, 1)},
            delta("def") | {"usage": tokens(10, 2)},
            delta(end="stop") | {"usage": tokens(10, 3)},
        ],
        GPT | {"input": 10, "output": 3},
    ),
    Stream(
        "vllm, broken off",
        [delta("abc") | {"usage": tokens(10, 1)}, delta("defghi")],
        GPT | {"input": 10, "output": 3, "is_estimated": True},
    ),
    Stream(
        "what was written before and after a count without output is estimated once",
        [delta("abc") | {"usage": {"prompt_tokens": 10, "completion_tokens": None}}, delta("defghi")],
        GPT | {"input": 10, "output": 3, "is_estimated": True},
    ),
    Stream(
        "groq: usage in x_groq",
        [delta("abc"), delta(end="stop") | {"x_groq": {"id": "r", "usage": PLAIN}}],
        GPT | {"input": 10, "output": 5},
    ),
    Stream(
        "openai's objects",
        [ChatCompletionChunk.model_validate(each) for each in (delta("Hel"), delta(end="stop"), last(PLAIN))],
        GPT | {"input": 10, "output": 5},
    ),
    Stream(
        "openai's objects, broken off in reasoning",
        [ChatCompletionChunk.model_validate(delta(reasoning_content="abcdef"))],
        GPT | {"input": 1, "output": 2, "is_estimated": True},
    ),
    Stream(
        "openai's stream helper says everything twice",
        [
            SimpleNamespace(
                type="chunk", chunk=ChatCompletionChunk.model_validate(delta("abcdef")), snapshot=delta("abcdef")
            ),
            SimpleNamespace(type="content.delta", delta="abcdef", snapshot="abcdef"),
            SimpleNamespace(type="content.done", content="abcdef"),
        ],
        GPT | {"input": 1, "output": 2, "is_estimated": True},
    ),
    Stream(
        "mistral's events",
        [
            SimpleNamespace(data=delta("abc")),
            SimpleNamespace(data=delta(end="stop") | {"usage": PLAIN | {"prompt_audio_seconds": None}}),
        ],
        GPT | {"input": 10, "output": 5},
    ),
]
RESPONSES = [
    Stream(
        "responses",
        [
            CREATED,
            {"type": "response.output_text.delta", "delta": "Hello"},
            {"type": "response.output_text.done", "text": "Hello"},
            {"type": "response.completed", "response": response(io(75, 186, cached=64))},
        ],
        {"model": "gpt-5", "input": 75, "cached": 64, "output": 186},
    ),
    Stream(
        "responses, broken off",
        [
            CREATED,
            {"type": "response.reasoning_summary_text.delta", "delta": "abc"},
            {"type": "response.function_call_arguments.delta", "delta": '{"a"'},
            {"type": "response.output_text.delta", "delta": "de"},
            {"type": "response.output_text.done", "text": "de"},
            {"type": "response.audio.delta", "delta": "QUJD" * 100},
        ],
        {"model": "gpt-5", "input": 9, "output": 3, "is_estimated": True},
        {},
        9,
    ),
    Stream(
        "responses that ran out of tokens",
        [CREATED, {"type": "response.incomplete", "response": response(io(75, 16), status="incomplete")}],
        {"model": "gpt-5", "input": 75, "output": 16},
    ),
    Stream(
        "responses that failed without usage",
        [CREATED, {"type": "response.failed", "response": response(None, status="failed", output=[])}],
        {"model": "gpt-5", "input": 9, "is_estimated": True},
        {},
        9,
    ),
    Stream(
        "responses' objects",
        [
            ResponseTextDeltaEvent.model_validate(
                {
                    "type": "response.output_text.delta",
                    "delta": "Hello",
                    "content_index": 0,
                    "item_id": "i",
                    "logprobs": [],
                    "output_index": 0,
                    "sequence_number": 1,
                }
            ),
            ResponseCompletedEvent.model_validate(
                {"type": "response.completed", "sequence_number": 2, "response": response(io(75, 186, reasoning=128))}
            ),
        ],
        {"model": "gpt-5", "input": 75, "output": 186, "reasoning": 128},
    ),
]
ANTHROPIC = [
    Stream(
        "a delta replaces only what it holds",
        [start(STARTED), text("Hello"), stop({"output_tokens": 15}), {"type": "message_stop"}],
        KEPT | {"output": 15},
    ),
    Stream(
        "null is not held",
        [
            start(STARTED),
            text("Hello"),
            stop({"output_tokens": 15, "input_tokens": None, "cache_read_input_tokens": None}),
        ],
        KEPT | {"output": 15},
    ),
    Stream(
        "a delta is cumulative",
        [
            start(STARTED),
            stop(
                {
                    "output_tokens": 15,
                    "input_tokens": 50,
                    "cache_read_input_tokens": 300,
                    "server_tool_use": {"web_search_requests": 1},
                }
            ),
        ],
        KEPT | {"input": 410, "cached": 300, "output": 15, "web_searches": 1},
    ),
    Stream(
        "a later delta keeps more, as long as the first",
        [start(STARTED), stop({"output_tokens": 15, "cache_creation_input_tokens": 90})],
        KEPT | {"input": 210, "cache_write_1h": 90, "output": 15},
    ),
    Stream(
        "the last of two deltas",
        [start(STARTED), stop({"output_tokens": 15}), stop({"output_tokens": 40})],
        KEPT | {"output": 40},
    ),
    Stream("anthropic, broken off at once", [start(STARTED)], KEPT | {"output": 1, "is_estimated": True}),
    Stream(
        "anthropic, broken off",
        [
            start(STARTED),
            block(type="thinking_delta", thinking="abc"),
            block(type="input_json_delta", partial_json='{"a"'),
            text("de"),
            block(type="signature_delta", signature="s" * 300),
        ],
        KEPT | {"output": 4, "is_estimated": True},
    ),
    Stream(
        "a gateway's start says nothing: the delta does",
        [
            start({"input_tokens": 0, "output_tokens": 0}),
            text("Hello"),
            stop({"input_tokens": 30, "output_tokens": 15}),
        ],
        CLAUDE | {"input": 30, "output": 15},
    ),
    Stream(
        "anthropic's stream helper says everything twice",
        [
            start(STARTED),
            text("abc"),
            SimpleNamespace(type="text", text="abc", snapshot="abc"),
            SimpleNamespace(type="content_block_stop", content_block={"type": "text", "text": "abc"}),
        ],
        KEPT | {"output": 2, "is_estimated": True},
    ),
    Stream(
        "and its end has the message",
        [
            start(STARTED),
            text("abc"),
            stop({"output_tokens": 15}),
            {"type": "message_stop", "message": message(STARTED | {"output_tokens": 15})},
        ],
        KEPT | {"output": 15},
    ),
    Stream(
        "a compaction in a delta",
        [
            start({"input_tokens": 9, "output_tokens": 1}),
            stop({"output_tokens": 15, "iterations": [a_round("compaction", 180000, 3500), a_round("message", 9, 15)]}),
        ],
        CLAUDE
        | {"input": 9, "output": 15, "lines": [CLAUDE | {"part": "compaction", "input": 180000, "output": 3500}]},
    ),
    Stream(
        "anthropic's objects",
        [
            RawMessageStartEvent.model_validate(start(STARTED)),
            RawMessageDeltaEvent.model_validate(stop({"output_tokens": 15})),
        ],
        KEPT | {"output": 15},
    ),
]
OTHERS = [
    Stream(
        "google: every chunk is cumulative",
        [
            google("abc", counted(8, 1)),
            google("def", counted(8, 2)),
            google("", counted(8, 3, 40), finishReason="STOP"),
        ],
        GEMINI | {"input": 8, "output": 43, "reasoning": 40},
    ),
    Stream(
        "google, broken off",
        [google("abc", counted(8, 1)), google("defghi", counted(8, 3))],
        GEMINI | {"input": 8, "output": 3, "is_estimated": True},
    ),
    Stream(
        "google: usage in the last alone",
        [google("abc", None), google("def", counted(8, 2), finishReason="STOP")],
        GEMINI | {"input": 8, "output": 2},
    ),
    Stream(
        "google: a call of a function",
        [{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}}]}],
        {"model": "g", "input": 1, "output": 3, "is_estimated": True},
        {"model": "g"},
    ),
    Stream(
        "bedrock",
        [
            {"messageStart": {"role": "assistant"}},
            {"contentBlockDelta": {"delta": {"text": "Hello"}, "contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end_turn"}},
            {
                "metadata": {
                    "usage": {"inputTokens": 30, "outputTokens": 6, "totalTokens": 36},
                    "metrics": {"latencyMs": 9},
                }
            },
        ],
        NOVA | {"input": 30, "output": 6},
        ASK,
    ),
    Stream(
        "bedrock, broken off",
        [
            {"contentBlockDelta": {"delta": {"reasoningContent": {"text": "abc"}}}},
            {"contentBlockDelta": {"delta": {"toolUse": {"input": '{"a"'}}}},
            {"contentBlockDelta": {"delta": {"text": "de"}}},
        ],
        {"model": "amazon.nova-lite-v1:0", "input": 9, "output": 3, "is_estimated": True},
        ASK,
        9,
    ),
    Stream("nothing came", [], {"model": "gpt-4o", "input": 9, "is_estimated": True}, GPT, 9),
    Stream(
        "what is no chunk",
        [None, 7, True, [], {}, "", {"type": 5}, {"choices": 5}, {"usage": "no", "choices": []}],
        {"model": "gpt-4o", "input": 9, "is_estimated": True, "is_contradictory": True},
        GPT,
        9,
    ),
]
STREAMS = [*OPENAI, *RESPONSES, *ANTHROPIC, *OTHERS]
