"""``mm-metering invoice``: previews, closed months, and what becomes of an invoice."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from mm_metering.billing.documents import Party
from mm_metering.billing.invoices import DocumentForm
from mm_metering.cli.host import REASON, by_hand, load, refuse_memory
from mm_metering.cli.show import bar, console, count_tenants, say, table
from mm_metering.core.invoices import BilledFact, CreditNote, Explanation, Invoice, InvoiceLine
from mm_metering.core.money import plain
from mm_metering.errors import InvalidInput, MeteringError, NotApplied
from mm_metering.metering import Metering

if TYPE_CHECKING:
    from collections.abc import Iterator

    import typer
    from rich.console import Console

T = TypeVar("T")
Work = Callable[[Metering], Awaitable[T]]

PAGE: Final = 1000
"""Facts printed at a time."""
NAMED: Final = 5
"""How many tenants are named of those whose month is not over."""


def commands() -> typer.Typer:
    """The group ``invoice``."""
    import typer

    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Preview, issue, explain and take back.")
    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    why = typer.Option("", "--reason", help=REASON)
    as_json = typer.Option(False, "--json", help="The whole value as JSON, amounts as exact strings.")  # noqa: FBT003

    @group.command()
    def preview(
        tenant: str, *, period: str = typer.Option("", help="Such as 2024-01; else the current month."),
        json: bool = as_json, app: str = host,
    ) -> None:  # fmt: skip
        """What a tenant's invoice comes to so far. Nothing is written."""
        show_invoice(
            run(app, lambda metering: metering.preview_invoice(tenant, period=period or None), counts=True), json=json
        )

    @group.command("run")
    def run_(
        period: str, *, tenant: str = typer.Option("", "--tenant", help="This tenant alone."), app: str = host
    ) -> None:
        """Close a month: drafts within the grace, afterwards numbered invoices. May be repeated at any time. Exit code
        1 if an invoice is held for a review."""
        close_month(app, period, tenant or None)

    @group.command()
    def show(
        invoice_id: str,
        *,
        json: bool = as_json,
        html: str = typer.Option("", "--html", metavar="FILE", help="Write it as a page."),
        pdf: str = typer.Option("", "--pdf", metavar="FILE", help="Write it as a PDF (extra pdf)."),
        csv: str = typer.Option("", "--csv", metavar="FILE", help="Write its lines as a table."),
        seller: str = typer.Option("", "--seller", metavar="NAME", help="Who stands on it as the seller."),
        app: str = host,
    ) -> None:
        """One invoice with its lines, or as a document in a file."""
        files: dict[DocumentForm, str] = {"html": html, "pdf": pdf, "csv": csv}
        if any(files.values()):
            run(app, lambda metering: write_documents(metering, invoice_id, files, seller))
        else:
            show_invoice(run(app, lambda metering: metering.get_invoice(invoice_id)), json=json)

    @group.command("list")
    def list_(
        *,
        period: str = typer.Option("", "--period", help="Of this month."),
        tenant: str = typer.Option("", "--tenant", help="Of this tenant."),
        status: str = typer.Option("", "--status", help="draft, finalized, paid, void or uncollectible."),
        limit: int = typer.Option(1000, "--limit", min=1, help="At most so many."),
        app: str = host,
    ) -> None:
        """Closed invoices, in order of month and tenant."""
        list_invoices(
            run(
                app,
                lambda metering: metering.list_invoices(
                    period=period or None,
                    tenant=tenant or None,
                    status=status or None,  # type: ignore[arg-type]
                    limit=limit,
                ),
            )
        )

    @group.command()
    def explain(
        line_id: str,
        *,
        facts: bool = typer.Option(False, "--facts", help="Each fact in its windows, too."),  # noqa: FBT003
        app: str = host,
    ) -> None:
        """Why a line is what it is: its windows, price and rounding."""
        run(app, lambda metering: explain_line(metering, line_id, facts=facts))

    @group.command()
    def finalize(invoice_id: str, *, reason: str = why, app: str = host) -> None:
        """Number a draft by hand: within the grace, or after its review."""
        tell(run(app, lambda metering: metering.finalize_invoice(invoice_id), counts=True, reason=reason))

    @group.command()
    def void(invoice_id: str, *, reason: str = why, app: str = host) -> None:
        """Take an unpaid invoice back. The next run issues its month again, under a new number."""
        tell(run(app, lambda metering: metering.void_invoice(invoice_id), reason=reason))

    @group.command()
    def credit(
        invoice_id: str,
        *,
        reason: str = typer.Option(..., "--reason", help="Stands on the credit note."),
        line: str = typer.Option(
            "", "--line", help="Of this line: all that is left of it, unless --quantity or --amount."
        ),
        quantity: int | None = typer.Option(None, "--quantity", help="So many units of the line."),
        amount: str | None = typer.Option(None, "--amount", help='Before tax, such as "5.00".'),
        app: str = host,
    ) -> None:
        """Take back a part of an invoice, or all that is left of it, with its share of the tax."""
        tell_note(
            run(
                app,
                lambda metering: metering.credit_invoice(
                    invoice_id, line_id=line or None, quantity=quantity, amount=amount, reason=reason
                ),
            )
        )

    return group


