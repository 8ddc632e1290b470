"""G2: a shard whose data belongs to another life of its server gets a new generation."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mm_metering import failpoints
from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.errors import StoreUnavailable

log: Final = logging.getLogger("mm_metering.gate")

GRACE_MS: Final = 300
"""How long a new generation stays shut, so that every process can replay its journal first."""
OPEN_S: Final = 2.0
"""Longest wait for the counters to take it."""


async def certify(counters: Counters, ledger: Ledger, shard: int, *, seen: int, known: int = 0) -> None:
    """Hands the shard, which is at ``seen``, a generation above that, above ``known`` and above every other that the
    ledger has handed out: one that was restored from a backup has forgotten some. Safe in any number at once: one of
    them opens it.

    Raises StoreUnavailable, the outcome then unknown: whoever meets the shard next certifies again.
    """
    failpoints.reach("certify.before")
    generation, first = await ledger.certify(shard, seen=max(seen, known))
    failpoints.reach("certify.after_ledger")
    grace_ms = 0 if first else GRACE_MS
    try:
        async with asyncio.timeout(OPEN_S):
            opened = await counters.open(shard, seen=seen, generation=generation, grace_ms=grace_ms)
    except TimeoutError:
        raise StoreUnavailable(f"counters: shard {shard} was not opened within {OPEN_S:.0f} s") from None
    if opened:
        failpoints.reach("certify.after_open")
        log.info("shard %d: generation %d is open", shard, generation)
