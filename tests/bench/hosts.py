"""The contenders under uvicorn in their own processes, and the load on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from mm_metering import Metering
from tests.bench import machine
from tests.bench.apps import CONTENDERS, catalogue
from tests.bench.load import Answers
from tests.bench.report import TRIES, Report
from tests.bench.server import Server, free_port, running, wait_for

ROOT: Final = Path(__file__).parents[2]
LIMITS: Final = 2
REQUESTS: Final = 5_000
COLD: Final = 2_000
HEADINGS: Final = ("app", "CPU", "× bare", "server CPU", "p50", "p99", "errors")


class Store(NamedTuple):
    """What a host's processes share."""

    server: Server
    ledger: str

    def fold(self) -> None:
        """What a worker beside the app does all the time."""
        metering = Metering(catalogue(LIMITS), counters=self.server.url, ledger=self.ledger, worker="off")
        machine.run(metering.work(once=True))


@contextmanager
def store(report: Report) -> Iterator[Store]:
    with TemporaryDirectory() as directory, running(report.server) as server:
        yield Store(server, f"sqlite:///{directory}/ledger.sqlite")


class Load:
    """The process that sends the requests."""

    def __init__(self) -> None:
        with machine.on(machine.LOAD):
            command = [sys.executable, "-m", "tests.bench.load"]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )

    def __call__(self, port: int, *, connections: int, requests: int) -> Answers:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{port} {connections} {requests}\n")
        line = self.process.stdout.readline()
        assert line, "the load generator has ended"
        return Answers(*json.loads(line))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Host:
    """A contender under uvicorn: one process on the app's core, or several wherever there is room."""

    def __init__(self, name: str, shared: Store, *, processes: int) -> None:
        self.port = free_port()
        self.is_ours = name.startswith("mm_metering")
        about = {"BENCH_APP": name, "BENCH_COUNTERS": shared.server.url, "BENCH_LEDGER": shared.ledger}
        command = [sys.executable, "-m", "uvicorn", "tests.bench.apps:served", "--factory", "--no-access-log"]
        command += ["--log-level", "warning", "--port", str(self.port), "--workers", str(processes)]
        with machine.on(machine.APP if processes == 1 else machine.EVERYWHERE):
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **about, "BENCH_LIMITS": str(LIMITS)}, stdin=subprocess.DEVNULL
            )
        wait_for(self.port, self.process)

    def cpu_s(self) -> float:
        return machine.cpu_s(self.process.pid)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class Reading(NamedTuple):
    """Microseconds per request, the requests that were not answered with 200, and those of ours that were answered
    without the counters, by the outage policy."""

    cpu_us: float
    server_us: float
    p50_us: float
    p99_us: float
    errors: int
    uncounted: int


def uvicorn(report: Report) -> None:
    for processes in (1, 2):
        readings = measure(report, processes)
        for name, reading in readings.items():
            key, bare = f"uvicorn/{processes}/{name}", readings[CONTENDERS[name].of]
            report.figures[f"{key}/cpu_us"] = reading.cpu_us
            report.figures[f"{key}/ratio"] = reading.cpu_us / bare.cpu_us
        title = f"uvicorn, {processes} process{'es' * (processes > 1)}, 64 connections, 2 limits (µs per request)"
        report.table(title, HEADINGS, [_row(readings, name) for name in readings])


def _row(readings: dict[str, Reading], name: str) -> tuple[str | float, ...]:
    cpu_us, server_us, p50_us, p99_us, errors, _ = readings[name]
    ratio = cpu_us / readings[CONTENDERS[name].of].cpu_us
    return name, cpu_us, f"{ratio:.2f}", server_us, p50_us, p99_us, f"{errors}"


def measure(report: Report, processes: int) -> dict[str, Reading]:
    """Medians of rounds in which every contender has its turn; times of the best round; errors of all."""
    found: dict[str, list[Reading]] = {name: [] for name in CONTENDERS}
    with ExitStack() as stack:
        shared, load = stack.enter_context(store(report)), Load()
        stack.callback(load.close)
        hosts = {}
        for name in CONTENDERS:
            report.status.update(f"uvicorn, {processes} processes: {name} starts")
            hosts[name] = Host(name, shared, processes=processes)
            stack.callback(hosts[name].close)
            for _ in range(processes):  # every process meets every tenant
                load(hosts[name].port, connections=64, requests=REQUESTS)
                shared.fold()
        for _ in report.each_round(f"uvicorn, {processes} processes"):
            for name, host in hosts.items():
                found[name].append(clean(report, host, shared, load))
    return {name: middle(readings) for name, readings in found.items()}


def clean(report: Report, host: Host, shared: Store, load: Load) -> Reading:
    """A reading in which the counters decided everything."""
    for tries_left in reversed(range(TRIES)):
        reading = read(host, shared.server, load)
        shared.fold()
        if report.is_kept(clean=not (host.is_ours and reading.uncounted), tries_left=tries_left):
            return reading
        read(host, shared.server, load)  # what an outage wrote uncounted has its tenants loaded anew
        shared.fold()
    raise AssertionError("the last try is kept")


def read(host: Host, server: Server, load: Load) -> Reading:
    cpu, of_server = host.cpu_s(), server.cpu_s()
    got = load(host.port, connections=64, requests=REQUESTS)
    cpu, of_server = host.cpu_s() - cpu, server.cpu_s() - of_server
    uncounted = REQUESTS - got.errors - got.limited
    return Reading(cpu / REQUESTS * 1e6, of_server / REQUESTS * 1e6, got.p50_us, got.p99_us, got.errors, uncounted)


def middle(readings: Sequence[Reading]) -> Reading:
    cpu, of_server, p50, p99, errors, uncounted = zip(*readings, strict=True)
    return Reading(median(cpu), median(of_server), min(p50), min(p99), sum(errors), sum(uncounted))


def connections(report: Report) -> None:
    """Many connections at once, with every setting at its default: on tenants that are not loaded yet, then again."""
    rows = []
    for many in (256, 512):
        with ExitStack() as stack:
            shared, load = stack.enter_context(store(report)), Load()
            stack.callback(load.close)
            host = Host("mm_metering", shared, processes=1)
            stack.callback(host.close)
            report.status.update(f"{many} connections, cold")
            cold = [load(host.port, connections=many, requests=COLD)]
            for _ in range(2):  # until every tenant is loaded
                shared.fold()
                load(host.port, connections=64, requests=COLD)
            shared.fold()
            rounds = report.each_round(f"{many} connections")
            warm = [load(host.port, connections=many, requests=REQUESTS) for _ in rounds]
        for what, got, sent in (("cold", cold, COLD), ("warm", warm, REQUESTS * report.rounds)):
            errors = sum(each.errors for each in got)
            uncounted = sent - errors - sum(each.limited for each in got)
            key = f"connections/{many}/{what}"
            report.figures |= {f"{key}/errors": errors, f"{key}/uncounted": uncounted}
            p50_ms, p99_ms = max(each.p50_us for each in got) / 1000, max(each.p99_us for each in got) / 1000
            rows.append((f"{many}, {what}", sent, f"{errors}", f"{uncounted}", p50_ms, p99_ms))
    headings = ("connections, tenants", "requests", "errors", "by the outage policy", "p50 (ms)", "p99 (ms)")
    report.table("uvicorn, 1 process, default settings; times of the worst round", headings, rows)
