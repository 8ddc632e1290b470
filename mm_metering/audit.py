"""The audit log as a whole: verified, exported, anchored elsewhere.

Owns: reading it page by page, and the file of anchors. Does not own: the chain (``core.audit_chain``), what is written
into it (each ledger, in the transaction that did it).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from mm_metering.backends.audit_log import FIRST_LINK
from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.audit_chain import (
    MOST_BROKEN,
    AuditAnchor,
    AuditReport,
    Broken,
    Head,
    Keys,
    Link,
    Outside,
    Walk,
    anchors_in,
)
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput

log: Final = logging.getLogger("mm_metering.audit")

PAGE: Final = 2_000
ANCHOR_EVERY: Final = timedelta(hours=1)


class AuditLog:
    """``anchors``: the file that anchors are appended to."""

    def __init__(self, ledger: Ledger, *, clock: Clock, keys: Keys, anchors: str | Path | None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._keys = keys
        self._file = None if anchors is None else Path(anchors)
        ledger.use_audit_keys(keys)

    @property
    def keeps_anchors(self) -> bool:
        """Whether there is a file that anchors go to."""
        return self._file is not None

    async def anchor(self) -> AuditAnchor | None:
        _, head = await self._ledger.audit_links(limit=1)
        return AuditAnchor(*head, self._clock.now()) if head.seq else None

    async def keep_anchor(self, _period: datetime, _fence: int) -> None:
        """Says where the chain ends in one line of the log, and of the file."""
        found = await self.anchor()
        if found is None:
            return
        log.info("audit anchor %s", found)
        if self._file is not None:
            line = f"{found} {found.at:%Y-%m-%dT%H:%M:%SZ}\n"
            try:
                await asyncio.to_thread(_append, self._file, line)
            except OSError as error:
                raise InvalidInput("audit_anchors", f"{self._file} cannot be written: {error.strerror}") from error

    async def verify(self, anchors: Iterable[str | AuditAnchor], progress: Callable[[int], None]) -> AuditReport:
        known = [anchor for each in anchors for anchor in anchors_in(str(each))]
        outside = Outside()
        async for page in self._outside():
            outside.add(page)
        walk, broken, head = Walk(self._keys, known, outside=outside), list[Broken](), Head()
        async for links, stands in self._pages():
            broken += walk.page(links)
            head = stands
            progress(walk.entries)
        broken += walk.end(head)
        return AuditReport(walk.entries, walk.signed, outside.entries, len(known), tuple(broken[:MOST_BROKEN]), head)

    async def export(self, start: datetime | None, end: datetime | None) -> AsyncIterator[Link]:
        first = -(2**63) if start is None else micros(start)
        past = 2**63 if end is None else micros(end)
        async for page in self._outside():
            for link in page:
                if first <= link.at_us < past:
                    yield link
        async for links, _ in self._pages():
            for link in links:
                if first <= link.at_us < past:
                    yield link

    async def _outside(self) -> AsyncIterator[list[Link]]:
        after = ""
        while page := await self._ledger.audit_outside(after=after, limit=PAGE):
            yield page
            after = page[-1].id

    async def _pages(self) -> AsyncIterator[tuple[list[Link], Head]]:
        """The last one, which may be empty, has the head that belongs to the end."""
        after = FIRST_LINK
        while True:
            links, head = await self._ledger.audit_links(after=after, limit=PAGE)
            yield links, head
            if len(links) < PAGE:
                return
            after = (links[-1].seq or 0, links[-1].id)


def _append(file: Path, line: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
