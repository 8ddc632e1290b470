"""``mm-metering payments`` and ``reconcile``: what became of invoices at the payment provider."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from mm_metering.billing.collection import BillingRun
from mm_metering.billing.reconcile import Reconciliation
from mm_metering.cli.host import run
from mm_metering.cli.options import App, Json, OfTenant, Quiet, Reason, group
from mm_metering.cli.show import bar, console, emit, say, table
from mm_metering.core.collecting import Collection, CollectionState
from mm_metering.core.money import plain
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput
from mm_metering.metering import Metering

payments: Final = group("Send invoices to be paid; see how that went.")


@payments.command("list")
def list_(
    *,
    period: Annotated[str, typer.Option("--period", help="Of this month.")] = "",
    tenant: OfTenant = "",
    state: Annotated[CollectionState | None, typer.Option("--state", help="Of this state.")] = None,
    json: Json = False,
    app: App = "",
) -> None:
    """How each invoice that was sent stands: tries, the next one, when its tenant is suspended."""
    found = run(
        app,
        lambda metering: metering.list_payments(period=period or None, tenant=tenant or None, state=state),
    )
    show_payments(found, json=json)


@payments.command("run")
def run_(*, json: Json = False, quiet: Quiet = False, app: App = "") -> None:
    """Do now what the worker does every ten seconds: send what is finalized, have paid what is due. It may be
    repeated and interrupted at any time. Exit code 1 if the provider takes no call, or something is parked."""
    done = run(app, collect)
    if json:
        emit(done)
    else:
        show_run(done)
    if done.stopped or done.became["parked"]:
        raise typer.Exit(1)


@payments.command()
def retry(
    invoice_id: Annotated[str, typer.Argument(metavar="INVOICE", help="Its id or its number.")],
    *,
    json: Json = False,
    reason: Reason = "",
    app: App = "",
) -> None:
    """Have an invoice paid at the next run: what is parked, and what waits for another day."""
    show_payments([run(app, lambda metering: metering.retry_payment(invoice_id), reason=reason)], json=json)


def reconcile(
    *,
    period: Annotated[str, typer.Option("--period", help="The month, such as 2026-10.")],
    provider: Annotated[
        str, typer.Option("--provider", help="Refused unless the app has this one, such as stripe.")
    ] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="Follow the provider's payment states, and send what was not.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    app: App = "",
) -> None:
    """A month's invoices against those at the payment provider, line by line. It changes nothing without --apply.
    Exit code 1 on drift."""
    found = run(app, lambda metering: compare(metering, provider, period, apply=apply))
    if json:
        emit(found)
    else:
        show_drift(found, period)
    if found.drift:
        raise typer.Exit(1)


async def collect(metering: Metering) -> BillingRun:
    waiting = len(await metering.ledger.uncollected(limit=10_000))
    waiting += len(await metering.ledger.collections_due(micros(metering.clock.now()), limit=10_000))
    with bar("paying", waiting) as progress:
        return await metering.collect(progress=progress)


async def compare(metering: Metering, provider: str, period: str, *, apply: bool) -> Reconciliation:
    has = type(metering.billing.adapter).__name__.removesuffix("BillingAdapter").lower()
    if provider.lower() not in ("", has):
        raise InvalidInput("provider", f"{provider[:40]!r} is not what the app has, which is {has!r}")
    with bar(f"comparing {period}", len(await metering.list_invoices(period=period, limit=10**6))) as progress:
        return await metering.reconcile_payments(period, apply=apply, progress=progress)


def show_payments(payments: list[Collection], *, json: bool) -> None:
    """A row for each, or JSON."""
    if json:
        emit(payments)
        return
    rows = table("month", "tenant", "state", ">amount", ">tries", "next", "last answer", "invoice", "there")
    for each in payments:
        last = each.attempts[-1] if each.attempts else None
        answer = each.note or (f"{last.outcome or 'unknown'} {last.code}".strip() if last else "")
        state = f"{each.state}, suspended" if each.suspended else each.state
        following = "" if each.next_at is None else f"{each.next_at:%Y-%m-%d %H:%M}"
        amount = f"{plain(each.amount)} {each.currency}"
        names = (each.invoice, each.provider_invoice or "")
        rows.add_row(each.period, each.tenant, state, amount, f"{len(each.attempts)}", following, answer, *names)
    screen = console()
    screen.print(rows)
    say(screen, f"payments: {len(payments):,}")


def show_run(done: BillingRun) -> None:
    """How many became what."""
    screen = console()
    say(screen, f"invoices: {done.done:,}")
    for state, count in sorted(done.became.items()):
        say(screen, f"  {state}: {count:,}")
    if done.unanswered:
        say(screen, f"  not answered by the provider, tried again later: {done.unanswered:,}")
    if done.stopped:
        say(screen, f"stopped: {done.stopped}")


def show_drift(found: Reconciliation, period: str) -> None:
    """A row for each difference."""
    screen = console()
    if found.drift:
        rows = table("tenant", "invoice", "what", "ours", "theirs", "--apply")
        for each in found.drift:
            rows.add_row(each.tenant, each.invoice, each.what, each.ours, each.theirs, each.mends or "look there")
        screen.print(rows)
    say(screen, f"{period}: invoices compared: {found.invoices:,}, differences: {len(found.drift):,}")
    if found.mended:
        say(screen, f"  followed the provider for: {found.mended:,}")
