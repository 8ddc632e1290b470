"""The journal's files: what a process has acknowledged and the ledger does not have yet outlives the process.

A file belongs to the process that holds its lock, which the kernel gives back however that process ends. A file that
nobody holds is adopted: locked, read, and removed once the ledger has confirmed all that came from it. Should the
adopter end first, the next one adopts it again; the ledger takes each fact once.

A line is a record and its checksum, so that a line cut off by a kill is noticed. What was written survives the process,
not a power cut: nothing is synchronised to the disk while callers wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from mm_metering import failpoints

log: Final = logging.getLogger("mm_metering.gate")

VERSION: Final = 1
MAX_FILE_BYTES: Final = 8 * 2**20
"""A file of what no longer fits into memory is closed at this size, and the next one begun."""
MAX_BYTES: Final = 2**30
"""What all files of one directory may take; beyond it none is begun."""
MAX_NAMES: Final = 10_000
"""Most files of one look into the directory."""

SUFFIX: Final = ".journal"
DAMAGED: Final = ".damaged"
NAME: Final = re.compile(r"([0-9]{1,6})-[0-9a-f]{32}\.journal\Z")
HEAD: Final = re.compile(rb"mm-metering-journal ([0-9]{1,9}) (.*)\Z")

Item: TypeAlias = tuple[str, bytes]
"""A tenant and the fact lines of one op."""


class Acked(NamedTuple):
    """Facts that stand in one stream entry of one generation; in none yet, where the generation is 0."""

    generation: int
    position: str
    items: tuple[Item, ...]


class About(NamedTuple):
    """A file's first line: on which of how many shards it was written, by whose session ("" for none), for whom."""

    shard: int
    shards: int
    process: str
    ledger: str


class Waiting(NamedTuple):
    """Files that nobody holds, and the facts in them."""

    files: int
    facts: int


class Found(NamedTuple):
    """A file that was adopted, and its facts, each once, with the generation and position it was last seen at."""

    file: JournalFile
    about: About
    facts: dict[Item, tuple[int, str]]


