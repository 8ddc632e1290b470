"""What AI calls come to, for whoever watches: sums by model, and a span per call, by the GenAI conventions.

The conventions (semantic-conventions-genai, of status Development) know no cost: that is ours, in whole billionths.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from mm_metering.ai.calls import AiCall, Settled
from mm_metering.ai.names import parse
from mm_metering.ai.usage import Usage
from mm_metering.core.catalogue import AI_COST_METER
from mm_metering.telemetry.instruments import (
    AI_CALLS,
    AI_COST,
    CACHE_READ_TOKENS,
    CACHE_WRITE_TOKENS,
    INPUT_TOKENS,
    MODEL,
    OF_GEN_AI,
    OPERATION,
    OUTPUT_TOKENS,
    PROVIDER,
    REASONING_TOKENS,
    Instrument,
)
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.spans import COST

CHAT, EMBEDDINGS = "chat", "embeddings"
RELEASED: Final = "released"
UNKNOWN: Final = "unknown"
"""The modality of tokens, since not every provider tells it; and a provider that nothing names."""
STATUS: Final = "mm_metering.ai.status"
MAX_TOKENS: Final = "gen_ai.request.max_tokens"

_PROVIDERS: Final = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "x-ai": "x_ai",
}
"""What the conventions call those that the price list calls otherwise."""
_MAKERS: Final = {
    **dict.fromkeys(("gpt", "chatgpt", "o1", "o3", "o4", "text-embedding"), "openai"),
    "claude": "anthropic",
    "gemini": "google",
    "grok": "x-ai",
    "command": "cohere",
    "deepseek": "deepseek",
    **dict.fromkeys(("mistral", "codestral", "magistral", "ministral"), "mistral"),
}
"""Who makes models whose names begin so: for those that no reply and no price has named."""


def provider_of(model: str, settled: Settled | None = None) -> str:
    """Who sells it, in the conventions' word: by the reply, the model's own prefix, the price, or its maker."""
    told = settled.usage.provider if settled and settled.usage else None
    named, maker = _named(model)
    seller = settled.source.rpartition(" ")[2].partition("/")[0] if settled and "/" in settled.source else ""
    found = told or named or seller or maker
    return _PROVIDERS.get(found, found)


@lru_cache(maxsize=1024)
def _named(model: str) -> tuple[str, str]:
    """The provider that a model's name has in it, "" for none, and who makes such a model."""
    name = parse(model)
    if name is None:
        return "", UNKNOWN
    maker = next((maker for start, maker in _MAKERS.items() if name.vendors.startswith(start)), UNKNOWN)
    return name.provider or "", maker


class CallSpan(NamedTuple):
    """A call's span, which we end if it is ours."""

    span: Span
    is_ours: bool


class ObservedCalls:
    """``gen_ai`` off: the provider's client is instrumented, which tells tokens and spans itself."""

    def __init__(self, measures: Measures) -> None:
        self._is_on = measures.options.gen_ai
        self._spans = measures.spans
        self._calls = measures.tally(AI_CALLS)
        self._cost = measures.tally(AI_COST)
        self._tokens = {each: measures.tally(each) for each in OF_GEN_AI if self._is_on}

    def begin(self, call: AiCall) -> CallSpan | None:
        """The call's span: one of the host's that is of this kind already, or else one of ours."""
        if not self._is_on:
            return None
        here = trace.get_current_span()
        if OPERATION in (getattr(here, "attributes", None) or {}):
            return CallSpan(here, is_ours=False)
        operation = _operation(call)
        asked = {OPERATION: operation, PROVIDER: provider_of(call.model), MODEL: call.model}
        most = {MAX_TOKENS: call.max_output_tokens} if call.max_output_tokens else {}
        span = self._spans.start(f"{operation} {call.model}", {**asked, **most}, kind=SpanKind.CLIENT)
        return CallSpan(span, is_ours=True)

    def over(self, call: AiCall, told: CallSpan | None) -> None:
        """It is settled or released."""
        settled = call.settled
        self.count(call.model, settled, operation=_operation(call))
        if told is None or not told.span.is_recording():
            return
        span = told.span
        span.set_attribute(STATUS, settled.status if settled else RELEASED)
        if settled is not None and settled.nanos is not None:
            span.set_attribute(COST + AI_COST_METER, settled.nanos)
        if settled is not None and settled.usage is not None:
            span.set_attributes(_used(settled.usage))
        if told.is_ours:
            span.end()

    def count(self, model: str, settled: Settled | None, *, operation: str = CHAT) -> None:
        provider = provider_of(model, settled)
        self._calls.add(model, provider, settled.status if settled else RELEASED)
        if settled is None:
            return
        if settled.nanos:
            self._cost.add(model, provider, n=settled.nanos)
        tokens = _tokens(settled.usage) if settled.usage is not None else {}
        for instrument, tally in self._tokens.items():
            if used := tokens.get(instrument, 0):
                tally.add(operation, provider, UNKNOWN, model, n=used)


def _operation(call: AiCall) -> str:
    """A call that may write nothing reads alone."""
    return CHAT if call.may_write else EMBEDDINGS


def _tokens(usage: Usage) -> Mapping[Instrument, int]:
    """Of all its parts: what the provider bills for."""
    parts = usage.parts
    return {
        INPUT_TOKENS: sum(each.input for each in parts),
        OUTPUT_TOKENS: sum(each.output for each in parts),
        CACHE_READ_TOKENS: sum(each.cached for each in parts),
        CACHE_WRITE_TOKENS: sum(each.cache_write + each.cache_write_1h for each in parts),
        REASONING_TOKENS: sum(each.reasoning for each in parts),
    }


def _used(usage: Usage) -> dict[str, str | int]:
    tokens = _tokens(usage)
    told: dict[str, str | int] = {
        "gen_ai.usage.input_tokens": tokens[INPUT_TOKENS],
        "gen_ai.usage.output_tokens": tokens[OUTPUT_TOKENS],
        "gen_ai.usage.cache_read.input_tokens": tokens[CACHE_READ_TOKENS],
    }
    return told if usage.model is None else {**told, "gen_ai.response.model": usage.model}
