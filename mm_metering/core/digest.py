"""What a set of facts comes to, whatever their order: how many there are, and the sum of their hashes.

Everybody who keeps such a sum of the same facts keeps the same two numbers: the process that acknowledged them, the
shard that folded them, the cells that they moved. One fact too many, too few or altered makes them differ, but for one
chance in 2**62. It guards against accidents, not against forgers.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

MASK: Final = 2**62 - 1
"""Sums are modulo 2**62: two of them fit into a database's 64-bit integer before they are reduced."""


def hash_of(line: bytes) -> int:
    """0 to MASK: the fact's line (``facts.encode``), hashed."""
    return int.from_bytes(blake2b(line, digest_size=8).digest()) & MASK


class Digest(NamedTuple):
    """``hashes`` is the sum modulo 2**62."""

    facts: int = 0
    hashes: int = 0

    def plus(self, facts: int, hashes: int) -> Digest:
        return Digest(self.facts + facts, (self.hashes + hashes) & MASK)

    def __str__(self) -> str:
        return f"{self.facts:,} facts, {self.hashes:016x}"


def total(digests: Iterable[Digest]) -> Digest:
    """Of all these facts together."""
    result = Digest()
    for each in digests:
        result = result.plus(*each)
    return result
