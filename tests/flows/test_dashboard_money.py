"""The dashboard's pages of money: the figures are the library's, and what is done there is done and said by whom."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from typing import Any, get_args

import httpx2
import pytest

from mm_metering import FrozenClock, Metering, MockBillingAdapter, UsageEvent, from_header
from mm_metering.backends.accounts import Wanted
from mm_metering.billing.invoices import DocumentForm
from mm_metering.core.books import Entries
from mm_metering.core.collecting import Notice
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import micros
from mm_metering.dashboard.access import Role, Visitor
from mm_metering.dashboard.page import PAGE
from mm_metering.dashboard.pages.log import changes
from mm_metering.dashboard.pages.plans import table
from mm_metering.dashboard.render import amount
from tests.flows.conftest import Make

HOSTILE = "<script>alert('x')</script>"
SHOWN = "&lt;script&gt;alert"


class Cells(HTMLParser):
    """The texts of a page's tables, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()


class House:
    """acme, on Pro with tax, a discount and a credit; its January closed; and who looks at it."""

    def __init__(self, metering: Metering, adapter: MockBillingAdapter, clock: FrozenClock) -> None:
        self.metering, self.adapter, self.clock = metering, adapter, clock
        self.roles: Sequence[Role] = tuple(Role)

    @property
    def app(self) -> Any:
        return self.metering.dashboard(auth=lambda _: Visitor("u_7", frozenset(self.roles)))

    async def asks(self, path: str, **options: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=options.pop("app", None) or self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(options.pop("method", "GET"), f"/{path}", **options)

    async def page(self, path: str) -> str:
        found = await self.asks(path)
        assert found.status_code == 200, found.text
        return found.text

    async def cells(self, path: str) -> list[list[str]]:
        return Cells(await self.page(path)).rows

    async def file(self, path: str) -> list[dict[str, str]]:
        return [*csv.DictReader(io.StringIO(await self.page(path)))]

    async def does(self, path: str, **given: str) -> httpx2.Response:
        return await self.asks(path, method="POST", data={"reason": "ticket 4711", **given})

    async def signs_up(self, tenant: str = "acme", *, card: str = "pm_card_visa") -> None:
        await self.metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z", tax_rate="0.19")
        made = await self.metering.billing.create_customer(organization_id=tenant, email="a@b.example", name="Acme")
        method = await self.metering.billing.create_payment_method(made.id, payment_method=card)
        await self.metering.billing.set_default_payment_method(made.id, method.id)

    async def uses(self, tenant: str, day: str, calls: int, resource: str = "/x") -> None:
        noon = datetime.fromisoformat(f"{day}T12:00:00Z")
        self.clock.set(max(self.clock.now(), noon))
        await self.metering.record(
            UsageEvent(tenant=tenant, event_type="api_call", resource=resource, quantity=calls, occurred_at=noon)
        )

    async def closes(self, at: str = "2024-02-03T00:00:00Z") -> Invoice:
        """A month that is billed in full."""
        await self.signs_up()
        await self.metering.put_discount("acme", percent="10", applies_to="base", name="launch")
        await self.metering.grant_credit("acme", "20.00")
        for day, calls in (("2024-01-10", 12_345), ("2024-01-11", 9_999)):
            await self.uses("acme", day, calls)
        self.clock.set(at)
        return (await self.metering.close_period("2024-01", tenant="acme"))[0]

    async def entries(self) -> list[tuple[str, str, str]]:
        return [(each.actor, each.action, each.reason) for each in await self.metering.list_audit(tenant="acme")]


Build = Callable[[str], Awaitable[House]]


@pytest.fixture
def build(make: Make, clock: FrozenClock) -> Build:
    async def built(ledger: str) -> House:
        clock.set("2024-01-01T00:00:00Z")
        adapter = MockBillingAdapter(clock=clock)
        return House(await make(billing=adapter, worker="off", ledger=ledger), adapter, clock)

    return built


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest) -> str:
    """The URL of an empty ledger."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("sqlite_url"))


@pytest.fixture
async def house(build: Build, place: str) -> House:
    return await build(place)


@pytest.fixture
async def in_memory(build: Build) -> House:
    return await build("memory://")


# -- invoices ---------------------------------------------------------------------------------------------------------


async def test_the_list_has_the_figures_of_the_library(house: House) -> None:
    stored = await house.closes()
    await house.metering.put_tenant("globex", plan="free", subscribed_at="2024-01-01T00:00:00Z")
    await house.metering.close_period("2024-01")
    rows = await house.cells("invoices")
    assert [stored.period, "acme", stored.number, "finalized", "112.55", "21.38", "113.93 USD", "113.93"] in rows
    assert len([row for row in rows if "globex" in row]) == 1
    assert not [row for row in await house.cells("invoices?tenant=acme") if "globex" in row]
    assert not [row for row in await house.cells("invoices?status=draft") if "acme" in row]
    assert "No invoice is like that" in await house.page("invoices?period=2024-02")
    (row,) = await house.file("invoices?tenant=acme&csv=invoices")
    assert (row["id"], row["subtotal"], row["tax"], row["total"]) == (stored.id, "112.55", "21.38", "113.93")
    assert (row["credits_applied"], row["amount_due"]) == ("20.00", "113.93")
    (month,) = await house.file("invoices?csv=months")
    assert (month["period"], month["invoices"], month["billed"], month["finalized"]) == (
        *("2024-01", "2", "113.93", "113.93"),
    )


async def test_an_invoice_shows_each_line_with_what_it_is_made_of(house: House) -> None:
    stored = await house.closes()
    page, rows = await house.page(f"invoice?id={stored.id}"), await house.cells(f"invoice?id={stored.id}")
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    for line in stored.lines:
        assert amount(line.amount) in text
    assert ["2024-01-10", "pro@1", "12,345", "10,000", "2,345", "1"] in rows
    for label, figure in (("Subtotal", "112.55"), ("Total", "113.93"), ("Amount due", "113.93 USD")):
        assert [label, figure] in rows
    assert "2,345 × 0.01" in text
    for link in re.findall(r'href="(facts[^"]+)"', page):
        (facts,) = [row for row in await house.cells(unescape(link)) if "api_call" in row]
        assert facts[:4] == ["2024-01-10 12:00:00", "api_call", "/x", "12,345"]
    lines = await house.file(f"invoice?id={stored.id}&csv=lines")
    assert [(row["line"], Decimal(row["amount"])) for row in lines] == [(each.id, each.amount) for each in stored.lines]
    assert (await house.asks(f"invoice.json?id={stored.id}")).json() == stored.model_dump(mode="json")


async def test_the_pages_of_facts_have_each_fact_once(house: House) -> None:
    await house.signs_up()
    for n in range(120):
        await house.uses("acme", "2024-01-10", 100 + n)
    house.clock.set("2024-02-03T00:00:00Z")
    (stored,) = await house.metering.close_period("2024-01", tenant="acme")
    line = next(each for each in stored.lines if each.kind == "overage")
    path, seen = f"facts?line={line.id}", list[str]()
    while path:
        page = await house.page(path)
        seen += [row[4] for row in Cells(page).rows if "api_call" in row]
        found = re.search(r'href="(\?[^"]+)">Next<', page)
        path = f"facts{unescape(found[1])}" if found else ""
    expected = [each.id for each in await house.metering.line_facts(line.id)]
    assert len(expected) == 120
    assert seen == expected
    assert [row["id"] for row in await house.file(f"facts?line={line.id}&csv=facts")] == expected


@pytest.mark.parametrize("form", get_args(DocumentForm))
async def test_a_document_is_the_librarys(in_memory: House, form: DocumentForm) -> None:
    stored = await in_memory.closes()
    found = await in_memory.asks(f"document?id={stored.id}&form={form}")
    assert found.content == await in_memory.metering.invoice_document(stored.id, form)
    assert f"{stored.number}.{form}" in found.headers["content-disposition"]
    assert f"form={form}" in await in_memory.page(f"invoice?id={stored.id}")


async def test_an_invoice_made_again_is_compared_with_what_is_stored(house: House) -> None:
    stored = await house.closes()
    assert "comes to exactly what is stored" in await house.page(f"invoice?id={stored.id}&again=1")
    wrong = stored.model_copy(update={"total": Decimal("1.00")})
    await house.metering.ledger.book(["acme"], Wanted(("2024-01",)), lambda _: Entries(invoices=(wrong,)))
    assert "it comes to something else in: total." in await house.page(f"invoice?id={stored.id}&again=1")


async def test_a_preview_is_the_librarys_and_says_what_may_come(house: House) -> None:
    await house.signs_up()
    for day in range(1, 22):
        await house.uses("acme", f"2024-01-{day:02}", 12_000)
    house.clock.set("2024-01-21T23:59:59Z")
    found = await house.metering.preview_invoice("acme")
    page = await house.page("preview?tenant=acme")
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert ["Total", f"{amount(found.total)} USD"] in Cells(page).rows
    assert "So far 42,000, 420.00 USD" in text, "21 days of 2,000 past the allowance"
    assert "Likely at the end 62,000, 620.00 USD" in text, "and ten more of these"
    assert "About 200.00 USD more" in text
    assert (await house.asks("preview.json?tenant=acme")).json() == found.model_dump(mode="json")
    assert not await house.metering.list_invoices(), "nothing is written"


# -- what may be done -------------------------------------------------------------------------------------------------


def forms(page: str) -> set[str]:
    """What may be done on a page."""
    posts = re.findall(r'<form class="act" method="post" action="([^"]+)">(.*?)</form>', page, re.S)
    marks = {"mark": re.compile(r'name="status" value="([^"]+)"')}
    return {f"{path}:{marks[path].findall(body)[0]}" if path in marks else path for path, body in posts}


async def test_only_what_may_happen_to_an_invoice_is_offered(house: House) -> None:
    draft = await house.closes("2024-02-01T12:00:00Z")
    assert forms(await house.page(f"invoice?id={draft.id}")) == {"finalize"}
    done = await house.does("finalize", id=draft.id)
    assert (done.status_code, done.headers["location"]) == (303, f"invoice?id={draft.id}")
    sent = {"credit", "void", "mark:paid", "mark:uncollectible"}
    assert forms(await house.page(f"invoice?id={draft.id}")) == sent
    await house.does("credit", id=draft.id, amount="5.00")
    assert forms(await house.page(f"invoice?id={draft.id}")) == sent - {"void"}, "what has credit notes stays"
    await house.does("mark", id=draft.id, status="uncollectible")
    assert forms(await house.page(f"invoice?id={draft.id}")) == {"mark:paid"}
    await house.does("mark", id=draft.id, status="paid")
    assert forms(await house.page(f"invoice?id={draft.id}")) == {"credit"}
    mine = [each for each in await house.entries() if each[0] == "dashboard:u_7"]
    assert [action for _, action, _ in reversed(mine)] == [
        *("invoice finalized", "credit moved", "invoice credited", "credit note issued"),
        *("invoice given up", "invoice paid"),
    ]
    assert {reason for _, _, reason in mine} == {"ticket 4711"}


async def test_a_void_and_a_credit_of_a_line_and_of_all(house: House) -> None:
    stored = await house.closes()
    usage = next(each for each in stored.lines if each.kind == "overage")
    await house.does("credit", id=stored.id, line=usage.id)
    await house.does("credit", id=stored.id)
    first, second = await house.metering.ledger.credit_notes(stored.id)
    assert (first.line, first.amount, second.amount) == (usage.id, Decimal("23.45"), Decimal("89.10"))
    assert "credit" not in forms(await house.page(f"invoice?id={stored.id}")), "nothing is left"
    rows = await house.cells(f"invoice?id={stored.id}")
    for note in (first, second):
        assert [row for row in rows if row[:1] == [note.number] and f"{amount(note.total)} USD" in row]
    house.clock.set("2024-03-03T00:00:00Z")
    (later,) = await house.metering.close_period("2024-02", tenant="acme")
    await house.does("void", id=later.id)
    assert (await house.metering.get_invoice(later.id)).status == "void"
    assert ("dashboard:u_7", "invoice voided", "ticket 4711") in await house.entries()


@pytest.mark.parametrize(
    ("path", "given", "status", "said"),
    [
        ("credit", {"amount": "1e3"}, 400, "is not a plain decimal"),
        ("credit", {"amount": "5.00", "reason": ""}, 400, "reason: is empty"),
        ("credit", {"amount": "1000.00"}, 400, "which is left to credit"),
        ("credit", {"line": "line_of_another"}, 404, "has no line"),
        ("void", {"reason": ""}, 400, "reason: is empty"),
        ("mark", {"status": "draft"}, 400, "none of paid, uncollectible"),
        ("finalize", {}, 409, "finalize is not possible"),
        ("void", {"id": "inv_of_nobody"}, 404, "there is no invoice"),
        ("retry-payment", {}, 404, "is not on its way"),
    ],
)
async def test_what_cannot_be_done_says_why_and_changes_nothing(
    in_memory: House, path: str, given: dict[str, str], status: int, said: str
) -> None:
    stored = await in_memory.closes()
    before = await in_memory.entries()
    found = await in_memory.does(path, **{"id": stored.id, **given})
    assert found.status_code == status
    assert said in unescape(found.text)
    assert await in_memory.entries() == before
    assert await in_memory.metering.get_invoice(stored.id) == stored


async def test_who_has_not_the_role_is_refused_and_offered_nothing(in_memory: House) -> None:
    stored = await in_memory.closes()
    in_memory.roles = (Role.VIEWER, Role.OPERATOR)
    before = await in_memory.entries()
    page = await in_memory.page(f"invoice?id={stored.id}")
    assert not forms(page)
    assert "Changes take the role finance" in page
    for path in ("finalize", "void", "credit", "mark", "retry-payment"):
        refused = await in_memory.does(path, id=stored.id, status="paid")
        assert refused.status_code == 403
        assert "takes the role finance" in refused.text
    assert await in_memory.entries() == before


# -- payments ---------------------------------------------------------------------------------------------------------


async def test_a_failed_payment_stands_first_with_its_attempts_and_is_tried_again(house: House) -> None:
    stored = await house.closes()
    await house.signs_up("bolt", card="pm_card_chargeDeclinedInsufficientFunds")
    await house.uses("bolt", "2024-01-10", 1)
    (theirs,) = await house.metering.close_period("2024-01", tenant="bolt")
    await house.metering.collect()
    (failing,) = await house.metering.list_payments(state="failing")
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", await house.page("payments"))).split())
    assert f"failing 1 failed, and will be tried again {amount(theirs.total)} USD" in text
    assert f"paid 1 paid {amount(stored.total)} USD" in text
    assert "1 attempt, the last declined (insufficient funds)" in text
    assert "Next try in 1 d" in text
    assert "Suspends the tenant in 14 d" in text
    assert "Gives up in 60 d" in text
    assert "acme" not in text, "what is settled is not in the way"
    assert "acme" in await house.page("payments?state=paid")
    done = await house.does("retry-payment", id=theirs.id)
    assert (done.status_code, done.headers["location"]) == (303, "payments")
    (again,) = await house.metering.list_payments(state="failing")
    assert (failing.due_at, again.due_at) == (house.clock.now() + timedelta(days=1), house.clock.now())
    entry = (await house.metering.list_audit(tenant="bolt"))[0]
    assert (entry.actor, entry.action, entry.reason) == ("dashboard:u_7", "payment asked for again", "ticket 4711")
    rows = {row["tenant"]: row for row in await house.file("payments?csv=payments")}
    assert (rows["bolt"]["state"], rows["bolt"]["attempts"], rows["bolt"]["last_code"]) == (
        *("failing", "1", "insufficient_funds"),
    )
    assert rows["acme"]["amount"] == "113.93"


async def test_what_the_provider_said_is_listed(in_memory: House) -> None:
    await in_memory.closes()
    await in_memory.metering.collect()
    for body, headers in in_memory.adapter.webhooks():
        await in_memory.metering._take_webhook(body, headers)
    hints = await in_memory.metering.ledger.hints_page()
    assert hints
    rows = await in_memory.file("payments?csv=hints")
    assert [row["id"] for row in rows] == [each.id for each in hints]
    assert hints[0].object_id in await in_memory.page("payments")


async def test_without_a_provider_the_page_says_how_to_set_one_up(memory: Metering, clock: FrozenClock) -> None:
    house = House(memory, MockBillingAdapter(), clock)
    page = await house.page("payments")
    assert "billing=StripeBillingAdapter(" in page
    assert "Try again now" not in page
    refused = await house.does("retry-payment", id="inv_1")
    assert (refused.status_code, "billing: is not set" in refused.text) == (400, True)


# -- the billing log --------------------------------------------------------------------------------------------------


async def test_the_log_has_all_that_was_changed_told_and_heard_once_and_in_order(house: House) -> None:
    stored = await house.closes()
    await house.metering.collect()
    for body, headers in house.adapter.webhooks():
        await house.metering._take_webhook(body, headers)
    for n in range(60):
        await house.metering.adjust_invoice("acme", f"{n + 1}.00", reason=f"correction {n}")
    ledger, seen, path = house.metering.ledger, list[str](), "log"
    expected = [(micros(each.at), each.id) for each in await ledger.audit_page(limit=1000)]
    expected += [(micros(each.made_at), each.id) for each in await ledger.notices_page(limit=1000)]
    expected += [(each.stored_us, each.id) for each in await ledger.hints_page(limit=1000)]
    assert len(expected) > PAGE
    ids = [row["id"] for row in await house.file("log?csv=log")]
    assert ids == [id_ for _, id_ in sorted(expected, reverse=True)]
    while path:
        page = await house.page(path)
        seen += [row[0] for row in Cells(page).rows[1:]]
        found = re.search(r'href="(\?[^"]+)">Older<', page)
        path = f"log{unescape(found[1])}" if found else ""
    assert len(seen) == len(expected)
    assert seen == sorted(seen, key=lambda each: each[:19], reverse=True)
    for kind in ("changes", "told", "heard"):
        assert {row["kind"] for row in await house.file(f"log?kind={kind}&csv=log")} == {kind}
    assert {row["tenant"] for row in await house.file("log?tenant=acme&csv=log")} == {"acme"}
    assert await house.file("log?tenant=nobody&csv=log") == []
    (voided,) = [row for row in await house.file("log?kind=changes&csv=log") if row["what"] == "invoice paid"]
    assert (voided["who"], voided["subject"], voided["changed"]) == (
        *("host", stored.id, "2024-01; status finalized → paid"),
    )
    assert f'href="invoice?id={stored.id}"' in await house.page("log?kind=told")


def test_what_changed_is_in_words() -> None:
    said = [
        *changes(
            {"status": "finalized", "limit": None, "events": []},
            {"status": "void", "limit": 10, "events": ["invoice.*", "quota.*"], "until": "2024-02-01T00:00:00Z"},
        )
    ]
    assert said == [
        *("status finalized → void", "limit 10", "events invoice.*; quota.*", "until 2024-02-01 00:00:00"),
    ]


async def test_data_of_a_hosts_own_event_is_not_repeated(in_memory: House) -> None:
    await in_memory.signs_up()
    told = Notice("n_1", "acme", "report.finished", {"mail": "ann@acme.example"}, in_memory.clock.now(), "host")
    await in_memory.metering.ledger.add_notices([told])
    page = await in_memory.page("log?kind=told")
    assert "report · finished" in page
    assert "ann@acme" not in page


async def test_a_log_that_was_changed_is_not_whole(house: House, place: str) -> None:
    await house.closes()
    report = await house.metering.verify_audit()
    assert f"It is: {report.entries:,} entries" in await house.page("verify")
    if place.startswith("sqlite"):
        with closing(sqlite3.connect(place.removeprefix("sqlite:///"), isolation_level=None)) as file:
            file.execute("DROP TRIGGER mm_audit_log_no_update")
            file.execute("UPDATE mm_audit_log SET actor = 'nobody' WHERE seq = 4")
    else:
        links = house.metering.ledger._links  # type: ignore[attr-defined]
        links[3] = links[3]._replace(actor="nobody")
    page = await house.page("verify")
    assert "It is not: one thing is wrong" in page
    assert "entry 4 was changed" in page


# -- plans ------------------------------------------------------------------------------------------------------------


async def test_plans_stand_side_by_side_as_the_catalogue_has_them(house: House) -> None:
    await house.signs_up()
    rows = {row[0]: row[1:] for row in await house.cells("plans")}
    assert rows["price a month"] == ["0.00 USD", "99.00 USD", "499.00 USD"]
    assert rows["api calls"] == [
        *("100 a day, then refused", "10,000 a day, then 0.01 each", "100,000 a day, then 0.01 each"),
    ]
    assert rows["webhook deliveries"][0] == "not in the plan"
    assert rows["pro"] == ["1", "1 active"]
    files = await house.file("plans?csv=plans")
    assert [row["pro"] for row in files] == ["; ".join(each.cells[1]) for each in table(house.metering.catalogue)]
    versions = {row["plan"]: row for row in await house.file("plans?csv=versions")}
    assert (versions["pro"]["version"], versions["pro"]["stored_at"][:10]) == ("1", "2024-01-01")


async def test_rules_of_ai_calls_and_addons_stand_with_the_plans(make: Make, clock: FrozenClock) -> None:
    catalogue = {
        "currency": "EUR",
        "meters": {"ai_cost": {"event": "ai_call", "unit": "money"}, "seats": {"aggregation": "level"}},
        "plans": {
            "free": {"price": "0.00", "quotas": {"seats": {"limit": 1}}},
            "pro": {
                "price": "99.00",
                "minimum": "500.00",
                "quotas": {"seats": {"limit": 5}},
                "ai": {"daily_budget": "50.00", "model_allowlist": ["gpt-4", "small"], "fallback_model": "small"},
            },
        },
        "addons": {"more": {"price": "8.00", "plans": ["pro"], "quotas": {"seats": 5}}},
        "ai": {"currency": "USD"},
    }
    house = House(await make(catalogue=catalogue), MockBillingAdapter(), clock)
    rows = {row[0]: row[1:] for row in await house.cells("plans")}
    assert rows["minimum a month"] == ["–", "500.00 EUR"]
    assert rows["AI budget a day"] == ["–", "50.00 USD"]
    assert rows["AI models"] == ["–", "gpt-4 small"]
    assert rows["AI model to fall back to"] == ["–", "small"]
    assert rows["seats"] == ["1 at a time, then refused", "5 at a time, then refused"]
    assert "8.00 each, +5 seats" in await house.page("plans")


async def test_what_another_process_has_stored_differs_and_versions_are_compared(house: House) -> None:
    await house.signs_up()
    await house.metering.set_level("acme", "users", 9)
    await house.metering.flush()
    assert "other plans than the ledger" not in await house.page("plans")
    pro = house.metering.catalogue.plans["pro"].definition() | {"price": "119.00"}
    pro["quotas"] = pro["quotas"] | {"users": [{"limit": 20, "then": "block"}]}
    house.clock.set("2024-01-05T00:00:00Z")
    act = house.metering.act()
    await house.metering.ledger.put_plans({"pro": pro}, now_us=micros(house.clock.now()), act=act)
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", await house.page("plans"))).split())
    assert "pro differs from version 2: price 119.00 → 99.00 users 20 → 10" in text
    assert "1 tenant is on it" in text
    assert "mm-metering plans diff FILE" in text
    assert "mm-metering plans apply FILE" in text
    compared = await house.page("plans?from=pro@1&to=pro@2")
    assert "<li>price 99.00 → 119.00</li><li>users 10 → 20</li>" in compared
    assert "They say the same" in await house.page("plans?from=pro@1&to=pro@1")
    versions = {row["version"]: row for row in await house.file("plans?csv=versions") if row["plan"] == "pro"}
    assert (versions["2"]["price"], versions["2"]["stored_at"][:10]) == ("119.00", "2024-01-05")
    for wrong in ("pro@9", "pro", "@", "gold@1"):
        assert (await house.asks(f"plans?from=pro@1&to={wrong}")).status_code == 404


# -- texts of others, and the portal ----------------------------------------------------------------------------------


async def test_hostile_texts_are_texts(house: House) -> None:
    await house.signs_up(HOSTILE)
    await house.metering.put_discount(HOSTILE, percent="10", name=HOSTILE)
    await house.uses(HOSTILE, "2024-01-10", 12_000, resource=HOSTILE)
    preview = await house.page(f"preview?tenant={HOSTILE}")
    house.clock.set("2024-02-03T00:00:00Z")
    (stored,) = await house.metering.close_period("2024-01")
    with house.metering.acting(HOSTILE, reason=HOSTILE):
        await house.metering.credit_invoice(stored.id, amount="5.00", reason=HOSTILE)
    await house.metering.collect()
    line = next(each for each in stored.lines if each.kind == "overage")
    paths = ("invoices", f"invoice?id={stored.id}", f"facts?line={line.id}", "payments?state=paid", "log")
    asked = (f"invoices?tenant={HOSTILE}", f"payments?tenant={HOSTILE}", f"log?tenant={HOSTILE}")
    for page in (preview, *[await house.page(path) for path in (*paths, *asked)]):
        assert "<script>alert" not in page
        assert SHOWN in page


async def test_a_portal_has_a_tenants_own_invoices_and_no_others(house: House) -> None:
    stored = await house.closes()
    await house.signs_up("globex")
    await house.uses("globex", "2024-01-10", 12_000)
    (theirs,) = await house.metering.close_period("2024-01", tenant="globex")
    line = next(each.id for each in theirs.lines if each.kind == "overage")
    portal = house.metering.portal(tenant=from_header("x-org"))

    async def asked(path: str) -> httpx2.Response:
        return await house.asks(path, app=portal, headers={"x-org": "acme"})

    listed = (await asked("invoices.json?tenant=globex")).json()
    assert (listed["total"], listed["invoices"]) == (1, [stored.model_dump(mode="json")])
    assert "globex" not in (await asked("invoices")).text
    page = (await asked(f"invoice?id={stored.id}")).text
    assert "113.93" in page
    assert not forms(page)
    assert 'href="tenant?' not in page
    assert (await asked("preview.json?tenant=globex")).json()["tenant"] == "acme"
    assert (await asked("invoices?csv=months")).status_code == 404, "what is added up over all tenants"
    for path in (f"invoice?id={theirs.id}", f"document?id={theirs.id}&form=csv", f"facts?line={line}"):
        assert (await asked(path)).status_code == 404
    assert (await asked(f"document?id={stored.id}&form=csv")).status_code == 200
    assert (await house.asks("void", app=portal, method="POST", data={"id": stored.id})).status_code in (403, 404)


@pytest.mark.parametrize("path", ["facts", "payments", "log", "invoices"])
async def test_no_place_and_no_number_breaks_a_page(house: House, path: str) -> None:
    stored = await house.closes()
    line = next(each.id for each in stored.lines if each.kind == "overage")
    for query in ("after=999999999999999999.x", "before=999999999999999999.x", "hints=9999999999999999.x", "skip=1e9"):
        found = await house.asks(f"{path}?{query}&line={line}")
        assert found.status_code in (200, 400), f"{query}: {found.text}"
