"""``./dev bench [PART...] [--rounds N] [--json FILE]``: what a request costs, beside the bare app and the peers."""

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
from tests.bench.goals import goals
from tests.bench.hosts import connections, uvicorn
from tests.bench.inprocess import in_process
from tests.bench.report import Report
from tests.bench.server import binaries

PARTS: Final[dict[str, Callable[[Report], None]]] = {
    "in-process": in_process,
    "uvicorn": uvicorn,
    "connections": connections,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("./dev bench", description="what a request costs; all parts take some minutes")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    asked = parser.parse_args(argv)
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report = Report(Console(width=120), rounds=asked.rounds, servers=binaries())
    logging.getLogger("mm_metering").addHandler(report.outages)
    about = f"{datetime.now(UTC):%Y-%m-%d}, {machine.description()}, {', '.join(report.servers)}, {asked.rounds} rounds"
    report.console.print(about)
    for name in asked.parts or PARTS:
        with report.console.status(f"{name}…"):
            PARTS[name](report)
    goals(report)
    if asked.json:
        asked.json.write_text(json.dumps({"about": about, "figures": report.figures}, indent=2) + "\n")
    for message in report.outages.messages:
        report.console.print(f"[red]not a clean run:[/red] {message}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