# -- with a Metering ---------------------------------------------------------------------------------------------------


def run(app: str, work: Work[T], *, counts: bool = False, reason: str = "") -> T:
    """What ``work`` returns, on the app's Metering or one from the environment, which applies no plans of its own.
    ``counts``: usage that is not folded yet must be seen, so the app's counters are needed. ``reason``: why, for the
    audit log."""
    metering = load(app) if app else Metering.from_env(apply="never")
    counters, ledger = metering.places
    refuse_memory(ledger, "ledger")
    if counts:
        refuse_memory(counters, "counters")
    with by_hand(reason):
        return asyncio.run(_opened(metering, work, own=bool(app)))


async def _opened(metering: Metering, work: Work[T], *, own: bool) -> T:
    try:
        await _open(metering, own=own)
    except MeteringError:
        await metering.aclose()
        raise
    try:
        return await work(metering)
    finally:
        await metering.shutdown()


async def _open(metering: Metering, *, own: bool) -> None:
    if own:
        await metering.startup()
        return
    await metering.ledger.setup(apply=False)
    try:
        await metering.startup()
    except NotApplied as error:
        named = os.environ.get("MM_METERING_CATALOGUE", "the shipped plans")
        raise InvalidInput(
            "catalogue",
            f"{named} differs from the plans in this ledger; name the app's in MM_METERING_CATALOGUE, or the app's "
            "Metering with --app module:name",
        ) from error


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


def close_month(app: str, period: str, tenant: str | None) -> None:
    """Prints what became of the month. Exit code 1 where somebody must look."""
    waiting: list[str] = []

    async def close(metering: Metering) -> list[Invoice]:
        tenants = 1 if tenant else await count_tenants(metering.ledger)
        with bar(f"closing {period}", tenants) as progress:
            return await metering.close_period(period, tenant=tenant, progress=progress, not_over=waiting.append)

    closed = run(app, close, counts=True)
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
    if held:
        sys.exit(1)


# -- what is shown -----------------------------------------------------------------------------------------------------


def show_invoice(invoice: Invoice, *, json: bool) -> None:
    """A table for people, or JSON."""
    if json:
        print(invoice.model_dump_json(indent=2))  # noqa: T201
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


def list_invoices(invoices: list[Invoice]) -> None:
    """A row per invoice."""
    rows = table("month", "tenant", "number", "status", ">total", ">due", "id")
    for each in invoices:
        state = f"{each.status}, held" if each.held else each.status
        amounts = (f"{plain(each.total)} {each.currency}", plain(each.amount_due))
        rows.add_row(each.period, each.tenant, each.number or "", state, *amounts, each.id)
    screen = console()
    screen.print(rows)
    say(screen, f"invoices: {len(invoices):,}")


async def explain_line(metering: Metering, line_id: str, *, facts: bool) -> None:
    """The line, its windows, and its facts page by page."""
    why = await metering.explain(line_id)
    invoice = await metering.ledger.invoice_of_line(line_id)
    assert invoice is not None
    screen = console()
    line = next(each for each in invoice.lines if each.id == line_id)
    _show_line(screen, invoice, line, why)
    if not facts:
        return
    after: tuple[datetime, str] | None = None
    while page := await metering.line_facts(line_id, after=after, limit=PAGE):
        for fact in page:
            say(screen, _fact(fact))
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


def tell(invoice: Invoice) -> None:
    """What an invoice has become, in a line."""
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
