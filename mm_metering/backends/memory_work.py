"""The workers' part of the ledger in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from mm_metering.backends.memory_audit import MemoryAudit
from mm_metering.backends.work import DEAD_LETTERS, FIRST_LETTER, Alert, DeadLetter, Lease, LetterKey, Run
from mm_metering.core.audit import Act
from mm_metering.core.audited import letters_posted
from mm_metering.core.cards import masked


class MemoryWork(MemoryAudit):
    """One lock makes each method a transaction; a ledger that builds on this shares it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._letters: dict[LetterKey, DeadLetter] = {}
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._closed: list[Alert] = []
        self._leases: dict[str, Lease] = {}
        self._runs: dict[tuple[str, int], Run] = {}

    # -- dead letters and alerts

    def _bury(self, dead: Iterable[DeadLetter]) -> None:
        for letter in dead:
            if letter.key not in self._letters:
                self._letters[letter.key] = letter
                self._open(DEAD_LETTERS, str(letter.shard), letter.reason, letter.stored_us)

    async def dead_letters(self, *, after: LetterKey = FIRST_LETTER, limit: int = 1000) -> list[DeadLetter]:
        with self._lock:
            return [self._letters[key] for key in sorted(self._letters) if key > after][:limit]

    async def count_dead_letters(self) -> int:
        with self._lock:
            return len(self._letters)

    async def remove_dead_letters(self, keys: Sequence[LetterKey], *, now_us: int, act: Act | None = None) -> None:
        with self._lock:
            gone = [key for key in set(keys) if self._letters.pop(key, None)]
            self._note(letters_posted(len(gone), act))
            for shard in {key[0] for key in keys} - {key[0] for key in self._letters}:
                self._close(DEAD_LETTERS, str(shard), now_us)

    def _open(self, kind: str, subject: str, detail: str, now_us: int) -> bool:
        before = max((each.opened_us for each in self._closed if each[:2] == (kind, subject)), default=now_us - 1)
        new = Alert(kind, subject, max(now_us, before + 1), None, masked(detail))
        return self._alerts.setdefault((kind, subject), new) is new

    def _close(self, kind: str, subject: str, now_us: int) -> bool:
        alert = self._alerts.pop((kind, subject), None)
        if alert is None:
            return False
        self._closed.append(alert._replace(closed_us=now_us))
        return True

    async def raise_alert(self, kind: str, subject: str, *, detail: str, now_us: int) -> bool:
        with self._lock:
            return self._open(kind, subject, detail, now_us)

    async def close_alert(self, kind: str, subject: str, *, now_us: int) -> bool:
        with self._lock:
            return self._close(kind, subject, now_us)

    async def open_alerts(self, *, after: tuple[str, str] = ("", ""), limit: int = 1000) -> list[Alert]:
        with self._lock:
            return [self._alerts[key] for key in sorted(self._alerts) if key > after][:limit]

    # -- leases and runs

    async def hold(self, owner: str, *, take: Sequence[Lease] = (), drop: Sequence[Lease] = ()) -> list[Lease]:
        with self._lock:
            for seen in (*drop, *take):
                if self._leases.get(seen.name, Lease(seen.name, seen.owner, 0)) == seen:
                    self._leases.pop(seen.name, None)
                    if seen in take:
                        self._leases[seen.name] = Lease(seen.name, owner, seen.beat)
            for name, lease in self._leases.items():
                if lease.owner == owner:
                    self._leases[name] = lease._replace(beat=lease.beat + 1)
            return sorted(self._leases.values())

    async def runs(self, job: str, *, until_us: int, limit: int) -> list[Run]:
        with self._lock:
            theirs = (run for (name, _), run in self._runs.items() if name == job and run.period_us <= until_us)
            return sorted(theirs, key=lambda run: -run.period_us)[:limit]

    async def put_run(self, run: Run, *, instead_of: Run) -> bool:
        with self._lock:
            key = (run.job, run.period_us)
            stands = self._runs.get(key, Run(*key))
            if (stands.fence, stands.beat) != (instead_of.fence, instead_of.beat):
                return False
            self._runs[key] = run._replace(beat=instead_of.beat + 1)
            return True

    async def forget_runs(self, *, before_us: int) -> int:
        with self._lock:
            newest = dict(sorted(self._runs))
            old = [key for key in self._runs if key[1] < before_us and key[1] < newest[key[0]]]
            for key in old:
                del self._runs[key]
            return len(old)
