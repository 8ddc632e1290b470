"""``mm-metering alerts``: what was told, whether telling works, and what is not to be told for a while."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mm_metering.cli.host import REASON
from mm_metering.cli.invoices import run
from mm_metering.cli.show import console, say, table
from mm_metering.core.collecting import Notice
from mm_metering.core.periods import from_micros
from mm_metering.metering import Metering

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    import typer

    host = typer.Option(
        "", envvar="MM_METERING_APP", metavar="MODULE:NAME", help="Your Metering; else one from MM_METERING_*."
    )
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was told of usage and of the house.")

    @group.command("list")
    def list_(
        *,
        tenant: str = typer.Option("", "--tenant", help="Of this tenant."),
        limit: int = typer.Option(100, "--limit", min=1, help="The newest so many."),
        app: str = host,
    ) -> None:
        """What was told in the last 40 days, the newest first; and what is muted."""
        show(run(app, lambda metering: metering.list_alerts(tenant=tenant or None, limit=limit)))
        show_mutes(app)

    @group.command()
    def test(*, tenant: str = typer.Option(..., "--tenant", help="As if it was this one's."), app: str = host) -> None:
        """Tell one that means nothing, by every way that is set up: the log, hooks, webhooks."""
        show([run(app, lambda metering: metering.test_alert(tenant))])

    @group.command()
    def mute(
        rule: str,
        *,
        tenant: str = typer.Option("*", "--tenant", help="Of this tenant; of all by default."),
        hours: float = typer.Option(24.0, "--hours", min=0, help="For how long; 0 ends it."),
        reason: str = typer.Option("", "--reason", help=REASON),
        app: str = host,
    ) -> None:
        """Tell nothing by a rule (quota, budget, overage, forecast, spike, unpriced, worker.lag, journal.waiting,
        counters.drift, or "*") for a while. What still is so then is told."""

        async def put(metering: Metering) -> datetime:
            until = metering.clock.now() + timedelta(hours=hours)
            await metering.mute_alerts(rule, tenant=tenant, until=until)
            return until

        say(console(), f"{rule} of {tenant}: nothing is told until {run(app, put, reason=reason):%Y-%m-%d %H:%M} UTC")

    return group


def show(alerts: list[Notice]) -> None:
    rows = table("at (UTC)", "tenant", "what", "details")
    for each in alerts:
        details = " ".join(f"{name}={value}" for name, value in each.data.items())
        rows.add_row(f"{each.made_at:%Y-%m-%d %H:%M}", each.tenant, each.type, details)
    screen = console()
    if alerts:
        screen.print(rows)
    say(screen, f"alerts: {len(alerts):,}")


def show_mutes(app: str) -> None:
    for rule, tenant, until_us in run(app, lambda metering: metering.list_mutes()):
        until = f"{from_micros(until_us):%Y-%m-%d %H:%M} UTC"
        say(console(), f"muted: {rule} of {tenant} until {until}")
