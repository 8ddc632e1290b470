"""``./dev chaos`` in short: a few kills of every kind, each failpoint once. The nightly run sets the sizes."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Final

import pytest

from mm_metering import Metering
from mm_metering.core.cells import Cell
from mm_metering.core.facts import Count, Fact
from tests.chaos import driver, power
from tests.chaos.app import LIMIT, PLANS
from tests.chaos.driver import LEDGERS, Row, arguments
from tests.chaos.judge import LOOK_S, judge, pauses
from tests.chaos.servers import MODES
from tests.chaos.truth import (
    DEGRADED,
    NO,
    REVERSED,
    SENT,
    TAKE,
    UNAVAILABLE,
    YES,
    Truth,
    TruthFile,
    call_name,
)
from tests.postgres_server import PostgresServer

KILLS: Final = int(os.environ.get("MM_CHAOS_KILLS", "0"))
"""Of the long form, over all servers and ledgers; 0 for the short one."""
TIMES: Final = int(os.environ.get("MM_CHAOS_TIMES", "1"))
"""At each failpoint, and power cuts of each kind."""
SEED: Final = int(os.environ.get("MM_CHAOS_SEED", "1"))


def chosen(*words: str) -> argparse.Namespace:
    return arguments(["--seed", str(SEED), *(() if KILLS else ("--at-once", "3")), *words])


def assert_clean(rows: list[Row]) -> None:
    print("", driver.table(rows), sep="\n")
    assert not [each for row in rows for each in (*row.verdict.problems(), *row.surprises)]
    for row in rows:
        assert row.verdict.acknowledged > 0, row.mode
        assert row.kills.total() > 0, row.mode


@pytest.mark.timeout(120 + 3 * KILLS)
async def test_killed_at_random_nothing_is_lost_twice_or_over_the_limit(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    each = KILLS // (len(MODES) * len(LEDGERS))
    size = ("--kills", str(max(1, each))) if KILLS else ("--short",)
    assert_clean(await driver.run(chosen(*size), tmp_path, postgres_server))


@pytest.mark.timeout(120 + 300 * TIMES)
async def test_killed_at_each_failpoint_nothing_is_lost_twice_or_over_the_limit(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    ledgers = ("--ledger", "both" if KILLS else "sqlite")
    rows = await driver.run(chosen("--failpoints", str(TIMES), *ledgers), tmp_path, postgres_server)
    assert_clean(rows)
    assert sum(row.kills.total() for row in rows) >= len(driver.KILLED_AT) * TIMES


@pytest.mark.timeout(60 + 30 * TIMES)
@pytest.mark.parametrize(("what", "how"), power.KINDS)
async def test_a_power_cut_takes_nothing_that_was_synchronised(tmp_path: Path, what: str, how: str) -> None:
    """The two that promise nothing show that the cut cuts."""
    if power.compiler() is None:
        print(power.NO_COMPILER)
        return
    cuts = await power.kind(tmp_path, what, how, times=TIMES, seed=SEED)
    print("", power.HEAD, cuts.cells(), sep="\n")
    assert cuts.is_as_promised


async def test_the_judge_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = dict(enumerate((YES, YES, NO, REVERSED, UNAVAILABLE, DEGRADED)))
    calls = {number: call_name(TAKE, 0, 0, number) for number in told}
    file = TruthFile(tmp_path / "app-0")
    for number, mark in told.items():
        file.write(SENT, calls[number], "acme")
        file.write(mark, calls[number], "acme")
    async with Metering(PLANS) as metering:
        for number, suffix in ((0, "a"), (0, "b"), (2, "a")):
            await metering.gate.post("acme", [fact(calls[number] + suffix, "acme", 1)])
        await metering.gate.post("busy", [fact(f"{calls[4]}a", "busy", LIMIT + 1)])
        await metering.flush()
        truth = Truth(tmp_path)
        truth.update()
        verdict = await judge(truth, metering, losses=[])
        assert verdict.acknowledged == 3
        assert [each[:16] for each in verdict.lost] == [calls[1], calls[5]]
        assert [each[:16] for each in verdict.duplicated] == [calls[0]]
        assert [each[:16] for each in verdict.unowed] == [calls[2], calls[4]]
        assert verdict.over == [f"busy: {LIMIT + 1} of {LIMIT}"]
        assert not verdict.drift

        async def no_cells(*_: object, **__: object) -> list[Cell]:
            return []

        monkeypatch.setattr(metering.ledger, "cells", no_cells)
        assert len((await judge(truth, metering, losses=[])).drift) == 2


def fact(name: str, tenant: str, quantity: int) -> Fact:
    now_us = time.time_ns() // 1000
    return Fact(name, now_us, "use", tenant, "strict", "work", quantity, None, (Count("strict", "", quantity),))


def test_a_pause_is_the_longest_stretch_after_a_loss() -> None:
    assert pauses([1.0, 1.1, 1.2, 1.9, 2.0, 9.0], [1.15]) == [pytest.approx(0.7)]
    assert pauses([], [1.0]) == [LOOK_S]
