"""``mm-metering telemetry``: a dashboard for Grafana and alarms for Prometheus, to be written into files."""

from __future__ import annotations

import json
from typing import Final

import typer

from mm_metering.cli.options import group
from mm_metering.telemetry.alarms import rules
from mm_metering.telemetry.grafana import dashboard

telemetry: Final = group("What watches a deployment.")


@telemetry.command()
def grafana() -> None:
    """Print a dashboard that Grafana imports: mm-metering telemetry grafana > mm.json."""
    typer.echo(json.dumps(dashboard(), indent=2))


@telemetry.command()
def alerts() -> None:
    """Print rules that Prometheus reads: mm-metering telemetry alerts > mm.rules.yml."""
    typer.echo(rules(), nl=False)
