"""Where each process runs, and the CPU time it used. Linux alone: both come from its kernel."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Coroutine, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

if sys.platform != "linux":
    raise SystemExit("./dev bench needs Linux: it reads the CPU time of other processes from /proc")

T = TypeVar("T")

CORES: Final = sorted(os.sched_getaffinity(0))
APP: Final = {CORES[0]}
SERVER: Final = {CORES[1 % len(CORES)]}
LOAD: Final = {CORES[min(2, len(CORES) - 1)]}
EVERYWHERE: Final = set(CORES)


@contextmanager
def on(cores: Set[int]) -> Iterator[None]:
    """Runs the block on these cores, and for good whatever process it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its children have used so far. To the nanosecond while they wait for work."""
    used_ns, children = 0, set[int]()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            used_ns += int((task / "schedstat").read_text().split()[0])
            children.update(map(int, (task / "children").read_text().split()))
    return used_ns / 1e9 + sum(map(cpu_s, children))


def run(work: Coroutine[Any, Any, T]) -> T:
    """On a uvloop, as uvicorn[standard] would."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def description() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    python = f"{platform.python_implementation()} {platform.python_version()}, uvloop"
    return f"{len(CORES)} cores of {model} (load {os.getloadavg()[0]:.1f} before this run), {python}"
