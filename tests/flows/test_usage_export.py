"""What an export has is what was used: read into another ledger it gives the same usage and the same invoices."""

from __future__ import annotations

from typing import Any

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.core.invoices import Invoice
from mm_metering.core.usage import UsageRange
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.gate.admission import Wish
from mm_metering.proof import Verdict
from mm_metering.usage import export
from tests.flows.conftest import Make

MONTHS = ("2024-01", "2024-02")


async def lives(metering: Metering, clock: FrozenClock) -> None:
    """Two months of everything that a fact can come from."""
    for tenant, plan in (("acme", "pro"), ("beta", "enterprise")):
        await metering.put_tenant(tenant, plan=plan, subscribed_at="2024-01-01T00:00:00Z")
    for now in ("2024-01-15T12:00:00Z", "2024-01-31T23:59:59.5Z", "2024-02-10T08:00:00Z"):
        clock.set(now)
        await metering.enforce_quota("acme", "api_calls", 10_250)
        await metering.record_api_call("beta", "/v1/é", success=False, metadata={"why": "ü", "n": [1, {"a": None}]})
        await metering.record_ai_usage("acme", "gpt-4", tokens=1_234, cost="0.037", id=now)
        async with metering.ai.reserve("beta", "gpt-4", input_tokens=50, max_output_tokens=100) as call:
            call.settle(input_tokens=50, output_tokens=70)
        await metering.set_level("acme", "users", 4)
        await metering.enforce_quota("acme", "users", 3)
        await metering.release("acme", "users", 2)
        taken = await metering.take("acme", (Wish("export", "report_pdf"), Wish("api_call", "/v1")))
        await metering.reverse(taken, meters={"exports", "reports"})
        await metering.adjust_usage("acme", "api_calls", -100, reason="incident 4711")


async def seen(metering: Metering, tenant: str) -> tuple[UsageRange, list[Invoice]]:
    """But for how often a day's cells were written."""
    usage = await metering.get_usage(tenant, "2024-01-01", "2024-02-29")
    usage = usage.model_copy(update={"revision": 0, "days": _same_revision(usage)})
    return usage, [await metering.preview_invoice(tenant, period=month) for month in MONTHS]


def _same_revision(usage: UsageRange) -> tuple[Any, ...]:
    return tuple(day.model_copy(update={"revision": 0}) for day in usage.days)


@pytest.fixture
async def origin(stores: dict[str, str], make: Make, clock: FrozenClock) -> Metering:
    metering = await make(**stores, worker="off")  # no job closes a month
    await lives(metering, clock)
    return metering


async def test_an_export_read_into_another_ledger_is_the_same_usage(
    origin: Metering, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 7)
    other = await make(worker="off")
    for tenant, plan in (("acme", "pro"), ("beta", "enterprise")):
        await other.put_tenant(tenant, plan=plan, subscribed_at="2024-01-01T00:00:00Z")
    lines = [line async for line in origin.export_usage()]
    assert [line["tenant"] for line in lines] == sorted(line["tenant"] for line in lines)
    tally = await other.backfill(lines)
    assert (tally.recorded, tally.reasons) == (len(lines), ())
    for tenant in ("acme", "beta"):
        usage, invoices = await seen(origin, tenant)
        assert (await seen(other, tenant)) == (usage, invoices)
        assert usage.total_cost > 0
        assert invoices[0].total > 0
    assert [line async for line in other.export_usage()] == lines
    assert {each.verdict for each in (await other.prove()).shards} == {Verdict.EQUAL}


async def test_an_export_read_into_its_own_ledger_changes_nothing(origin: Metering) -> None:
    before = await seen(origin, "acme")
    lines = [line async for line in origin.export_usage()]
    for dry_run in (True, False, False):
        tally = await origin.backfill(lines, dry_run=dry_run)
        assert (tally.recorded, tally.duplicates, tally.reasons) == (0, len(lines), ())
    assert await seen(origin, "acme") == before
    proof = await origin.prove()
    assert (proof.holds, {each.verdict for each in proof.shards}) == (True, {Verdict.EQUAL})


async def test_a_part_is_a_tenants_days_in_its_own_zone(make: Make, clock: FrozenClock) -> None:
    metering = await make()
    await metering.put_tenant("acme", plan="pro", timezone="America/New_York")
    for n, at in enumerate(("2024-01-14T04:59:59Z", "2024-01-14T05:00:00Z", "2024-01-15T04:59:59Z", clock.now())):
        await metering.record_api_call("acme", "/v1", id=f"e{n}", occurred_at=at)  # type: ignore[arg-type]
    await metering.record_api_call("beta", "/v1")

    async def days(*named: str, tenant: str | None = "acme") -> list[str]:
        span: dict[str, Any] = dict(zip(("start", "end"), named, strict=False))
        return [line["occurred_at"] async for line in metering.export_usage(tenant, **span)]

    assert await days("2024-01-14", "2024-01-14") == ["2024-01-14T05:00:00Z", "2024-01-15T04:59:59Z"]
    assert len(await days("2024-01-14")) == 3
    assert (len(await days()), len(await days(tenant=None))) == (4, 5)
    with pytest.raises(InvalidInput, match="end: 2024-01-13 lies before 2024-01-14"):
        await days("2024-01-14", "2024-01-13")
    with pytest.raises(UnknownTenant):
        await days(tenant="nobody")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "hold"}, "kind: 'hold' is none of use, set, add"),
        ({"kind": ["use"]}, "kind: "),
        ({"counts": [["nowhere", "", 1]]}, "meter: "),
        ({"counts": [["api_calls", 1]]}, "counts: "),
        ({"counts": [["api_calls", "", True]]}, "counts: "),
        ({"counts": [["api_calls", "", 2**63]]}, "event: a number beyond 64 bits"),
        ({"counts": "api_calls"}, "counts: is not a list"),
        ({"quantity": 1.5}, "quantity: 1.5 is not a whole number"),
        ({"success": "yes"}, "success: is neither true nor false"),
        ({"surprise": 1}, "surprise: is no field of an exported fact"),
        ({"occurred_at": None}, "occurred_at: "),
        ({"id": ""}, "id: "),
        ({"event_type": "a\0b"}, "event: NUL in a text"),
    ],
)
async def test_what_no_export_has_is_rejected(memory: Metering, changes: dict[str, Any], words: str) -> None:
    line = {"tenant": "acme", "kind": "use", "id": "f1", "event_type": "api_call", "resource": "/v1", "quantity": 1}
    line |= {"occurred_at": "2024-01-15T00:00:00Z", "counts": [["api_calls", "", 1]]}
    tally = await memory.backfill([{**line, **changes}, line])
    assert (tally.recorded, tally.rejected, tally.reasons[0].number) == (1, 1, 1)
    assert words in tally.reasons[0].reason
