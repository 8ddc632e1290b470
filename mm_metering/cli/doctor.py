"""``mm-metering doctor``: what goes wrong silently."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import typer

from mm_metering.cli.host import needed
from mm_metering.cli.options import App, Json
from mm_metering.cli.show import emit
from mm_metering.core.findings import Finding


def doctor(*, json: Json = False, app: App = "") -> None:
    """Look for what goes wrong silently: routes that are misread or never reached, plans that do not fit, stores
    that do not open. Exit code 1 if anything is wrong."""
    findings = asyncio.run(needed(app).check_up())
    if json:
        emit(findings)
    else:
        show(findings)
    if any(each.level == "FAIL" for each in findings):
        raise typer.Exit(1)


def show(findings: Sequence[Finding]) -> None:
    """A line for each."""
    for level, text in findings:
        print(f"{level:5} {' '.join(text.split())}")  # noqa: T201
