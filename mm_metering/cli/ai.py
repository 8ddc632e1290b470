"""``mm-metering ai``: what AI calls cost."""

from __future__ import annotations

import csv
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

from mm_metering.ai.insight import CostRow
from mm_metering.cli.invoices import run
from mm_metering.cli.show import bar, console, count_tenants, say, table
from mm_metering.core.schema import money_text
from mm_metering.metering import Metering

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    import typer

    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What AI calls cost.")

    @group.callback()
    def _group() -> None:
        """A group with one command is still one."""

    @group.command()
    def costs(
        period: str,
        *,
        tenant: str = typer.Option("", "--tenant", help="Of this tenant."),
        as_csv: bool = typer.Option(False, "--csv", help="As CSV."),  # noqa: FBT003
        app: str = host,
    ) -> None:
        """A month's provider cost by tenant and model, the dearest first."""

        async def read(metering: Metering) -> list[CostRow]:
            await metering.startup()
            total = 1 if tenant else await count_tenants(metering.ledger)
            with bar(f"reading {period}", total) as progress:
                return await metering.ai.get_cost_report(period, tenant=tenant or None, progress=progress)

        (write_csv if as_csv else show)(run(app, read))

    return group


def show(costs: list[CostRow]) -> None:
    rows = table("tenant", "model", ">requests", ">tokens", ">cost USD", ">unpriced")
    for each in costs:
        rows.add_row(
            each.tenant,
            each.model,
            f"{each.requests:,}",
            f"{each.tokens:,}",
            money_text(each.cost),
            f"{each.unpriced:,}",
        )
    screen = console()
    if costs:
        screen.print(rows)
    total = sum((each.cost for each in costs), Decimal(0))
    say(screen, f"tenants: {len({each.tenant for each in costs}):,}, cost: {money_text(total)} USD")


def write_csv(costs: list[CostRow]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(CostRow._fields)
    rows.writerows(each._replace(cost=money_text(each.cost)) for each in costs)  # type: ignore[arg-type]
