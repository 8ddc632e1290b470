"""Events in bulk: recorded once, by the same rules as one by one, and exact while usage goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.backends.counters import Load, NotLoaded
from mm_metering.core.periods import micros
from mm_metering.errors import EventConflict, InvalidEvent, InvalidInput, QuotaExceeded, StoreUnavailable
from mm_metering.proof import Verdict
from mm_metering.usage import backfill
from mm_metering.usage.backfill import BackfillTally
from mm_metering.usage.reading import Reader
from tests.flows.conftest import Make

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
LIMITED: dict[str, Any] = {
    "currency": "USD",
    "default_plan": "free",
    "meters": {"calls": {"event": "api_call"}, "disk": {"event": "storage", "aggregation": "level"}},
    "plans": {"free": {"price": "0", "quotas": {"calls": {"limit": 5_000, "per": "month"}, "disk": {"limit": 500}}}},
}


def event(number: int, tenant: str = "acme", **changes: Any) -> dict[str, Any]:
    at = NOW - timedelta(minutes=number % 9_000)
    fields = {"tenant": tenant, "event_type": "api_call", "resource": "/v1", "id": f"e{number}"}
    return {**fields, "occurred_at": at.isoformat(), **changes}


def counts(tally: BackfillTally) -> tuple[int, int, int, int]:
    return tally.recorded, tally.duplicates, tally.conflicts, tally.rejected


async def calls(metering: Metering, tenant: str = "acme") -> int:
    return (await metering.get_usage(tenant, "2023-01-01", "2024-12-31")).api_calls


async def is_proved(metering: Metering) -> bool:
    proof = await metering.prove()
    return proof.holds and {each.verdict for each in proof.shards} == {Verdict.EQUAL}


# -- what is recorded ------------------------------------------------------------------------------------------------


async def test_events_in_bulk_count_as_those_that_are_recorded(metering: Metering) -> None:
    before = [event(n, f"org_{n % 3}", quantity=n % 5 + 1) for n in range(60)]
    models: list[Any] = [
        {"tenant": "org_0", "event_type": "ai_call", "resource": "gpt-4", "id": "ai", "cost": "0.03"},
        UsageEvent(tenant="org_0", event_type="ai_token", resource="gpt-4", id="t", quantity=900),
        {"tenant": "org_0", "event_type": "storage", "resource": "disk", "id": "s", "quantity": 7},
        event(99, "org_1", success=False, metadata={"why": "failed"}),
    ]
    tally = await metering.backfill([*before, *models])
    assert (counts(tally), tally.read, tally.settled) == ((64, 0, 0, 0), 64, 64)
    for n in range(3):
        assert await calls(metering, f"org_{n}") == sum(each["quantity"] for each in before[n::3])
    used = await metering.get_usage("org_0", "2024-01-15", "2024-01-15")
    assert (used.ai_requests, used.ai_tokens, used.storage_mb, str(used.total_cost)) == (1, 900, 7, "0.03")
    assert await is_proved(metering)


async def test_limits_know_of_what_was_recorded_in_bulk(stores: dict[str, str], make: Make) -> None:
    """Also in a process that had the tenant loaded before."""
    several = 1 if stores["counters"] == "memory://" else 2
    processes = [await make(catalogue=LIMITED, **stores) for _ in range(several)]
    for each in processes:
        await each.enforce_quota("acme", "calls")
        await each.enforce_quota("acme", "disk")
    metering = processes[0]
    await metering.backfill(event(n) for n in range(5_000 - several))
    await metering.backfill([event(0, event_type="storage", resource="disk", id="level", quantity=498)])
    for each in processes:
        with pytest.raises(QuotaExceeded):
            await each.enforce_quota("acme", "calls")
        assert await each.check_limit("acme", "disk", 2)
        assert not await each.check_limit("acme", "disk", 3)
    assert await metering.reconciler.drift("acme") == []


async def test_an_event_is_recorded_once_however_it_comes(metering: Metering) -> None:
    one, other = UsageEvent(**event(1, cost="0.010")), UsageEvent(**event(2, metadata={"a": [1, {"b": "ü"}]}))
    assert await metering.record_many([one, other]) == (2, 0, 0)
    assert counts(await metering.backfill([event(1, cost="0.010"), other, event(3), event(3)])) == (1, 3, 0, 0)
    assert await metering.record(UsageEvent(**event(3))) == "duplicate"
    with pytest.raises(EventConflict):
        await metering.record(UsageEvent(**event(3, quantity=2)))
    tally = await metering.backfill([event(3, quantity=2), event(4)])
    assert counts(tally) == (1, 0, 1, 0)
    assert tally.reasons[0].number == 1
    assert "id 'e3' was recorded before with another payload" in tally.reasons[0].reason
    assert await calls(metering) == 4
    assert await is_proved(metering)


async def test_an_event_without_an_instant_happened_when_it_was_first_read(
    metering: Metering, clock: FrozenClock
) -> None:
    fields = {name: value for name, value in event(1).items() if name != "occurred_at"}
    assert counts(await metering.backfill([fields])) == (1, 0, 0, 0)
    clock.advance(timedelta(days=2))
    assert counts(await metering.backfill([fields])) == (0, 1, 0, 0)
    assert (await metering.get_usage("acme", "2024-01-15", "2024-01-15")).api_calls == 1
    assert (await calls(metering), await is_proved(metering)) == (1, True)


# -- what is not -----------------------------------------------------------------------------------------------------


async def test_what_cannot_be_recorded_is_named_and_hinders_nothing(memory: Metering) -> None:
    bad: list[Any] = [
        (event(1, id=None), "id: is missing"),
        (event(2, occurred_at="2024-01-15T12:06:00Z"), "occurred_at: lies 360 s in the future"),
        (event(3, occurred_at="2024-01-15T12:00:00"), "has no time zone"),
        (event(4, quantity=0), "quantity: 0 is not allowed"),
        (event(5, quantity="3"), "quantity: expected an int"),
        (event(6, cost="-1"), "cost: -1 is negative"),
        (event(7, cost=0.5), "cost: 0.5 is a float and not exact"),
        (event(8, tenant="a\nb"), "tenant: holds the control character"),
        (event(9, event_type="teleport"), "no meter counts 'teleport'"),
        (event(10, event_type=["x"]), "event_type: "),
        (event(11) | {"tenant": {}}, "tenant: expected text"),
        (event(12, quantty=3), "quantty: "),
        (event(13, model="gpt-4"), "model: 'gpt-4' is not the resource"),
        (InvalidEvent("line", "is not JSON"), "line: is not JSON"),
        (17, "event: expected a UsageEvent or its fields, got int"),
    ]
    items = [item for number, (each, _) in enumerate(bad) for item in (event(100 + number), each)]
    tally = await memory.backfill(items)
    assert counts(tally) == (len(bad), 0, 0, len(bad))
    assert [each.number for each in tally.reasons] == [2 * n for n in range(1, len(bad) + 1)]
    for (_, words), rejection in zip(bad, tally.reasons, strict=True):
        assert words in rejection.reason
    assert await calls(memory) == len(bad)


async def test_only_the_first_reasons_are_kept(memory: Metering) -> None:
    tally = await memory.backfill(event(n, quantity=-1) for n in range(backfill.NAMED + 5))
    assert (tally.rejected, len(tally.reasons)) == (backfill.NAMED + 5, backfill.NAMED)


async def test_strict_ends_after_the_batch(memory: Metering) -> None:
    items = [event(n, quantity=-1 if n == 13 else 1) for n in range(40)]
    tally = await memory.backfill(items, strict=True, batch=10)
    assert (counts(tally), tally.read, tally.reasons[0].number) == ((19, 0, 0, 1), 20, 14)


async def test_without_a_default_plan_a_tenant_must_be_known(make: Make, ledger: str) -> None:
    metering = await make(catalogue={**LIMITED, "default_plan": None}, ledger=ledger)
    await metering.put_tenant("acme", plan="free")
    tally = await metering.backfill([event(1), event(2, "nobody")])
    assert (counts(tally), tally.reasons[0].number) == ((1, 0, 0, 1), 2)
    assert "tenant 'nobody' is not known; put_tenant makes it" in tally.reasons[0].reason


async def test_a_month_that_was_invoiced_takes_late_usage_for_35_days(
    make: Make, clock: FrozenClock, ledger: str
) -> None:
    clock.set("2024-01-20T00:00:00Z")
    metering = await make(ledger=ledger)
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    for period, now in (("2023-12", "2024-01-03T00:00:00Z"), ("2024-01", "2024-02-03T00:00:00Z")):
        clock.set(now)
        (invoice,) = await metering.close_period(period, tenant="acme")
        assert invoice.status == "finalized"
    old = [
        event(1, occurred_at="2023-12-20T00:00:00Z"),
        event(2, occurred_at="2024-01-20T00:00:00Z", quantity=10_100),
        event(3, "beta", occurred_at="2023-12-20T00:00:00Z"),
    ]
    for dry_run in (True, False):
        tally = await metering.backfill(old, dry_run=dry_run)
        assert (counts(tally), tally.reasons[0].number) == ((2, 0, 0, 1), 1)
        assert "2023-12-20 is more than 35 days ago, and the invoice of 2023-12 is final" in tally.reasons[0].reason
    invoice = await metering.preview_invoice("acme", period="2024-02")
    (late,) = [line for line in invoice.lines if line.kind == "late_usage"]
    assert (late.period, late.quantity, str(late.amount)) == ("2024-01", 100, "1.00")


# -- runs --------------------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_the_same_and_writes_nothing(metering: Metering) -> None:
    items = [event(1), event(2), event(2), event(3, quantity=-1), event(4, "beta")]
    foreseen = await metering.backfill(items, dry_run=True)
    assert (counts(foreseen), foreseen.dry_run) == ((3, 1, 0, 1), True)
    assert await calls(metering) == 0
    assert await metering.ledger.tenant("beta") is None
    assert counts(await metering.backfill(items)) == counts(foreseen)


async def test_a_run_goes_on_where_an_earlier_one_had_come_to(metering: Metering) -> None:
    """Of an async source that breaks off, as of a plain one. Numbers go on, and what was counted is not counted
    again."""
    items, told = [event(n, quantity=-1 if n in (3, 55) else 1) for n in range(60)], list[BackfillTally]()

    async def broken() -> AsyncIterator[dict[str, Any]]:
        for number, each in enumerate(items):
            if number == 35:
                raise StoreUnavailable("the source broke off")
            yield each

    with pytest.raises(StoreUnavailable):
        await metering.backfill(broken(), batch=10, progress=told.append)
    stood = told[-1]
    assert (stood.read, stood.settled, counts(stood)) == (30, 0, (29, 0, 0, 1))
    done = await metering.backfill(items[stood.settled :], tally=stood)
    assert counts(done) == (58, 0, 0, 2)
    assert [each.number for each in done.reasons] == [4, 56]

    async def whole() -> AsyncIterator[dict[str, Any]]:
        for each in items:
            yield each

    later = list[BackfillTally]()
    await metering.backfill(items[stood.settled :], tally=stood, batch=10, progress=later.append)
    assert [each.read for each in later] == [30, 40, 50, 60, 60]
    again = await metering.backfill(whole(), start_at=50)
    assert (counts(again), [each.number for each in again.reasons]) == ((0, 9, 0, 1), [56])
    assert (await calls(metering), await is_proved(metering)) == (58, True)


async def test_each_run_is_in_the_audit_log(memory: Metering) -> None:
    with memory.acting("ann", reason="ticket 9"):
        await memory.backfill([event(1)])
        await memory.backfill([event(2)], dry_run=True)
    (entry,) = [each for each in await memory.list_audit() if each.action == "usage backfilled"]
    assert (entry.actor, entry.reason, '"recorded": 1' in entry.after) == ("ann", "ticket 9", True)


async def test_metadata_is_sealed_as_in_what_is_recorded(make: Make, ledger: str) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    metering = await make(ledger=ledger, secret_key=key)
    await metering.backfill([event(1, metadata={"name": "Ada"})])
    (fact,) = await metering.ledger.facts("acme", after=(0, ""), limit=9)
    assert fact.metadata is not None
    assert "Ada" not in fact.metadata
    (line,) = [each async for each in metering.export_usage("acme")]
    assert line["metadata"] == {"name": "Ada"}


# -- while usage goes on -----------------------------------------------------------------------------------------------


async def test_a_backfill_is_exact_while_its_tenants_are_used(
    shared_stores: dict[str, str], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes take, one of them brings events in, in small batches that are told to the counters at once: after
    it each unit is there once, and what the counters say is what the ledger says."""
    monkeypatch.setattr(backfill, "SETTLE_S", 0.0)
    app, operator = [await make(catalogue=LIMITED, **shared_stores) for _ in range(2)]
    tenants, taken, over = ["acme", "beta", "gamma"], dict.fromkeys(["acme", "beta", "gamma"], 0), asyncio.Event()

    async def use(metering: Metering, tenant: str) -> None:
        while not over.is_set():
            await metering.enforce_quota(tenant, "calls")
            taken[tenant] += 1

    async def fill() -> BackfillTally:
        try:
            return await operator.backfill((event(n, tenants[n % 3]) for n in range(1_500)), batch=50)
        finally:
            over.set()

    live = [use(metering, tenant) for metering in (app, operator) for tenant in tenants]
    tally, *_ = await asyncio.gather(fill(), *live)
    assert tally is not None
    assert counts(tally) == (1_500, 0, 0, 0)
    for tenant in tenants:
        assert taken[tenant] > 0
        assert await calls(operator, tenant) == 500 + taken[tenant]
        left = 5_000 - 500 - taken[tenant]
        for metering in (app, operator):
            assert await metering.check_limit(tenant, "calls", left)
            assert not await metering.check_limit(tenant, "calls", left + 1)
        assert await operator.reconciler.drift(tenant) == []
    await app.flush()
    assert await is_proved(operator)


