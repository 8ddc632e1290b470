"""Taking over what processes that have ended left in the journal's files."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from mm_metering import failpoints
from mm_metering.gate.coalesce import Lane
from mm_metering.gate.journal_file import Directory, Found, Item

log: Final = logging.getLogger("mm_metering.gate")

ADOPT_S: Final = 5.0
"""How often a running process looks for files that nobody holds."""
POLL_S: Final = 0.01
OPEN_POLLS: Final = 200
"""How long a new lane may take to learn its shard's generation; else the file waits for the next look."""


class Adopter:
    """Takes over a directory's files into the lanes of the event loop that calls it."""

    def __init__(
        self, directory: Directory, *, shards: int, lane_of: Callable[[int], Lane], shard_of: Callable[[str], int]
    ) -> None:
        self._directory = directory
        self._shards = shards
        self._lane_of = lane_of
        self._shard_of = shard_of

    async def __call__(self) -> None:
        """Adopts each file that nobody holds. One whose shard does not answer, or has no room, waits."""
        try:
            for shard, name in await self._directory.waiting():
                if not await _is_ready(self._lane_of(shard % self._shards)):
                    continue
                found = await self._directory.take(name)
                if found:
                    await self._adopt_or_leave(found)
        except OSError as error:
            log.warning("journal: %s cannot be read now: %s", self._directory.path, error)

    async def _adopt_or_leave(self, found: Found) -> None:
        is_adopted = False
        try:
            is_adopted = await self._adopt(found)
        finally:
            if not is_adopted:
                found.file.release()

    async def _adopt(self, found: Found) -> bool:
        """False if it must wait. Where the number of shards has changed since, each fact goes to its tenant's."""
        about = found.about
        is_same = about.shards == self._shards
        by_shard: dict[int, dict[Item, tuple[int, str]]] = defaultdict(dict)
        for item, seen_at in found.facts.items():
            by_shard[about.shard if is_same else self._shard_of(item[0])][item] = seen_at if is_same else (0, "")
        lanes = {shard: self._lane_of(shard) for shard in by_shard}
        if not all([await _is_ready(lane) for lane in lanes.values()]):
            return False
        if is_same and about.process and not all([await lane.end_session(about.process) for lane in lanes.values()]):
            return False
        found.file.parts = max(1, len(lanes))
        if not lanes:
            found.file.discard()
            return True
        log.info("journal: %d ops that were left in %s are taken over", len(found.facts), found.file.path)
        for shard, facts in by_shard.items():
            lanes[shard].adopt(found.file, facts)
        failpoints.reach("journal.adopted")
        return True


async def _is_ready(lane: Lane) -> bool:
    for _ in range(OPEN_POLLS):
        if lane.is_up or lane.down:
            break
        await asyncio.sleep(POLL_S)
    return lane.is_up and lane.journal.has_room
