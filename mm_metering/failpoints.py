"""Named points at which a process kills itself, for tests: off unless MM_FAILPOINT names one.

``MM_FAILPOINT=drain.after_commit`` ends the process there with SIGKILL: nothing is written out, nobody is told. The
first time by default; ``name:3`` the third time, ``name:0.1`` each time with that probability.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

VARIABLE: Final = "MM_FAILPOINT"

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "middleware.before_take": "a request is about to be counted",
        "middleware.after_take": "a request is counted, and the app has not seen it",
        "middleware.mid_stream": "the answer has begun, and its body is on the way",
        "lane.before_send": "a batch of takes and posts is about to be sent",
        "lane.after_reply": "its answer is here, and nobody was told or has journalled it",
        "lane.after_ack": "it is journalled, and the callers have not run yet",
        "replay.before_send": "facts are about to be appended again",
        "replay.after_reply": "they stand in the stream, and the journal does not know",
        "journal.before_write": "the counters failed, and what only this process knows is not in its file yet",
        "journal.after_write": "it is, and nobody was told",
        "journal.before_remove": "all that a file holds is in the ledger, and the file is still there",
        "journal.after_remove": "the file is gone",
        "journal.adopted": "another process's file is taken over, and nothing of it was replayed",
        "certify.before": "a shard's data belongs to another life of its server",
        "certify.after_ledger": "the ledger knows the new generation, and the counters do not",
        "certify.after_open": "the counters have it too",
        "load.before": "a tenant's counters are computed, and not there yet",
        "load.after": "they are",
        "retag.before": "a tenant changed in the ledger, and the counters do not know",
        "claim.after": "a caller's event id is claimed, and its fact was not posted",
        "backfill.after_commit": "a batch of a backfill is in the ledger, and loaded counters do not know",
        "backfill.after_settle": "they do, and nobody was told",
        "drain.after_read": "a batch of the stream is read",
        "drain.before_commit": "it is folded, and not committed",
        "drain.after_commit": "it is committed, and still in the stream",
        "drain.after_trim": "the stream is trimmed",
        "webhooks.after_fan_out": "what happened was made into deliveries",
        "webhooks.after_claim": "deliveries are leased, and none was attempted",
        "webhooks.after_send": "an attempt was answered, and is neither metered nor written",
        "webhooks.after_settle": "what follows from attempts is written, and they are still held here",
        "shutdown.before": "the process was told to end",
        "shutdown.after_settle": "all is in the stream, and nothing was closed",
    }
)
"""Each point, and what is the case there."""


def armed(spec: str) -> Callable[[str], None]:
    """What ``reach`` is under this value of the variable. ValueError for a point that is not there."""
    name, _, when = spec.partition(":")
    if name not in POINTS:
        raise ValueError(f"{VARIABLE} names {name!r}, and the points are {', '.join(POINTS)}")
    share = float(when) if "." in when else 0.0
    left = int(when or 1) if not share else 0

    def kill_at(point: str) -> None:
        nonlocal left
        if point != name:
            return
        left -= 1
        if random.random() < share or left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill_at


def _off(_: str) -> None:
    """Goes on."""


reach: Callable[[str], None] = armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _off
"""Called with a point's name where a process may be killed."""
