"""What an invoice says on a page, on paper and in a table; and that no text of it is ever markup, code or a formula."""

from __future__ import annotations

import csv as csv_reader
import io
import json
import random
import re
import subprocess
import sys
import unicodedata
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.billing.documents import COLUMNS, Party, csv, html, page, paper, pdf
from mm_metering.billing.documents.document import document_of
from mm_metering.billing.documents.texts import MAX_MARKS, clean, price, quantity
from mm_metering.core.invoices import CreditNote, CreditUse, Explanation, Invoice, InvoiceLine, LineKind
from mm_metering.core.pricing import TierUse
from mm_metering.core.rating import WindowUse
from mm_metering.errors import InvalidInput, MissingExtra
from tests.browser import FLAGS, browser_path
from tests.unit.billing_case import invoice_of, parse

JANUARY = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SELLER = Party(
    "Meridian Metering Ltd", ("12 Harbour Street", "Dublin D02 XY45"), "VAT IE1234567AB", "bill@meridian.test"
)
BUYER = Party("Acme GmbH", ("Lindenstraße 5", "10969 Berlin"))
HOSTILE = (
    '#panic("typst") $x$ *b* @ref <l> `raw` \\ // /* #eval("1") #read("/etc/passwd")',
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "</style></title><!-- {{ 7*7 }} {% raw %} &amp; ' \" ]]>",
    "שלום עולם مرحبا بالعالم \u202e00.1\u202c",
    "🧾💸👩‍👩‍👧 日本語",
    "nul\0 lone\ud800 line\nfeed",
    "W" * 600,
    "=cmd|' /C calc'!A0",
)


def stated(text: str) -> Invoice:
    return invoice_of(parse(text), catalogues.seed, random.Random(1))


def line(kind: LineKind, amount: str, description: str = "", **more: Any) -> InvoiceLine:
    amounts: dict[str, Any] = {"quantity": 1, "unit_price": Decimal(amount), "amount": Decimal(amount), "meter": None}
    return InvoiceLine(id=f"line_{kind}_{amount}", kind=kind, description=description or kind, **amounts | more)


def windows(days: int) -> tuple[WindowUse, ...]:
    return tuple(
        WindowUse(
            start=JANUARY + n * DAY,
            end=JANUARY + (n + 1) * DAY,
            used=10_001 + n,
            allowance=10_000,
            overage=1 + n,
            plan="pro@1",
            events=3,
        )
        for n in range(days)
    )


def because(days: int = 1, **more: Any) -> Explanation:
    known: dict[str, Any] = {
        "unit_price": Decimal("0.01"),
        "plan_version": "pro@1",
        "rounding": "rounded so",
        "events": 3,
    }
    return Explanation(windows=windows(days), **known | more)


def of_lines(*lines: InvoiceLine, **more: Any) -> Invoice:
    closing = {"tax", "credit", "carried_over"}
    known: dict[str, Any] = {
        "id": "inv_1",
        "number": "2024-0042",
        "tenant": "acme",
        "period": "2024-01",
        "status": "finalized",
        "currency": "USD",
        "subtotal": sum((each.amount for each in lines if each.kind not in closing), Decimal("0.00")),
        "tax": sum((each.amount for each in lines if each.kind == "tax"), Decimal("0.00")),
        "credits_applied": -sum((each.amount for each in lines if each.kind == "credit"), Decimal("0.00")),
        "total": sum((each.amount for each in lines), Decimal("0.00")),
    }
    return Invoice(lines=lines, **known | more)


def tiered() -> Explanation:
    tiers = (
        TierUse(
            after=0, up_to=1000, quantity=1000, unit_price=Decimal("0.001"), flat=Decimal(0), amount=Decimal("1.000")
        ),
        TierUse(
            after=1000,
            up_to=None,
            quantity=234,
            unit_price=Decimal("0.0007"),
            flat=Decimal(10),
            amount=Decimal("10.1638"),
        ),
    )
    return because(tiers=tiers, unit_price=Decimal("11.16") / 1234)


