"""``mm-metering routes`` and ``explain``: what requests cost, and why one would be allowed or refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import typer

from mm_metering.cli.host import needed, run
from mm_metering.cli.options import App, Json, TenantArgument
from mm_metering.cli.show import console, emit, say, table
from mm_metering.errors import InvalidInput
from mm_metering.gate.explaining import RequestExplanation
from mm_metering.middleware.listing import RouteCost, RouteList

NO_APP: Final = "no app is installed: name with --app the module that calls metering.install(app, ...)"


def routes(*, json: Json = False, app: App = "") -> None:
    """What a request to each route uses of which meter, which routes are exempt or never reached, and which patterns
    match nothing. Exit code 1 where one does."""
    found = needed(app).list_routes()
    if not found.routes:
        raise InvalidInput("routes", NO_APP)
    if json:
        emit(found)
    else:
        show_routes(found)
    if found.unused:
        raise typer.Exit(1)


def explain(
    tenant: TenantArgument,
    *,
    route: Annotated[str, typer.Option("--route", help='What that route uses, such as "POST /v1/reports".')] = "",
    meter: Annotated[str, typer.Option("--meter", help="Of this meter.")] = "",
    quantity: Annotated[int, typer.Option("--quantity", min=1, help="So much of it, or so many requests.")] = 1,
    json: Json = False,
    app: App = "",
) -> None:
    """Why a request would be allowed or refused now: each limit with its numbers. It consumes nothing. Without --route
    and --meter each meter is looked at by itself. Exit code 1 where a request that was named would be refused."""
    found = run(
        app,
        lambda metering: metering.explain_request(tenant, route=route or None, meter=meter or None, quantity=quantity),
        counts=True,
    )
    if json:
        emit(found)
    else:
        show_explanation(found)
    if (route or meter) and not found.allowed:
        raise typer.Exit(1)


def show_routes(found: RouteList) -> None:
    """A row for each, then what somebody may want to mend."""
    rows = table("method", "route", "costs")
    for each in found.routes:
        rows.add_row(each.method, each.template, _costs(each))
    screen = console()
    screen.print(rows)
    for each in found.routes:
        if each.behind:
            say(screen, f"never reached: {each.method} {each.template}: {each.behind} comes first")
    for pattern in found.unused:
        say(screen, f"matches nothing: {pattern}")
    say(screen, f"routes: {len(found.routes):,}, patterns that match nothing: {len(found.unused):,}")


def _costs(each: RouteCost) -> str:
    if each.kind.value == "exempt":
        return "exempt"
    known = [f"{meter}={units:,}" for meter, units in each.costs.items()]
    return " ".join((*known, *(f"{name}=measured" for name in each.measured))) or "nothing"


def show_explanation(found: RequestExplanation) -> None:
    """The limits, then the verdict."""
    screen = console()
    where = f", {found.route}" if found.route else ""
    say(screen, f"{found.tenant} on {found.plan}{where}, as of {found.as_of:%Y-%m-%d %H:%M:%S} UTC")
    for each in found.limits:
        say(screen, f"  {'allows ' if each.decision.allowed else 'REFUSES'}  {each.words}")
    limited = {each.decision.meter for each in found.limits}
    if free := _names(meter for meter in found.asked if meter not in limited):
        say(screen, f"  allows   not limited: {free}")
    say(screen, found.words)


def _names(meters: Iterable[str]) -> str:
    return ", ".join(meters)
