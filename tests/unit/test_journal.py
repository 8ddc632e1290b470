"""The journal's files: what is written when, what a reader takes of them, and the bounds."""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mm_metering import Metering
from mm_metering.backends.memory import MemoryCounters
from mm_metering.gate import journal as journal_module
from mm_metering.gate import journal_file, journal_place
from mm_metering.gate.journal import Journal
from mm_metering.gate.journal_file import Acked, Directory, Found, Item
from mm_metering.gate.journal_place import journal_directory

FACTS: list[Item] = [("acme", b'["f1",1]'), ("a:b{c}\u00e9", b'["f2",2]\n["f3",3]')]
LOG = "mm_metering.gate"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "journal", "sqlite:/ledger.db")


def journal(directory: Directory) -> Journal:
    return Journal(partial(directory.create, 0, 1), "p1")


def names(directory: Directory) -> list[str]:
    return sorted(path.name for path in directory.path.iterdir()) if directory.path.exists() else []


async def taken(directory: Directory) -> list[Found]:
    found = [await directory.take(name) for _, name in await directory.waiting()]
    return [each for each in found if each]


def left_behind(directory: Directory, *records: Acked) -> Path:
    """A file whose process has ended."""
    file = directory.create(0, 1, "p1")
    file.append(records)
    file.release()
    return file.path


# -- what is written, and when ---------------------------------------------------------------------------------------


def test_while_all_is_well_nothing_is_written(directory: Directory) -> None:
    healthy = journal(directory)
    healthy.acked(1, "1-0", FACTS)
    healthy.later(FACTS)
    healthy.acked(1, "2-0", healthy.next_replay())
    healthy.confirm(1, "2-0")
    assert healthy.close()
    assert names(directory) == []


async def test_what_is_promised_stands_in_a_file_until_the_ledger_has_it(directory: Directory) -> None:
    ours = journal(directory)
    ours.promise(FACTS)
    assert len(names(directory)) == 1
    assert await taken(directory) == [], "a living process holds it"
    ours.acked(1, "5-0", ours.next_replay())
    ours.confirm(1, "4-0")
    assert len(names(directory)) == 1
    ours.confirm(1, "5-0")
    assert names(directory) == []


async def test_a_process_leaves_all_that_is_unconfirmed_in_one_file(directory: Directory) -> None:
    ours = journal(directory)
    ours.acked(3, "7-0", FACTS[:1])
    ours.promise(FACTS[1:])
    assert ours.close([("acme", b"owed")])
    (found,) = await taken(directory)
    assert found.facts == {FACTS[0]: (3, "7-0"), FACTS[1]: (0, ""), ("acme", b"owed"): (0, "")}
    assert (found.about.process, found.about.shard, found.about.shards) == ("p1", 0, 1)
    assert (found.file.path.stat().st_mode & 0o777, directory.path.stat().st_mode & 0o777) == (0o600, 0o700)


async def test_saved_once_is_not_saved_again(directory: Directory) -> None:
    ours = journal(directory)
    ours.acked(1, "1-0", FACTS[:1])
    ours.later(FACTS[1:])
    ours.save()
    (file,) = directory.path.iterdir()
    size = file.stat().st_size
    ours.save()
    assert file.stat().st_size == size
    ours.acked(1, "2-0", [("acme", b"f4")])
    ours.save()
    assert file.stat().st_size > size


async def test_an_adopted_file_goes_when_all_of_it_is_confirmed(directory: Directory) -> None:
    left_behind(directory, Acked(2, "3-0", (FACTS[0],)), Acked(0, "", (FACTS[1],)))
    (found,) = await taken(directory)
    heir = journal(directory)
    heir.acked(2, "9-0", [("acme", b"own")])
    heir.adopt(found.file, [Acked(2, "3-0", (FACTS[0],))], [FACTS[1]])
    heir.confirm(2, "9-0")
    assert len(names(directory)) == 1
    heir.acked(2, "10-0", heir.next_replay())
    heir.confirm(2, "10-0")
    assert names(directory) == []
    assert heir.facts == 0


async def test_an_heir_that_ends_first_passes_it_on_in_one_file(directory: Directory) -> None:
    left_behind(directory, Acked(0, "", (FACTS[0],)))
    (found,) = await taken(directory)
    heir = journal(directory)
    heir.adopt(found.file, [], [FACTS[0]])
    heir.acked(2, "4-0", heir.next_replay())
    assert heir.close()
    (passed_on,) = await taken(directory)
    assert passed_on.facts == {FACTS[0]: (2, "4-0")}


