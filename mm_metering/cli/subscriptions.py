"""What ``mm-metering tenants`` does with one tenant: its plan, what it has otherwise, its state. And its forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any

import typer

from mm_metering.ai.insight import QuotaPrediction
from mm_metering.billing.subscriptions import Tenant
from mm_metering.billing.summary import BillingSummary
from mm_metering.cli.host import PROGRAM, Work, run
from mm_metering.cli.options import App, Json, Reason, TenantArgument
from mm_metering.cli.show import console, emit, say, table
from mm_metering.core import strict_json
from mm_metering.core.money import plain, round_minor
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.metering import Metering

At = Annotated[
    str, typer.Option("--at", metavar="INSTANT", help='Then, "now" or "period_end"; as the catalogue says if absent.')
]
StateAt = Annotated[str, typer.Option("--at", metavar="INSTANT", help='Then or at "period_end"; now if absent.')]


def show(tenant: TenantArgument, *, json: Json = False, app: App = "") -> None:
    """A tenant's plan, state and what is planned for it; what it used of each quota, and its month so far."""

    async def both(metering: Metering) -> tuple[Tenant, BillingSummary]:
        found = await metering.get_tenant(tenant)
        if found is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; `{PROGRAM} tenants list` shows those that are")
        return found, await metering.get_billing_summary(tenant)

    found, summary = run(app, both, counts=True)
    if json:
        emit({"tenant": found, "summary": summary})
        return
    tell(found, json=False)
    rows = table("meter", ">used", ">limit", ">past it", f">{summary.upcoming_invoice.currency}")
    for meter, use in summary.usage_breakdown.items():
        limit = "unlimited" if use.limit is None else _number(use.limit)
        rows.add_row(meter, _number(use.used), limit, _number(use.overage), plain(use.amount))
    screen = console()
    screen.print(rows)
    say(screen, f"its month so far: {plain(summary.monthly_spend)} {summary.upcoming_invoice.currency}")


def set_plan(
    tenant: TenantArgument,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's name.")],
    *,
    at: At = "",
    new: Annotated[bool, typer.Option("--new", help="Make the tenant where there is none.")] = False,
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Move a tenant to the newest version of a plan. It subscribes again who is canceled."""

    async def moved(metering: Metering) -> Tenant:
        if new and await metering.get_tenant(tenant) is None:
            return await metering.put_tenant(tenant, plan=plan)
        return await metering.change_plan(tenant, plan, at=at or None)

    _change(app, moved, json=json, reason=reason)


def override(
    tenant: TenantArgument,
    changes: Annotated[
        str, typer.Argument(metavar="JSON", help='In the form of a plan, such as {"price": "79.00"}; null ends one.')
    ],
    *,
    at: StateAt = "",
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Give a tenant something else than its plan has. A meter's limits are replaced together; it ends with the next
    change of plan."""
    given = _object(changes)
    _change(app, lambda metering: metering.override_plan(tenant, given, at=at or None), json=json, reason=reason)


def suspend(
    tenant: TenantArgument, *, at: StateAt = "", json: Json = False, reason: Reason = "", app: App = ""
) -> None:
    """Pause a subscription: each request is refused, and no fee is due. What is recorded still counts."""
    _change(app, lambda metering: metering.pause_subscription(tenant, at=at or None), json=json, reason=reason)


def resume(tenant: TenantArgument, *, at: StateAt = "", json: Json = False, reason: Reason = "", app: App = "") -> None:
    """End a pause, and undo a pause or a cancellation that is to come."""
    _change(app, lambda metering: metering.resume_subscription(tenant, at=at or None), json=json, reason=reason)


def cancel(tenant: TenantArgument, *, at: StateAt = "", json: Json = False, reason: Reason = "", app: App = "") -> None:
    """End a subscription: each request is refused from then on, and no fee is due."""
    _change(app, lambda metering: metering.cancel_subscription(tenant, at=at or None), json=json, reason=reason)


def forecast(tenant: TenantArgument, *, json: Json = False, app: App = "") -> None:
    """What a tenant's AI cost will come to this month, whether its budget lasts, and what to do about it. Exit code 1
    where it will probably be exceeded."""
    found = run(app, lambda metering: metering.ai.get_quota_prediction(tenant), counts=True)
    if json:
        emit(found)
    else:
        for line in _forecast(tenant, found):
            say(console(), line)
    if found.will_exceed_budget:
        raise typer.Exit(1)


def _change(app: str, work: Work[Tenant], *, json: bool, reason: str) -> None:
    tell(run(app, work, counts=True, reason=reason), json=json)


def tell(found: Tenant, *, json: bool) -> None:
    """A tenant as it stands now, and what is to come."""
    if json:
        emit(found)
        return
    screen = console()
    addons = "".join(f", {count} x {name}" for name, count in found.addons.items())
    say(
        screen,
        f"{found.id}: {found.plan}, {found.status}{addons}; {found.timezone}, since {found.subscribed_at:%Y-%m-%d}",
    )
    for each in found.planned:
        say(screen, f"  from {each.at:%Y-%m-%d %H:%M} UTC on: {each.plan}, {each.status}")


def _forecast(tenant: str, found: QuotaPrediction) -> Iterator[str]:
    if found.estimated_cost is None:
        yield f"{tenant}: nothing can be said: {found.reason}"
    else:
        amounts = (found.estimated_cost, found.low or Decimal(0), found.high or Decimal(0))
        likely, low, high = (plain(round_minor(each, "USD")) for each in amounts)
        yield f"{tenant}: about {likely} USD this month, between {low} and {high} (80 %)"
        yield f"by {found.method}, confidence {found.confidence}: {found.reason}"
    if found.probability is not None:
        runs_out = f"; it runs out on {found.runs_out_on}" if found.runs_out_on else ""
        yield f"past its budget with a probability of {found.probability:.0%}{runs_out}"
    yield f"recommended: {found.recommended_action.replace('_', ' ')}"


def _number(amount: object) -> str:
    return f"{amount:,}"


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise InvalidInput("changes", f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput("changes", 'is no JSON object, such as {"price": "79.00"}')
    return found
