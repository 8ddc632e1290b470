"""Tenants whose counters must come from the ledger first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mm_metering import Metering
from mm_metering.backends.ledger import MAX_SNAPSHOTS
from mm_metering.errors import UnknownTenant
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.deadlines import Timing
from tests.flows.conftest import Make


async def test_tenants_that_load_at_once_fold_their_shard_together(
    shared_stores: dict[str, str], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage that is every tenant in use: each would fold all that was journalled, and one of them win."""
    metering, other = await make(**shared_stores, worker="off"), await make(**shared_stores, worker="off")
    tenants, folds = [f"tenant-{n}" for n in range(30)], []
    fold = metering.gate._drain

    async def counted(shard: int) -> object:
        folds.append(shard)
        return await fold(shard)

    monkeypatch.setattr(metering.gate, "_drain", counted)
    await asyncio.gather(*(metering.enforce_quota(tenant, "api_calls") for tenant in tenants))
    for tenant in tenants:
        await other.put_tenant(tenant, timezone="Europe/Berlin")
    folds.clear()
    found = await asyncio.gather(*(metering.check_limit(tenant, "api_calls") for tenant in tenants))
    assert [decision.used for decision in found] == [1] * len(tenants)
    assert 1 <= len(folds) < len(tenants) / 2


class Opened:
    """How often a ledger's store was read and written."""

    def __init__(self, metering: Metering, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        store = metering.ledger._store  # type: ignore[attr-defined]
        for name in ("read", "write"):
            monkeypatch.setattr(store, name, self._counted(getattr(store, name)))

    def _counted(self, run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def counted(work: Any) -> Any:
            self.count += 1
            return await run(work)

        return counted


@pytest.mark.parametrize("known", [False, True])
async def test_cold_tenants_at_once_share_the_ledgers_transactions(
    shared_stores: dict[str, str], make: Make, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """Nobody is answered by the outage policy then, and each is loaded with what it used before."""
    names = [f"tenant-{n}" for n in range(3 * MAX_SNAPSHOTS)]
    first = await make(**shared_stores)
    for name in names[:5] if known else ():
        await first.enforce_quota(name, "api_calls", 2)
    for name in names if known else ():
        await first.put_tenant(name)
    await first.flush()
    metering = await make(**shared_stores, worker="off")
    opened = Opened(metering, monkeypatch)
    admissions = await asyncio.gather(*(metering.gate.take(name, [Wish("api_call", "/")]) for name in names))
    assert all(admission.allowed and not admission.degraded for admission in admissions)
    assert opened.count < len(names) / 4
    found = await asyncio.gather(*(first.check_limit(name, "api_calls") for name in names))
    assert [decision.used for decision in found] == [3 if known and n < 5 else 1 for n in range(len(names))]


async def test_a_first_touch_reads_its_tenant_once(
    shared_stores: dict[str, str], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, metering = await make(**shared_stores), await make(**shared_stores, worker="off")
    await first.enforce_quota("other", "api_calls")
    await first.put_tenant("acme")
    await first.flush()
    await metering.enforce_quota("other", "api_calls")  # its plans are read by then
    opened = Opened(metering, monkeypatch)
    await metering.enforce_quota("acme", "api_calls")
    assert opened.count == 1


async def test_a_cold_tenant_waits_once_for_a_ledger_that_hangs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    metering = await make(timing=Timing(decision_s=10, load_s=1))
    never = asyncio.Event()

    async def hangs(*_: Any, **__: Any) -> Any:
        await never.wait()

    monkeypatch.setattr(metering.ledger, "snapshots", hangs)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    admission = await metering.gate.take("acme", [Wish("api_call", "/")])
    assert (admission.allowed, admission.degraded) == (True, True)
    assert 1 <= loop.time() - begun_s < 2
    assert metering.gate.journal_facts == 1


async def test_an_unknown_tenant_stays_unknown_beside_known_ones(shared_stores: dict[str, str], make: Make) -> None:
    plans = {"currency": "USD", "meters": {"calls": {"event": "call"}}, "plans": {"p": {"price": "0"}}}
    metering = await make(catalogue=plans, **shared_stores)
    await metering.put_tenant("acme", plan="p")
    takes = (metering.gate.take(name, [Wish("call", "/")]) for name in ("acme", "nobody", "nobody"))
    known, *unknown = await asyncio.gather(*takes, return_exceptions=True)
    assert isinstance(known, Admission)
    assert known.allowed
    assert [type(error) for error in unknown] == [UnknownTenant, UnknownTenant]
