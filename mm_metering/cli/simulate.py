"""``mm-metering simulate``: what months of real usage would have come to under another catalogue."""

from __future__ import annotations

import csv as _csv
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mm_metering import catalogues
from mm_metering.billing.documents.rows import guarded
from mm_metering.cli.host import run
from mm_metering.cli.options import App, CsvFile, Json, Quiet
from mm_metering.cli.scenario import run_file
from mm_metering.cli.show import BAR_WIDTH, bar, console, count_tenants, emit, say, table
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import plain
from mm_metering.core.simulation import Amounts, MonthChange, Simulation, TenantChange, Units
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

if TYPE_CHECKING:
    from rich.console import Console

MOST_REFUSED: Final = 10
"""How many tenants are shown whose refused demand would bring the most."""
COLUMNS: Final = (
    "tenant",
    "plans",
    "before",
    "after",
    "difference",
    "with_refused",
    "difference_with_refused",
    "refused",  # "api_calls 900, reports 1"
)
"""The header row of the CSV file."""


def simulate(
    scenario: Annotated[
        str, typer.Argument(metavar="[SCENARIO]", help="A scenario file, run instead of real usage.")
    ] = "",
    *,
    catalogue: Annotated[str, typer.Option("--catalogue", metavar="FILE", help="The plans to compare with.")] = "",
    start: Annotated[
        str,
        typer.Option("--from", metavar="MONTH", help="The first month, such as 2024-01."),
    ] = "",
    end: Annotated[
        str,
        typer.Option("--to", metavar="MONTH", help="The last month; at most 36 of them."),
    ] = "",
    json: Json = False,
    csv: CsvFile = "",
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """Rate months of real usage under another catalogue's plans, and compare; or run a scenario under a test clock.
    Nothing is written. Exit code 1 where a scenario expects something else."""
    named = {"--catalogue": catalogue, "--from": start, "--to": end}
    if scenario:
        if given := [name for name, value in named.items() if value]:
            raise InvalidInput(given[0], "compares real usage; leave it out to run a scenario")
        if not run_file(scenario, json=json, csv=csv):
            raise typer.Exit(1)
        return
    if missing := [name for name, value in named.items() if not value]:
        raise InvalidInput(missing[0], "is missing; name --catalogue, --from and --to, or a scenario file")
    new = catalogues.load(catalogue)
    found = run(app, lambda metering: simulated(metering, new, start, end), counts=True)
    if json:
        emit(found)
    else:
        show(found, catalogue)
    if csv:
        write_csv(found, csv)


async def simulated(metering: Metering, new: Catalogue, start: str, end: str) -> Simulation:
    """With a bar on a terminal."""
    with bar("rating", await count_tenants(metering.ledger)) as progress:
        return await metering.simulate(new, start=start, end=end, progress=progress)


# -- a table for spreadsheets ------------------------------------------------------------------------------------------


def write_csv(found: Simulation, file: str) -> None:
    """RFC 4180 with CRLF in UTF-8; no cell is a formula."""
    out = StringIO(newline="")
    writer = _csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows(_row(each) for each in found.tenants)
    try:
        Path(file).write_bytes(out.getvalue().encode())
    except OSError as error:
        raise InvalidInput("csv", f"{file} cannot be written: {error.strerror}") from error


def _row(each: TenantChange) -> Iterator[str]:
    yield from (guarded(each.tenant), guarded(", ".join(each.plans)))
    yield from _money(each)
    yield _units(each.refused)


# -- what is shown -----------------------------------------------------------------------------------------------------


def show(found: Simulation, catalogue: str) -> None:
    """Totals, bars, the largest changes, what was refused, and what to know about all that."""
    screen = console()
    say(screen, f"{found.start} to {found.end} under {catalogue}: tenants compared: {len(found.tenants):,}")
    totals = table("month", *_headings(found))
    for month in found.months:
        totals.add_row(month.period, *_money(month))
    totals.add_section()
    totals.add_row("all", *_money(found.total))
    screen.print(totals)
    for line in bars(found.months, "#" if screen.options.ascii_only else "█"):
        say(screen, line)
    say(screen, f"\npay more: {found.more:,}, less: {found.less:,}, the same: {found.same:,}")
    _show_tenants(screen, "the largest rises", found, found.rises)
    _show_tenants(screen, "the largest falls", found, found.falls)
    _show_tenants(screen, "the most from refused demand", found, _most_refused(found))
    for note in _notes(found):
        say(screen, note)


def bars(months: Iterable[MonthChange], mark: str) -> Iterator[str]:
    """Three bars per month, as long as the amounts are large: before, after, and with refused demand."""
    shown = [*months]
    longest = max((_longest(each) for each in shown), default=Decimal(0))
    names = ("before", "after", "with refused demand")
    for month in shown:
        for number, (name, amount) in enumerate(
            zip(names, (month.before, month.after, month.with_refused), strict=True)
        ):
            length = round(BAR_WIDTH * max(amount, Decimal(0)) / longest) if longest > 0 else 0
            period = "" if number else month.period
            yield f"{period:7}  {name:19}  {mark * length:{BAR_WIDTH}}  {plain(amount)}".rstrip()


def _longest(amounts: Amounts) -> Decimal:
    return max(amounts.before, amounts.after, amounts.with_refused)


def _headings(found: Simulation) -> Sequence[str]:
    return (f">before, {found.currency}", ">after", ">difference", ">with refused demand", ">difference")


def _money(amounts: Amounts) -> Iterator[str]:
    yield from map(plain, (amounts.before, amounts.after, amounts.difference))
    yield from map(plain, (amounts.with_refused, amounts.difference_with_refused))


def _units(refused: Units) -> str:
    return ", ".join(f"{meter} {units:,}" for meter, units in refused.items())


def _show_tenants(screen: Console, title: str, found: Simulation, tenants: Sequence[TenantChange]) -> None:
    if not tenants:
        return
    rows = table("tenant", "plans", *_headings(found), "refused")
    for each in tenants:
        rows.add_row(each.tenant, ", ".join(each.plans), *_money(each), _units(each.refused))
    say(screen, f"\n{title}")
    screen.print(rows)


def _most_refused(found: Simulation) -> list[TenantChange]:
    """Those whose refused demand would bring something, then those where it is only a number."""
    some = [each for each in found.tenants if each.refused]
    return sorted(some, key=lambda each: (each.after - each.with_refused, each.tenant))[:MOST_REFUSED]


def _notes(found: Simulation) -> Iterator[str]:
    if found.refused:
        yield f"refused: {_units(found.refused)}; tries again count each time, so this is an upper bound"
    for plan, tenants in found.missing_plans.items():
        yield f"plan {plan} is not in the new catalogue: tenants that keep it as it is: {tenants:,}"
    if found.own_plans:
        yield f"tenants with a version of their own, which they keep: {found.own_plans:,}"
    if found.new_meters:
        yield f"no such usage was counted so far: {', '.join(found.new_meters)}"
    if found.running:
        yield f"months of a tenant that are not over, with their usage so far: {found.running:,}"
    if found.left_out:
        yield f"left out, unknown or without a plan in these months: {found.left_out:,}"
