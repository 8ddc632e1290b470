"""``mm-metering invoice``: previews, closed months, and what becomes of an invoice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mm_metering.billing.documents import Party
from mm_metering.billing.invoices import DocumentForm
from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, OfTenant, Quiet, Reason, TenantArgument, group
from mm_metering.cli.show import bar, console, count_tenants, emit, say, table
from mm_metering.core.invoices import BilledFact, CreditNote, Explanation, Invoice, InvoiceLine, InvoiceStatus
from mm_metering.core.money import plain
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from rich.console import Console

PAGE: Final = 1000
"""Facts printed at a time."""
NAMED: Final = 5
"""How many tenants are named of those whose month is not over."""

InvoiceId = Annotated[str, typer.Argument(metavar="INVOICE", help="Its id or number, as `invoice list` shows them.")]

invoices: Final = group("Preview, issue, explain and take back.")


@invoices.command()
def preview(
    tenant: TenantArgument,
    *,
    period: Annotated[str, typer.Option("--period", help="Such as 2024-01; else the current month.")] = "",
    json: Json = False,
    app: App = "",
) -> None:
    """What a tenant's invoice comes to so far. Nothing is written."""
    found = run(app, lambda metering: metering.preview_invoice(tenant, period=period or None), counts=True)
    show_invoice(found, json=json)


@invoices.command("run")
def run_(
    period: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2024-01.")],
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="This tenant alone.")] = "",
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """Close a month: drafts within the grace, afterwards numbered invoices. May be repeated at any time. Exit code
    1 if an invoice is held for a review."""
    waiting: list[str] = []

    async def close(metering: Metering) -> list[Invoice]:
        tenants = 1 if tenant else await count_tenants(metering.ledger)
        with bar(f"closing {period}", tenants) as progress:
            return await metering.close_period(
                period, tenant=tenant or None, progress=progress, not_over=waiting.append
            )

    closed = run(app, close, counts=True)
    if json:
        emit({"period": period, "invoices": closed, "month_not_over": waiting})
    else:
        show_closed(period, closed, waiting)
    if any(each.held for each in closed):
        raise typer.Exit(1)


@invoices.command()
def show(
    invoice_id: InvoiceId,
    *,
    json: Json = False,
    html: Annotated[str, typer.Option("--html", metavar="FILE", help="Write it as a page.")] = "",
    pdf: Annotated[str, typer.Option("--pdf", metavar="FILE", help="Write it as a PDF (extra pdf).")] = "",
    csv: Annotated[str, typer.Option("--csv", metavar="FILE", help="Write its lines as a table.")] = "",
    seller: Annotated[str, typer.Option("--seller", metavar="NAME", help="Who stands on it as the seller.")] = "",
    app: App = "",
) -> None:
    """One invoice with its lines, or as a document in a file."""
    files: dict[DocumentForm, str] = {"html": html, "pdf": pdf, "csv": csv}
    if any(files.values()):
        run(app, lambda metering: write_documents(metering, invoice_id, files, seller))
    else:
        show_invoice(run(app, lambda metering: metering.get_invoice(invoice_id)), json=json)


