"""A power cut, simulated: after kill -9 each file is cut down to what its last completed fsync had covered.

``syncshim.c`` is compiled when it is needed and preloaded into the process that writes. What may be reordered inside of
a file is not simulated: SQLite's log only grows here, since a reader keeps it from beginning anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import event

from mm_metering import Metering
from mm_metering.backends.counters import START
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.facts import Count, Fact, decode
from mm_metering.core.tenancy import TenantDefaults
from mm_metering.errors import StoreUnavailable
from mm_metering.gate.admission import Wish
from mm_metering.gate.deadlines import Timing
from tests.chaos.app import PLANS
from tests.redis_server import RedisServer

SHIM: Final = Path(__file__).with_name("syncshim.c")
NO_COMPILER: Final = "no C compiler on the PATH (cc): power cuts are NOT simulated; install gcc or clang"
TENANT: Final = "acme"
FACTS: Final = 5
"""Facts of a transaction."""
AT_LEAST: Final = 20
"""Acknowledgements before the power may be cut."""
WAIT_S: Final = 30.0
PATIENT: Final = Timing(decision_s=10, load_s=10)
"""No outage but that of the power cut, however slow the disk is."""


class Cut(NamedTuple):
    """What one power cut took: facts that had been acknowledged, and bytes that were in no fsync."""

    acknowledged: int
    lost: int
    bytes: int


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class Shim:
    """The compiled library, and what it noted."""

    def __init__(self, folder: Path) -> None:
        command = compiler()
        assert command is not None, NO_COMPILER
        self._library = folder / "syncshim.so"
        self._notes = folder / "synced"
        subprocess.run([command, "-shared", "-fPIC", "-O1", "-o", self._library, SHIM, "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "MM_SYNCED": str(self._notes)}

    def cut(self, file: Path, *, at: Path | None = None) -> int:
        """Cuts the file, or a copy of it, down to what was synchronised; how many bytes that took."""
        synced = [0]
        for line in self._notes.read_text().splitlines() if self._notes.exists() else ():
            size, _, path = line.partition(" ")
            synced += [int(size)] if path == str(file) else []
        here = at or file
        size_bytes = here.stat().st_size
        os.truncate(here, min(size_bytes, max(synced)))
        return size_bytes - here.stat().st_size


# -- the ledger --------------------------------------------------------------------------------------------------------


async def ledger_cut(folder: Path, *, synchronous: str, dice: random.Random) -> Cut:
    """Facts are folded into a SQLite ledger and acknowledged after each commit, until the power is cut."""
    database, log = folder / "ledger.db", folder / "ledger.db-wal"
    ledger = SqlLedger(f"sqlite:///{database}")
    await ledger.setup(apply=True)
    await ledger.aclose()
    shim = Shim(folder)
    with contextlib.closing(sqlite3.connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM mm_usage_fact").fetchone()  # from now on the log cannot begin anew
        acknowledged = await _fold_until_killed(shim, database, synchronous, dice)
        left = folder / "left"
        left.mkdir()
        for file in (database, log):  # before the reader closes, which would fold the log into the database
            shutil.copy(file, left)
    taken = shim.cut(log, at=left / log.name)
    with contextlib.closing(sqlite3.connect(left / database.name)) as after:
        assert after.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = {name for (name,) in after.execute("SELECT id FROM mm_usage_fact")}
    return Cut(len(acknowledged), len(acknowledged - kept), taken)


async def _fold_until_killed(shim: Shim, database: Path, synchronous: str, dice: random.Random) -> set[str]:
    command = [sys.executable, "-m", "tests.chaos.power", str(database), synchronous]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **shim.environment}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told: set[str] = set()
    least = AT_LEAST + dice.randrange(AT_LEAST)
    async with asyncio.timeout(WAIT_S):
        while len(told) < least * FACTS:
            told.update((await process.stdout.readline()).decode().split())
        process.send_signal(signal.SIGKILL)
        told.update((await process.stdout.read()).decode().split())
        await process.wait()
    return told


async def fold_for_ever(database: Path, synchronous: str) -> None:
    """The process that is killed: each line on stdout names the facts of one commit."""
    ledger = SqlLedger(f"sqlite:///{database}")
    if synchronous != "FULL":
        _weaken(ledger, synchronous)
    generation, _ = await ledger.certify(0, seen=0)
    before, number = START, 0
    while True:
        number += 1
        facts = [_fact(f"{number}-{n}", number) for n in range(FACTS)]
        after = f"{number}-0"
        defaults = TenantDefaults("", 0, "UTC")
        await ledger.fold(0, generation=generation, before=before, after=after, facts=facts, defaults=defaults)
        before = after
        os.write(1, (" ".join(fact.id for fact in facts) + "\n").encode())


def _weaken(ledger: SqlLedger, synchronous: str) -> None:
    """For the comparison: what a ledger with less would lose."""

    def on_connect(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.close()

    event.listen(ledger._store._engine().sync_engine, "connect", on_connect)


def _fact(name: str, number: int) -> Fact:
    occurred_us = 1_700_000_000_000_000 + number
    return Fact(name, occurred_us, "use", TENANT, "soft", "work", 1, None, (Count("soft", "", 1),))


# -- the server --------------------------------------------------------------------------------------------------------


async def server_cut(folder: Path, *, fsync: str, dice: random.Random) -> Cut:
    """Takes are acknowledged by a server with an append-only file, until the power is cut; nobody drains, and no
    process is there to replay anything."""
    shim = Shim(folder)
    options = {"appendfsync": fsync, "auto-aof-rewrite-percentage": "0"}
    server = RedisServer(folder, appendonly=True, options=options, environment=shim.environment)
    server.start()
    try:
        acknowledged = await _take_until_killed(server, dice)
        (file,) = (folder / "appendonlydir").glob("*.incr.aof")
        taken = shim.cut(file)
        server.start()
        kept = await _in_stream(server)
    finally:
        server.kill()
    return Cut(len(acknowledged), len(acknowledged - kept), taken)


async def _take_until_killed(server: RedisServer, dice: random.Random) -> set[str]:
    acknowledged: set[str] = set()
    metering = Metering(PLANS, counters=server.url, worker="off", journal="off", timing=PATIENT)
    await metering.startup()
    least, wish = AT_LEAST + dice.randrange(10 * AT_LEAST), Wish("strict", "work")

    async def call() -> None:
        with contextlib.suppress(StoreUnavailable):
            while server.is_running:
                admission = await metering.take(TENANT, (wish,))
                acknowledged.update(fact.id for fact in admission.facts)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(call())
        while len(acknowledged) < least:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.001)
        server.kill()
    await metering.gate.aclose()
    await metering.counters.aclose()
    return acknowledged


async def _in_stream(server: RedisServer) -> set[str]:
    metering = Metering(PLANS, counters=server.url, worker="off", journal="off")
    found: set[str] = set()
    after = START
    while entries := (await metering.counters.read(0, after=after, limit=1_000)).entries:
        found.update(decode(line).id for entry in entries for line in entry.lines)
        after = entries[-1].position
    await metering.counters.aclose()
    return found


# -- many of them ------------------------------------------------------------------------------------------------------

KINDS: Final = (("SQLite", "FULL"), ("SQLite", "NORMAL"), ("counters", "always"), ("counters", "everysec"))
DURABLE: Final = ("FULL", "always")
"""Of these nothing may be lost. The others show that the cut cuts."""
HEAD: Final = (
    "| what | synchronised | power cuts | acknowledged | lost | cut off | promised |\n|---|---|--:|--:|--:|--:|---|"
)


class Cuts(NamedTuple):
    what: str
    how: str
    cuts: tuple[Cut, ...]

    @property
    def lost(self) -> int:
        return sum(cut.lost for cut in self.cuts)

    @property
    def is_as_promised(self) -> bool:
        return self.lost == 0 if self.how in DURABLE else self.lost > 0

    def cells(self) -> str:
        sums = (len(self.cuts), sum(cut.acknowledged for cut in self.cuts), self.lost)
        numbers = " | ".join(f"{each:,}" for each in sums)
        cut_off = f"{sum(cut.bytes for cut in self.cuts):,} bytes"
        promised = "nothing is lost" if self.how in DURABLE else "no promise"
        return f"| {self.what} | {self.how} | {numbers} | {cut_off} | {promised} |"


async def kind(folder: Path, what: str, how: str, *, times: int, seed: int) -> Cuts:
    dice, cuts = random.Random(f"{seed} {how}"), []
    for number in range(times):
        own = folder / f"{how}-{number}"
        own.mkdir()
        if what == "SQLite":
            cuts.append(await ledger_cut(own, synchronous=how, dice=dice))
        else:
            cuts.append(await server_cut(own, fsync=how, dice=dice))
    return Cuts(what, how, tuple(cuts))


if __name__ == "__main__":
    asyncio.run(fold_for_ever(Path(sys.argv[1]), sys.argv[2]))