FULL = of_lines(
    line("base", "99.00", "Pro, 2024-01"),
    line("overage", "11.16", "1,234 webhooks in 2 tiers", quantity=1234, explanation=tiered()),
    line(
        "late_usage",
        "2488.00",
        "500 reports past the allowance",
        period="2023-12",
        explanation=because(billed_before=Decimal("12.00")),
    ),
    line("adjustment", "-40.00", "Goodwill for the outage"),
    line("discount", "-25.50", "Launch partner"),
    line("tax", "481.21", "tax, 19 % of 2532.66"),
    line("credit", "-150.00", "credit applied"),
    credits=(
        CreditUse(grant="welcome", amount=Decimal("50.00")),
        CreditUse(grant="prepaid", amount=Decimal("100.00")),
    ),
    credited=Decimal("99.00"),
    finalized_at=JANUARY + 32 * DAY,
)
NOTE = CreditNote(
    id="cn_1",
    number="CN-7",
    invoice="inv_1",
    tenant="acme",
    currency="USD",
    line="line_late_usage_2488.00",
    quantity=20,
    amount=Decimal("100.00"),
    tax=Decimal("19.00"),
    total=Decimal("119.00"),
    to_credit=Decimal("20.00"),
    reason="The outage's requests were billed.",
    created_at=JANUARY + 50 * DAY,
)


def hostile() -> Invoice:
    lines = [
        line("overage", f"{n}.00", text, meter=text, resource=text, explanation=because(plan_version=text))
        for n, text in enumerate(HOSTILE)
    ]
    return of_lines(*lines, tenant=HOSTILE[1], number=HOSTILE[0], held=HOSTILE[2])


# -- reading a page -----------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """The elements of a page with their attributes, the text of each table row's cells, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.style = ""
        self._inside = ""
        self._in_cell = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
            self._in_cell = False
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == "style" else self._inside
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style += data
            return
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data.strip("\n")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]

    def sums(self) -> dict[str, Decimal]:
        """The amounts of the rows that have a label and an amount only."""
        found = {}
        for cells in self.rows:
            if len(cells) == 2 and (match := re.fullmatch(r"(−?[\d,.]+)(?: [A-Z]{3})?", cells[1].strip())):
                found[cells[0].strip()] = Decimal(match[1].replace(",", "").replace("−", "-"))
        return found


def paper_texts(value: Invoice | CreditNote, **options: Any) -> list[str]:
    """All texts in the tables, grids and blocks that typst lays out."""
    given_: dict[str, Any] = {"seller": None, "buyer": None, "invoice": None, "timezone": "UTC"} | options
    inputs = {"document": json.dumps(asdict(document_of(value, **given_))), "paper": "a4"}
    found: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(text := node.get("text"), str):
                found.append(text.replace("\u200b", ""))
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    seen = b"#show grid: it => it + metadata(it.children)\n#show block: it => it + metadata(it.body)\n"
    for selector in ("table", "metadata"):
        walk(json.loads(typst.query(seen + paper._template(), selector, sys_inputs=inputs, ignore_system_fonts=True)))
    return found


# -- what is said -------------------------------------------------------------------------------------------------


def test_a_page_shows_the_invoices_own_totals() -> None:
    shown = Reader(html(FULL)).sums()
    assert FULL.total == Decimal("2863.87")
    assert shown == {
        "Subtotal": FULL.subtotal,
        "Tax, 19 % of 2532.66": FULL.tax,
        "Credit applied50.00 from welcome100.00 from prepaid": -FULL.credits_applied,
        "Total": FULL.total,
        "Credit notes": -FULL.credited,
        "Amount due": FULL.amount_due,
    }


