"""Whatever a reply holds, reading it neither fails nor makes a call free; and what is estimated before a call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.ai.estimate import ALLOWANCES, input_tokens
from mm_metering.ai.reading import MAX_NODES, text_bytes
from mm_metering.ai.replies import usage_of
from mm_metering.ai.streams import StreamUsage
from mm_metering.ai.usage import COUNTS, MAX_TOKENS, Usage
from mm_metering.errors import InvalidInput
from tests.unit.ai_replies import a_round, chat, converse, google, message, response, tokens
from tests.unit.ai_streams import STARTED, Stream, delta, last, start, stop, streamed, text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = (
    "prompt_tokens completion_tokens total_tokens input_tokens output_tokens cache_read_input_tokens "
    "iterations type model cache_creation_input_tokens cache_creation ephemeral_1h_input_tokens "
    "prompt_tokens_details cached_tokens seconds audio_tokens completion_tokens_details reasoning_tokens "
    "input_tokens_details server_tool_use web_search_requests promptTokenCount thoughtsTokenCount "
    "candidatesTokenCount totalTokenCount promptTokensDetails modality tokenCount inputTokens outputTokens "
    "cacheReadInputTokens cacheWriteInputTokens cacheDetails ttl usage usageMetadata choices message content "
    "text delta response data billed_units tool_usage web_search num_requests image_gen service_tier "
)
VALUES = st.integers(-3, 3000) | st.sampled_from(
    [None, True, "12", "x", 1e30, -1.5, 10**40, "message", "compaction", "1h"]
)
REPLIES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=8),
    max_leaves=25,
)


def test_the_asked_model_is_kept_beside_the_replys() -> None:
    usage = usage_of(chat(tokens(1, 1), model="gpt-4o-2024-08-06"), model=" gpt-4o ")
    assert usage is not None
    assert (usage.model, usage.asked_model) == ("gpt-4o-2024-08-06", "gpt-4o")


def test_an_advisors_line_was_not_asked_for_under_the_calls_name() -> None:
    rounds = [a_round("advisor_message", 8, 1, model="claude-opus-4-6"), a_round("compaction", 9, 1)]
    usage = usage_of(message({"input_tokens": 4, "output_tokens": 5, "iterations": rounds}), model="fast")
    assert usage is not None
    assert [(line.model, line.asked_model) for line in usage.lines] == [
        ("claude-opus-4-6", None),
        ("claude-sonnet-4-5", "fast"),
    ]


@given(st.one_of(JSON, REPLIES))
def test_no_reply_makes_it_fail(reply: Any) -> None:
    usage = usage_of(reply, model="m", input_tokens=3)
    assert usage is None or usage.input + usage.audio_seconds > 0


@given(REPLIES, st.sampled_from([chat, message, response, google, converse]))
def test_no_usage_block_makes_a_call_free(block: Any, reply: Any) -> None:
    """Whatever stands where the counts should be."""
    usage = usage_of(reply(block), input_tokens=3)
    assert usage is not None
    assert usage.input + usage.audio_seconds > 0
    assert usage.output > 0 or usage.audio_seconds or not usage.is_estimated or not text_bytes(reply(block))


@given(
    st.lists(
        st.one_of(REPLIES, st.builds(lambda reply: {"type": "message_delta", "usage": reply}, REPLIES)), max_size=6
    )
)
def test_no_stream_makes_it_fail(chunks: list[Any]) -> None:
    found = streamed(Stream("any", chunks, {}))
    usage = found.usage(input_tokens=3)
    assert usage.input + usage.audio_seconds > 0
    assert usage.is_estimated or found.is_complete


class Hostile(Mapping[str, Any]):
    """Raises whatever is asked of it."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")


class Raising:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("kind", ["mapping", "object", "mock", "raising usage", "raising mapping as usage", "bare"])
def test_objects_that_raise_are_read_as_nothing(kind: str) -> None:
    things: dict[str, Any] = {
        "mapping": Hostile(),
        "object": Raising(),
        "mock": MagicMock(),
        "raising usage": SimpleNamespace(usage=Raising()),
        "raising mapping as usage": {"usage": Hostile()},
        "bare": object(),
    }
    thing = things[kind]
    usage = usage_of(thing, input_tokens=3)
    found = StreamUsage()
    found.add(thing)
    assert usage is None or (usage.is_estimated and usage.input == 3)
    assert found.usage(input_tokens=3).is_estimated


def test_a_reply_that_holds_itself_is_read_to_the_bound() -> None:
    reply = chat(None, "abc")
    reply["choices"].append(reply)
    assert 3 <= text_bytes(reply) <= 3 * MAX_NODES


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=5))
def test_the_last_value_of_each_field_holds_whatever_the_deltas_leave_out(rounds: list[tuple[int, int, int]]) -> None:
    """Deltas in order, each with only some of the fields: as if the last had held them all."""
    names = ("input_tokens", "cache_read_input_tokens", "output_tokens")
    whole = dict(STARTED)
    pieces, together = StreamUsage(), StreamUsage()
    pieces.add(start(STARTED))
    for number, values in enumerate(rounds):
        name = names[number % 3]
        whole[name] = 1 + values[number % 3]
        pieces.add(stop({name: whole[name]}))
    together.add(start(STARTED))
    together.add(stop(whole))
    assert pieces.usage() == together.usage()


