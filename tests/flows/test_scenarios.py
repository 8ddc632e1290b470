"""SCENARIOS through the whole chain: recorded, folded, previewed, closed and closed again, on every pair of stores.

The statements are those of ``tests/unit/test_rating.py``, each a tenant of one house. What none of them can say is at
the end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from mm_metering import BudgetExceeded, FrozenClock, Metering, UsageEvent, catalogues
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import Span, period_span, zone
from tests.flows.conftest import Make
from tests.unit import test_rating
from tests.unit.billing_case import RESOURCES, Statement, check, instants, parse, start_of, statements_of

JANUARY = "2024-01-01T00:00:00Z"
GRACE = timedelta(hours=24)
INSTANT = timedelta(microseconds=1)

ROUNDED = {"1": "0.00", "166": "0.00", "167": "0.01", "500": "0.02", "1,500": "0.05", "1  x 1,000": "0.03"}
S06 = {
    f"s06 {tokens} tokens": parse(
        f"""
        plan      pro
        usage     2024-01-15  ai_tokens  {tokens}
        invoice   {tokens.split()[-1]} ai_tokens(gpt-4) x 0.00003 = {amount} USD
        """
    )
    for tokens, amount in ROUNDED.items()
}


@dataclass(frozen=True)
class Case:
    """A statement, and the tenant that it is about."""

    tenant: str
    says: Statement

    @property
    def month(self) -> Span:
        return period_span(self.says.period, zone(self.says.zone))

    def events(self) -> Iterator[UsageEvent]:
        for when, meter, named, quantity, times in self.says.usage:
            event = catalogues.seed.meters[meter].event or ""
            resource = named or RESOURCES.get(event, "x")
            for moment in instants(when, self.says.zone):
                for n in range(times):
                    yield UsageEvent(
                        tenant=self.tenant,
                        event_type=event,
                        resource=resource,
                        quantity=quantity,
                        occurred_at=moment,
                        id=f"{when}/{meter}/{named}/{quantity}/{moment}/{n}",
                    )

    async def happen(self, metering: Metering) -> None:
        """Its events in any order, half of them twice, some before the plan is changed and some after."""
        (plan, since), *later = self.says.plans
        await metering.put_tenant(
            self.tenant, plan=plan, timezone=self.says.zone, subscribed_at=start_of(since, self.says)
        )
        events = list(self.events())
        random.Random(self.tenant).shuffle(events)
        half = len(events) // 2
        assert await metering.record_many(events[:half]) == (half, 0, 0)
        for name, when in later:
            await metering.change_plan(self.tenant, name, at=start_of(when, self.says))
        assert await metering.record_many(events[half:]) == (len(events) - half, 0, 0)
        assert await metering.record_many(events[::2]) == (0, len(events[::2]), 0)

    async def come_out(self, metering: Metering, clock: FrozenClock) -> Invoice | None:
        """The preview at the month's last instant, the draft within the grace, the invoice after it, and the same
        once more: equal to the cent. None where there is nothing to invoice."""
        clock.set(self.month.end - INSTANT)
        await self.happen(metering)
        preview = await metering.preview_invoice(self.tenant, period=self.says.period)
        check(self.says, preview)
        clock.set(self.month.end)
        drafts = await metering.close_period(self.says.period, tenant=self.tenant)
        clock.set(self.month.end + GRACE)
        finals = await metering.close_period(self.says.period, tenant=self.tenant)
        again = await metering.close_period(self.says.period, tenant=self.tenant)
        if not preview.lines:
            assert (drafts, finals, again) == ([], [], [])
            return None
        assert [each.status for each in (*drafts, *finals)] == ["draft", "finalized"]
        for each in (*drafts, *finals):
            assert (each.lines, each.total, each.id) == (preview.lines, preview.total, preview.id)
        assert again[0].model_dump_json() == finals[0].model_dump_json()
        return finals[0]


async def test_every_statement_comes_out_of_the_whole_chain(metering: Metering, clock: FrozenClock) -> None:
    statements = statements_of(test_rating, catalogues.seed) | S06
    assert {name[5:8] for name in statements if name.startswith("test_s")} >= {
        *("s01", "s02", "s03", "s05", "s09", "s10", "s12", "s13", "s27")
    }
    cases = [Case(name, statement) for name, statement in statements.items()]
    finals: list[Invoice] = []
    for case in sorted(cases, key=lambda case: (case.month.end, case.tenant)):
        try:
            finals += filter(None, [await case.come_out(metering, clock)])
        except AssertionError as error:
            pytest.fail(f"{case.tenant}: {error}")
    for period in {each.period for each in finals}:
        closed = {each.id: each for each in await metering.close_period(period)}
        for each in finals:
            assert each.period != period or closed[each.id] == each
    numbers = sorted(each.number for each in await metering.list_invoices() if each.number)
    assert numbers == [f"INV-{n:06}" for n in range(1, len(numbers) + 1)]
    assert len(numbers) >= len(finals), "the worker closes months too"


# -- what no statement can say -----------------------------------------------------------------------------------------


def calls(moment: datetime, quantity: int) -> UsageEvent:
    return UsageEvent(
        tenant="acme", event_type="api_call", resource="/v1/x", quantity=quantity, occurred_at=moment, id=f"{moment}"
    )


@pytest.mark.parametrize(
    ("before", "after", "calls_before", "calls_after", "overage"),
    [("pro", "enterprise", 12_000, 30_000, "20.00"), ("enterprise", "pro", 50_000, 1_000, "10.00")],
)
async def test_s12_the_days_count_goes_on_through_a_change_of_plan(
    metering: Metering,
    clock: FrozenClock,
    *,
    before: str,
    after: str,
    calls_before: int,
    calls_after: int,
    overage: str,
) -> None:
    clock.set("2024-01-16T12:00:00Z")
    await metering.put_tenant("acme", plan=before, subscribed_at=JANUARY)
    await metering.record(calls(clock.now() - timedelta(hours=1), calls_before))
    await metering.change_plan("acme", after, at="now")
    await metering.record(calls(clock.now(), calls_after))
    invoice = await metering.preview_invoice("acme")
    assert [str(line.amount) for line in invoice.lines if line.kind == "overage"] == [overage]
    assert (await metering.check_limit("acme", "api_calls")).used == calls_before + calls_after


async def test_s02_s13_usage_is_told_by_the_tenants_own_days(metering: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-16T20:00:00Z")
    await metering.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T05:00:00Z", timezone="America/New_York")
    await metering.record_many(calls(datetime(2024, 1, 16, hour, tzinfo=UTC), 6_000) for hour in (3, 15))
    usage = await metering.get_usage("acme", "2024-01-15", "2024-01-16")
    assert [day.api_calls for day in usage.days] == [6_000, 6_000]
    assert usage.api_calls == 12_000


async def test_s16_late_events_join_their_month_or_the_next(metering: Metering, clock: FrozenClock) -> None:
    """
    31 January is at 10,000 calls. 500 more of 23:59:50Z come within the grace (a), or after it (b).

    in_grace   January 104.00   February  99.00
    too_late   January  99.00   February 104.00, of which 5.00 is late usage of 2024-01-31
    """
    clock.set("2024-01-31T12:00:00Z")
    late = {}
    for tenant in ("in_grace", "too_late"):
        await metering.put_tenant(tenant, plan="pro", subscribed_at=JANUARY)
        await metering.record(calls(clock.now(), 10_000).model_copy(update={"tenant": tenant}))
        moment = datetime(2024, 1, 31, 23, 59, 50, tzinfo=UTC)
        late[tenant] = calls(moment, 500).model_copy(update={"tenant": tenant})
    clock.set("2024-02-01T00:30:00Z")
    await metering.record(late["in_grace"])
    clock.set("2024-02-03T00:00:00Z")
    january = await metering.close_period("2024-01")
    await metering.record(late["too_late"])
    assert (await metering.check_limit("too_late", "api_calls")).used == 0
    assert await metering.close_period("2024-01") == january
    clock.set("2024-03-02T00:00:00Z")
    february = await metering.close_period("2024-02")
    assert [str(each.total) for each in january] == ["104.00", "99.00"]
    assert [str(each.total) for each in february] == ["99.00", "104.00"]
    (line,) = [line for line in february[1].lines if line.kind == "late_usage"]
    assert line.description == "late usage 2024-01-31, 500 api_calls, 0.01 each"
    assert line.amount == Decimal("5.00")


async def test_s24_a_cap_admits_to_the_unit_under_64_callers(
    stores: dict[str, str], make: Make, clock: FrozenClock
) -> None:
    """
    plan      pro, with charge_up_to 20.00 for API calls
    attempts  2024-01-15  api_calls  12,345      of 64 callers
    admitted  12,000
    refused      345                             as budget-exceeded
    total     119.00 USD
    """
    metering = await make(catalogue=test_rating.CAPPED, **stores)
    await metering.put_tenant("acme", plan="pro", subscribed_at=JANUARY)
    attempts = [1] * 3_345 + [1_000] * 9
    """The last one first."""
    admitted: list[int] = []
    refused: list[tuple[int, str | None]] = []

    async def call() -> None:
        while attempts:
            quantity = attempts.pop()
            try:
                await metering.enforce_quota("acme", "api_calls", quantity)
                admitted.append(quantity)
            except BudgetExceeded as error:
                refused.append((quantity, error.decision.reason))

    await asyncio.gather(*(call() for _ in range(64)))
    assert sum(admitted) == 12_000
    assert refused == [(1, "budget-exceeded")] * 345
    clock.set("2024-02-02T00:00:00Z")
    (invoice,) = await metering.close_period("2024-01")
    assert invoice.total == Decimal("119.00")
