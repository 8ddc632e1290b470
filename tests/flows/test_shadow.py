"""A shadow plan over real traffic: what it would have decided is what a Metering decides that really runs it."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, Refused
from mm_metering.backends.work import SHADOW_BLOCKS
from mm_metering.core.shadow_report import LimitShadow, TenantShadow
from mm_metering.errors import CatalogueError, InvalidInput, UnknownTenant
from mm_metering.worker import shadow as watching
from tests.flows.conftest import PATIENT, Make

METERS = {
    "api_calls": {"event": "api_call"},
    "reports": {"event": "export", "resource": "report_*"},
    "exports": {"event": "export"},
    "users": {"aggregation": "level"},
}


def plans(price: str = "10.00", **quotas: Any) -> dict[str, Any]:
    """A catalogue of one plan, "p"."""
    return {
        "currency": "USD",
        "default_plan": "p",
        "meters": METERS,
        "plans": {"p": {"price": price, "quotas": quotas}},
    }


def limit(units: int | str, per: str = "day", **more: Any) -> dict[str, Any]:
    return {"limit": units, "per": per, **more}


def charged(units: int, price: str, per: str = "day") -> dict[str, Any]:
    return limit(units, per, then="charge", unit_price=price)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-14T12:00:00Z")


Request = tuple[str, str, int]
"""A tenant, a meter and units."""


async def refused_units(
    metering: Metering, clock: FrozenClock, days: Iterable[Iterable[Request]]
) -> dict[str, Counter[str]]:
    """Sends each day's requests, a second apart; what was refused, by tenant and meter."""
    refused: dict[str, Counter[str]] = {}
    for day in days:
        for tenant, meter, units in day:
            clock.advance(timedelta(seconds=1))
            try:
                await metering.enforce_quota(tenant, meter, units)
            except Refused as error:
                named = {each.meter for each in error.decisions if not each.allowed}
                refused.setdefault(tenant, Counter()).update(dict.fromkeys(named, units))
        clock.advance(timedelta(days=1) - timedelta(seconds=len([*day])))
    clock.advance(timedelta(days=-1))
    return refused


def traffic(seed: int, days: int, most: int, tenants: str = "ab") -> list[list[Request]]:
    rng = random.Random(seed)
    meters = ("api_calls", "api_calls", "reports", "exports")
    return [
        [(rng.choice(tenants), rng.choice(meters), rng.randint(1, most)) for _ in range(rng.randint(5, 25))]
        for _ in range(days)
    ]


WIDE = plans(api_calls=limit("unlimited"), reports=limit("unlimited"), exports=limit("unlimited"))
TIGHT = {
    "a day": plans(api_calls=limit(20), reports=limit(3)),
    "a day and a month": plans(api_calls=[limit(15), limit(40, "month")], exports=limit(9, "month")),
    "a cap": plans(api_calls=limit(10, then={"charge_up_to": "0.25"}, unit_price="0.01"), exports=limit(6)),
    "not in the plan": plans(api_calls=limit(0), reports=limit(30, "month")),
}


@pytest.mark.parametrize("ledger", ["memory://", "sqlite"])
@pytest.mark.parametrize("name", TIGHT)
async def test_whole_requests_are_refused_as_by_the_plan_itself(
    make: Make, clock: FrozenClock, tmp_path: Path, name: str, ledger: str
) -> None:
    """A request is an export and a report at once, or five calls with three left: all of it is let in, or nothing."""
    url = ledger if ledger == "memory://" else f"sqlite:///{tmp_path}/now.db"
    real = await make(catalogue=WIDE, shadow=TIGHT[name], ledger=url)
    own = FrozenClock(clock.now())
    other = await make(catalogue=TIGHT[name], clock=own)
    asked = traffic(seed=len(name), days=4, most=6)
    assert await refused_units(real, clock, asked) == {}
    really = await refused_units(other, own, asked)
    found = await real.shadow_report()
    assert really
    assert {each.tenant: each.refused_then for each in found.tenants if each.refused_then} == really
    assert not any(each.estimated for each in found.tenants)


UNITS = {
    "more a day": (plans(api_calls=limit(5)), plans(api_calls=limit(12))),
    "a month instead": (plans(api_calls=limit(9)), plans(api_calls=limit(30, "month"))),
    "less a day, more a month": (
        plans(api_calls=[limit(12), limit(15, "month")]),
        plans(api_calls=[limit(6), limit(60, "month")]),
    ),
    "charged instead": (plans(api_calls=limit(5)), plans(api_calls=charged(5, "0.10"))),
    "the same": (plans(api_calls=limit(5)), plans("20.00", api_calls=limit(5))),
}


@pytest.mark.parametrize("name", UNITS)
async def test_units_are_let_in_and_refused_as_by_the_plan_itself(make: Make, clock: FrozenClock, name: str) -> None:
    now, then = UNITS[name]
    real = await make(catalogue=now, shadow=then)
    own = FrozenClock(clock.now())
    other = await make(catalogue=then, clock=own)
    asked = [[("a", "api_calls", 1)] * units for units in (14, 3, 9, 20)]
    before = await refused_units(real, clock, asked)
    after = await refused_units(other, own, asked)
    found = await real.shadow_report("a")
    (tenant,) = found.tenants
    changed = {
        key: each.get("api_calls", 0) for key, each in (("then", tenant.refused_then), ("let in", tenant.allowed_then))
    }
    assert before["a"]["api_calls"] + changed["then"] - changed["let in"] == after.get("a", Counter())["api_calls"]
    bill = await other.preview_invoice("a")
    assert tenant.before == (await real.preview_invoice("a")).subtotal
    if not tenant.refused_then:
        assert tenant.with_refused == bill.subtotal
