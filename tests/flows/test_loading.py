"""Tenants whose counters must come from the ledger first."""

from __future__ import annotations

import asyncio

import pytest

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
