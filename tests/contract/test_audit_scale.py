"""A long audit log, verified as a whole: 20,000 entries here, a million in ``./dev nightly``."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mm_metering.audit import AuditLog
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.clock import SystemClock
from mm_metering.core.audit import Act
from mm_metering.core.audit_chain import Head, Link, Outside, chained

ENTRIES = int(os.environ.get("MM_AUDIT_ENTRIES", "20000"))
BATCH = 10_000
MOST_S_EACH = 40e-6
"""Of CPU, on a machine that is busy with other tests; 10 µs on one that is not."""
KEYS = {"k1": b"1" * 32}
BEFORE = {"timeline": ["2024-01-15T12:00:00Z pro version 1 active"]}
AFTER = {"timeline": ["2024-01-16T12:00:00Z enterprise version 1 active"]}


def fill(path: Path) -> Head:
    """Past the ledger, which writes one entry in a transaction."""
    head, began = Head(0, Outside().mac), datetime(2026, 11, 27, tzinfo=UTC)
    insert = f"INSERT INTO mm_audit_log ({', '.join(Link._fields)}) VALUES ({', '.join('?' * len(Link._fields))})"
    with closing(sqlite3.connect(path)) as file:
        for first in range(0, ENTRIES, BATCH):
            numbers = range(first, min(first + BATCH, ENTRIES))
            act = Act("u_17", began + timedelta(seconds=first), map("{:032x}".format, numbers).__next__, "ticket 12")
            tenants = [f"org_{number}" for number in numbers]
            made = [act.did("plan changed", each, each, before=BEFORE, after=AFTER) for each in tenants]
            links = chained(made, head, KEYS)
            head = Head(links[-1].seq or 0, links[-1].mac)
            file.executemany(insert, links)
        file.execute("UPDATE mm_audit_head SET seq = ?, mac = ?", head)
        file.commit()
    return head


@pytest.mark.timeout(900)
async def test_a_long_log_is_verified_in_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    await ledger.setup(apply=True)
    head, seen = fill(path), list[int]()
    began_s, cpu_s = time.monotonic(), time.process_time()
    log = AuditLog(ledger, clock=SystemClock(), keys=KEYS, anchors=None)
    report = await log.verify([f"{head.seq}:{head.mac}"], seen.append)
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    await ledger.aclose()
    print(f"{ENTRIES:,} entries verified in {took_s:.1f} s, {cpu_s:.1f} s of CPU")
    assert (report.broken, report.entries, report.signed, report.head) == ((), ENTRIES, ENTRIES, head)
    assert (seen[-1], seen == sorted(seen)) == (ENTRIES, True)
    assert cpu_s < ENTRIES * MOST_S_EACH
