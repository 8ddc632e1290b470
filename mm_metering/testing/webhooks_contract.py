"""The law of ``Webhooks`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.webhooks import MAX_ENDPOINTS, Claimed
from mm_metering.core.audit import AuditEntry
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Attempt, EndpointRow, Result, Sealed, disabled, webhook_id
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow
from mm_metering.core.timeline import PlanChange, StateChange
from mm_metering.errors import InvalidInput, WrongState

NOW: Final = datetime(2024, 2, 2, 12, 0, 0, 123456, tzinfo=UTC)
NOW_US: Final = micros(NOW)
NONE: Final = TenantDefaults("", 0, "UTC")
LEASE: Final = timedelta(minutes=1)


def an_endpoint(name: str = "ep_1", *, tenant: str = "acme", **changes: Any) -> EndpointRow:
    row = EndpointRow(
        id=name,
        tenant=tenant,
        url="https://acme.example/hooks",
        events=("*",),
        created_at=NOW,
        secrets=(Sealed(text="v1:a:b"),),
    )
    return row.model_copy(update=changes)


def an_event(name: str = "evt_1", *, tenant: str = "acme", type_: str = "report.done", at: datetime = NOW) -> Notice:
    return Notice(name, tenant, type_, {"é": [1, None]}, at, "host")


async def told(ledger: Ledger, *notices: Notice, endpoints: Sequence[EndpointRow] = (an_endpoint(),)) -> None:
    """The endpoints, and the notices on their way to them."""
    for each in endpoints:
        assert await ledger.put_endpoint(each, instead_of=None)
    for notice in notices:
        assert await ledger.put_notice(notice)
    assert await ledger.fan_out(NOW_US) == len(notices)


async def claimed(ledger: Ledger, at: datetime = NOW, **changes: Any) -> list[Claimed]:
    chosen: dict[str, Any] = {"until_us": micros(at + LEASE), "busy": (), "per_endpoint": 9, "limit": 99}
    return await ledger.claim_deliveries(micros(at), **chosen | changes)


def answered(each: Claimed, status: int = 200, at: datetime = NOW) -> Result:
    return Result(each.delivery.id, each.delivery.claim, at, Attempt(at=at, status=status, took_ms=3))


class WebhooksContract:
    """Each test quotes one law."""

    async def test_an_endpoint_changes_only_from_the_revision_that_was_seen(self, ledger: Ledger) -> None:
        first, entry = an_endpoint(), AuditEntry("a1", "acme", NOW, "host", "endpoint created", "ep_1")
        assert await ledger.put_endpoint(first, instead_of=None, audit=[entry])
        assert not await ledger.put_endpoint(first, instead_of=None, audit=[entry])
        second = first.changed(events=("invoice.*", "quota.exceeded"), throttled_until=NOW)
        assert await ledger.put_endpoint(second, instead_of=first)
        assert not await ledger.put_endpoint(second, instead_of=first)
        assert (await ledger.endpoint("ep_1"), await ledger.endpoint("ep_2")) == (second, None)
        assert list(await ledger.audit(tenant="acme")) == [entry]
        later = an_endpoint("ep_0", created_at=NOW + timedelta(seconds=1))
        assert await ledger.put_endpoint(later, instead_of=None)
        assert (await ledger.endpoints("acme"), await ledger.endpoints("beta")) == ([second, later], [])

    async def test_a_tenant_has_only_so_many_endpoints(self, ledger: Ledger) -> None:
        for number in range(MAX_ENDPOINTS):
            await ledger.put_endpoint(an_endpoint(f"ep_{number}"), instead_of=None)
        with pytest.raises(InvalidInput, match=f"{MAX_ENDPOINTS} of {MAX_ENDPOINTS}"):
            await ledger.put_endpoint(an_endpoint("one_more"), instead_of=None)
        assert await ledger.put_endpoint(an_endpoint("theirs", tenant="beta"), instead_of=None)

    async def test_a_notice_is_made_into_one_delivery_for_each_endpoint_that_wants_it(self, ledger: Ledger) -> None:
        endpoints = (
            an_endpoint("all"),
            an_endpoint("group", events=("report.*",)),
            an_endpoint("other", events=("invoice.*",)),
            an_endpoint("off", enabled=False),
            an_endpoint("new", created_at=NOW + timedelta(microseconds=1)),
            an_endpoint("theirs", tenant="beta"),
        )
        assert await ledger.fan_out(NOW_US) == 0
        await told(ledger, an_event(), endpoints=endpoints)
        assert not await ledger.put_notice(an_event()._replace(data={}))
        assert (await ledger.notice("evt_1"), await ledger.notice("evt_2")) == (an_event(), None)
        assert await ledger.fan_out(NOW_US) == 0
        found = await ledger.deliveries("acme")
        assert {each.endpoint for each in found} == {"all", "group"}
        first = found[0]
        assert (first.event, first.type, first.state) == (webhook_id("evt_1"), "report.done", "pending")
        assert (first.occurred_at, first.next_at, first.tries) == (NOW, NOW, 0)
        assert await ledger.delivery(first.id) == first
        assert await ledger.deliveries("beta") == []
        assert await ledger.notices_due(NOW_US, limit=9) == []

    async def test_of_several_that_fan_out_and_claim_at_once_each_delivery_is_one_s(self, ledger: Ledger) -> None:
        await ledger.put_endpoint(an_endpoint(), instead_of=None)
        for number in range(20):
            await ledger.put_notice(an_event(f"evt_{number}"))
        assert sum(await asyncio.gather(*(ledger.fan_out(NOW_US) for _ in range(3)))) == 20
        found = await ledger.deliveries("acme", state="pending")
        taken = await asyncio.gather(*(claimed(ledger, per_endpoint=8) for _ in range(4)))
        names = [each.delivery.id for page in taken for each in page]
        assert len(names) == len(set(names)) > 0
        names += [each.delivery.id for each in await claimed(ledger, per_endpoint=99)]
        assert sorted(names) == sorted(each.id for each in found)

    async def test_a_claim_is_a_lease(self, ledger: Ledger) -> None:
        await told(ledger, an_event())
        (mine,) = await claimed(ledger)
        assert (mine.notice, mine.endpoint, mine.delivery.claim) == (an_event(), an_endpoint(), 1)
        assert await claimed(ledger) == []
        (again,) = await claimed(ledger, NOW + LEASE)
        assert (again.delivery.id, again.delivery.claim) == (mine.delivery.id, 2)
        assert await ledger.settle_deliveries([answered(mine)]) == 0
        assert await ledger.settle_deliveries([answered(again)]) == 1
        assert await ledger.settle_deliveries([answered(again)]) == 0
        done = await ledger.delivery(mine.delivery.id)
        assert done is not None
        assert (done.state, done.next_at, done.attempts) == ("delivered", None, (answered(mine).attempt,))
        assert await claimed(ledger, NOW + timedelta(days=9)) == []

    async def test_no_endpoint_takes_the_place_of_others(self, ledger: Ledger) -> None:
        endpoints = (
            an_endpoint("busy"),
            an_endpoint("failing", failing_since=NOW),
            an_endpoint("throttled", throttled_until=NOW + timedelta(seconds=1)),
            an_endpoint("well"),
        )
        await told(ledger, *(an_event(f"evt_{number}") for number in range(5)), endpoints=endpoints)
        taken = await claimed(ledger, busy=["busy"], per_endpoint=3)
        assert sorted(each.endpoint.id for each in taken) == ["failing", "well", "well", "well"]
        later = await claimed(ledger, NOW + timedelta(seconds=1), busy=["busy", "failing"], per_endpoint=4)
        assert sorted(each.endpoint.id for each in later) == ["throttled"] * 4 + ["well"] * 2
        assert len(await claimed(ledger, limit=2)) == 2

    async def test_what_follows_from_an_attempt_is_written_with_its_notices(self, ledger: Ledger) -> None:
        ill = an_endpoint(failing_since=NOW - timedelta(days=5))
        await told(ledger, an_event("evt_1"), an_event("evt_2"), endpoints=(ill,))
        assert len(await claimed(ledger)) == 1
        (mine,) = await claimed(ledger)
        assert await ledger.settle_deliveries([answered(mine, 500)]) == 1
        off = await ledger.endpoint("ep_1")
        assert off is not None
        assert (off.enabled, off.why_disabled) == (False, "failing")
        assert [each.state for each in await ledger.deliveries("acme")] == ["dead", "dead"]
        (notice,) = [each.notice for each in await ledger.notices_due(NOW_US, limit=9)]
        assert (notice.type, notice.data["endpoint"]) == ("endpoint.disabled", "ep_1")

    async def test_the_deliveries_of_an_endpoint_that_is_disabled_are_dead(self, ledger: Ledger) -> None:
        await told(ledger, an_event())
        (mine,) = await claimed(ledger)
        await ledger.put_endpoint(disabled(an_endpoint(), "by hand"), instead_of=an_endpoint())
        (dead,) = await ledger.deliveries("acme", endpoint="ep_1", state="dead")
        assert (dead.id, dead.next_at) == (mine.delivery.id, None)
        assert await ledger.settle_deliveries([answered(mine)]) == 0

    async def test_the_dead_are_sent_again_and_where_asked_for_all_others_too(self, ledger: Ledger) -> None:
        await told(ledger, an_event("evt_1"), an_event("evt_2"))
        one, two = await claimed(ledger)
        await ledger.settle_deliveries([answered(one, 500), answered(two)])
        off = await ledger.endpoint("ep_1")
        assert off is not None
        await ledger.put_endpoint(disabled(off, "by hand"), instead_of=off)
        stands = [await ledger.delivery(each.delivery.id) for each in (one, two)]
        assert [(each.state, each.tries) for each in stands if each] == [("dead", 1), ("delivered", 0)]
        new = one.delivery.model_copy(update={"id": "dlv_new", "notice": "evt_0", "next_at": NOW})
        now_due = [each.delivery.model_copy(update={"next_at": NOW}) for each in (one, two)]
        assert await ledger.open_deliveries([*now_due, new], again=False) == 2
        assert await ledger.open_deliveries([*now_due, new], again=False) == 0
        assert await ledger.open_deliveries(now_due, again=True) == 2
        found = [each for each in await ledger.deliveries("acme") if each.id != "dlv_new"]
        assert {(each.state, each.next_at, each.tries, len(each.attempts)) for each in found} == {
            ("pending", NOW, 0, 1)
        }
        assert await ledger.settle_deliveries([answered(one)]) == 0

    async def test_pages_and_what_is_forgotten(self, ledger: Ledger) -> None:
        notices = [an_event(f"evt_{number}", at=NOW + timedelta(seconds=number)) for number in range(4)]
        await told(ledger, *notices, an_event("theirs", tenant="beta"))
        newest = await ledger.deliveries("acme", limit=3)
        assert [each.notice for each in newest] == ["evt_3", "evt_2", "evt_1"]
        last = newest[-1]
        rest = await ledger.deliveries("acme", before=(micros(last.occurred_at), last.id))
        assert [each.notice for each in rest] == ["evt_0"]
        start, end = NOW_US, NOW_US + 3_000_000
        assert await ledger.notices_of("acme", start_us=start, end_us=end) == notices[:3]
        page = await ledger.notices_of("acme", start_us=start, end_us=end, after=(start, "evt_0"), limit=1)
        assert page == [notices[1]]
        assert await ledger.forget_deliveries(before_us=NOW_US + 1) == 1
        assert len(await ledger.deliveries("acme")) == 3

    async def test_a_known_tenant_s_change_of_timeline_goes_out_with_it(self, ledger: Ledger) -> None:
        async def put(**changes: Any) -> TenantRow:
            return await ledger.put_tenant(NewTenant("acme", **changes), defaults=NONE, now_us=NOW_US)

        await put(plan="pro", version=1, subscribed_us=NOW_US)
        await put(plan="pro", version=1)
        await ledger.change_subscription("acme", PlanChange(NOW_US + 1, "pro", 1), now_us=NOW_US + 1)
        assert await ledger.notices() == []
        await put(plan="free", version=1)
        later = StateChange(NOW_US + 60_000_000, "pause")
        paused = await ledger.change_subscription("acme", later, now_us=NOW_US + 1)
        with pytest.raises(WrongState):
            await ledger.change_subscription("acme", StateChange(NOW_US + 2, "end trial"), now_us=NOW_US + 2)
        told = [(each.type, each.data["plan"], each.data["status"]) for each in await ledger.notices()]
        assert told == [("subscription.updated", "free", "paused"), ("subscription.updated", "free", "active")]
        assert (await ledger.notices())[0].data["at"] == "2024-02-02T12:01:00Z"
        assert paused == await ledger.change_subscription("acme", later, now_us=NOW_US + 9)
        assert len(await ledger.notices()) == 2
