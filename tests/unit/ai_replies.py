"""Replies as providers send them, and what each used: worked out by hand from what the providers document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from mm_metering.ai.usage import Usage


class Case(NamedTuple):
    """``used``: every field of the usage that is not its default; lines as such dicts too."""

    name: str
    reply: Any
    used: dict[str, Any] | None
    asked: Mapping[str, Any] = MappingProxyType({})


def said(usage: Usage | None) -> dict[str, Any] | None:
    """The fields that are not their default, without what the caller asked for."""
    if usage is None:
        return None
    found = {
        each.name: getattr(usage, each.name) for each in fields(Usage) if getattr(usage, each.name) != each.default
    }
    found.pop("asked_model", None)
    return found | ({"lines": [said(line) for line in usage.lines]} if usage.lines else {})


def chat(usage: Any, text: Any = "Hi", **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": choices,
        "usage": usage,
    } | fields


def tokens(read: Any, wrote: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote} | more


def message(usage: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    } | fields


def response(usage: Any, **fields: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": "Hi", "annotations": []}]
    output = [{"type": "message", "id": "o", "role": "assistant", "status": "completed", "content": content}]
    return {
        "id": "r",
        "object": "response",
        "created_at": 1.0,
        "model": "gpt-5",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    } | fields


def io(read: int, wrote: int, cached: int = 0, reasoning: int = 0, write: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": write},
        "output_tokens": wrote,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": read + wrote,
    }


def google(usage: Any, **fields: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": "Hi"}]}
    candidates = [{"content": content, "finishReason": "STOP"}]
    return {"candidates": candidates, "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"} | fields


def converse(usage: Any, **fields: Any) -> dict[str, Any]:
    output = {"message": {"role": "assistant", "content": [{"text": "Hi"}]}}
    return {"output": output, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 9}} | fields


GPT = {"model": "gpt-4o"}
CLAUDE = {"model": "claude-sonnet-4-5", "provider": "anthropic"}
GEMINI = {"model": "gemini-2.5-flash", "provider": "google"}
NOVA = {"model": "amazon.nova-lite-v1:0", "provider": "aws"}
ASK_NOVA = {"model": "amazon.nova-lite-v1:0"}

PLAIN = tokens(10, 5)
DETAILED = tokens(
    2006,
    300,
    prompt_tokens_details={"cached_tokens": 1920, "audio_tokens": 0},
    completion_tokens_details={
        "reasoning_tokens": 192,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
)
TTL = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 700,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 500},
    "output_tokens": 393,
}


def a_round(kind: str, read: int, wrote: int, **more: Any) -> dict[str, Any]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"type": kind, "input_tokens": read, "output_tokens": wrote} | cache | more


OPENAI = [
    Case("chat", chat(PLAIN), GPT | {"input": 10, "output": 5}),
    Case(
        "chat of a dated model",
        chat(PLAIN, model="gpt-4o-2024-08-06"),
        {"model": "gpt-4o-2024-08-06", "input": 10, "output": 5},
    ),
    Case(
        "cached and reasoning are in",
        chat(DETAILED),
        GPT | {"input": 2006, "cached": 1920, "output": 300, "reasoning": 192},
    ),
    Case(
        "sound",
        chat(
            tokens(
                17,
                68,
                prompt_tokens_details={"audio_tokens": 12, "text_tokens": 5, "cached_tokens": 0},
                completion_tokens_details={"audio_tokens": 50, "text_tokens": 18},
            )
        ),
        GPT | {"input": 17, "audio_input": 12, "output": 68, "audio_output": 50},
    ),
    Case("a tier", chat(PLAIN, service_tier="flex"), GPT | {"service_tier": "flex", "input": 10, "output": 5}),
    Case(
        "kept in a cache",
        chat(tokens(2000, 5, prompt_tokens_details={"cached_tokens": 500, "cache_write_tokens": 1200})),
        GPT | {"input": 2000, "cached": 500, "cache_write": 1200, "output": 5},
    ),
    Case(
        "rejected predictions are in the output",
        chat(
            tokens(
                10, 40, completion_tokens_details={"accepted_prediction_tokens": 20, "rejected_prediction_tokens": 15}
            )
        ),
        GPT | {"input": 10, "output": 40},
    ),
    Case(
        "embeddings produce nothing",
        {
            "object": "list",
            "model": "text-embedding-3-small",
            "data": [],
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        },
        {"model": "text-embedding-3-small", "input": 8},
    ),
    Case(
        "embeddings without a total",
        {"object": "list", "model": "e", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8}},
        {"model": "e", "input": 8},
    ),
    Case(
        "a legacy completion",
        {"model": "gpt-3.5-turbo-instruct", "choices": [{"text": "Hi"}], "usage": PLAIN},
        {"model": "gpt-3.5-turbo-instruct", "input": 10, "output": 5},
    ),
    Case("the usage alone", DETAILED, GPT | {"input": 2006, "cached": 1920, "output": 300, "reasoning": 192}, GPT),
    Case(
        "responses",
        response(io(75, 1186, cached=64, reasoning=1024)),
        {"model": "gpt-5", "input": 75, "cached": 64, "output": 1186, "reasoning": 1024},
    ),
    Case(
        "responses that keep a cache",
        response(io(2000, 9, write=1500)),
        {"model": "gpt-5", "input": 2000, "cache_write": 1500, "output": 9},
    ),
    Case(
        "responses of a tier",
        response(io(75, 86), service_tier="priority", status="incomplete"),
        {"model": "gpt-5", "service_tier": "priority", "input": 75, "output": 86},
    ),
    Case(
        "responses with searches and an image",
        response(
            io(75, 86),
            tool_usage={
                "web_search": {"num_requests": 3},
                "image_gen": {
                    "input_tokens": 30,
                    "input_tokens_details": {"image_tokens": 20, "text_tokens": 10},
                    "output_tokens": 272,
                    "output_tokens_details": {"image_tokens": 272, "text_tokens": 0},
                    "total_tokens": 302,
                },
            },
        ),
        {
            "model": "gpt-5",
            "input": 75,
            "output": 86,
            "web_searches": 3,
            "lines": [{"part": "image_gen", "input": 30, "image_input": 20, "output": 272, "image_output": 272}],
        },
    ),
    Case(
        "responses whose tools did nothing",
        response(
            io(75, 86),
            tool_usage={
                "web_search": {"num_requests": 0},
                "image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
            },
        ),
        {"model": "gpt-5", "input": 75, "output": 86},
    ),
    Case(
        "images",
        {
            "created": 1,
            "data": [{"b64_json": "AAAA"}],
            "usage": {
                "input_tokens": 50,
                "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
                "output_tokens": 4160,
                "output_tokens_details": {"image_tokens": 4160, "text_tokens": 0},
                "total_tokens": 4210,
            },
        },
        {"model": "gpt-image-1", "input": 50, "image_input": 40, "output": 4160, "image_output": 4160},
        {"model": "gpt-image-1"},
    ),
    Case(
        "a transcription by tokens",
        {
            "text": "Hello",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"audio_tokens": 14, "text_tokens": 0},
                "output_tokens": 45,
                "total_tokens": 59,
            },
        },
        {"model": "gpt-4o-transcribe", "input": 14, "audio_input": 14, "output": 45},
        {"model": "gpt-4o-transcribe"},
    ),
    Case(
        "a transcription by time: the second begun counts",
        {"text": "Hello", "usage": {"type": "duration", "seconds": 8.4}},
        {"model": "whisper-1", "audio_seconds": 9},
        {"model": "whisper-1"},
    ),
    Case(
        "realtime",
        {
            "type": "response.done",
            "response": {
                "object": "realtime.response",
                "usage": {
                    "total_tokens": 300,
                    "input_tokens": 200,
                    "output_tokens": 100,
                    "input_token_details": {
                        "text_tokens": 80,
                        "audio_tokens": 120,
                        "cached_tokens": 64,
                        "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 64},
                    },
                    "output_token_details": {"text_tokens": 20, "audio_tokens": 80},
                },
            },
        },
        {
            "model": "gpt-realtime",
            "input": 200,
            "cached": 64,
            "audio_input": 120,
            "cached_audio": 64,
            "output": 100,
            "audio_output": 80,
        },
        {"model": "gpt-realtime"},
    ),
]
IMITATORS = [
    Case(
        "groq",
        chat(
            tokens(18, 556, queue_time=0.03, prompt_time=0.001),
            model="llama-3.3-70b-versatile",
            service_tier="on_demand",
        ),
        {"model": "llama-3.3-70b-versatile", "service_tier": "on_demand", "input": 18, "output": 556},
    ),
    Case(
        "deepseek",
        chat(tokens(100, 7, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36), model="deepseek-chat"),
        {"model": "deepseek-chat", "input": 100, "cached": 64, "output": 7},
    ),
    Case(
        "xai: reasoning is beside the completion",
        chat(
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            model="grok-4",
        ),
        {"model": "grok-4", "input": 32, "output": 103, "reasoning": 94},
    ),
    Case(
        "moonshot",
        chat(tokens(100, 7, cached_tokens=96), model="kimi-k2"),
        {"model": "kimi-k2", "input": 100, "cached": 96, "output": 7},
    ),
    Case(
        "litellm over anthropic",
        chat(
            tokens(
                1000,
                7,
                cache_creation_input_tokens=300,
                cache_read_input_tokens=600,
                prompt_tokens_details={"cached_tokens": 600},
            ),
            model="claude-sonnet-4-5",
        ),
        {"model": "claude-sonnet-4-5", "input": 1000, "cached": 600, "cache_write": 300, "output": 7},
    ),
    Case(
        "perplexity searches",
        chat(tokens(14, 60, num_search_queries=2, search_context_size="low"), model="sonar-pro"),
        {"model": "sonar-pro", "input": 14, "output": 60, "web_searches": 2},
    ),
    Case(
        "google's openai endpoint: thoughts are in the total alone",
        chat({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 90}, model="gemini-2.5-flash"),
        {"model": "gemini-2.5-flash", "input": 10, "output": 80, "is_contradictory": True},
    ),
    Case(
        "mistral",
        chat(PLAIN | {"prompt_audio_seconds": {}}, model="mistral-small-latest"),
        {"model": "mistral-small-latest", "input": 10, "output": 5},
    ),
    Case(
        "mistral with sound",
        chat(PLAIN | {"prompt_audio_seconds": 12, "service_tier": "priority"}, model="voxtral-small-latest"),
        {"model": "voxtral-small-latest", "service_tier": "priority", "input": 10, "output": 5, "audio_seconds": 12},
    ),
    Case(
        "cohere",
        {
            "id": "x",
            "message": {"content": [{"text": "Hi"}]},
            "usage": {
                "billed_units": {"input_tokens": 5, "output_tokens": 9},
                "tokens": {"input_tokens": 71, "output_tokens": 11},
            },
        },
        {"model": "command-a", "provider": "cohere", "input": 5, "output": 9},
        {"model": "command-a"},
    ),
    Case(
        "cloudflare",
        {"success": True, "result": {"response": "Hi", "usage": PLAIN}},
        {"model": "@cf/meta/llama", "input": 10, "output": 5},
        {"model": "@cf/meta/llama"},
    ),
    Case(
        "pydantic-ai's usage",
        SimpleNamespace(input_tokens=100, cache_read_tokens=64, cache_write_tokens=10, output_tokens=9, requests=1),
        GPT | {"input": 100, "cached": 64, "cache_write": 10, "output": 9},
        GPT,
    ),
    Case(
        "langchain",
        SimpleNamespace(
            content="Hi",
            usage_metadata={
                "input_tokens": 100,
                "output_tokens": 9,
                "total_tokens": 109,
                "input_token_details": {"cache_read": 64},
                "output_token_details": {"reasoning": 4},
            },
        ),
        GPT | {"input": 100, "cached": 64, "output": 9, "reasoning": 4},
        GPT,
    ),
]
ANTHROPIC = [
    Case("a message", message({"input_tokens": 12, "output_tokens": 6}), CLAUDE | {"input": 12, "output": 6}),
    Case(
        "cached is beside the input",
        message(TTL),
        CLAUDE | {"input": 5721, "cached": 5000, "cache_write": 200, "cache_write_1h": 500, "output": 393},
    ),
    Case(
        "a cache without a time is kept for 5 minutes",
        message(
            {"input_tokens": 12, "output_tokens": 6, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 0}
        ),
        CLAUDE | {"input": 112, "cache_write": 100, "output": 6},
    ),
    Case(
        "null caches",
        message(
            {
                "input_tokens": 12,
                "output_tokens": 6,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": None,
                "server_tool_use": None,
            }
        ),
        CLAUDE | {"input": 12, "output": 6},
    ),
    Case(
        "thinking is in the output",
        message({"input_tokens": 12, "output_tokens": 60, "output_tokens_details": {"thinking_tokens": 41}}),
        CLAUDE | {"input": 12, "output": 60, "reasoning": 41},
    ),
    Case(
        "searches",
        message(
            {
                "input_tokens": 12,
                "output_tokens": 6,
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 3},
            }
        ),
        CLAUDE | {"input": 12, "output": 6, "web_searches": 2, "web_fetches": 3},
    ),
    Case(
        "fast",
        message(
            {
                "input_tokens": 12,
                "output_tokens": 6,
                "service_tier": "standard",
                "speed": "fast",
                "inference_geo": "us",
            },
            model="claude-opus-4-8",
        ),
        CLAUDE | {"model": "claude-opus-4-8", "service_tier": "standard", "speed": "fast", "input": 12, "output": 6},
    ),
    Case(
        "a batch's",
        message({"input_tokens": 12, "output_tokens": 6, "service_tier": "batch"}),
        CLAUDE | {"service_tier": "batch", "input": 12, "output": 6},
    ),
    Case(
        "a compaction is in no number above",
        message(
            {
                "input_tokens": 23000,
                "output_tokens": 1000,
                "iterations": [a_round("compaction", 180000, 3500), a_round("message", 23000, 1000)],
            }
        ),
        CLAUDE
        | {"input": 23000, "output": 1000, "lines": [CLAUDE | {"part": "compaction", "input": 180000, "output": 3500}]},
    ),
    Case(
        "an advisor is another model",
        message(
            {
                "input_tokens": 412,
                "output_tokens": 531,
                "iterations": [
                    a_round("message", 412, 89),
                    a_round("advisor_message", 823, 1612, model="claude-opus-4-6"),
                    a_round("message", 1348, 442, cache_read_input_tokens=412),
                ],
            }
        ),
        CLAUDE
        | {
            "input": 412 + 1348 + 412,
            "cached": 412,
            "output": 531,
            "lines": [CLAUDE | {"model": "claude-opus-4-6", "part": "advisor_message", "input": 823, "output": 1612}],
        },
    ),
    Case(
        "iterations that do not say for how long a cache is kept",
        message(
            TTL
            | {
                "iterations": [
                    a_round("message", 21, 93, cache_creation_input_tokens=700, cache_read_input_tokens=5000),
                    a_round("message", 4, 300, cache_read_input_tokens=5721),
                ]
            }
        ),
        CLAUDE | {"input": 11446, "cached": 10721, "cache_write": 200, "cache_write_1h": 500, "output": 393},
    ),
    Case(
        "a fallback served it",
        message(
            {
                "input_tokens": 50,
                "output_tokens": 20,
                "iterations": [
                    a_round("message", 50, 3, model="claude-opus-4-8"),
                    a_round("fallback_message", 50, 20, model="claude-sonnet-4-5"),
                ],
            }
        ),
        CLAUDE
        | {
            "input": 50,
            "output": 20,
            "lines": [CLAUDE | {"model": "claude-opus-4-8", "part": "message", "input": 50, "output": 3}],
        },
    ),
    Case(
        "iterations that say less than what is above them",
        message({"input_tokens": 50, "output_tokens": 20, "iterations": [a_round("message", 50, 3)]}),
        CLAUDE | {"input": 50, "output": 20, "is_contradictory": True},
    ),
    Case(
        "a block alone",
        TTL,
        CLAUDE
        | {
            "model": "claude-haiku-4-5",
            "input": 5721,
            "cached": 5000,
            "cache_write": 200,
            "cache_write_1h": 500,
            "output": 393,
        },
        {"model": "claude-haiku-4-5"},
    ),
]
GOOGLE = [
    Case(
        "google",
        google({"promptTokenCount": 8, "candidatesTokenCount": 20, "totalTokenCount": 28}),
        GEMINI | {"input": 8, "output": 20},
    ),
    Case(
        "google's own names",
        {
            "usage_metadata": {"prompt_token_count": 8, "candidates_token_count": 20, "total_token_count": 28},
            "model_version": "gemini-2.5-flash",
        },
        GEMINI | {"input": 8, "output": 20},
    ),
    Case(
        "thoughts are billed as output",
        google({"promptTokenCount": 8, "candidatesTokenCount": 20, "thoughtsTokenCount": 300, "totalTokenCount": 328}),
        GEMINI | {"input": 8, "output": 320, "reasoning": 300},
    ),
    Case(
        "only thoughts",
        google({"promptTokenCount": 8, "thoughtsTokenCount": 300, "totalTokenCount": 308}),
        GEMINI | {"input": 8, "output": 300, "reasoning": 300},
    ),
    Case(
        "cached is in the prompt",
        google(
            {
                "promptTokenCount": 5000,
                "cachedContentTokenCount": 4000,
                "candidatesTokenCount": 20,
                "totalTokenCount": 5020,
            }
        ),
        GEMINI | {"input": 5000, "cached": 4000, "output": 20},
    ),
    Case(
        "a tool's prompt is not",
        google(
            {"promptTokenCount": 8, "toolUsePromptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 128}
        ),
        GEMINI | {"input": 108, "output": 20},
    ),
    Case(
        "modalities",
        google(
            {
                "promptTokenCount": 300,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 12},
                    {"modality": "AUDIO", "tokenCount": 188},
                    {"modality": "IMAGE", "tokenCount": 100},
                ],
                "cachedContentTokenCount": 50,
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}],
                "candidatesTokenCount": 1290,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
                "totalTokenCount": 1590,
            },
            modelVersion="gemini-2.5-flash-image",
        ),
        GEMINI
        | {
            "model": "gemini-2.5-flash-image",
            "input": 300,
            "cached": 50,
            "audio_input": 188,
            "cached_audio": 50,
            "image_input": 100,
            "output": 1290,
            "image_output": 1290,
        },
    ),
    Case(
        "a prompt that was blocked",
        {
            "promptFeedback": {"blockReason": "SAFETY"},
            "usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8},
            "modelVersion": "gemini-2.5-flash",
        },
        GEMINI | {"input": 8},
    ),
    Case(
        "no model: the asked one",
        google({"promptTokenCount": 8, "candidatesTokenCount": 20, "totalTokenCount": 28}, modelVersion=None),
        {"model": "gemini-2.0-flash", "provider": "google", "input": 8, "output": 20},
        {"model": "gemini-2.0-flash"},
    ),
    Case(
        "a tier of google's",
        google(
            {
                "promptTokenCount": 8,
                "candidatesTokenCount": 20,
                "totalTokenCount": 28,
                "trafficType": "ON_DEMAND_PRIORITY",
            }
        ),
        GEMINI | {"service_tier": "priority", "input": 8, "output": 20},
    ),
]
BEDROCK = [
    Case(
        "bedrock",
        converse({"inputTokens": 30, "outputTokens": 628, "totalTokens": 658}),
        NOVA | {"input": 30, "output": 628},
        ASK_NOVA,
    ),
    Case(
        "bedrock's cache is beside the input",
        converse(
            {
                "inputTokens": 30,
                "outputTokens": 6,
                "totalTokens": 936,
                "cacheReadInputTokens": 800,
                "cacheWriteInputTokens": 100,
            }
        ),
        NOVA | {"input": 930, "cached": 800, "cache_write": 100, "output": 6},
        ASK_NOVA,
    ),
    Case(
        "and its total may be without",
        converse({"inputTokens": 30, "outputTokens": 6, "totalTokens": 36, "cacheReadInputTokens": 800}),
        NOVA | {"input": 830, "cached": 800, "output": 6},
        ASK_NOVA,
    ),
    Case(
        "bedrock's times of a cache",
        converse(
            {
                "inputTokens": 30,
                "outputTokens": 6,
                "totalTokens": 336,
                "cacheWriteInputTokens": 300,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 200}, {"ttl": "5m", "inputTokens": 100}],
            }
        ),
        NOVA | {"input": 330, "cache_write": 100, "cache_write_1h": 200, "output": 6},
        ASK_NOVA,
    ),
    Case(
        "a tier of bedrock's",
        converse({"inputTokens": 30, "outputTokens": 6, "totalTokens": 36}, serviceTier={"type": "flex"}),
        NOVA | {"service_tier": "flex", "input": 30, "output": 6},
        ASK_NOVA,
    ),
    Case(
        "anthropic on bedrock has no model",
        message(TTL, model=None),
        CLAUDE
        | {
            "model": "anthropic.claude-sonnet-4-5-v1:0",
            "input": 5721,
            "cached": 5000,
            "cache_write": 200,
            "cache_write_1h": 500,
            "output": 393,
        },
        {"model": "anthropic.claude-sonnet-4-5-v1:0"},
    ),
]


class GoogleUsage(BaseModel):
    """As google-genai has it: its own names, with the wire's as aliases."""

    model_config = ConfigDict(populate_by_name=True)
    prompt_token_count: int | None = Field(None, alias="promptTokenCount")
    candidates_token_count: int | None = Field(None, alias="candidatesTokenCount")
    thoughts_token_count: int | None = Field(None, alias="thoughtsTokenCount")
    total_token_count: int | None = Field(None, alias="totalTokenCount")


