"""``mm-metering ai``: what AI calls cost."""

from __future__ import annotations

import csv as _csv
import sys
from decimal import Decimal
from typing import Annotated, Final

import typer

from mm_metering.ai.insight import CostRow
from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, OfTenant, Quiet, group
from mm_metering.cli.show import bar, console, count_tenants, emit, say, table
from mm_metering.core.schema import money_text
from mm_metering.metering import Metering

ai: Final = group("What AI calls cost.")


@ai.callback()
def _group() -> None:
    """A group with one command is still one."""


@ai.command()
def costs(
    period: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2024-01.")],
    *,
    tenant: OfTenant = "",
    csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """A month's provider cost by tenant and model, the dearest first."""

    async def read(metering: Metering) -> list[CostRow]:
        await metering.startup()
        total = 1 if tenant else await count_tenants(metering.ledger)
        with bar(f"reading {period}", total) as progress:
            return await metering.ai.get_cost_report(period, tenant=tenant or None, progress=progress)

    found = run(app, read)
    if json:
        emit(found)
    else:
        (write_csv if csv else show)(found)


def show(found: list[CostRow]) -> None:
    """A row for each tenant and model."""
    rows = table("tenant", "model", ">requests", ">tokens", ">cost USD", ">unpriced")
    for each in found:
        rows.add_row(
            each.tenant,
            each.model,
            f"{each.requests:,}",
            f"{each.tokens:,}",
            money_text(each.cost),
            f"{each.unpriced:,}",
        )
    screen = console()
    if found:
        screen.print(rows)
    total = sum((each.cost for each in found), Decimal(0))
    say(screen, f"tenants: {len({each.tenant for each in found}):,}, cost: {money_text(total)} USD")


def write_csv(found: list[CostRow]) -> None:
    rows = _csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(CostRow._fields)
    rows.writerows(each._replace(cost=money_text(each.cost)) for each in found)  # type: ignore[arg-type]
