"""Facts: what the counters' stream carries and the ledger keeps. All of them commute.

use    counted now                    hold   reserved until its close
close  ends the hold ``target`` with the true amounts (a close may overtake its hold)
set    states a level; the ledger orders sets by (occurred_us, id) and derives the changes
add    changes a level by a signed amount
void   takes the fact ``target`` back, or keeps it out if it has not arrived yet

A fact travels as one line of JSON. Its wire format is versioned with the script library that carries it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from json.encoder import encode_basestring_ascii
from types import NoneType
from typing import Any, Final, NamedTuple

from mm_metering.core.periods import micros

WIRE: Final = 1
"""Version of the fact format: the first field of each stream entry. Readers accept this one and the one before."""


class Count(NamedTuple):
    """What a fact adds to one meter: units, or nano-units of money for a money meter."""

    meter: str
    scope: str
    amount: int


class Fact(NamedTuple):
    """One immutable fact. ``id`` is unique per tenant; ``counts`` says which meters it moves, and by how much."""

    id: str
    occurred_us: int
    kind: str
    tenant: str
    event_type: str
    resource: str
    quantity: int
    cost_nanos: int | None
    counts: tuple[Count, ...]
    success: bool = True
    target: str | None = None
    metadata: str | None = None


quoted = encode_basestring_ascii
"""Text as ASCII JSON."""

_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def encode(fact: Fact) -> bytes:
    """One line of ASCII JSON."""
    return line(fact.id, fact.occurred_us, quoted(fact.kind), quoted(fact.tenant), rest(fact))


def line(fact_id: str, occurred_us: int, kind: str, tenant: str, rest: str) -> bytes:
    """A line made of its parts: requests of one kind differ in id, instant and tenant, and the others may be kept."""
    return f"[{quoted(fact_id)},{occurred_us},{kind},{tenant},{rest}".encode()


def rest(fact: Fact) -> str:
    """The part of a line after the tenant."""
    return _rest_text(fact[4:])


@lru_cache(maxsize=1024)
def _rest_text(fields: tuple[Any, ...]) -> str:
    return _dump(fields)[1:]


KINDS: Final = frozenset({"use", "hold", "close", "set", "add", "void"})
FIRST_US: Final = micros(datetime(2, 1, 1, tzinfo=UTC))
LAST_US: Final = micros(datetime(9998, 12, 31, tzinfo=UTC))
"""The instants that have a local day in every zone."""
MOST: Final = 2**63 - 1
_SHAPES: Final = frozenset(
    (str, int, str, str, str, str, int, cost, tuple, bool, target, metadata)
    for cost, target, metadata in product((int, NoneType), (str, NoneType), (str, NoneType))
)


def decode(line: bytes | str) -> Fact:
    """The fact of a line as the counters store it; ValueError for anything else.

    A hold's line is preceded by the amounts that were granted, per meter in order of appearance: ``7,500;[...``.
    """
    try:
        return _decoded(line.decode() if isinstance(line, bytes) else line)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a fact: {error}") from error


def _decoded(text: str) -> Fact:
    granted, _, body = text.partition(";") if not text.startswith("[") else ("", "", text)
    plain = _PLAIN.fullmatch(text)
    if plain and FIRST_US <= (occurred_us := int(plain[2])) <= LAST_US:
        return Fact(plain[1], occurred_us, plain[3], plain[4], *_rest_of(plain[3], plain[5]))
    fact = _fact(_fields(body, len(Fact._fields)))
    return _sound(with_grants(fact, [int(amount) for amount in granted.split(",")]) if granted else fact)


def flaw(fact: Fact) -> str:
    """Why it is no fact that every ledger can hold; "" if it is one. A value that is merely stored as it came would
    count as something else, or stop the drain for ever."""
    if tuple(map(type, fact)) not in _SHAPES:
        return f"fields of the types {', '.join(type(each).__name__ for each in fact)}"
    if fact.kind not in KINDS:
        return f"unknown kind {fact.kind[:40]!r}"
    if fact.target is None and fact.kind in ("void", "close"):
        return f"a {fact.kind} without a target"
    if not FIRST_US <= fact.occurred_us <= LAST_US:
        return f"occurred at {fact.occurred_us} µs, which has no day"
    texts = [fact.id, fact.tenant, fact.event_type, fact.resource, fact.target or "", fact.metadata or ""]
    numbers = [fact.quantity, fact.cost_nanos or 0]
    for meter, scope, amount in fact.counts:
        if not (type(meter) is str and type(scope) is str and type(amount) is int):
            return "counts that are not (meter, scope, amount)"
        texts += (meter, scope)
        numbers.append(amount)
    if max(numbers) > MOST or min(numbers) < -MOST:
        return "a number beyond 64 bits"
    return _text_flaw("".join(texts))


def _text_flaw(text: str) -> str:
    if "\0" in text:
        return "NUL in a text"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "a lone surrogate in a text"
    return ""


def _sound(fact: Fact) -> Fact:
    if why := flaw(fact):
        raise ValueError(f"not a fact: {why}")
    return fact


_WORD: Final = r'"([^"\\\x00-\x1f\ud800-\udfff]*)"'
_PLAIN: Final = re.compile(rf"\[{_WORD},(-?(?:0|[1-9][0-9]*)),{_WORD},{_WORD},(.*)", re.DOTALL)
"""A line whose first words have nothing to unescape and no flaw, and what follows them."""


@lru_cache(maxsize=1024)
def _rest_of(kind: str, text: str) -> tuple[Any, ...]:
    """The fields after the tenant: requests of one kind share them."""
    fields = _fields(f"[{text}", len(Fact._fields) - 4)
    return _sound(_fact(["", FIRST_US, kind, "", *fields]))[4:]


def _fields(text: str, count: int) -> list[Any]:
    fields = json.loads(text)
    if not isinstance(fields, list) or len(fields) != count:
        raise ValueError(f"not a fact: {text[:80]!r}")
    return fields


def _fact(fields: list[Any]) -> Fact:
    return Fact(*fields)._replace(counts=tuple(Count(*count) for count in fields[8]))


def with_grants(fact: Fact, grants: Iterable[int]) -> Fact:
    """The fact with the amounts that were granted: one per meter, shared by all scopes of that meter."""
    by_meter = dict(zip(dict.fromkeys(count.meter for count in fact.counts), grants, strict=True))
    return fact._replace(counts=tuple(count._replace(amount=by_meter[count.meter]) for count in fact.counts))


def void(fact: Fact) -> Fact:
    """The fact that takes ``fact`` back; it carries the same instant, so that both meet in one ledger row."""
    blank = fact._replace(id=f"{fact.id}:void", kind="void", quantity=0, cost_nanos=None, counts=(), metadata=None)
    return blank._replace(target=fact.id)


def tenant_of_line(line: bytes) -> str:
    """The tenant of a line that may be no fact, where it can be read; else ""."""
    try:
        fields = json.loads(line[line.index(b"[") :])
        return fields[3] if isinstance(fields[3], str) else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
