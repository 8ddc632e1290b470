"""The commands, in the order in which help shows them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
import typer.main

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


def program() -> Any:
    """All commands, each option with its twin in the environment."""
    root = typer.main.get_command(commands())
    _name_twins(root, PREFIX)
    return root


def _name_twins(command: Any, prefix: str) -> None:
    """By what people type: typer itself would name it by our functions' parameters."""
    for option in command.params:
        if option.param_type_name == "option" and not option.envvar:
            flag = next(each for each in option.opts if each.startswith("--"))
            option.envvar = f"{prefix}_{_word(flag.removeprefix('--'))}"
    for name, each in getattr(command, "commands", {}).items():
        _name_twins(each, f"{prefix}_{_word(name)}")


def _word(text: str) -> str:
    return text.replace("-", "_").upper()


def commands() -> typer.Typer:
    """The same as typer has them."""
    made = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(root)
    for command in (init, dev, demo, worker, status, migrate, doctor, routes, explain, prove, rebuild):
        made.command()(command)
    made.command("dead-letters")(dead_letters)
    made.command()(simulate)
    made.command()(reconcile)
    made.command()(forecast)
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
        made.add_typer(group, name=name)
    return made


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