class JournalFile:
    """An open file and its lock. Used by one event loop."""

    def __init__(self, path: Path, descriptor: int, *, size: int = 0) -> None:
        self.path = path
        self.size: int = size
        self.parts: int = 1
        """How many journals hold facts of it: it goes when the last one lets go."""
        self.is_damaged = False
        self._descriptor = descriptor

    def append(self, records: Iterable[Acked]) -> None:
        """Written when it returns: it survives this process. OSError, and nothing is written, if it cannot be."""
        data = b"".join(map(_line, records))
        failpoints.reach("journal.before_write")
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)
        failpoints.reach("journal.after_write")

    def discard(self) -> None:
        """All of it is in the ledger. A damaged file is kept aside under another name."""
        self.parts -= 1
        if self._descriptor >= 0 and not self.parts:
            failpoints.reach("journal.before_remove")
            with contextlib.suppress(OSError):
                if self.is_damaged:
                    self.path.rename(self.path.with_suffix(DAMAGED))
                else:
                    self.path.unlink()
            failpoints.reach("journal.after_remove")
            self.release()

    def release(self) -> None:
        """Leaves it to whoever adopts it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Directory:
    """Where the files of one ledger lie; made when something must be written. ``ledger`` names it in each file, so that
    no other ledger takes its facts; ``off_loop`` runs what may take long, as ``asyncio.to_thread`` does."""

    def __init__(
        self,
        path: Path,
        ledger: str,
        *,
        off_loop: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.path = path
        self.ledger = ledger
        self._off_loop = off_loop
        self._new_id = new_id
        self._told: set[str] = set()

    def create(self, shard: int, shards: int, process: str) -> JournalFile:
        """A new file, locked. OSError if that cannot be done, or there are too many bytes already."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = sum(_size(self.path / name) for name in self._names())
        if taken >= MAX_BYTES:
            raise OSError(f"{self.path} holds {taken:,} bytes, the most is {MAX_BYTES:,}")
        while True:
            path = self.path / f"{shard}-{self._new_id()}{SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # somebody adopted it between these two lines, empty as it was
        about = About(shard, shards, process, self.ledger)
        head = b"mm-metering-journal %d %s\n" % (VERSION, json.dumps(about._asdict()).encode())
        try:
            os.write(descriptor, head)
        except OSError:
            os.close(descriptor)
            raise
        return JournalFile(path, descriptor, size=len(head))

    async def waiting(self) -> Sequence[tuple[int, str]]:
        """The files, with the shard that each was written for."""
        names = await self._off_loop(self._names)
        return [(int(name.partition("-")[0]), name) for name in names if name not in self._told]

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if NAME.match(path.name))[:MAX_NAMES]
        except FileNotFoundError:
            return []

    async def take(self, name: str) -> Found | None:
        """Adopts a file. None if a process holds it, or there is nothing in it for this ledger and release."""
        taking: asyncio.Future[Found | None] = asyncio.ensure_future(self._off_loop(self._take, name))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_let_go)  # its thread goes on
            raise

    def _take(self, name: str) -> Found | None:
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except PermissionError:
            return self._leave(path, "belongs to another user")
        file = JournalFile(path, descriptor)
        try:
            found = self._read(file, descriptor)
        except BaseException:
            file.release()
            raise
        if found is None:
            file.release()
        return found

    def _read(self, file: JournalFile, descriptor: int) -> Found | None:
        if not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
            return None
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            data = stream.read()
        first, _, rest = data.partition(b"\n")
        head = HEAD.match(first)
        if head and int(head[1]) > VERSION:
            return self._leave(file.path, f"is of version {int(head[1])}, and this release reads {VERSION}")
        about = _about(head[2]) if head else None
        if about is None:
            file.is_damaged = bool(data.strip(b"\0"))  # else its process ended before it had written anything
            if file.is_damaged:
                log.error("journal: %s is no journal and is kept aside as %s", file.path, DAMAGED)
            file.discard()
            return None
        if about.ledger != self.ledger:
            return self._leave(file.path, f"belongs to the ledger {about.ledger}, and this one is {self.ledger}")
        facts, file.is_damaged = _facts(rest)
        if file.is_damaged:
            log.error("journal: a line of %s is damaged; the rest is taken, the file kept as %s", file.path, DAMAGED)
        file.size = len(data)
        return Found(file, about, facts)

    def _leave(self, path: Path, why: str) -> Found | None:
        """Said once, since nobody here can take it."""
        self._told.add(path.name)
        log.warning("journal: %s is left alone: it %s", path, why)
        return None

    def count(self) -> Waiting:
        """What waits for an adopter."""
        files = count = 0
        for name in self._names():
            with contextlib.suppress(OSError):
                descriptor = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC)
                with os.fdopen(descriptor, "rb") as stream:
                    if _lock(descriptor):
                        facts, _ = _facts(stream.read().partition(b"\n")[2])
                        files += 1
                        count += sum(lines.count(b"\n") + 1 for _, lines in facts)
        return Waiting(files, count)


def _let_go(taking: asyncio.Future[Found | None]) -> None:
    if not taking.cancelled() and taking.exception() is None and (found := taking.result()):
        found.file.release()


def _lock(descriptor: int) -> bool:
    """False if another process holds it; OSError where there are no such locks."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError("this system has no file locks") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _line(record: Acked) -> bytes:
    items = [(tenant, lines.decode()) for tenant, lines in record.items]
    text = json.dumps((record.generation, record.position, items), separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _about(text: bytes) -> About | None:
    try:
        about = About(**json.loads(text))
    except (ValueError, TypeError):
        return None
    is_sane = type(about.shard) is int and type(about.shards) is int and 0 <= about.shard < about.shards
    return about if is_sane and isinstance(about.process, str) else None


def _facts(data: bytes) -> tuple[dict[Item, tuple[int, str]], bool]:
    """Each fact with where it was last seen, and whether a line is damaged that was once whole: not the last one."""
    facts: dict[Item, tuple[int, str]] = {}
    *lines, torn = data.split(b"\n")
    wrong = [number for number, line in enumerate(lines) if not _take_line(facts, line)]
    if torn or wrong == [len(lines) - 1]:
        log.info("journal: the last line was cut off with its process, before anybody was told of it")
    return facts, any(number < len(lines) - 1 for number in wrong)


def _take_line(facts: dict[Item, tuple[int, str]], line: bytes) -> bool:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % crc32(text):
        return False
    generation, position, items = json.loads(text)
    for tenant, lines in items:
        facts[tenant, lines.encode()] = (generation, position)
    return True
