"""``mm-metering simulate SCENARIO``: months that never were, as a table and bars."""

from __future__ import annotations

import asyncio
import csv as _csv
from collections.abc import Iterable, Iterator
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Final

from mm_metering.billing.documents.rows import guarded
from mm_metering.cli.show import BAR_WIDTH, bar, console, emit, say, table
from mm_metering.core.money import plain
from mm_metering.errors import InvalidInput
from mm_metering.testing.scenario import ScenarioMonth, ScenarioResult, instants, load_scenario, run_scenario

COLUMNS: Final = ("period", "group", "tenants", "fees", "overage", "other", "total", "refused")


def run_file(file: str, *, json: bool, csv: str) -> bool:
    """Runs a scenario file and shows what it comes to; whether that is what it expects."""
    found = asyncio.run(_run(file))
    if json:
        emit(found)
    else:
        _show(found, file)
    if csv:
        _write_csv(found, csv)
    return not found.unexpected


async def _run(file: str) -> ScenarioResult:
    scenario, _ = load_scenario(file)
    with bar("simulating", instants(scenario)) as progress:
        return await run_scenario(file, progress=progress)


def _show(found: ScenarioResult, file: str) -> None:
    screen = console()
    tenants = sum({each.group: each.tenants for each in found.months}.values())
    say(screen, f"{found.months[0].period} to {found.months[-1].period} of {file}: tenants: {tenants:,}")
    rows = table("month", "tenants", f">fees, {found.currency}", ">overage", ">other", ">total", "refused")
    for each in found.months:
        who = each.group if each.tenants == 1 else f"{each.group} x {each.tenants}"
        amounts = map(plain, (each.fees, each.total - each.fees - each.other, each.other, each.total))
        rows.add_row(each.period, who, *amounts, _units(each))
    screen.print(rows)
    for line in _bars(found.months, "#" if screen.options.ascii_only else "█"):
        say(screen, line)
    for wrong in found.unexpected:
        say(
            screen,
            f"not as expected: {wrong.group} in {wrong.period}: {plain(wrong.found)}, not {plain(wrong.expected)}",
        )


def _bars(months: Iterable[ScenarioMonth], mark: str) -> Iterator[str]:
    totals: dict[str, Decimal] = {}
    for each in months:
        totals[each.period] = totals.get(each.period, Decimal(0)) + each.total
    longest = max(totals.values(), default=Decimal(0))
    for period, total in totals.items():
        length = round(BAR_WIDTH * max(total, Decimal(0)) / longest) if longest > 0 else 0
        yield f"{period:7}  {mark * length:{BAR_WIDTH}}  {plain(total)}".rstrip()


def _units(month: ScenarioMonth) -> str:
    return ", ".join(f"{meter} {units:,}" for meter, units in month.refused.items())


def _write_csv(found: ScenarioResult, file: str) -> None:
    """RFC 4180 with CRLF in UTF-8; no cell is a formula."""
    out = StringIO(newline="")
    writer = _csv.writer(out)
    writer.writerow(COLUMNS)
    for each in found.months:
        overage = ", ".join(f"{meter} {plain(amount)}" for meter, amount in each.overage.items())
        amounts = (plain(each.fees), overage, plain(each.other), plain(each.total))
        writer.writerow((each.period, guarded(each.group), each.tenants, *amounts, _units(each)))
    try:
        Path(file).write_bytes(out.getvalue().encode())
    except OSError as error:
        raise InvalidInput("csv", f"{file} cannot be written: {error.strerror}") from error
