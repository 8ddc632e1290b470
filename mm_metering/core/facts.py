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
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Final, NamedTuple

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
    return _dump(fact[4:])[1:]


def decode(line: bytes | str) -> Fact:
    """The fact of a line as the counters store it; ValueError for anything else.

    A hold's line is preceded by the amounts that were granted, per meter in order of appearance: ``7,500;[...``.
    """
    text = line.decode() if isinstance(line, bytes) else line
    granted, _, body = text.partition(";") if not text.startswith("[") else ("", "", text)
    fields = json.loads(body)
    if not isinstance(fields, list) or len(fields) != len(Fact._fields):
        raise ValueError(f"not a fact: {text[:80]!r}")
    fact = Fact(*fields)._replace(counts=tuple(Count(*count) for count in fields[8]))
    return with_grants(fact, [int(amount) for amount in granted.split(",")]) if granted else fact


def with_grants(fact: Fact, grants: Iterable[int]) -> Fact:
    """The fact with the amounts that were granted: one per meter, shared by all scopes of that meter."""
    by_meter = dict(zip(dict.fromkeys(count.meter for count in fact.counts), grants, strict=True))
    return fact._replace(counts=tuple(count._replace(amount=by_meter[count.meter]) for count in fact.counts))


def void(fact: Fact) -> Fact:
    """The fact that takes ``fact`` back; it carries the same instant, so that both meet in one ledger row."""
    blank = fact._replace(id=f"{fact.id}:void", kind="void", quantity=0, cost_nanos=None, counts=(), metadata=None)
    return blank._replace(target=fact.id)
