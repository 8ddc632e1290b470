"""A stored audit log that is tampered with, by somebody who may write whatever they want into the database."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import Broken, Head, Link, Outside, Walk, mac_of

TAMPERINGS = int(os.environ.get("MM_TAMPERINGS", "2500"))
SEED = int(os.environ.get("MM_TAMPERINGS_SEED", "7"))
ENTRIES, OUTSIDE = 40, 3
KEYS = {"k1": b"1" * 32}
COLUMNS = ", ".join(Link._fields)
TEXTS = Link._fields[7:]


class Stored:
    """The log in its file, without what keeps honest people from changing it."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self.file = file
        for name in ("TRIGGER mm_audit_log_no_update", "TRIGGER mm_audit_log_no_delete", "INDEX mm_audit_log_seq"):
            file.execute(f"DROP {name}")
        file.execute("CREATE TABLE free AS SELECT * FROM mm_audit_log")  # without its primary key as well
        file.execute("DROP TABLE mm_audit_log")
        file.execute("ALTER TABLE free RENAME TO mm_audit_log")
        self.links = self.read()[0]
        self.anchor = (ENTRIES, self.links[-1].mac)

    def read(self) -> tuple[list[Link], list[Link], Head]:
        rows = [Link(*row) for row in self.file.execute(f"SELECT {COLUMNS} FROM mm_audit_log ORDER BY seq, id")]
        head = self.file.execute("SELECT seq, mac FROM mm_audit_head").fetchone()
        chain = [each for each in rows if each.seq is not None]
        return chain, [each for each in rows if each.seq is None], Head(*head) if head else Head()

    def flaws(self, *anchors: tuple[int, str]) -> list[Broken]:
        links, old, head = self.read()
        outside = Outside()
        outside.add(old)
        walk = Walk(KEYS, anchors, outside=outside)
        return [*walk.page(links), *walk.end(head)]

    @contextmanager
    def undone(self) -> Iterator[None]:
        self.file.execute("BEGIN")
        try:
            yield
        finally:
            self.file.execute("ROLLBACK")

    def put(self, link: Link) -> None:
        self.file.execute(f"INSERT INTO mm_audit_log ({COLUMNS}) VALUES ({', '.join('?' * len(link))})", link)

    def replace(self, links: list[Link]) -> None:
        """The whole chain, and its head."""
        self.file.execute("DELETE FROM mm_audit_log WHERE seq IS NOT NULL")
        for link in links:
            self.put(link)
        self.behead(Head(links[-1].seq or 0, links[-1].mac) if links else Head())

    def behead(self, head: Head) -> None:
        self.file.execute("UPDATE mm_audit_head SET seq = ?, mac = ?", head)


Tamper = Callable[[Stored, random.Random], None]


def changes_a_field(stored: Stored, rng: random.Random) -> None:
    value: Any = rng.choice(["", "ann", "é", "x" * 50])
    field, of = rng.choice([*TEXTS, "id", "tenant", "at_us", "kid", "mac", "form"]), rng.choice(stored.links)
    if field in ("at_us", "form"):
        value = rng.randrange(10**6)
    if value == getattr(of, field):
        value = "other"
    stored.file.execute(f"UPDATE mm_audit_log SET {field} = ? WHERE seq = ?", (value, of.seq))


def changes_what_is_older(stored: Stored, rng: random.Random) -> None:
    one = f"id = (SELECT min(id) FROM mm_audit_log WHERE seq IS NULL AND id >= 'old{rng.randrange(OUTSIDE)}')"
    action = rng.choice(
        [f"UPDATE mm_audit_log SET {rng.choice(TEXTS)} = 'other' WHERE ", "DELETE FROM mm_audit_log WHERE "]
    )
    stored.file.execute(action + one)


def swaps_two(stored: Stored, rng: random.Random) -> None:
    one, other = rng.sample(stored.links, 2)
    for row, seq in ((one, other.seq), (other, one.seq)):
        stored.file.execute("UPDATE mm_audit_log SET seq = ? WHERE id = ?", (seq, row.id))


def deletes(stored: Stored, rng: random.Random) -> None:
    first = rng.randint(1, ENTRIES)
    stored.file.execute("DELETE FROM mm_audit_log WHERE seq BETWEEN ? AND ?", (first, first + rng.choice([0, 0, 3])))


def closes_the_gap(stored: Stored, rng: random.Random) -> None:
    gone = rng.randint(1, ENTRIES - 1)
    stored.file.execute("DELETE FROM mm_audit_log WHERE seq = ?", (gone,))
    stored.file.execute("UPDATE mm_audit_log SET seq = seq - 1 WHERE seq > ?", (gone,))
    stored.file.execute("UPDATE mm_audit_head SET seq = seq - 1")


def takes_out_of_the_chain(stored: Stored, rng: random.Random) -> None:
    stored.file.execute("UPDATE mm_audit_log SET seq = NULL WHERE seq = ?", (rng.randint(1, ENTRIES),))