def test_every_line_stands_on_the_page_and_on_paper() -> None:
    invoice = stated("plan pro\nusage 2024-01-15  api_calls  10,250\nusage 2024-01-16  ai_requests  1,001")
    rows = [row[1:] for row in Reader(html(invoice)).rows]
    texts = paper_texts(invoice)
    for each, kind in zip(invoice.lines, ("Plan", "Usage", "Usage"), strict=True):
        amounts = [f"{each.quantity:,}", f"{each.unit_price}", f"{each.amount}"]
        assert [each.description + kind, *amounts] in rows
        assert {each.description, *amounts} <= set(texts)


def test_a_line_says_how_it_came_about() -> None:
    invoice = stated("plan pro\nusage 2024-01-15  api_calls  10,250")
    window = ["2024-01-15", "pro@1", "10,250", "10,000", "250", "1"]
    reader = Reader(html(invoice))
    assert window in reader.rows
    assert "2.5 rounded half up to 0.01: 2.50" in reader.text
    assert "250 × 0.01 USD" in reader.text
    assert len(reader.all("details")) == 2
    texts = paper_texts(invoice)
    assert any(texts[at : at + len(window)] == window for at in range(len(texts)))
    assert {"2.5 rounded half up to 0.01: 2.50", "250 × 0.01 USD"} <= set(texts)


def test_a_window_is_a_day_or_a_month_in_the_tenants_zone() -> None:
    statement = """
    zone      America/New_York
    plan      pro
    usage     2024-03-10  api_calls  10,250
    usage     2024-03-11  reports  51
    """
    here = {row[0] for row in Reader(html(stated(statement), timezone="America/New_York")).rows}
    assert {"2024-03-10", "2024-03"} <= here
    elsewhere = {row[0] for row in Reader(html(stated(statement))).rows}
    assert {"2024-03-10 05:00 to 2024-03-11 04:00", "2024-03-01 05:00 to 2024-04-01 04:00"} <= elsewhere
    with pytest.raises(InvalidInput, match="timezone: 'Mars' is not"):
        html(FULL, timezone="Mars")


def test_tiers_late_usage_and_what_was_billed_before_are_told() -> None:
    reader = Reader(html(FULL))
    assert ["0 to 1,000", "1,000", "0.001", "0.00", "1.00"] in reader.rows
    assert ["past 1,000", "234", "0.0007", "10.00", "10.1638"] in reader.rows
    assert ["3", "500 reports past the allowanceLate usage of 2023-12", "1", "2,488.00", "2,488.00"] in reader.rows
    assert "12.00 USD, by earlier invoices: taken off" in reader.text


@pytest.mark.parametrize(
    ("status", "badge"),
    [("draft", "Draft"), ("finalized", "Due"), ("paid", "Paid"), ("void", "Void"), ("uncollectible", "Written off")],
)
def test_a_badge_says_the_status(status: str, badge: str) -> None:
    page_ = html(FULL.model_copy(update={"status": status}))
    assert f'<p class="badge">{badge}</p>' in page_
    assert ('class="watermark"' in page_) == (status in {"draft", "void"})


def test_what_is_credited_in_full_is_not_due() -> None:
    page_ = html(FULL.model_copy(update={"credited": FULL.total}))
    assert '<p class="badge">Nothing due</p>' in page_
    assert Reader(page_).sums()["Amount due"] == 0


def test_a_draft_has_no_number_and_nothing_due() -> None:
    reader = Reader(html(stated("plan pro\nusage 2024-01-15  api_calls  1")))
    assert "Draft invoice" in reader.text
    assert "Amount due" not in reader.text
    assert reader.sums() == {"Subtotal": Decimal("99.00"), "Total": Decimal("99.00")}


def test_yen_have_no_decimal_places() -> None:
    invoice = of_lines(
        line("base", "15000"),
        line("tax", "1500"),
        currency="JPY",
        subtotal=Decimal(15000),
        tax=Decimal(1500),
        total=Decimal(16500),
    )
    assert ["1", "basePlan", "1", "15,000", "15,000"] in Reader(html(invoice)).rows
    assert {"16,500", "1,500", "15,000"} <= set(paper_texts(invoice))
    assert not any(text.endswith(".00") for text in paper_texts(invoice))


