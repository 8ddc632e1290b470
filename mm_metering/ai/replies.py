"""From a provider's reply to its usage."""

from __future__ import annotations

from typing import Final

from mm_metering.ai.drafts import Context, Draft, Seen
from mm_metering.ai.reading import first, get, is_object, text_bytes, word
from mm_metering.ai.shapes import PROVIDERS, shape_of, unreadable
from mm_metering.ai.usage import MAX_TOKENS, Usage

_BLOCKS: Final = ("usage", "usage_metadata", "usageMetadata", "amazon-bedrock-invocationMetrics")
_AROUND: Final = ("response", "message", "metadata", "x_groq", "result", "delta")
_TIER_PREFIXES: Final = ("service_tier_", "on_demand_")
_NO_TIER: Final = frozenset({"", "unspecified", "traffic_type_unspecified"})


def usage_of(
    reply: object,
    *,
    model: str | None = None,
    provider: str | None = None,
    input_tokens: int = 0,
    max_output_tokens: int = MAX_TOKENS,
) -> Usage | None:
    """What the call used that this is the reply of: an SDK's object, a dict of its JSON, or the usage block alone.

    ``model``: what was asked for, used where the reply names none. ``provider``: whose API it is, where that is known.
    ``input_tokens``: the estimate from before the call, taken where the reply does not say what was read.
    ``max_output_tokens``: no estimate is more than that. None if there is neither usage nor a text of a model in it. It
    never raises.
    """
    around, block = find_block(reply)
    if block is None:
        written = text_bytes(reply)
        if not written:
            return None
        seen = Seen(input_tokens=input_tokens, output_bytes=written, max_output_tokens=max_output_tokens)
        return Draft().usage(context_of(around, reply, model=model, provider=provider), seen)
    return read(
        block,
        around,
        reply,
        model=model,
        provider=provider,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
    )


def is_error(reply: object) -> bool:
    """Whether it is an error in place of a reply, as gateways send with status 200."""
    return first(reply, "error", "errors") is not None or word(get(reply, "type")) == "error"


def find_block(reply: object) -> tuple[object, object]:
    """The reply itself, out of an event that carries it, and its block of counts, or None."""
    block = first(reply, *_BLOCKS)
    if block is not None and not callable(block):
        return reply, block
    for around in (get(reply, name) for name in _AROUND):
        block = first(around, *_BLOCKS)
        if is_object(block) and not callable(block):
            return around, block
    if is_object(reply) and shape_of(reply, None) is not unreadable:
        return reply, reply
    return reply, None


def read(
    block: object,
    around: object,
    reply: object,
    *,
    model: str | None,
    provider: str | None,
    input_tokens: int = 0,
    output_bytes: int | None = None,
    max_output_tokens: int = MAX_TOKENS,
) -> Usage:
    """The usage that a block says. ``output_bytes``: what the model wrote; counted here where that is needed."""
    context = context_of(around, block, model=model, provider=provider)
    billed = get(block, "billed_units")  # Cohere's
    block = block if billed is None else billed
    shape = shape_of(block, around)
    context.provider = provider or (PROVIDERS.get(shape) if billed is None else "cohere")
    seen = Seen(input_tokens=input_tokens, output_bytes=output_bytes or 0, max_output_tokens=max_output_tokens)
    draft = shape(block, around, context, seen)
    if output_bytes is None and not draft.output:
        seen.output_bytes = text_bytes(reply)
    return draft.usage(context, seen)


def context_of(reply: object, block: object, *, model: str | None, provider: str | None) -> Context:
    """Model, service tier and speed, from the reply or from its block."""
    asked = word(model)
    return Context(
        model=word(first(reply, "model", "model_version", "modelVersion")) or asked,
        asked_model=asked,
        provider=provider,
        service_tier=_tier(reply, block),
        speed=_word(first(block, "speed"), first(reply, "speed")),
    )


def _tier(reply: object, block: object) -> str | None:
    said = first(reply, "service_tier", "serviceTier")
    said = first(block, "service_tier", "serviceTier", "traffic_type", "trafficType") if said is None else said
    tier = _word(get(said, "type") if is_object(said) and word(said) is None else said)  # Bedrock: {"type": "flex"}
    for prefix in _TIER_PREFIXES:
        tier = tier.removeprefix(prefix) if tier else tier
    return None if tier in _NO_TIER else tier


def _word(*values: object) -> str | None:
    found = next((text for value in values if (text := word(value))), None)
    return found.lower() if found else None
