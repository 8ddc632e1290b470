"""What the demo shows: readable in a terminal of 100 columns, and as plain text in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from examples.mortgagematch.traffic import METERS, Customer
from mm_metering import Metering
from mm_metering.ai.insight import CostRow
from mm_metering.core.invoices import Invoice, InvoiceLine
from mm_metering.core.usage import UsageRange

WIDTH: Final = 100
PAGE: Final = 1000
INDENT: Final = (0, 0, 0, 2)


def console() -> Console:
    """Colours and a moving bar in a terminal only; never wider than 100 columns."""
    seen = Console(highlight=False)
    width = min(WIDTH, seen.width) if seen.is_terminal else WIDTH
    return Console(highlight=False, width=width, soft_wrap=False, file=sys.stdout)


def progress(to: Console) -> Progress:
    """A bar per day; none where nobody could watch it."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[green]{task.fields[allowed]} allowed[/] [red]{task.fields[refused]} refused[/]"),
        TimeElapsedColumn(),
        console=to,
        disable=not to.is_terminal,
    )


# -- a customer ------------------------------------------------------------------------------------------------------


def show_customer(to: Console, customer: Customer, usage: UsageRange, invoice: Invoice) -> None:
    to.print()
    to.rule(f"[bold]{customer.id}[/] on [bold]{customer.plan}[/]", align="left")
    to.print(Padding(_answers(customer), INDENT))
    to.print()
    to.print(Padding(_days(usage), INDENT))
    to.print()
    to.print(Padding(_invoice(invoice), INDENT))


def _table(title: str = "") -> Table:
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def _answers(customer: Customer) -> Table:
    tally = customer.tally
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("right", "left", "left"):
        grid.add_column(justify=justify)
    grid.add_row(f"{tally.requests:,}", "requests")
    grid.add_row(f"[green]{tally.allowed:,}[/]", "allowed")
    for (status, code, meter), count in sorted(tally.refused.items()):
        grid.add_row(f"[red]{count:,}[/]", f"refused {status}", f"{code}  [dim]{tally.example[status, code, meter]}[/]")
    for status, count in tally.failed.items():
        grid.add_row(
            f"[yellow]{count:,}[/]", f"failed {status}", "a lender that did not answer  [dim]taken back, not billed[/]"
        )
    return grid


def _days(usage: UsageRange) -> Table:
    table = _table("Daily snapshots")
    table.add_column("day")
    for meter in METERS:
        table.add_column(meter, justify="right")
    for day in usage.days:
        table.add_row(str(day.date), *(f"{day.meters[meter]:,}" for meter in METERS))
    table.add_section()
    table.add_row("sum", *(f"{usage.meters[meter]:,}" for meter in METERS), style="bold")
    return table


def _invoice(invoice: Invoice) -> Table:
    table = _table(f"Invoice preview, {invoice.period}, {invoice.currency}")
    table.add_column("line and its explanation")
    table.add_column("quantity", justify="right")
    table.add_column("unit price", justify="right")
    table.add_column("amount", justify="right")
    for line in invoice.lines:
        text = Text.assemble(line.description, *((f"\n  {reason}", "dim") for reason in _reasons(line)))
        table.add_row(text, f"{line.quantity:,}", str(line.unit_price), str(line.amount))
    table.add_section()
    table.add_row("total", "", "", str(invoice.total), style="bold")
    return table


def _reasons(line: InvoiceLine) -> Iterator[str]:
    """The explanation that the line carries, in words."""
    if line.explanation is None:
        return
    share = line.explanation.share
    if share and share.seconds == share.of_seconds:
        yield f"plan {line.explanation.plan_version}: the whole month of {line.explanation.unit_price}"
    elif share:
        yield f"plan {line.explanation.plan_version}: {share.seconds:,} of {share.of_seconds:,} seconds"
    for window in line.explanation.windows:
        month = (window.end - window.start).days > 1
        when = f"{window.start:%Y-%m}" if month else f"{window.start:%Y-%m-%d}"
        yield f"{when}, {window.plan}: {window.used:,} used − {window.allowance:,} included = {window.overage:,} over"


def show_ai(to: Console, rows: Sequence[CostRow]) -> None:
    """What the models' provider takes, which is not what the customers are billed."""
    table = _table()
    table.add_column("customer")
    table.add_column("model")
    for name in ("calls", "tokens", "provider cost"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.tenant, row.model, f"{row.requests:,}", f"{row.tokens:,}", f"{row.cost}")
    to.print()
    to.rule("[bold]the models[/]", align="left")
    to.print(Padding(table, INDENT))


# -- the check -------------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """One meter of one customer, counted in four places; ``counters`` is None where the plan has no limit to count."""

    customer: str
    meter: str
    admitted: int
    counters: int | None
    facts: int
    snapshots: int

    @property
    def agree(self) -> bool:
        return all(each in (None, self.admitted) for each in (self.counters, self.facts, self.snapshots))


async def sums(metering: Metering, customer: Customer, usage: UsageRange) -> list[Sums]:
    """What the client was granted, the counters' fields, the ledger's facts, the snapshots: each on its own."""
    fields = await metering.counters.counters(metering.gate.shard_of(customer.id), customer.id)
    facts = await _fact_sums(metering, customer.id)
    return [
        Sums(
            customer.id,
            meter,
            customer.tally.admitted[meter],
            _counted(fields, meter),
            facts.get(meter, 0),
            int(usage.meters[meter]),
        )
        for meter in METERS
    ]


def _counted(fields: object, meter: str) -> int | None:
    assert isinstance(fields, dict)
    windows = [value for name, value in fields.items() if name.startswith(f"{meter}@")]
    return sum(windows) if windows else None


async def _fact_sums(metering: Metering, tenant: str) -> dict[str, int]:
    found: dict[str, int] = {}
    after = (0, "")
    while page := await metering.ledger.facts(tenant, after=after, limit=PAGE):
        for fact in page:
            for count in fact.counts if fact.kind != "hold" else ():  # what a call held is in no sum; what it used is
                found[count.meter] = found.get(count.meter, 0) + count.amount
        after = (page[-1].occurred_us, page[-1].id)
    return found


def show_check(to: Console, checked: Sequence[Sums]) -> bool:
    """Prints the sums; whether all agree."""
    table = _table()
    table.add_column("customer")
    table.add_column("meter")
    for name in ("admitted", "counters", "ledger facts", "snapshots"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in checked:
        numbers = (each.admitted, each.counters, each.facts, each.snapshots)
        shown = ("no limit" if number is None else f"{number:,}" for number in numbers)
        table.add_row(each.customer, each.meter, *shown, "[green]equal[/]" if each.agree else "[red]DIFFERENT[/]")
    to.print()
    to.rule("[bold]the check[/]: admitted = counted = in the ledger", align="left")
    to.print(Padding(table, INDENT))
    wrong = sum(not each.agree for each in checked)
    if wrong:
        to.print(f"[red]check failed[/]: {wrong} of {len(checked)} sums differ")
    else:
        to.print(f"[green]check passed[/]: {len(checked)} of {len(checked)} sums are equal to the unit")
    return not wrong
