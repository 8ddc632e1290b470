"""The law of ``Looks`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from mm_metering.backends.collecting import Hint
from mm_metering.backends.counters import START
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.looks import (
    LOOK,
    MAX_COUNT,
    MAX_DAYS,
    MAX_TYPES,
    TOP,
    FactPage,
    FactPlace,
    HouseDay,
    Place,
    TenantOrder,
    alert_place,
)
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import Entries
from mm_metering.core.cells import CellKey
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.facts import Count, Fact, void
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.core.timeline import PlanChange, StateChange
from mm_metering.errors import InvalidInput
from mm_metering.testing.accounts_contract import an_invoice, book, open_accounts
from mm_metering.testing.webhooks_contract import an_endpoint, an_event, answered, claimed, told

DAY: Final = date(2024, 1, 15)
NOON: Final = datetime(2024, 1, 15, 12, tzinfo=UTC)
NOON_US: Final = micros(NOON)
HOUR_US: Final = 3_600_000_000
FREE: Final = TenantDefaults("free", 1, "UTC")
NEVER_STORED: Final = ("a\0b", "\ud800")


def used(name: str, tenant: str = "acme", *, amount: int = 1, at_us: int = NOON_US, **changes: Any) -> Fact:
    counts = (Count("api_calls", "", amount), Count("api_calls", "user:7", amount))
    fact = Fact(name, at_us, "use", tenant, "api_call", "/v1/items", amount, None, counts)
    return fact._replace(**changes)


def level(name: str, value: int, tenant: str = "acme", *, at_us: int = NOON_US) -> Fact:
    return Fact(name, at_us, "set", tenant, "storage", "disk", value, None, (Count("storage_mb", "", value),))


def held(name: str, *, at_us: int = NOON_US) -> tuple[Fact, Fact]:
    """A hold and its close."""
    hold = Fact(name, at_us, "hold", "acme", "ai_call", "gpt-4", 1, None, (Count("ai_requests", "", 1),))
    return hold, hold._replace(id=f"{name}.close", kind="close", target=name, cost_nanos=70)


async def folded(ledger: Ledger, *batches: Sequence[Fact], shard: int = 0) -> None:
    """From the shard's start on, so once for each shard."""
    for number, facts in enumerate(batches):
        before = f"{number}-0" if number else START
        move: dict[str, Any] = {"generation": 1, "before": before, "after": f"{number + 1}-0"}
        assert await ledger.fold(shard, facts=facts, defaults=FREE, **move)


async def signed_up(ledger: Ledger, *tenants: str, **changes: Any) -> None:
    for each in tenants:
        new = NewTenant(each, **{"subscribed_us": NOON_US - HOUR_US} | changes)
        await ledger.put_tenant(new, defaults=FREE, now_us=NOON_US)


async def found(ledger: Ledger, **chosen: Any) -> list[str]:
    rows, number = await ledger.find_tenants(**{"now_us": NOON_US} | chosen)
    assert number >= len(rows)
    return [row.id for row in rows]


async def all_facts(ledger: Ledger, **chosen: Any) -> list[str]:
    """Page by page, two facts at a time."""
    names, page = list[str](), FactPage([], None)
    while True:
        page = await ledger.latest_facts(before=page.ended, limit=2, **chosen)
        names += [each.fact.id for each in page.facts]
        if page.ended is None:
            return names