@given(st.lists(st.text(max_size=30), max_size=8))
def test_a_broken_stream_is_a_third_of_what_it_wrote_however_it_was_cut(words: list[str]) -> None:
    size = len("".join(words).encode())
    for chunks in ([delta(word) for word in words], [text(word) for word in words]):
        found = streamed(Stream("any", chunks, {}))
        assert found.output_bytes == size
        assert found.usage().output == -(-size // 3)


def test_the_end_is_not_estimated_even_if_the_text_was_longer() -> None:
    found = streamed(Stream("any", [delta("x" * 3000), last(tokens(10, 5))], {}))
    assert found.is_complete
    assert found.usage() == usage_of(chat(tokens(10, 5)))


@pytest.mark.parametrize(
    ("counts", "field"),
    [
        ({"input": -1}, "input"),
        ({"input": True}, "input"),
        ({"output": 1.0}, "output"),
        ({"input": 5, "cached": 3, "cache_write": 2, "cache_write_1h": 1}, "cached"),
        ({"input": 5, "audio_input": 3, "image_input": 3}, "audio_input"),
        ({"input": 5, "audio_input": 3, "cached": 1, "cached_audio": 2}, "cached_audio"),
        ({"output": 5, "reasoning": 6}, "reasoning"),
        ({"output": 5, "audio_output": 3, "image_output": 3}, "reasoning"),
    ],
)
def test_a_usage_that_cannot_be_is_not_built(counts: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Usage(**counts)
    assert caught.value.field == field


def test_every_count_is_checked() -> None:
    assert len(COUNTS) == 14
    for name in COUNTS:
        with pytest.raises(InvalidInput):
            Usage(**dict[str, Any]({name: -1}))


@pytest.mark.parametrize(
    ("prompt", "tools", "tokens_"),
    [
        ("", None, 0),
        ("abc", None, 1),
        ("abcd", None, 2),
        ("日本語", None, 3),
        ("\ud800", None, 1),
        ([{"role": "user", "content": "Hi"}], None, 12),  # [{"role": "user", "content": "Hi"}] has 35 bytes
        ("abc", [{"name": "f"}], 6),  # abc[{"name": "f"}]
        ({"a": b"\x00" * 9000}, None, ALLOWANCES["file"] + 3),
        ({"input": {1, 2}}, None, 6),  # {"input": [1, 2]}
        (SimpleNamespace(a=1), None, 3),  # {"a": 1}
    ],
)
def test_an_estimate_is_a_third_of_the_bytes(prompt: Any, tools: Any, tokens_: int) -> None:
    assert input_tokens(prompt, tools=tools) == tokens_


BLOB = "QUJD" * 50_000


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + BLOB}}, "image"),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "image"),
        ({"type": "input_image", "image_url": "data:image/png;base64," + BLOB}, "image"),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BLOB}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": BLOB, "format": "wav"}}, "audio"),
        ({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + BLOB}}, "file"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BLOB}}, "file"),
        ({"inline_data": {"mime_type": "image/png", "data": BLOB}}, "image"),
        ({"inlineData": {"mimeType": "audio/wav", "data": BLOB}}, "audio"),
        ({"file_data": {"mime_type": "application/pdf", "file_uri": "gs://a/b"}}, "file"),
        ({"image": {"format": "png", "source": {"bytes": BLOB.encode()}}}, "image"),
        ({"document": {"format": "pdf", "name": "a", "source": {"bytes": b"abc"}}}, "file"),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, "video"),
    ],
)
def test_a_part_that_is_no_text_counts_a_fixed_number(part: dict[str, Any], kind: str) -> None:
    """Besides its few words of JSON."""
    found = input_tokens([{"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}])
    assert ALLOWANCES[kind] < found < ALLOWANCES[kind] + 100


def test_a_text_about_parts_is_a_text() -> None:
    """Or a caller could make its text cost a fixed number."""
    written = '{"type": "image", "data": "' + BLOB + '"}'
    assert input_tokens([{"role": "user", "content": written}]) > len(written) // 3
    assert input_tokens(written, tools=[]) > len(written) // 3


def test_the_hosts_tokenizer_is_asked() -> None:
    assert input_tokens([{"role": "user", "content": "one two"}], tokenizer=lambda words: len(words.split())) == 5


@pytest.mark.parametrize("depth", [100_000])
def test_what_cannot_be_sent_is_refused(depth: int) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    own: list[Any] = []
    own.append(own)
    for prompt in (deep, own):
        with pytest.raises(InvalidInput, match="input: is nested"):
            input_tokens(prompt)


@given(st.text(max_size=300))
def test_an_estimate_is_never_below_a_third_of_what_is_sent(words: str) -> None:
    assert input_tokens([{"role": "user", "content": words}]) * 3 >= len(words.encode("utf-8", "surrogatepass"))


def test_reading_replies_imports_no_sdk() -> None:
    code = "import sys\nfrom mm_metering.ai import estimate, prices, replies, streams\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sdks = {"openai", "anthropic", "google", "mistralai", "boto3", "litellm", "genai_prices", "httpx", "httpx2"}
    assert not sdks & set(ran.stdout.split())


def test_no_number_passes_the_bound() -> None:
    usage = usage_of(chat(tokens(MAX_TOKENS, MAX_TOKENS)))
    assert usage is not None
    assert (usage.input, usage.output) == (MAX_TOKENS, MAX_TOKENS)
