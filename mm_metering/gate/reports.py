"""What this process tells the ledger beside the stream: what it acknowledged, and what it refused.

Acknowledged facts are summed up as a digest per shard. ``mm-metering prove`` compares it with what the shard has
folded: it never says more than callers were told, so a ledger that has less has lost something.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.core.cells import CellKey
from mm_metering.core.digest import Digest, hash_of
from mm_metering.core.facts import Fact, encode
from mm_metering.core.periods import from_micros, local_day
from mm_metering.gate.tenants import View

AGAIN_US: Final = 3_600_000_000
"""After an hour a process reports all again: one that is silent for a week is taken for ended."""
MOST_WAITING: Final = 512
"""Lines that wait to be hashed: some 0.3 ms of work."""
POLL_S: Final = 0.002


class Reports:
    """One per process, used from any event loop and thread."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._lines: deque[tuple[int, bytes]] = deque()
        self._refusals: deque[tuple[View, str, int, int]] = deque()
        self._digests: dict[int, Digest] = {}
        self._refused: Counter[CellKey] = Counter()
        self._changed: set[int] = set()
        self._all_us = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def acknowledged(self, shard: int, payload: bytes) -> None:
        """Callers were told that these facts count: a fact's line, or several, of facts that move a cell."""
        self._lines.append((shard, payload))
        if len(self._lines) >= MOST_WAITING:
            self._sum_up()

    def taken_back(self, shard: int, facts: Iterable[Fact]) -> None:
        """These acknowledged facts are about to be taken back. Said before it is done, so that in between the ledger
        has more, not less."""
        hashes = [hash_of(encode(fact)) for fact in facts]
        with self._lock:
            self._digests[shard] = self._digests.get(shard, Digest()).plus(-len(hashes), -sum(hashes))
            self._changed.add(shard)

    def refused(self, view: View, meter: str, quantity: int, now_us: int) -> None:
        self._refusals.append((view, meter, quantity, now_us))
        if len(self._refusals) >= MOST_WAITING:
            self._sum_up()

    async def send(self, ledger: Ledger, now_us: int) -> None:
        """Writes what is new; StoreUnavailable leaves it to the next time."""
        while not self._sending.acquire(blocking=False):  # noqa: ASYNC110 - held on another event loop
            await asyncio.sleep(POLL_S)
        try:
            self._sum_up()
            with self._lock:
                if now_us - self._all_us >= AGAIN_US:
                    self._changed |= self._digests.keys()
                    self._all_us = now_us
                digests = {shard: self._digests[shard] for shard in self._changed}
                refused = dict(self._refused)
            if digests or refused:
                await ledger.report(self._process, acknowledged=digests, refused=refused, now_us=now_us)
                with self._lock:
                    self._changed -= {shard for shard, digest in digests.items() if self._digests[shard] == digest}
                    self._refused.subtract(refused)
                    self._refused = +self._refused
        finally:
            self._sending.release()

    def _sum_up(self) -> None:
        with self._lock:
            by_shard = defaultdict[int, list[bytes]](list)
            while self._lines:
                shard, payload = self._lines.popleft()
                by_shard[shard].append(payload)
            for shard, payloads in by_shard.items():
                lines = b"\n".join(payloads).split(b"\n")
                self._digests[shard] = self._digests.get(shard, Digest()).plus(len(lines), sum(map(hash_of, lines)))
            self._changed |= by_shard.keys()
            while self._refusals:
                view, meter, quantity, now_us = self._refusals.popleft()
                self._refused[_cell(view, meter, now_us)] += quantity


def _cell(view: View, meter: str, now_us: int) -> CellKey:
    day = local_day(from_micros(now_us), view.windows.zone)
    since_us = view.row.segment_at(now_us).starts_us if view.row else 0
    return CellKey(view.tenant, day, since_us, meter, "", "")
