"""A furnished house: believable, the same each time, and nothing of it is lost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, catalogues
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.dashboard.app import MENU
from mm_metering.testing import WebhookSink
from mm_metering.testing.furnished import furnish
from mm_metering.testing.lodgers import HOSTILE, LODGERS
from tests.flows.conftest import Make
from tests.flows.test_dashboard import answer

NOW = "2024-03-12T15:00:00Z"
NAMES = ("acme", "brightwater", "elmwood")


async def house(make: Make, **options: Any) -> Metering:
    clock = FrozenClock(NOW)
    return await make(clock=clock, worker="off", billing=MockBillingAdapter(clock=clock), **options)


async def figures(metering: Metering) -> tuple[object, ...]:
    usage = [await metering.get_usage(name, "2024-01-12", "2024-03-12") for name in NAMES]
    return (
        [[(day.date, dict(day.meters), day.refused) for day in each.days] for each in usage],
        [(each.tenant, each.period, each.status, each.total) for each in await metering.list_invoices()],
        sorted((each.type, each.tenant) for each in await metering.list_alerts()),
    )


async def test_the_same_seed_gives_the_same_figures(make: Make) -> None:
    found = []
    for seed in (1, 1, 2):
        metering = await house(make)
        await furnish(metering, tenants=5, days=45, seed=seed)
        assert metering.clock.now() == FrozenClock(NOW).now()
        found.append(await figures(metering))
    assert found[0] == found[1]
    assert found[1] != found[2]


async def test_all_that_is_to_be_seen_happens(make: Make) -> None:
    with WebhookSink() as sink:
        metering = await house(make, webhook_rules=sink.rules)
        await furnish(metering, hostile=True, sink=sink)
        tenants = [await metering.get_tenant(each) for each in (*(lodger.id for lodger in LODGERS), *HOSTILE)]
        deliveries = [
            each
            for name in ("dune-logistics", "fable-games")
            for each in await metering.webhooks.list_deliveries(name, limit=1000)
        ]
    assert {each.status for each in tenants if each} == {"active", "trial", "paused", "past_due"}
    assert {each.plan for each in tenants if each} == {"free", "pro", "enterprise"}
    assert {each.status for each in await metering.list_invoices()} == {"finalized", "paid", "void"}
    assert {each.state for each in await metering.list_payments()} == {"paid", "failing", "parked"}
    assert {each.state for each in deliveries} == {"delivered", "dead", "pending"}
    told = {each.type for each in await metering.list_alerts()}
    assert {"quota.warning", "quota.exceeded", "overage.started"} <= told
    assert [each.rule for each in await metering.list_mutes()] == ["quota"]
    assert {each.reason for each in await metering.list_audit() if each.actor == "dashboard:ana"} > {"they know"}
    overage = await metering.preview_invoice("dune-logistics")
    assert overage.total > Decimal(99)
    refused = [day.refused for day in (await metering.get_usage("elmwood", "2024-03-01", "2024-03-12")).days]
    assert any(refused)
    unused = await metering.get_usage("larch", "2024-01-12", "2024-03-12")
    assert not any(unused.meters.values())
    proof = await metering.prove()
    assert (proof.differ, proof.wrong_invoices) == ((), ())
    assert all(each.acknowledged == each.folded == each.cells for each in proof.shards)


@pytest.mark.parametrize("catalogue", ["seed", "starter"])
async def test_any_catalogue_and_a_file_can_be_furnished_and_looked_at(
    make: Make, sqlite_url: str, catalogue: str
) -> None:
    metering = await house(make, catalogue=catalogues.named(catalogue), ledger=sqlite_url)
    await furnish(metering, tenants=4, days=6)
    for each in MENU:
        assert (await answer(metering.dashboard(), each.path)).status_code == 200
    assert (await answer(metering.dashboard(), "tenant?id=acme")).status_code == 200
