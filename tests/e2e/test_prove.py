"""``mm-metering prove`` and ``mm-metering rebuild`` as processes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mm_metering import Metering
from tests.forks import Program


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, str]:
    return {"counters": f"local://{tmp_path}/counters", "ledger": f"sqlite:///{tmp_path}/ledger.db"}


def run(stores: dict[str, str], *arguments: str) -> tuple[int, str]:
    env = {f"MM_METERING_{name.upper()}": url for name, url in stores.items()}
    done = Program("mm_metering.cli", *arguments, env=env)
    said, wrong = done.communicate(timeout=60)
    assert "Traceback" not in wrong
    assert done.returncode is not None
    return done.returncode, said + wrong


async def used(stores: dict[str, str]) -> None:
    async with Metering(**stores, worker="off") as app:  # type: ignore[arg-type]
        for tenant in ("acme", "b:{1}"):
            await app.enforce_quota(tenant, "api_calls", 3)
            await app.record_api_call(tenant, "/x")


def change(stores: dict[str, str], statement: str) -> None:
    with closing(sqlite3.connect(stores["ledger"].removeprefix("sqlite:///"))) as database:
        assert database.execute(statement).rowcount > 0
        database.commit()


async def test_what_was_acknowledged_is_proved(stores: dict[str, str]) -> None:
    await used(stores)
    code, said = run(stores, "prove")
    assert code == 0, said
    assert "4 facts" in said
    assert said.count("equal") == 1
    assert "tenants folded anew: 2, of which differ: 0" in said
    assert "invoices made anew: 0, of which differ: 0" in said
    assert said.endswith("proved: all that was acknowledged is in the ledger once, and in its cells\n")


async def test_a_changed_cell_is_told_and_rebuilt(stores: dict[str, str]) -> None:
    await used(stores)
    assert run(stores, "prove", "--shards-only")[0] == 0
    change(stores, "UPDATE mm_usage_cell SET quantity = 99 WHERE tenant = 'acme' AND meter = 'api_calls'")
    code, said = run(stores, "prove")
    assert code == 1
    assert "tenant 'acme'" in said
    assert "api_calls" in said
    assert run(stores, "rebuild", "--tenant", "acme") == (
        0,
        "mm-metering rebuild: tenants: 1, cells that were wrong: 2\n",
    )
    assert run(stores, "prove")[0] == 0


async def test_a_fact_that_is_gone_is_not_proved(stores: dict[str, str]) -> None:
    await used(stores)
    run(stores, "prove")
    change(stores, "DELETE FROM mm_usage_fact WHERE tenant = 'acme' AND resource = '/x'")
    code, said = run(stores, "prove")
    assert code == 1
    assert "not proved" in said


def test_a_ledger_in_memory_cannot_be_proved_from_outside() -> None:
    code, said = run({"counters": "memory://", "ledger": "memory://"}, "prove")
    assert code == 2
    assert "lives inside one process" in said
