"""``./dev bench [ROUNDS]``: what a request costs, as ratios to the bare app, with the peers beside us in one run."""

from __future__ import annotations

import asyncio
import platform
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.apps import CONTENDERS
from tests.bench.inprocess import Reading, measure
from tests.bench.server import Server

ROUNDS = 5


def table(readings: dict[tuple[str, int], Reading], limits: int) -> Table:
    shown = Table(title=f"one process, {limits} limit{'s' if limits > 1 else ''}, 1,000 tenants (µs per request)")
    for heading in ("app", "CPU c1", "CPU c64", "x bare c64", "added p50 c1", "Redis CPU c1", "Redis CPU c64"):
        shown.add_column(heading, justify="left" if heading == "app" else "right")
    for name, contender in CONTENDERS.items():
        one, many = readings[name, 1], readings[name, 64]
        bare_one, bare_many = readings[contender.of, 1], readings[contender.of, 64]
        ratio, added = many.cpu_us / bare_many.cpu_us, one.p50_us - bare_one.p50_us
        cells = (one.cpu_us, many.cpu_us, ratio, added, one.server_us, many.server_us)
        shown.add_row(name, *(f"{cell:.1f}" for cell in cells))
    return shown


def main(rounds: int) -> None:
    console = Console(width=120)
    console.print(f"{platform.python_implementation()} {platform.python_version()}, {rounds} rounds, medians")
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory))
        try:
            for limits in (1, 2):
                with console.status(f"{limits} limit(s)…"):
                    readings = asyncio.run(measure(server, limits=limits, rounds=rounds))
                console.print(table(readings, limits))
        finally:
            server.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