async def test_a_load_that_read_the_ledger_before_a_backfill_comes_too_late(stores: dict[str, str], make: Make) -> None:
    """It has the position that is the stream's last, so that nothing but the backfill's own entry bars it."""
    metering = await make(catalogue=LIMITED, **stores)
    await metering.put_tenant("acme", plan="free")
    await metering.flush()
    gate = metering.gate
    row, values = await gate.expected("acme")
    lane, view = gate._lane("acme"), await gate._known_view("acme")
    stale = Load("acme", view.tag(lane.generation), row.position, values, {})
    await metering.backfill(event(n) for n in range(10))
    outcome = await lane.submit(stale)
    assert isinstance(outcome, NotLoaded)
    assert outcome.why == "behind"
    assert await metering.check_limit("acme", "calls", 4_990)
    assert not await metering.check_limit("acme", "calls", 4_991)


async def test_counters_that_do_not_know_yet_are_no_alarm(
    stores: dict[str, str], make: Make, clock: FrozenClock
) -> None:
    """But they are loaded anew where nobody ever tells them: its process was killed."""
    metering = await make(catalogue=LIMITED, **stores, worker="off")
    await metering.enforce_quota("acme", "calls")
    await metering.flush()
    reader = Reader(metering.catalogue, metering._recorder.stating)
    stated = reader(event(1), micros(NOW))
    assert stated is not None
    options: dict[str, Any] = {"shards": metering.counters.shards, "defaults": metering._defaults()}
    await metering.ledger.backfill([stated], **options, now_us=micros(NOW))
    assert len(await metering.reconciler.drift("acme") or []) == 1
    assert await metering.reconciler.mend("acme") == []
    clock.advance(timedelta(seconds=60))
    assert len(await metering.reconciler.mend("acme")) == 1
    assert not await metering.check_limit("acme", "calls", 4_999)
    assert await metering.check_limit("acme", "calls", 4_998)


def _never() -> Iterator[dict[str, Any]]:
    yield from ()


async def test_a_batch_has_a_bound(memory: Metering) -> None:
    for size in (0, backfill.MAX_BATCH + 1):
        with pytest.raises(InvalidInput, match="is not from 1 to 100,000 events"):
            await memory.backfill([], batch=size)


async def test_of_nothing_nothing_becomes(memory: Metering) -> None:
    assert counts(await memory.backfill(_never())) == (0, 0, 0, 0)