def test_parties_are_shown_and_the_tenant_stands_for_a_missing_buyer() -> None:
    both, texts = Reader(html(FULL, seller=SELLER, buyer=BUYER)).text, paper_texts(FULL, seller=SELLER, buyer=BUYER)
    for text in ("Meridian Metering Ltd", "VAT IE1234567AB", "bill@meridian.test", "Acme GmbH", "10969 Berlin", "acme"):
        assert text in both
        assert text in texts
    assert "acme" in paper_texts(FULL)


def test_a_party_is_built_valid_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="valid string"):
        Party(5)  # type: ignore[arg-type]


def test_a_credit_note_names_its_invoice_and_line() -> None:
    reader, texts = Reader(html(NOTE, invoice=FULL)), paper_texts(NOTE, invoice=FULL)
    what = "Taken back: 500 reports past the allowance"
    assert ["1", f"{what}Credit note", "20", "", "100.00"] in reader.rows
    assert reader.sums() == {
        "Amount": NOTE.amount,
        "Tax": NOTE.tax,
        "Total credited": NOTE.total,
        "Of this, to your credit balance": NOTE.to_credit,
        "Of this, off what is due": Decimal("99.00"),
    }
    assert {what, "CN-7", "2024-0042", "119.00", "20.00", "99.00"} <= set(texts)
    assert NOTE.reason in reader.text
    assert pdf(NOTE, invoice=FULL).startswith(b"%PDF-")


def test_a_credit_note_stands_without_its_invoice_but_not_beside_another() -> None:
    assert "inv_1" in Reader(html(NOTE)).text
    other = FULL.model_copy(update={"id": "inv_2"})
    with pytest.raises(InvalidInput, match="invoice: is inv_2, and credit note CN-7 is for inv_1"):
        html(NOTE, invoice=other)
    with pytest.raises(InvalidInput, match="invoice: goes with a credit note only"):
        pdf(FULL, invoice=FULL)


def test_numbers_are_grouped_and_a_long_mean_is_marked() -> None:
    assert price(Decimal("0.0100000"), "USD") == "0.01"
    assert price(Decimal("1500"), "USD") == "1,500.00"
    assert price(Decimal("-0.00003"), "USD") == "−0.00003"
    assert price(Decimal(1) / 3, "USD") == "≈ 0.333333333333"
    assert quantity(1_234_567) == "1,234,567"
    assert quantity(Decimal("12.50")) == "12.5"


# -- hostile text -------------------------------------------------------------------------------------------------

ELEMENTS = {"html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "div", "span"}
ELEMENTS |= {"p", "br", "h1", "h2", "strong", "small", "bdi", "dl", "dt", "dd", "details", "summary"}
ELEMENTS |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
MARKUP = [
    "<",
    ">",
    "&",
    "/",
    '"',
    "'",
    "<b>",
    "<!--",
    "script",
    "{{",
    "{%",
    "#",
    "$",
    "*",
    "_",
    "[",
    "]",
    "\\",
    "`",
    " ",
]
TEXTS = st.text() | st.lists(st.sampled_from(MARKUP)).map("".join)


def check_harmless(source: str) -> Reader:
    """Only the template's elements and attributes, nothing that loads or runs; and text that UTF-8 can hold."""
    source.encode()
    reader = Reader(source)
    assert {tag for tag, _ in reader.elements} <= ELEMENTS
    attributes = {name for _, given_ in reader.elements for name in given_}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "href", "style"}
    assert not re.search(r"url\(|@import|https?:", reader.style)
    assert source.startswith("<!doctype html>\n<html lang=")
    return reader


