"""What this process has acknowledged and the ledger has not confirmed yet.

Facts go in when the counters (or the outage policy) said yes, and leave when the drain has passed their entry in their
own generation. When a generation ends, what is left is replayed into the next one: the ledger takes each fact once.

With files, what only this process knows outlives it: what is promised without the counters is written before anybody is
told, all else when the counters stop answering or the process ends. While all is well nothing is written.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from mm_metering.backends.counters import position_key
from mm_metering.gate.journal_file import MAX_FILE_BYTES, Acked, Item, JournalFile

log: Final = logging.getLogger("mm_metering.gate")

IN_MEMORY: Final = 100_000
"""Beyond this many unconfirmed facts further ones go to a file instead of memory, and come back when there is room."""
MAX_FACTS: Final = 1_000_000
"""Beyond this many in memory, where no file takes them, nothing more is acknowledged: somebody must drain."""
REPLAY_BATCH: Final = 500
SAVE_ENTRIES: Final = 2_000
"""Most stream entries written at once, since the event loop waits meanwhile."""


class Journal:
    """One per lane; touched by its event loop alone. ``create`` begins a file for a session, "" for none."""

    def __init__(self, create: Callable[[str], JournalFile] | None = None, process: str = "") -> None:
        self.facts: int = 0
        self._acked: deque[Acked] = deque()
        self._pending: deque[Item] = deque()
        self._create = create
        self._process = process
        self._own: JournalFile | None = None
        self._spill: JournalFile | None = None
        self._files: list[JournalFile] = []
        self._saved = 0
        """How many of ``_acked``, from the left, stand in a file."""
        self._loose = 0
        """How many of ``_pending``, from the right, stand in none."""
        self._before: int | None = None
        """How many of ``_acked`` must be confirmed before the files can go; None while something is to be replayed."""
        self._has_warned = False

    @property
    def has_room(self) -> bool:
        """Whether what others left behind may be taken in."""
        return self.facts < IN_MEMORY // 2

    @property
    def waiting(self) -> bool:
        """Whether something must be replayed before anything is taken."""
        return bool(self._pending)

    def acked(self, generation: int, position: str, items: Sequence[Item]) -> None:
        """These facts stand in the stream now."""
        if items:
            entry = Acked(generation, position, tuple(items))
            if self.facts < IN_MEMORY or not self._spills(entry):
                self._acked.append(entry)
                self.facts += len(items)

    def promise(self, items: Iterable[Item]) -> None:
        """These facts must be appended, and somebody is about to be told so: they are written first."""
        entry = _unsent(items)
        if not entry.items or (self.facts >= IN_MEMORY and self._spills(entry)):
            return
        if not self._write([entry]) or self._loose:
            self._loose += len(entry.items)
        self._pending.extend(entry.items)
        self.facts += len(entry.items)

    def later(self, items: Iterable[Item]) -> None:
        """These facts must be appended. They are in memory, or written already, and were promised to nobody since."""
        for item in items:
            self._pending.append(item)
            self._loose += 1
            self.facts += 1

    def next_replay(self) -> tuple[Item, ...]:
        """Takes the next facts to replay out; they come back by ``acked`` or ``later``."""
        count = min(REPLAY_BATCH, len(self._pending))
        self.facts -= count
        replay = tuple(self._pending.popleft() for _ in range(count))
        self._loose = min(self._loose, len(self._pending))
        return replay

    def confirm(self, generation: int, drained: str) -> bool:
        """Forgets what the ledger has folded of this generation. False if all that waits for it waits on."""
        end, before = position_key(drained), len(self._acked)
        while self._acked and self._acked[0].generation == generation:
            if position_key(self._acked[0].position) > end:
                break
            self.facts -= len(self._acked.popleft().items)
        if self._files or self._spill:
            self._let_go(before - len(self._acked))
        return not self._acked or len(self._acked) < before

    def restart(self) -> None:
        """A new generation began: everything unconfirmed is to be replayed into it. What is in no file comes last."""
        entries = [*self._acked]
        self._acked.clear()
        loose = [self._pending.pop() for _ in range(self._loose)]
        self._pending.extendleft(item for entry in entries[: self._saved] for item in entry.items)
        late = [*(item for entry in entries[self._saved :] for item in entry.items), *reversed(loose)]
        self._pending.extend(late)
        self._saved, self._loose, self._before = 0, len(late), None

    # -- files --------------------------------------------------------------------------------------------------------

    @property
    def has_files(self) -> bool:
        return self._create is not None

    def note(self, items: Iterable[Item]) -> None:
        """Writes what somebody is about to be told of a batch whose answer may still come; it is not replayed yet."""
        entry = _unsent(items)
        if entry.items:
            self._write([entry])

    def save(self, replaying: Sequence[Item] = ()) -> None:
        """Writes what stands in no file yet, up to SAVE_ENTRIES of the stream's entries: the counters do not answer.
        ``replaying`` is taken out at the moment."""
        entries = [*islice(self._acked, self._saved, self._saved + SAVE_ENTRIES)]
        loose = [*islice(reversed(self._pending), self._loose)]
        records = [*entries, *(_unsent(part) for part in (replaying, loose) if part)]
        if records and self._write(records):
            self._saved += len(entries)
            self._loose = 0

    def adopt(self, file: JournalFile, acked: Iterable[Acked], later: Sequence[Item]) -> None:
        """Takes over what a file holds: entries of this generation's stream, and facts to be replayed."""
        entries = sorted(acked, key=lambda entry: position_key(entry.position))
        self._acked.extendleft(reversed(entries))
        self._pending.extendleft(later)
        self.facts += sum(len(entry.items) for entry in entries) + len(later)
        self._saved += len(entries)
        self._files.append(file)
        self._before = None

    def close(self, owed: Sequence[Item] = ()) -> bool:
        """Leaves everything unconfirmed, and what is ``owed`` beside it, to the next process, in one file. False if
        there is none that takes it."""
        waiting = (*self._pending, *owed)
        parts = [waiting[at : at + REPLAY_BATCH] for at in range(0, len(waiting), REPLAY_BATCH)]
        records = [*self._acked, *map(_unsent, parts)]
        older, self._own, self._files = self._files, None, []
        is_kept = not records or self._write(records)
        for file in older:
            if is_kept:
                file.discard()
            else:
                file.release()
        for left in (self._own, self._spill):
            if left is not None:
                left.release()
        self._own = self._spill = None
        self._files = []
        return is_kept

    def _write(self, records: Sequence[Acked]) -> bool:
        if self._create is None:
            return False
        try:
            if self._own is None:
                self._own = self._create(self._process)
                self._files.append(self._own)
            self._own.append(records)
        except OSError as error:
            self._warn(error)
            return False
        self._before, self._has_warned = None, False
        return True

    def _spills(self, record: Acked) -> bool:
        """Writes to a file that anybody adopts, this process too, once it is full or there is room again."""
        if self._create is None:
            return False
        try:
            self._spill = self._spill or self._create("")
            self._spill.append([record])
        except OSError as error:
            self._warn(error)
            return False
        if self._spill.size >= MAX_FILE_BYTES:
            self._spill.release()
            self._spill = None
        return True

    def _let_go(self, confirmed: int) -> None:
        self._saved = max(0, self._saved - confirmed)
        if self._spill and self.has_room:
            self._spill.release()
            self._spill = None
        if self._before is None:
            self._before = None if self._pending else len(self._acked)
        else:
            self._before -= confirmed
        if self._before is not None and self._before <= 0:
            for file in self._files:
                file.discard()
            self._own, self._files, self._before, self._saved = None, [], None, 0

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "journal: nothing is written to a file, so what is unconfirmed ends with this process: %s", error
            )


def _unsent(items: Iterable[Item]) -> Acked:
    return Acked(0, "", tuple(items))
