"""The shapes in which providers say what a call used: one function each, from a block of counts to a draft.

Sources: the types of the openai and anthropic packages, Google's GenerateContentResponse, Mistral's and Bedrock's API
references. Where one word means two things, the comment says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from mm_metering.ai.drafts import Context, Draft, Seen
from mm_metering.ai.reading import Counts, first, get, items, whole, word
from mm_metering.ai.usage import Usage

Shape: TypeAlias = Callable[[object, object, Context, Seen], Draft]
"""From the block, the reply it was in, what is said beside it, and what else is known."""

MAX_ITERATIONS: Final = 1_000


def chat(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """OpenAI's chat completions and embeddings, and all who imitate them. Cached tokens are in ``prompt_tokens``."""
    counts = Counts()
    read = get(block, "prompt_tokens_details")
    wrote = get(block, "completion_tokens_details")
    draft = Draft(
        input=counts.of(block, "prompt_tokens"),
        output=counts.of(block, "completion_tokens"),
        total=counts.of(block, "total_tokens"),
        cached=counts.part(read, "cached_tokens")
        or counts.part(block, "prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens"),
        cache_write=counts.part(read, "cache_write_tokens") or counts.part(block, "cache_creation_input_tokens"),
        audio_input=counts.part(read, "audio_tokens"),
        image_input=counts.part(read, "image_tokens"),
        reasoning=counts.part(wrote, "reasoning_tokens") or counts.part(block, "reasoning_tokens"),
        audio_output=counts.part(wrote, "audio_tokens"),
        image_output=counts.part(wrote, "image_tokens"),
        audio_seconds=_seconds(counts, block, "prompt_audio_seconds"),
        web_searches=counts.part(block, "num_search_queries"),
    )
    if draft.output is None and draft.total is None and first(reply, "data") is not None:
        draft.output = 0  # embeddings
    draft.is_contradictory = counts.is_broken
    return draft


