"""The runs: which processes are killed when, and the table of what came of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mm_metering.failpoints import POINTS
from tests.chaos.house import House, Place, Stuck
from tests.chaos.judge import Verdict, judge
from tests.chaos.servers import MODES
from tests.chaos.truth import Truth
from tests.postgres_server import PostgresServer, find_binaries, unprivileged_user

LEDGERS: Final = ("sqlite", "postgres")
WARM_S: Final = 1.0
GAP_S: Final = 0.35
"""Between two kills, in the mean."""
TELL_S: Final = 10.0
SHORT: Final = 6
LONG: Final = 100
"""Kills of a run, where their number is not given."""


@dataclass(slots=True)
class Row:
    """One run of the table."""

    mode: str
    ledger: str
    kills: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)
    surprises: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and not self.surprises

    def cells(self) -> str:
        v, pauses = self.verdict, sorted(self.verdict.pauses_s)
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        pause = f"{pauses[-1]:.2f} s ({pauses[len(pauses) // 2]:.2f})" if pauses else "–"
        numbers = [v.asked, v.acknowledged, v.in_ledger]
        wrong = [len(v.lost), len(v.duplicated), len(v.unowed), len(v.over), len(v.drift)]
        return " | ".join([self.mode, self.ledger, kills, *(f"{each:,}" for each in (*numbers, *wrong)), pause])


HEAD: Final = (
    "| server | ledger | killed | asked | acknowledged | in ledger | lost | twice | not owed | over limit | drift "
    "| longest pause (median) |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def table(rows: Sequence[Row]) -> str:
    return "\n".join([HEAD, *(f"| {row.cells()} |" for row in rows)])


# -- random kills ------------------------------------------------------------------------------------------------------


async def random_kills(house: House, truth: Truth, kills: int) -> Counter[str]:
    """Kills at random: half of them app processes, a quarter workers, a quarter the server."""
    done, dice, told = Counter[str](), house.dice, time.monotonic()
    await asyncio.sleep(WARM_S)
    while done.total() < kills:
        await asyncio.sleep(dice.uniform(0, 2 * GAP_S))
        kind = dice.choice(("app", "app", "worker", "server"))
        if kind == "server":
            await house.lose()
        else:
            places = await house.noticed(truth) if kind == "app" else house.of("worker")
            if not places:
                continue
            await house.kill(dice.choice(places))
        done[kind] += 1
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            truth.update()
            print(f"  {done.total()} of {kills} kills, {len(truth.sent):,} calls", flush=True)
    await asyncio.sleep(WARM_S)
    return done


async def run_kills(folder: Path, mode: str, ledger: str, *, kills: int, seed: int) -> Row:
    async with a_house(folder, mode, ledger, seed=seed) as house:
        return await _judged(house, mode, lambda truth: random_kills(house, truth, kills))


# -- failpoints --------------------------------------------------------------------------------------------------------

MANY_TIMES: Final = 40
"""Points that every process passes all the time: it is killed at one of the first times there."""
FEW_TIMES: Final = 2
OUTAGE_S: Final = 0.25
REACH_S: Final = 60.0


async def failpoint_kills(house: House, truth: Truth, times: int, points: Sequence[str]) -> Counter[str]:
    """Arms each point in turn, in every process that can reach it, until that many were killed there."""
    done = Counter[str]()
    for point in points:
        kind = "worker" if point.startswith("drain") else "app"
        places = [place for place in house.places if place.name.startswith(kind)]
        before = sum(place.deaths for place in places)
        is_often = point.startswith(("middleware", "lane", "drain"))
        await _arm(house, places, point, at_most=MANY_TIMES if is_often else FEW_TIMES if times > 1 else 1)
        give_up = time.monotonic() + REACH_S + times
        while (done_here := sum(place.deaths for place in places) - before) < times:
            if time.monotonic() > give_up:
                raise Stuck(f"{point} was reached {done_here} of {times} times")
            await _provoke(house, point)
        done[point] = done_here
        await _arm(house, places, "")
    return done


async def _arm(house: House, places: Sequence[Place], point: str, *, at_most: int = 1) -> None:
    for place in places:
        place.failpoint, place.at_most = point, at_most
    if not point.startswith("shutdown"):
        await asyncio.gather(*(house.end(place) for place in places))


async def _provoke(house: House, point: str) -> None:
    """What leads to that point; most are reached by the load alone."""
    room, _, step = point.partition(".")
    if room == "certify":
        await house.lose()
        await asyncio.sleep(1.0)
    elif room in ("journal", "replay"):
        async with asyncio.TaskGroup() as group:
            group.create_task(house.server.stand_still(OUTAGE_S))
            await asyncio.sleep(OUTAGE_S * 0.7)
            if step == "adopted" and house.of("app"):
                await house.kill(house.of("app")[0])
        await asyncio.sleep(0.7)
    elif room == "shutdown":
        await asyncio.sleep(0.5)
        await asyncio.gather(*(house.end(place) for place in house.of("app")))
    await asyncio.sleep(0.05)


async def run_failpoints(
    folder: Path, mode: str, ledger: str, *, times: int, seed: int, points: Sequence[str] = tuple(POINTS)
) -> Row:
    async with a_house(folder, mode, ledger, seed=seed) as house:
        row = await _judged(house, "failpoints", lambda truth: failpoint_kills(house, truth, times, points))
    print(*(f"  {point}: {count}" for point, count in row.kills.items()), sep="\n")
    row.kills = Counter({f"at {len(row.kills)} points": row.kills.total()})
    return row


# -- a run -------------------------------------------------------------------------------------------------------------


async def _judged(house: House, mode: str, work: Callable[[Truth], Awaitable[Counter[str]]]) -> Row:
    row, began = Row(mode, house.ledger.partition(":")[0]), time.monotonic()
    async with house.running() as truth:
        row.kills = await work(truth)
    async with house.metering() as metering:
        await house.finish(truth, metering)
        row.verdict = await judge(truth, metering, house.losses)
    row.surprises, row.seconds = house.surprises, time.monotonic() - began
    return row


@contextlib.asynccontextmanager
async def a_house(folder: Path, mode: str, ledger: str, *, seed: int) -> AsyncIterator[House]:
    """Its server runs while the block does."""
    folder.mkdir(parents=True, exist_ok=True)
    server = MODES[mode](folder)
    try:
        await server.start()
        yield House(folder, ledger, server, random.Random(f"{seed} {mode} {ledger.partition(':')[0]}"))
    finally:
        await server.aclose()


# -- the command -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres(wanted: bool) -> Iterator[PostgresServer | None]:  # noqa: FBT001 - the only argument
    """A server while the block runs, if any run wants one."""
    binaries = find_binaries() if wanted else None
    if not wanted:
        yield None
        return
    assert binaries is not None, "no PostgreSQL binaries: see tests/postgres_server.py"
    server = PostgresServer(binaries, unprivileged_user())
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def ledger_url(kind: str, folder: Path, server: PostgresServer | None) -> str:
    """An empty ledger."""
    if kind == "postgres":
        assert server is not None
        return await server.create(migrated=False)
    return f"sqlite:///{folder}/ledger.db"


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few of each kind, in less than a minute")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the kills")
    parser.add_argument("--kills", type=int, help="in each run: 6 with --short, else 100")
    parser.add_argument("--ledger", choices=(*LEDGERS, "both"), default="both")
    parser.add_argument("--server", choices=(*MODES, "all"), default="all", help="what the server remembers")
    parser.add_argument("--failpoints", type=int, metavar="TIMES", help="instead: kills at each failpoint, that often")
    return parser.parse_args(argv)


async def run(chosen: argparse.Namespace, folder: Path, server: PostgresServer | None) -> list[Row]:
    """A row per server and ledger. With --short each server is tried on one ledger, in turn."""
    ledgers = LEDGERS if chosen.ledger == "both" else (chosen.ledger,)
    modes = tuple(MODES) if chosen.server == "all" else (chosen.server,)
    pairs = [(mode, ledger) for mode in modes for ledger in ledgers]
    if chosen.short:
        pairs = [(mode, ledgers[at % len(ledgers)]) for at, mode in enumerate(modes)]
    if chosen.failpoints:
        pairs = [("none", ledger) for ledger in ledgers]
    rows = []
    for at, (mode, ledger) in enumerate(pairs):
        own = folder / str(at)
        own.mkdir()
        url = await ledger_url(ledger, own, server)
        print(f"== {'failpoints' if chosen.failpoints else mode}, {ledger}", flush=True)
        kills = chosen.kills or (SHORT if chosen.short else LONG)
        if chosen.failpoints:
            rows.append(await run_failpoints(own, mode, url, times=chosen.failpoints, seed=chosen.seed))
        else:
            rows.append(await run_kills(own, mode, url, kills=kills, seed=chosen.seed))
        print(*rows[-1].verdict.problems(), *rows[-1].surprises, sep="\n", end="", flush=True)
        print(f"| {rows[-1].cells()} |  ({rows[-1].seconds:.0f} s)", flush=True)
    return rows


def main(argv: Sequence[str]) -> int:
    chosen = arguments(argv)
    folder = Path(tempfile.mkdtemp(prefix="mm-chaos-"))
    with postgres(chosen.ledger != "sqlite") as server:
        try:
            rows = asyncio.run(run(chosen, folder, server))
        except Stuck as error:
            print(f"stuck: {error}; see {folder}")
            return 1
    print(f"\nseed {chosen.seed}\n\n{table(rows)}")
    if all(row.is_clean for row in rows):
        shutil.rmtree(folder)
        return 0
    print(f"\nnot clean: what is left lies in {folder}")
    return 1