class LooksContract:
    """Each test quotes one law."""

    # -- the house by day ---------------------------------------------------------------------------------------------

    async def test_a_day_of_the_house_is_what_all_tenants_used_without_scopes(self, ledger: Ledger) -> None:
        beta = [used("b1", "beta", amount=7, resource="/v2"), used("b2", "beta", amount=1, cost_nanos=30)]
        others = [used("n", at_us=NOON_US + 24 * HOUR_US), level("l1", 90), level("l2", 40, "beta")]
        await folded(ledger, [used("a1", amount=3), *beta, *others, *held("h")])
        refused = {CellKey(each, DAY, 0, "api_calls", "", ""): 4 for each in ("acme", "gamma")}
        await ledger.report("p", acknowledged={}, refused=refused, now_us=1)
        await ledger.roll_up(DAY, now_us=5)
        days = {each.meter: each for each in await ledger.house_days(DAY, DAY)}
        assert list(days) == ["*ai_call", "*api_call", "*storage", "ai_requests", "api_calls", "storage_mb"]
        assert days["api_calls"] == HouseDay(DAY, "api_calls", 11, 30, 8, 2, (("beta", 8), ("acme", 3)), 5)
        routes = (("/v1/items", 4, 30), ("/v2", 7, 0))
        assert days["*api_call"] == HouseDay(DAY, "*api_call", 11, 30, 0, 2, (("beta", 8), ("acme", 3)), 5, routes)
        assert days["*ai_call"] == HouseDay(DAY, "*ai_call", 1, 70, 0, 1, (("acme", 1),), 5, (("gpt-4", 1, 70),))
        assert days["storage_mb"] == HouseDay(DAY, "storage_mb", 130, 0, 0, 2, (("acme", 90), ("beta", 40)), 5)

    async def test_a_day_names_the_tenants_with_the_most_and_none_that_has_less_than_before(
        self, ledger: Ledger
    ) -> None:
        tenants = [f"t{number:02}" for number in range(TOP + 3)]
        later = [level("l2", 3, at_us=NOON_US + 24 * HOUR_US)]
        await folded(
            ledger, [*(used(each, each, amount=1 + (each > "t05")) for each in tenants), level("l1", 9), *later]
        )
        await ledger.roll_up(DAY, now_us=5)
        await ledger.roll_up(DAY + timedelta(1), now_us=5)
        days = {(each.day, each.meter): each for each in await ledger.house_days(DAY, DAY + timedelta(1))}
        most = [*((each, 2) for each in tenants[6:]), *((each, 1) for each in tenants[:3])]
        assert days[DAY, "api_calls"][-3:] == (tuple(most), 5, ())
        assert days[DAY + timedelta(1), "storage_mb"][2:7] == (-6, 0, 0, 1, ())

    async def test_a_tenants_day_is_its_own_local_day(self, ledger: Ledger) -> None:
        await signed_up(ledger, "tokyo", timezone="Asia/Tokyo")
        await folded(ledger, [used("a", "tokyo", at_us=NOON_US + 4 * HOUR_US), used("b", at_us=NOON_US + 4 * HOUR_US)])
        for day in (DAY, DAY + timedelta(1)):
            await ledger.roll_up(day, now_us=5)
        days = await ledger.house_days(DAY, DAY + timedelta(1))
        assert [(each.day, each.top) for each in days if each.meter == "api_calls"] == [
            (DAY, (("acme", 1),)),
            (DAY + timedelta(1), (("tokyo", 1),)),
        ]

    async def test_a_day_that_is_added_up_again_takes_the_place_of_what_stood(self, ledger: Ledger) -> None:
        await folded(ledger, [used("a"), level("l", 5)])
        await ledger.roll_up(DAY, now_us=5)
        await folded(ledger, [void(level("l", 5)), used("b")], shard=1)
        await ledger.roll_up(DAY, now_us=6)
        again = await ledger.house_days(DAY, DAY)
        assert [(each.meter, each.quantity, each.made_us) for each in again] == [
            ("*api_call", 2, 6),
            ("api_calls", 2, 6),
        ]
        await ledger.roll_up(DAY, now_us=4)
        assert await ledger.house_days(DAY, DAY) == again
        await folded(ledger, [void(used("a")), void(used("b"))], shard=2)
        await ledger.roll_up(DAY, now_us=6)
        assert await ledger.house_days(DAY, DAY) == []

    async def test_a_day_may_be_added_up_by_several_at_once(self, ledger: Ledger) -> None:
        await folded(ledger, [used("a"), used("b", "beta")])
        await asyncio.gather(*(ledger.roll_up(DAY, now_us=now_us) for now_us in (7, 9, 8, 9)))
        assert {each.made_us for each in await ledger.house_days(DAY, DAY)} == {9}

    async def test_days_are_read_in_order_and_not_too_many(self, ledger: Ledger) -> None:
        assert (await ledger.first_day(), await ledger.house_days(DAY, DAY)) == (None, [])
        await folded(ledger, [used(str(day), at_us=NOON_US + day * 24 * HOUR_US) for day in range(4)])
        assert (await ledger.first_day(), await ledger.first_day(since=DAY + timedelta(2))) == (DAY, DAY + timedelta(2))
        assert await ledger.first_day(since=DAY + timedelta(4)) is None
        for day in (3, 0, 2, 1):
            await ledger.roll_up(DAY + timedelta(day), now_us=5)
        days = await ledger.house_days(DAY + timedelta(1), DAY + timedelta(2))
        assert [(each.day.day, each.meter) for each in days] == [
            (day, meter) for day in (16, 17) for meter in ("*api_call", "api_calls")
        ]
        assert len(await ledger.house_days(DAY, DAY + timedelta(MAX_DAYS - 1))) == 8
        with pytest.raises(InvalidInput, match=f"days: {MAX_DAYS + 1} of {MAX_DAYS} at most"):
            await ledger.house_days(DAY, DAY + timedelta(MAX_DAYS))

    # -- tenants ------------------------------------------------------------------------------------------------------

    async def test_tenants_are_found_by_a_part_of_their_id(self, ledger: Ledger) -> None:
        await signed_up(ledger, "Acme%1", "acme_2", "ÄCME", "beta", "x\\y", "a'c")
        assert await found(ledger, text="aCmE") == ["Acme%1", "acme_2"]
        assert [await found(ledger, text=each) for each in ("%", "_", "\\", "'", "Ä", "ä")] == [
            *(["Acme%1"], ["acme_2"], ["x\\y"], ["a'c"], ["ÄCME"], [])
        ]
        assert [await found(ledger, text=each) for each in NEVER_STORED] == [[], []]

    async def test_tenants_are_found_by_the_plan_and_state_in_force(self, ledger: Ledger) -> None:
        await signed_up(ledger, "a", "b", "c", "d", "late", plan="pro", version=1)
        await signed_up(ledger, "e", plan="pro_max", version=1, trial_us=9 * HOUR_US)
        await ledger.change_subscription("a", PlanChange(NOON_US - 5, "pro~a", 1))
        await ledger.change_subscription("b", PlanChange(NOON_US + HOUR_US, "free", 1))
        await ledger.change_subscription("c", StateChange(NOON_US, "cancel"))
        await ledger.change_subscription("d", StateChange(NOON_US + HOUR_US, "pause"))
        await signed_up(ledger, "late", subscribed_us=NOON_US + HOUR_US)
        assert await found(ledger, plan="pro") == ["a", "b", "c", "d", "late"]
        assert await found(ledger, plan="pro", now_us=NOON_US + HOUR_US) == ["a", "c", "d", "late"]
        assert await found(ledger, plan="pro", status="canceled", text="C") == ["c"]
        assert [await found(ledger, plan=each) for each in ("pro_max", "PRO", "pro~a", "p", "pro%")] == [
            ["e"],
            [],
            [],
            [],
            [],
        ]
        assert await found(ledger, status="paused", now_us=NOON_US + HOUR_US) == ["d"]
        assert await found(ledger, status="trial") == ["e"]
        assert await ledger.count_tenants(NOON_US) == {
            ("pro", "active"): 4,
            ("pro", "canceled"): 1,
            ("pro_max", "trial"): 1,
        }
        assert (await ledger.count_tenants(NOON_US + HOUR_US))["free", "active"] == 1
        (row,), number = await ledger.find_tenants(text="b", now_us=NOON_US)
        assert (row, number) == (await ledger.tenant("b"), 1)

    async def test_tenants_are_listed_in_one_of_these_orders(self, ledger: Ledger) -> None:
        for number, (name, plan) in enumerate((("c", "pro~c"), ("a", "pro2"), ("b", "pro"), ("d", "free"))):
            await signed_up(ledger, name, plan=plan, version=1, subscribed_us=NOON_US + number // 2)
        orders: dict[TenantOrder, str] = {
            "id": "abcd",
            "-id": "dcba",
            "plan": "dbca",
            "since": "acbd",
            "-since": "dbca",
        }
        for order, names in orders.items():
            assert "".join(await found(ledger, order=order)) == names
            assert "".join(await found(ledger, order=order, skip=1, limit=2)) == names[1:3]
        rows, number = await ledger.find_tenants(now_us=NOON_US, skip=4)
        assert (rows, number) == ([], 4)

    # -- facts --------------------------------------------------------------------------------------------------------

    async def test_facts_are_read_the_newest_stored_first(self, ledger: Ledger) -> None:
        first = [used("a", at_us=NOON_US + 9), used("b", "beta"), used("c", at_us=NOON_US - 9)]
        await folded(ledger, first, [used("d", "alpha"), used("e")])
        page = await ledger.latest_facts()
        assert ([each.fact.id for each in page.facts], page.ended) == (["e", "d", "c", "b", "a"], None)
        assert page.facts[3].fact == first[1]
        assert [each.stored_us for each in page.facts] == sorted((each.stored_us for each in page.facts), reverse=True)
        assert await all_facts(ledger) == ["e", "d", "c", "b", "a"]

    async def test_who_follows_along_is_told_what_was_stored_since(self, ledger: Ledger) -> None:
        await folded(ledger, [used("a"), used("b", "beta")])
        place = (await ledger.latest_facts(limit=1)).facts[0].place
        assert await ledger.latest_facts(after=place) == FactPage([], None)
        await folded(ledger, [used("c", at_us=NOON_US - 9), used("d", "beta"), used("e")], shard=1)
        page = await ledger.latest_facts(after=place)
        assert ([each.fact.id for each in page.facts], page.ended) == (["e", "d", "c"], None)
        newest = await ledger.latest_facts(after=place, limit=2)
        assert ([each.fact.id for each in newest.facts], newest.ended) == (["e", "d"], page.facts[1].place)
        between = await ledger.latest_facts(after=place, before=newest.ended)
        assert [each.fact.id for each in between.facts] == ["c"]
        assert [each.fact.id for each in (await ledger.latest_facts(tenant="acme", after=place)).facts] == ["e", "c"]

    async def test_a_tenants_facts_are_read_in_order_of_their_instants(self, ledger: Ledger) -> None:
        theirs = [used("a", at_us=NOON_US + 9), used("b"), used("c", at_us=NOON_US + 5), used("d")]
        await folded(ledger, [*theirs, used("x", "beta"), used("y", "acme2")])
        assert await all_facts(ledger, tenant="acme") == ["a", "c", "d", "b"]
        assert await all_facts(ledger, tenant="nobody") == []

    async def test_a_fact_is_shown_as_it_stands(self, ledger: Ledger) -> None:
        (hold, close), (open_hold, _) = held("h"), held("o")
        await folded(ledger, [hold, open_hold, used("a"), used("b"), void(used("never"))], [close, void(used("a"))])
        stand = {each.fact.id: (each.voided, each.open) for each in (await ledger.latest_facts()).facts}
        assert stand == {
            "h.close": (False, False),
            "b": (False, False),
            "a": (True, False),
            "o": (False, True),
            "h": (False, False),
        }

    async def test_facts_are_found_by_type_kind_and_text(self, ledger: Ledger) -> None:
        await folded(ledger, [used("A%", resource="/V1/items_b"), used("b", "beta"), level("c", 5), *held("d")])

        async def ids(**chosen: Any) -> str:
            return " ".join([each.fact.id for each in (await ledger.latest_facts(**chosen)).facts])

        assert await ids(event_type="api_call") == "b A%"
        assert await ids(kind="hold") == "d"
        assert await ids(event_type="ai_call", kind="use") == ""
        assert await ids(text="/v1/ITEMS") == "b A%"
        assert [await ids(text=each) for each in ("_", "%", "A%", "a%", "d.close", "d.clos")] == [
            "A%",
            "",
            "A%",
            "",
            "d.close",
            "",
        ]
        assert await ids(text="items", tenant="beta") == "b"
        assert [await ids(text=each) for each in NEVER_STORED] == ["", ""]

    async def test_a_look_at_facts_ends_at_a_bound_and_goes_on_from_there(self, ledger: Ledger) -> None:
        many = [used(f"{number:05}", at_us=NOON_US + number) for number in range(LOOK + 2)]
        await folded(ledger, [level("old", 5, at_us=NOON_US - 1), *many[:-2]], many[-2:])
        for tenant in (None, "acme"):
            page = await ledger.latest_facts(tenant=tenant, kind="set")
            assert (page.facts, page.ended and page.ended.id) == ([], "00002")
            rest = await ledger.latest_facts(tenant=tenant, kind="set", before=page.ended)
            assert ([each.fact.id for each in rest.facts], rest.ended) == (["old"], None)
        newest = await ledger.latest_facts(limit=1)
        assert await ledger.latest_facts(kind="set", after=newest.facts[0].place) == FactPage([], None)

    # -- what was done, told and heard --------------------------------------------------------------------------------

    async def test_entries_notices_and_hints_are_read_in_pages(self, ledger: Ledger) -> None:
        at = [NOON + timedelta(seconds=each) for each in (0, 0, 1, 2)]
        entries = [
            AuditEntry(f"e{number}", ("acme", "")[number % 2], when, "ann", ("made", "gone")[number // 2], "x")
            for number, when in enumerate(at)
        ]
        notices = [
            Notice(f"n{number}", ("acme", "beta")[number % 2], ("report.done", "x", "y")[number % 3], {}, when)
            for number, when in enumerate(at)
        ]
        hints = [Hint(f"h{number}", "t", "other", "o", 9, micros(when), None) for number, when in enumerate(at)]
        await ledger.add_audit(entries)
        await ledger.add_notices(notices)
        for each in hints:
            await ledger.put_hint(each)
        assert await ledger.audit_page() == entries[::-1]
        assert await ledger.notices_page() == notices[::-1]
        assert await ledger.hints_page() == hints[::-1]
        place = Place(NOON_US, "{}1")
        assert await ledger.audit_page(before=place._replace(id="e1"), limit=9) == entries[:1]
        assert await ledger.notices_page(before=place._replace(id="n1"), limit=9) == notices[:1]
        assert await ledger.hints_page(before=Place(NOON_US + 1_000_000, "h2"), limit=1) == hints[1:2]
        assert await ledger.audit_page(tenant="", action="gone") == entries[3:]
        assert await ledger.audit_page(action="made", before=place._replace(id="e1")) == entries[:1]
        assert await ledger.audit_page(tenant="acme", limit=1) == entries[2:3]
        assert await ledger.notices_page(types=["y", "report.done", "y"]) == [notices[3], notices[2], notices[0]]
        assert await ledger.notices_page(types=["x", "y"], limit=1) == notices[2:3]
        assert await ledger.notices_page(tenant="acme", types=["y", "x"]) == notices[2:3]
        with pytest.raises(InvalidInput, match=f"types: {MAX_TYPES + 1} of {MAX_TYPES} at most"):
            await ledger.notices_page(types=["x"] * (MAX_TYPES + 1))

    async def test_deliveries_are_read_in_pages_and_counted(self, ledger: Ledger) -> None:
        rows = [an_endpoint("ep_1"), an_endpoint("ep_2", tenant="beta"), an_endpoint("ep_3", created_at=NOON)]
        when = rows[0].created_at
        events = [
            an_event(f"evt_{number}", tenant=("acme", "beta")[number % 2], at=when + timedelta(seconds=number // 2))
            for number in range(4)
        ]
        await told(ledger, *events, endpoints=rows)
        every = await ledger.deliveries_page()
        assert sorted(each.notice for each in every) == ["evt_0", "evt_0", "evt_1", "evt_2", "evt_2", "evt_3"]
        assert every == sorted(every, key=lambda each: (each.occurred_at, each.id), reverse=True)
        (due,) = await claimed(ledger, when + timedelta(hours=1), limit=1, per_endpoint=1)
        await ledger.settle_deliveries([answered(due)])
        done = await ledger.delivery(due.delivery.id)
        assert await ledger.deliveries_page(state="delivered") == [done]
        pending = [each for each in every if each.id != due.delivery.id]
        assert [each.id for each in await ledger.deliveries_page(state="pending")] == [each.id for each in pending]
        theirs = [each.id for each in every if each.endpoint == "ep_1"]
        assert [each.id for each in await ledger.deliveries_page(endpoint="ep_1")] == theirs
        beta = [each.id for each in pending if each.tenant == "beta"]
        assert [each.id for each in await ledger.deliveries_page(tenant="beta", state="pending")] == beta
        assert await ledger.deliveries_page(tenant="acme", endpoint="ep_2") == []
        ids = list[str]()
        place: Place | None = None
        while page := await ledger.deliveries_page(before=place, limit=2):
            ids += [each.id for each in page]
            place = Place(micros(page[-1].occurred_at), page[-1].id)
        assert ids == [each.id for each in every]
        counts = {name: [0, 0] for name in ("ep_1", "ep_2", "ep_3")}
        for each in every:
            counts[each.endpoint][each.id != due.delivery.id] += 1
        assert await ledger.delivery_stats(since_us=0) == {name: tuple(each) for name, each in counts.items()}
        later = await ledger.delivery_stats(since_us=micros(when) + 1)
        assert sum(map(sum, later.values())) == 3
        assert await ledger.delivery_stats(since_us=micros(when) + 10_000_000) == {}

    async def test_endpoints_are_read_in_pages(self, ledger: Ledger) -> None:
        rows = [an_endpoint("ep_1"), an_endpoint("ep_2", tenant="beta"), an_endpoint("ep_3")]
        await told(ledger, endpoints=rows[::-1])
        assert await ledger.endpoints_page(limit=2) == rows[:2]
        assert await ledger.endpoints_page(after="ep_1") == rows[1:]
        assert await ledger.endpoints_page(tenant="acme", after="ep_1") == rows[2:]

    async def test_a_place_that_no_ledger_can_hold_finds_nothing(self, ledger: Ledger) -> None:
        await ledger.add_audit([AuditEntry("e", "acme", NOON, "ann", "made", "x")])
        await folded(ledger, [used("a")])
        for text in NEVER_STORED:
            assert await ledger.audit_page(before=Place(2**60, text)) == []
            assert await ledger.audit_page(action=text) == []
            assert (await ledger.invoices_page(period=text), await ledger.endpoints_page(after=text)) == (([], 0), [])
            place = FactPlace(2**60, text, 0, "")
            assert await ledger.latest_facts(before=place) == FactPage([], None)
        for before in (Place(2**63, ""), Place(-(2**64), "")):
            assert await ledger.notices_page(before=before) == []
            assert (await ledger.hints_page(before=before), await ledger.deliveries_page(before=before)) == ([], [])

    # -- money --------------------------------------------------------------------------------------------------------

    async def test_invoices_are_read_in_pages_and_counted(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        invoices = [
            an_invoice("i1", period="2024-02", tenant="beta", status="finalized"),
            an_invoice("i2", period="2024-01", issue=2, status="paid"),
            an_invoice("i3", period="2024-01", issue=1, status="void", total=Decimal("0.000000001")),
            an_invoice("i4", period="2023-02", status="paid", total=Decimal(10)),
        ]
        assert (await ledger.invoices_page(), await ledger.invoice_totals()) == (([], 0), [])
        await book(ledger, Entries(invoices=tuple(invoices[::-1])))
        assert await ledger.invoices_page() == (invoices, 4)
        assert await ledger.invoices_page(skip=1, limit=2) == (invoices[1:3], 4)
        assert await ledger.invoices_page(skip=4) == ([], 4)
        assert await ledger.invoices_page(status="paid") == ([invoices[1], invoices[3]], 2)
        assert await ledger.invoices_page(tenant="acme", period="2024-01") == (invoices[1:3], 2)
        assert await ledger.invoices_page(tenant="beta", status="paid") == ([], 0)
        recent = [
            ("2024-02", "finalized", 1, 9_990_000_000),
            ("2024-01", "paid", 1, 9_990_000_000),
            ("2024-01", "void", 1, 1),
        ]
        assert await ledger.invoice_totals() == recent
        assert await ledger.invoice_totals(months=1) == recent[:1]
        assert await ledger.invoice_totals(months=13) == [*recent, ("2023-02", "paid", 1, 10**10)]

    async def test_invoices_are_counted_and_skipped_up_to_a_bound(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        many = [an_invoice(f"i{number:05}", issue=MAX_COUNT + 9 - number, lines=()) for number in range(MAX_COUNT + 5)]
        await book(ledger, Entries(invoices=tuple(many)))
        assert await ledger.invoices_page(skip=MAX_COUNT - 1) == (many[MAX_COUNT - 1 : MAX_COUNT], MAX_COUNT)
        assert await ledger.invoices_page(skip=MAX_COUNT) == ([], MAX_COUNT)

    async def test_collections_are_added_up_by_state(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        one = Collection(invoice="i1", tenant="acme", period="2024-01", currency="usd", amount=Decimal("0.000000001"))
        others = [one.model_copy(update={"invoice": each, "amount": Decimal(9_000_000)}) for each in ("i2", "i3")]
        assert await ledger.collection_totals() == {}
        await book(ledger, Entries(collections=(one, *others)))
        assert await ledger.collection_totals() == {"open": (3, 18 * 10**15 + 1)}
        await book(ledger, Entries(collections=(one.model_copy(update={"state": "paid", "amount": Decimal(2)}),)))
        assert await ledger.collection_totals() == {"open": (2, 18 * 10**15), "paid": (1, 2 * 10**9)}

    # -- alerts -------------------------------------------------------------------------------------------------------

    async def test_alerts_are_read_the_open_ones_first_then_the_last_closed(self, ledger: Ledger) -> None:
        for name, opened_us in (("a", 1), ("b/é", 2), ("c", 3), ("d", 3), ("e", 4)):
            await ledger.raise_alert("k", name, detail="x", now_us=opened_us)
        for name, closed_us in (("e", 7), ("a", 9), ("d", 7)):
            await ledger.close_alert("k", name, now_us=closed_us)
        await ledger.raise_alert("k", "d", detail="again", now_us=8)
        history = await ledger.alert_history()
        assert [(each.subject, each.opened_us, each.closed_us) for each in history] == [
            *(("d", 8, None), ("c", 3, None), ("b/é", 2, None)),
            *(("a", 1, 9), ("e", 4, 7), ("d", 3, 7)),
        ]
        for number, each in enumerate(history):
            assert await ledger.alert_history(before=alert_place(each), limit=2) == history[number + 1 : number + 3]
        for text in ("", "1", "x/k/a", "1/k"):
            with pytest.raises(InvalidInput, match="is no place of an alert"):
                await ledger.alert_history(before=Place(1, text))
        for text in NEVER_STORED:
            assert await ledger.alert_history(before=Place(1, f"1/k/{text}")) == []

    async def test_an_alert_that_comes_again_at_once_is_another(self, ledger: Ledger) -> None:
        for _ in range(3):
            assert await ledger.raise_alert("k", "a", detail="x", now_us=5)
            assert await ledger.close_alert("k", "a", now_us=5)
        history = await ledger.alert_history()
        assert [(each.opened_us, each.closed_us) for each in history] == [(7, 5), (6, 5), (5, 5)]
        assert await ledger.alert_history(before=alert_place(history[0])) == history[1:]

    # -- privacy ------------------------------------------------------------------------------------------------------

    async def test_a_forgotten_tenants_id_stays_where_its_usage_does(self, ledger: Ledger) -> None:
        await signed_up(ledger, "acme", "beta")
        await folded(ledger, [used("a", metadata='{"name":"Ada"}'), used("b", "beta")])
        await ledger.raise_alert("webhook", "acme", detail="x", now_us=1)
        await ledger.close_alert("webhook", "acme", now_us=2)
        await ledger.roll_up(DAY, now_us=5)
        before = await ledger.house_days(DAY, DAY)
        await ledger.forget_tenant("acme", now_us=NOON_US, shard=0)
        assert await ledger.house_days(DAY, DAY) == before
        await ledger.roll_up(DAY, now_us=5)
        assert await ledger.house_days(DAY, DAY) == before
        assert before[0].top == (("acme", 1), ("beta", 1))
        shown = {each.fact.tenant: each.fact.metadata for each in (await ledger.latest_facts()).facts}
        assert shown == {"acme": None, "beta": None}
        assert await ledger.alert_history() == []
        row, _ = await ledger.find_tenants(text="acme", status="canceled", now_us=NOON_US)
        assert [each.forgotten_us for each in row] == [NOON_US]