def test_hostile_text_is_only_text_on_a_page() -> None:
    party = Party(HOSTILE[1], HOSTILE, HOSTILE[2], HOSTILE[2])
    reader = check_harmless(html(hostile(), seller=party, buyer=party))
    for text in HOSTILE:
        assert clean(text) in reader.text


def test_hostile_text_is_only_text_on_paper() -> None:
    party = Party(HOSTILE[0], HOSTILE, HOSTILE[2], HOSTILE[2])
    texts = paper_texts(hostile(), seller=party, buyer=party)
    for text in HOSTILE:
        assert clean(text) in texts
    assert pdf(hostile(), seller=party, buyer=party, paper="us-letter").startswith(b"%PDF-")


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_any_text_is_only_text_on_a_page(text: str) -> None:
    invoice = of_lines(line("adjustment", "1.00", text or "x"), tenant=text)
    reader = check_harmless(html(invoice))
    assert clean(text) in reader.text
    assert len(reader.elements) == len(Reader(html(of_lines(line("adjustment", "1.00")))).elements)


@settings(max_examples=25, deadline=None)
@given(TEXTS)
def test_any_text_is_only_text_on_paper(text: str) -> None:
    assert clean(text) in ("", *paper_texts(of_lines(line("adjustment", "1.00", text), tenant=text)))


def test_cleaned_text_reaches_past_its_own_place_in_no_way() -> None:
    assert clean(" a\tb\r\nc ") == "a b  c"
    assert clean("\u202e1\u2066\0\x9b\ud800") == "�1����"
    assert clean("e" + "\u0301" * 300) == "e" + "\u0301" * MAX_MARKS
    assert clean("שלום 🧾") == "שלום 🧾"
    assert all(unicodedata.category(char) != "Cc" for char in clean("".join(map(chr, range(256)))))