def inserts(stored: Stored, rng: random.Random) -> None:
    of = rng.choice(stored.links)
    new = of._replace(id="new", actor="nobody", seq=rng.choice([of.seq, ENTRIES + 1, None]))
    stored.put(new._replace(mac=mac_of(new, of.mac, rng.choice([None, b"guess"]))))


def duplicates(stored: Stored, rng: random.Random) -> None:
    of = rng.choice(stored.links)
    stored.put(rng.choice([of, of._replace(seq=ENTRIES + 1)]))


def cuts_the_end_off(stored: Stored, rng: random.Random) -> None:
    left = rng.randrange(ENTRIES)
    stored.file.execute("DELETE FROM mm_audit_log WHERE seq > ?", (left,))
    if rng.random() < 0.8:
        stored.behead(Head(left, stored.links[left - 1].mac) if left else Head())


def replaces_the_head(stored: Stored, rng: random.Random) -> None:
    seq = rng.randrange(ENTRIES + 5)
    stored.behead(Head(seq, rng.choice([stored.links[seq % ENTRIES - 1].mac, "0" * 64, ""])))
    if rng.random() < 0.2:
        stored.file.execute("DELETE FROM mm_audit_head")


def puts_an_older_copy_back(stored: Stored, rng: random.Random) -> None:
    stored.replace(stored.links[: rng.randrange(ENTRIES)])


def makes_the_chain_anew(stored: Stored, rng: random.Random) -> None:
    """From some link on, with another entry there, without the key."""
    first, key = rng.randint(1, ENTRIES), rng.choice([None, b"guess", b"guess"])
    kid = "" if key is None else rng.choice(["k1", "own"])
    links = stored.links[: first - 1]
    mac = links[-1].mac if links else outside_of(stored).mac
    for each in stored.links[first - 1 :]:
        new = each._replace(kid=kid, actor="nobody" if each.seq == first else each.actor)
        mac = mac_of(new, mac, key)
        links.append(new._replace(mac=mac))
    stored.replace(links)


def goes_on_from_an_older_copy(stored: Stored, rng: random.Random) -> None:
    """As long as it was, and past it."""
    links = stored.links[: rng.randrange(1, ENTRIES)]
    for seq in range(len(links) + 1, ENTRIES + rng.randint(1, 3)):
        new = links[-1]._replace(id=f"new{seq}", seq=seq, kid="")
        links.append(new._replace(mac=mac_of(new, links[-1].mac, None)))
    stored.replace(links)


def outside_of(stored: Stored) -> Outside:
    found = Outside()
    found.add(stored.read()[1])
    return found


TAMPERS: list[Tamper] = [
    changes_a_field,
    changes_a_field,
    changes_a_field,
    changes_what_is_older,
    swaps_two,
    deletes,
    closes_the_gap,
    takes_out_of_the_chain,
    inserts,
    duplicates,
    cuts_the_end_off,
    replaces_the_head,
    puts_an_older_copy_back,
    makes_the_chain_anew,
    goes_on_from_an_older_copy,
]
ONLY_AN_ANCHOR = {"cuts_the_end_off", "puts_an_older_copy_back", "makes_the_chain_anew"}
"""A chain that was cut with its head, or made anew unsigned from the first link on, holds by itself."""


@pytest.fixture
async def stored(tmp_path: Path) -> Any:
    path = tmp_path / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    await ledger.setup(apply=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for number in range(OUTSIDE):
            row = (f"old{number}", "acme", number, "worker", "collection open -> paid", "inv_1", "")
            names = "id, tenant, at_us, actor, action, subject, detail"
            file.execute(f"INSERT INTO mm_audit_log ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    ledger.use_audit_keys(KEYS)
    began = datetime(2026, 11, 27, tzinfo=UTC)
    for number in range(ENTRIES):
        said = ("ann", "invoice voided", f"inv_{number}", "2026-10", '{"status": "finalized"}', '{"status": "void"}')
        at = began + timedelta(seconds=number)
        await ledger.add_audit([AuditEntry(f"a{number:03}", f"t{number % 3}", at, *said, reason=f"ticket {number}")])
    await ledger.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        yield Stored(file)


@pytest.mark.timeout(60 + TAMPERINGS // 100)
async def test_no_tampering_is_missed_with_an_anchor(stored: Stored) -> None:
    assert (stored.flaws(stored.anchor), len(stored.read()[1])) == ([], OUTSIDE)
    rng, missed, by_itself, tried = random.Random(SEED), Counter[str](), Counter[str](), 0
    while tried < TAMPERINGS:
        tamper, before = rng.choice(TAMPERS), stored.read()
        with stored.undone():
            tamper(stored, rng)
            if stored.read() == before:
                continue
            tried += 1
            missed[tamper.__name__] += not stored.flaws(stored.anchor)
            by_itself[tamper.__name__] += not stored.flaws()
    assert {name: count for name, count in missed.items() if count} == {}
    assert {name for name, count in by_itself.items() if count} == ONLY_AN_ANCHOR