def responses(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """OpenAI's responses, images, transcriptions and realtime; Pydantic AI's and LangChain's usage. Cached tokens are
    in ``input_tokens``."""
    counts = Counts()
    read = first(block, "input_tokens_details", "input_token_details")
    wrote = first(block, "output_tokens_details", "output_token_details")
    tools = get(reply, "tool_usage")
    draft = Draft(
        input=counts.of(block, "input_tokens"),
        output=counts.of(block, "output_tokens"),
        total=counts.of(block, "total_tokens"),
        cached=counts.part(read, "cached_tokens", "cache_read", "cache_read_input_tokens")
        or counts.part(block, "cache_read_tokens"),
        cache_write=counts.part(read, "cache_write_tokens", "cache_creation")
        or counts.part(block, "cache_write_tokens"),
        audio_input=counts.part(read, "audio_tokens", "audio") or counts.part(block, "input_audio_tokens"),
        cached_audio=counts.part(get(read, "cached_tokens_details"), "audio_tokens"),
        image_input=counts.part(read, "image_tokens"),
        reasoning=counts.part(wrote, "reasoning_tokens", "reasoning"),
        audio_output=counts.part(wrote, "audio_tokens", "audio"),
        image_output=counts.part(wrote, "image_tokens"),
        audio_seconds=_seconds(counts, block, "seconds"),
        web_searches=counts.part(get(tools, "web_search"), "num_requests"),
    )
    if draft.audio_seconds and draft.input is None:
        draft.input = draft.output = 0  # billed by time alone
    images = get(tools, "image_gen")  # another model's, and nobody says which
    if any(whole(get(images, name))[0] for name in ("input_tokens", "output_tokens")):
        made = responses(images, None, Context(), Seen()).usage(Context(), Seen(), part="image_gen")
        draft.lines = (made,)
    draft.is_contradictory = counts.is_broken
    return draft


def _seconds(counts: Counts, block: object, name: str) -> int:
    """Of sound, the last one begun too. Mistral has an empty object for none."""
    value = get(block, name)
    if isinstance(value, float) and value >= 0:
        return whole(value)[0] or 0
    return counts.part(block, name) if isinstance(value, int | float) else 0


def anthropic(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """Anthropic's messages: what is cached is beside ``input_tokens``, and the counts of ``iterations`` partly are.

    A compaction's and an advisor's tokens are in no number above them. Of the executor's iterations ``output_tokens``
    is the sum, but ``input_tokens`` may be the first one's alone: each is billed, so the larger of both is taken.
    """
    counts = Counts()
    draft = _part(counts, block)
    rounds = items(get(block, "iterations"))[:MAX_ITERATIONS]
    own: list[Draft] = []
    lines: list[Usage] = []
    for each in rounds:
        kind, model = word(get(each, "type")), word(get(each, "model"))
        part = _part(counts, each)
        if kind != "compaction" and model in (None, context.model):
            own.append(part)
            continue
        its = context if model is None else replace(context, model=model, asked_model=None)
        lines.append(part.usage(its, Seen(), part=kind))
    if own:
        _raise_to(draft, own)
    tools = get(block, "server_tool_use")
    draft.web_searches = counts.part(tools, "web_search_requests")
    draft.web_fetches = counts.part(tools, "web_fetch_requests")
    draft.lines = tuple(lines)
    draft.is_contradictory |= counts.is_broken
    return draft


def _part(counts: Counts, block: object) -> Draft:
    """One inference. A cache's tokens are told by how long they are kept, where that is said; the rest of them is taken
    to be kept as long as the longest that is said."""
    plain = counts.of(block, "input_tokens")
    cached = counts.part(block, "cache_read_input_tokens")
    kept = get(block, "cache_creation")
    short, long = counts.part(kept, "ephemeral_5m_input_tokens"), counts.part(kept, "ephemeral_1h_input_tokens")
    written = counts.of(block, "cache_creation_input_tokens")
    is_contradictory = written is not None and short + long > written
    rest = max((written or 0) - short - long, 0)
    short, long = (short, long + rest) if long else (short + rest, long)
    return Draft(
        input=None if plain is None else plain + cached + short + long,
        output=counts.of(block, "output_tokens"),
        cached=cached,
        cache_write=short,
        cache_write_1h=long,
        reasoning=counts.part(get(block, "output_tokens_details"), "thinking_tokens"),
        is_contradictory=is_contradictory,
    )


def _raise_to(draft: Draft, own: list[Draft]) -> None:
    """At least what the iterations add up to. They are never less than what stands above them."""
    above, below = _kinds(draft), [sum(kind) for kind in zip(*map(_kinds, own), strict=True)]
    draft.is_contradictory |= any(one > other for one, other in zip(above, below, strict=True))
    plain, draft.cached, written, draft.output = map(max, above, below)
    draft.cache_write_1h = max(draft.cache_write_1h, sum(each.cache_write_1h for each in own))
    draft.cache_write = written - draft.cache_write_1h
    draft.input = plain + draft.cached + written


def _kinds(draft: Draft) -> tuple[int, int, int, int]:
    """Read anew, read from a cache, kept in one for whatever time, and produced."""
    written = draft.cache_write + draft.cache_write_1h
    plain = max((draft.input or 0) - draft.cached - written, 0)
    return plain, draft.cached, written, draft.output or 0


def gemini(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """Google's, in its own names or the wire's. Cached tokens are in the prompt; thoughts and a tool's prompt are in
    nothing, and billed as output and input."""
    counts = Counts()
    prompt = counts.of(block, "prompt_token_count", "promptTokenCount")
    tool = counts.part(block, "tool_use_prompt_token_count", "toolUsePromptTokenCount")
    thoughts = counts.part(block, "thoughts_token_count", "thoughtsTokenCount")
    said = counts.of(
        block, "candidates_token_count", "candidatesTokenCount", "response_token_count", "responseTokenCount"
    )
    if said is None and thoughts:
        said = 0
    read = first(block, "prompt_tokens_details", "promptTokensDetails")
    read_by_tool = first(block, "tool_use_prompt_tokens_details", "toolUsePromptTokensDetails")
    kept = first(block, "cache_tokens_details", "cacheTokensDetails")
    wrote = first(block, "candidates_tokens_details", "candidatesTokensDetails", "responseTokensDetails")
    return Draft(
        input=None if prompt is None else prompt + tool,
        output=None if said is None else said + thoughts,
        total=counts.of(block, "total_token_count", "totalTokenCount"),
        cached=counts.part(block, "cached_content_token_count", "cachedContentTokenCount"),
        audio_input=_modality(counts, read, "audio") + _modality(counts, read_by_tool, "audio"),
        cached_audio=_modality(counts, kept, "audio"),
        image_input=_modality(counts, read, "image") + _modality(counts, read_by_tool, "image"),
        reasoning=thoughts,
        audio_output=_modality(counts, wrote, "audio"),
        image_output=_modality(counts, wrote, "image"),
        is_contradictory=counts.is_broken,
    )


def _modality(counts: Counts, details: object, name: str) -> int:
    return sum(
        counts.part(each, "token_count", "tokenCount")
        for each in items(details)
        if (word(get(each, "modality")) or "").lower().endswith(name)
    )


def bedrock(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """Bedrock's converse: what is cached is beside ``inputTokens``, and the total is with it or without."""
    counts = Counts()
    plain, output = counts.of(block, "inputTokens"), counts.of(block, "outputTokens")
    cached = counts.part(block, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = counts.part(block, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    kept = items(get(block, "cacheDetails"))
    long = sum(counts.part(each, "inputTokens") for each in kept if word(get(each, "ttl")) == "1h")
    total = counts.of(block, "totalTokens")
    if plain is not None and output is not None and total is not None:
        total = None if total == plain + output else total
    return Draft(
        input=None if plain is None else plain + cached + max(written, long),
        output=output,
        total=total,
        cached=cached,
        cache_write=max(written - long, 0),
        cache_write_1h=long,
        is_contradictory=counts.is_broken or long > written,
    )


def beside(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """Counts that stand beside the text: Ollama's, those of models that are invoked on Bedrock, and what Bedrock adds
    to the last chunk of any stream."""
    counts = Counts()
    found = items(get(block, "results"))
    read = counts.of(block, "prompt_eval_count", "inputTextTokenCount", "inputTokenCount", "prompt_token_count")
    output = counts.of(block, "eval_count", "totalOutputTextTokenCount", "outputTokenCount", "generation_token_count")
    if output is None and found:
        output = sum(counts.part(each, "tokenCount") for each in found)
    cached, written = counts.part(block, "cacheReadInputTokenCount"), counts.part(block, "cacheWriteInputTokenCount")
    return Draft(
        input=None if read is None else read + cached + written,
        output=output,
        cached=cached,
        cache_write=written,
        is_contradictory=counts.is_broken,
    )


def unreadable(block: object, reply: object, context: Context, seen: Seen) -> Draft:
    """A block in which no count has a known name."""
    return Draft(is_contradictory=True)


_BY_NAME: Final[tuple[tuple[tuple[str, ...], Shape], ...]] = (
    (("prompt_tokens", "completion_tokens"), chat),
    (("prompt_eval_count", "inputTextTokenCount", "inputTokenCount", "generation_token_count"), beside),
    (("prompt_token_count", "promptTokenCount", "total_token_count", "totalTokenCount"), gemini),
    (("inputTokens", "outputTokens", "totalTokens"), bedrock),
)
_ANTHROPIC: Final = (
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "server_tool_use",
    "iterations",
    "inference_geo",
)
_RESPONSES: Final = (
    *("input_tokens_details", "output_tokens_details", "input_token_details", "output_token_details"),
    *("total_tokens", "seconds", "cache_read_tokens", "cache_write_tokens"),
)


def shape_of(block: object, reply: object) -> Shape:
    """Who speaks like that. ``input_tokens`` is Anthropic's word and OpenAI's; what is beside it tells them apart."""
    for names, shape in _BY_NAME:
        if first(block, *names) is not None:
            return shape
    if first(block, *_ANTHROPIC) is not None or word(get(reply, "type")) == "message":
        return anthropic
    if first(block, *_RESPONSES) is not None:
        return responses
    return unreadable if first(block, "input_tokens", "output_tokens") is None else anthropic


PROVIDERS: Final[dict[Shape, str]] = {anthropic: "anthropic", gemini: "google", bedrock: "aws"}
"""Who answers in that shape, as far as it tells. Many answer in OpenAI's."""
