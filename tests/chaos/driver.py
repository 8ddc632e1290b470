"""The runs: which processes are killed when, and the table of what came of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final

from mm_metering.failpoints import POINTS
from tests.chaos import pause, power
from tests.chaos.house import House, Place, Stuck
from tests.chaos.judge import Verdict, judge
from tests.chaos.servers import MODES
from tests.chaos.truth import Truth
from tests.postgres_server import PostgresServer, find_binaries, unprivileged_user

LEDGERS: Final = ("sqlite", "postgres")
KILLED_AT: Final = tuple(point for point in POINTS if not point.startswith(("webhooks.", "backfill.")))
"""The others are killed at by ``tests/e2e/test_webhooks.py``."""
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
    await _all_admitted(house, truth)
    done, dice, told = Counter[str](), house.dice, time.monotonic()
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
    await _all_admitted(house, truth)
    await asyncio.sleep(GAP_S)
    return done


async def _all_admitted(house: House, truth: Truth) -> None:
    await house.until(lambda: house.of("app") and house.are_admitted(truth), "all app processes are admitted")


async def run_kills(folder: Path, mode: str, ledger: str, *, kills: int, seed: int) -> Row:
    async with a_house(folder, mode, ledger, seed=seed) as house:
        return await _judged(house, mode, lambda truth: random_kills(house, truth, kills))


# -- failpoints --------------------------------------------------------------------------------------------------------

MANY_TIMES: Final = 40
"""Points that every process passes all the time: it is killed at one of the first times there."""
FEW_TIMES: Final = 2
OUTAGE_S: Final = 0.25
OFTEN: Final = ("middleware", "lane")
PROVOKED: Final = {"certify": "loss", "journal": "outage", "replay": "outage", "shutdown": "end", "drain": "work"}
"""What a room's points are reached by; all others by the load alone."""
REACH_S, REACH_EACH_S = 60.0, 40.0


async def failpoint_kills(house: House, truth: Truth, times: int, points: Sequence[str]) -> Counter[str]:
    """Arms the points of a family in as many processes as there are, until that many were killed at each."""
    done = Counter[str]()
    for family in families(points):
        kind = "worker" if family[0].startswith("drain") else "app"
        places = [place for place in house.places if place.name.startswith(kind)]
        at_once = 1 if PROVOKED.get(family[0].partition(".")[0]) == "loss" else len(places)  # one process certifies
        for at in range(0, len(family), at_once):
            done += await _kill_at(house, truth, places, family[at : at + at_once], times)
    await _all_admitted(house, truth)
    return done


def families(points: Iterable[str]) -> list[list[str]]:
    """Points that the same events lead to, by the room that they are in."""
    found: dict[str, list[str]] = {}
    for point in points:
        room = point.partition(".")[0]
        found.setdefault(PROVOKED.get(room, "load"), []).append(point)
    return [*found.values()]


async def _kill_at(
    house: House, truth: Truth, places: Sequence[Place], points: Sequence[str], times: int
) -> Counter[str]:
    """Each process that starts is killed at its place's point, until there were enough."""
    own = dict(zip(places, cycle(points), strict=False))
    before = {place: place.deaths for place in places}
    for place, point in own.items():
        place.failpoint, place.at_most = point, MANY_TIMES if point.startswith(OFTEN) else min(times, FEW_TIMES)
    if not points[0].startswith("shutdown"):
        await asyncio.gather(*(house.end(place) for place in places))
    within_s = REACH_S + REACH_EACH_S * times
    give_up = time.monotonic() + within_s
    while True:
        done = Counter(
            {point: sum(place.deaths - before[place] for place in places if own[place] == point) for point in points}
        )
        if not points[0].startswith("drain"):  # a worker that lived on would keep the shard from the others
            for place in places:
                place.failpoint = "" if done[own[place]] >= times else place.failpoint
        if min(done.values()) >= times:
            break
        if time.monotonic() > give_up:
            raise Stuck(f"not {times} times within {within_s:.0f} s: {done}")
        await _provoke(house, truth, points[0])
    for place in places:
        place.failpoint = ""
    await asyncio.gather(*(house.end(place) for place in places))
    print(*(f"  {point}: {count}" for point, count in done.items()), sep="\n", flush=True)
    return done


async def _provoke(house: House, truth: Truth, point: str) -> None:
    """What leads to that family of points."""
    family = PROVOKED.get(point.partition(".")[0])
    if family == "loss":
        await house.lose()
        await asyncio.sleep(1.0)
    elif family == "outage":
        async with asyncio.TaskGroup() as group:
            group.create_task(house.server.stand_still(OUTAGE_S))
            await asyncio.sleep(OUTAGE_S * 0.7)
            if house.dice.random() < 0.5 and (running := house.of("app")):  # its file is adopted
                await house.kill(house.dice.choice(running))
        await asyncio.sleep(0.7)
    elif family == "end":
        await _all_admitted(house, truth)
        await asyncio.gather(*(house.end(place) for place in house.of("app")))
    await asyncio.sleep(0.05)