# -- the page's own style -----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_text_has_contrast_in_light_and_dark() -> None:
    schemes = re.findall(r":root \{\s*color-scheme: (\w+);(.+?)\}", Reader(html(FULL)).style, re.DOTALL)
    assert [name for name, _ in schemes] == ["light", "dark"]
    for _, body in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", body))
        for behind in ("paper", "wash"):
            for text in ("ink", "muted", "link", "plain", "open", "good", "bad"):
                dark, light = sorted((luminance(colours[text]), luminance(colours[behind])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def test_a_page_prints_in_light_with_heads_on_every_page_and_no_line_torn() -> None:
    style = Reader(html(FULL)).style
    printed = style[style.index("@media print") :]
    assert "thead { display: table-header-group; }" in printed
    assert "tr { break-inside: avoid; }" in printed
    assert "details::details-content { display: block; content-visibility: visible;" in printed
    assert "@page { margin: 18mm 16mm;" in style
    assert re.findall(r"@media ([^{]+prefers-color-scheme[^{]+)\{", style) == [
        "screen and (prefers-color-scheme: dark) "
    ]


def test_a_page_can_be_read_aloud() -> None:
    reader = Reader(html(FULL))
    assert all(given_.get("scope") in {"row", "col"} for given_ in reader.all("th"))
    assert len(reader.all("caption")) == len(reader.all("table"))
    assert reader.all("html") == [{"lang": "en"}]


# -- paper --------------------------------------------------------------------------------------------------------


def test_equal_invoices_are_equal_bytes() -> None:
    again = Invoice.model_validate_json(FULL.model_dump_json(), strict=False)
    assert pdf(FULL, seller=SELLER) == pdf(again, seller=SELLER)
    assert html(FULL, seller=SELLER) == html(again, seller=SELLER)
    assert not re.search(rb"CreationDate|CreateDate|ModDate|ModifyDate", pdf(FULL))
    assert pdf(FULL) != pdf(FULL, paper="us-letter")


def test_two_hundred_lines_are_set_over_many_pages() -> None:
    lines = [line("overage", f"{n}.00", f"line number {n}", explanation=because(2)) for n in range(200)]
    made = pdf(of_lines(*lines), seller=SELLER, buyer=BUYER)
    assert int(re.findall(rb"/Count (\d+)", made)[-1]) > 10


# -- the table ----------------------------------------------------------------------------------------------------


def test_a_table_has_a_row_per_line_and_sums_to_the_total() -> None:
    draft = stated("plan pro\nusage 2024-01-15  api_calls  10,250")
    text = csv([FULL, draft])
    assert text.startswith(",".join(COLUMNS) + "\r\n")
    rows = list(csv_reader.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(FULL.lines) + len(draft.lines)
    for invoice in (FULL, draft):
        own = [row for row in rows if row["invoice"] == invoice.id]
        assert sum(Decimal(row["amount"]) for row in own) == invoice.total
        assert [row["description"] for row in own] == [each.description for each in invoice.lines]
        assert {row["number"] for row in own} == {invoice.number or ""}
    assert rows[3]["amount"] == "-40.00"
    assert [row["period"] for row in rows[:4]] == ["2024-01", "2024-01", "2023-12", "2024-01"]
    assert csv([]) == ",".join(COLUMNS) + "\r\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d"])
def test_no_text_is_a_formula(start: str) -> None:
    text = f'{start}HYPERLINK("http://x","a,b")'
    ours = line("overage", "-1.00", text, meter=text, resource=text, explanation=because(plan_version=text))
    (row,) = csv_reader.DictReader(io.StringIO(csv([of_lines(ours, tenant=text)]), newline=""))
    assert {row[name] for name in ("tenant", "meter", "resource", "plan_version", "description")} == {"'" + text}
    assert (row["unit_price"], row["amount"]) == ("-1.00", "-1.00")


def test_a_table_holds_quotes_commas_and_line_feeds() -> None:
    text = 'a "b", c\r\nd'
    (row,) = csv_reader.DictReader(io.StringIO(csv([of_lines(line("base", "1.00", text))]), newline=""))
    assert row["description"] == text


# -- extras -------------------------------------------------------------------------------------------------------


def test_without_the_extra_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setitem(sys.modules, "typst", None)
    page._template.cache_clear()
    with pytest.raises(MissingExtra, match=r'an invoice as HTML needs an extra: pip install "mm-metering\[server\]"'):
        html(FULL)
    with pytest.raises(MissingExtra, match=r'an invoice as PDF needs an extra: pip install "mm-metering\[pdf\]"'):
        pdf(FULL)
    assert csv([FULL])


def test_importing_documents_loads_no_extra() -> None:
    code = """
import sys
import mm_metering.billing.documents
sys.exit(bool({"jinja2", "typst"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- a real browser -----------------------------------------------------------------------------------------------

def browse(folder: Path, source: str, *flags: str) -> str:
    """What chromium prints for the page. Skips, and says so, where there is no chromium."""
    browser = browser_path()
    (folder / "page.html").write_text(source, encoding="utf-8")
    target = (folder / "page.html").as_uri()
    command = [browser, "--headless", "--no-pdf-header-footer", *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, target]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout


def test_a_browser_runs_and_loads_nothing(tmp_path: Path) -> None:
    owned = html(hostile()).replace("</body>", "<script>document.title = 'owned'</script></body>")
    assert f"<title>Invoice {clean(HOSTILE[0])}".replace("<l>", "&lt;l&gt;") in browse(tmp_path, owned, "--dump-dom")


def test_a_browser_prints_what_is_folded_up(tmp_path: Path) -> None:
    def pages(days: int) -> int:
        made = tmp_path / "made.pdf"
        source = html(of_lines(line("overage", "1.00", explanation=because(days))))
        browse(tmp_path, source, f"--print-to-pdf={made}")
        return len(re.findall(rb"/Type /Page\b", made.read_bytes()))

    assert pages(1) == 1
    assert pages(120) > 2
