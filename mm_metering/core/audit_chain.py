"""The audit log as a chain: each link's ``mac`` is made of the one before it and of all that the link says.

So nothing can be changed, moved, taken out or put in without making every later link anew, and with a key only who has
the key can. What was cut off at the end does not show in a chain: an ``AuditAnchor`` that is kept elsewhere shows it,
and an older copy put back as well.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal, NamedTuple, TypeAlias

from mm_metering.core.audit import AuditEntry
from mm_metering.core.periods import from_micros, micros

FORM: Final = 1
"""Of ``canonical``: another one would be another number, and this one stays readable."""
UNSIGNED: Final = ""
"""The key id where there is no key: such a chain is as good as its anchors."""
MOST_BROKEN: Final = 100
"""How much of what is wrong a report holds."""

_ANCHOR: Final = re.compile(r"\b([1-9][0-9]{0,17}):([0-9a-f]{64})\b")

Keys: TypeAlias = Mapping[str, bytes]
"""By key id; the first signs, all verify."""
Flaw: TypeAlias = Literal["changed", "missing", "twice", "unsigned", "no key", "form", "anchor", "cut off"]


class Link(NamedTuple):
    """An entry as it is stored. ``seq`` counts from 1 without gaps; None and no mac: it is older than the chain."""

    seq: int | None
    form: int
    kid: str
    mac: str
    id: str
    tenant: str
    at_us: int
    actor: str
    action: str
    subject: str
    detail: str
    before: str
    after: str
    reason: str

    @property
    def entry(self) -> AuditEntry:
        id_, tenant, at_us, *rest = self[4:]
        return AuditEntry(id_, tenant, from_micros(at_us), *rest)


class Head(NamedTuple):
    """The last link: 0 and no mac before the first."""

    seq: int = 0
    mac: str = ""


class AuditAnchor(NamedTuple):
    """The head as it was at an instant."""

    seq: int
    mac: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.seq}:{self.mac}"


def anchors_in(text: str) -> list[tuple[int, str]]:
    """Those of a text, such as a file of them or a log: (seq, mac)."""
    return [(int(seq), mac) for seq, mac in _ANCHOR.findall(text)]


class Broken(NamedTuple):
    """What is wrong at a link, and what to do."""

    seq: int
    flaw: Flaw
    what: str


def canonical(link: Link) -> bytes:
    """Form 1: all but the mac. First the numbers and the length of each text, a colon, then the texts: so no two links
    have one of these in common."""
    seq, form, kid, _, id_, tenant, at_us, actor, action, subject, detail, before, after, reason = link
    sizes = (
        f"{form} {seq} {at_us} {len(kid)} {len(id_)} {len(tenant)} {len(actor)} {len(action)} {len(subject)} "
        f"{len(detail)} {len(before)} {len(after)} {len(reason)}"
    )
    texts = f"{kid}{id_}{tenant}{actor}{action}{subject}{detail}{before}{after}{reason}"
    return f"{sizes}:{texts}".encode("utf-8", "surrogatepass")


def mac_of(link: Link, last: str, key: bytes | None) -> str:
    """``last``: the mac before it."""
    text = last.encode("ascii", "replace") + canonical(link)
    if key is None:
        return sha256(text).hexdigest()
    digest = _keyed(key).copy()
    digest.update(text)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> hmac.HMAC:
    """To be copied: to begin anew takes half of the time of a short text."""
    return hmac.new(key, digestmod=sha256)


def chained(entries: Iterable[AuditEntry], head: Head, keys: Keys) -> list[Link]:
    """The entries as the links that follow a head."""
    kid = next(iter(keys), UNSIGNED)
    key, (seq, mac), links = keys.get(kid), head, list[Link]()
    for entry in entries:
        seq += 1
        id_, tenant, at, *rest = entry
        link = Link(seq, FORM, kid, "", id_, tenant, micros(at), *rest)
        mac = mac_of(link, mac, key)
        links.append(link._replace(mac=mac))
    return links


class Outside:
    """The entries from before the chain, in order of their ids. Its first link is chained to them."""

    def __init__(self) -> None:
        self.entries: int = 0
        self._digest = sha256(b"mm-metering audit")

    def add(self, links: Iterable[Link]) -> None:
        for link in links:
            self.entries += 1
            self._digest.update(canonical(link))

    @property
    def mac(self) -> str:
        """What the first link has for the mac before it."""
        return self._digest.hexdigest()


# -- verifying ---------------------------------------------------------------------------------------------------------


class Walk:
    """Follows a chain from its first link, page by page; what is wrong comes as it is found. A link whose mac is wrong
    is named alone: the next one is checked against the mac that it was chained to."""

    def __init__(self, keys: Keys, anchors: Iterable[tuple[int, str]] = (), *, outside: Outside | None = None) -> None:
        self._keys = keys
        self._anchors: dict[int, set[str]] = {}
        for seq, mac in anchors:
            self._anchors.setdefault(seq, set()).add(mac)
        self._vouched = max(self._anchors, default=0)
        self._outside = outside or Outside()
        self._seq, self._mac = 0, self._outside.mac
        self._missing: set[str] = set()
        self.entries: int = 0
        self.signed: int = 0

    def page(self, links: Sequence[Link]) -> Iterator[Broken]:
        """Links in order of ``seq``."""
        for link in links:
            if not self._follows(link):
                yield from self._examine(link)
            self.entries += 1
            self.signed += link.kid in self._keys
            self._seq, self._mac = max(link.seq or 0, self._seq), link.mac

    def _follows(self, link: Link) -> bool:
        """Whether nothing is to be said of it: what almost all are."""
        key, seq = self._keys.get(link.kid), link.seq
        if seq != self._seq + 1 or link.form != FORM or seq in self._anchors or (key is None and link.kid):
            return False
        return mac_of(link, self._mac, key) == link.mac and not self._is_unsigned(link)

    def _is_unsigned(self, link: Link) -> bool:
        """And must not be: earlier ones are signed, and no anchor vouches for it."""
        return link.kid == UNSIGNED and self.signed > 0 and (link.seq or 0) > self._vouched

    def _examine(self, link: Link) -> Iterator[Broken]:
        seq, key = link.seq or 0, self._keys.get(link.kid)
        if seq != self._seq + 1:
            yield self._gap(seq)
        if link.form != FORM:
            yield Broken(seq, "form", f"entry {seq:,} has form {link.form}, of another release, or it was changed")
        elif key is None and link.kid != UNSIGNED:
            yield from self._foreign(seq, link.kid)
        elif mac_of(link, self._mac, key) != link.mac:
            yield self._changed(seq)
        if self._is_unsigned(link):
            yield Broken(seq, "unsigned", f"entry {seq:,} is not signed, and earlier ones are")
        if self._anchors.pop(seq, {link.mac}) != {link.mac}:
            yield Broken(seq, "anchor", f"entry {seq:,} is not the one that was anchored")

    def _foreign(self, seq: int, kid: str) -> Iterator[Broken]:
        """Said once of each key."""
        if kid not in self._missing:
            self._missing.add(kid)
            yield Broken(seq, "no key", f"entry {seq:,} is signed with the key {kid[:16]!r}, which is not here")

    def _gap(self, seq: int) -> Broken:
        if seq <= self._seq:
            return Broken(seq, "twice", f"entry {seq:,} is there twice")
        return Broken(self._seq + 1, "missing", f"entries {self._seq + 1:,} to {seq - 1:,} are not there")

    def _changed(self, seq: int) -> Broken:
        if self._seq or not self._outside.entries:
            return Broken(seq, "changed", f"entry {seq:,} was changed, or it did not follow the one before it")
        what = "it was changed, or one of those from before the chain"
        return Broken(seq, "changed", f"entry {seq:,} does not follow from what was there before it: {what}")

    def end(self, head: Head) -> Iterator[Broken]:
        """``head`` as it stood when the last page was read."""
        if (self._seq, self._mac) != (head.seq, head.mac) and self.entries + head.seq:
            ends = f"the log ends with entry {self._seq:,}, and its head is at entry {head.seq:,}"
            yield Broken(min(head.seq, self._seq) + 1, "cut off", f"{ends}, or not what that says")
        for seq in sorted(self._anchors):
            how: Flaw = "cut off" if seq > self._seq else "missing"
            what = f"entry {seq:,} was anchored and is not there; the log ends with entry {self._seq:,}"
            yield Broken(min(seq, self._seq + 1), how, what)


class AuditReport(NamedTuple):
    """What verifying came to. ``entries`` are in the chain, ``signed`` of them with a key; ``outside`` are older than
    it. ``broken``: the first MOST_BROKEN of what is wrong; ``head``: where the chain ends."""

    entries: int
    signed: int
    outside: int
    anchors: int
    broken: tuple[Broken, ...]
    head: Head

    @property
    def holds(self) -> bool:
        return not self.broken