async def run_failpoints(folder: Path, mode: str, ledger: str, points: Sequence[str], *, times: int, seed: int) -> Row:
    async with a_house(folder, mode, ledger, seed=seed) as house:
        name = f"failpoints: {', '.join(dict.fromkeys(point.partition('.')[0] for point in points))}"
        row = await _judged(house, name, lambda truth: failpoint_kills(house, truth, times, points))
    row.kills = Counter({f"at {len(row.kills)} points": row.kills.total()})
    row.verdict.pauses_s.clear()  # those who would be admitted are killed
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
    parser.add_argument("--power", type=int, metavar="TIMES", help="instead: power cuts of each kind, that often")
    parser.add_argument("--at-once", type=int, default=1, metavar="RUNS", help="each with stores of its own")
    parser.add_argument("--pause", action="store_true", help="instead: the pause after a loss, by tenants in use")
    return parser.parse_args(argv)


async def run(chosen: argparse.Namespace, folder: Path, server: PostgresServer | None) -> list[Row]:
    """A row per server and ledger. With --short each server is tried on one ledger, in turn."""
    ledgers = LEDGERS if chosen.ledger == "both" else (chosen.ledger,)
    modes = tuple(MODES) if chosen.server == "all" else (chosen.server,)
    pairs = [(mode, ledger) for mode in modes for ledger in ledgers]
    if chosen.short:
        pairs = [(mode, ledgers[at % len(ledgers)]) for at, mode in enumerate(modes)]
    if chosen.failpoints:  # a row for each family of points, so that they are judged by themselves
        runs = [(points, "none", ledger) for ledger in ledgers for points in families(KILLED_AT)]
    else:
        runs = [([], mode, ledger) for mode, ledger in pairs]
    room = asyncio.Semaphore(chosen.at_once)

    async def one(at: int, points: Sequence[str], mode: str, ledger: str) -> Row:
        async with room:
            own = folder / str(at)
            own.mkdir()
            url = await ledger_url(ledger, own, server)
            print(f"== {'failpoints' if points else mode}, {ledger}", flush=True)
            if points:
                row = await run_failpoints(own, mode, url, points, times=chosen.failpoints, seed=chosen.seed)
            else:
                kills = chosen.kills or (SHORT if chosen.short else LONG)
                row = await run_kills(own, mode, url, kills=kills, seed=chosen.seed)
            print(*row.verdict.problems(), *row.surprises, sep="\n", end="", flush=True)
            print(f"| {row.cells()} |  ({row.seconds:.0f} s)", flush=True)
            return row

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(at, *each)) for at, each in enumerate(runs)]
    return [task.result() for task in tasks]


async def run_pause(folder: Path) -> int:
    at_once, steady = list[pause.Pause](), list[pause.Steady]()
    for tenants in pause.TENANTS:
        for name in ("at-once", "steady"):
            (folder / f"{name}-{tenants}").mkdir()
        at_once.append(await pause.measure(folder / f"at-once-{tenants}", tenants))
        steady.append(await pause.measure_steady(folder / f"steady-{tenants}", tenants))
        print(f"  {at_once[-1]}\n  {steady[-1]}", flush=True)
    print(f"\nall at once\n\n{pause.table(at_once)}")
    print(f"\n{pause.RATE:,} calls a second\n\n{pause.steady_table(steady)}")
    return 0


async def run_power(folder: Path, times: int, *, seed: int) -> int:
    """Where there is no compiler nothing is simulated, and that is said."""
    if power.compiler() is None:
        print(power.NO_COMPILER)
        return 0
    rows = [await power.kind(folder, what, how, times=times, seed=seed) for what, how in power.KINDS]
    print(f"\n{power.HEAD}", *(row.cells() for row in rows), sep="\n")
    return int(not all(row.is_as_promised for row in rows))


def main(argv: Sequence[str]) -> int:
    chosen = arguments(argv)
    folder = Path(tempfile.mkdtemp(prefix="mm-chaos-"))
    logging.disable(logging.WARNING)  # those of this process; all others have a file
    try:
        code = _main(chosen, folder)
    except Stuck as error:
        print(f"stuck: {error}")
        code = 1
    if code:
        print(f"\nnot clean: what is left lies in {folder}")
    else:
        shutil.rmtree(folder)
    return code


def _main(chosen: argparse.Namespace, folder: Path) -> int:
    if chosen.pause:
        return asyncio.run(run_pause(folder))
    if chosen.power:
        return asyncio.run(run_power(folder, chosen.power, seed=chosen.seed))
    with postgres(chosen.ledger != "sqlite") as server:
        rows = asyncio.run(run(chosen, folder, server))
    print(f"\nseed {chosen.seed}\n\n{table(rows)}")
    return int(not all(row.is_clean for row in rows))
