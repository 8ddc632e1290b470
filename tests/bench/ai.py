"""What an AI call costs beside the call itself: a hold and its settling, and a wrapped client beside the bare one.

The model is a process of its own, on the core of the counters' server.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

import openai

from mm_metering import Metering
from mm_metering.ai.asking import asked
from mm_metering.ai.holding import OpenCall
from mm_metering.gate.deadlines import Timing
from mm_metering.testing.fake_llm import FakeLlm
from tests.bench import machine
from tests.bench.report import Report
from tests.bench.server import Server, running

MODEL: Final = "gpt-4"
TENANTS: Final = 1_000
HOLDS: Final = {1: 1_500, 64: 6_000}
CALLS: Final = {1: 200, 16: 600}
STREAM: Final = "{mm:0}:ev"
OUTPUT: Final = 100
PROMPT: Final = [{"role": "user", "content": "say something nice to everybody who is here, and then some more " * 4}]
PLANS: Final[dict[str, Any]] = {
    "currency": "USD",
    "timezone": "UTC",
    "default_plan": "p",
    "meters": {
        "ai_requests": {"event": "ai_call"},
        "ai_tokens": {"event": "ai_token"},
        "ai_cost": {"event": "ai_call", "unit": "money"},
    },
    "ai": {"prices": {MODEL: "0.00003"}},
    "plans": {"p": {"price": "0", "ai": {"daily_budget": "50000.00", "monthly_budget": "1500000.00"}}},
}


PATIENT: Final = Timing(decision_s=5, load_s=10)
"""On a busy machine the server stands still for longer than 50 ms, and money is denied then."""


class Reading(NamedTuple):
    """Of one step: µs of our process and of the counters' server, time in µs, round trips, bytes sent to the counters
    and kept in their stream."""

    cpu_us: float
    server_us: float
    p50_us: float
    p99_us: float
    round_trips: float
    sent: float
    kept: float


def ai(report: Report) -> None:
    with running(report.server) as server, machine.on(machine.APP):
        steps = machine.run(_steps(report, server))
    report.table(
        "an AI call's hold on two budgets (µs; bytes)",
        ("", "CPU", "server CPU", "p50", "p99", "round trips", "bytes sent", "in the stream"),
        [(name, *_cells(each)) for name, each in steps.items()],
    )
    with running(report.server) as server, model() as place, machine.on(machine.APP):
        calls = machine.run(_calls(report, server, place))
    report.table(
        "a call of openai's client, bare and wrapped (µs)",
        ("", "CPU", "× bare", "server CPU", "p50", "p99", "round trips"),
        [
            (name, each.cpu_us, f"{each.cpu_us / calls[_bare(name)].cpu_us:.2f}", *_cells(each)[1:5])
            for name, each in calls.items()
        ],
    )
    for name, each in (steps | calls).items():
        report.figures[f"ai/{name}/cpu_us"] = each.cpu_us
        report.figures[f"ai/{name}/round_trips"] = each.round_trips


def _cells(each: Reading) -> tuple[str | float, ...]:
    return each.cpu_us, each.server_us, each.p50_us, each.p99_us, f"{each.round_trips:.2f}", each.sent, each.kept


def _many(callers: int) -> str:
    return f"{callers} caller{'s' * (callers > 1)}"


def _bare(name: str) -> str:
    return name.replace("wrapped", "bare")


# -- measuring ---------------------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What the counters' server has counted since it began."""

    cpu_s: float
    calls: int
    sent: int
    kept: int

    @classmethod
    def of(cls, server: Server) -> Counted:
        kept = int(server.ask("MEMORY", "USAGE", STREAM, "SAMPLES", "0").strip(b":$-\r\n") or 0)
        calls, sent = (
            _number(server, "commandstats", "cmdstat_fcall:calls"),
            _number(server, "stats", "total_net_input_bytes"),
        )
        return cls(server.cpu_s(), calls, sent, kept)


def _number(server: Server, section: str, name: str) -> int:
    found = re.search(rf"{name}[=:](\d+)".encode(), server.ask("INFO", section))
    return int(found[1]) if found else 0


