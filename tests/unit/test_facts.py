"""Facts on their way: one line each, that comes back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.facts import FIRST_US, KINDS, LAST_US, MOST, Count, Fact, decode, encode, void, with_grants
from mm_metering.testing.ledger_contract import HOSTILE

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
amounts = st.integers(-MOST, MOST)
counts = st.lists(st.builds(Count, texts, texts, amounts), max_size=4).map(tuple)
facts = st.builds(
    Fact,
    *(texts, st.integers(FIRST_US, LAST_US), st.sampled_from(sorted(KINDS)), texts, texts, texts, amounts),
    *(st.none() | amounts, counts, st.booleans(), texts, st.none() | texts),
)
COUNTS = (Count("b", "", 9), Count("c", "", 9), Count("a", "", 9), Count("b", "u", 9))
HOLD = Fact("h", 1_705_320_000_000_000, "hold", "acme", "ai_call", "gpt-4", 1, None, COUNTS)


@given(facts)
def test_a_fact_comes_back_from_its_line(fact: Fact) -> None:
    line = encode(fact)
    assert decode(line) == decode(line.decode()) == fact
    assert line.isascii()
    assert not {10, 12} & set(line), "what stands between lines and payloads is never in one"


def test_grants_go_to_the_meters_in_their_order_of_appearance() -> None:
    granted = (Count("b", "", 5), Count("c", "", 7), Count("a", "", 0), Count("b", "u", 5))
    assert with_grants(HOLD, (5, 7, 0)).counts == granted
    assert decode(b"5,7,0;" + encode(HOLD)).counts == granted


@pytest.mark.parametrize("grants", ["5", "5,7", "5,7,0,9", "5,,7", "x,7,0"])
def test_grants_of_other_meters_are_no_fact(grants: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        decode(f"{grants};{encode(HOLD).decode()}")
    assert not isinstance(refused.value, UnicodeError)


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", "[1,2", '"text"', "7;", json.dumps([None] * 11), json.dumps([0] * 13)]
)
def test_what_is_no_fact_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(line)


def test_a_void_meets_the_row_of_its_fact() -> None:
    """A ledger keeps facts by tenant, instant and id; the void takes nothing of its own away."""
    fact = HOLD._replace(metadata="{}", cost_nanos=3)
    back = void(fact)
    assert (back.kind, back.target, back.tenant, back.occurred_us) == ("void", "h", "acme", HOLD.occurred_us)
    assert (back.quantity, back.cost_nanos, back.counts, back.metadata) == (0, None, (), None)
    assert back.id != fact.id


FACT = Fact("f", 1_700_000_000_000_000, "use", "acme", "api_call", "/x", 2, None, (Count("api_calls", "", 2),))


@pytest.mark.parametrize("text", ["", "plain", "\x7f", "\u2028", 'a"b', "a\\", '","', *HOSTILE])
def test_a_line_gives_back_its_fact_whatever_its_words_hold(text: str) -> None:
    for fact in (
        FACT._replace(id=text, occurred_us=-5),
        FACT._replace(tenant=text, resource=text),
        FACT._replace(counts=(Count(text, text, -1), Count("m", "", 2**53)), target=text, metadata=text),
    ):
        unescaped = json.dumps(list(fact), ensure_ascii=False, separators=(",", ":"))
        spaced = json.dumps(list(fact), indent=1)
        assert [decode(line) for line in (encode(fact), unescaped, spaced)] == [fact] * 3


def test_lines_that_share_their_ends_do_not_share_their_facts() -> None:
    facts = [FACT._replace(id=f"f{n}", tenant=f"t{n}", occurred_us=n) for n in range(3)]
    assert [decode(encode(fact)) for fact in facts] == facts
    held = b"7;" + encode(FACT._replace(kind="hold"))
    assert [decode(held).counts, decode(encode(FACT)).counts] == [(Count("api_calls", "", 7),), FACT.counts]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ('"f"', '"f'),
        ("1700000000000000", "017"),
        ("1700000000000000", "\u0661\u0667"),
        ("1700000000000000", "--1"),
        ('"acme"', '"ac\nme"'),
        ('"acme"', '"ac\tme"'),
        ('"acme",', '"acme"'),
        (",null]", "]"),
        (",null]", ",null,null]"),
        (",null]", ",null]]"),
        (",null]", ",null],["),
        (",null]", ",null"),
        ('[["api_calls","",2]]', "[[1]]"),
        ('[["api_calls","",2]]', "null"),
    ],
)
def test_an_altered_line_is_refused_whichever_way_it_is_read(ours: str, theirs: str) -> None:
    line = encode(FACT).decode()
    assert line.count(ours) == 1
    for text in (line.replace(ours, theirs), line.replace(ours, theirs).replace('"f"', '"\\u0066"')):
        with pytest.raises((ValueError, TypeError)):
            decode(text)