@invoices.command("list")
def list_(
    *,
    period: Annotated[str, typer.Option("--period", help="Of this month.")] = "",
    tenant: OfTenant = "",
    status: Annotated[InvoiceStatus | None, typer.Option("--status", help="Of this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 1000,
    json: Json = False,
    app: App = "",
) -> None:
    """Closed invoices, in order of month and tenant."""
    found = run(
        app,
        lambda metering: metering.list_invoices(
            period=period or None, tenant=tenant or None, status=status, limit=limit
        ),
    )
    if json:
        emit(found)
    else:
        show_list(found)


@invoices.command()
def explain(
    line_id: Annotated[str, typer.Argument(metavar="LINE", help="Its id, as `invoice show` has it.")],
    *,
    facts: Annotated[bool, typer.Option("--facts", help="Each fact in its windows, too.")] = False,
    json: Json = False,
    app: App = "",
) -> None:
    """Why a line is what it is: its windows, price and rounding."""
    run(app, lambda metering: explain_line(metering, line_id, facts=facts, json=json))


@invoices.command()
def finalize(invoice_id: InvoiceId, *, json: Json = False, reason: Reason = "", app: App = "") -> None:
    """Number a draft by hand: within the grace, or after its review."""
    done = run(app, lambda metering: metering.finalize_invoice(invoice_id), counts=True, reason=reason)
    tell(done, json=json)


@invoices.command()
def void(invoice_id: InvoiceId, *, json: Json = False, reason: Reason = "", app: App = "") -> None:
    """Take an unpaid invoice back. The next run issues its month again, under a new number."""
    tell(run(app, lambda metering: metering.void_invoice(invoice_id), reason=reason), json=json)


@invoices.command()
def credit(
    invoice_id: InvoiceId,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Stands on the credit note.")],
    line: Annotated[
        str, typer.Option("--line", help="Of this line: all that is left of it, unless --quantity or --amount.")
    ] = "",
    quantity: Annotated[int | None, typer.Option("--quantity", help="So many units of the line.")] = None,
    amount: Annotated[str | None, typer.Option("--amount", help='Before tax, such as "5.00".')] = None,
    json: Json = False,
    app: App = "",
) -> None:
    """Take back a part of an invoice, or all that is left of it, with its share of the tax."""
    note = run(
        app,
        lambda metering: metering.credit_invoice(
            invoice_id, line_id=line or None, quantity=quantity, amount=amount, reason=reason
        ),
    )
    if json:
        emit(note)
    else:
        tell_note(note)


async def write_documents(metering: Metering, invoice_id: str, files: Mapping[DocumentForm, str], seller: str) -> None:
    for form, file in files.items():
        if file:
            party = Party(name=seller) if seller else None
            content = await metering.invoice_document(invoice_id, form, seller=party)
            try:
                await asyncio.to_thread(Path(file).write_bytes, content)
            except OSError as error:
                raise InvalidInput(form, f"{file} cannot be written: {error.strerror}") from error
            say(console(), f"wrote {file}")


# -- what is shown -----------------------------------------------------------------------------------------------------


def show_invoice(invoice: Invoice, *, json: bool) -> None:
    """A table for people, or JSON."""
    if json:
        emit(invoice)
        return
    screen = console()
    say(screen, f"{invoice.number or 'draft'}  {invoice.id}")
    issue = f", issue {invoice.issue}" if invoice.issue > 1 else ""
    say(screen, f"{invoice.tenant}  {invoice.period}  {invoice.status}{issue}")
    if invoice.held:
        say(screen, f"held: {invoice.held}")
    rows = table("line", "", ">quantity", ">each", f">{invoice.currency}")
    for line in invoice.lines:
        row = (line.id, line.description, f"{line.quantity:,}", plain(line.unit_price), plain(line.amount))
        rows.add_row(*row)
    rows.add_section()
    for name, amount in _sums(invoice):
        rows.add_row("", name, "", "", amount)
    screen.print(rows)


def _sums(invoice: Invoice) -> Iterator[tuple[str, str]]:
    yield "subtotal", plain(invoice.subtotal)
    if invoice.tax:
        yield "tax", plain(invoice.tax)
    if invoice.credits_applied:
        yield "paid by credit", plain(-invoice.credits_applied)
    if invoice.carried_over:
        yield "carried over to credit", plain(invoice.carried_over)
    yield "total", plain(invoice.total)
    if invoice.credited:
        yield "taken back by credit notes", plain(-invoice.credited)
    if invoice.status == "finalized":
        yield "due", plain(invoice.amount_due)


def show_closed(period: str, closed: list[Invoice], waiting: list[str]) -> None:
    """What became of a month, and where somebody must look."""
    held = [each for each in closed if each.held]
    drafts = sum(each.status == "draft" for each in closed) - len(held)
    screen = console()
    say(screen, f"{period}: invoices: {len(closed):,}")
    say(screen, f"  finalized: {len(closed) - drafts - len(held):,}, with {_totals(closed)}")
    say(screen, f"  drafts, until the grace is over: {drafts:,}")
    say(screen, f"  held for a review: {len(held):,}")
    for each in held:
        say(screen, f"    {each.id}  {each.tenant}  {each.held}")
    if waiting:
        more = f" and {len(waiting) - NAMED:,} more" if len(waiting) > NAMED else ""
        say(screen, f"  month not over yet: {len(waiting):,}: {', '.join(waiting[:NAMED])}{more}; run it again")


def show_list(invoices: list[Invoice]) -> None:
    """A row per invoice."""
    rows = table("month", "tenant", "number", "status", ">total", ">due", "id")
    for each in invoices:
        state = f"{each.status}, held" if each.held else each.status
        amounts = (f"{plain(each.total)} {each.currency}", plain(each.amount_due))
        rows.add_row(each.period, each.tenant, each.number or "", state, *amounts, each.id)
    screen = console()
    screen.print(rows)
    say(screen, f"invoices: {len(invoices):,}")


async def explain_line(metering: Metering, line_id: str, *, facts: bool, json: bool) -> None:
    """The line, its windows, and its facts page by page."""
    why = await metering.explain(line_id)
    invoice = await metering.ledger.invoice_of_line(line_id)
    assert invoice is not None
    line = next(each for each in invoice.lines if each.id == line_id)
    if json:
        found = [each async for each in _facts(metering, line_id)] if facts else []
        emit({"invoice": invoice.id, "line": line, "explanation": why, "facts": found})
        return
    screen = console()
    _show_line(screen, invoice, line, why)
    if facts:
        async for fact in _facts(metering, line_id):
            say(screen, _fact(fact))


async def _facts(metering: Metering, line_id: str) -> AsyncIterator[BilledFact]:
    after: tuple[datetime, str] | None = None
    while page := await metering.line_facts(line_id, after=after, limit=PAGE):
        for fact in page:
            yield fact
        after = (page[-1].occurred_at, page[-1].id)


def _show_line(screen: Console, invoice: Invoice, line: InvoiceLine, why: Explanation) -> None:
    say(screen, f"{line.description}  ({invoice.number or 'draft'}, {invoice.tenant}, {invoice.period})")
    say(screen, f"{line.quantity:,} x {plain(line.unit_price)} = {plain(line.amount)} {invoice.currency}")
    if why.rounding != line.description:
        say(screen, f"rounding: {why.rounding}")
    if why.share:
        part = f"{why.share.seconds:,} of {why.share.of_seconds:,} seconds of the month"
        say(screen, f"share: {part}, of {plain(why.unit_price)} for {why.plan_version}")
    if why.billed_before is not None:
        say(screen, f"billed before: {plain(why.billed_before)}")
    if why.windows:
        rows = table("from", "to", ">used", ">before", ">allowance", ">billed", ">unbilled", ">facts", "plan")
        for window in why.windows:
            numbers = (window.used, window.before, window.allowance, window.overage, window.unbilled, window.events)
            rows.add_row(_at(window.start), _at(window.end), *(f"{each:,}" for each in numbers), window.plan)
        screen.print(rows)
    if why.tiers:
        rows = table(">past", ">up to", ">units", ">each", ">flat", ">amount")
        for tier in why.tiers:
            upto = "" if tier.up_to is None else f"{tier.up_to:,}"
            money = (plain(each) for each in (tier.unit_price, tier.flat, tier.amount))
            rows.add_row(f"{tier.after:,}", upto, f"{tier.quantity:,}", *money)
        screen.print(rows)


def _fact(fact: BilledFact) -> str:
    return f"{_at(fact.occurred_at)}  {fact.quantity:>10,}  {fact.event_type}  {fact.resource}  {fact.id}"


def tell(invoice: Invoice, *, json: bool) -> None:
    """What an invoice has become, in a line or as JSON."""
    if json:
        emit(invoice)
        return
    number = invoice.number or "draft"
    say(console(), f"{invoice.id}  {number}  {invoice.status}  {plain(invoice.total)} {invoice.currency}")


def tell_note(note: CreditNote) -> None:
    """A credit note in a line."""
    where = f"{plain(note.to_credit)} to the tenant's credit" if note.to_credit else "no longer due"
    tax = f", {plain(note.tax)} of it tax" if note.tax else ""
    say(console(), f"{note.number}  {plain(note.total)} {note.currency}{tax}: {where}")


def _totals(invoices: list[Invoice]) -> str:
    """A house has one currency."""
    final = [each for each in invoices if each.status != "draft"]
    return f"{plain(sum((each.total for each in final[1:]), final[0].total))} {final[0].currency}" if final else "0"


def _at(moment: datetime) -> str:
    """Without microseconds where there are none."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