class GoogleReply(BaseModel):
    usage_metadata: GoogleUsage
    model_version: str | None = None


@dataclass(slots=True)
class Slotted:
    """An object without a ``__dict__``."""

    usage: Any
    model: str = "gpt-4o"


OBJECTS = [
    Case(
        "openai's chat object",
        ChatCompletion.model_validate(chat(DETAILED)),
        GPT | {"input": 2006, "cached": 1920, "output": 300, "reasoning": 192},
    ),
    Case(
        "openai's chat object without usage",
        ChatCompletion.model_validate(chat(None, "abcdef")),
        GPT | {"input": 7, "output": 2, "is_estimated": True},
        {"input_tokens": 7},
    ),
    Case(
        "openai's response object",
        Response.model_validate(response(io(75, 1186, cached=64, reasoning=1024))),
        {"model": "gpt-5", "input": 75, "cached": 64, "output": 1186, "reasoning": 1024},
    ),
    Case(
        "openai's embeddings object",
        CreateEmbeddingResponse.model_validate(
            {"object": "list", "model": "e", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
        ),
        {"model": "e", "input": 8},
    ),
    Case(
        "openai's images object",
        ImagesResponse.model_validate(OPENAI[16].reply),
        OPENAI[16].used,
        {"model": "gpt-image-1"},
    ),
    Case(
        "openai's transcription object",
        Transcription.model_validate(OPENAI[17].reply),
        OPENAI[17].used,
        {"model": "gpt-4o-transcribe"},
    ),
    Case(
        "anthropic's message object",
        Message.model_validate(message(TTL)),
        CLAUDE | {"input": 5721, "cached": 5000, "cache_write": 200, "cache_write_1h": 500, "output": 393},
    ),
    Case("anthropic's beta message object", BetaMessage.model_validate(ANTHROPIC[8].reply), ANTHROPIC[8].used),
    Case("anthropic's beta message with an advisor", BetaMessage.model_validate(ANTHROPIC[9].reply), ANTHROPIC[9].used),
    Case(
        "anthropic's usage object",
        Message.model_validate(message(TTL)).usage,
        CLAUDE
        | {"model": "m", "input": 5721, "cached": 5000, "cache_write": 200, "cache_write_1h": 500, "output": 393},
        {"model": "m"},
    ),
    Case(
        "google's object",
        GoogleReply(
            usage_metadata=GoogleUsage(prompt_token_count=8, thoughts_token_count=3, total_token_count=11),
            model_version="gemini-2.5-flash",
        ),
        GEMINI | {"input": 8, "output": 3, "reasoning": 3},
    ),
    Case(
        "google's object, dumped as on the wire",
        GoogleReply(
            usage_metadata=GoogleUsage(prompt_token_count=8, candidates_token_count=3, total_token_count=11)
        ).model_dump(by_alias=True),
        {"model": "g", "provider": "google", "input": 8, "output": 3},
        {"model": "g"},
    ),
    Case("an object with slots", Slotted(PLAIN), GPT | {"input": 10, "output": 5}),
    Case(
        "openai's object with a field that it does not know",
        ChatCompletion.model_construct(**chat(PLAIN, speed="fast")),
        GPT | {"speed": "fast", "input": 10, "output": 5},
    ),
]
NO_USAGE = [
    Case(
        "no usage: a third of the bytes",
        chat(None, "Grüße!"),
        GPT | {"input": 100, "output": 3, "is_estimated": True},
        {"input_tokens": 100},
    ),
    Case(
        "arguments of tools are output",
        chat(None, None)
        | {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]}}]},
        GPT | {"input": 1, "output": 3, "is_estimated": True},
    ),
    Case(
        "so is reasoning",
        chat(None, "ab") | {"choices": [{"message": {"content": "ab", "reasoning_content": "cdefg"}}]},
        GPT | {"input": 1, "output": 3, "is_estimated": True},
    ),
    Case(
        "a message without usage",
        message(
            None,
            content=[
                {"type": "thinking", "thinking": "abc", "signature": "s" * 99},
                {"type": "tool_use", "name": "f", "input": {"a": 1}},
            ],
        ),
        {"model": "claude-sonnet-4-5", "input": 1, "output": 4, "is_estimated": True},
    ),
    Case(
        "what the host attached is no usage",
        response(None, metadata={"usage": "high"}),
        {"model": "gpt-5", "input": 1, "output": 1, "is_estimated": True},
    ),
    Case(
        "a text",
        "abcdefg",
        {"model": "llama", "input": 5, "output": 3, "is_estimated": True},
        {"model": "llama", "input_tokens": 5},
    ),
    Case("nothing", None, None),
    Case("a number", 7, None),
    Case("an empty dict", {}, None),
    Case("an error", {"error": {"message": "no", "type": "invalid_request_error"}}, None),
]
HUGE = 10**30
BROKEN = [
    Case(
        "more cached than read: it was beside it",
        chat(tokens(10, 5, prompt_tokens_details={"cached_tokens": 40})),
        GPT | {"input": 50, "cached": 40, "output": 5, "is_contradictory": True},
    ),
    Case(
        "more reasoning than output: it was beside it",
        chat(tokens(10, 5, completion_tokens_details={"reasoning_tokens": 40})),
        GPT | {"input": 10, "output": 45, "reasoning": 40, "is_contradictory": True},
    ),
    Case(
        "a total that is more",
        chat(tokens(10, 5) | {"total_tokens": 40}),
        GPT | {"input": 10, "output": 30, "is_contradictory": True},
    ),
    Case(
        "a total that is less",
        chat(tokens(10, 5) | {"total_tokens": 4}),
        GPT | {"input": 10, "output": 5, "is_contradictory": True},
    ),
    Case(
        "negative",
        chat(tokens(-10, 5)),
        GPT | {"input": 7, "output": 5, "is_estimated": True, "is_contradictory": True},
        {"input_tokens": 7},
    ),
    Case(
        "both negative",
        chat(tokens(-10, -5), "abcdef"),
        GPT | {"input": 7, "output": 2, "is_estimated": True, "is_contradictory": True},
        {"input_tokens": 7},
    ),
    Case(
        "digits in a text",
        chat({"prompt_tokens": "10", "completion_tokens": 5}),
        GPT | {"input": 10, "output": 5, "is_contradictory": True},
    ),
    Case(
        "words",
        chat({"prompt_tokens": "many", "completion_tokens": 5}),
        GPT | {"input": 7, "output": 5, "is_estimated": True, "is_contradictory": True},
        {"input_tokens": 7},
    ),
    Case(
        "truth",
        chat({"prompt_tokens": True, "completion_tokens": 5}),
        GPT | {"input": 1, "output": 5, "is_estimated": True, "is_contradictory": True},
    ),
    Case(
        "a float that is whole", chat({"prompt_tokens": 10.0, "completion_tokens": 5}), GPT | {"input": 10, "output": 5}
    ),
    Case(
        "a fraction",
        chat({"prompt_tokens": 10.2, "completion_tokens": 5}),
        GPT | {"input": 11, "output": 5, "is_contradictory": True},
    ),
    Case(
        "1e30",
        chat({"prompt_tokens": 1e30, "completion_tokens": HUGE}, "abcdef"),
        GPT | {"input": 7, "output": 2, "is_estimated": True, "is_contradictory": True},
        {"input_tokens": 7},
    ),
    Case(
        "not a number",
        chat({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, "abc"),
        GPT | {"input": 1, "output": 1, "is_estimated": True, "is_contradictory": True},
    ),
    Case("no output", chat({"prompt_tokens": 10}, "abcdefg"), GPT | {"input": 10, "output": 3, "is_estimated": True}),
    Case(
        "no input",
        chat({"completion_tokens": 5}),
        GPT | {"input": 7, "output": 5, "is_estimated": True},
        {"input_tokens": 7},
    ),
    Case("no input, but a total", chat({"completion_tokens": 5, "total_tokens": 15}), GPT | {"input": 10, "output": 5}),
    Case(
        "all zero, and a text",
        chat(tokens(0, 0), "abcdef"),
        GPT | {"input": 7, "output": 2, "is_estimated": True, "is_contradictory": True},
        {"input_tokens": 7},
    ),
    Case(
        "all zero",
        converse({"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}, output={}),
        NOVA | {"input": 1, "is_estimated": True, "is_contradictory": True},
        ASK_NOVA,
    ),
    Case(
        "usage is a text",
        chat("10 tokens", "abcdef"),
        GPT | {"input": 1, "output": 2, "is_estimated": True, "is_contradictory": True},
    ),
    Case(
        "usage is a list",
        chat([1, 2], "abcdef"),
        GPT | {"input": 1, "output": 2, "is_estimated": True, "is_contradictory": True},
    ),
    Case(
        "usage is empty",
        chat({}, "abcdef"),
        GPT | {"input": 1, "output": 2, "is_estimated": True, "is_contradictory": True},
    ),
    Case("details are a text", chat(tokens(10, 5, prompt_tokens_details="none")), GPT | {"input": 10, "output": 5}),
    Case(
        "times of a cache that are more than it",
        message(
            {
                "input_tokens": 1,
                "output_tokens": 6,
                "cache_creation_input_tokens": 10,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 500},
            }
        ),
        CLAUDE | {"input": 501, "cache_write_1h": 500, "output": 6, "is_contradictory": True},
    ),
    Case("a model that is no name", chat(PLAIN, model="x" * 201), GPT | {"input": 10, "output": 5}, GPT),
    Case("a model that is no text", chat(PLAIN, model=7), {"input": 10, "output": 5}),
    Case(
        "more sound out of a cache than there is",
        response(
            io(100, 5, cached=20)
            | {
                "input_tokens_details": {
                    "cached_tokens": 20,
                    "audio_tokens": 30,
                    "cached_tokens_details": {"audio_tokens": 25},
                }
            }
        ),
        {
            "model": "gpt-5",
            "input": 100,
            "cached": 20,
            "audio_input": 30,
            "cached_audio": 20,
            "output": 5,
            "is_contradictory": True,
        },
    ),
]
CASES = [*OPENAI, *IMITATORS, *ANTHROPIC, *GOOGLE, *BEDROCK, *OBJECTS, *NO_USAGE, *BROKEN]
