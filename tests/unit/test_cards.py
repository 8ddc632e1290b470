"""Card numbers are found in texts, and ids and times are not taken for them."""

from __future__ import annotations

import json
import random
import time
import uuid

import pytest

from mm_metering.core.cards import has_card, masked, refuse_card
from mm_metering.errors import InvalidInput
from tests.card_numbers import EVERY


def _grouped(number: str, by: str) -> str:
    sizes = {14: (4, 6, 4), 15: (4, 6, 5), 16: (4, 4, 4, 4), 19: (4, 4, 4, 4, 3)}[len(number)]
    digits = iter(number)
    return by.join("".join(next(digits) for _ in range(size)) for size in sizes)


@pytest.mark.parametrize("separator", ["", " ", "-", ".", "\u00a0", "\u2011"])
def test_each_of_stripes_test_cards_is_found_however_it_is_written(separator: str) -> None:
    missed = [each for each in EVERY if not has_card(f"paid with {_grouped(each, separator)}, exp 12/27 123.")]
    assert missed == []
    texts = [json.dumps({"a": [{"card": _grouped(each, separator)}]}, ensure_ascii=False) for each in EVERY]
    assert [each for each in texts if not has_card(each)] == []


def test_a_number_in_json_is_found() -> None:
    assert all(has_card(json.dumps({"card": int(each)})) for each in EVERY)


def test_only_its_last_digits_are_left_of_a_card() -> None:
    text = "12 4242 4242 4242 4242 12/27, then 378282246310005;5555-5555-5555-4444"
    assert masked(text) == "12 •••• 4242 12/27, then •••• 0005;•••• 4444"
    assert masked("nothing here: 4242424242424241") == "nothing here: 4242424242424241"


@pytest.mark.parametrize(
    "text",
    [
        "pi_3MtwBw4242424242424242",
        "4242424242424242abc",
        "order_4242424242424242",
        "0.4242424242424242",
        "42424242424242424242",
        "4242 4242 4242 4241",
        "+49 4242 424242 4242",
        "4000000000006",  # thirteen digits: a bar code
        "2024-01-15T12:00:00.123456Z",
    ],
)
def test_what_only_looks_a_little_like_one_is_left_alone(text: str) -> None:
    assert not has_card(text)


def test_ids_and_times_are_not_cards() -> None:
    draw = random.Random(20240115)
    ids = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(20_000)]
    times = [str(draw.randrange(1_600_000_000, 2_000_000_000) * unit) for unit in (10**3, 10**6, 10**9)] * 1_000
    assert not any(map(has_card, (*ids, *(each.replace("-", "") for each in ids), *times)))


def test_of_plain_numbers_one_in_twenty_at_most_is_taken_for_a_card() -> None:
    draw = random.Random(20240115)
    numbers = [str(draw.randrange(10**15, 10**16)) for _ in range(20_000)]
    assert sum(map(has_card, numbers)) < 1_000


def test_the_error_does_not_repeat_the_number() -> None:
    with pytest.raises(InvalidInput, match="leave it out") as refused:
        refuse_card("my card is 4242 4242 4242 4242", "reason")
    assert "4242" not in str(refused.value)


@pytest.mark.parametrize("text", ["4 " * 10_000, "4242 " * 4_000, "1" * 20_000, "4-" * 10_000])
def test_a_long_text_takes_no_longer_than_it_must(text: str) -> None:
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 0.5
