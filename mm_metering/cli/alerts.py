"""``mm-metering alerts``: what was told, whether telling works, and what is not to be told for a while."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final

import typer

from mm_metering.backends.collecting import Mute
from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, OfTenant, Reason, group
from mm_metering.cli.show import console, emit, say, table
from mm_metering.core.collecting import Notice
from mm_metering.core.periods import from_micros
from mm_metering.metering import Metering

alerts: Final = group("What was told of usage and of the house.")


@alerts.command("list")
def list_(
    *,
    tenant: OfTenant = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 100,
    json: Json = False,
    app: App = "",
) -> None:
    """What was told in the last 40 days, the newest first; and what is muted."""

    async def both(metering: Metering) -> tuple[list[Notice], list[Mute]]:
        return await metering.list_alerts(tenant=tenant or None, limit=limit), await metering.list_mutes()

    told, muted = run(app, both)
    if json:
        emit({"alerts": told, "muted": [_mute(*each) for each in muted]})
    else:
        show_alerts(told)
        show_mutes(muted)


@alerts.command("test")
def try_alert(
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="As if it was this one's.")],
    json: Json = False,
    app: App = "",
) -> None:
    """Tell one that means nothing, by every way that is set up: the log, hooks, webhooks."""
    told = run(app, lambda metering: metering.test_alert(tenant))
    if json:
        emit(told)
    else:
        show_alerts([told])


@alerts.command()
def mute(
    rule: Annotated[str, typer.Argument(metavar="RULE", help='Such as quota; "*" for all of them.')],
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="Of this tenant; of all by default.")] = "*",
    hours: Annotated[float, typer.Option("--hours", min=0, help="For how long; 0 ends it.")] = 24.0,
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Tell nothing by a rule (quota, budget, overage, forecast, spike, unpriced, worker.lag, journal.waiting,
    counters.drift, or "*") for a while. What still is so then is told."""

    async def put(metering: Metering) -> datetime:
        until = metering.clock.now() + timedelta(hours=hours)
        await metering.mute_alerts(rule, tenant=tenant, until=until)
        return until

    until = run(app, put, reason=reason)
    if json:
        emit({"rule": rule, "tenant": tenant, "until": until})
    else:
        say(console(), f"{rule} of {tenant}: nothing is told until {until:%Y-%m-%d %H:%M} UTC")


def show_alerts(told: list[Notice]) -> None:
    """A row for each."""
    rows = table("at (UTC)", "tenant", "what", "details")
    for each in told:
        details = " ".join(f"{name}={value}" for name, value in each.data.items())
        rows.add_row(f"{each.made_at:%Y-%m-%d %H:%M}", each.tenant, each.type, details)
    screen = console()
    if told:
        screen.print(rows)
    say(screen, f"alerts: {len(told):,}")


def show_mutes(muted: list[Mute]) -> None:
    """A line for each."""
    for rule, tenant, until_us in muted:
        say(console(), f"muted: {rule} of {tenant} until {from_micros(until_us):%Y-%m-%d %H:%M} UTC")


def _mute(rule: str, tenant: str, until_us: int) -> dict[str, object]:
    return {"rule": rule, "tenant": tenant, "until": from_micros(until_us)}