async def _measured(server: Server, work: Iterator[Callable[[], Awaitable[object]]], callers: int) -> Reading:
    """Callers that share the work."""
    times = list[float]()

    async def caller() -> None:
        for each in work:
            begun = time.perf_counter()
            await each()
            times.append(time.perf_counter() - begun)

    gc.collect()
    before, cpu_s = Counted.of(server), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    cpu_s, after, count = time.process_time() - cpu_s, Counted.of(server), len(times)
    cpu, calls, sent, kept = (float(now - then) / count for now, then in zip(after, before, strict=True))
    p99 = quantiles(times, n=100)[-1]
    return Reading(cpu_s / count * 1e6, cpu * 1e6, median(times) * 1e6, p99 * 1e6, calls, sent, kept)


def _middle(readings: list[Reading]) -> Reading:
    """Medians; times of the best round."""
    columns = Reading(*(median(each) for each in zip(*readings, strict=True)))
    best = min(readings, key=lambda each: each.p50_us)
    return columns._replace(p50_us=best.p50_us, p99_us=best.p99_us)


@asynccontextmanager
async def _metering(server: Server) -> AsyncIterator[Metering]:
    """Its tenants are loaded."""
    async with Metering(PLANS, counters=server.url, worker="off", timing=PATIENT) as metering:
        for number in range(TENANTS):
            await _settle(metering, await _reserve(metering, number))
        await metering.flush()
        yield metering


# -- a hold ------------------------------------------------------------------------------------------------------------


async def _reserve(metering: Metering, number: int) -> OpenCall:
    wanted = asked(f"tenant-{number % TENANTS}", MODEL, input=PROMPT, max_output_tokens=OUTPUT)
    return await metering.ai.holding.open(wanted)


async def _settle(metering: Metering, opened: OpenCall) -> None:
    opened.call.settle(input_tokens=60, output_tokens=OUTPUT)
    await metering.ai.holding.write(opened)


async def _steps(report: Report, server: Server) -> dict[str, Reading]:
    found: dict[str, list[Reading]] = {}
    async with _metering(server) as metering:
        for _ in report.each_round("AI holds"):
            for callers, count in HOLDS.items():
                for name, reading in (await report.clean(partial(_both, metering, server, callers, count))).items():
                    found.setdefault(f"{name}, {_many(callers)}", []).append(reading)
    return {name: _middle(readings) for name, readings in found.items()}


async def _both(metering: Metering, server: Server, callers: int, count: int) -> dict[str, Reading]:
    opened = list[OpenCall]()

    async def reserve(number: int) -> None:
        opened.append(await _reserve(metering, number))

    reserved = await _measured(server, (partial(reserve, number) for number in range(count)), callers)
    settled = await _measured(server, (partial(_settle, metering, each) for each in opened), callers)
    await metering.flush()
    return {"reserve": reserved, "settle": settled}


# -- a client ----------------------------------------------------------------------------------------------------------


@contextmanager
def model() -> Iterator[tuple[str, str]]:
    """Its URL and key, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    own, theirs = context.Pipe()
    with machine.on(machine.SERVER):
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
    theirs.close()
    yield own.recv()
    own.close()
    process.join()


def _serve(orders: Connection) -> None:
    with FakeLlm() as fake:
        fake.script(output_tokens=OUTPUT)
        orders.send((f"{fake.url}/v1", fake.api_key))
        orders.poll(None)


async def _calls(report: Report, server: Server, place: tuple[str, str]) -> dict[str, Reading]:
    found: dict[str, list[Reading]] = {}
    url, key = place
    async with _metering(server) as metering, openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0) as bare:
        clients = {"bare": bare, "wrapped": metering.ai.wrap(bare)}
        for _ in report.each_round("AI calls"):
            for way, callers in ((way, callers) for way in ("reply", "stream") for callers in CALLS):
                for kind, client in clients.items():
                    read = partial(_read, metering, server, client, way, callers)
                    found.setdefault(f"{way}, {_many(callers)}, {kind}", []).append(await report.clean(read))
    return {name: _middle(readings) for name, readings in found.items()}


async def _read(metering: Metering, server: Server, client: Any, way: str, callers: int) -> Reading:
    asked: dict[str, Any] = {"model": MODEL, "messages": PROMPT, "max_tokens": OUTPUT}
    if way == "stream":
        asked |= {"stream": True, "stream_options": {"include_usage": True}}

    async def call(number: int) -> None:
        with metering.bind(f"tenant-{number % TENANTS}"):
            reply = await client.chat.completions.create(**asked)
            if way == "stream":
                async for _ in reply:
                    pass

    reading = await _measured(server, (partial(call, number) for number in range(CALLS[callers])), callers)
    await metering.flush()
    return reading
