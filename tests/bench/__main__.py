"""``./dev bench [PART...] [--rounds N] [--rows N] [--json FILE]``: what a request costs, and a fact."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.bench import machine
from tests.bench.ai import ai
from tests.bench.decisions import server
from tests.bench.forecast import forecasts
from tests.bench.goals import goals
from tests.bench.growth import growth, memory_of_events
from tests.bench.hosts import connections, uvicorn
from tests.bench.inprocess import in_process
from tests.bench.invoices import invoices
from tests.bench.layers import layers, memory
from tests.bench.ledger import ledger
from tests.bench.report import Report
from tests.bench.server import binaries
from tests.bench.telemetry import telemetry

PARTS: Final[dict[str, Callable[[Report], None]]] = {
    "in-process": in_process,
    "uvicorn": uvicorn,
    "connections": connections,
    "server": server,
    "growth": growth,
    "bytes": memory_of_events,
    "memory": memory,
    "layers": layers,
    "telemetry": telemetry,
    "ledger": ledger,
    "invoices": invoices,
    "forecast": forecasts,
    "ai": ai,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("./dev bench", description="what a request costs; all parts take some minutes")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (5)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="most rows of the ledger's growth (1,000,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    asked = parser.parse_args(argv)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    console = Console(width=140)
    about = f"{datetime.now(UTC):%Y-%m-%d}, {machine.description()}, {', '.join(binaries())}, {asked.rounds} rounds"
    console.print(about, end="\n\n")
    with console.status("starting") as status:
        report = Report(console, status, rounds=asked.rounds, rows=asked.rows, servers=binaries())
        logging.getLogger("mm_metering").addHandler(report.outages)
        for name in asked.parts or PARTS:
            status.update(name)
            PARTS[name](report)
    goals(report)
    console.print(f"repeated because the counters' server stood still: {report.repeated} readings", end="")
    console.print(f"; kept although it did: {report.unclean}")
    if asked.json:
        asked.json.write_text(json.dumps({"about": about, "figures": report.figures}, indent=2) + "\n")
    for failure in report.failures:
        console.print(f"FAILED: {failure}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
