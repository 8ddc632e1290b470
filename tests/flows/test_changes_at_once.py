"""Changes of one tenant's plan at the same time: each is decided by what the others left, and none is lost."""

from __future__ import annotations

from asyncio import gather
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.billing import subscriptions
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.timeline import Change
from mm_metering.errors import ChangedMeanwhile
from tests.flows.conftest import Make
from tests.flows.test_addons import CATALOGUE, JANUARY

Ask: TypeAlias = Callable[[Metering], Coroutine[Any, Any, Any]]

CALLS: Ask = lambda metering: metering.set_addon("acme", "calls", quantity=2)  # noqa: E731
SEATS: Ask = lambda metering: metering.set_addon("acme", "seats", quantity=1)  # noqa: E731
CHEAPER: Ask = lambda metering: metering.override_plan("acme", {"price": "79.00"})  # noqa: E731
TEAM: Ask = lambda metering: metering.change_plan("acme", "team", at="now")  # noqa: E731
PUT_ON_TEAM: Ask = lambda metering: metering.put_tenant("acme", plan="team")  # noqa: E731


async def on_pro(make: Make, clock: FrozenClock, ledger: str) -> Metering:
    clock.set(JANUARY)
    found = await make(catalogue=CATALOGUE, ledger=ledger)
    await found.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    return found


@pytest.mark.parametrize(
    ("asks", "left"),
    [
        ((CALLS, SEATS), ("pro", {"calls": 2, "seats": 1}, "99.00")),
        ((CALLS, CHEAPER), ("pro", {"calls": 2}, "79.00")),
        ((SEATS, TEAM), ("team", {"seats": 1}, "200.00")),
        ((SEATS, PUT_ON_TEAM), ("team", {"seats": 1}, "200.00")),
    ],
)
async def test_changes_at_once_in_two_processes_all_hold(
    make: Make, clock: FrozenClock, tmp_path: Path, asks: tuple[Ask, ...], left: tuple[Any, ...]
) -> None:
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    processes = await on_pro(make, clock, ledger), await make(catalogue=CATALOGUE, ledger=ledger)
    await gather(*(ask(process) for ask, process in zip(asks, processes, strict=True)))
    tenant = await processes[0].get_tenant("acme")
    assert tenant is not None
    lines = (await processes[1].preview_invoice("acme")).lines
    fee = sum(line.amount for line in lines if line.kind in ("base", "proration"))
    assert (tenant.plan, tenant.addons, str(fee)) == left


async def test_who_always_comes_too_late_is_told_and_nothing_changes(
    make: Make, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    metering = await on_pro(make, clock, "memory://")
    stored, tries, revisions = metering.ledger.change_subscription, 0, iter(range(1, 100))

    async def overtaken(tenant: str, change: Change, **options: Any) -> TenantRow:
        nonlocal tries
        tries += 1
        await metering.put_tenant("acme", tax_rate=f"0.{next(revisions):02}")
        return await stored(tenant, change, **options)

    monkeypatch.setattr(metering.ledger, "change_subscription", overtaken)
    said = r"tenant 'acme' was changed meanwhile, revision 11 after 10; try again"
    with pytest.raises(ChangedMeanwhile, match=said):
        await metering.set_addon("acme", "calls", quantity=1)
    assert tries == subscriptions.MOST_TRIES
    tenant = await metering.get_tenant("acme")
    assert tenant is not None
    assert (tenant.plan, tenant.addons) == ("pro", {})


async def test_to_and_fro_between_two_versions_stores_them_once(make: Make, clock: FrozenClock) -> None:
    metering = await on_pro(make, clock, "memory://")
    await metering.override_plan("acme", {"price": "79.00"})
    for quantity in (2, 0, 2, 0):
        await metering.set_addon("acme", "calls", quantity=quantity, at="now")
    own = [key for key in await metering.ledger.plan_versions() if key[0] == "pro~acme"]
    assert own == [("pro~acme", 1), ("pro~acme", 2)]