# -- what a reader takes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 30])
async def test_a_line_that_was_cut_off_is_dropped(directory: Directory, cut: int) -> None:
    path = left_behind(directory, Acked(0, "", (FACTS[0],)), Acked(0, "", (FACTS[1],)))
    path.write_bytes(path.read_bytes()[:-cut])
    (found,) = await taken(directory)
    assert found.facts == {FACTS[0]: (0, "")}
    found.file.discard()
    assert names(directory) == []


async def test_of_a_file_with_a_damaged_line_the_rest_is_taken_and_the_file_kept(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    path = left_behind(directory, Acked(0, "", (FACTS[0],)), Acked(0, "", (FACTS[1],)))
    path.write_bytes(path.read_bytes().replace(b"f1", b"f7"))
    (found,) = await taken(directory)
    assert found.facts == {FACTS[1]: (0, "")}
    assert "a line of" in caplog.text
    found.file.discard()
    assert names(directory) == [path.with_suffix(".damaged").name]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\x00 no journal",
        b"mm-metering-journal 1 [1, 2]\n",
        b"mm-metering-journal 1 {}\nx\n",
        b"mm-metering-journal one {}\n",
        b'mm-metering-journal 1 {"shard": 4, "shards": 1, "process": "", "ledger": ""}\n',
    ],
)
async def test_garbage_is_kept_aside(directory: Directory, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = left_behind(directory)
    path.write_bytes(garbage)
    assert await taken(directory) == []
    assert names(directory) == [path.with_suffix(".damaged").name]
    assert path.with_suffix(".damaged").read_bytes() == garbage
    assert "is no journal and is kept aside" in caplog.text


async def test_a_file_of_a_process_that_wrote_nothing_goes(directory: Directory) -> None:
    path = left_behind(directory)
    path.write_bytes(b"")
    assert await taken(directory) == []
    assert names(directory) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"journal 1", b"journal 2"), "is of version 2, and this release reads 1"),
        ((b"ledger.db", b"other.db"), "belongs to the ledger sqlite:/other.db, and this one is sqlite:/ledger.db"),
    ],
)
async def test_what_is_not_for_this_process_is_left_alone_and_said_once(
    directory: Directory, change: tuple[bytes, bytes], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = left_behind(directory, Acked(0, "", (FACTS[0],)))
    path.write_bytes(path.read_bytes().replace(*change))
    for _ in range(3):
        assert await taken(directory) == []
    assert names(directory) == [path.name]
    assert caplog.text.count(says) == 1


def test_a_record_is_one_line_that_a_person_can_read(directory: Directory) -> None:
    path = left_behind(directory, Acked(1, "2-0", tuple(FACTS)))
    head, line = path.read_text().splitlines()
    assert head.startswith("mm-metering-journal 1 {")
    assert json.loads(line[9:]) == [1, "2-0", [[tenant, lines.decode()] for tenant, lines in FACTS]]


# -- bounds ----------------------------------------------------------------------------------------------------------


async def test_what_does_not_fit_into_memory_goes_to_files_that_anybody_adopts(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "IN_MEMORY", 4)
    monkeypatch.setattr(journal_module, "MAX_FILE_BYTES", 400)
    ours = journal(directory)
    facts = [("acme", b"f%d" % number) for number in range(20)]
    for number, fact in enumerate(facts):
        if number % 2:
            ours.acked(1, f"{number}-0", [fact])
        else:
            ours.promise([fact])
    assert ours.facts == 4
    assert not ours.has_room
    ours.acked(1, "99-0", ours.next_replay())
    ours.confirm(1, "99-0")
    found = await taken(directory)
    assert len(found) > 1
    assert {fact for each in found for fact in each.facts} == set(facts[4:])
    assert {each.about.process for each in found} == {""}, "their process may live: its session goes on"


async def test_when_the_directory_is_full_memory_takes_it_and_then_nothing_does(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind(directory, Acked(0, "", (FACTS[0],)))
    monkeypatch.setattr(journal_file, "MAX_BYTES", 10)
    monkeypatch.setattr(journal_module, "IN_MEMORY", 2)
    monkeypatch.setattr(journal_module, "MAX_FACTS", 5)
    ours = journal(directory)
    for number in range(5):
        assert ours.facts < journal_module.MAX_FACTS
        ours.promise([("acme", b"f%d" % number)])
    assert ours.facts == journal_module.MAX_FACTS
    assert not ours.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the most is 10" in caplog.text


async def test_a_write_that_fails_leaves_no_half_line(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    file = directory.create(0, 1, "p1")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:-19])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.append([Acked(0, "", (FACTS[0],))])
    monkeypatch.setattr(os, "write", real)
    file.append([Acked(0, "", (FACTS[1],))])
    file.release()
    (found,) = await taken(directory)
    assert (found.facts, found.file.is_damaged) == ({FACTS[1]: (0, "")}, False)


# -- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "counters", "ledger", "path"),
    [
        ("auto", "redis://h", "sqlite:////data/ledger.db", "/data/ledger.db.journal"),
        ("auto", "memory://", "sqlite:////data/ledger.db?timeout=5", "/data/ledger.db.journal"),
        ("auto", "local:///data/counters", "sqlite:////data/ledger.db", "/data/counters/journal"),
        ("auto", "redis://h", "postgresql://u:p@db/app", "/state/mm_metering/d5b402413ab035ac"),
        ("auto", "redis://other", "postgres://v:q@db/app?ssl=1", "/state/mm_metering/d5b402413ab035ac"),
        ("/var/lib/app", "redis://h", "postgresql://u:p@db/app", "/var/lib/app"),
        ("/var/lib/app", "redis://h", None, "/var/lib/app"),
        ("auto", "redis://h", "memory://", None),
        ("auto", "redis://h", "sqlite:///:memory:", None),
        ("auto", "redis://h", None, None),
        ("off", "redis://h", "sqlite:////data/ledger.db", None),
    ],
)
def test_the_files_lie_with_the_ledger_s_data(
    journal: str, counters: str, ledger: str | None, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    found = journal_directory(journal, counters=counters, ledger=ledger)
    assert (found and str(found.path)) == path
    assert found is None or "u:p" not in found.ledger


async def test_a_directory_that_cannot_be_written_is_said_once_and_memory_does(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    ours = journal(Directory(tmp_path / "file" / "journal", "x"))
    ours.promise(FACTS)
    ours.promise(FACTS)
    assert (ours.facts, ours.next_replay()) == (4, (*FACTS, *FACTS))
    assert len(caplog.records) == 1


async def test_memory_counters_outlive_their_process_through_the_file(tmp_path: Path) -> None:
    """Nobody drained them, and the stream ends with the process."""
    stores: Any = {"counters": "memory://", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(**stores, worker="off") as before:
        await before.enforce_quota("acme", "api_calls", 3)
    async with Metering(**stores) as after:
        assert (await after.enforce_quota("acme", "api_calls", 1)).used == 4
        today = after.clock.now().date()
        assert (await after.get_usage("acme", today, today)).api_calls == 4
    assert [*(tmp_path / "ledger.db.journal").iterdir()] == []


async def test_the_check_up_says_what_waits_and_takes_it_over(tmp_path: Path) -> None:
    stores: Any = {"counters": "memory://", "ledger": f"sqlite:///{tmp_path}/ledger.db"}
    async with Metering(**stores, worker="off") as before:
        for _ in range(3):
            await before.enforce_quota("acme", "api_calls")
    where = f"journal: {tmp_path}/ledger.db.journal"
    first, second = [[text for _, text in await Metering(**stores).check_up()] for _ in range(2)]
    assert f"{where}: 3 facts in 1 files wait for a process that takes them over" in first
    assert f"{where}: nothing waits" in second


async def test_where_the_number_of_shards_has_changed_each_fact_goes_to_its_tenants(tmp_path: Path) -> None:
    tenants = [f"tenant-{number}" for number in range(12)]
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    async with Metering(counters=MemoryCounters(), ledger=ledger, worker="off") as before:
        for tenant in tenants:
            await before.enforce_quota(tenant, "api_calls")
    async with Metering(counters=MemoryCounters(shards=3), ledger=ledger, worker="inline") as after:
        used = [(await after.enforce_quota(tenant, "api_calls")).used for tenant in tenants]
        assert used == [2] * len(tenants)
        await after.flush()
    assert [*(tmp_path / "ledger.db.journal").iterdir()] == []


def test_without_file_locks_memory_does_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_place, "find_spec", lambda name: None)
    assert journal_directory("/var/lib/app", counters=None, ledger=None) is None
    assert "no file locks" in caplog.text
