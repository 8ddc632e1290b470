"""The audit log's chain, and what is written into it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering import FrozenClock
from mm_metering.core.audit import MAX_SAID, Act, AuditEntry, said
from mm_metering.core.audit_chain import AuditAnchor, Head, Link, Outside, Walk, anchors_in, canonical, chained
from mm_metering.core.audited import audited
from mm_metering.core.books import Account, Entries
from mm_metering.core.cells import Segment
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.timeline import StateChange
from mm_metering.errors import InvalidInput
from mm_metering.gate.acting import act_now, acting
from mm_metering.vault import Vault

AT = datetime(2026, 11, 27, tzinfo=UTC)
KEYS = {"new": b"n" * 32, "old": b"o" * 32}
TEXTS = st.text(max_size=4)
NUMBERS = st.integers(0, 12)
LINKS = st.builds(Link, NUMBERS, NUMBERS, TEXTS, st.just(""), TEXTS, TEXTS, NUMBERS, *[TEXTS] * 7)


def an_entry(name: str, **changes: Any) -> AuditEntry:
    return AuditEntry(name, "acme", AT, "host", "invoice voided", "inv_1", **changes)


def some(number: int) -> list[AuditEntry]:
    return [an_entry(f"a{each}", reason="é") for each in range(number)]


def a_chain(number: int = 5, keys: dict[str, bytes] = KEYS) -> list[Link]:
    return chained(some(number), Head(0, Outside().mac), keys)


def flaws(links: list[Link], *anchors: tuple[int, str], head: Head | None = None, keys: Any = KEYS) -> list[Any]:
    """(seq, flaw) of all that is wrong."""
    walk, last = Walk(keys, anchors), links[-1] if links else None
    found = [*walk.page(links[:2]), *walk.page(links[2:])]
    found += walk.end(head or (Head(last.seq or 0, last.mac) if last else Head()))
    return [(each.seq, each.flaw) for each in found]


@given(LINKS, LINKS)
def test_no_two_links_have_one_text(one: Link, other: Link) -> None:
    assert (canonical(one) == canonical(other)) == (one == other)


@given(st.text(min_size=1, max_size=3), LINKS, st.sampled_from([4, *range(7, 13)]))
def test_a_text_that_moves_from_one_field_to_the_next_is_another(text: str, link: Link, at: int) -> None:
    fields: list[Any] = [*link]
    one, other = ([*fields], [*fields])
    one[at] += text
    other[at + 1] = text + other[at + 1]
    assert canonical(Link(*one)) != canonical(Link(*other))


def test_form_1_stays_as_it_is() -> None:
    link = Link(2, 1, "k", "", "a", "acme", 5, "host", "voided", "inv", "", '{"x": 1}', "é", "why")
    assert canonical(link) == '1 2 5 1 1 4 4 6 3 0 8 1 3:kaacmehostvoidedinv{"x": 1}éwhy'.encode()
    first = chained([an_entry("a")], Head(0, Outside().mac), {"k": b"k" * 32})[0]
    assert first.mac == "b4cab912f33ac262c1497aed327cab2b426caa90dc9bf3757784c89036c4c8e9"


def test_a_chain_goes_on_where_it_ended_and_holds() -> None:
    first = a_chain(3)
    rest = chained([an_entry("b")], Head(3, first[-1].mac), {"old": KEYS["old"]})
    assert [each.seq for each in first + rest] == [1, 2, 3, 4]
    assert [each.kid for each in first + rest] == ["new", "new", "new", "old"]
    assert [each.entry for each in first] == some(3)
    assert flaws(first + rest, (2, first[1].mac)) == flaws([]) == []


@pytest.mark.parametrize("field", Link._fields[4:])
def test_whatever_is_changed_is_found_where_it_is(field: str) -> None:
    links = a_chain()
    changes: dict[str, Any] = {field: 7 if field == "at_us" else "other"}
    links[2] = links[2]._replace(**changes)
    assert flaws(links) == [(3, "changed")]


def test_what_is_missing_twice_or_cut_off_is_found() -> None:
    links = a_chain()
    end = Head(5, links[-1].mac)
    assert flaws([*links[:1], *links[3:]]) == [(2, "missing"), (4, "changed")]
    assert flaws([*links[:2], *links[1:]])[:2] == [(2, "twice"), (2, "changed")]
    assert flaws(links[:3], head=end) == [(4, "cut off")]
    assert flaws(links[:3]) == []
    assert flaws(links[:3], (5, links[4].mac)) == [(4, "cut off")]
    assert flaws([], (5, links[4].mac)) == [(1, "cut off")]
    assert flaws([*links[:1], *links[3:]], (2, links[1].mac))[-1] == (2, "missing")


def test_who_has_no_key_can_only_make_a_chain_that_an_anchor_tells_apart() -> None:
    links, anchor = a_chain(), (5, a_chain()[-1].mac)
    unsigned = chained(some(2), Head(3, links[2].mac), {})
    assert flaws(links[:3] + unsigned) == [(4, "unsigned"), (5, "unsigned")]
    assert flaws(links[:3] + unsigned, (5, unsigned[-1].mac)) == []
    assert flaws(a_chain(keys={})) == []
    assert flaws(a_chain(keys={}), anchor) == [(5, "anchor")]
    assert flaws(a_chain(keys={"new": b"x" * 32})) == [(each, "changed") for each in range(1, 6)]
    assert flaws(a_chain(keys={"own": b"x" * 32})) == [(1, "no key")]
    assert flaws([each._replace(form=2) for each in links]) == [(each, "form") for each in range(1, 6)]


def test_the_first_link_follows_from_what_is_older_than_the_chain() -> None:
    old = Link(None, 0, "", "", "x", "acme", 1, "worker", "collection open -> paid", "inv_1", "", "", "", "")

    def outside(*links: Link) -> Outside:
        found = Outside()
        found.add(links)
        return found

    links = chained(some(2), Head(0, outside(old).mac), KEYS)

    def found(*left: Link) -> list[Any]:
        walk = Walk(KEYS, outside=outside(*left))
        return [(each.seq, each.flaw) for each in walk.page(links)]

    assert found(old) == []
    others = [[], [old._replace(actor="host")], [old, old._replace(id="y")]]
    assert [found(*each) for each in others] == [[(1, "changed")]] * 3


def test_anchors_are_found_in_any_text() -> None:
    one, two = AuditAnchor(7, "ab" * 32, AT), AuditAnchor(12, "0" * 64, AT)
    text = f"INFO mm_metering.audit: audit anchor {one}\n{two} 2026-11-27T00:00:00Z\n3:abc 0:{'0' * 64} x"
    assert anchors_in(text) == [(7, "ab" * 32), (12, "0" * 64)]


def test_keys_are_the_purposes_own_and_the_newest_signs() -> None:
    vault, older = Vault(b"a" * 32, b"b" * 32), Vault(b"b" * 32)
    keys = vault.derived("audit")
    assert [*keys] == [*Vault(b"a" * 32).derived("audit"), *older.derived("audit")]
    assert not {*keys.values()} & ({b"a" * 32, b"b" * 32} | {*vault.derived("other").values()})
    assert Vault().derived("audit") == {}


# -- what is said ------------------------------------------------------------------------------------------------------


def test_who_acts_holds_in_the_block_and_no_further() -> None:
    clock = FrozenClock(AT)

    def now(**said: Any) -> tuple[str, str]:
        act = act_now(clock, lambda: "id", **said)
        return act.actor, act.reason

    assert (now(), now(actor="evt_1", reason="sub_1")) == (("host", ""), ("evt_1", "sub_1"))
    with acting(" ann ", reason="ticket 12"):
        assert (now(), now(reason="own")) == (("ann", "ticket 12"), ("ann", "ticket 12"))
        with acting("bob"):
            assert now() == ("bob", "")
        assert now() == ("ann", "ticket 12")
    assert now() == ("host", "")


@pytest.mark.parametrize("actor", ["", " ", "a\nb", "x" * 129, None])
def test_an_actor_is_a_short_printable_text(actor: Any) -> None:
    with pytest.raises(InvalidInput, match="actor"), acting(actor):
        pass


def test_what_is_said_of_a_state_is_short() -> None:
    assert (said(None), said({}), said({"b": 1, "a": "é"})) == ("", "", '{"a": "\\u00e9", "b": 1}')
    assert list(json.loads(said({"a": "x" * MAX_SAID}))) == ["sha256"]


def test_a_decision_brings_the_entries_of_all_that_it_changes() -> None:
    row, ids = TenantRow("acme", "UTC", 0, 1, None, (Segment(0, "pro", 1, "active"),)), count(1)
    act = Act("ann", AT, lambda: f"a{next(ids)}", "ticket 12")
    own = an_entry("own")
    whole = Entries(change=StateChange(5, "pause"), audit=(own,))
    entries = audited(lambda _: whole, act)(Account(row))
    assert replace(entries, audit=()) == replace(whole, audit=())
    mine, paused = entries.audit
    assert mine == own
    assert paused[:6] == ("a1", "acme", AT, "ann", "subscription: pause", "acme")
    assert (paused.reason, paused.before) == ("ticket 12", '{"timeline": []}')
    assert json.loads(paused.after) == {"timeline": ["1970-01-01T00:00:00Z pro version 1 paused"]}
    assert audited(lambda _: Entries(), act)(Account(row)) == Entries()
