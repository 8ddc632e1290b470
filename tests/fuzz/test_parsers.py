"""Whatever comes, each parser answers or refuses by an error of ours, within 50 ms of a core. What was once found, or
is known to be nasty, stands in ``corpus`` and is read each time. ``MM_FUZZ=3000`` is the long form."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import PARSERS

MANY = int(os.environ.get("MM_FUZZ", "40"))
SEED = os.environ.get("MM_FUZZ_SEED")
CORPUS = Path(__file__).parent / "corpus"
MOST_S: Final = 0.050
TRIES: Final = 3
"""A measurement that another process disturbs is taken again."""

pytestmark = pytest.mark.timeout(60 + MANY)


@cache
def corpus(name: str) -> tuple[bytes, ...]:
    """The parser's own inputs, and those of all."""
    paths = [CORPUS / f"{each}.json" for each in (name, "any")]
    return tuple(_bytes_of(each) for path in paths if path.exists() for each in json.loads(path.read_text()))


def _bytes_of(entry: str | dict[str, Any]) -> bytes:
    """A text; ``{"hex": "ff00"}``; or ``{"parts": [["[", 9000], ["]", 9000]]}``: texts, each so many times."""
    if isinstance(entry, str):
        return entry.encode("utf-8", "surrogatepass")
    if "hex" in entry:
        return bytes.fromhex(entry["hex"])
    return b"".join(_bytes_of(each) * times for each, times in entry["parts"])


def reads(name: str, raw: bytes) -> None:
    parser, took, said = PARSERS[name], list[float](), ""
    for _ in range(TRIES):
        began = time.thread_time()
        try:
            parser.read(raw)
        except parser.refuses as error:
            said = str(error)
        took.append(time.thread_time() - began)
        assert len(said) < 2_000, (name, raw[:200])
        if took[-1] < MOST_S:
            return
    raise AssertionError(f"{name}: {min(took) * 1000:.0f} ms for {raw[:200]!r} ({len(raw):,} bytes)")


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Bytes from nowhere, and what the corpus holds, cut and put together otherwise."""
    known = st.sampled_from([each for each in corpus(name) if len(each) < 2_000])
    cut = st.tuples(known, st.integers(0, 400), st.binary(max_size=12), st.integers(0, 400))
    spliced = cut.map(lambda it: it[0][: it[1]] + it[2] + it[0][it[3] :])
    joined = st.tuples(known, known, st.integers(0, 400)).map(lambda it: it[0][: it[2]] + it[1])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names(), inner, max_size=5),
        max_leaves=20,
    ).map(lambda it: json.dumps(it).encode())
    return st.one_of(spliced, joined, values, st.binary(max_size=200), st.text(max_size=100).map(_utf8))


def _names() -> st.SearchStrategy[str]:
    """Of fields that are read somewhere."""
    return st.text(max_size=8) | st.sampled_from(
        [
            *("id", "object", "type", "created", "livemode", "data", "account", "tenant", "event_type", "quantity"),
            *("cost", "usage", "choices", "message", "content", "delta", "input_tokens", "prompt_tokens", "model"),
        ]
    )


def _utf8(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _known() -> Iterator[str]:
    return (path.stem for path in sorted(CORPUS.glob("*.json")))


def test_each_file_of_the_corpus_is_a_parsers() -> None:
    assert {*_known()} == {*PARSERS, "any"}


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_read_or_refused(name: str) -> None:
    for raw in corpus(name):
        reads(name, raw)


@pytest.mark.parametrize("name", PARSERS)
def test_whatever_comes_is_read_or_refused(name: str) -> None:
    @settings(
        max_examples=MANY,
        deadline=None,
        database=None,
        derandomize=SEED is None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(inputs(name))
    def fuzz(raw: bytes) -> None:
        reads(name, raw)

    (fuzz if SEED is None else seed(int(SEED))(fuzz))()
