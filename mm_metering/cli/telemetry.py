"""``mm-metering telemetry``: a dashboard for Grafana and alarms for Prometheus, to be written into files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mm_metering.telemetry.alarms import rules
from mm_metering.telemetry.grafana import dashboard

if TYPE_CHECKING:
    import typer


def commands() -> typer.Typer:
    import typer

    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What watches a deployment.")

    @group.command()
    def grafana() -> None:
        """Print a dashboard that Grafana imports: mm-metering telemetry grafana > mm.json."""
        typer.echo(json.dumps(dashboard(), indent=2))

    @group.command()
    def alerts() -> None:
        """Print rules that Prometheus reads: mm-metering telemetry alerts > mm.rules.yml."""
        typer.echo(rules(), nl=False)

    return group
