"""The options that several commands have, each said once, and how a group is made.

Each option has a twin in the environment, which ``tree`` names: ``--period`` of ``invoice list`` is
MM_METERING_INVOICE_LIST_PERIOD. ``--app`` is MM_METERING_APP for all commands.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from mm_metering.cli import show

PREFIX: Final = "MM_METERING"

App = Annotated[
    str,
    typer.Option(
        "--app",
        envvar=f"{PREFIX}_APP",
        metavar="MODULE:NAME",
        help="Your Metering; else [tool.mm_metering] app in pyproject.toml here, else one from MM_METERING_*.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The whole value as JSON, amounts as exact strings.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit log.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=show.be_quiet, help="Say nothing of how far long work is.")
]
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
OfTenant = Annotated[str, typer.Option("--tenant", help="Of this tenant.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
CsvFile = Annotated[str, typer.Option("--csv", metavar="FILE", help="Write it as a table for spreadsheets, too.")]


def group(text: str) -> typer.Typer:
    """A group of commands, which without one shows its help."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)
