"""From the chunks of a stream to its usage, whether it came to its end or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mm_metering.ai.drafts import Draft, Seen
from mm_metering.ai.estimate import tokens_of, utf8_bytes
from mm_metering.ai.reading import first, get, is_object, items, text_bytes, word
from mm_metering.ai.replies import context_of, find_block, read
from mm_metering.ai.shapes import beside, shape_of
from mm_metering.ai.usage import MAX_TOKENS, Usage

_REPLY: Final = ("model", "model_version", "modelVersion", "service_tier", "serviceTier", "speed", "tool_usage", "type")
_MERGED: Final = (
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
    *("output_tokens_details", "server_tool_use", "iterations", "service_tier", "speed", "inference_geo"),
)
"""Anthropic's deltas hold only some fields: those replace, the others stay."""
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})
_DELTAS: Final = frozenset({"content_block_start", "content_block_delta"})
_MESSAGES: Final = frozenset({"message_start", "message_delta", "message_stop"})
_SAID_TWICE: Final = ("content.", "refusal.", "tool_calls.", "logprobs.")
_ALSO_TWICE: Final = frozenset(
    {"text", "thinking", "input_json", "citation", "signature", "content_block_stop", "ping"}
)
"""Events of an SDK's own, beside the provider's chunks that say the same."""
_DEPTH: Final = 6
"""So far inside of a chunk its text is."""
_NOT_TEXT: Final = ("audio.delta", "image.delta")


class StreamUsage:
    """``add`` every chunk, as the SDK gives it or as a dict; then ``usage``. Neither raises, and no text is kept."""

    def __init__(self, *, model: str | None = None, provider: str | None = None) -> None:
        self._model = model
        self._provider = provider
        self._reply: dict[str, object] = {}
        self._block: object = None
        self._bytes = 0
        self._bytes_said = 0
        self._is_said = False
        self._is_finished = False

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes that the model wrote until now, with reasoning and arguments of tools."""
        return self._bytes

    @property
    def is_complete(self) -> bool:
        """Whether the provider has said what the whole call used."""
        return self._is_said or (self._is_finished and self._block is not None and self._bytes == self._bytes_said)

    def add(self, chunk: object) -> None:
        """One chunk or event, in the order in which they come."""
        chunk, kind = _opened(chunk)
        if kind.startswith("response."):
            self._add_response(chunk, kind)
        elif kind in _DELTAS:
            self._bytes += text_bytes(chunk)
        elif kind in _MESSAGES:
            self._add_message(chunk, kind)
        elif kind not in _ALSO_TWICE and not kind.startswith(_SAID_TWICE):
            self._add_chunk(chunk)

    def usage(self, *, input_tokens: int = 0, max_output_tokens: int = MAX_TOKENS) -> Usage:
        """What the call has used until now. ``input_tokens``: the estimate from before the call, taken where the stream
        has not said what was read. What was written after the last count is estimated from its bytes, so that the
        whole is at most ``max_output_tokens``."""
        if self._block is None:
            context = context_of(self._reply, None, model=self._model, provider=self._provider)
            return Draft().usage(
                context, Seen(input_tokens=input_tokens, output_bytes=self._bytes, max_output_tokens=max_output_tokens)
            )
        found = read(
            self._block,
            self._reply,
            None,
            model=self._model,
            provider=self._provider,
            input_tokens=input_tokens,
            output_bytes=self._bytes if self.is_complete else self._bytes_said,
            max_output_tokens=max_output_tokens,
        )
        if self.is_complete:
            return found
        unsaid = min(tokens_of(self._bytes - self._bytes_said), max(0, max_output_tokens - found.output))
        return replace(found, output=found.output + unsaid, is_estimated=True)

    def _add_response(self, event: object, kind: str) -> None:
        delta = get(event, "delta")
        if isinstance(delta, str) and not kind.endswith(_NOT_TEXT):
            self._bytes += utf8_bytes(delta)
        reply = get(event, "response")
        if is_object(reply):
            self._note(reply)
            self._is_said |= kind in _ENDS and self._block is not None

    def _add_message(self, event: object, kind: str) -> None:
        reply = get(event, "message")
        if is_object(reply):
            self._note_fields(reply)
        block = first(event, "usage") if kind == "message_delta" else first(reply, "usage")
        if not is_object(block):
            return
        before = self._block if isinstance(self._block, dict) else {}
        fresh = {name: value for name in _MERGED if (value := get(block, name)) is not None}
        self._block, self._bytes_said = before | fresh, self._bytes
        self._is_said |= kind != "message_start"

    def _add_chunk(self, chunk: object) -> None:
        self._bytes += text_bytes(chunk)
        choices = first(chunk, "choices", "candidates")
        ends = (first(each, "finish_reason", "finishReason") for each in items(choices))
        self._is_finished |= any(end is not None for end in ends)
        has_none = isinstance(choices, list | tuple) and not choices
        self._is_said |= self._note(chunk) and (has_none or _is_last(chunk))

    def _note(self, reply: object) -> bool:
        """What a chunk says of the call; whether that is a count. The model is in the first, and beside counts."""
        around, block = find_block(reply)
        is_count = block is not None and (block is not reply or shape_of(reply, None) is beside)
        if is_count or not self._reply:
            self._note_fields(reply)
        if not is_count:
            return False
        if around is not reply:
            self._note_fields(around)
        self._block, self._bytes_said = block, self._bytes
        return True

    def _note_fields(self, reply: object) -> None:
        self._reply |= {name: value for name in _REPLY if (value := get(reply, name)) is not None}


def _is_last(chunk: object) -> bool:
    """Bedrock's, Ollama's and Cohere's that says what the whole was."""
    return (
        first(chunk, "metadata", "amazon-bedrock-invocationMetrics") is not None
        or get(chunk, "done") is True
        or get(chunk, "type") == "message-end"
    )


def _opened(chunk: object) -> tuple[object, str]:
    """The provider's chunk, out of what openai's stream helper or mistralai put it in, and its type."""
    kind = word(get(chunk, "type")) or ""
    inner = get(chunk, "chunk" if kind == "chunk" else "data")
    return (inner, "") if first(inner, "choices") is not None else (chunk, kind)


def text_of(chunk: object) -> str:
    """What a chunk has for a reader: no reasoning, and no arguments of tools; nothing twice."""
    chunk, kind = _opened(chunk)
    if isinstance(chunk, str):
        return chunk
    if kind in _DELTAS or kind == "response.output_text.delta":
        return _texts(get(chunk, "delta"))
    if kind in _MESSAGES or kind in _ALSO_TWICE or kind.startswith(("response.", *_SAID_TWICE)):
        return ""
    choices = [*items(get(chunk, "choices")), *items(get(chunk, "candidates"))]
    if choices:
        return "".join(_texts(first(each, "delta", "content", "text")) for each in choices)
    around = get(get(chunk, "contentBlockDelta"), "delta")  # Bedrock's
    return _texts(
        first(chunk, "generation", "outputText", "response", "message", "delta") if around is None else around
    )


def _texts(thing: object, depth: int = _DEPTH) -> str:
    """A text, or that of an object or a list of parts. Google marks thoughts."""
    if isinstance(thing, str):
        return thing
    if not depth:
        return ""
    if isinstance(thing, list | tuple):
        return "".join(_texts(first(each, "text"), depth - 1) for each in items(thing) if not get(each, "thought"))
    found = first(thing, "content", "text", "parts", "message") if is_object(thing) else None
    return _texts(found, depth - 1)
