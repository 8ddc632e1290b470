"""The commands, in the order in which help shows them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from mm_metering.cli.ai import ai
from mm_metering.cli.alerts import alerts
from mm_metering.cli.audit import audit
from mm_metering.cli.demo import demo
from mm_metering.cli.dev import dev
from mm_metering.cli.doctor import doctor
from mm_metering.cli.host import PROGRAM
from mm_metering.cli.init import init
from mm_metering.cli.invoices import invoices
from mm_metering.cli.keys import keys
from mm_metering.cli.letters import dead_letters
from mm_metering.cli.options import PREFIX
from mm_metering.cli.payments import payments, reconcile
from mm_metering.cli.plans import plans
from mm_metering.cli.proof import prove, rebuild
from mm_metering.cli.routes import explain, routes
from mm_metering.cli.simulate import simulate
from mm_metering.cli.status import status
from mm_metering.cli.subscriptions import forecast
from mm_metering.cli.telemetry import telemetry
from mm_metering.cli.tenants import tenants
from mm_metering.cli.usage import usage
from mm_metering.cli.webhooks import webhooks
from mm_metering.cli.worker import migrate, worker


def commands() -> typer.Typer:
    """The program. What each option is called in the environment begins with PREFIX."""
    program = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX},
    )
    program.callback()(root)
    for command in (init, dev, demo, worker, status, migrate, doctor, routes, explain, prove, rebuild):
        program.command()(command)
    program.command("dead-letters")(dead_letters)
    program.command()(simulate)
    program.command()(reconcile)
    program.command()(forecast)
    groups = {
        "usage": usage,
        "tenants": tenants,
        "plans": plans,
        "invoice": invoices,
        "payments": payments,
        "alerts": alerts,
        "webhooks": webhooks,
        "ai": ai,
        "audit": audit,
        "keys": keys,
        "telemetry": telemetry,
    }
    for name, group in groups.items():
        program.add_typer(group, name=name)
    return program


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        typer.echo(f"{PROGRAM} {_version()}")
        raise typer.Exit


def root(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            envvar=f"{PREFIX}_SHOW_VERSION",
            callback=_show_version,
            is_eager=True,
            help="Show it and exit.",
        ),
    ] = False,
) -> None:
    """Meter usage, enforce quotas, bill for it: what runs beside your app."""


def _version() -> str:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "from its sources, not installed"
